"""A fused recurrence run by the reference loop: what the kernels must equal, and where second derivatives come from."""

from typing import NamedTuple

import torch
from torch import Tensor

from noisyrnn.kernels import reference
from noisyrnn.kernels.call import Pass, Recurrence


class _Weights(NamedTuple):
    """What a step uses."""

    A: Tensor | None
    W: Tensor


class RecurrenceDynamics:
    """A `Recurrence` as the reference loop wants it.

    Args:
        recurrence: Its tensors may require gradients.
    """

    def __init__(self, recurrence: Recurrence) -> None:
        self._recurrence = recurrence
        self.hidden_size = len(recurrence.b)

    def recurrence(self) -> Recurrence:
        """The one that is run."""
        return self._recurrence

    def weights(self) -> _Weights:
        """The matrices, transposed once for all steps."""
        A = self._recurrence.A
        return _Weights(None if A is None else A.T, self._recurrence.W.T)

    def drive(self, inputs: Tensor, weights: _Weights) -> Tensor:
        """`U x`, plus `b` where that is a bias."""
        bias = None if self._recurrence.kind == "modrelu" else self._recurrence.b
        return torch.nn.functional.linear(inputs, self._recurrence.U, bias)

    def increment(self, drive: Tensor, state: Tensor, weights: _Weights, dt: Tensor | None) -> Tensor:
        """Δ of the recurrence's kind."""
        kind, step, b = self._recurrence.kind, self._recurrence.step, self._recurrence.b
        step = step if dt is None else step * dt
        z = drive + state @ weights.W
        if kind == "modrelu":
            return torch.sign(z) * torch.relu(z.abs() + b) - state
        drift = torch.tanh(z)
        if kind == "drift":
            return step * (drift if weights.A is None else state @ weights.A + drift)
        stiffness, friction = self._recurrence.coefficients
        position, velocity = state.chunk(2, dim=1)
        force = step * (drift - stiffness * position - friction * velocity)
        return torch.cat([step * (velocity + force), force], dim=1)


def replay(call: Pass, *, every_step: bool) -> tuple[Tensor, Tensor]:
    """Outputs `(R, B, T, hidden_size)` (empty without `every_step`) and last state, differentiable without end."""
    outputs, last = [], []
    for r in range(len(call.seed)):
        A = None if call.A is None else call.A[r]
        noise, path = call.noise.restore(call.seed[r])
        dt = None if call.dt is None else call.dt[r]
        every, end = reference.run(
            RecurrenceDynamics(
                Recurrence(call.kind, A, call.W[r], call.U[r], call.b[r], call.step[r], call.coefficients)
            ),
            call.inputs[r],
            call.state[r],
            noise=noise,
            path=path,
            lengths=None if call.lengths is None else call.lengths[r],
            dt=dt if dt is None or len(dt) > 1 else dt[0],
            every_step=every_step,
        )
        outputs.append(call.inputs.new_empty(0) if every is None else every)
        last.append(end)
    return torch.stack(outputs), torch.stack(last)
