"""Reads run folders for a report: settings, training, accuracies, analysis, and what is missing or out of date.

Nothing here opens a model.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noisyrnn.report.analysis import Analysis, read_analysis
from noisyrnn.report.columns import Column
from noisyrnn.run_folder import RunFolder, changes, file_digest, json_object, listed, read_json

METRICS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "learning_rate",
    "seconds",
)


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Test accuracy of one run under one perturbation.

    Args:
        accuracy: Mean over draws, or the worst case of an attack, in `[0, 1]`.
        rates: For each test sequence, the share of draws in which it was classified correctly.
        settings: The perturbation's `repr`.
        moved: Whether any value of any sequence was changed.
        guess: Accuracy of always answering with the largest class.
    """

    accuracy: float
    rates: tuple[float, ...]
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
class SeedResult:
    """Results of one label with one seed: what its run folder holds.

    Args:
        path: The folder.
        config: Settings of the run, with at least `label` and `seed`, and the model's options.
        dataset: Name, sizes, classes and value range; empty where the data could not be read.
        environment: Versions and threads.
        summary: Outcome of training; `status` is `finished`, `failed`, or `unfinished` without a `summary.json`.
        history: For each column of `metrics.csv`, one value an epoch; no rows where there is no such file.
        accuracies: Test accuracies; empty where the run was not evaluated.
        examples: Test sequences with the model's answers.
        evaluation: Settings of the evaluation: strengths, draws, limits, seed; empty where the run was not evaluated.
        evaluation_error: Why the evaluation failed, where it did.
        analysis: Quantities of the theory; `None` where the run was not analysed.
        test_parts: Digests of the test data of its results, by the name of the file that records them.
        stale: Why a result that is there does not count, since it belongs to other weights or settings; and that the
            weights are not those of the run's training, where it is so.
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
    test_parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stale: tuple[str, ...] = ()

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


@dataclass(frozen=True, kw_only=True)
class Group:
    """The results of one label, by seed."""

    label: str
    results: tuple[SeedResult, ...]

    @property
    def evaluated(self) -> tuple[SeedResult, ...]:
        """Those whose accuracies are known."""
        return tuple(result for result in self.results if result.evaluated)

    @property
    def analyses(self) -> dict[int, Analysis]:
        """Analyses of the finished runs, by seed."""
        return {
            result.seed: result.analysis
            for result in self.results
            if result.status == "finished" and result.analysis is not None
        }

    @property
    def seeds_title(self) -> str:
        """Number of seeds evaluated: `3`, or `2 of 3` where some runs failed or were not evaluated."""
        evaluated, total = len(self.evaluated), len(self.results)
        return str(total) if evaluated == total else f"{evaluated} of {total}"


def group_by_label(results: Sequence[SeedResult]) -> tuple[Group, ...]:
    """Groups `results` by label, in the order of the labels, each by seed.

    Raises:
        ValueError: If there are none, they are of several data sets, or one label has two runs of one seed.
    """
    if not results:
        raise ValueError("runs must hold at least one run folder, got none. Train a model first.")
    names = sorted({str(result.dataset["name"]) for result in results if "name" in result.dataset})
    if len(names) > 1:
        raise ValueError(f"runs must all be of one data set, got {', '.join(names)}. Write one report for each.")
    _check_one_test_part(results)
    by_label: dict[str, dict[int, SeedResult]] = {}
    for result in results:
        seeds = by_label.setdefault(result.label, {})
        if result.seed in seeds:
            raise ValueError(
                f"runs must hold each label and seed once, got {result.label!r} with seed {result.seed} in "
                f"{str(seeds[result.seed].path)!r} and {str(result.path)!r}. Leave one out, or give it another label."
            )
        seeds[result.seed] = result
    return tuple(
        Group(label=label, results=tuple(seeds[seed] for seed in sorted(seeds))) for label, seeds in by_label.items()
    )


def _check_one_test_part(results: Sequence[SeedResult]) -> None:
    """Raise `ValueError` if two results were computed on different test data."""
    files = [(result.path / name, part) for result in results for name, part in result.test_parts.items()]
    for file, part in files[1:]:
        changed = changes({"test": files[0][1]}, {"test": part})
        if changed:
            raise ValueError(
                f"runs must all be evaluated on the same test data, got {files[0][0]} and {file}, which differ in "
                f"{listed(changed)}. Evaluate (or analyze) the runs again on the same data."
            )


def read_run(path: Path) -> SeedResult:
    """The run in the folder `path`. Absent metrics, summary, robustness or analysis leave their fields empty.

    Raises:
        TypeError: If `path` is not a path.
        ValueError: If there is no run in the folder, its format is another one, or a file in it is damaged.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"RUN must be the path of a run folder, got {path!r}.")
    path = Path(path)
    folder = RunFolder(path)
    if not os.path.lexists(folder.config):
        raise ValueError(
            f"RUN must be a run folder, got {str(path)!r} without a config.json. "
            "Name the folder of a run, such as runs/noisy-1."
        )
    config, summary = folder.read_config(), folder.read_summary()
    _check_types(folder.config, config["dataset"], _DATASET)
    _check_types(folder.summary, summary, _SUMMARY)
    robustness, stale = _result(folder, folder.robustness, "Evaluate the run again: noisyrnn evaluate")
    analysis, stale_analysis = _result(folder, folder.analysis, "Analyze the run again: noisyrnn analyze")
    test_parts = {
        file.name: content["depends_on"]["test"]
        for file, content, reason in (
            (folder.robustness, robustness, stale),
            (folder.analysis, analysis, stale_analysis),
        )
        if not reason and "test" in content.get("depends_on", {})
    }
    if stale:
        robustness = {"error": stale}
    try:
        accuracies = dict(_accuracy(entry) for entry in robustness.get("columns", []))
        examples = tuple(_example(entry) for entry in robustness.get("examples", []))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(
            f"robustness.json must hold complete columns and examples, got a damaged entry in {str(path)!r} "
            f"({type(error).__name__}: {error}). Evaluate the run again."
        ) from error
    if "settings" in robustness:
        json_object(robustness, "settings", folder.robustness)
    _check_types(folder.robustness, robustness, {"error": str})
    foreign = f"its results are not those of its training: {why}" if (why := folder.foreign_model()) else ""
    return SeedResult(
        path=path,
        config=config["config"],
        dataset=config["dataset"],
        environment=config["environment"],
        summary=summary,
        history=_read_metrics(folder.metrics, summary.get("metrics_sha256")),
        accuracies=accuracies,
        examples=examples,
        evaluation=robustness.get("settings") or {},
        evaluation_error=robustness.get("error"),
        analysis=None if stale_analysis else read_analysis(path),
        test_parts=test_parts,
        stale=tuple(reason for reason in (stale, stale_analysis, foreign) if reason),
    )


def split_readable(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The runs that can be read; and, with the reason, those that cannot or whose evaluation is out of date."""
    readable: list[Path] = []
    others: dict[Path, str] = {}
    for path in paths:
        try:
            run = read_run(path)
        except ValueError as error:
            others[path] = str(error)
            continue
        readable.append(path)
        if run.stale and run.evaluation_error:
            others[path] = run.evaluation_error
    return readable, others


_DEPENDENCIES = {"model": "model.safetensors", "config": "config.json"}
_NUMBER = (int, float)
_DATASET: dict[str, Any] = {
    **dict.fromkeys(("name", "source"), str),
    **dict.fromkeys(("steps", "input_size", "classes", "train", "validation"), int),
    **dict.fromkeys(("class_names", "value_range", "image_shape"), list),
}
_SUMMARY: dict[str, Any] = {
    "error": str,
    "metrics_sha256": str,
    "model_sha256": str,
    **dict.fromkeys(("parameters", "seconds", "epochs", "best_epoch", "best_validation_accuracy"), _NUMBER),
}


def _check_types(file: Path, content: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Raise `ValueError` where an entry that the report uses has another type; entries may be missing or null."""
    for name, kind in types.items():
        value = content.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{file} must hold a {name} of another type, got {value!r}. Train the run again.")
    for name in ("value_range", "image_shape"):
        pair = content.get(name)
        if name in types and pair is not None and not (len(pair) == 2 and all(type(x) in _NUMBER for x in pair)):
            raise ValueError(f"{file} must hold two numbers as {name}, got {pair!r}. Train the run again.")


def _result(folder: RunFolder, file: Path, advice: str) -> tuple[dict[str, Any], str]:
    """What a result file holds, nothing where there is none; and why it no longer belongs to the run, if so."""
    if not os.path.lexists(file):
        return {}, ""
    content = read_json(file)
    if "depends_on" not in content:  # an evaluation that failed
        return content, ""
    depends = json_object(content, "depends_on", file)
    now = {"config": folder.config_digest()}
    if os.path.lexists(folder.model):  # it may have been deleted to save space
        now["model"] = file_digest(folder.model)
    now = {name: digest for name, digest in now.items() if name in depends}
    changed = changes({name: depends[name] for name in now}, now)
    if not changed:
        return content, ""
    return content, f"{file.name} is out of date: {listed(changed)} changed since. {advice} {folder.path}."


def _column(entry: Mapping[str, Any]) -> Column:
    return Column(str(entry["perturbation"]), float(entry["strength"] or 0.0), str(entry.get("unit", "")))


def _accuracy(entry: Mapping[str, Any]) -> tuple[Column, Accuracy]:
    draws = len(entry["draw_accuracies"])
    return _column(entry), Accuracy(
        accuracy=float(entry["accuracy"]),
        rates=tuple(int(digit, 36) / draws for digit in entry["correct"]),
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


def _read_metrics(file: Path, digest: str | None) -> dict[str, tuple[float, ...]]:
    """Columns of `metrics.csv`. A last line cut short by an interruption is left out; any other damage raises.

    A training that has ended leaves the `digest` of the file in its summary.
    """
    if not os.path.lexists(file):
        return {name: () for name in METRICS}
    if digest not in (None, file_digest(file)):
        raise ValueError(f"{file} must be as noisyrnn wrote it, got a file that was changed or damaged since.")
    try:
        lines = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} must be a CSV file, got one that cannot be read ({error}). Train again.") from error
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
