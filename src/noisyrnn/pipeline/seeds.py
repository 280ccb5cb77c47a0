"""Trains several runs, one after another or side by side."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from noisyrnn.files import check_writable
from noisyrnn.locks import locked
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.dependencies import check_same_data
from noisyrnn.pipeline.devices import make_fabric, processes, resolve_accelerator
from noisyrnn.pipeline.tracking import Tracking
from noisyrnn.pipeline.train import (
    announce,
    begin_run,
    build_model,
    describe,
    end_run,
    objective_of,
    open_run,
    train_run,
)
from noisyrnn.run_folder import RunFolder, failure_message
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.config import TrainConfig, check_precision
from noisyrnn.training.fit_seeds import check_together, fit_seeds


@reproducible_threads()
def train_seeds(
    configs: Sequence[TrainConfig], context: RunContext | None = None, *, batch_seeds: bool = False
) -> dict[Path, str | None]:
    """Train every run into its own folder, as `train_run` does. One that fails stops no other.

    Args:
        configs: Settings of the runs; with `batch_seeds` on the same data, in the same precision.
        context: Where and how to train; no result depends on it. With `batch_seeds` one progress bar shows all runs.
        batch_seeds: Train all runs side by side: the fused kernels take one batch of each run that differs in the seed
            alone in one call; others take turns, on a GPU at the same time.

    Returns:
        The runs' folders, each with `None`, or with the message of its failure.

    Raises:
        ValueError: As for `train_run`, before any run starts. With `batch_seeds`, also if there are several processes
            or their data or precisions differ.
    """
    context = context or RunContext()
    device = resolve_accelerator(context.accelerator)
    for config in configs:
        check_precision(config.precision, device)
    if batch_seeds and processes() > 1:
        raise ValueError(
            f"batch_seeds must be off where a run is spread over processes, got {processes()} of them. "
            "Start one process, or leave out --batch-seeds."
        )
    if batch_seeds:
        check_together(configs)
    folders = [open_run(config, context) for config in configs]
    if batch_seeds:
        return _train_side_by_side(configs, folders, context)
    failures: dict[Path, str | None] = {}
    for config, folder in zip(configs, folders, strict=True):
        try:
            train_run(config, context)
            failures[folder.path] = None
        except (RuntimeError, MemoryError) as error:
            failures[folder.path] = failure_message(error)
    return failures


def _train_side_by_side(
    configs: Sequence[TrainConfig], folders: Sequence[RunFolder], context: RunContext
) -> dict[Path, str | None]:
    """Train the unfinished runs in one process."""
    dataset = context.read_data(configs[0])
    for folder in folders:
        if folder.config.is_file():
            check_same_data(folder, dataset)
    todo = {
        folder: config
        for folder, config in zip(folders, configs, strict=True)
        if not (folder.config.is_file() and folder.finished)
    }
    failures: dict[Path, str | None] = {folder.path: None for folder in folders}
    if not todo:
        return failures
    objective = objective_of(configs[0], dataset)
    announce(dataset, context.show_progress)
    for folder in todo:
        check_writable(folder.path)
    models = [build_model(config, dataset) for config in todo.values()]
    fabric = make_fabric(configs[0].precision, context.accelerator)
    data = describe(dataset)
    with ExitStack() as locks:
        for folder in todo:
            locks.enter_context(locked(folder.path))
        for folder, config in todo.items():
            begin_run(folder, config, data)
        trackings = [Tracking(context.logger, folder, config) for folder, config in todo.items()]
        try:
            outcomes = fit_seeds(
                models,
                dataset,
                list(todo.values()),
                objective=objective,
                folders=list(todo),
                resume=context.resume,
                checkpoint_seconds=context.checkpoint_seconds,
                keep_epochs=context.keep_epochs,
                show_progress=context.show_progress,
                fabric=fabric,
                on_epochs=trackings,
            )
        except BaseException as error:  # not the fault of one run
            for folder, model, tracking in zip(todo, models, trackings, strict=True):
                tracking.close(error)
                if isinstance(error, RuntimeError | MemoryError):
                    end_run(folder, model, error)
            raise
        for folder, model, tracking, outcome in zip(todo, models, trackings, outcomes, strict=True):
            tracking.close(outcome)
            end_run(folder, model, outcome)
            if isinstance(outcome, RuntimeError):
                failures[folder.path] = str(outcome)
    return failures
