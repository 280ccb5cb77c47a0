"""Predictions of a trained model: probabilities of the classes, or values."""

import torch
from torch import Tensor

from noisyrnn.checks import check_integer, check_lengths, check_sequences
from noisyrnn.data.split_checks import check_missing
from noisyrnn.models.heads import SequenceModel


@torch.no_grad()
def predict(
    model: SequenceModel,
    inputs: Tensor,
    *,
    lengths: Tensor | None = None,
    dt: Tensor | float | None = None,
    sequences_per_pass: int = 250,
) -> Tensor:
    """Predict the class probabilities or the values of sequences, without noise.

    Args:
        model: A trained model; its mode and its noise are left as they are.
        inputs: `(n, steps, input_size)`, as measured: the model standardizes them. NaN where a value is missing, for a
            model with `missing`.
        lengths: Valid steps of each sequence, `(n,)`; `None` if all have `steps`.
        dt: Length of each step in nominal steps: a number, `(steps,)` or `(n, steps)`; `None`: all are 1.
        sequences_per_pass: Sequences computed at once, at least 1.

    Returns:
        Float64 on the CPU: probabilities `(n, classes)`, or values `(n, targets)` of a regression; for answers at every
        step `(n, steps, classes)` or `(n, steps, outputs)`, without meaning past the end of a sequence.

    Raises:
        TypeError: If `model` is not a sequence model.
        ValueError: If the inputs are not finite, or have another shape than the model takes.
        RuntimeError: If an output is not finite.

    Example:
        >>> from noisyrnn.models import NoisyRNN, SequenceClassifier
        >>> model = SequenceClassifier(NoisyRNN(input_size=1, hidden_size=8), classes=3)
        >>> predict(model, torch.zeros(2, 5, 1)).sum(dim=1).round(decimals=6)
        tensor([1., 1.], dtype=torch.float64)
    """
    if not isinstance(model, SequenceModel):
        raise TypeError(
            f"model must be a SequenceModel, got {type(model).__name__}. Load one: noisyrnn.load(path, SequenceModel)."
        )
    check_sequences("inputs", inputs)
    check_missing("inputs", inputs, model.missing)
    check_integer("sequences_per_pass", sequences_per_pass, minimum=1)
    if lengths is not None:
        check_lengths(lengths, batch=inputs.shape[0], steps=inputs.shape[1])
    if not isinstance(dt, Tensor | int | float | str | None):  # an array has rows too
        dt = torch.as_tensor(dt, dtype=torch.float64, device="cpu")
    if isinstance(dt, Tensor) and dt.ndim == 2 and len(dt) != len(inputs):
        raise ValueError(f"dt must have one row for each of {len(inputs)} sequences, got {len(dt)}.")
    training, noise_mode, device = model.training, model.layer.noise_mode, next(model.parameters()).device
    parts = []
    try:
        model.eval()
        model.layer.noise_mode = "off"
        view = model.as_batch_first()
        for start in range(0, len(inputs), sequences_per_pass):
            rows = slice(start, start + sequences_per_pass)
            valid = None if lengths is None else lengths[rows].to(device)
            sizes = dt[rows] if isinstance(dt, Tensor) and dt.ndim == 2 else dt  # which the layer moves to its device
            outputs = view(inputs[rows].to(device), lengths=valid, dt=sizes).double().cpu()
            parts.append(outputs.softmax(dim=-1) if model.loss == "cross_entropy" else outputs)
    finally:
        model.layer.noise_mode = noise_mode
        model.train(training)
    predictions = torch.cat(parts)
    bad = int((~torch.isfinite(predictions)).flatten(1).any(dim=1).sum())
    if bad:
        raise RuntimeError(f"outputs became non-finite for {bad} of {len(inputs)} sequences. Lower the step size.")
    return predictions
