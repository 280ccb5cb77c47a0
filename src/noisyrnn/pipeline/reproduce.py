"""Repeats a published table: trains its rows, measures them at the published strengths, and compares cell by cell."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noisyrnn.checks import check_choice, check_flag, check_integer
from noisyrnn.files import WriteError, check_writable
from noisyrnn.locks import locked
from noisyrnn.pipeline.analyze import AnalyzeConfig
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.evaluate import EvaluateConfig
from noisyrnn.pipeline.execution import ExecutionConfig, RunGroup, execute_runs
from noisyrnn.pipeline.published_tables import read_reproduction
from noisyrnn.pipeline.train import announce, run_path
from noisyrnn.published_table import Reproduction, ReproductionRow
from noisyrnn.robustness import build_perturbation
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.config import Precision, TrainConfig


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(ExecutionConfig):
    """Settings of a reproduction.

    Args:
        table: Published table to repeat, or a .toml file of the same form; `noisyrnn list` shows all.
        seeds: Number of runs of each row, with seeds 1, 2, …, at least 1. A verdict needs at least 3.
        rows: Labels of the rows to repeat (default: all).
        precision: Floating-point precision of the trainings: "32-true", "64-true" or "bf16-mixed" (default: that of
            each row, "32-true" where it states none).
        finished_only: Train nothing: measure and report the runs whose training has finished.

    Raises:
        ValueError: If the table or a row is unknown, or a value is out of range.
    """

    table: str
    seeds: int = 3
    rows: Sequence[str] | None = None
    precision: Precision | None = None
    finished_only: bool = False
    reproduction: Reproduction = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reproduction", read_reproduction(self.table))
        labels = [row.label for row in self.reproduction.rows]
        if self.rows is not None:
            for label in self.rows:
                check_choice("row", label, labels)
        check_integer("seeds", self.seeds, minimum=1)
        check_flag("finished_only", self.finished_only)
        super().__post_init__()
        for row in self.chosen_rows:  # a wrong setting or strength fails here
            self.run_config(row, 1)
            self.evaluations(row.dataset)

    @property
    def chosen_rows(self) -> list[ReproductionRow]:
        """The rows to repeat, in the order of the table."""
        return [row for row in self.reproduction.rows if self.rows is None or row.label in self.rows]

    def run_config(self, row: ReproductionRow, seed: int) -> TrainConfig:
        """Return the settings of one training of a row."""
        precision = {} if self.precision is None else {"precision": self.precision}
        return TrainConfig.from_dict({**row.train, "seed": seed, **precision})

    def evaluations(self, dataset: str) -> list[EvaluateConfig]:
        """Return the evaluations of each run: the kept weights under everything, the last epoch's under noise."""
        strengths, numbers = self.reproduction.strengths[dataset], dict[str, Any](self.reproduction.evaluation)
        kept = EvaluateConfig(strengths=strengths, **numbers)
        noises = {name: values for name, values in (kept.strengths or {}).items() if not _is_attack(name)}
        return [kept, EvaluateConfig(strengths=noises, weights="last", **numbers)]


def _is_attack(name: str) -> bool:
    """Whether the perturbation called `name` is an attack."""
    return build_perturbation(name, 0.0, value_range=(0.0, 1.0)).is_attack


def reproduce(
    config: ReproduceConfig, context: RunContext | None = None, *, command: str | None = None
) -> tuple[Path, dict[Path, str]]:
    """Train the rows of a published table, measure them, and write `reproduction.html`, `table.md` and its JSON file.

    Finished runs are used again, unfinished ones are resumed; `noisyrnn train --experiment` uses the same folders. A
    run that fails is shown on the page and stops no other.

    Args:
        config: Settings.
        context: Where and how to run; no result depends on it.
        command: The command that the page shows.

    Returns:
        The page, and the failed runs with their messages; the page itself is among them if it could not be written.

    Raises:
        ValueError: If settings or data are wrong, a run was trained on other data, another command works in
            `context.output`, or no run has finished with `finished_only`.
        RuntimeError: If no run can be read.
    """
    context = context or RunContext()
    context = context.replace(output=context.output.resolve())
    output, rows = context.output, config.chosen_rows
    runs = [[config.run_config(row, seed) for seed in range(1, config.seeds + 1)] for row in rows]
    if config.finished_only:
        runs = [[run for run in of_row if _is_finished(run, output)] for of_row in runs]
        if not any(runs):
            raise ValueError(f"finished_only needs a finished run, got none in {str(output)!r}. Leave it out to train.")
    for run in {run.dataset: run for of_row in reversed(runs) for run in reversed(of_row)}.values():
        dataset = context.read_data(run)
        announce(dataset, context.show_progress)
    check_writable(output)
    by_group = runs
    if not config.batch_seeds:  # seed by seed, so that a page is useful before the last run ends
        by_group = [[of_row[k]] for k in range(config.seeds) for of_row in runs if k < len(of_row)]
    groups = [RunGroup(configs=group, evaluations=config.evaluations(group[0].dataset)) for group in by_group if group]
    drawn = [of_row[:1] for row, of_row in zip(rows, runs, strict=True) if row.label in config.reproduction.landscapes]
    landscape = AnalyzeConfig(diagnostics=["landscape"])
    with locked(output):
        outcome = execute_runs(groups, config, context)
        usable = set(outcome.usable)
        shown = [run for run in drawn if run and run_path(run[0], output) in usable - set(outcome.failures)]
        pictures = [RunGroup(configs=run, evaluations=[], analysis=landscape) for run in shown]
        drawings = execute_runs(pictures, config, context)
        from noisyrnn.report import split_readable, write_reproduction  # matplotlib, which trainings need not wait for

        kept, unreadable = split_readable(outcome.usable)
        readable, others = split_readable(kept, "last")
        failures = {**unreadable, **others, **outcome.failures, **drawings.failures}
        if not readable:
            raise RuntimeError(f"No run can be read. The first: {next(iter(failures.values()))}")
        paths = [[path for run in of_row if (path := run_path(run, output)) in readable] for of_row in runs]
        page = output / "reproduction.html"
        try:
            page = write_reproduction(
                config.reproduction, list(zip(rows, paths, strict=True)), output, command=command, failures=failures
            )
        except WriteError as error:
            failures[page] = str(error)
    return page, failures


def _is_finished(run: TrainConfig, output: Path) -> bool:
    folder = RunFolder(run_path(run, output))
    try:
        return folder.config.is_file() and folder.finished
    except ValueError:  # damaged: it is not trained, and the page shows the reason
        return True
