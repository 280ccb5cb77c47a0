"""Steps that a GPU holds as a graph: the same training as one kernel at a time."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from noisyrnn.data.dataset import Dataset
from noisyrnn.models import SequenceClassifier
from noisyrnn.training import FitResult, TrainConfig, fit_seeds
from noisyrnn.training.captured import CapturedStep, on_device
from noisyrnn.training.divergence import DivergenceError
from noisyrnn.training.fit_seeds import _Group, _take_turns
from noisyrnn.training.optimizer import RatedOptimizer
from noisyrnn.training.trainer import Trainer

Build = Callable[[TrainConfig], SequenceClassifier]


@pytest.fixture(autouse=True)
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "eager")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes of the captured steps."""
    sizes: list[int] = []
    begin = CapturedStep.begin

    def spy(self: CapturedStep, inputs: Tensor, labels: Tensor, seeds: Tensor) -> Callable[[], list[float]]:
        sizes.append(labels.shape[1])
        return begin(self, inputs, labels, seeds)

    monkeypatch.setattr(CapturedStep, "begin", spy)
    return sizes


def runs(config: TrainConfig, count: int = 2) -> list[TrainConfig]:
    return [dataclasses.replace(config, seed=4 + k) for k in range(count)]


def group_of(models: list[SequenceClassifier], dataset: Dataset, configs: list[TrainConfig]) -> _Group:
    trainers = [Trainer(model, dataset, config) for model, config in zip(models, configs, strict=True)]
    group = _Group(trainers)
    assert not group.capturable  # on a CPU nothing is captured
    group.capturable = trainers[0].capturable
    return group


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip_norm": 0.5, "decay_epochs": (2,), "noise_schedule": "annealed"},
        {"ema": 0.9, "input_noise": (0.0, 0.3), "optimizer": "adamw", "weight_decay": 0.1},
    ],
    ids=["plain", "rates", "levers"],
)
def test_captured_steps_train_as_others_do(
    dataset: Dataset, config: TrainConfig, build: Build, begun: list[int], changes: dict[str, object]
) -> None:
    config = dataclasses.replace(config, epochs=4, precision="64-true", **changes)  # type: ignore[arg-type]
    expected = [build(one) for one in runs(config)]
    wanted = fit_seeds(expected, dataset, runs(config))
    assert not begun
    models = [build(one) for one in runs(config)]
    group = group_of(models, dataset, runs(config))
    _take_turns([group], 30.0, False)
    # Batches of 16, 16 and 8, two steps of a kind before the first that is captured; new rates need it again.
    assert begun == ([16] * 6 if not config.decay_epochs else [16] * 4)
    for model, other, one, found in zip(models, expected, wanted, group.outcomes.values(), strict=True):
        for (name, value), right in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(value, right, rtol=1e-9, atol=1e-9, msg=name)
        assert isinstance(one, FitResult)
        assert isinstance(found, FitResult)
        losses = [row["train_loss"] for row in found.history]
        assert losses == pytest.approx([row["train_loss"] for row in one.history])


def test_a_captured_step_that_diverges_leaves_its_weights_and_stops_no_other(
    dataset: Dataset, config: TrainConfig, build: Build, begun: list[int]
) -> None:
    config = dataclasses.replace(config, epochs=4, precision="64-true")
    alone = build(runs(config)[0])
    fit_seeds([alone], dataset, runs(config)[:1])
    models = [build(one) for one in runs(config)]
    group = group_of(models, dataset, runs(config))
    while not begun:
        group.end_step(0.0)
        assert group.begin_step()
    group.end_step(0.0)
    with torch.no_grad():
        models[1].readout.weight[0, 0] = math.nan
    before = {name: value.clone() for name, value in models[1].state_dict().items()}
    assert group.begin_step()
    group.end_step(0.0)
    for name, value in models[1].state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    _take_turns([group], 30.0, False)
    good, bad = group.outcomes[group.trainers[0]], group.outcomes[group.trainers[1]]
    assert isinstance(good, FitResult)
    assert isinstance(bad, DivergenceError)
    assert "loss became nan at training step" in str(bad)
    for value, right in zip(models[0].state_dict().values(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(value, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_a_step_is_made_or_not(kind: str) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = RatedOptimizer(TrainConfig(optimizer=kind, learning_rate=0.1), model)  # type: ignore[arg-type]
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step_if(torch.tensor(False))
    assert torch.equal(model.weight, before)
    optimizer.step_if(torch.tensor(True))
    torch.testing.assert_close(
        model.weight.detach(), before - 0.1
    )  # Adam's first step is the rate, whatever came before
    assert [group["capturable"] for group in optimizer.torch_optimizer.param_groups] == [False]


def test_what_cannot_be_captured(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    def capturable(**changes: object) -> bool:
        changed = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
        return Trainer(build(changed), dataset, changed).capturable

    assert capturable()
    assert not capturable(optimizer="rmsprop")
    assert not capturable(model="exprnn", options={})


def test_words_keep_their_bits() -> None:
    words = on_device([0, 2**63 - 1, 2**63, 2**64 - 1], torch.device("cpu"))
    assert words.tolist() == [0, 2**63 - 1, -(2**63), -1]


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["noisy", "gru"])
def test_a_graph_trains_as_kernels_do(
    dataset: Dataset, config: TrainConfig, build: Build, begun: list[int], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    from lightning_fabric import Fabric

    from noisyrnn.training import fit_seeds

    monkeypatch.setenv("NOISYRNN_KERNEL", "triton")
    options = {"additive": 0.1, "multiplicative": 0.1} if model == "gru" else {"step_size": 0.2}
    config = dataclasses.replace(config, model=model, epochs=6, decay_epochs=(3,), options=options, clip_norm=0.5)
    fabric = Fabric(accelerator="cuda", devices=1)
    ends = []
    for captures in (True, False):
        with monkeypatch.context() as patch:
            if not captures:
                patch.setattr(Trainer, "capturable", property(lambda _: False))
            other = dataclasses.replace(config, epochs=5, label="other")
            configs = [*runs(config), *runs(other)]
            models = [build(one) for one in configs]
            outcomes = fit_seeds(models, dataset, configs, fabric=fabric)
        assert all(isinstance(outcome, FitResult) for outcome in outcomes)
        ends.append([value.cpu() for one in models for value in one.state_dict().values()])
        assert bool(begun) is captures
        begun.clear()
    for value, right in zip(*ends, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-3, atol=1e-4)
