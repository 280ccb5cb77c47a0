"""The page of a sweep: its trials as they came, each setting against the score, and what matters."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator, NullLocator

from noisyrnn.report.columns import Column
from noisyrnn.report.figures import INK, STYLE, Figure, colour, grid, literal, render
from noisyrnn.report.page import template_of
from noisyrnn.robustness import UNITS
from noisyrnn.run_folder import write_atomically

_FAILED = colour(1)


def write_sweep_page(sweep: Mapping[str, Any], path: Path, *, command: str | None = None) -> Path:
    """Write one page on a sweep, which needs no other file.

    Args:
        sweep: What `sweep.json` holds.
        path: The page.
        command: Command line that made the sweep, shown to repeat it.
    """
    write_atomically(path, build_sweep_page(sweep, command=command).encode())
    return path


def build_sweep_page(sweep: Mapping[str, Any], *, command: str | None) -> str:
    """The page as HTML."""
    trials = sweep["trials"]
    scored = [trial for trial in trials if trial["score"] is not None]
    best = next((trial for trial in trials if trial["number"] == sweep["best"]), None)
    drawings = [("Trials in order", history(trials)), ("Score against each setting", slices(sweep))]
    drawings.append(("Importance of each setting", importance(sweep["importances"])))
    view = {
        "title": f"Sweep of {sweep['model']} on {Path(sweep['dataset']).stem}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "facts": _facts(sweep, len(scored)),
        "best": best,
        "best_sequences": None if best is None else best["columns"][0][0].get("sequences"),
        "best_columns": [] if best is None else _columns(best["columns"]),
        "best_values": [] if best is None else [(name, shown(value)) for name, value in best["values"].items()],
        "drawings": [(title, drawing) for title, drawing in drawings if drawing is not None],
        "names": list(sweep["space"]),
        "rows": [_row(trial, list(sweep["space"])) for trial in sorted(trials, key=_rank)],
        "fixed": [(name, shown(value)) for name, value in sweep["fixed"].items() if value is not None],
        "space": [(name, _place(place)) for name, place in sweep["space"].items()],
    }
    return template_of("sweep.html.j2").render(view)


def _rank(trial: Mapping[str, Any]) -> tuple[float, int]:
    return (1.0 if trial["score"] is None else -trial["score"], trial["number"])


def shown(value: Any) -> str:
    """A setting's value in a table: four digits are enough to tell two trials apart."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _place(place: Any) -> str:
    if isinstance(place, list):
        return ", ".join(map(shown, place))
    return f"{shown(place['low'])} to {shown(place['high'])}" + (", by factors" if place["log"] else "")


def _title(name: str, strength: float, unit: str) -> str:
    return Column(name, strength, unit).title


def _units(sweep: Mapping[str, Any]) -> dict[str, str]:
    """Unit of the strengths of each perturbation, from the first trial that was measured."""
    measured = (trial["columns"] for trial in sweep["trials"] if trial.get("columns"))
    return {cell["perturbation"]: cell.get("unit", "") for run in next(measured, []) for cell in run}


def _facts(sweep: Mapping[str, Any], scored: int) -> list[tuple[str, str]]:
    made = len(sweep["trials"])
    units = _units(sweep)
    measured = [
        _title(name, strength, units.get(name, ""))
        for name, strengths in sweep["strengths"].items()
        for strength in strengths
    ]
    return [
        ("Data set", str(sweep["dataset"])),
        ("Model", str(sweep["model"])),
        ("Score", f"mean accuracy on the validation data: {', '.join(measured)}; {sweep['draws']} draws"),
        *([("Units", UNITS)] if any(units.values()) else []),
        ("Trainings of a trial", str(sweep["seeds"])),
        ("Trials", f"{made} of {sweep['wanted']}" + (f", of which {made - scored} failed" if made > scored else "")),
        ("Seed of the sweep", str(sweep["sweep_seed"])),
        ("noisyrnn", str(sweep["version"])),
    ]


def _columns(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[tuple[str, list[str]]]:
    """For each perturbation, accuracy and interval of each training."""
    return [
        (
            _title(cells[0]["perturbation"], cells[0]["strength"], cells[0].get("unit", "")),
            [
                f"{100 * cell['accuracy']:.1f} [{100 * cell['interval'][0]:.1f}, {100 * cell['interval'][1]:.1f}]"
                for cell in cells
            ],
        )
        for cells in zip(*runs, strict=True)
    ]


def _row(trial: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    score = trial["score"]
    return {
        "number": trial["number"],
        "score": "failed" if score is None else f"{100 * score:.2f}",
        "values": [shown(trial["values"].get(name, "–")) for name in names],
        "seconds": "–" if trial["seconds"] is None else f"{trial['seconds']:.1f}",
        "error": trial["error"] or "",
    }


def history(trials: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Score of each trial, and the best until then; failed trials as crosses below."""
    scored = [(trial["number"], 100 * trial["score"]) for trial in trials if trial["score"] is not None]
    if not scored:
        return None
    failed = [trial["number"] for trial in trials if trial["score"] is None]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "history"}):
        figure, (axis,) = grid(1, across=1)
        numbers, scores = zip(*scored, strict=True)
        leading = [max(scores[: k + 1]) for k in range(len(scores))]
        axis.plot(numbers, scores, "o", color=colour(0), alpha=0.7)
        axis.step(numbers, leading, where="post", color=INK, linewidth=1.0)
        _crosses(axis, failed, scores)
        axis.set_xlabel("trial")
        axis.set_ylabel("score (%)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        return render(figure, "history", "Score of each trial in order, with the best score until then as a line")


def slices(sweep: Mapping[str, Any]) -> Figure | None:
    """Score against the value of each setting, a panel a setting, later trials darker."""
    trials = [trial for trial in sweep["trials"] if trial["score"] is not None]
    if not trials:
        return None
    failed = [trial for trial in sweep["trials"] if trial["score"] is None]
    scores = [100 * trial["score"] for trial in trials]
    shades = [to_rgba(colour(0), 0.4 + 0.6 * (k + 1) / len(trials)) for k in range(len(trials))]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "slices"}):
        figure, axes = grid(len(sweep["space"]), across=3)
        for axis, (name, place) in zip(axes, sweep["space"].items(), strict=True):
            axis.scatter(_places(trials, name, place), scores, s=16, c=shades, linewidths=0)
            _crosses(axis, _places(failed, name, place), scores)
            if isinstance(place, list):
                names = [literal(shown(value)) for value in place]
                crowded: dict[str, Any] = {"rotation": 30, "ha": "right"} if sum(map(len, names)) > 20 else {}
                axis.set_xticks(range(len(place)), names, **crowded)
                axis.set_xlim(-0.5, len(place) - 0.5)
            elif place["log"]:
                log_axis(axis, place["low"], place["high"])
            else:
                axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.set_title(literal(name))
            if axis in axes[::3]:
                axis.set_ylabel("score (%)")
        return render(figure, "slices", "Score of each trial against the value of each setting")


def log_axis(axis: Axes, low: float, high: float) -> None:
    """A logarithmic x axis from `low` to `high` with three or four round labels, which fit a narrow panel."""
    axis.set_xscale("log")
    reach = (high / low) ** 0.06
    axis.set_xlim(low / reach, high * reach)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        ticks = [tick for power in powers for factor in factors if low <= (tick := factor * 10.0**power) <= high]
        if len(ticks) >= 3:
            break
    if len(ticks) < 2:
        ticks = [low, high]
    most = 4 if max(len(f"{tick:.3g}") for tick in ticks) < 5 else 3
    every = math.ceil(len(ticks) / most)
    axis.set_xticks(ticks[::every], [f"{tick:.3g}" for tick in ticks[::every]])
    axis.xaxis.set_minor_locator(NullLocator())


def _places(trials: Sequence[Mapping[str, Any]], name: str, place: Any) -> list[float]:
    """Where each trial lies along a panel: its value, or the number of its choice."""
    values = [trial["values"][name] for trial in trials]
    return [place.index(value) for value in values] if isinstance(place, list) else values


def _crosses(axis: Axes, places: Sequence[float], scores: Sequence[float]) -> None:
    """Failed trials, which have no score, below the lowest one."""
    if places:
        low = min(scores) - 0.05 * max(max(scores) - min(scores), 1.0)
        axis.plot(places, [low] * len(places), "x", color=_FAILED)


def importance(shares: Mapping[str, float]) -> Figure | None:
    """Share of each setting in what separates the better trials from the rest."""
    if not shares:
        return None
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "importance"}):
        figure, (axis,) = grid(1, across=1)
        names = sorted(shares, key=lambda name: shares[name])
        axis.barh([literal(name) for name in names], [100 * shares[name] for name in names], color=colour(0))
        axis.set_xlabel("importance (%)")
        axis.grid(visible=False, axis="y")
        return render(figure, "importance", "Importance of each setting, as a bar")
