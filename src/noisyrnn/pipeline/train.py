"""From settings to a run folder with a trained model."""

import hashlib
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from noisyrnn import __version__
from noisyrnn.data import load_dataset
from noisyrnn.data.base import Dataset
from noisyrnn.models import MODELS, SequenceClassifier
from noisyrnn.run_folder import RunFolder, check_writable, read_json, write_json
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.fit import fit


def build_model(config: TrainConfig, dataset: Dataset) -> SequenceClassifier:
    """The untrained model: its weights depend on the seed alone, and the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        layer = MODELS[config.model].build(dataset.input_size, config.hidden_size, config.model_options())
        mean, std = dataset.statistics() if dataset.standardize else (None, None)
        return SequenceClassifier(layer, dataset.classes, mean=mean, std=std)


def run_path(config: TrainConfig, output: Path) -> Path:
    """The folder of a run below `output`: data set, label, seed, and a hash of all settings, so that none collide."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()[:8]
    return output / f"{Path(config.dataset).stem}-{config.shown_label}-seed{config.seed}-{digest}".replace(" ", "_")


def describe(dataset: Dataset) -> dict[str, Any]:
    """What a report says of a data set."""
    return {
        "name": dataset.name,
        "source": dataset.source,
        "steps": dataset.steps,
        "input_size": dataset.input_size,
        "classes": dataset.classes,
        "class_names": list(dataset.class_names),
        "value_range": list(dataset.value_range),
        "image_shape": None if dataset.image_shape is None else list(dataset.image_shape),
        "train": len(dataset.train),
        "validation": len(dataset.validation),
    }


def environment() -> dict[str, Any]:
    """Versions and threads: what else may change the last bits of a result."""
    return {
        "noisyrnn": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def make_fabric(config: TrainConfig, accelerator: str) -> Fabric:
    """The engine of this process: one device, or its part of a run that torchrun has started."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    if world == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=config.precision)
    fabric = Fabric(
        accelerator=accelerator, devices=local, num_nodes=world // local, strategy="ddp", precision=config.precision
    )
    fabric.launch()
    return fabric


def train_run(
    config: TrainConfig,
    *,
    output: Path = Path("runs"),
    data_dir: Path | None = None,
    resume: bool = False,
    accelerator: str = "auto",
    checkpoint_seconds: float = 30.0,
    show_progress: bool = False,
) -> RunFolder:
    """Train one model into its folder below `output`. A finished run is left as it is and returned.

    Args:
        config: Settings; they name the folder.
        output: Folder of the runs, made where it is missing.
        data_dir: Where to look for data first.
        resume: Go on from the last checkpoint.
        accelerator: "auto", "cpu", "cuda" or another of Lightning Fabric's.
        checkpoint_seconds: Time between two checkpoints.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: If the folder holds an unfinished run and `resume` is false, or settings or data are wrong.
        RuntimeError: If training diverges; the folder's summary says so too.
    """
    folder = RunFolder(run_path(config, output))
    if folder.config.is_file() and folder.finished:
        return folder
    if folder.checkpoint.is_file() and not resume:
        raise ValueError(
            f"resume must be given to go on with the unfinished run {folder.path}, got none. Add --resume."
        )
    dataset = load_dataset(config.dataset, data_dir=data_dir, chunk=config.chunk)
    check_writable(folder.path)
    model = build_model(config, dataset)
    fabric = make_fabric(config, accelerator)
    if fabric.is_global_zero:
        settings = {**asdict(config), "label": config.shown_label}
        write_json(
            folder.config,
            {"version": __version__, "config": settings, "dataset": describe(dataset), "environment": environment()},
        )
    summary: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters() if p.requires_grad)}
    try:
        result = fit(
            model,
            dataset,
            config,
            folder=folder,
            resume=resume,
            checkpoint_seconds=checkpoint_seconds,
            show_progress=show_progress,
            fabric=fabric,
        )
    except RuntimeError as error:
        if fabric.is_global_zero:
            write_json(folder.summary, {"status": "failed", "error": str(error), **summary})
        raise
    if fabric.is_global_zero:
        write_json(
            folder.summary,
            {
                "status": "finished",
                "error": None,
                **summary,
                "seconds": round(result.seconds, 3),
                "epochs": len(result.history),
                "best_epoch": result.best_epoch,
                "best_validation_accuracy": result.best_validation_accuracy,
            },
        )
    return folder


def run_config(folder: RunFolder) -> TrainConfig:
    """The settings a run was trained with."""
    return TrainConfig.from_dict(read_json(folder.config)["config"])
