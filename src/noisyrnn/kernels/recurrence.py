"""The step of a cell in tensors, in the form that the fast kernels take."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from noisyrnn.sde.activation import TANH, Activation
from noisyrnn.sde.drift import RecurrentDrift

KINDS = ("drift", "current", "oscillator", "modrelu")
DRIFTS = ("drift", "current")
"""The kinds with an activation of choice, whose derivatives are written out."""


class Recurrence(NamedTuple):
    r"""One noise-free step :math:`h \leftarrow h + \Delta`, of one of four kinds.

    - "drift": :math:`\Delta = d \odot (A h + a(W h + U x + b))`, without `A h` where `A` is `None`.
    - "current": :math:`\Delta = d \odot (-h + W a(h) + U x + b)`; the output is :math:`a(h)`.
    - "oscillator": the state is `(y, z)`; with `coefficients` :math:`(\gamma, \epsilon)`,
      :math:`\Delta_z = d\,[\tanh(W (y, z) + U x + b) - \gamma y - \epsilon z]`, :math:`\Delta_y = d\,(z + \Delta_z)`.
    - "modrelu": :math:`\Delta = \mathrm{modReLU}_b(W h + U x) - h`, with `b` the threshold; `step` is not used.

    Where a step lasts `dt` nominal steps, `d` stands for `step * dt`.

    Args:
        kind: One of `KINDS`.
        A: `(hidden_size, hidden_size)`, or `None`.
        W: `(hidden_size, state_size)`.
        U: `(hidden_size, input_size)`.
        b: `(hidden_size,)`.
        step: d, `(hidden_size,)`.
        coefficients: Constants of the kind.
        activation: a of the drift and the current; tanh by default, which is that of the oscillator.
    """

    kind: str
    A: Tensor | None
    W: Tensor
    U: Tensor
    b: Tensor
    step: Tensor
    coefficients: tuple[float, ...] = ()
    activation: Activation = TANH

    @property
    def hidden_size(self) -> int:
        """Units."""
        return self.b.shape[0]

    def drive(self, inputs: Tensor) -> Tensor:
        """The input's part of a step, `U x`, plus `b` where that is a bias: `(..., input_size)` to `(..., hidden)`."""
        return functional.linear(inputs, self.U, None if self.kind == "modrelu" else self.b)

    def transposed(self) -> Tensor:
        """The recurrent matrices as `increment` takes them; made once for all steps of a pass."""
        return self.W.T if self.A is None else RecurrentDrift.from_matrices(self.A, self.W, self.U, self.b).matrices

    def increment(self, drive: Tensor, state: Tensor, matrices: Tensor, dt: Tensor | None) -> Tensor:
        """The increment Δ, `(batch, state_size)`.

        Args:
            drive: `drive` of the step's inputs, `(batch, hidden_size)`.
            state: `(batch, state_size)`.
            matrices: From `transposed`.
            dt: Length of the step in nominal steps, broadcast against `(batch, hidden_size)`; `None` is 1.
        """
        step = self.step if dt is None else self.step * dt
        if self.A is not None:
            return step * RecurrentDrift(matrices, self.U, self.b, self.activation).driven(state, drive)
        if self.kind == "current":
            return step * (torch.addmm(drive, self.activation.function(state), matrices) - state)
        z = torch.addmm(drive, state, matrices)
        if self.kind == "modrelu":
            return modrelu(z, self.b) - state
        if self.kind == "drift":
            return step * self.activation.function(z)
        stiffness, friction = self.coefficients
        position, velocity = state.chunk(2, dim=1)
        kick = step * (torch.tanh(z) - stiffness * position - friction * velocity)
        return torch.cat([step * (velocity + kick), kick], dim=1)

    def output(self, state: Tensor) -> Tensor:
        """The outputs of states, `(..., state_size)` to `(..., hidden_size)`."""
        return self.activation.function(state) if self.kind == "current" else state[..., : self.hidden_size]

    def unfused(self) -> str | None:
        """Return the reason why no fast kernel computes it, as a clause; `None` if one does."""
        if self.kind == "current":
            return "it has the current form"
        if self.activation.name != "tanh":
            return f"its activation is {self.activation.name or 'a function'}, not tanh"
        return None

    def own_slopes(self, drive: Tensor, state: Tensor, dt: Tensor | None) -> Tensor | None:
        """The diagonal of the increment's Jacobian, `(batch, hidden_size)`; `None` for kinds that have none written."""
        step = self.step if dt is None else self.step * dt
        if self.kind == "drift":
            slope = self.activation.slope(torch.addmm(drive, state, self.W.T)) * self.W.diagonal()
            return step * (slope if self.A is None else slope + self.A.diagonal())
        if self.kind == "current":
            return step * (self.activation.slope(state) * self.W.diagonal() - 1)
        return None


def modrelu(z: Tensor, threshold: Tensor) -> Tensor:
    """`sign(z) · relu(|z| + threshold)`, entry by entry."""
    return torch.sign(z) * torch.relu(z.abs() + threshold)
