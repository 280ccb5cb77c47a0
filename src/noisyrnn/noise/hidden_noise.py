"""Hidden-state noise for any recurrent cell."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from noisyrnn.checks import check_choice, check_number
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.sde.diffusion import FunctionDiffusion, MatrixDiffusion, as_diffusion

FORMS = ("independent", "shared")
LAWS = ("gaussian", "uniform")
PLACES = ("outside", "inside")
NOISE_MODES = ("auto", "off", "on")
"""When a module adds noise: in training mode, never or always."""


class NoiseDraws(NamedTuple):
    """Random numbers of a whole pass, each `(steps, batch, hidden_size)` or `None` where that noise is zero.

    Args:
        additive: Standard normals of the additive term; of a diffusion `(steps, batch, columns)`.
        multiplicative: Standard normals, or uniform numbers, of the multiplicative term.
    """

    additive: Tensor | None
    multiplicative: Tensor | None


@dataclass(frozen=True, kw_only=True, repr=False)
class HiddenNoise:
    r"""Noise on the update of a hidden state: additive and multiplicative, or with a diffusion of the user's.

    A cell's update :math:`h \leftarrow h + \Delta` becomes :math:`h \leftarrow h + \mu \odot \Delta + \eta`. In the
    published parametrisation :math:`\eta \sim N(0, \mathrm{additive}^2)` and
    :math:`\mu = 1 + \mathrm{multiplicative} \cdot N(0, 1)`. Where a step lasts `dt` nominal steps, the additive part
    grows by :math:`\sqrt{dt}` and the relative part shrinks by it, as the Euler-Maruyama scheme has it.

    With a diffusion :math:`\sigma(h, x, t)` instead of the two levels,
    :math:`\eta = \sqrt{dt}\,\mathrm{scale}\,\sigma \xi` with one standard normal number ξ for each column of σ.

    Args:
        additive: Standard deviation of η for one nominal step, at least 0.
        multiplicative: Standard deviation of μ for one nominal step (uniform law: the width below 1), at least 0.
        form: "independent" draws the two terms apart; "shared" uses one number for both, as in the paper's formula.
        law: "gaussian", or "uniform": μ uniform on [1 - multiplicative, 1], as in the released script. That one has
            mean below 1 and is not a discretised SDE, so it takes neither the shared form nor `dt`.
        diffusion: A matrix `(hidden_size, columns)`, a callable (see `FunctionDiffusion`), or one of the two classes of
            `noisyrnn.sde`, in units of one nominal step. It replaces both levels, which must be 0.
        scale: Factor of the diffusion, at least 0; 1 without one.
        place: "outside", on the update; or "inside" the activation, where `additive` (or a matrix) is the standard
            deviation of a number that is added to its argument in one nominal step, and shrinks by :math:`\sqrt{dt}`.

    Raises:
        ValueError: If a level is negative, or a choice is unknown or does not go with another.
        TypeError: If the diffusion is neither a matrix nor callable.

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021.
    """

    additive: float = 0.0
    multiplicative: float = 0.0
    form: str = "independent"
    law: str = "gaussian"
    diffusion: MatrixDiffusion | FunctionDiffusion | None = None
    scale: float = 1.0
    place: str = "outside"

    def __post_init__(self) -> None:
        check_number("additive", self.additive, minimum=0.0)
        check_number("multiplicative", self.multiplicative, minimum=0.0)
        check_choice("noise_form", self.form, FORMS)
        check_choice("noise_law", self.law, LAWS)
        if self.law == "uniform" and self.form == "shared":
            raise ValueError("noise_form must be 'independent' with noise_law 'uniform', got 'shared'.")
        if self.law == "uniform" and self.multiplicative > 1:
            raise ValueError(f"multiplicative must be at most 1 with noise_law 'uniform', got {self.multiplicative:g}.")
        check_number("scale", self.scale, minimum=0.0)
        for name in ("additive", "multiplicative", "scale"):
            object.__setattr__(self, name, float(getattr(self, name)))  # NumPy's are floats too, and have another repr
        if self.place != "outside":
            check_choice("noise_place", self.place, PLACES)
        if self.diffusion is not None:
            object.__setattr__(self, "diffusion", as_diffusion(self.diffusion))
            for name in ("additive", "multiplicative"):
                if getattr(self, name) != 0:
                    raise ValueError(
                        f"{name} must be 0 with a diffusion, which replaces both levels, got {getattr(self, name):g}."
                    )
            if self.law != "gaussian":
                raise ValueError(f"noise_law must be 'gaussian' with a diffusion, got {self.law!r}.")
        elif self.scale != 1:
            raise ValueError(f"scale must be 1 without a diffusion, got {self.scale:g}. Use additive, multiplicative.")
        if self.place == "inside":
            if self.multiplicative != 0:
                raise ValueError(
                    f"multiplicative must be 0 with noise_place 'inside', got {self.multiplicative:g}: the "
                    "activation's argument has no update to multiply."
                )
            if self.diffusion is not None and not self.diffusion.constant:
                raise ValueError("diffusion must be a matrix with noise_place 'inside', got a callable.")

    def __repr__(self) -> str:
        """Show the levels, or the diffusion, and what differs from the defaults."""
        shown = {"additive": self.additive, "multiplicative": self.multiplicative, "form": self.form, "law": self.law}
        if self.diffusion is not None:
            shown = {"diffusion": self.diffusion, "scale": self.scale}
        if self.place != "outside":
            shown["place"] = self.place
        return f"HiddenNoise({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def per_time(self, *, noise_level: float = 1.0, step_size: float) -> "HiddenNoise":
        r"""Return the noise of one step, :math:`\varepsilon \sqrt{\delta}\, \sigma \xi`, given that of unit time.

        A cell moves by δf in a step, so that with :math:`\sigma = \sigma_1 + \sigma_2 f` the relative level is
        :math:`\varepsilon \sigma_2 / \sqrt{\delta}`. Noise inside the activation, which the step multiplies by δ, is
        :math:`\varepsilon \sigma / \sqrt{\delta}`.

        Args:
            noise_level: ε, at least 0.
            step_size: δ, the same for every unit, above 0.

        Raises:
            ValueError: If the law is uniform, or an argument is out of range.
        """
        check_number("noise_level", noise_level, minimum=0.0)
        check_number("step_size", step_size, above=0.0)
        if self.law == "uniform":
            raise ValueError("noise_law must be 'gaussian' for a noise of unit time, got 'uniform'.")
        root = math.sqrt(step_size)
        if self.place == "inside":
            return self.scaled(noise_level / root)
        if self.diffusion is not None:
            return self.scaled(noise_level * root)
        return replace(
            self,
            additive=noise_level * root * self.additive,
            multiplicative=noise_level * self.multiplicative / root,
        )

    @property
    def silent(self) -> bool:
        """Whether there is no noise."""
        if self.diffusion is not None:
            return self.scale == 0
        return self.additive == 0 and self.multiplicative == 0

    @property
    def state_free(self) -> bool:
        """Whether the diffusion does not depend on the state, so that the noise is additive."""
        return self.multiplicative == 0 if self.diffusion is None else self.diffusion.constant

    def scaled(self, factor: float) -> "HiddenNoise":
        """Return the noise with all its standard deviations multiplied by `factor`.

        Raises:
            ValueError: If `factor` is negative, or a level out of range with it.
        """
        check_number("factor", factor, minimum=0.0)
        if self.diffusion is not None:
            return replace(self, scale=factor * self.scale)
        return replace(self, additive=factor * self.additive, multiplicative=factor * self.multiplicative)

    def check_units(self, hidden_size: int) -> None:
        """Raise `ValueError` unless a diffusion that is a matrix has `hidden_size` rows."""
        if isinstance(self.diffusion, MatrixDiffusion) and len(self.diffusion.matrix) != hidden_size:
            shape = tuple(self.diffusion.matrix.shape)
            raise ValueError(f"diffusion must have {hidden_size} rows, one for each unit, got the shape {shape}.")

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
        """The random numbers of one pass over `steps` steps of `batch` rows; a diffusion has a unit per column."""
        if self.silent:
            return NoiseDraws(None, None)
        if self.diffusion is not None:
            normals = path.normals(steps=steps, batch=batch, units=units, motions=1, dtype=dtype, device=device)
            return NoiseDraws(normals[0], None)
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
        """The noisy increment `μ ⊙ Δ + η` of the two levels.

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
