"""A model that does not go with a data set is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from noisyrnn.data import Split, dataset_from_splits
from noisyrnn.data.dataset import Dataset
from noisyrnn.models import SequenceClassifier, SequenceRegressor, TanhRNN, build_layer
from noisyrnn.training import TrainConfig, fit


def test_a_model_that_does_not_fit_the_data(dataset: Dataset, config: TrainConfig) -> None:
    five = SequenceClassifier(build_layer("gru", 1, 3, {}), 5)
    with pytest.raises(ValueError, match=r"model must have classes 2, that of the data set, got 5\."):
        fit(five, dataset, config)
    wide = SequenceClassifier(build_layer("gru", 4, 3, {}), 2)
    with pytest.raises(ValueError, match=r"model must have input_size 1, that of the data set, got 4\."):
        fit(wide, dataset, config)


def test_frozen_weights_are_refused_unless_some_are_trained(
    dataset: Dataset, config: TrainConfig, build: Callable[[TrainConfig], SequenceClassifier]
) -> None:
    model = build(config).requires_grad_(False)
    with pytest.raises(
        ValueError, match=r"^model must have trainable parameters, got none in SequenceClassifier\. Call "
    ):
        fit(model, dataset, config)
    model.readout.requires_grad_(True)
    before = [weight.clone() for weight in model.layer.parameters()]
    fit(model, dataset, config)
    assert all(torch.equal(one, other) for one, other in zip(before, model.layer.parameters(), strict=True))


@pytest.mark.parametrize(
    ("offset", "dtype", "fits"), [(1e9, torch.float32, False), (1e9, torch.float64, True), (1e3, torch.float32, True)]
)
def test_targets_that_rounding_would_make_equal_are_refused(offset: float, dtype: torch.dtype, fits: bool) -> None:
    inputs = torch.randn(30, 4, 1, generator=torch.Generator().manual_seed(0)).double()
    split = Split(inputs=inputs, labels=offset + inputs.sum(dim=1), classes=0)
    data = dataset_from_splits(split, split, split, standardize=False)
    mean, std = data.target_statistics()
    model = SequenceRegressor(TanhRNN(1, 4), 1, target_mean=mean, target_std=std).to(dtype)
    precision: Any = "32-true" if dtype == torch.float32 else "64-true"
    config = TrainConfig(model="rnn", epochs=3, hidden_size=4, batch_size=8, learning_rate=0.01, precision=precision)
    if not fits:
        with pytest.raises(ValueError, match=r"^labels must differ by more than torch.float32 rounds them, got 1e\+09"):
            fit(model, data, config)
        return
    losses = [row["validation_loss"] for row in fit(model, data, config).history]
    assert losses[-1] < losses[0] and min(losses) > 0.01
