"""The drift of a recurrent network in continuous time."""

from typing import NamedTuple

import torch
from torch import Tensor

from noisyrnn.sde.activation import TANH, Activation


class RecurrentDrift(NamedTuple):
    r"""The drift :math:`f(h, x) = A h + a(W h + U x + b)`.

    Holding `A` and `W` side by side lets one product serve both terms at every step.

    Args:
        matrices: `[A | W]` transposed and side by side, `(hidden_size, 2 * hidden_size)`; see `from_matrices`.
        U: Input weights, `(hidden_size, input_size)`.
        b: Bias, `(hidden_size,)`.
        activation: a; tanh by default.

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021.
    """

    matrices: Tensor
    U: Tensor
    b: Tensor
    activation: Activation = TANH

    @classmethod
    def from_matrices(cls, A: Tensor, W: Tensor, U: Tensor, b: Tensor) -> "RecurrentDrift":
        """The drift of `A` and `W`, `(hidden_size, hidden_size)` each."""
        return cls(torch.cat([A, W]).T, U, b)

    def drive(self, x: Tensor) -> Tensor:
        """The input's part `U x + b`: `(..., input_size)` to `(..., hidden_size)`, for all steps at once."""
        return torch.nn.functional.linear(x, self.U, self.b)

    def driven(self, h: Tensor, drive: Tensor) -> Tensor:
        """The drift at `h`, given `drive = U x + b`; both `(batch, hidden_size)`."""
        linear, recurrent = (h @ self.matrices).chunk(2, dim=-1)
        return linear + self.activation.function(recurrent + drive)

    def __call__(self, h: Tensor, x: Tensor) -> Tensor:
        """The drift at state `h`, `(batch, hidden_size)`, and input `x`, `(batch, input_size)`."""
        return self.driven(h, self.drive(x))
