"""Which of two epochs is better."""

import math

import pytest

from noisyrnn.training.checkpoint import Progress
from noisyrnn.training.validation import is_better


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
