"""Trains several models, measures their robustness and writes one report."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from noisyrnn import __version__
from noisyrnn.checks import check_choice, check_integer
from noisyrnn.data import Dataset
from noisyrnn.files import WriteError, check_writable, write_json
from noisyrnn.locks import locked
from noisyrnn.models import MODELS, layer_options
from noisyrnn.models.options import merge_options
from noisyrnn.pipeline.analyze import AnalyzeConfig, analyze_run
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.dependencies import check_same_data, check_same_settings
from noisyrnn.pipeline.devices import resolve_accelerator
from noisyrnn.pipeline.evaluate import EvaluateConfig, evaluate_run, is_current
from noisyrnn.pipeline.seeds import train_seeds
from noisyrnn.pipeline.train import announce, run_path, train_run
from noisyrnn.pipeline.workers import SchedulerLostError, WorkerDiedError, run_on_cluster, run_tasks, threads_per_worker
from noisyrnn.progress import ProgressBar
from noisyrnn.run_folder import RunFolder, failure_message
from noisyrnn.threads import limit_threads
from noisyrnn.training.config import TrainConfig, check_precision
from noisyrnn.training.settings import recommended

BACKENDS = ("dask", "processes")
_WAIT = 20.0
"""Seconds to wait for another process in a run's folder: a worker of a killed comparison may still be there."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Settings of a comparison.

    Args:
        models: Models to compare; the others are tested against the first.
        seeds: Number of runs per model, with seeds 1, 2, …, at least 1.
        train: Settings of `TrainConfig` for every model (default: those recommended for the data set).
        evaluation: Perturbations and draws.
        analyze: Also compute theory diagnostics, with the default settings of `noisyrnn analyze`.
        workers: Number of runs at the same time on this machine, at least 1; they share its cores.
        batch_seeds: Train all seeds of a model in one batched computation, as one task for a worker.
        backend: Where runs are executed: "processes" on this machine, or "dask" for a cluster.
        scheduler: Address of the Dask scheduler, for backend dask. Its workers must see the output folder and the data
            under the same paths.

    Raises:
        ValueError: If a model is unknown, named twice, or a value is out of range.
    """

    models: Sequence[str]
    seeds: int = 3
    train: dict[str, Any] = field(default_factory=dict)
    evaluation: EvaluateConfig = field(default_factory=EvaluateConfig)
    analyze: bool = False
    workers: int = 1
    batch_seeds: bool = False
    backend: str = "processes"
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models must name at least one model, got none. See noisyrnn list.")
        for model in self.models:
            check_choice("model", model, MODELS)
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models must name each model once, got {', '.join(self.models)}.")
        check_integer("seeds", self.seeds, minimum=1)
        check_integer("workers", self.workers, minimum=1)
        check_choice("backend", self.backend, BACKENDS)
        if self.backend == "dask" and self.scheduler is None:
            raise ValueError("scheduler must be the address of a Dask scheduler with backend 'dask', got none.")

    @property
    def threads(self) -> int:
        """Threads of each run: its share of this machine's cores, or 1 on a cluster."""
        return threads_per_worker(self.workers) if self.backend == "processes" else 1

    def run_configs(self) -> list[TrainConfig]:
        """Return the settings of every run, seed by seed, so that a report is useful before the last run ends."""
        dataset = self.train.get("dataset", TrainConfig.dataset)
        options_of_any = {name for model in MODELS for name in layer_options(model)}
        for name in self.train:
            if name in options_of_any and not any(name in layer_options(model) for model in self.models):
                raise ValueError(f"{name} must be an option of one of the models, got {', '.join(self.models)}.")
        configs = []
        for seed in range(1, self.seeds + 1):
            for model in self.models:
                options = layer_options(model)
                shared = {k: v for k, v in self.train.items() if k in options or k not in options_of_any}
                settings = {**merge_options(recommended(dataset, model), shared), "model": model, "seed": seed}
                configs.append(TrainConfig.from_dict(settings))
        return configs


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs of a comparison, as they are sent to a worker.

    Args:
        configs: Settings of one run, or of several that differ only in the seed and are trained side by side.
        evaluation: Perturbations and draws.
        analyze: Whether to compute theory diagnostics as well.
        threads: Threads to use.
        context: Where and how to run.
    """

    configs: Sequence[TrainConfig]
    evaluation: EvaluateConfig
    analyze: bool = False
    threads: int = 1
    context: RunContext = field(default_factory=RunContext)


def run_group(group: RunGroup) -> dict[Path, str | None]:
    """Train, evaluate and, if asked for, analyse runs; continue those that were interrupted.

    Returns:
        Their folders, each with `None` or the message of its failure.
    """
    context, failures = group.context, dict[Path, str | None]()
    with limit_threads(group.threads):
        if len(group.configs) > 1:
            try:
                failures = train_seeds(group.configs, context, batch_seeds=True)
            except Exception as error:  # the memory may not hold them all, or one run's files are damaged
                name, reason = group.configs[0].shown_label, failure_message(error)
                notice = f"The runs of {name} could not be trained together and follow one another: {reason}"
                warnings.warn(notice, stacklevel=2)
        for config in group.configs:
            path = run_path(config, context.output)
            if failures.get(path) is not None:
                continue
            failures[path] = None
            try:
                with locked(path, wait=_WAIT):
                    folder = train_run(config, context)
                    evaluate_run(folder, group.evaluation, context)
                    if group.analyze:
                        analyze_run(folder, AnalyzeConfig(), context)
            except Exception as error:  # whatever it is, the other runs continue and the report shows it
                failures[path] = failure_message(error)
                note_failure(path, config, failure_message(error))
    return failures


def note_failure(path: Path, config: TrainConfig, reason: str) -> None:
    """Write what the report needs to show a failure: of the training, or of the evaluation of a finished run."""
    folder = RunFolder(path)
    # A full disk, damaged files, or another process in the folder: it is also returned.
    with suppress(OSError, ValueError), locked(folder.path):
        if not folder.config.is_file():
            settings = {**config.to_dict(), "label": config.shown_label}
            write_json(folder.config, {"version": __version__, "config": settings, "dataset": {}, "environment": {}})
        if not folder.finished:
            write_json(folder.summary, {"status": "failed", "error": reason})
        elif not folder.robustness.is_file():
            write_json(folder.robustness, {"error": reason, "columns": [], "examples": []})


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
    if config.backend == "processes":  # a Dask worker may have a GPU that this machine lacks
        device = resolve_accelerator(context.accelerator)
        for run in config.run_configs():
            check_precision(run.precision, device)
    in_this_process = config.workers == 1 and config.backend == "processes"
    shown, output = context.show_progress, context.output.resolve()
    context = replace(context, output=output, resume=True, show_progress=shown and in_this_process)
    runs = {run_path(run, output): run for run in config.run_configs()}
    first = next(iter(runs.values()))
    dataset = context.read_data(first)
    config.evaluation.for_data(dataset)
    announce(dataset, shown)
    check_writable(output)
    with locked(output):
        lost = _unreadable(runs, dataset)
        sound = {path: run for path, run in runs.items() if path not in lost}
        evaluated = {path for path in sound if RunFolder(path).robustness.is_file()}  # they take no time again
        groups = [[run] for run in sound.values()]
        if config.batch_seeds:
            groups = [[run for run in sound.values() if run.model == model] for model in config.models]
        tasks = [
            RunGroup(
                configs=group,
                evaluation=config.evaluation,
                analyze=config.analyze,
                threads=config.threads,
                context=context,
            )
            for group in groups
            if group
        ]
        ended: dict[Path, str | None] = {}
        bar = ProgressBar("runs", len(sound), done=len(evaluated), shown=shown and not in_this_process)
        try:
            if in_this_process:
                for task in tasks:
                    ended |= run_group(task)
            else:
                ended = _run_elsewhere(config, tasks, lambda path: None if path in evaluated else bar.advance())
        finally:
            bar.close()
        from noisyrnn.report import split_readable, write_report  # matplotlib, which the trainings need not wait for

        failures = lost | {path: reason for path, reason in ended.items() if reason is not None}
        outdated = {
            path: f"{failures[path].rstrip('.')}. Its robustness.json is that of another evaluation."
            for path in sound
            if path in failures and not is_current(RunFolder(path), config.evaluation, dataset)
        }
        failures |= outdated
        readable, unreadable = split_readable([path for path in sound if path not in outdated])
        failures = {**unreadable, **failures}
        if not readable:
            raise RuntimeError(f"No run can be read. The first: {next(iter(failures.values()))}")
        page = output / "report.html"
        title = f"{len(config.models)} models on {Path(first.dataset).name}"
        try:
            page = write_report(readable, output, title=title, command=command, failures=failures)
        except WriteError as error:
            failures[page] = str(error)
    return page, failures


def _unreadable(runs: Mapping[Path, TrainConfig], dataset: Dataset) -> dict[Path, str]:
    """Return the existing runs that cannot be read, or have settings of another one, with the reasons.

    Raises:
        ValueError: If one was trained on other data.
    """
    reasons = {}
    for path, config in runs.items():
        if os.path.lexists(path / "config.json"):
            try:
                folder = RunFolder.open(path)
                folder.read_summary()
                check_same_settings(folder, config)
            except ValueError as error:
                reasons[path] = str(error)
                continue
            check_same_data(folder, dataset)
    return reasons


def _run_elsewhere(
    config: CompareConfig, tasks: Sequence[RunGroup], done: Callable[[Path], None]
) -> dict[Path, str | None]:
    """Run groups on workers. If a worker dies, its runs are tried once more, one by one."""
    run_all = partial(run_tasks, workers=config.workers, threads=config.threads)
    if config.scheduler is not None and config.backend == "dask":
        run_all = partial(run_on_cluster, scheduler=config.scheduler)
    ended: dict[Path, str | None] = {}

    def take(task: RunGroup, failures: dict[Path, str | None] | WorkerDiedError) -> None:
        if not isinstance(failures, WorkerDiedError):
            ended.update(failures)
            for path in failures:
                done(path)

    reason = "The worker process died before the run ended; it may have run out of memory."
    runs = {run_path(run, task.context.output): replace(task, configs=[run]) for task in tasks for run in task.configs}
    try:
        run_all(run_group, tasks, take)
        for path, task in runs.items():
            if path not in ended:
                run_all(run_group, [task], take)
    except SchedulerLostError as error:
        reason = str(error)
    for path, task in runs.items():
        if path not in ended:
            note_failure(path, task.configs[0], reason)
            take(task, {path: reason})
    return ended
