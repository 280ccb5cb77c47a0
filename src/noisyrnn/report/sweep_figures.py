"""Figures of a sweep: its trials in order, its score against each setting, the importance of each setting."""

import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from noisyrnn.report.figures import STYLE, Figure, colour, grid, literal, render
from noisyrnn.report.table import PERCENT
from noisyrnn.robustness import Metric


def plots(study: Any, metric: Metric) -> list[tuple[str, Figure]]:
    """Draw an Optuna study, without importances if it has too few trials for them.

    Args:
        study: With at least one trial that has a score.
        metric: What the score is.

    Returns:
        Titles and figures.
    """
    trials = [trial for trial in study.trials if trial.value is not None]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    across = min(3, len(names))
    drawn = [
        ("Trials in order", "trials", 1, lambda _: _in_order(trials, metric)),
        ("Score against each setting", "settings", across, lambda across: _against(trials, names, metric, across)),
    ]
    with warnings.catch_warnings(), suppress(RuntimeError, ValueError):
        warnings.simplefilter("ignore")
        from optuna.importance import get_param_importances  # slow to import

        importances = get_param_importances(study)
        if importances and all(map(math.isfinite, importances.values())):
            drawn.append(("Importance of each setting", "importances", 1, lambda _: _importances(importances)))
    figures = []
    for title, name, panels, draw in drawn:
        with matplotlib.rc_context(STYLE | {"svg.hashsalt": f"sweep-{name}"}):
            figures.append((title, render(draw, f"sweep-{name}", title, across=panels)))
    return figures


def _in_order(trials: Sequence[Any], metric: Metric) -> Canvas:
    """Draw the score of each trial, and the best one so far."""
    figure, (axis,) = grid(1, across=1)
    numbers = [trial.number for trial in trials]
    scores = [metric.factor * trial.value for trial in trials]
    best = [max(scores[: k + 1]) for k in range(len(scores))]
    axis.plot(numbers, scores, "o", color=colour(0), markersize=4, label="trial")
    axis.step(numbers, best, where="post", color=colour(1), linewidth=1.2, label="best so far")
    axis.set_xlabel("trial")
    axis.set_ylabel(_score(metric))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left", ncols=2, fontsize=8.5)
    return figure


def _against(trials: Sequence[Any], names: Sequence[str], metric: Metric, across: int) -> Canvas:
    """Draw the score of each trial against each setting; the best trial is marked."""
    figure, axes = grid(len(names), across=across)
    best = max(trials, key=lambda trial: trial.value)
    for axis, name in zip(axes, names, strict=True):
        having = [trial for trial in trials if name in trial.params]
        places = _places(axis, name, having)
        scores = [metric.factor * trial.value for trial in having]
        axis.plot(places, scores, "o", color=colour(0), markersize=4, alpha=0.6)
        if best in having:
            k = having.index(best)
            axis.plot(
                places[k], scores[k], "o", color=colour(1), markersize=7, markerfacecolor="none", markeredgewidth=1.6
            )
        axis.set_title(literal(name))
        if axis in axes[::across]:
            axis.set_ylabel(_score(metric))
    return figure


def _places(axis: Axes, name: str, trials: Sequence[Any]) -> list[float]:
    """Return where the trials' values of a setting are on its axis, whose scale and ticks fit its range."""
    place = trials[0].distributions[name]
    values = [trial.params[name] for trial in trials]
    choices = getattr(place, "choices", None)
    if choices is not None:
        axis.set_xticks(range(len(choices)), [literal(str(choice)) for choice in choices])
        axis.set_xlim(-0.5, len(choices) - 0.5)
        return [float(choices.index(value)) for value in values]
    if place.log:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=isinstance(place.low, int)))
    axis.set_xlim(_wider(place.low, place.high, log=place.log))
    return [float(value) for value in values]


def _wider(low: float, high: float, *, log: bool) -> tuple[float, float]:
    """Return an interval with some room on both sides."""
    room = (high / low) ** 0.05 if log else 0.05 * (high - low)
    return (low / room, high * room) if log else (low - room, high + room)


def _importances(importances: dict[str, float]) -> Canvas:
    """Draw the importances as bars, the largest first."""
    figure, (axis,) = grid(1, across=1)
    figure.set_figheight(0.9 + 0.28 * len(importances))
    names = list(importances)[::-1]
    axis.barh([literal(name) for name in names], [importances[name] for name in names], color=colour(0), height=0.6)
    axis.set_xlabel("share of the importance")
    axis.set_xlim(0, 1)
    axis.grid(axis="y", visible=False)
    return figure


def _score(metric: Metric) -> str:
    return f"score: validation {metric.title}" + (" (%)" if metric.unit == PERCENT else "")
