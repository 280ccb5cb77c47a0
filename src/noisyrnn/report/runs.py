"""A run folder, read: what was asked, what came out, and what is missing. Nothing here opens a model."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisyrnn.report.analysis import Analysis, read_analysis
from noisyrnn.run_folder import read_json

METRICS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "learning_rate",
    "seconds",
)


@dataclass(frozen=True, order=True)
class Column:
    """One column of a table of accuracies: a perturbation, its strength and that one's unit.

    `strength` is 0 for clean inputs, and `unit` empty where strengths are in the units of the data.
    """

    perturbation: str
    strength: float
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Test accuracy of one run under one perturbation.

    Args:
        accuracy: Mean over draws, or the worst case of an attack, in `[0, 1]`.
        rates: For each test sequence, the share of draws in which it was classified correctly.
        draws: Draws that a rate is the share of.
        settings: The perturbation's `repr`.
        moved: Whether any value of any sequence was changed.
        guess: Accuracy of always answering with the largest class.
    """

    accuracy: float
    rates: tuple[float, ...]
    draws: int
    settings: str
    moved: bool = True
    guess: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Example:
    """One test sequence as a run's model saw it, and what the model said; `inputs` is `(steps, channels)`."""

    column: Column
    index: int
    label: int
    prediction: int
    confidence: float
    inputs: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run folder holds.

    Args:
        path: The folder.
        config: Settings of the run, with at least `label` and `seed`; those of the model as they were in effect.
        dataset: Name, sizes, classes and value range; empty where the data could not be read.
        environment: Versions and threads.
        summary: Outcome of training; `status` is `finished`, `failed`, or `unfinished` without a `summary.json`.
        history: For each column of `metrics.csv`, one value an epoch; no rows where there is no such file.
        accuracies: Test accuracies; empty where the run was not evaluated.
        examples: Test sequences with the model's answers.
        evaluation: Settings of the evaluation: strengths, draws, limits, seed; empty where the run was not evaluated.
        evaluation_error: Why the evaluation failed, where it did.
        analysis: Quantities of the theory; `None` where the run was not analysed.
    """

    path: Path
    config: Mapping[str, Any]
    dataset: Mapping[str, Any]
    environment: Mapping[str, Any]
    summary: Mapping[str, Any]
    history: Mapping[str, tuple[float, ...]]
    accuracies: Mapping[Column, Accuracy]
    examples: tuple[Example, ...]
    evaluation: Mapping[str, Any]
    evaluation_error: str | None
    analysis: Analysis | None

    @property
    def label(self) -> str:
        """Name the run is shown under; runs of one label differ in their seed."""
        return str(self.config["label"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    @property
    def status(self) -> str:
        """`finished`, `failed` or `unfinished`."""
        return str(self.summary["status"])

    @property
    def evaluated(self) -> bool:
        """Whether the run finished and its accuracies are known; a failed run's are never counted."""
        return self.status == "finished" and bool(self.accuracies)


def read_run(path: Path) -> RunRecord:
    """The run in the folder `path`. Absent metrics, summary, robustness or analysis leave their fields empty.

    Raises:
        TypeError: If `path` is not a path.
        ValueError: If there is no run in the folder, its format is another one, or a file in it is damaged.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"RUN must be the path of a run folder, got {path!r}.")
    path = Path(path)
    config = _read_json(path, "config.json")
    if config is None:
        raise ValueError(
            f"RUN must be a run folder, got {str(path)!r} without a config.json. "
            "Name the folder of a run, such as runs/noisy-1."
        )
    settings = config.get("config")
    settings = settings if isinstance(settings, dict) else {}
    label, seed = settings.get("label"), settings.get("seed")
    if not isinstance(label, str) or type(seed) is not int:
        raise ValueError(
            f"config.json must hold a label and an integer seed, got {label!r} and {seed!r} in {str(path)!r}. "
            "Train again."
        )
    robustness = _read_json(path, "robustness.json") or {}
    try:
        accuracies = dict(_accuracy(entry) for entry in robustness.get("columns", []))
        examples = tuple(_example(entry) for entry in robustness.get("examples", []))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"robustness.json must hold complete columns and examples, got a damaged entry in {str(path)!r} "
            f"({type(error).__name__}: {error}). Evaluate the run again."
        ) from error
    return RunRecord(
        path=path,
        config=settings | (config.get("options") or {}),
        dataset=config.get("dataset") or {},
        environment=config.get("environment") or {},
        summary=_read_json(path, "summary.json") or {"status": "unfinished"},
        history=_read_metrics(path / "metrics.csv"),
        accuracies=accuracies,
        examples=examples,
        evaluation=robustness.get("settings") or {},
        evaluation_error=robustness.get("error"),
        analysis=read_analysis(path),
    )


def _read_json(folder: Path, name: str) -> dict[str, Any] | None:
    """The object in `folder/name`, or `None` where there is no such file."""
    file = folder / name
    return read_json(file) if file.is_file() else None


def _column(entry: Mapping[str, Any]) -> Column:
    return Column(str(entry["perturbation"]), float(entry["strength"] or 0.0), str(entry.get("unit", "")))


def _accuracy(entry: Mapping[str, Any]) -> tuple[Column, Accuracy]:
    draws = len(entry["draw_accuracies"])
    return _column(entry), Accuracy(
        accuracy=float(entry["accuracy"]),
        rates=tuple(int(digit, 36) / draws for digit in entry["correct"]),
        draws=draws,
        settings=str(entry["settings"]),
        moved=bool(entry.get("moved", True)),
        guess=float(entry.get("guess", 0.0)),
    )


def _example(entry: Mapping[str, Any]) -> Example:
    inputs = tuple(tuple(float(value) for value in step) for step in entry["inputs"])
    widths = {len(step) for step in inputs}
    if len(widths) != 1 or 0 in widths:
        raise ValueError("inputs are not steps of equal width")
    return Example(
        column=_column(entry),
        index=int(entry["index"]),
        label=int(entry["label"]),
        prediction=int(entry["prediction"]),
        confidence=float(entry["confidence"]),
        inputs=inputs,
    )


def _read_metrics(file: Path) -> dict[str, tuple[float, ...]]:
    """Columns of `metrics.csv`. A last line cut short by an interruption is left out; any other damage raises."""
    if not file.exists():
        return {name: () for name in METRICS}
    with file.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.reader(stream))
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    absent = [name for name in METRICS if name not in header]
    if absent:
        raise ValueError(
            f"metrics.csv must have the columns {', '.join(METRICS)}, got none named {absent[0]!r} in {str(file)!r}. "
            "Train again."
        )
    numbers: list[dict[str, float]] = []
    for number, row in enumerate(rows, start=2):
        try:
            numbers.append({name: float(value) for name, value in zip(header, row, strict=True)})
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"metrics.csv must hold numbers, got {','.join(row)!r} in line {number} of {str(file)!r}. Train again."
            ) from error
    return {name: tuple(row[name] for row in numbers) for name in METRICS}
