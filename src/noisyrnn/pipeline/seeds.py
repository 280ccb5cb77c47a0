"""One model trained with several seeds, one run after another or side by side."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from noisyrnn.checks import check_number
from noisyrnn.pipeline.dependencies import check_same_data
from noisyrnn.pipeline.devices import make_fabric, processes, resolve_accelerator
from noisyrnn.pipeline.tracking import Tracking, check_logger
from noisyrnn.pipeline.train import (
    DataReader,
    announce,
    begin_run,
    build_model,
    describe,
    end_run,
    objective_of,
    open_run,
    train_run,
)
from noisyrnn.run_folder import RunFolder, check_writable, failure_message, locked
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.fit_seeds import check_alike, fit_seeds


@reproducible_threads()
def train_seeds(
    configs: Sequence[TrainConfig],
    *,
    batch_seeds: bool = False,
    output: Path = Path("runs"),
    data_dir: Path | None = None,
    resume: bool = False,
    accelerator: str = "auto",
    checkpoint_seconds: float = 30.0,
    show_progress: bool = False,
    logger: str = "csv",
    reader: DataReader | None = None,
) -> dict[Path, str | None]:
    """Train every run into its own folder, as `train_run` does. One that fails stops no other.

    Args:
        configs: Settings of the runs; side by side, they differ in the seed alone.
        batch_seeds: Whether to train side by side, so that the fused kernels take one batch of each run in one call.
        output: As for `train_run`.
        data_dir: As for `train_run`.
        resume: As for `train_run`; every run is resumed from its own checkpoint.
        accelerator: As for `train_run`.
        checkpoint_seconds: As for `train_run`.
        show_progress: As for `train_run`; side by side, one bar shows all.
        logger: As for `train_run`.
        reader: As for `train_run`; the runs share it.

    Returns:
        The runs' folders, each with `None`, or with the message of its failure.

    Raises:
        ValueError: As for `train_run`, before any run starts. Side by side, also if there are several processes or
            settings differ in more than the seed.
    """
    resolve_accelerator(accelerator)
    check_number("checkpoint_seconds", checkpoint_seconds, minimum=0.0)
    check_logger(logger)
    if batch_seeds and processes() > 1:
        raise ValueError(
            f"batch_seeds must be off where a run is spread over processes, got {processes()} of them. "
            "Start one process, or leave out --batch-seeds."
        )
    if batch_seeds:
        check_alike(configs)
    folders = [open_run(config, output, resume=resume) for config in configs]
    reader = reader or DataReader(data_dir)
    if batch_seeds:
        return _side_by_side(configs, folders, reader, resume, accelerator, checkpoint_seconds, show_progress, logger)
    ends: dict[Path, str | None] = {}
    for config, folder in zip(configs, folders, strict=True):
        try:
            train_run(
                config,
                output=output,
                reader=reader,
                resume=resume,
                accelerator=accelerator,
                checkpoint_seconds=checkpoint_seconds,
                show_progress=show_progress,
                logger=logger,
            )
            ends[folder.path] = None
        except (RuntimeError, MemoryError) as error:
            ends[folder.path] = failure_message(error)
    return ends


def _side_by_side(
    configs: Sequence[TrainConfig],
    folders: Sequence[RunFolder],
    reader: DataReader,
    resume: bool,
    accelerator: str,
    checkpoint_seconds: float,
    show_progress: bool,
    logger: str,
) -> dict[Path, str | None]:
    """Those of the runs that have not finished yet, in one process."""
    dataset = reader(configs[0])
    for folder in folders:
        if folder.config.is_file():
            check_same_data(folder, dataset)
    todo = {
        folder: config
        for folder, config in zip(folders, configs, strict=True)
        if not (folder.config.is_file() and folder.finished)
    }
    ends: dict[Path, str | None] = {folder.path: None for folder in folders}
    if not todo:
        return ends
    announce(dataset, show_progress)
    for folder in todo:
        check_writable(folder.path)
    models = [build_model(config, dataset) for config in todo.values()]
    fabric = make_fabric(configs[0].precision, accelerator)
    data = describe(dataset)
    with ExitStack() as locks:
        for folder in todo:
            locks.enter_context(locked(folder.path))
        for folder, config in todo.items():
            begin_run(folder, config, data)
        trackings = [Tracking(logger, folder, config) for folder, config in todo.items()]
        try:
            outcomes = fit_seeds(
                models,
                dataset,
                list(todo.values()),
                objective=objective_of(configs[0]),
                folders=list(todo),
                resume=resume,
                checkpoint_seconds=checkpoint_seconds,
                show_progress=show_progress,
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
                ends[folder.path] = str(outcome)
    return ends
