"""One step of a stochastic differential equation, by schemes of known order."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from noisyrnn.checks import check_choice

Field = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SDE:
    r"""The equation :math:`dh = f(h)\,dt + \sigma(h) \odot dB`, one Brownian motion for each unit.

    Args:
        drift: f, `(batch, units)` to `(batch, units)`.
        diffusion: The diagonal of σ, `(batch, units)` to `(batch, units)`.
        interpretation: "ito" or "stratonovich": what the stochastic integral means.
    """

    drift: Field
    diffusion: Field
    interpretation: str = "ito"

    def __post_init__(self) -> None:
        check_choice("interpretation", self.interpretation, ("ito", "stratonovich"))

    def correction(self, h: Tensor) -> Tensor:
        r"""The product :math:`\sigma_i \partial_i \sigma_i`, each entry of σ depending on its own unit alone."""
        sigma = self.diffusion(h)
        return torch.func.jvp(self.diffusion, (h,), (sigma,))[1]

    def stratonovich(self) -> "SDE":
        """The same process as a Stratonovich equation: the drift loses half the correction (diagonal noise assumed)."""
        if self.interpretation == "stratonovich":
            return self
        return SDE(lambda h: self.drift(h) - 0.5 * self.correction(h), self.diffusion, "stratonovich")


class Integrator(Protocol):
    """A scheme for one step, and what it is known to reach.

    Attributes:
        strong_order: Order of the pathwise error for diagonal multiplicative noise.
        additive_order: The same where the diffusion does not depend on the state.
        weak_order: Order of the error of expectations.
        interpretation: Which integral it converges to.
    """

    strong_order: ClassVar[float]
    additive_order: ClassVar[float]
    weak_order: ClassVar[float]
    interpretation: ClassVar[str]

    def step(self, sde: SDE, h: Tensor, step_size: Tensor | float, increment: Tensor) -> Tensor:
        """The state after `step_size`, given the Brownian `increment` over it; all `(batch, units)`."""
        ...


def _check_interpretation(integrator: Integrator, sde: SDE) -> None:
    if sde.interpretation != integrator.interpretation:
        hint = " Use sde.stratonovich()." if sde.interpretation == "ito" else " Use StochasticHeun."
        raise ValueError(
            f"interpretation must be {integrator.interpretation!r} for {type(integrator).__name__}, "
            f"got {sde.interpretation!r}.{hint}"
        )


@dataclass(frozen=True)
class EulerMaruyama:
    r"""The scheme :math:`h + \delta f(h) + \sigma(h) \Delta B`; any diagonal diffusion, Itô."""

    strong_order: ClassVar[float] = 0.5
    additive_order: ClassVar[float] = 1.0
    weak_order: ClassVar[float] = 1.0
    interpretation: ClassVar[str] = "ito"

    def step(self, sde: SDE, h: Tensor, step_size: Tensor | float, increment: Tensor) -> Tensor:
        """One step; see `Integrator.step`."""
        _check_interpretation(self, sde)
        return h + step_size * sde.drift(h) + sde.diffusion(h) * increment


@dataclass(frozen=True)
class Milstein:
    r"""Euler-Maruyama plus :math:`\frac{1}{2} \sigma_i \partial_i \sigma_i (\Delta B_i^2 - \delta)`, Itô.

    Assumes, and does not check, that each entry of the diffusion depends on its own unit alone; else the order is 1/2.
    """

    strong_order: ClassVar[float] = 1.0
    additive_order: ClassVar[float] = 1.0
    weak_order: ClassVar[float] = 1.0
    interpretation: ClassVar[str] = "ito"

    def step(self, sde: SDE, h: Tensor, step_size: Tensor | float, increment: Tensor) -> Tensor:
        """One step; see `Integrator.step`."""
        _check_interpretation(self, sde)
        euler = h + step_size * sde.drift(h) + sde.diffusion(h) * increment
        return euler + 0.5 * sde.correction(h) * (increment**2 - step_size)


@dataclass(frozen=True)
class StochasticHeun:
    r"""The trapezoidal predictor-corrector; converges to the Stratonovich solution.

    Assumes, and does not check, that the noise commutes (diagonal noise does); else the order is 1/2.
    """

    strong_order: ClassVar[float] = 1.0
    additive_order: ClassVar[float] = 1.0
    weak_order: ClassVar[float] = 1.0
    interpretation: ClassVar[str] = "stratonovich"

    def step(self, sde: SDE, h: Tensor, step_size: Tensor | float, increment: Tensor) -> Tensor:
        """One step; see `Integrator.step`."""
        _check_interpretation(self, sde)
        drift, diffusion = sde.drift(h), sde.diffusion(h)
        guess = h + step_size * drift + diffusion * increment
        return h + 0.5 * step_size * (drift + sde.drift(guess)) + 0.5 * (diffusion + sde.diffusion(guess)) * increment
