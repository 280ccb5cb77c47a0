"""What a diagnostic found, in the form that `analysis.json` holds and a report shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from noisyrnn.analysis.measurement import Measurement

Better = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One number of a model, with its kind: a cell of the table of models and quantities.

    Args:
        name: Its key, such as `hessian_trace`.
        title: As a table shows it.
        measurement: A single number.
        interval: 95 % interval; by default that of the measurement's standard error, where it has one.
        better: Which direction the theory calls more robust; `None` where it names none.
        unit: Of the value; empty for a plain number.
        note: What it was computed from, in words.
    """

    name: str
    title: str
    measurement: Measurement
    interval: tuple[float, float] | None = None
    better: Better | None = None
    unit: str = ""
    note: str = ""

    def to_dict(self, group: str) -> dict[str, Any]:
        """JSON-ready form; a number that is not finite becomes `None`."""
        interval = self.interval
        if interval is None and self.measurement.standard_error is not None:
            low, high = self.measurement.interval()
            interval = float(low), float(high)
        return {
            "name": self.name,
            "title": self.title,
            "group": group,
            **self.measurement.to_dict(),
            "interval": None if interval is None else [_finite(end) for end in interval],
            "better": self.better,
            "unit": self.unit,
            "note": self.note,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A quantity along an axis, with a band.

    Args:
        x: The axis, `(points,)`.
        y: The values, `(points,)`.
        low: Lower ends of the band, `(points,)`; `None` without one.
        high: Upper ends.
        xlabel: Name of the axis, with its unit.
        ylabel: Name of the values, with their unit.
        kind: As for `Measurement`.
        confidence: Of certificates that hold with a probability.
        note: What the values are, in words.
        band: What the band is, in words; empty without one.
    """

    x: Tensor
    y: Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    xlabel: str
    ylabel: str
    kind: str
    confidence: float | None = None
    note: str = ""
    band: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; a number that is not finite becomes `None`."""
        return {
            **{name: listed(getattr(self, name)) for name in ("x", "y", "low", "high")},
            "xlabel": self.xlabel,
            "ylabel": self.ylabel,
            "kind": self.kind,
            "confidence": self.confidence,
            "note": self.note,
            "band": self.band,
        }


@dataclass(frozen=True, kw_only=True)
class DiagnosticResults:
    """All that one diagnostic found about one model.

    Args:
        quantities: Numbers for the table.
        curves: By name.
        landscapes: By name; JSON-ready already.
        verdict: A sentence on stability, where there is one.
        data: Which sequences were used, in words.
    """

    quantities: Sequence[Quantity] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    landscapes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    verdict: str | None = None
    data: str = ""

    def to_dict(self, group: str) -> dict[str, Any]:
        """JSON-ready form; `group` is the diagnostic's name."""
        return {
            "data": self.data,
            "quantities": [quantity.to_dict(group) for quantity in self.quantities],
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
            "landscapes": dict(self.landscapes),
            "verdict": self.verdict,
        }


def listed(values: Tensor | None) -> list[float | None] | None:
    """Numbers as JSON has them: `None` for one that is not finite."""
    return None if values is None else [_finite(value) for value in values.detach().double().tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
