"""The step of a cell in tensors, in the form that the fast kernels take."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from noisyrnn.sde.activation import TANH, Activation
from noisyrnn.sde.drift import RecurrentDrift

KINDS = ("drift", "rate", "current", "oscillator", "modrelu", "gru", "lstm")
DRIFTS = ("drift", "rate", "current")
"""The kinds with an activation of choice, whose derivatives are written out."""
GATED = ("gru", "lstm")
"""The kinds with gates, whose weights lie as torch's do: the gates' matrices one under the other."""


class Recurrence(NamedTuple):
    r"""One noise-free step :math:`h \leftarrow h + \Delta`, of one of these kinds.

    - "drift": :math:`\Delta = d \odot (A h + a(W h + U x + b))`, without `A h` where `A` is `None`.
    - "rate": :math:`\Delta = d \odot (-h + a(W h + U x + b))`.
    - "current": :math:`\Delta = d \odot (-h + W a(h) + U x + b)`; the output is :math:`a(h)`.
    - "oscillator": the state is `(y, z)`; with `coefficients` :math:`(\gamma, \epsilon)`,
      :math:`\Delta_z = d\,[\tanh(W (y, z) + U x + b) - \gamma y - \epsilon z]`, :math:`\Delta_y = d\,(z + \Delta_z)`.
    - "modrelu": :math:`\Delta = \mathrm{modReLU}_b(W h + U x) - h`, with `b` the threshold. `step` is 1.
    - "gru": :math:`\Delta = (1 - z) \odot (n - h)` with torch's gates r, z and n, of which `W` and `U` have three
      blocks of rows, and `b` four: those of r and z, that of `U x` and that of `W h` in n. `step` is 1.
    - "lstm": the state is `(h, c)`; torch's gates i, f, g and o, of which `W`, `U` and `b` have four blocks of rows.
      `step` is 1.

    Where a step lasts `dt` nominal steps, `d` stands for `step * dt`; the last three kinds have no step length.

    Args:
        kind: One of `KINDS`.
        A: `(hidden_size, hidden_size)`, or `None`; for "drift" only.
        W: `(hidden_size, hidden_size)`; of the oscillator `(hidden_size, state_size)`.
        U: `(hidden_size, input_size)`.
        b: `(hidden_size,)`.
        step: d, `(hidden_size,)`.
        coefficients: Constants of the kind.
        activation: a of the first three kinds; tanh by default, which is that of the others.
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
        return self.step.shape[0]

    @property
    def linear(self) -> Tensor | None:
        """The matrix of the drift's linear part: `A`, or -I for a leak; `None` for none."""
        if self.kind in ("rate", "current"):
            return -torch.eye(self.hidden_size, dtype=self.W.dtype, device=self.W.device)
        return self.A

    def drive(self, inputs: Tensor) -> Tensor:
        """The input's part of a step, `U x` and the bias beside it: `(..., input_size)` to `(..., rows of U)`."""
        bias = None if self.kind == "modrelu" else self.b[: len(self.U)]
        return functional.linear(inputs, self.U, bias)

    def transposed(self) -> Tensor:
        """The recurrent matrices as `increment` takes them; made once for all steps of a pass."""
        return self.W.T if self.A is None else RecurrentDrift.from_matrices(self.A, self.W, self.U, self.b).matrices

    def increment(self, drive: Tensor, state: Tensor, matrices: Tensor, dt: Tensor | None) -> Tensor:
        """The increment Δ, `(batch, state_size)`.

        Args:
            drive: `drive` of the step's inputs, `(batch, rows of U)`.
            state: `(batch, state_size)`.
            matrices: From `transposed`.
            dt: Length of the step in nominal steps, broadcast against `(batch, hidden_size)`; `None` is 1.
        """
        if self.kind in GATED:
            return self._gated(drive, state, matrices)
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
        if self.kind == "rate":
            return step * (self.activation.function(z) - state)
        stiffness, friction = self.coefficients
        position, velocity = state.chunk(2, dim=1)
        kick = step * (torch.tanh(z) - stiffness * position - friction * velocity)
        return torch.cat([step * (velocity + kick), kick], dim=1)

    def _gated(self, drive: Tensor, state: Tensor, matrices: Tensor) -> Tensor:
        """Δ of the kinds with gates."""
        h = state[:, : self.hidden_size]
        if self.kind == "gru":
            (r, z, n), (r_h, z_h, n_h) = drive.chunk(3, dim=1), (h @ matrices).chunk(3, dim=1)
            n = torch.tanh(n + torch.sigmoid(r + r_h) * (n_h + self.b[len(self.U) :]))
            return (1 - torch.sigmoid(z + z_h)) * (n - h)
        i, f, g, o = torch.addmm(drive, h, matrices).chunk(4, dim=1)
        c = torch.sigmoid(f) * state[:, self.hidden_size :] + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], dim=1) - state

    def output(self, state: Tensor) -> Tensor:
        """The outputs of states, `(..., state_size)` to `(..., hidden_size)`."""
        return self.activation.function(state) if self.kind == "current" else state[..., : self.hidden_size]

    def without_leak(self) -> "Recurrence":
        """The same step as a "drift", for kernels that do not know the kind "rate"; any other is returned unchanged."""
        return self._replace(kind="drift", A=self.linear) if self.kind == "rate" else self

    def own_slopes(self, drive: Tensor, state: Tensor, dt: Tensor | None) -> Tensor | None:
        """The diagonal of the increment's Jacobian, `(batch, hidden_size)`; `None` for kinds that have none written."""
        step = self.step if dt is None else self.step * dt
        if self.kind == "drift":
            slope = self.activation.slope(torch.addmm(drive, state, self.W.T)) * self.W.diagonal()
            return step * (slope if self.A is None else slope + self.A.diagonal())
        if self.kind == "rate":
            return step * (self.activation.slope(torch.addmm(drive, state, self.W.T)) * self.W.diagonal() - 1)
        if self.kind == "current":
            return step * (self.activation.slope(state) * self.W.diagonal() - 1)
        return None


def modrelu(z: Tensor, threshold: Tensor) -> Tensor:
    """`sign(z) · relu(|z| + threshold)`, entry by entry."""
    return torch.sign(z) * torch.relu(z.abs() + threshold)
