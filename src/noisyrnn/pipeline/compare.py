"""The main job: train several models, measure how robust they are, and write one report."""

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import torch

from noisyrnn import __version__
from noisyrnn.checks import check_choice, check_integer
from noisyrnn.data import Dataset
from noisyrnn.models import MODELS, layer_options
from noisyrnn.pipeline.analyze import AnalyzeConfig, analyze_run
from noisyrnn.pipeline.dependencies import check_same_data
from noisyrnn.pipeline.devices import resolve_accelerator
from noisyrnn.pipeline.evaluate import EvaluateConfig, evaluate_run, is_current
from noisyrnn.pipeline.seeds import train_seeds
from noisyrnn.pipeline.tracking import check_logger
from noisyrnn.pipeline.train import DataReader, announce, check_same_settings, run_path, train_run
from noisyrnn.pipeline.workers import SchedulerLostError, WorkerDiedError, run_on_cluster, run_tasks
from noisyrnn.progress import ProgressBar
from noisyrnn.run_folder import RunFolder, WriteError, check_writable, failure_message, locked, write_json
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.settings import recommended

BACKENDS = ("dask", "processes")
_DIED = "The worker process died before the run ended; it may have run out of memory."
_WAIT = 20.0
"""Seconds to wait for another process in a run's folder: a worker of a killed comparison may still be there."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Settings of a comparison.

    Args:
        models: Which networks; the first is what the others are tested against.
        seeds: Number of seeds, 1 to that number, at least 1.
        train: Settings of `TrainConfig` for every model, over those recommended for the data set.
        evaluation: Perturbations and draws.
        analyze: Whether to compute theory diagnostics as well, with the default settings of `noisyrnn analyze`.
        workers: Runs at a time on this machine, at least 1; the cores are shared out between them.
        batch_seeds: Whether all seeds of a model are trained side by side, as one piece of work for a worker.
        backend: "processes" on this machine, or "dask".
        scheduler: Address of the Dask scheduler; its workers must see `output` and the data under the same paths.
        accelerator: "auto" (the GPU where there is one), "cpu" or "cuda".
        logger: Where the metrics go as well: "csv" (nowhere else), "tensorboard" or "mlflow".

    Raises:
        ValueError: If a model is unknown, named twice, a number is out of range, or the logger's package is missing.
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
    accelerator: str = "auto"
    logger: str = "csv"

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
        if self.backend == "processes":  # a Dask worker may have a GPU that this machine lacks
            resolve_accelerator(self.accelerator)
        check_logger(self.logger)

    @property
    def threads(self) -> int:
        """Threads of each run: its share of this machine's cores, or one on a cluster, whose tasks run side by side."""
        return max(1, joblib.cpu_count() // self.workers) if self.backend == "processes" else 1

    def run_configs(self) -> list[TrainConfig]:
        """The settings of every run, seed by seed, so that a report is of use before the last one is done."""
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
                settings = {**recommended(dataset, model), **shared, "model": model, "seed": seed}
                configs.append(TrainConfig.from_dict(settings))
        return configs


@dataclass(frozen=True, kw_only=True)
class RunTask:
    """One run of a comparison, as it is sent to a worker.

    Args:
        config: What is trained.
        evaluation: How it is measured.
        analyze: Whether it is analysed too.
        output: Folder of the runs.
        reader: Reads the data; the stages of a run share it, and in one process the runs do.
        threads: Threads to use.
        accelerator: See `CompareConfig`.
        logger: See `CompareConfig`.
        show_progress: Whether to show a bar.
    """

    config: TrainConfig
    evaluation: EvaluateConfig
    output: Path
    analyze: bool = False
    reader: DataReader = field(default_factory=DataReader)
    threads: int = 1
    accelerator: str = "cpu"
    logger: str = "csv"
    show_progress: bool = False

    @property
    def path(self) -> Path:
        """The run's folder."""
        return run_path(self.config, self.output)


def run_task(task: RunTask) -> tuple[Path, str | None]:
    """Train, evaluate and, if asked for, analyse one run, going on from where it was.

    Returns:
        Its folder, and the message of its failure, if it failed.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(task.threads)
    try:
        with locked(task.path, wait=_WAIT):
            _run_stages(task)
    except Exception as error:  # whatever it is, the other runs go on and the report shows it
        reason = failure_message(error)
        note_failure(task, reason)
        return task.path, reason
    finally:
        torch.set_num_threads(before)
    return task.path, None


def _run_stages(task: RunTask) -> None:
    folder = train_run(
        task.config,
        output=task.output,
        reader=task.reader,
        resume=True,
        accelerator=task.accelerator,
        show_progress=task.show_progress,
        logger=task.logger,
    )
    evaluate_run(
        folder,
        task.evaluation,
        reader=task.reader,
        accelerator=task.accelerator,
        show_progress=task.show_progress,
    )
    if task.analyze:
        analyze_run(
            folder,
            AnalyzeConfig(),
            reader=task.reader,
            accelerator=task.accelerator,
            show_progress=task.show_progress,
        )


def run_task_group(tasks: Sequence[RunTask]) -> list[tuple[Path, str | None]]:
    """As `run_task`, for one task, or for several that differ in the seed alone: they are trained side by side."""
    if len(tasks) == 1:
        return [run_task(tasks[0])]
    first = tasks[0]
    before = torch.get_num_threads()
    torch.set_num_threads(first.threads)
    try:
        failures = train_seeds(
            [task.config for task in tasks],
            batch_seeds=True,
            output=first.output,
            reader=first.reader,
            resume=True,
            accelerator=first.accelerator,
            show_progress=first.show_progress,
            logger=first.logger,
        )
    except Exception as error:  # the memory may not hold them all, or one run's files are damaged
        name, reason = first.config.shown_label, failure_message(error)
        notice = f"The runs of {name} could not be trained together and follow one another: {reason}"
        warnings.warn(notice, stacklevel=2)
        return [run_task(task) for task in tasks]
    finally:
        torch.set_num_threads(before)
    ends: list[tuple[Path, str | None]] = []
    for task in tasks:
        failure = failures[task.path]
        ends.append(run_task(task) if failure is None else (task.path, failure))
    return ends


def note_failure(task: RunTask, reason: str) -> None:
    """Leave what the report needs to show a failure: of the training, or of the evaluation of a finished run."""
    folder = RunFolder(task.path)
    # A full disk, damaged files, or another process in the folder: it is also returned.
    with suppress(OSError, ValueError), locked(folder.path):
        if not folder.config.is_file():
            settings = {**task.config.to_dict(), "label": task.config.shown_label}
            write_json(folder.config, {"version": __version__, "config": settings, "dataset": {}, "environment": {}})
        if not folder.finished:
            write_json(folder.summary, {"status": "failed", "error": reason})
        elif not folder.robustness.is_file():
            write_json(folder.robustness, {"error": reason, "columns": [], "examples": []})


def compare(
    config: CompareConfig,
    *,
    output: Path = Path("runs"),
    data_dir: Path | None = None,
    command: str | None = None,
    show_progress: bool = False,
) -> tuple[Path, dict[Path, str]]:
    """Train and evaluate every model with every seed, then write `report.html`, `table.md` and `comparison.json`.

    With analyses there is an `analysis.md` too.

    Finished runs are used again, unfinished ones are resumed. A failed run is shown in the report and stops no other.

    Args:
        config: Settings.
        output: Folder of the runs and the report.
        data_dir: Where to look for data first.
        command: What the report names as the way to repeat it.
        show_progress: Whether to show progress.

    Returns:
        The page, and the failed runs with their messages; the page itself is among them if it could not be written.

    Raises:
        ValueError: If settings or data are wrong, a run was trained on other data, or another comparison works in
            `output`, before any run starts.
        RuntimeError: If no run can be read.
    """
    configs = config.run_configs()
    output = output.resolve()
    data_dir = None if data_dir is None else data_dir.resolve()
    reader = DataReader(data_dir)
    dataset = reader(configs[0])
    config.evaluation.for_data(dataset)
    announce(dataset, show_progress)
    check_writable(output)
    one_by_one = config.workers == 1 and config.backend == "processes"
    tasks = [
        RunTask(
            config=run,
            evaluation=config.evaluation,
            analyze=config.analyze,
            output=output,
            reader=reader,
            threads=config.threads,
            accelerator=config.accelerator,
            logger=config.logger,
            show_progress=show_progress and one_by_one,
        )
        for run in configs
    ]
    with locked(output):
        lost = _unreadable(tasks, dataset)
        failures = dict(lost)
        sound = [task for task in tasks if task.path not in failures]
        made = {task.path for task in sound if RunFolder(task.path).robustness.is_file()}  # they take no time again
        bar = ProgressBar("runs", len(sound), done=len(made), shown=show_progress and not one_by_one)
        try:
            failures |= _run_all(config, sound, lambda path: None if path in made else bar.advance())
        finally:
            bar.close()
        from noisyrnn.report import split_readable, write_report  # matplotlib, which the trainings need not wait for

        title = f"{len(config.models)} models on {Path(configs[0].dataset).name}"
        outdated = {
            task.path: f"{failures[task.path].rstrip('.')}. Its robustness.json is that of another evaluation."
            for task in sound
            if task.path in failures and not is_current(RunFolder(task.path), task.evaluation, dataset)
        }
        failures |= outdated
        shown = [task.path for task in tasks if task.path not in lost and task.path not in outdated]
        readable, unreadable = split_readable(shown)
        failures = {**unreadable, **failures}
        if not readable:
            raise RuntimeError(f"No run can be read. The first: {next(iter(failures.values()))}")
        page = output / "report.html"
        try:
            page = write_report(readable, output, title=title, command=command, failures=failures)
        except WriteError as error:
            failures[page] = str(error)
    return page, failures


def _unreadable(tasks: Sequence[RunTask], dataset: Dataset) -> dict[Path, str]:
    """The runs that are there already and cannot be read, or have settings of another one, and why.

    Raises:
        ValueError: If one was trained on other data.
    """
    found = {}
    for task in tasks:
        path = task.path
        if os.path.lexists(path / "config.json"):
            try:
                folder = RunFolder.open(path)
                folder.read_summary()
                check_same_settings(folder, task.config)
            except ValueError as error:
                found[path] = str(error)
                continue
            check_same_data(folder, dataset)
    return found


def _run_all(config: CompareConfig, tasks: Sequence[RunTask], done: Callable[[Path], None]) -> dict[Path, str]:
    """Run every task; where a worker dies, its tasks are tried once more, one by one."""
    ended: dict[Path, str | None] = {}
    pieces = [[task] for task in tasks]
    if config.batch_seeds:
        pieces = [[task for task in tasks if task.config.model == model] for model in config.models]

    def take(piece: Sequence[RunTask], ends: list[tuple[Path, str | None]] | WorkerDiedError) -> None:
        for path, reason in [] if isinstance(ends, WorkerDiedError) else ends:
            ended[path] = reason
            done(path)

    reason = _DIED
    try:
        _spread(config, pieces, take)
        for task in tasks:
            if task.path not in ended:
                _spread(config, [[task]], take)
    except SchedulerLostError as error:
        reason = str(error)
    for task in tasks:
        if task.path not in ended:
            note_failure(task, reason)
            ended[task.path] = reason
            done(task.path)
    return {path: reason for path, reason in ended.items() if reason is not None}


def _spread(config: CompareConfig, pieces: Sequence[Sequence[RunTask]], take: Callable[[Any, Any], None]) -> None:
    """Run pieces on the back end, and call `take` with each and its end, or the error that its worker died."""
    if config.backend == "dask":
        assert config.scheduler is not None
        run_on_cluster(run_task_group, pieces, take, scheduler=config.scheduler)
    else:
        run_tasks(run_task_group, pieces, take, workers=config.workers, threads=config.threads)
