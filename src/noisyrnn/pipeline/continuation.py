"""Resumes a run from its folder alone, and continues one with more epochs."""

from dataclasses import replace

from noisyrnn.checks import check_integer
from noisyrnn.locks import locked
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.dependencies import check_same_data, run_config
from noisyrnn.pipeline.devices import processes
from noisyrnn.pipeline.train import begin_run, run_path, train_run
from noisyrnn.progress import resolve_shown, tell
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.checkpoint import read_settings, trained_epochs, write_longer
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.schedules import learning_rate_at


def settings_of_run(folder: RunFolder, *, epochs: int | None = None) -> TrainConfig:
    """Return the settings with which a run can be continued.

    Those of a longer run state what the number of sequences made of the settings of the shorter one, such as the epochs
    at which the learning rate decays: they stay as they are.

    Args:
        folder: The run.
        epochs: Epochs in all; `None` for those of the run.

    Raises:
        ValueError: If the files cannot be read, or `epochs` are fewer than those of the run.
    """
    config = fitted = run_config(folder)
    if folder.checkpoint.is_file():  # config.json holds the label that is shown, also where none was set
        fitted = TrainConfig.from_dict(read_settings(folder.checkpoint))
        config = replace(config, label=fitted.label)
    if epochs is None:
        return config
    check_integer("epochs", epochs, minimum=1)
    if epochs in (config.epochs, fitted.epochs):
        return config
    if epochs < fitted.epochs:
        raise ValueError(f"epochs must be at least the {fitted.epochs} of {folder.path}, got {epochs}.")
    return replace(fitted, epochs=epochs)


def continue_run(folder: RunFolder, context: RunContext | None = None, *, epochs: int | None = None) -> RunFolder:
    """Resume an unfinished run in its folder, or continue a run up to `epochs` in a folder of its own.

    The longer run starts from the checkpoint of the shorter one, and ends with the bits of a run that had `epochs` from
    its start: the first epochs, the epochs at which the learning rate decays and the noise are the same. A fraction of
    the epochs, `decay_after`, is that of the shorter run. `config.json` and `summary.json` record `continued_from`. The
    shorter run is left unchanged, and so are its results.

    Args:
        folder: A run with a checkpoint.
        context: Where and how to train; the longer run's folder is in `context.output`.
        epochs: Epochs in all, at least those of the run; `None` for those of the run.

    Returns:
        The folder of the run with that number of epochs; the one that was given, if it has them.

    Raises:
        ValueError: If the run has no checkpoint or was ended by its patience, `epochs` are fewer than those of the run,
            or its folder does not have the name of its settings and of this version of the computation.
    """
    context = context or RunContext()
    shorter = settings_of_run(folder)
    longer = settings_of_run(folder, epochs=epochs)
    expected = run_path(shorter, folder.path.parent).name
    if folder.path.resolve().name != expected:
        raise ValueError(
            f"run must be in a folder with the name of its settings, {expected}, got {folder.path}. If it was trained "
            "by another version of noisyrnn, train it again; else rename it."
        )
    context = context.replace(resume=True)
    if longer == shorter:
        return train_run(shorter, context.replace(output=folder.path.resolve().parent))
    if not folder.checkpoint.is_file():
        raise ValueError(f"run must hold {folder.checkpoint.name}, got {folder.path} without it. Train it again.")
    settings, trained = read_settings(folder.checkpoint), trained_epochs(folder.checkpoint)
    if folder.finished and trained < settings["epochs"]:
        raise ValueError(
            f"run must not have ended by its patience ({settings['patience']}) to train longer, got {folder.path}, "
            f"which stopped after epoch {trained} of {settings['epochs']}: it would stop there again. Train another "
            "run with more patience."
        )
    check_same_data(folder, context.read_data(longer))
    target = RunFolder(run_path(longer, context.output))
    if not target.checkpoint.is_file() and not (target.config.is_file() and target.finished):
        if processes() > 1:
            raise ValueError(
                f"epochs must be added in one process, got {processes()} of them. Start one, and resume in several."
            )
        content = folder.read_config()
        with locked(target.path):
            begin_run(target, longer, content["dataset"], continued_from=(folder.path.name, trained))
            write_longer(folder.checkpoint, target.checkpoint, epochs=longer.epochs)
        first, later = (learning_rate_at(longer, epoch) for epoch in (1, trained + 1))
        if later < first and resolve_shown(context.show_progress):
            tell(
                f"The learning rate of epoch {trained + 1} is {later:g}: it fell from {first:g}, as the settings of "
                f"{folder.path.name} state, and stays as low."
            )
    return train_run(longer, context)
