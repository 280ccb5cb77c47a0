"""Counts of the classes that a model predicts for the sequences of each class."""

import torch

from noisyrnn.checks import check_device
from noisyrnn.data.split import Split, check_split
from noisyrnn.robustness.logits import Model, adapt, check_model, check_rows, predict, take_rows

_BATCH = 1000


@torch.no_grad()
def confusion_matrix(model: Model, split: Split, *, device: torch.device | str | None = None) -> list[list[int]]:
    """Count the predictions of a model: entry `[i][j]` is the number of sequences of class i that it calls class j.

    Args:
        model: Callable from inputs to logits, already on `device`; a module must be in eval mode.
        split: Sequences with one class each.
        device: Device to move the sequences to; `None` leaves them.

    Raises:
        ValueError: If the sequences do not have one class each, or the model has other classes than they.
        RuntimeError: If a logit is not finite.

    Example:
        >>> split = Split(inputs=torch.tensor([[[1.0]], [[-1.0]], [[2.0]]]), labels=torch.tensor([1, 0, 0]), classes=2)
        >>> confusion_matrix(lambda inputs: torch.cat([-inputs[:, 0], inputs[:, 0]], dim=1), split)
        [[1, 1], [0, 1]]
    """
    check_model(model)
    check_split("split", split)
    check_rows(model, len(split))
    check_device("device", device)
    if not split.one_class_each:
        raise ValueError("split must have one class for each sequence, got other labels.")
    counts = torch.zeros(split.classes * split.classes, dtype=torch.int64, device="cpu")
    for rows in torch.arange(len(split), device="cpu").split(_BATCH):
        lengths, dt = (None if each is None else each[rows].to(device) for each in (split.lengths, split.dt))
        labels = split.labels[rows]
        adapted = adapt(take_rows(model, rows), dt=dt, missing=split.missing is not None)
        logits = predict(adapted, split.inputs[rows].to(device), labels.to(device), lengths)
        if logits.shape[1] != split.classes:
            raise ValueError(f"model must return {split.classes} logits, one for each class, got {logits.shape[1]}.")
        pairs = labels.cpu() * split.classes + logits.argmax(dim=1).cpu()
        counts += torch.bincount(pairs, minlength=len(counts))
    matrix: list[list[int]] = counts.reshape(split.classes, split.classes).tolist()
    return matrix
