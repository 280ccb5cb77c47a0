r"""Integration schemes: one step of an Itô equation :math:`dh = f\,dt + \sigma\,dB` on a grid of times."""

from collections.abc import Callable
from typing import ClassVar, Protocol

from torch import Tensor


class Equation(Protocol):
    """An Itô equation with the steps of its grid, and the Brownian increment over each of them.

    All tensors are `(batch, state_size)`. Inputs and time are those of the step's beginning.
    """

    def drift(self, m: int, h: Tensor) -> Tensor:
        """δ f(h), with δ the length of step number m."""
        ...

    def perturb(self, m: int, h: Tensor, drift: Tensor) -> Tensor:
        """δ f(h) + σ(h) ΔB, given the first term."""
        ...

    def correction(self, m: int, h: Tensor, drift: Tensor) -> Tensor | None:
        """½ δ Σ_j Σ_i σ_ij ∂_i σ_kj, by which the drift of Stratonovich's equation is less; `None` where it is zero."""
        ...

    def iterated(self, m: int, h: Tensor) -> Tensor | None:
        """½ σ_i ∂_i σ_i (ΔB_i² - δ), for a diagonal σ whose entry i depends on unit i only; `None` where it is zero."""
        ...


class NoiseFree:
    """The `Equation` of a drift only.

    Args:
        change: δ f, from `(batch, state_size)` to the same shape.
    """

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self._change = change

    def drift(self, m: int, h: Tensor) -> Tensor:
        """As in `Equation`."""
        return self._change(h)

    def perturb(self, m: int, h: Tensor, drift: Tensor) -> Tensor:
        """As in `Equation`: the drift unchanged."""
        return drift

    def correction(self, m: int, h: Tensor, drift: Tensor) -> None:
        """As in `Equation`: none."""
        return None

    def iterated(self, m: int, h: Tensor) -> None:
        """As in `Equation`: none."""
        return None


class Scheme(Protocol):
    """A scheme for one step, and the orders of its errors.

    Attributes:
        strong_order: Order of the pathwise error.
        additive_order: The same where the diffusion does not depend on the state.
        weak_order: Order of the error of expectations.
    """

    strong_order: ClassVar[float]
    additive_order: ClassVar[float]
    weak_order: ClassVar[float]

    def step(self, equation: Equation, m: int, h: Tensor) -> Tensor:
        """The state after step number m, `(batch, state_size)`."""
        ...


class EulerMaruyama:
    r"""The scheme :math:`h + \delta f(h) + \sigma(h) \Delta B`, for any diffusion."""

    strong_order: ClassVar[float] = 0.5
    additive_order: ClassVar[float] = 1.0
    weak_order: ClassVar[float] = 1.0

    def step(self, equation: Equation, m: int, h: Tensor) -> Tensor:
        """As in `Scheme`."""
        return h + equation.perturb(m, h, equation.drift(m, h))


class Milstein:
    r"""Euler-Maruyama plus :math:`\frac{1}{2} \sigma_i \partial_i \sigma_i (\Delta B_i^2 - \delta)`.

    It needs a diagonal diffusion whose entry i depends on unit i only; for any other its order is 1/2.

    Reference:
        Milstein, Approximate integration of stochastic differential equations, 1974.
    """

    strong_order: ClassVar[float] = 1.0
    additive_order: ClassVar[float] = 1.0
    weak_order: ClassVar[float] = 1.0

    def step(self, equation: Equation, m: int, h: Tensor) -> Tensor:
        """As in `Scheme`."""
        after = h + equation.perturb(m, h, equation.drift(m, h))
        iterated = equation.iterated(m, h)
        return after if iterated is None else after + iterated


class StochasticHeun:
    r"""Heun's predictor and corrector for the Stratonovich equation of the same process.

    .. math:: \hat h = h + \delta \tilde f(h) + \sigma(h) \Delta B, \quad
        h \leftarrow h + \tfrac{1}{2} \delta (\tilde f(h) + \tilde f(\hat h))
        + \tfrac{1}{2} (\sigma(h) + \sigma(\hat h)) \Delta B, \quad
        \tilde f_k = f_k - \tfrac{1}{2} \sum_{j,i} \sigma_{ij} \partial_i \sigma_{kj} .

    Its strong order is 1 where the noise commutes, as a diagonal one does whose entry i depends on unit i only, and 1/2
    otherwise. Without noise it is Heun's method, of order 2.

    Reference:
        Rümelin, Numerical treatment of stochastic differential equations, SIAM J. Numer. Anal. 1982.
    """

    strong_order: ClassVar[float] = 0.5
    additive_order: ClassVar[float] = 1.0
    weak_order: ClassVar[float] = 1.0

    def step(self, equation: Equation, m: int, h: Tensor) -> Tensor:
        """As in `Scheme`."""
        first = self._move(equation, m, h)
        return h + 0.5 * (first + self._move(equation, m, h + first))

    @staticmethod
    def _move(equation: Equation, m: int, h: Tensor) -> Tensor:
        """The change by Stratonovich's drift and the noise, both at `h`."""
        drift = equation.drift(m, h)
        correction = equation.correction(m, h, drift)
        change = equation.perturb(m, h, drift)
        return change if correction is None else change - correction


SCHEMES: dict[str, Scheme] = {
    "euler-maruyama": EulerMaruyama(),
    "milstein": Milstein(),
    "stochastic-heun": StochasticHeun(),
}
