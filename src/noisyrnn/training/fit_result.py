"""What a training returns."""

import math
from dataclasses import dataclass

from noisyrnn.display import html_table


@dataclass(frozen=True)
class FitResult:
    """Outcome of a training.

    Args:
        history: One row of metrics for each epoch.
        best_epoch: The epoch, from 1, of the weights the model now has; the best one unless `select` is "last" or
            "refit".
        best_validation_accuracy: Its accuracy on the validation data, in [0, 1]; `nan` for a regression and without
            validation. With labels at every step it is the mean over sequences of the share of counted steps that are
            right.
        seconds: Training time, over all resumptions; of runs that are trained together, each has its share.
        validation_sequences: Number of validation sequences behind this accuracy; 0 where all were trained on.
        largest_class: Share of the largest class in the training data, of sequences or of counted steps; `nan` for a
            regression.
        best_validation_loss: Loss of the best epoch on the validation data; `nan` without validation.
        adapted: What the size of the data changed in the settings, in one sentence; empty if nothing.
    """

    history: list[dict[str, float]]
    best_epoch: int
    best_validation_accuracy: float
    seconds: float
    validation_sequences: int
    largest_class: float
    best_validation_loss: float = math.nan
    adapted: str = ""

    def _described(self) -> list[tuple[str, str]]:
        """What a reader asks for first, as names and texts."""
        rows = [("epochs", f"{len(self.history)}"), ("best epoch", f"{self.best_epoch}")]
        if not math.isnan(self.best_validation_accuracy):
            text = f"{100 * self.best_validation_accuracy:.1f} % of {self.validation_sequences} sequences"
            rows.append(("validation accuracy", text))
        elif not self.validation_sequences:
            rows.append(("validation", "none"))
        if self.validation_sequences:
            text = f"{self.best_validation_loss:.4g}"
            if math.isnan(self.best_validation_accuracy):
                text += f" over {self.validation_sequences} sequences"
            rows.append(("validation loss", text))
        return [*rows, ("seconds", f"{self.seconds:.1f}")]

    @property
    def _notes(self) -> list[str]:
        """What a reader must know about the outcome."""
        return [note for note in (self.adapted, self.not_fitted) if note]

    def __repr__(self) -> str:
        """Describe the outcome in one line, and further ones if the settings were adapted or the model did not fit."""
        text = "; ".join(f"{name}: {value}" for name, value in self._described())
        return "\n".join([f"FitResult({text})", *self._notes])

    def _repr_html_(self) -> str:
        """Describe the outcome in a table, for notebooks."""
        return html_table("FitResult", self._described(), notes=self._notes)

    @property
    def not_fitted(self) -> str | None:
        """A note if the model did not learn the training data; else `None`, and for a regression.

        It did not if the training accuracy of the last epoch, measured with the noise of training, is below halfway
        between the share of the largest class and 1.
        """
        reached = self.history[-1].get("train_accuracy", math.nan) if self.history else math.nan
        if not reached < (1 + self.largest_class) / 2:
            return None
        return (
            f"not fitted: the training accuracy is {100 * reached:.1f} % in the last epoch, the largest class has "
            f"{100 * self.largest_class:.1f} %. Train longer, or change the learning rate, the model or its noise."
        )
