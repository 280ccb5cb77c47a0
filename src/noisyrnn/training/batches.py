"""The sequences and the noise of each training step, and the forward pass over them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from noisyrnn.data.split import Split
from noisyrnn.data.stored import StoredSequences
from noisyrnn.models.heads import SequenceModel
from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.objective import Objective, check_results


@dataclass(frozen=True)
class BatchPart:
    """The part of a batch that one process takes.

    Args:
        rows: Indices of its sequences, int64.
        first_row: Number of its first sequence within the whole batch.
        count: Sequences of the whole batch.
        share: 1, or 0 for a process without a sequence, which only takes part in the exchange of gradients.
    """

    rows: Tensor
    first_row: int
    count: int
    share: float


def epoch_batches(
    config: TrainConfig,
    size: int,
    epoch: int,
    *,
    first: int = 0,
    rank: int = 0,
    world: int = 1,
    stored: StoredSequences | None = None,
) -> Iterator[BatchPart]:
    """The batches of an epoch in random order, from number `first` on, each cut into one contiguous part per process.

    The order depends on the seed and the epoch, and for sequences in files on where they are.

    Args:
        config: Seed and batch size.
        size: Number of training sequences.
        epoch: Number of the epoch, from 1.
        first: Number of the first batch, from 0.
        rank: Number of this process.
        world: Number of processes.
        stored: The training sequences if they stay in their files: they are shuffled by blocks.
    """
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", epoch) % 2**63)
    order = torch.randperm(size, generator=generator, device="cpu") if stored is None else stored.shuffled(generator)
    for whole in order.split(config.batch_size)[first:]:
        edges = [len(whole) * part // world for part in range(world + 1)]
        rows = whole[edges[rank] : edges[rank + 1]]
        yield BatchPart(rows if len(rows) else whole[:1], edges[rank], len(whole), float(len(rows) > 0))


def step_noise(config: TrainConfig, step: int, first_row: int = 0) -> BrownianPath:
    """The noise of a training step.

    Args:
        config: The seed.
        step: Steps of the optimizer done before.
        first_row: Number of this process's first sequence within the whole batch.
    """
    return BrownianPath(seed=derive_seed(config.seed, "noise", step), first_row=first_row)


def rows_on(rows: Tensor, device: torch.device) -> Tensor:
    """Return indices on a device, to which they are copied without waiting for a GPU's work before them."""
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows.to(device)


def select_sequences(
    split: Split, rows: Tensor, *, longest: int | None = None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Inputs, labels, lengths, weights and step lengths of the sequences number `rows`, cut after the longest of them.

    Args:
        split: The data.
        rows: Of any shape; that of the batch in what is returned.
        longest: Steps of the longest; read from the data by default, which waits for a GPU.
    """
    inputs, labels, lengths, weights = split.inputs[rows], split.labels[rows], None, None
    dt = None if split.dt is None else split.dt[rows]
    if split.lengths is not None:
        lengths = split.lengths[rows]
        longest = int(lengths.max()) if longest is None else longest
        inputs = inputs[..., :longest, :]
        if split.every_step:
            labels = labels.narrow(rows.ndim, 0, longest)
        if dt is not None:
            dt = dt[..., :longest]
    if split.weights is not None:
        weights = split.weights[rows]
    return inputs, labels, lengths, weights, dt


class TrainingBatch:
    """Sequences of one training step and their noise.

    A plain class, since Fabric converts the tensors in tuples, dictionaries and dataclasses: with mixed precision it
    would round the inputs, which the model standardizes in float64.

    Args:
        inputs: `(batch, steps, input_size)`.
        labels: Classes `(batch,)` or values `(batch, targets)`; for labels at every step `(batch, steps)` or
            `(batch, steps, outputs)`.
        lengths: Valid steps of each sequence, `(batch,)`, or `None`.
        weights: Weight of each sequence, `(batch,)`, or `None`.
        path: The noise.
        dt: Length of each step in nominal steps, `(batch, steps)`, or `None`.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        lengths: Tensor | None,
        weights: Tensor | None,
        path: BrownianPath,
        dt: Tensor | None = None,
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.lengths = lengths
        self.weights = weights
        self.path = path
        self.dt = dt


class BatchSums:
    """Sums over a batch of its losses and of its correct answers, weighted; a plain class for the same reason."""

    def __init__(self, loss: Tensor, correct: Tensor) -> None:
        self.loss = loss
        self.correct = correct


class TrainingPass(nn.Module):
    """What Fabric wraps: a model with its objective, from a `TrainingBatch` to `BatchSums`.

    Args:
        model: The model, for inputs with the batch first.
        objective: What is minimized; `None` for the model's loss with the noise on.
    """

    def __init__(self, model: SequenceModel, objective: Objective | None = None) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: TrainingBatch) -> BatchSums:
        """Losses and correct answers, summed here so that no conversion of the outputs comes in between."""
        if self.objective is None:
            outputs = self.model(batch.inputs, lengths=batch.lengths, dt=batch.dt, path=batch.path)
            losses = self.model.losses(outputs, batch.labels)
        else:
            objective: Any = self.objective
            if batch.dt is not None:  # `check_times` has checked that it takes them
                objective = partial(objective, dt=batch.dt)
            results = objective(self.model, batch.inputs, batch.labels, batch.lengths, batch.path)
            losses, outputs = check_results(results, batch.labels)
        correct = self.model.correct(outputs.detach(), batch.labels)
        if batch.weights is not None:
            losses, correct = losses * batch.weights, correct * batch.weights
        return BatchSums(losses.sum(), correct.sum())
