"""Reads run folders for a report: settings, training, test results, analysis, and what is missing or out of date.

Nothing here opens a model.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noisyrnn.files import read_json
from noisyrnn.report.analysis import Analysis, read_analysis
from noisyrnn.report.columns import Column
from noisyrnn.robustness import METRICS
from noisyrnn.run_folder import RunFolder, changes, listed


@dataclass(frozen=True, kw_only=True)
class TestScore:
    """One metric of one run on the test sequences under one perturbation.

    Args:
        value: Mean over draws, or the worst case of an attack.
        by_sequence: Value of each test sequence, such as the share of draws in which it was classified correctly.
        settings: The perturbation's `repr`.
        moved: Whether any value of any sequence was changed.
        guess: Value of the best answer that ignores the inputs: the largest class, or the mean of the targets.
    """

    value: float
    by_sequence: tuple[float, ...]
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
        scores: Test results; empty where the run was not evaluated.
        examples: Test sequences with the model's answers.
        confusion: Clean test sequences of each class (rows) by predicted class (columns); `None` if not counted.
        evaluation: Settings of the evaluation: strengths, draws, limits, seed; empty where the run was not evaluated.
        evaluation_error: Why the evaluation failed, where it did.
        analysis: Quantities of the theory; `None` where the run was not analysed.
        test_parts: Digests of the test data of its results, by the name of the file that records them.
        stale: Why a result that is there does not count, since it belongs to other weights or settings; and that the
            weights are not those of the run's training, where it is so.
        gradient_notes: A sentence for each attack that indicates masked gradients.
        baselines: Test results of baselines by name, on the same test sequences; empty for data that are not the
            user's own.
        skipped_baselines: Why a baseline is left out, by name.
    """

    path: Path
    config: Mapping[str, Any]
    dataset: Mapping[str, Any]
    environment: Mapping[str, Any]
    summary: Mapping[str, Any]
    history: Mapping[str, tuple[float, ...]]
    scores: Mapping[Column, TestScore]
    examples: tuple[Example, ...]
    evaluation: Mapping[str, Any]
    evaluation_error: str | None
    analysis: Analysis | None
    confusion: tuple[tuple[int, ...], ...] | None = None
    test_parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stale: tuple[str, ...] = ()
    gradient_notes: tuple[str, ...] = ()
    baselines: Mapping[str, Mapping[Column, TestScore]] = field(default_factory=dict)
    skipped_baselines: Mapping[str, str] = field(default_factory=dict)

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
        """Whether the run finished and its test results are known; a failed run's are never counted."""
        return self.status == "finished" and bool(self.scores)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The results of one label, by seed."""

    label: str
    results: tuple[SeedResult, ...]

    @property
    def evaluated(self) -> tuple[SeedResult, ...]:
        """Those whose test results are known."""
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


def read_run(path: Path, weights: str = "kept") -> SeedResult:
    """The run in the folder `path`. Absent metrics, summary, robustness or analysis leave their fields empty.

    Args:
        path: The folder.
        weights: Whose test results to read: `"kept"`, the epoch that training keeps, or `"last"`.

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
    stored = {
        "evaluate": (folder.robustness_file(weights), folder.read_result(folder.robustness_file(weights))),
        "analyze": (folder.analysis, folder.read_result(folder.analysis)),
    }
    option = {"evaluate": " --weights last" if weights == "last" else ""}
    stale = {
        command: f"{file.name} is out of date: {result.stale}. {command.capitalize()} the run again: "
        f"noisyrnn {command} {path}{option.get(command, '')}."
        for command, (file, result) in stored.items()
        if result.stale
    }
    current = {command: {} if command in stale else result.content for command, (_, result) in stored.items()}
    robustness = current["evaluate"]
    try:
        scores = dict(score for entry in robustness.get("columns", []) for score in _scores(entry))
        examples = tuple(_example(entry) for entry in robustness.get("examples", []))
        confusion = _confusion(robustness.get("confusion"))
        gradient_notes = tuple(str(entry["note"]) for entry in robustness.get("gradient_checks", []) if entry["masked"])
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(
            f"{folder.robustness_file(weights).name} must hold complete columns and examples, got a damaged entry in "
            f"{str(path)!r} "
            f"({type(error).__name__}: {error}). Evaluate the run again."
        ) from error
    baselines, skipped = _read_baselines(folder, robustness)
    foreign = f"its results are not those of its training: {why}" if (why := folder.foreign_model(weights)) else ""
    return SeedResult(
        path=path,
        config=config["config"],
        dataset=config["dataset"],
        environment=config["environment"],
        summary=summary,
        history=folder.read_metrics(),
        scores=scores,
        examples=examples,
        confusion=confusion,
        evaluation=robustness.get("settings", {}),
        evaluation_error=stale.get("evaluate", robustness.get("error")),
        analysis=read_analysis(current["analyze"], path) if current["analyze"] else None,
        test_parts={
            stored[command][0].name: content["depends_on"]["test"]
            for command, content in current.items()
            if "test" in content.get("depends_on", {})
        },
        stale=tuple(reason for reason in (*stale.values(), foreign) if reason),
        gradient_notes=gradient_notes,
        baselines=baselines,
        skipped_baselines=skipped,
    )


def _read_baselines(
    folder: RunFolder, robustness: Mapping[str, Any]
) -> tuple[dict[str, dict[Column, TestScore]], dict[str, str]]:
    """Return the results of baselines by name, and why others are left out; none if they are of another evaluation.

    Raises:
        ValueError: If the file is damaged.
    """
    if not robustness.get("columns") or not os.path.lexists(folder.baselines):
        return {}, {}
    content, settings = read_json(folder.baselines), robustness["settings"]
    try:
        same_test = content["depends_on"]["test"] == robustness["depends_on"]["test"]
        names = [name for name in content["settings"] if name != "noise"]
        if not same_test or any(content["settings"][name] != settings.get(name) for name in names):
            return {}, {}
        found = {
            str(entry["name"]): dict(score for column in entry["columns"] for score in _scores(column))
            for entry in content["baselines"]
        }
        return found, dict(content["skipped"])
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"{folder.baselines} must hold the results of baselines, got a damaged entry ({type(error).__name__}: "
            f"{error}). Delete it and evaluate the run again."
        ) from error


def split_readable(paths: Sequence[Path], weights: str = "kept") -> tuple[list[Path], dict[Path, str]]:
    """The runs that can be read; and, with the reason, those that cannot or whose evaluation is out of date."""
    readable: list[Path] = []
    others: dict[Path, str] = {}
    for path in paths:
        try:
            run = read_run(path, weights)
        except ValueError as error:
            others[path] = str(error)
            continue
        readable.append(path)
        if run.stale and run.evaluation_error:
            others[path] = run.evaluation_error
    return readable, others


def _column(entry: Mapping[str, Any], metric: str = "accuracy") -> Column:
    return Column(str(entry["perturbation"]), float(entry["strength"] or 0.0), str(entry.get("unit", "")), metric)


def _scores(entry: Mapping[str, Any]) -> list[tuple[Column, TestScore]]:
    """Return the metrics of an entry: its scores, or the accuracy if it has one class for each sequence."""
    settings, moved = str(entry["settings"]), bool(entry.get("moved", True))
    if "scores" not in entry:
        draws = len(entry["draw_accuracies"])
        score = TestScore(
            value=float(entry["accuracy"]),
            by_sequence=tuple(int(digit, 36) / draws for digit in entry["correct"]),
            settings=settings,
            moved=moved,
            guess=float(entry.get("guess", 0.0)),
        )
        return [(_column(entry), score)]
    found = []
    for metric, content in entry["scores"].items():
        values = tuple(map(float, content["sequences"]))
        low, high = METRICS[metric].bounds
        if not values or not all(low <= value <= high for value in values):
            raise ValueError(f"{metric} is not within its bounds")
        score = TestScore(
            value=float(content["mean"]),
            by_sequence=values,
            settings=settings,
            moved=moved,
            guess=float(content["guess"]),
        )
        found.append((_column(entry, metric), score))
    return found


def _confusion(entry: Any) -> tuple[tuple[int, ...], ...] | None:
    """Return a square matrix of counts."""
    if entry is None:
        return None
    matrix = tuple(tuple(int(count) for count in row) for row in entry)
    if any(len(row) != len(matrix) for row in matrix) or any(count < 0 for row in matrix for count in row):
        raise ValueError("confusion is not a square matrix of counts")
    return matrix


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
