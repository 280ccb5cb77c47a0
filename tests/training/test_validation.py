"""Which of two epochs is better."""

import math

import pytest
import torch

from noisyrnn.data import Split
from noisyrnn.models import SequenceRegressor, TanhRNN
from noisyrnn.training.checkpoint import Progress
from noisyrnn.training.validation import is_better, validate


@pytest.mark.parametrize(
    ("loss", "accuracy", "better"),
    [
        (0.5, 0.81, True),
        (0.1, 0.79, False),  # accuracy comes first
        (0.39, 0.8, True),  # then the loss
        (0.4, 0.8, False),  # the first of two equal epochs stays
        (0.41, 0.8, False),
        (math.nan, 0.9, False),
        (-math.inf, 0.9, False),
        (0.39, math.nan, True),  # a regression
        (0.4, math.nan, False),
    ],
)
def test_which_epoch_is_kept(loss: float, accuracy: float, better: bool) -> None:
    assert is_better(loss, accuracy, Progress(best_accuracy=0.8, best_loss=0.4)) is better


def test_a_float64_model_is_validated_in_float64() -> None:
    inputs = torch.randn(30, 4, 1, generator=torch.Generator().manual_seed(0)).double()
    split = Split(inputs=inputs, labels=1e9 + inputs.sum(dim=1), classes=0)
    mean, std = split.labels.mean(0), split.labels.std(0)
    model = SequenceRegressor(TanhRNN(1, 4), 1, target_mean=mean, target_std=std).double()
    with torch.no_grad():
        expected = (((model(inputs) - split.labels) / std) ** 2).mean()
    loss, accuracy = validate(model, split)
    assert loss == pytest.approx(float(expected), rel=1e-6) and math.isnan(accuracy)
