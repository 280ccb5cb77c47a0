"""The noise-free steps along a path with their first two derivatives in closed form, for the drift and the currents."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from noisyrnn.kernels.recurrence import Recurrence


class Steps(Protocol):
    """The noise-free steps along a path, all at once, and their derivatives."""

    @property
    def increment(self) -> Tensor:
        """The steps, `(steps, batch, d)`; zero once a sequence has finished."""
        ...

    def push(self, m: int, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return `J v` and `J u + h''[v, v]`, for vectors `(draws, batch, d)`."""
        ...

    def spread(self, m: int, covariance: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return `J C Jᵀ` and `J u + h'' : C`, for `(batch, d, d)` and `(batch, d)`."""
        ...


class DriftSteps(NamedTuple):
    """`Steps` `h + rate ⊙ (A h + a(W h + …))`.

    Args:
        A: `(d, d)`, or `None`.
        W: `(d, d)`.
        rate: `(steps, batch, d)`; zero once a sequence has finished, like the following.
        slope: `rate ⊙ a'`.
        bend: `rate ⊙ a''`: `h''[v, v] = bend ⊙ (W v)²`.
        increment: The steps themselves.
    """

    A: Tensor | None
    W: Tensor
    rate: tuple[Tensor, ...]
    slope: tuple[Tensor, ...]
    bend: tuple[Tensor, ...]
    increment: Tensor

    @classmethod
    def along(cls, recurrence: Recurrence, states: Tensor, drives: Tensor, rate: Tensor) -> "DriftSteps":
        """Return the steps from `states`, `(steps, batch, d)`, given the inputs' part and the rate of each."""
        A, W = recurrence.linear, recurrence.W
        activation, slope, bend = recurrence.activation.derivatives(states @ W.T + drives)
        drift = activation if A is None else activation + states @ A.T
        return cls(A, W, rate.unbind(0), (rate * slope).unbind(0), (rate * bend).unbind(0), rate * drift)

    def push(self, m: int, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Steps`."""
        both = torch.stack([v, u])
        inner = both @ self.W.T
        after = both + self.slope[m] * inner
        if self.A is not None:
            after = after + self.rate[m] * (both @ self.A.T)
        moved, carried = after.unbind(0)
        return moved, carried + self.bend[m] * inner.unbind(0)[0] ** 2

    def spread(self, m: int, covariance: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Steps`."""
        jacobian = self.slope[m][..., None] * self.W  # J - I
        if self.A is not None:
            jacobian = torch.addcmul(jacobian, self.rate[m][..., None], self.A)
        bent = self.bend[m] * ((covariance @ self.W.T) * self.W.T).sum(-2)
        return _spread(jacobian, covariance, u, bent)


class CurrentSteps(NamedTuple):
    """`Steps` `h + rate ⊙ (W a(h) - h + …)`.

    Args:
        W: `(d, d)`.
        rate: `(steps, batch, d)`; zero once a sequence has finished.
        slope: `a'`.
        bend: `a''`: `h''[v, v] = rate ⊙ W (bend ⊙ v²)`.
        increment: The steps themselves.
    """

    W: Tensor
    rate: tuple[Tensor, ...]
    slope: tuple[Tensor, ...]
    bend: tuple[Tensor, ...]
    increment: Tensor

    @classmethod
    def along(cls, recurrence: Recurrence, states: Tensor, drives: Tensor, rate: Tensor) -> "CurrentSteps":
        """As `DriftSteps.along`."""
        W = recurrence.W
        activation, slope, bend = recurrence.activation.derivatives(states)
        increment = rate * (activation @ W.T + drives - states)
        return cls(W, rate.unbind(0), slope.unbind(0), bend.unbind(0), increment)

    def push(self, m: int, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Steps`."""
        both = torch.stack([v, u])
        moved, carried = (both + self.rate[m] * ((self.slope[m] * both) @ self.W.T - both)).unbind(0)
        return moved, carried + self.rate[m] * ((self.bend[m] * v**2) @ self.W.T)

    def spread(self, m: int, covariance: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Steps`."""
        rate = self.rate[m]
        jacobian = rate[..., None] * self.slope[m][:, None, :] * self.W - torch.diag_embed(rate)  # J - I
        bent = rate * ((self.bend[m] * covariance.diagonal(dim1=1, dim2=2)) @ self.W.T)
        return _spread(jacobian, covariance, u, bent)


def _spread(jacobian: Tensor, covariance: Tensor, u: Tensor, bent: Tensor) -> tuple[Tensor, Tensor]:
    """Return `J C Jᵀ` and `J u + h'' : C`, given `J - I` and the last term."""
    half = torch.baddbmm(covariance, jacobian, covariance)
    return torch.baddbmm(half, half, jacobian.mT), u + (jacobian @ u[..., None])[..., 0] + bent


WRITTEN: dict[str, type[DriftSteps | CurrentSteps]] = {"drift": DriftSteps, "rate": DriftSteps, "current": CurrentSteps}
"""The kinds of recurrence with derivatives in closed form."""
