"""Trains the model of a run into its folder."""

import math
import platform
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noisyrnn import __version__
from noisyrnn.analysis.regularizer import penalized_loss
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import missing_text
from noisyrnn.files import check_writable, content_digest, file_digest, remove_leftovers, write_json
from noisyrnn.locks import locked
from noisyrnn.models import SequenceClassifier, SequenceModel, SequenceRegressor, SequenceToSequence, build_layer
from noisyrnn.models.missing import layer_channels
from noisyrnn.models.registry import plugin_source
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.dependencies import TRAINING_RESULTS, check_same_data, check_same_settings
from noisyrnn.pipeline.devices import make_fabric, processes, resolve_accelerator
from noisyrnn.pipeline.tracking import Tracking
from noisyrnn.progress import resolve_shown, tell
from noisyrnn.run_folder import RunFolder, failure_message, folder_name
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.config import TrainConfig, check_precision
from noisyrnn.training.fit_result import FitResult
from noisyrnn.training.objective import Objective
from noisyrnn.training.seeding import seeded
from noisyrnn.training.trainer import fit

_ANNOUNCED: set[str] = set()


def announce(dataset: Dataset, shown: bool | None = True) -> None:
    """Print a summary of a data set on stderr, once per process for each data set; `shown` is as for `fit`."""
    if not resolve_shown(shown):
        return
    read = f"{dataset.name} {content_digest(dataset.fingerprint())}"
    if read not in _ANNOUNCED:
        _ANNOUNCED.add(read)
        tell(dataset.summary())


def build_model(config: TrainConfig, dataset: Dataset) -> SequenceModel:
    """Build the untrained model. Its weights depend only on the seed; the global random state is left unchanged."""
    with seeded(config.seed):
        channels = layer_channels(dataset.input_size, dataset.missing)
        layer = build_layer(config.model, channels, config.hidden_size, config.options)
        statistics: dict[str, Any] = {"missing": dataset.missing}
        if dataset.standardize:
            statistics |= dict(zip(("mean", "std"), dataset.statistics(), strict=True))
            if not dataset.classes:
                targets = dataset.target_statistics()
                statistics |= dict(zip(("target_mean", "target_std"), targets, strict=True))
        if dataset.every_step:
            return SequenceToSequence(layer, dataset.outputs, classes=dataset.classes or None, **statistics)
        return (SequenceClassifier if dataset.classes else SequenceRegressor)(layer, dataset.outputs, **statistics)


def objective_of(config: TrainConfig, dataset: Dataset) -> Objective | None:
    """Return the `objective` of `fit` for a penalty: the noise-free loss plus the regulariser of the noise.

    Args:
        config: Settings; `None` is returned if they have no penalty, for training with the noise.
        dataset: Complete sequences of one class each.

    Raises:
        ValueError: If there is a penalty and the sequences do not have one class each.
    """
    if config.penalty is None:
        return None
    kind = config.penalty
    if not dataset.train.one_class_each:
        labels = "targets at every step" if dataset.every_step else "values to predict"
        raise ValueError(
            f"penalty must be None for data with {labels}, got {kind!r}. The regulariser is that of one class for each "
            "sequence: train with the noise."
        )
    if dataset.missing is not None:
        raise ValueError(
            f"penalty must be None with missing={dataset.missing!r}, got {kind!r}. The regulariser is that of complete "
            "sequences: train with the noise."
        )

    def penalized(
        model: SequenceClassifier,
        inputs: Tensor,
        labels: Tensor,
        lengths: Tensor | None,
        path: BrownianPath,
        dt: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return penalized_loss(model, inputs, labels, kind=kind, path=path, lengths=lengths, dt=dt)

    return penalized


def run_path(config: TrainConfig, output: Path) -> Path:
    """The folder of a run below `output`; `folder_name` describes its name."""
    name = f"{Path(config.dataset).stem}-{config.shown_label}"
    identity = {**config.identity(), "results": TRAINING_RESULTS[config.precision], **plugin_source(config.model)}
    return output / folder_name(name, identity, suffix=f"seed{config.seed}")


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return what a report shows of a data set."""
    return {
        "name": dataset.name,
        "source": dataset.source,
        "steps": dataset.steps,
        "input_size": dataset.input_size,
        "classes": dataset.classes,
        "class_names": list(dataset.class_names),
        "value_range": None if dataset.value_range is None else list(dataset.value_range),
        "scale": None if dataset.scale is None else asdict(dataset.scale),
        "image_shape": None if dataset.image_shape is None else list(dataset.image_shape),
        **({} if dataset.classes else {"targets": dataset.outputs}),
        **({"every_step": True} if dataset.every_step else {}),
        "lengths_vary": dataset.train.lengths is not None,
        **({} if dataset.nominal_step is None else {"nominal_step": dataset.nominal_step}),
        **({"channel_names": list(dataset.channel_names)} if dataset.channel_names else {}),
        **({} if dataset.missing is None else {"missing": missing_text(dataset.train)}),
        "train": len(dataset.train),
        "validation": len(dataset.validation),
        "fingerprint": dataset.fingerprint(),
    }


def environment() -> dict[str, Any]:
    """Return versions and platform, which may change the last bits of a result. The number of threads does not."""
    return {
        "noisyrnn": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
    }


@reproducible_threads()
def train_run(config: TrainConfig, context: RunContext | None = None) -> RunFolder:
    """Train one model into its folder below `context.output`. A finished run is left unchanged and returned.

    Args:
        config: Settings; they name the folder.
        context: Where and how to train; no result depends on it.

    Raises:
        ValueError: If the folder holds an unfinished run and `context.resume` is false, or a run on other data, or
            settings or data are wrong, or another process works in the folder.
        RuntimeError: If training diverges; the folder's summary keeps the message.
        MemoryError: If memory runs out; likewise.
    """
    context = context or RunContext()
    check_precision(config.precision, resolve_accelerator(context.accelerator))
    processes()  # a broken environment is refused before the data are read
    folder = open_run(config, context)
    known = folder.config.is_file()
    finished = known and folder.finished
    dataset = context.read_data(config)
    if known:
        check_same_data(folder, dataset)
    if finished:
        return folder
    objective = objective_of(config, dataset)
    announce(dataset, context.show_progress)
    check_writable(folder.path)
    model = build_model(config, dataset)
    fabric = make_fabric(config.precision, context.accelerator)
    with locked(folder.path) if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            begin_run(folder, config, describe(dataset))
        tracking = Tracking(context.logger if fabric.is_global_zero else "csv", folder, config)
        try:
            result = fit(
                model,
                dataset,
                config,
                objective=objective,
                folder=folder,
                resume=context.resume,
                checkpoint_seconds=context.checkpoint_seconds,
                keep_epochs=context.keep_epochs,
                show_progress=context.show_progress,
                fabric=fabric,
                on_epoch=tracking,
            )
        except BaseException as error:
            tracking.close(error)
            if fabric.is_global_zero and isinstance(error, RuntimeError | MemoryError):
                end_run(folder, model, error)
            raise
        tracking.close(result)
        if fabric.is_global_zero:
            end_run(folder, model, result)
    return folder


def open_run(config: TrainConfig, context: RunContext) -> RunFolder:
    """Return the folder of a run, whether it exists or not.

    Raises:
        ValueError: If it holds an unfinished run and `context.resume` is false, or the settings of another run, or
            `context.keep_epochs` is true and the weights of an earlier epoch were not kept.
    """
    folder = RunFolder(run_path(config, context.output))
    check_same_settings(folder, config)
    finished = folder.config.is_file() and folder.finished
    if folder.checkpoint.is_file() and not context.resume and not finished:
        raise ValueError(f"resume must be given to continue the unfinished run {folder.path}, got none. Add --resume.")
    if context.keep_epochs and folder.metrics.is_file() and (finished or folder.checkpoint.is_file()):
        folder.check_epochs_kept(len(folder.read_metrics()["epoch"]))
    return folder


def begin_run(
    folder: RunFolder,
    config: TrainConfig,
    data: Mapping[str, Any],
    *,
    continued_from: tuple[str, int] | None = None,
) -> None:
    """Write `config.json` before a run starts.

    Args:
        folder: Folder of the run.
        config: Settings.
        data: Result of `describe` for its data set.
        continued_from: Name and epochs of the shorter run that this one continues; by default what `config.json` has,
            if there is a checkpoint.
    """
    folder.summary.unlink(missing_ok=True)
    origin: Mapping[str, Any] | None = None
    if continued_from is not None:
        origin = dict(zip(("run", "epochs"), continued_from, strict=True))
    elif folder.checkpoint.is_file() and folder.config.is_file():
        origin = folder.read_config().get("continued_from")
    remove_leftovers(folder.path)
    write_json(
        folder.config,
        {
            "version": __version__,
            "config": {**config.to_dict(), "label": config.shown_label},
            "dataset": data,
            "environment": environment(),
            **({} if origin is None else {"continued_from": origin}),
        },
    )


def end_run(folder: RunFolder, model: SequenceModel, end: FitResult | RuntimeError | MemoryError) -> None:
    """Write `summary.json`: the result of a run, or the error that stopped it."""
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    metrics = file_digest(folder.metrics) if folder.metrics.is_file() else None
    if isinstance(end, RuntimeError | MemoryError):
        failed = {"status": "failed", "error": failure_message(end), "parameters": parameters}
        write_json(folder.summary, {**failed, "metrics_sha256": metrics})
        return
    accuracy, loss = end.best_validation_accuracy, end.best_validation_loss
    origin = folder.read_config().get("continued_from")
    write_json(
        folder.summary,
        {
            "status": "finished",
            "error": None,
            "parameters": parameters,
            "seconds": round(end.seconds, 3),
            "epochs": len(end.history),
            "best_epoch": end.best_epoch,
            "best_validation_accuracy": None if math.isnan(accuracy) else accuracy,
            "best_validation_loss": None if math.isnan(loss) else loss,
            "metrics_sha256": metrics,
            "model_sha256": file_digest(folder.model),
            "last_model_sha256": file_digest(folder.last_model),
            "validation_sequences": end.validation_sequences,
            "not_fitted": end.not_fitted,
            "adapted": end.adapted,
            **({} if origin is None else {"continued_from": origin}),
        },
    )
