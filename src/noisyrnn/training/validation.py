"""Loss and accuracy on the validation data, and which of two epochs is better."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from noisyrnn.data.split import Split
from noisyrnn.data.stored import StoredSequences
from noisyrnn.models.heads import SequenceModel
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.training.batches import select_sequences
from noisyrnn.training.checkpoint import Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_VALIDATION_BATCH = 1000
_VALIDATION_BYTES = 2**26
"""Most bytes of sequences that are read from files at once for a validation."""


def validate(
    model: SequenceModel, split: Split, *, fabric: "Fabric | None" = None, path: BrownianPath | None = None
) -> tuple[float, float]:
    """Loss and accuracy over a split in evaluation mode, weighted by its weights; the mode is restored.

    The accuracy of a regression is `nan`. With `fabric`, each of its processes reads its share of sequences that stay
    in their files, and their sums are added. `path` is the source of noise that stays on in evaluation mode.
    """
    rows, size, shared = torch.arange(len(split), device="cpu"), _VALIDATION_BATCH, False
    if isinstance(split.inputs, StoredSequences):
        size = max(1, min(size, _VALIDATION_BYTES // split.inputs.row_bytes))
        if fabric is not None and fabric.world_size > 1:
            rows, shared = rows.tensor_split(fabric.world_size)[fabric.global_rank], True
    training = model.training
    model.eval()
    loss, correct, total = 0.0, 0.0, 0.0
    with torch.no_grad():
        for part in rows.split(size) if len(rows) else ():
            inputs, labels, lengths, weights, dt = select_sequences(split, part.to(split.labels.device))
            noise = path if path is None else replace(path, first_row=int(part[0]))
            outputs = model(inputs, lengths=lengths, dt=dt, path=noise)
            outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
            losses, right = model.losses(outputs, labels), model.correct(outputs, labels)
            if weights is not None:
                losses, right = losses * weights, right * weights
            loss += float(losses.sum())
            correct += float(right.sum())
            total += len(part) if weights is None else float(weights.sum())
    model.train(training)
    if shared:
        assert fabric is not None
        sums = torch.tensor([loss, correct, total], dtype=torch.float64, device="cpu")
        summed = fabric.all_reduce(fabric.to_device(sums), reduce_op="sum")
        assert isinstance(summed, Tensor)
        loss, correct, total = summed.tolist()
    return loss / total, math.nan if split.classes == 0 else correct / total


def is_better(loss: float, accuracy: float, progress: Progress) -> bool:
    """Whether an epoch is better than the best so far: by validation accuracy, then loss.

    Args:
        loss: On the validation data; an epoch whose loss is not finite is never better.
        accuracy: On the validation data; `nan` for a regression, which is compared by loss only.
        progress: Holds the best accuracy and loss so far.
    """
    if not math.isfinite(loss):
        return False
    if math.isnan(accuracy):
        return loss < progress.best_loss
    return (accuracy, -loss) > (progress.best_accuracy, -progress.best_loss)
