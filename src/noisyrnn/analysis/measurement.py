"""A computed quantity with its kind and its error."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy import special
from torch import Tensor

from noisyrnn.checks import check_choice, check_integer, check_number
from noisyrnn.display import html_table

KINDS = ("certificate", "estimate", "exact")


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """A value with its kind, so that an estimate is never read as a proof.

    Args:
        value: Value of any shape, with one entry per sequence, eigenvalue or time, as the function that returns it
            documents.
        kind: "exact" (computed up to rounding), "estimate" (from random draws, or by a method with an unknown error),
            or "certificate" (a bound that holds, with the stated confidence).
        standard_error: Standard error of an estimate, in the shape of `value`, if random draws are its only error; else
            `None`.
        draws: Number of independent draws behind the standard error, at least 2: it has `draws - 1` degrees of freedom.
            `None` if the standard error is known rather than estimated from draws.
        confidence: Confidence of a certificate that holds with a probability, in (0, 1); `None` if it always holds.

    Raises:
        ValueError: If the kind is unknown, or a field belongs to another kind or has another shape.

    Example:
        >>> Measurement(value=torch.tensor(2.0), kind="estimate", standard_error=torch.tensor(0.5))
        Measurement(2 ± 0.5, estimate)
    """

    value: Tensor
    kind: str
    standard_error: Tensor | None = None
    draws: int | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        if self.standard_error is not None:
            if self.kind != "estimate":
                raise ValueError(f"standard_error must be None for kind {self.kind!r}, got one.")
            if self.standard_error.shape != self.value.shape:
                raise ValueError(
                    f"standard_error must have the shape of value, {tuple(self.value.shape)}, "
                    f"got {tuple(self.standard_error.shape)}."
                )
        if self.draws is not None:
            if self.standard_error is None:
                raise ValueError(f"draws must be None without a standard error, got {self.draws}.")
            check_integer("draws", self.draws, minimum=2)
        if self.confidence is not None:
            if self.kind != "certificate":
                raise ValueError(f"confidence must be None for kind {self.kind!r}, got {self.confidence:g}.")
            check_number("confidence", self.confidence, above=0.0)
            if self.confidence >= 1:
                raise ValueError(f"confidence must be less than 1, got {self.confidence:g}.")

    def __repr__(self) -> str:
        """Show the value, its error and its kind; for more than one entry, the shape and the mean."""
        if self.value.numel() == 1:
            text = f"{float(self.value):.6g}"
            if self.standard_error is not None:
                text += f" ± {float(self.standard_error):.2g}"
        else:
            text = f"shape {tuple(self.value.shape)}, mean {float(self.value.detach().double().mean()):.6g}"
        confidence = "" if self.confidence is None else f", confidence {self.confidence:g}"
        return f"Measurement({text}, {self.kind}{confidence})"

    def _repr_html_(self) -> str:
        """Show the value, its error and its kind in a table, for notebooks."""
        if self.value.numel() == 1:
            rows = [("value", f"{float(self.value):.6g}")]
            if self.standard_error is not None:
                rows.append(("standard error", f"{float(self.standard_error):.2g}"))
        else:
            values = self.value.detach().double()
            rows = [("shape", f"{tuple(self.value.shape)}"), ("mean", f"{float(values.mean()):.6g}")]
            rows += [("smallest", f"{float(values.min()):.6g}"), ("largest", f"{float(values.max()):.6g}")]
        if self.confidence is not None:
            rows.append(("confidence", f"{self.confidence:g}"))
        return html_table("Measurement", [*rows, ("kind", self.kind)])

    def interval(self, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the ends of a confidence interval from the standard error: Student's t with `draws - 1` degrees.

        It assumes that the draws are nearly normal. If `draws` is `None`, the interval is the normal one.

        Raises:
            ValueError: If there is no standard error, or `confidence` is not in (0, 1).
        """
        if self.standard_error is None:
            raise ValueError(f"standard_error must be given for an interval, got None ({self.kind}).")
        check_number("confidence", confidence, above=0.0)
        if confidence >= 1:
            raise ValueError(f"confidence must be less than 1, got {confidence:g}.")
        upper = 0.5 + confidence / 2
        quantile = special.ndtri(upper) if self.draws is None else special.stdtrit(self.draws - 1, upper)
        reach = float(quantile) * self.standard_error
        return self.value - reach, self.value + reach

    def over_sequences(self) -> "Measurement":
        """Return the mean over the first axis, as an estimate for the population of sequences.

        Its standard error is that of a mean of independent entries. It covers the sampling of the sequences and, if the
        entries are estimates, their errors. It is `None` for a single sequence.
        """
        values = self.value.detach().double()
        count = len(values)
        return mean_of_draws(values) if count > 1 else Measurement(value=values.mean(dim=0), kind="estimate")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form: values in (nested) lists, with `None` for values that are not finite."""
        return {
            "value": _listed(self.value),
            "kind": self.kind,
            "standard_error": None if self.standard_error is None else _listed(self.standard_error),
            "draws": self.draws,
            "confidence": self.confidence,
        }


_SMALLEST = 1e-100
"""Squares of much smaller numbers vanish, and those of the inverse overflow."""


def mean_of_draws(draws: Tensor) -> Measurement:
    """Return the mean over the first axis of independent draws, with its standard error; float64.

    Raises:
        ValueError: If there are fewer than two draws.
    """
    if len(draws) < 2:
        raise ValueError(f"draws must be at least 2 for a standard error, got {len(draws)}.")
    draws = draws.detach().double()
    size = draws.abs().amax(dim=0)
    unit = size.where((size > 0) & ((size < _SMALLEST) | (size > 1 / _SMALLEST)), 1.0)
    error = (draws / unit).std(dim=0) * unit / math.sqrt(len(draws))
    return Measurement(value=draws.mean(dim=0), kind="estimate", standard_error=error, draws=len(draws))


def _listed(values: Tensor) -> Any:
    """Convert to nested lists of floats; `None` for values that are not finite."""

    def clean(entry: Any) -> Any:
        if isinstance(entry, list):
            return [clean(part) for part in entry]
        return entry if math.isfinite(entry) else None

    return clean(values.detach().to(torch.float64).tolist())
