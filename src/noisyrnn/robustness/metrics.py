"""Metrics of a model's answers, each with one value for every sequence whose mean over sequences is the metric.

So intervals and tests are over sequences, whose answers are independent; the steps of one sequence are not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from noisyrnn.data.split import Split
from noisyrnn.targets import counted, mean_over_steps, moments, without_marks


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of answers.

    Args:
        title: Its name in tables and figures.
        caption: What it is and its unit, as a phrase.
        better: Whether higher or lower values are better.
        bounds: Smallest and largest value of a sequence.
        unit: Unit of its values: `%` for shares shown in per cent; empty if they have none.
        detail: How it is computed; empty if the caption is enough.
    """

    title: str
    caption: str
    better: Literal["higher", "lower"]
    bounds: tuple[float, float]
    unit: str = ""
    detail: str = ""

    @property
    def heading(self) -> str:
        """The title with a capital letter."""
        return self.title[0].upper() + self.title[1:]

    @property
    def factor(self) -> float:
        """Factor of values that are shown: 100 for shares in per cent."""
        return 100.0 if self.unit == "%" else 1.0


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        title="accuracy",
        caption="Test accuracy in %",
        better="higher",
        bounds=(0.0, 1.0),
        unit="%",
    ),
    "step_accuracy": Metric(
        title="accuracy of the steps",
        caption="Test accuracy of the steps in %",
        better="higher",
        bounds=(0.0, 1.0),
        unit="%",
        detail="It is the share of a sequence's counted steps that are classified correctly, mean over sequences.",
    ),
    "r2": Metric(
        title="R²",
        caption="R² of the test targets, higher is better",
        better="higher",
        bounds=(-math.inf, 1.0),
        detail="It is 1 less the squared error over the variance of each target in the test part, mean over targets: 0 "
        "for always answering their mean.",
    ),
    "mean_squared_error": Metric(
        title="mean squared error",
        caption="Mean squared error of the test targets in their squared units, lower is better",
        better="lower",
        bounds=(0.0, math.inf),
        unit="squared units of the targets",
    ),
    "mean_absolute_error": Metric(
        title="mean absolute error",
        caption="Mean absolute error of the test targets in their units, lower is better",
        better="lower",
        bounds=(0.0, math.inf),
        unit="units of the targets",
    ),
    "sign_accuracy": Metric(
        title="sign accuracy",
        caption="Sign accuracy of the test targets, all of which are 1 or -1, in %",
        better="higher",
        bounds=(0.0, 1.0),
        unit="%",
        detail="It is the share of answers in which every output has the sign of its target.",
    ),
}
"""Metrics by name. Those of a task come in this order, and the first is the one that settings are chosen by."""


def worse(metric: str, one: Tensor, other: Tensor) -> Tensor:
    """Return, entry by entry, the worse of two tensors of values of a metric."""
    return torch.minimum(one, other) if METRICS[metric].better == "higher" else torch.maximum(one, other)


def _commonest(targets: Tensor) -> float:
    """Return the sign accuracy of the best answer that ignores the inputs: one pattern of signs, everywhere."""
    known = counted(targets)
    shares = 1 / known.double() if known.ndim == 1 else (1 / known.sum(dim=1).double())[:, None].expand(known.shape)
    patterns, which = targets[known].unique(dim=0, return_inverse=True)
    total = torch.zeros(len(patterns), dtype=torch.float64, device="cpu").index_add(0, which, shares[known])
    return float(total.max()) / len(targets)


class Scorer:
    """Computes the metrics of answers to sequences of a split: accuracies, or errors and R² of a regression.

    A sequence counts once, however many of its steps do. R² relates the squared errors to the variance of the targets
    of the whole reference; targets that never vary there have none and are left out of it.

    Args:
        split: The sequences that the guess is for; `split.weights` are not used.
        reference: Sequences that decide which metrics there are, and whose targets' variance R² relates the errors to;
            by default `split`.

    Attributes:
        metrics: Names of the metrics.
        guess: Each metric's value for the best answer that ignores the inputs: the largest class, the mean, or the
            commonest signs.
    """

    def __init__(self, split: Split, reference: Split | None = None) -> None:
        labels, self._classes = split.labels.cpu(), split.classes
        if split.classes:
            self.metrics: tuple[str, ...] = ("step_accuracy" if split.every_step else "accuracy",)
            shares = [mean_over_steps(labels == c, labels).double().mean() for c in range(split.classes)]
            self.guess: Mapping[str, float] = {self.metrics[0]: float(torch.stack(shares).max())}
            return
        mean, own = moments(labels)
        self._variance, known = own, labels[counted(labels)]
        if reference is not None:
            targets = reference.labels.cpu()
            self._variance = moments(targets)[1]
            known = targets[counted(targets)]
        varies = bool((self._variance > 0).any())
        signs = bool((known.abs() == 1).all())
        unused = {*(() if varies else ("r2",)), *(() if signs else ("sign_accuracy",))}
        names = ("r2", "mean_squared_error", "mean_absolute_error", "sign_accuracy")
        self.metrics = tuple(name for name in names if name not in unused)
        values = self(mean.expand(labels.shape), labels).mean(dim=1)
        self.guess = dict(zip(self.metrics, values.tolist(), strict=True))
        if varies and torch.equal(self._variance, own):
            self.guess["r2"] = 0.0  # by its definition; computed it is so up to rounding
        if signs:
            self.guess["sign_accuracy"] = _commonest(labels)

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the value of each metric for each sequence, float64 `(metrics, batch)` on the CPU.

        Args:
            outputs: Logits or values, one answer for each label.
            labels: Those of the sequences, as the split holds them.
        """
        outputs, labels = outputs.detach().cpu(), labels.cpu()
        if self._classes:
            found = outputs.shape[-1]
            if found != self._classes:
                raise ValueError(f"model must return {self._classes} logits, one for each class, got {found}.")
            return mean_over_steps(outputs.argmax(dim=-1) == labels, labels).double()[None]
        errors = outputs.double() - without_marks(labels).double()
        square, varies = errors.square(), self._variance > 0
        each = {
            "r2": 1 - (square[..., varies] / self._variance[varies]).mean(dim=-1),
            "mean_squared_error": square.mean(dim=-1),
            "mean_absolute_error": errors.abs().mean(dim=-1),
            "sign_accuracy": (outputs.sign() == labels).all(dim=-1),
        }
        return torch.stack([mean_over_steps(each[name], labels).double() for name in self.metrics])
