"""Explains why a loss is not finite."""

import math

import torch
from torch import Tensor

from noisyrnn.models.heads import SequenceModel
from noisyrnn.noise.brownian import BrownianPath


class DivergenceError(RuntimeError):
    """Raised if the loss or the gradient of a run is not finite."""


def explain_divergence(
    model: SequenceModel,
    inputs: Tensor,
    lengths: Tensor | None,
    dt: Tensor | None,
    path: BrownianPath,
    step: int,
    epoch: int,
    loss: float,
    gradient_norm: float,
) -> str:
    """Return the message: the training step, the step of the sequence at which the state diverged, and what to lower.

    Args:
        model: Model with the weights for which the loss was computed.
        inputs: Batch, `(batch, steps, input_size)`.
        lengths: Lengths of the sequences, or `None`.
        dt: Lengths of their steps, or `None`.
        path: Noise of the batch.
        step: Number of the optimizer step, from 1.
        epoch: Number of the epoch, from 1.
        loss: Loss, finite or not.
        gradient_norm: Norm of the gradient, finite or not.
    """
    with torch.no_grad():
        values, lengths, sizes = model.prepare(inputs, lengths=lengths, dt=dt)
        states, _ = model.layer(values, lengths=lengths, dt=sizes, path=path)
        norms = states.norm(dim=-1).amax(0)  # (steps,)
    steps = inputs.shape[1]
    where = f"at training step {step} (epoch {epoch})"
    noise = model.layer.hidden_noise
    levels = f"additive {noise.additive:g}, multiplicative {noise.multiplicative:g}"
    step_size = getattr(model.layer.cells["l0"], "step_size", None)
    if step_size is not None:  # one value, or one per unit
        largest = torch.as_tensor(step_size, dtype=torch.float64, device="cpu").detach().max()
        levels = f"step_size {float(largest):g}, {levels}"
    bad = (~torch.isfinite(norms)).nonzero()
    if len(bad):
        first = int(bad[0])
        before = float(norms[first - 1]) if first else 0.0
        return (
            f"hidden state became non-finite at step {first + 1} of {steps} {where}; its norm one step earlier was "
            f"{before:.3g} ({levels}). Lower step_size or learning_rate, or set clip_norm."
        )
    what = f"loss became {loss}" if not math.isfinite(loss) else f"norm of the gradient became {gradient_norm}"
    return (
        f"{what} {where}; the largest norm of the hidden state was {float(norms.max()):.3g} ({levels}). "
        "Lower learning_rate or step_size, or set clip_norm."
    )
