"""Trains several models, measures their robustness and writes one report."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from noisyrnn.checks import check_choice, check_integer
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import check_regular
from noisyrnn.files import WriteError, check_writable
from noisyrnn.locks import locked
from noisyrnn.models import MODELS, layer_options
from noisyrnn.pipeline.analyze import AnalyzeConfig
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.evaluate import EvaluateConfig
from noisyrnn.pipeline.execution import ExecutionConfig, RunGroup, execute_runs
from noisyrnn.pipeline.foreign import evaluate_foreign, is_foreign
from noisyrnn.pipeline.train import announce
from noisyrnn.pipeline.variants import Variant, read_variants
from noisyrnn.run_folder import RunFolder, changed_names, failure_message, listed
from noisyrnn.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class CompareConfig(ExecutionConfig):
    """Settings of a comparison.

    Args:
        models: Models to compare; the others are tested against the first. `mine.py:build` is a function of a Python
            file that returns a trained model of any library for a data set.
        variants: Models or published experiments with settings of their own, in place of models:
            "noisy:additive=0, noisy:additive=0.1:step_size=0.3, lstm", or a list of such texts or of mappings.
        seeds: Number of runs per model, with seeds 1, 2, …, at least 1.
        train: Settings of `TrainConfig` for every model (default: those recommended for the data set).
        evaluation: Perturbations and draws.
        analyze: Also compute theory diagnostics, with the default settings of `noisyrnn analyze`.

    Raises:
        ValueError: If a model is unknown, named twice, or a value is out of range.
    """

    models: Sequence[str] = ()
    variants: Sequence[Any] | str = ()
    seeds: int = 3
    train: dict[str, Any] = field(default_factory=dict)
    evaluation: EvaluateConfig = field(default_factory=EvaluateConfig)
    analyze: bool = False

    def __post_init__(self) -> None:
        if not self.models and not self.variants:
            raise ValueError("models must name at least one model, got none. See noisyrnn list.")
        if self.models and self.variants:
            raise ValueError(f"models must be left out with variants, got {', '.join(self.models)}.")
        for model in self.models:
            if is_foreign(model):
                continue
            if model.endswith(".py"):
                raise ValueError(f"model {model!r} must name a function of the file too. Write {model}:build.")
            check_choice("model", model, MODELS)
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models must name each model once, got {', '.join(self.models)}.")
        check_integer("seeds", self.seeds, minimum=1)
        if self.evaluation.weights != "kept":
            raise ValueError(f"weights must be 'kept' in a comparison, got {self.evaluation.weights!r}.")
        super().__post_init__()

    @property
    def rows(self) -> tuple[Variant, ...]:
        """The rows of the comparison, in order."""
        return read_variants(self.variants or list(self.models))

    def run_configs(self) -> list[TrainConfig]:
        """Return the settings of every run, seed by seed, so that a report is useful before the last run ends."""
        rows = self.own_rows
        if not rows:
            raise ValueError(f"models must name at least one model of noisyrnn, got {', '.join(self.models)}.")
        options_of_any = {name for model in MODELS for name in layer_options(model)}
        for name in self.train:
            if name in options_of_any and not any(name in layer_options(row.model) for row in rows):
                raise ValueError(f"{name} must be an option of one of the models, got {', '.join(self._names)}.")
        runs = [row.run_config(self.train, seed) for seed in range(1, self.seeds + 1) for row in rows]
        known: list[tuple[dict[str, Any], str]] = []
        for run in runs[: len(rows)]:
            settings = run.to_dict() | {"label": None}
            same = next((label for other, label in known if other == settings), None)
            if same is not None:
                raise ValueError(f"variants must differ in their settings, got {same!r} and {run.shown_label!r}.")
            known.append((settings, run.shown_label))
        data = list(dict.fromkeys((run.dataset, run.values_per_step) for run in runs))
        if len(data) > 1:
            names = " and ".join(f"{name} with {values} values per step" for name, values in data[:2])
            raise ValueError(f"variants must share one data set, got {names}. Write one comparison for each.")
        readings = list(dict.fromkeys((replace(run.reading, missing=None), run.shown_label) for run in runs))
        if len({reading for reading, _ in readings}) > 1:
            one, other = next((a, b) for a, b in itertools.pairwise(readings) if a[0] != b[0])
            differing = changed_names(asdict(one[0]), asdict(other[0]))
            raise ValueError(
                f"variants must read their data alike, got another {listed(differing)} for {one[1]!r} than for "
                f"{other[1]!r}. Write one comparison for each."
            )
        return runs

    @property
    def own_rows(self) -> tuple[Variant, ...]:
        """The rows with models of this package."""
        return tuple(row for row in self.rows if row.foreign is None)

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(row.model for row in self.own_rows))


def compare(
    config: CompareConfig, context: RunContext | None = None, *, command: str | None = None
) -> tuple[Path, dict[Path, str]]:
    """Train and evaluate every model with every seed, then write `report.html`, `table.md` and `comparison.json`.

    With analyses there is an `analysis.md` too. Finished runs are used again, unfinished ones are resumed. A failed run
    is shown in the report and stops no other.

    Args:
        config: Settings.
        context: Where and how to run; no result depends on it.
        command: The command that the report shows.

    Returns:
        The page, and the failed runs with their messages; the page itself is among them if it could not be written.

    Raises:
        ValueError: If settings or data are wrong, a run was trained on other data, or another comparison works in
            `context.output`, before any run starts.
        RuntimeError: If no run can be read.
    """
    context = context or RunContext()
    context = context.replace(output=context.output.resolve())
    output, runs = context.output, config.run_configs()
    dataset = context.read_data(runs[0])
    config.evaluation.for_data(dataset)
    if config.analyze:
        for run in {run.reading: run for run in runs}.values():
            check_regular("dataset", context.read_data(run).train)
    announce(dataset, context.show_progress)
    check_writable(output)
    for row in config.rows:
        if row.foreign is not None:
            row.foreign.function()  # before any training
    by_group = [[run] for run in runs]
    if config.batch_seeds:
        labels = dict.fromkeys(run.shown_label for run in runs)
        by_group = [[run for run in runs if run.shown_label == label] for label in labels]
    analysis = AnalyzeConfig() if config.analyze else None
    groups = [RunGroup(configs=group, evaluations=[config.evaluation], analysis=analysis) for group in by_group]
    with locked(output):
        outcome = execute_runs(groups, config, context)
        from noisyrnn.report import split_readable, write_report  # matplotlib, which the trainings need not wait for

        foreign, failed = _evaluate_foreign(config, dataset, context)
        readable, unreadable = split_readable([*outcome.usable, *foreign])
        failures = {**unreadable, **outcome.failures, **failed}
        places = {row.shown_label: place for place, row in enumerate(config.rows)}
        readable.sort(key=lambda path: places.get(RunFolder(path).read_config()["config"]["label"], len(places)))
        if not readable:
            raise RuntimeError(f"No run can be read. The first: {next(iter(failures.values()))}")
        page = output / "report.html"
        kind = "variants" if config.variants else "models"
        title = f"{len(config.rows)} {kind} on {Path(runs[0].dataset).name}"
        try:
            page = write_report(readable, output, title=title, command=command, failures=failures)
        except WriteError as error:
            failures[page] = str(error)
    return page, failures


def _evaluate_foreign(
    config: CompareConfig, dataset: Dataset, context: RunContext
) -> tuple[list[Path], dict[Path, str]]:
    """Build and measure the models of Python files; return their folders, and the failed ones with their messages."""
    folders, failures = [], {}
    for seed in range(1, config.seeds + 1):
        for row in config.rows:
            if row.foreign is None:
                continue
            try:
                folders.append(evaluate_foreign(row.foreign, seed, dataset, config.evaluation, context).path)
            except Exception as error:  # whatever it is, the report shows the other rows
                failures[context.output / f"{row.shown_label} seed {seed}"] = failure_message(error)
    return folders, failures
