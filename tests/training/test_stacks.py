"""Layers one above another, both directions and dropout, through training."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from noisyrnn.data.dataset import Dataset
from noisyrnn.models import SequenceClassifier
from noisyrnn.noise import BrownianPath
from noisyrnn.training import RunFolder, TrainConfig, fit, fit_seeds
from noisyrnn.training.checkpoint import _sealed
from noisyrnn.training.divergence import explain_divergence

STACK = {"num_layers": 2, "bidirectional": True, "dropout": 0.25}
Build = Callable[[TrainConfig], SequenceClassifier]


@pytest.mark.parametrize("model", ["noisy", "gru"])
def test_the_same_seed_gives_the_same_bits(
    model: str, dataset: Dataset, config: TrainConfig, build: Build, tmp_path: Path
) -> None:
    """Also from a checkpoint, in another global random state: dropout is a function of seed and step."""
    config = replace(
        config, model=model, epochs=2, options={**STACK, **({"step_size": 0.2} if model == "noisy" else {})}
    )
    whole, again = build(config), build(config)
    fit(whole, dataset, config)
    folder = RunFolder(tmp_path)
    fit(again, dataset, replace(config, epochs=1), folder=folder)
    # The settings of a checkpoint are compared: this one is of a run of two epochs that was stopped after one.
    content, sealed = torch.load(folder.checkpoint, weights_only=True), io.BytesIO()
    content["settings"]["epochs"] = 2
    torch.save(content, sealed)
    folder.checkpoint.write_bytes(_sealed(sealed.getvalue()))
    torch.manual_seed(99)
    resumed = build(config)
    fit(resumed, dataset, config, folder=folder, resume=True)
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_runs_together_end_as_alone(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    configs = [
        replace(config, seed=seed, epochs=2, precision="32-true", options={**config.options, **STACK})
        for seed in (1, 2)
    ]
    together, alone = ([build(c) for c in configs] for _ in range(2))
    fit_seeds(together, dataset, configs)
    for one, other, own in zip(together, alone, configs, strict=True):
        fit(other, dataset, own)
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)  # some rounding, enlarged over six steps of Adam


def test_a_divergence_is_explained(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    model = build(replace(config, epochs=2, options={**config.options, **STACK}))
    text = explain_divergence(
        model, dataset.train.inputs[:4], None, None, BrownianPath(seed=1), 3, 1, float("nan"), 1.0
    )
    assert text.startswith("loss became nan at training step 3 (epoch 1)") and "step_size 0.2" in text
