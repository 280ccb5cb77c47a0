"""The loop over time in plain PyTorch: any cell, dtype and device. It defines what every other kernel computes."""

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.sde.brownian import BrownianPath
from noisyrnn.sde.diffusion import HiddenNoise, NoiseDraws

Weights = TypeVar("Weights")


class Dynamics(Protocol[Weights]):
    """What the loop needs of a cell; `noisyrnn.models.Cell` provides it."""

    hidden_size: int

    def recurrence(self) -> Recurrence | None:
        """The same step for the fused kernels; `None` for one that they do not know."""
        ...

    def weights(self) -> Weights:
        """Weights in the form the steps use, made once for the whole pass."""
        ...

    def drive(self, inputs: Tensor, weights: Weights) -> Tensor:
        """The inputs' part of every step: `(batch, steps, input_size)` to `(batch, steps, k)`."""
        ...

    def increment(self, drive: Tensor, state: Tensor, weights: Weights, dt: Tensor | None) -> Tensor:
        """The noise-free update of one step: `(batch, k)` and `(batch, state_size)` to `(batch, state_size)`."""
        ...


def run(
    cell: Dynamics[Weights],
    inputs: Tensor,
    state: Tensor,
    *,
    noise: HiddenNoise | None = None,
    path: BrownianPath | None = None,
    lengths: Tensor | None = None,
    dt: Tensor | None = None,
    every_step: bool = True,
) -> tuple[Tensor | None, Tensor]:
    r"""Iterate :math:`h \leftarrow h + \mu \odot \Delta(h, x) + \eta` over a sequence.

    The noise acts on the first `hidden_size` entries of the state. From a sequence's end on its state stays as it is
    and its outputs are zero, so padding changes nothing.

    Args:
        cell: Gives the increment Δ.
        inputs: `(batch, steps, input_size)`.
        state: Initial state, `(batch, state_size)`.
        noise: Laws and levels; `None` for none.
        path: Where the random numbers come from; needed with `noise`.
        lengths: Valid steps of each sequence, int64 `(batch,)`.
        dt: Length of each step in nominal steps, `(steps,)` or `(batch, steps)`.
        every_step: Whether to return the outputs of all steps.

    Returns:
        Outputs `(batch, steps, hidden_size)`, or `None` without `every_step`; last valid state `(batch, state_size)`.
    """
    batch, steps, _ = inputs.shape
    size = cell.hidden_size
    weights = cell.weights()
    alive = None
    if lengths is not None:
        alive = (torch.arange(steps, device=lengths.device)[:, None] < lengths)[..., None]
        inputs = inputs.masked_fill(~alive.transpose(0, 1), 0.0)  # else NaN padding reaches the gradients as 0 * NaN
    drives = cell.drive(inputs, weights).unbind(1)
    draws = NoiseDraws(None, None)
    if noise is not None and path is not None:
        draws = noise.draw(path, steps=steps, batch=batch, units=size, dtype=state.dtype, device=state.device)
    additive = (None,) * steps if draws.additive is None else draws.additive.unbind(0)
    multiplicative = (None,) * steps if draws.multiplicative is None else draws.multiplicative.unbind(0)
    dts = (None,) * steps if dt is None else _by_step(dt)
    outputs = []
    for m in range(steps):
        increment = cell.increment(drives[m], state, weights, dts[m])
        if noise is not None and not (additive[m] is None and multiplicative[m] is None):
            hidden = noise.perturb(increment[:, :size], additive[m], multiplicative[m], dts[m])
            wider = increment.shape[1] > size
            increment = torch.cat([hidden, increment[:, size:]], dim=1) if wider else hidden
        if alive is None:
            state = state + increment
            output = state[:, :size]
        else:
            state = torch.where(alive[m], state + increment, state)
            output = torch.where(alive[m], state[:, :size], 0.0)
        if every_step:
            outputs.append(output)
    return (torch.stack(outputs, dim=1) if every_step else None), state


def _by_step(dt: Tensor) -> tuple[Tensor, ...]:
    """Step lengths as one tensor a step that broadcasts against `(batch, hidden_size)`."""
    return dt.unbind(0) if dt.ndim == 1 else dt.T.unsqueeze(-1).unbind(0)
