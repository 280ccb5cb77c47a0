"""Executes many runs: each is trained, evaluated and analysed, in this process, on workers or on a Dask cluster."""

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from noisyrnn import __version__
from noisyrnn.checks import check_choice, check_integer
from noisyrnn.files import write_json
from noisyrnn.locks import locked
from noisyrnn.pipeline.analyze import AnalyzeConfig, analyze_run
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.dependencies import check_same_data, check_same_settings
from noisyrnn.pipeline.devices import resolve_accelerator
from noisyrnn.pipeline.evaluate import EvaluateConfig, evaluate_run, is_current
from noisyrnn.pipeline.seeds import train_seeds
from noisyrnn.pipeline.train import run_path, train_run
from noisyrnn.pipeline.workers import SchedulerLostError, WorkerDiedError, run_on_cluster, run_tasks, threads_per_worker
from noisyrnn.progress import RunsBar
from noisyrnn.robustness import METRICS
from noisyrnn.run_folder import RunFolder, failure_message
from noisyrnn.threads import limit_threads
from noisyrnn.training.budget import planned_epochs
from noisyrnn.training.config import TrainConfig, check_precision
from noisyrnn.training.fit_seeds import in_common

BACKENDS = ("dask", "processes")
_WAIT = 20.0
"""Seconds to wait for another process in a run's folder: a worker of a killed command may still be there."""


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Where the runs of a command are executed, and how many at the same time. No result depends on it.

    Args:
        workers: Number of runs at the same time on this machine, at least 1; they share its cores.
        batch_seeds: Train all seeds of a model in one batched computation, as one task for a worker; on a GPU all
            models at the same time.
        backend: Where runs are executed: "processes" on this machine, or "dask" for a cluster.
        scheduler: Address of the Dask scheduler, for backend dask. Its workers must see the output folder and the data
            under the same paths.

    Raises:
        ValueError: If a value is out of range.
    """

    workers: int = 1
    batch_seeds: bool = False
    backend: str = "processes"
    scheduler: str | None = None

    def __post_init__(self) -> None:
        check_integer("workers", self.workers, minimum=1)
        check_choice("backend", self.backend, BACKENDS)
        if self.backend == "dask" and self.scheduler is None:
            raise ValueError("scheduler must be the address of a Dask scheduler with backend 'dask', got none.")

    @property
    def threads(self) -> int:
        """Threads of each run: its share of this machine's cores, or 1 on a cluster."""
        return threads_per_worker(self.workers) if self.backend == "processes" else 1

    @property
    def in_this_process(self) -> bool:
        """Whether runs follow one another in this process."""
        return self.workers == 1 and self.backend == "processes"


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs as they are sent to a worker.

    Args:
        configs: Settings of one run, or of several that are trained side by side.
        evaluations: Perturbations and draws of each evaluation.
        analysis: Theory diagnostics to compute; `None` for none.
        threads: Threads to use.
        context: Where and how to run.
    """

    configs: Sequence[TrainConfig]
    evaluations: Sequence[EvaluateConfig]
    analysis: AnalyzeConfig | None = None
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
                    for evaluation in group.evaluations:
                        evaluate_run(folder, evaluation, context)
                    if group.analysis is not None:
                        analyze_run(folder, group.analysis, context)
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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of many runs.

    Args:
        usable: Folders whose files may be read: trained with these settings, and evaluated as asked for if at all.
        failures: Reasons of the runs that failed or cannot be used.
    """

    usable: Sequence[Path]
    failures: Mapping[Path, str]


def execute_runs(groups: Sequence[RunGroup], execution: ExecutionConfig, context: RunContext) -> Outcome:
    """Execute the runs of `groups`. Finished runs are used again, unfinished ones resumed; a failed one stops no other.

    Args:
        groups: Runs in the order in which they start, each run in one group. Their threads and context are replaced.
        execution: Where they are executed.
        context: Where and how to run; progress is shown run by run where they follow one another in this process, else
            in one bar that counts the epochs of all runs.

    Raises:
        ValueError: If settings or data are wrong, or a run was trained on other data, before any run starts.
    """
    if execution.backend == "processes":  # a Dask worker may have a GPU that this machine lacks
        device = resolve_accelerator(context.accelerator)
        for group in groups:
            for run in group.configs:
                check_precision(run.precision, device)
        if execution.batch_seeds and device == "cuda":
            groups = _merged(groups)
    here = execution.in_this_process
    inner = context.replace(resume=True, show_progress=context.show_progress if here else False)
    sources = {run_path(run, context.output): (run, group) for group in groups for run in group.configs}
    lost = _unreadable({path: run for path, (run, _) in sources.items()}, context)
    sound = [path for path in sources if path not in lost]
    tasks = [
        replace(group, configs=runs, threads=execution.threads, context=inner)
        for group in groups
        if (runs := [run for run in group.configs if run_path(run, context.output) not in lost])
    ]
    evaluated = {path for path in sound if RunFolder(path).robustness.is_file()}  # they take no time again
    ended: dict[Path, str | None] = {}
    todo = {
        str(path): _epochs_planned(sources[path][0], context) for path in sound if path not in evaluated and not here
    }
    done = {path: _epochs_done(RunFolder(Path(path))) for path in todo}
    bar = RunsBar(todo, done=done, shown=context.show_progress if todo else False)
    try:
        if here:
            for task in tasks:
                ended |= run_group(task)
        else:
            ended = _run_elsewhere(execution, tasks, bar)
    finally:
        bar.close()
    failures = lost | {path: reason for path, reason in ended.items() if reason is not None}
    outdated = {}
    for path in sound:
        run, group = sources[path]
        for evaluation in group.evaluations:
            if path in failures and not is_current(RunFolder(path), evaluation, context.read_data(run)):
                file = RunFolder(path).robustness_file(evaluation.weights).name
                outdated[path] = f"{failures[path].rstrip('.')}. Its {file} is that of another evaluation."
    return Outcome(usable=[path for path in sound if path not in outdated], failures=failures | outdated)


def _merged(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Join the groups whose runs can be trained together and are measured alike: a GPU has room for all of them."""
    merged: list[RunGroup] = []
    for group in groups:
        for k, other in enumerate(merged):
            alike = in_common(other.configs[0]) == in_common(group.configs[0])
            if alike and replace(other, configs=()) == replace(group, configs=()):
                merged[k] = replace(other, configs=[*other.configs, *group.configs])
                break
        else:
            merged.append(group)
    return merged


def _unreadable(runs: Mapping[Path, TrainConfig], context: RunContext) -> dict[Path, str]:
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
            check_same_data(folder, context.read_data(config))
    return reasons


def _epochs_planned(config: TrainConfig, context: RunContext) -> int:
    """Return the number of epochs of a run; more than its settings state where few sequences need more."""
    return config.epochs if config.min_steps is None else planned_epochs(config, context.read_data(config))


def _epochs_done(folder: RunFolder) -> int:
    """Return the number of epochs that the metrics of a run hold; 0 if they cannot be read."""
    try:
        return len(folder.read_metrics()["epoch"])
    except ValueError:  # the run fails with the message
        return 0


def last_result(path: Path) -> tuple[int | None, str]:
    """Return the number of epochs of a run that has ended, and its results in a line; empty if it has none."""
    folder = RunFolder(path)
    try:
        config, summary = folder.read_config()["config"], folder.read_summary()
        columns = folder.read_result(folder.robustness).content.get("columns", [])
    except ValueError:  # the report shows the message
        return None, ""
    if summary["status"] != "finished":
        return None, ""
    accuracy, loss, found = summary.get("best_validation_accuracy"), summary.get("best_validation_loss"), list[str]()
    if accuracy is not None:
        found.append(f"validation {100 * accuracy:.1f} %")
    elif loss is not None:  # else there are no validation sequences
        found.append(f"validation loss {loss:.4g}")
    if columns and "accuracy" in columns[0]:
        found.append(f"test {100 * columns[0]['accuracy']:.1f} %")
    for metric, score in list(columns[0].get("scores", {}).items() if columns else ())[:1]:
        value = f"{100 * score['mean']:.1f} %" if METRICS[metric].unit == "%" else f"{score['mean']:.3g}"
        found.append(f"test {METRICS[metric].title} {value}")
    return int(summary["epochs"]), f"{config['label']} seed {config['seed']}: {', '.join(found)}"


def _run_elsewhere(execution: ExecutionConfig, tasks: Sequence[RunGroup], bar: RunsBar) -> dict[Path, str | None]:
    """Run groups on workers. If a worker dies, its runs are tried once more, one by one."""
    run_all = partial(run_tasks, workers=execution.workers, threads=execution.threads, on_epoch=bar.epoch)
    if execution.scheduler is not None and execution.backend == "dask":
        run_all = partial(run_on_cluster, scheduler=execution.scheduler)
    ended: dict[Path, str | None] = {}

    def take(task: RunGroup, failures: dict[Path, str | None] | WorkerDiedError) -> None:
        if not isinstance(failures, WorkerDiedError):
            ended.update(failures)
            for path in failures:
                epochs, result = last_result(path)
                bar.end(str(path), epochs=epochs, result=result)

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
