"""What a training returns, and how it is shown."""

import math

import pytest

from noisyrnn.training import FitResult


@pytest.mark.parametrize(("accuracy", "fitted"), [(0.74, False), (0.76, True)])
def test_a_model_that_did_not_learn_is_noted(accuracy: float, fitted: bool) -> None:
    result = FitResult([{"train_accuracy": accuracy}], 1, 1.0, 2.0, validation_sequences=5, largest_class=0.5)
    assert (result.not_fitted is None) is fitted  # halfway between 50 and 100 %
    if not fitted:
        assert str(result.not_fitted).startswith("not fitted: the training accuracy is 74.0 % in the last epoch")
    regression = FitResult([{"train_loss": 1.0}], 1, math.nan, 2.0, validation_sequences=5, largest_class=math.nan)
    assert regression.not_fitted is None


def test_a_result_is_shown_without_its_history() -> None:
    good = FitResult([{"train_accuracy": 1.0}] * 9, 7, 0.75, 2.0, 8, 0.5, best_validation_loss=0.25)
    text = "epochs: 9; best epoch: 7; validation accuracy: 75.0 % of 8 sequences; validation loss: 0.25; seconds: 2.0"
    assert repr(good) == f"FitResult({text})"
    assert "<th>best epoch</th><td>7</td>" in good._repr_html_()
    bad = FitResult([{"train_accuracy": 0.5}], 1, 0.5, 2.0, 8, 0.5)
    assert repr(bad).splitlines()[1] == bad.not_fitted
    assert f"<p>{bad.not_fitted}</p>" in bad._repr_html_()
    regression = FitResult([{"train_loss": 1.0}], 1, math.nan, 2.0, 8, math.nan, best_validation_loss=0.5)
    assert "accuracy" not in repr(regression)
