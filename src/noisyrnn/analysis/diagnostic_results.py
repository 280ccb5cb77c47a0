"""Results of a diagnostic, as `analysis.json` stores them and a report shows them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from noisyrnn.analysis.measurement import Measurement

Better = Literal["lower", "higher"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One value of a model, with its kind: a cell of the table of models and quantities.

    Args:
        name: Key, such as `hessian_trace`.
        title: Name in tables.
        measurement: A measurement with a single value.
        interval: 95 % interval (default: from the measurement's standard error, if it has one).
        better: Direction that is more robust according to the theory; `None` if there is none.
        unit: Unit of the value; empty for a plain number. A share in [0, 1] that is shown in per cent has `%`.
        bounds: Smallest and largest possible value, beyond which no interval goes; `None` where there are none.
        note: Data from which it was computed.
    """

    name: str
    title: str
    measurement: Measurement
    interval: tuple[float, float] | None = None
    better: Better | None = None
    unit: str = ""
    bounds: tuple[float, float] | None = None
    note: str = ""

    def to_dict(self, group: str) -> dict[str, Any]:
        """Return a JSON-ready form; a value that is not finite becomes `None`."""
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
            "bounds": None if self.bounds is None else [_finite(end) for end in self.bounds],
            "note": self.note,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A quantity along an axis, with a band.

    Args:
        x: Positions on the axis, `(points,)`.
        y: Values, `(points,)`.
        low: Lower ends of the band, `(points,)`; `None` without a band.
        high: Upper ends of the band, `(points,)`; `None` without a band.
        xlabel: Name of the axis, with its unit.
        ylabel: Name of the values, with their unit.
        kind: "exact", "estimate" or "certificate", as in `Measurement`.
        confidence: Confidence of certificates that hold with a probability.
        note: Description of the values.
        band: Description of the band; empty without a band.
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
        """Return a JSON-ready form; a value that is not finite becomes `None`."""
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
    """All results of a diagnostic for one model.

    Args:
        quantities: Values for the table.
        curves: Curves by name.
        landscapes: Landscapes by name, JSON-ready.
        verdict: Statement on stability, if there is one.
        data: Description of the sequences used.
    """

    quantities: Sequence[Quantity] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    landscapes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    verdict: str | None = None
    data: str = ""

    def to_dict(self, group: str) -> dict[str, Any]:
        """Return a JSON-ready form; `group` is the diagnostic's name."""
        return {
            "data": self.data,
            "quantities": [quantity.to_dict(group) for quantity in self.quantities],
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
            "landscapes": dict(self.landscapes),
            "verdict": self.verdict,
        }


def listed(values: Tensor | None) -> list[float | None] | None:
    """Convert values for JSON: `None` for values that are not finite."""
    return None if values is None else [_finite(value) for value in values.detach().double().tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
