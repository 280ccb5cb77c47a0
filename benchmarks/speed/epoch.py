"""Whole epochs of `smnist`, end to end, against as many bare training steps: what the loop around the kernel costs."""

import statistics
import time
from dataclasses import replace
from itertools import chain, pairwise
from operator import truediv
from typing import Any

import torch

from benchmarks.speed.cases import Case, Size
from benchmarks.speed.contestants import NotAvailable, build_ours, choose_kernel
from benchmarks.speed.networks import ADDITIVE, MULTIPLICATIVE
from noisyrnn.data import DATASETS, Dataset, data_folders, load_dataset
from noisyrnn.pipeline.train import build_model
from noisyrnn.training import TrainConfig, fit

STEPS = 30
"""Bare steps timed before and after each epoch."""


def measure_epoch(*, kernel: str, sequences: int, batch: int, hidden: int, repeats: int) -> dict[str, Any]:
    """Train epochs with `noisyrnn.training.fit`, and time bare steps between them.

    Args:
        kernel: Which kernel runs the layer.
        sequences: Sequences of an epoch, at least 1.
        batch: Sequences of a step.
        hidden: Units.
        repeats: Epochs, at least 1.

    Returns:
        Seconds of each epoch, with the validation that belongs to it, of its training part, and of a bare step:
        forward, loss and backward, without the optimiser; number of steps; the median of the epochs' ratios to as many
        steps as were timed right before and after each.
    """
    missing = DATASETS["smnist"].missing(data_folders(None))
    if missing:
        raise NotAvailable(f"smnist is not in the data folders: {', '.join(missing)}; set NOISYRNN_DATA")
    dataset = _part(load_dataset("smnist"), sequences)
    config = TrainConfig(
        model="noisy",
        dataset="smnist",
        epochs=1,
        batch_size=batch,
        hidden_size=hidden,
        options={"additive": ADDITIVE, "multiplicative": MULTIPLICATIVE},
    )
    case = Case(size=Size(steps=dataset.steps, batch=batch, hidden=hidden), mode="training", threads=0)
    bare = build_ours(case, torch.device("cpu"), kernel=kernel)
    whole: list[float] = []
    training: list[float] = []

    def time_steps() -> list[float]:
        times = []
        for _ in range(STEPS):
            bare.clear()
            start = time.perf_counter()
            bare.run()
            times.append(time.perf_counter() - start)
        return times

    bare.run()
    steps = [time_steps()]
    for _ in range(repeats):
        model = build_model(config, dataset)
        choose_kernel(model.layer, kernel)
        start = time.perf_counter()
        result = fit(model, dataset, config)
        whole.append(time.perf_counter() - start)
        training.append(result.seconds)
        steps.append(time_steps())
    count = len(dataset.train) / batch  # a last, smaller batch counts as the part that it is
    around = [count * statistics.median([*before, *after]) for before, after in pairwise(steps)]
    return {
        "kernel": kernel,
        "sequences": len(dataset.train),
        "batch": batch,
        "hidden": hidden,
        "steps": count,
        "step": statistics.median(chain.from_iterable(steps)),
        "epoch": whole,
        "training": training,
        "ratio": statistics.median(map(truediv, whole, around)),
        "training_ratio": statistics.median(map(truediv, training, around)),
    }


def _part(dataset: Dataset, sequences: int) -> Dataset:
    """The first training sequences of a data set, and the same part of its validation sequences."""
    train = dataset.train.subset(torch.arange(min(sequences, len(dataset.train))))
    few = max(1, round(len(dataset.validation) * len(train) / len(dataset.train)))
    validation = dataset.validation.subset(torch.arange(few))
    return replace(dataset, train=train, validation=validation)
