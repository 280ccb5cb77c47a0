"""Why a loss is no longer finite, in words."""

import math

import torch
from torch import Tensor

from noisyrnn.models.heads import SequenceModel
from noisyrnn.sde.brownian import BrownianPath


class DivergenceError(RuntimeError):
    """A loss or a gradient of one run is no longer finite."""


def explain_divergence(
    model: SequenceModel,
    inputs: Tensor,
    lengths: Tensor | None,
    path: BrownianPath,
    step: int,
    epoch: int,
    loss: float,
    gradient_norm: float,
) -> str:
    """A sentence: at which training step, where in the sequence the state left the finite numbers, and what to lower.

    Args:
        model: As it was when the loss was computed.
        inputs: The batch, `(batch, steps, input_size)`.
        lengths: Its lengths, or `None`.
        path: Its noise.
        step: Number of the step of the optimiser, from 1.
        epoch: Number of the epoch, from 1.
        loss: The loss, finite or not.
        gradient_norm: Norm of the gradient, finite or not.
    """
    with torch.no_grad():
        states, _ = model.layer(model.standardize(inputs), lengths=lengths, path=path)
        norms = states.norm(dim=-1).amax(0)  # (steps,)
    steps = inputs.shape[1]
    where = f"at training step {step} (epoch {epoch})"
    noise = model.layer.hidden_noise
    levels = f"additive {noise.additive:g}, multiplicative {noise.multiplicative:g}"
    step_size = getattr(model.layer.cells["l0"], "step_size", None)
    if step_size is not None:  # one value, or one a unit
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
