"""A model that does not go with a data set is refused."""

from collections.abc import Callable

import pytest
import torch

from noisyrnn.data.dataset import Dataset
from noisyrnn.models import SequenceClassifier, build_layer
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
