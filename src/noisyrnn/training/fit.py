"""The training loop."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_flag, check_number
from noisyrnn.data.base import Dataset, Split
from noisyrnn.interruption import graceful_interrupt
from noisyrnn.progress import ProgressBar
from noisyrnn.run_folder import RunFolder, locked
from noisyrnn.sde.brownian import BrownianPath, derive_seed
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.objective import Objective, Trained, answered, loss_of, noisy_loss
from noisyrnn.training.run import EpochHook, FitResult, Run, Unrounded, fabric_on_cpu

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_VALIDATION_BATCH = 1000


@dataclass(frozen=True)
class Batch:
    """One process's part of one batch.

    Args:
        rows: Indices of its sequences, int64.
        first_row: Number of its first sequence within the whole batch.
        count: Sequences of the whole batch.
        share: 1, or 0 for a process that only keeps step with the others.
    """

    rows: Tensor
    first_row: int
    count: int
    share: float


def batches(config: TrainConfig, size: int, epoch: int, first: int, rank: int, world: int) -> Iterator[Batch]:
    """The batches of an epoch from number `first` on, each cut into contiguous parts, one a process."""
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", epoch) % 2**63)
    order = torch.randperm(size, generator=generator, device="cpu")
    for whole in order.split(config.batch_size)[first:]:
        edges = [len(whole) * part // world for part in range(world + 1)]
        rows = whole[edges[rank] : edges[rank + 1]]
        # A process without a sequence still has to take part in the exchange of gradients.
        yield Batch(rows if len(rows) else whole[:1], edges[rank], len(whole), float(len(rows) > 0))


def select(split: Split, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs, labels and lengths of some sequences, cut after the longest of them."""
    inputs, labels = split.inputs[rows], split.labels[rows]
    if split.lengths is None:
        return inputs, labels, None
    lengths = split.lengths[rows]
    return inputs[:, : int(lengths.max())], labels, lengths


def to_device(split: Split, fabric: "Fabric", dtype: torch.dtype) -> Split:
    """The same sequences where the model is, the labels in its precision; the model rounds the inputs itself."""
    lengths = None if split.lengths is None else fabric.to_device(split.lengths)
    weights = None if split.weights is None else fabric.to_device(split.weights.to(dtype))
    inputs, labels = fabric.to_device(split.inputs), fabric.to_device(split.labels)
    labels = labels.to(dtype) if labels.is_floating_point() else labels
    return Split(inputs=inputs, labels=labels, lengths=lengths, weights=weights, classes=split.classes)


def validate(model: nn.Module, split: Split) -> tuple[float, float]:
    """Loss and accuracy over a split in evaluation mode, by its weights; the mode is restored.

    The accuracy of a regression is `nan`.
    """
    training = model.training
    model.eval()
    loss, correct, total = 0.0, 0.0, 0.0
    with torch.no_grad():
        for part in torch.arange(len(split), device="cpu").split(_VALIDATION_BATCH):
            rows = part.to(split.labels.device)
            inputs, labels, lengths = select(split, rows)
            outputs = model(inputs, lengths=lengths).float()
            losses, right = loss_of(outputs, labels), answered(outputs, labels)
            if split.weights is not None:
                losses, right = losses * split.weights[rows], right * split.weights[rows]
            loss += float(losses.sum())
            correct += float(right.sum())
            total += len(rows) if split.weights is None else float(split.weights[rows].sum())
    model.train(training)
    return loss / total, math.nan if split.classes == 0 else correct / total


@reproducible_threads()
def fit(
    model: Trained,
    dataset: Dataset,
    config: TrainConfig,
    *,
    objective: Objective = noisy_loss,
    folder: RunFolder | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    show_progress: bool = False,
    fabric: "Fabric | None" = None,
    on_epoch: EpochHook | None = None,
) -> FitResult:
    """Train `model` in place with Adam; it ends with the weights of its best validation epoch.

    The order of the data and the noise depend on the seed, the epoch and the step only, so a resumed run ends in the
    same bits. The number of threads does not change them either: torch's own operations run on one thread, the kernels
    and the noise on all. In a distributed run every process takes a part of each batch, and the noise of its own rows.

    Args:
        model: Its initial weights are where training starts.
        dataset: `train` is fitted and `validation` decides the best epoch, by accuracy and then loss, or for a
            regression by loss alone; `test` is not read.
        config: Settings; those of the model are taken as built already.
        objective: What is minimized: by default the cross-entropy, or the squared error, with the noise on.
        folder: Where metrics, checkpoints and the model are written; nowhere by default.
        resume: Resume from the folder's checkpoint, where there is one.
        checkpoint_seconds: Time between two checkpoints, at least 0 (after every step); the end gets one too.
        show_progress: Whether to show a progress bar.
        fabric: Device, precision and processes; this process's CPU by default.
        on_epoch: Called on the first process with the metrics of each epoch, the row that metrics.csv gets, once it is
            written. What it raises ends the training.

    Raises:
        RuntimeError: If the loss or a gradient is no longer finite; what was saved before is left alone.
        KeyboardInterrupt: If the user stopped the run, after a checkpoint.
        ValueError: If the model does not fit the data, the checkpoint belongs to other settings, data, architecture or
            objective, or another process works in the folder.
    """
    if not isinstance(config, TrainConfig):
        raise TypeError(
            f"config must be a TrainConfig, got {type(config).__name__}. Build one: TrainConfig(epochs=10)."
        )
    if folder is not None and not isinstance(folder, RunFolder):
        raise TypeError(f"folder must be a RunFolder, got {folder!r}. Build one: RunFolder(Path({str(folder)!r})).")
    check_flag("resume", resume)
    check_number("checkpoint_seconds", checkpoint_seconds, minimum=0.0)
    fabric = fabric or fabric_on_cpu(config.precision)
    run = Run(model, dataset, config, fabric=fabric, folder=folder, objective=objective, on_epoch=on_epoch)
    with nullcontext() if run.folder is None else locked(run.folder.path):
        return _train(run, dataset, fabric, resume, checkpoint_seconds, show_progress)


def _train(
    run: Run, dataset: Dataset, fabric: "Fabric", resume: bool, checkpoint_seconds: float, show_progress: bool
) -> FitResult:
    """The loop of `fit`."""
    model, config = run.model, run.config
    checkpoint = fabric.broadcast(run.read_checkpoint() if resume else None)
    if checkpoint is not None:
        run.restore(checkpoint)
    dtype = next(model.parameters()).dtype
    train, validation = to_device(dataset.train, fabric, dtype), to_device(dataset.validation, fabric, dtype)
    bar = ProgressBar(
        f"{config.shown_label} seed {config.seed}",
        config.epochs * -(-len(train) // config.batch_size),
        done=run.progress.step,
        shown=show_progress and fabric.is_global_zero,
    )
    written = clock = time.monotonic()
    try:
        with graceful_interrupt() as stop:
            while not run.finished:
                epoch, first = run.progress.epoch, run.progress.batch
                for batch in batches(config, len(train), epoch, first, fabric.global_rank, fabric.world_size):
                    loss, correct, stops = take_step(run, fabric, train, batch, stop.made)
                    now = time.monotonic()
                    run.count(loss, correct, batch.count, now - clock)
                    clock = now
                    bar.advance()
                    if stops > 0:
                        run.write_checkpoint()
                        raise stop.error()
                    if now - written >= checkpoint_seconds:
                        run.write_checkpoint()
                        written = time.monotonic()
                # One answer, so that all processes go on alike.
                run.end_epoch(*fabric.broadcast(validate(run.model, validation)))
    finally:
        bar.close()
    result = run.finish()
    if stop.made:
        raise stop.error()
    return result


def take_step(run: Run, fabric: "Fabric", train: Split, batch: Batch, stop: bool = False) -> tuple[float, float, float]:
    """One step of a run's optimiser; sums over all processes of the loss, the right answers and the wishes to stop.

    Raises:
        DivergenceError: If the loss or the gradient is not finite.
    """
    rows = batch.rows.to(train.labels.device)
    inputs, labels, lengths = select(train, rows)
    weights = None if train.weights is None else train.weights[rows]
    path = BrownianPath(seed=derive_seed(run.config.seed, "noise", run.progress.step), first_row=batch.first_row)
    run.begin_step()
    given = Unrounded(inputs, labels, lengths, path.seed, path.first_row, weights)
    loss_sum, correct = run.wrapped(given).values
    loss_sum = loss_sum * batch.share
    # Gradients are averaged over processes: the factor makes that the mean over the whole batch.
    fabric.backward(loss_sum * (fabric.world_size / batch.count))
    loss = float(loss_sum.detach())
    run.end_step(loss, inputs, lengths, path)
    totals = torch.tensor([loss, float(correct) * batch.share, float(stop)], dtype=torch.float64, device="cpu")
    if fabric.world_size > 1:
        summed = fabric.all_reduce(fabric.to_device(totals), reduce_op="sum")
        assert isinstance(summed, Tensor)
        totals = summed
    loss, right, stops = totals.tolist()
    return loss, right, stops
