"""What a GPU trains, compared with the CPU; and a row of the published table, trained for a few epochs."""

import copy
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.speed.cases import CLASSES
from benchmarks.speed.contestants import NotAvailable
from benchmarks.speed.kinds import build_classifier
from noisyrnn import BrownianPath
from noisyrnn.data import DATASETS, data_folders
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.train import train_run
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.settings import read_experiment

RATE = 0.01
"""Learning rate of plain gradient descent, whose steps are as exact as the gradients."""

CLIP_NORM = 1.0
"""Norm to which gradients are clipped: over 784 steps the first ones of the noisy RNN are so large that it diverges."""


def compare_steps(*, model: str, device: str, count: int, steps: int, batch: int, hidden: int) -> dict[str, Any]:
    """Train on the CPU and on a device from the same weights with the same noise.

    Args:
        model: Key of `kinds.MODELS`.
        device: "cuda", or "cpu" to compare the reference loop with the CPU kernel.
        count: Training steps.
        steps: Steps of a sequence.
        batch: Sequences.
        hidden: Units.

    Returns:
        Norm of the difference of the weights' changes over that of the change on the CPU, and both last losses.
    """
    torch.manual_seed(0)
    start = build_classifier(model, hidden, torch.device("cpu")).train()
    inputs, labels = torch.rand(batch, steps, 1), torch.randint(CLASSES, (batch,))
    changes, losses = [], []
    for place, kernel in (("cpu", "cpp"), (device, "triton" if device == "cuda" else "reference")):
        trained = copy.deepcopy(start).to(place)
        trained.layer.kernel = kernel
        optimizer = torch.optim.SGD(trained.parameters(), lr=RATE)
        x, y = inputs.to(place), labels.to(place)
        for k in range(count):
            loss = functional.cross_entropy(trained(x, path=BrownianPath(seed=k)), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained.parameters(), CLIP_NORM)
            optimizer.step()
        pairs = zip(trained.parameters(), start.parameters(), strict=True)
        changes.append(torch.cat([(p.detach().cpu().double() - q.detach().double()).flatten() for p, q in pairs]))
        losses.append(float(loss))
    reference, other = changes
    difference = float((other - reference).norm() / reference.norm())
    if not math.isfinite(difference):
        raise NotAvailable(f"training diverged: the losses are {losses[0]} on the CPU and {losses[1]} on {device}")
    return {"difference": difference, "cpu_loss": losses[0], "loss": losses[1]}


def train_row(*, experiment: str, epochs: int, accelerator: str, dataset: str | None = None) -> dict[str, Any]:
    """Train a published experiment for a few epochs.

    Args:
        experiment: Its name.
        epochs: Epochs, at least 1.
        accelerator: As in `RunContext`.
        dataset: Another data set in place of the experiment's.
    """
    settings = {**read_experiment(experiment).train, "epochs": epochs}
    del settings["decay_epochs"]  # past the end
    config = TrainConfig.from_dict({**settings, "dataset": dataset or settings["dataset"]})
    missing = DATASETS[config.dataset].missing(data_folders(None))
    if missing:
        raise NotAvailable(f"{config.dataset} is not in the data folders: {', '.join(missing)}; set NOISYRNN_DATA")
    with tempfile.TemporaryDirectory() as folder:
        run = train_run(config, RunContext(output=Path(folder), accelerator=accelerator))
        metrics = run.read_metrics()
    return {"experiment": experiment, "dataset": config.dataset, "metrics": metrics}
