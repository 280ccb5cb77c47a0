"""Reads `analysis.json` of a run: quantities with their values, curves, landscapes and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any

from noisyrnn.analysis.measurement import KINDS
from noisyrnn.checks import check_choice
from noisyrnn.report.table import Quantity, Value


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A quantity along an axis; `x`, `y` and, if present, `low` and `high` have the same length.

    Values that are not finite are `nan`; `kind` and `confidence` are those of every point of `y`, and `band`
    describes the range from `low` to `high`.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    xlabel: str
    ylabel: str
    kind: str
    confidence: float | None
    note: str
    band: str = ""


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """The loss on a plane through the weights: `loss[i][j]` at `alphas[i]`, `betas[j]`; `nan` where not finite."""

    directions: str
    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    loss: tuple[tuple[float, ...], ...]
    note: str


@dataclass(frozen=True, kw_only=True)
class DiagnosticStatus:
    """Status of a diagnostic: `done`, or another status with its `reason`; `seconds` if known."""

    status: str
    reason: str
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Contents of `analysis.json`.

    Args:
        settings: Settings of the analysis.
        data: Description of the data used, by diagnostic.
        quantities: Values by quantity; each name once per group.
        curves: Curves by name.
        landscapes: Landscapes by name.
        verdict: Statement on the stability of the dynamics; empty if there is none.
        diagnostics: Status of each diagnostic.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, str]
    quantities: Mapping[Quantity, Value]
    curves: Mapping[str, Curve]
    landscapes: Mapping[str, Landscape]
    verdict: str
    diagnostics: Mapping[str, DiagnosticStatus]


def read_analysis(content: Mapping[str, Any], folder: Path) -> Analysis:
    """Return what the content of the `analysis.json` in `folder` describes.

    Raises:
        ValueError: If an entry is incomplete or has another type.
    """
    try:
        return _analysis(content)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"analysis.json must hold complete quantities, curves and landscapes, got a damaged entry in "
            f"{str(folder)!r} ({type(error).__name__}: {error}). Analyze the run again."
        ) from error


def _analysis(content: Mapping[str, Any]) -> Analysis:
    quantities = [_quantity(entry) for entry in content.get("quantities") or []]
    names = [(quantity.group, quantity.name) for quantity, _ in quantities]
    for group, name in names:
        if names.count((group, name)) > 1:
            raise ValueError(f"two quantities of {group} are named {name!r}")
    return Analysis(
        settings=dict(content.get("settings") or {}),
        data={str(name): str(text) for name, text in (content.get("data") or {}).items()},
        quantities=dict(quantities),
        curves={str(name): _curve(entry) for name, entry in (content.get("curves") or {}).items()},
        landscapes={str(name): _landscape(entry) for name, entry in (content.get("landscapes") or {}).items()},
        verdict=str(content.get("verdict") or ""),
        diagnostics={str(name): _status_of(entry) for name, entry in (content.get("diagnostics") or {}).items()},
    )


def _quantity(entry: Mapping[str, Any]) -> tuple[Quantity, Value]:
    interval = entry.get("interval")
    if interval is not None:
        low, high = interval
        interval = (_number(low), _number(high))
    better = entry.get("better")
    if better is not None:
        check_choice("better", better, ("higher", "lower"))
    quantity = Quantity(
        name=str(entry["name"]),
        title=str(entry["title"]),
        group=str(entry["group"]),
        kind=_kind(entry),
        confidence=_optional(entry.get("confidence")),
        unit=str(entry.get("unit") or ""),
        better=better,
        bounds=_bounds(entry.get("bounds")),
    )
    return quantity, Value(value=_number(entry["value"]), interval=interval, note=str(entry.get("note") or ""))


def _bounds(ends: Sequence[float | None] | None) -> tuple[float, float]:
    low, high = (None, None) if ends is None else ends
    return (-inf if low is None else float(low), inf if high is None else float(high))


def _curve(entry: Mapping[str, Any]) -> Curve:
    x, y = _numbers(entry["x"]), _numbers(entry["y"])
    low, high = (None if entry.get(end) is None else _numbers(entry[end]) for end in ("low", "high"))
    if any(len(values) != len(x) for values in (y, low, high) if values is not None):
        raise ValueError("x, y, low and high do not have the same length")
    return Curve(
        x=x,
        y=y,
        low=low,
        high=high,
        xlabel=str(entry["xlabel"]),
        ylabel=str(entry["ylabel"]),
        kind=_kind(entry),
        confidence=_optional(entry.get("confidence")),
        note=str(entry.get("note") or ""),
        band=str(entry.get("band") or ""),
    )


def _landscape(entry: Mapping[str, Any]) -> Landscape:
    alphas, betas = _numbers(entry["alphas"]), _numbers(entry["betas"])
    loss = tuple(_numbers(row) for row in entry["loss"])
    if [len(row) for row in loss] != [len(betas)] * len(alphas):
        raise ValueError("loss is not a row for each alpha with a value for each beta")
    if min(len(alphas), len(betas)) < 2:
        raise ValueError("a landscape has at least two alphas and two betas")
    return Landscape(
        directions=str(entry["directions"]), alphas=alphas, betas=betas, loss=loss, note=str(entry.get("note") or "")
    )


def _status_of(entry: Mapping[str, Any]) -> DiagnosticStatus:
    reason = str(entry.get("reason") or "")
    return DiagnosticStatus(status=str(entry["status"]), reason=reason, seconds=_optional(entry.get("seconds")))


def _kind(entry: Mapping[str, Any]) -> str:
    kind: str = entry["kind"]
    check_choice("kind", kind, KINDS)
    return kind


def _number(value: Any) -> float:
    """Convert a JSON value to a number; `None` stands for a value that is not finite."""
    return nan if value is None else float(value)


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(_number(value) for value in values)


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
