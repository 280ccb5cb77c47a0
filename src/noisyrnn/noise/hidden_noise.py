"""Hidden-state noise for any recurrent cell."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from noisyrnn.checks import check_choice, check_number
from noisyrnn.noise.brownian import BrownianPath

FORMS = ("independent", "shared")
LAWS = ("gaussian", "uniform")
NOISE_MODES = ("auto", "off", "on")
"""When a module adds noise: in training mode, never or always."""


class NoiseDraws(NamedTuple):
    """Random numbers of a whole pass, each `(steps, batch, hidden_size)` or `None` where that noise is zero.

    Args:
        additive: Standard normals of the additive term.
        multiplicative: Standard normals, or uniform numbers, of the multiplicative term.
    """

    additive: Tensor | None
    multiplicative: Tensor | None


@dataclass(frozen=True, kw_only=True)
class HiddenNoise:
    r"""Additive and multiplicative noise on the update of a hidden state.

    A cell's update :math:`h \leftarrow h + \Delta` becomes :math:`h \leftarrow h + \mu \odot \Delta + \eta`. In the
    published parametrisation :math:`\eta \sim N(0, \mathrm{additive}^2)` and
    :math:`\mu = 1 + \mathrm{multiplicative} \cdot N(0, 1)`. Where a step lasts `dt` nominal steps, the additive part
    grows by :math:`\sqrt{dt}` and the relative part shrinks by it, as the Euler-Maruyama scheme has it.

    Args:
        additive: Standard deviation of η for one nominal step, at least 0.
        multiplicative: Standard deviation of μ for one nominal step (uniform law: the width below 1), at least 0.
        form: "independent" draws the two terms apart; "shared" uses one number for both, as in the paper's formula.
        law: "gaussian", or "uniform": μ uniform on [1 - multiplicative, 1], as in the released script. That one has
            mean below 1 and is not a discretised SDE, so it takes neither the shared form nor `dt`.

    Raises:
        ValueError: If a level is negative, or a choice is unknown or does not go with another.

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021.
    """

    additive: float = 0.0
    multiplicative: float = 0.0
    form: str = "independent"
    law: str = "gaussian"

    def __post_init__(self) -> None:
        check_number("additive", self.additive, minimum=0.0)
        check_number("multiplicative", self.multiplicative, minimum=0.0)
        check_choice("noise_form", self.form, FORMS)
        check_choice("noise_law", self.law, LAWS)
        if self.law == "uniform" and self.form == "shared":
            raise ValueError("noise_form must be 'independent' with noise_law 'uniform', got 'shared'.")
        if self.law == "uniform" and self.multiplicative > 1:
            raise ValueError(f"multiplicative must be at most 1 with noise_law 'uniform', got {self.multiplicative:g}.")

    @classmethod
    def paper(
        cls,
        *,
        noise_level: float,
        additive: float = 1.0,
        multiplicative: float = 1.0,
        step_size: float,
        form: str = "independent",
    ) -> "HiddenNoise":
        r"""The noise :math:`\varepsilon \sqrt{\delta} (\sigma_1 + \sigma_2 f) \xi` of a cell moving by δf.

        Args:
            noise_level: ε, at least 0.
            additive: σ₁, at least 0.
            multiplicative: σ₂, at least 0.
            step_size: δ, the same for every unit, above 0.
            form: As for the class.
        """
        check_number("noise_level", noise_level, minimum=0.0)
        check_number("step_size", step_size, above=0.0)
        root = math.sqrt(step_size)
        return cls(
            additive=noise_level * root * additive, multiplicative=noise_level * multiplicative / root, form=form
        )

    @property
    def silent(self) -> bool:
        """Whether both levels are zero."""
        return self.additive == 0 and self.multiplicative == 0

    def acts(self, mode: str, training: bool) -> bool:
        """Whether a pass of a module has noise, given its noise mode (one of `NOISE_MODES`) and whether it trains."""
        return not self.silent and (mode == "on" or (mode == "auto" and training))

    def check_dt(self, dt: Tensor | None) -> None:
        """Raise if the law gives step lengths no meaning.

        Raises:
            ValueError: If `dt` is given with the uniform law.
        """
        if dt is not None and self.law == "uniform":
            raise ValueError("dt must be None with noise_law 'uniform', got step lengths. Use noise_law='gaussian'.")

    def draw(
        self,
        path: BrownianPath,
        *,
        steps: int,
        batch: int,
        units: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> NoiseDraws:
        """The random numbers of one pass over `steps` steps of `batch` rows."""
        if self.silent:
            return NoiseDraws(None, None)
        first, second = None, None
        if self.law == "gaussian":
            two = self.form == "independent" and self.multiplicative > 0
            normals = path.normals(
                steps=steps, batch=batch, units=units, motions=2 if two else 1, dtype=dtype, device=device
            )
            first, second = normals[0], normals[1] if two else normals[0]
        else:
            if self.additive > 0:
                first = path.normals(steps=steps, batch=batch, units=units, motions=1, dtype=dtype, device=device)[0]
            if self.multiplicative > 0:
                second = path.uniforms(steps=steps, batch=batch, units=units, dtype=dtype, device=device)
        return NoiseDraws(first if self.additive > 0 else None, second if self.multiplicative > 0 else None)

    def perturb(
        self, increment: Tensor, additive: Tensor | None, multiplicative: Tensor | None, dt: Tensor | None = None
    ) -> Tensor:
        """The noisy increment `μ ⊙ Δ + η`.

        Args:
            increment: Δ, `(batch, hidden_size)`.
            additive: One step of `NoiseDraws.additive`, `(batch, hidden_size)`.
            multiplicative: One step of `NoiseDraws.multiplicative`, `(batch, hidden_size)`.
            dt: Length of the step in nominal steps, broadcast against `(batch, hidden_size)`; `None` is 1.

        Raises:
            ValueError: If `dt` is given with the uniform law.
        """
        self.check_dt(dt)
        if multiplicative is not None:
            if self.law == "uniform":
                increment = increment * ((1 - self.multiplicative) + self.multiplicative * multiplicative)
            else:
                level = self.multiplicative if dt is None else self.multiplicative / dt.sqrt()
                increment = increment * (1 + level * multiplicative)
        if additive is not None:
            level = self.additive if dt is None else self.additive * dt.sqrt()
            increment = increment + level * additive
        return increment
