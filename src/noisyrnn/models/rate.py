"""The leaky rate network of computational neuroscience."""

import math
import warnings
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_choice, check_number
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.models.cell import LINEAR_INPUT, RecurrenceCell, bias_of
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.models.options import CellOptions, LayerOptions, cell_options, merge_options
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.sde.activation import Activation, activation_of, as_option

FORMS = ("rate", "current")
NOISE_UNITS = ("per_step", "per_time", "stationary")
ALPHA = 0.2
"""α by default: steps of 20 ms where the time constant is 100 ms."""


class RateCell(RecurrenceCell):
    r"""The increment :math:`\alpha\,(-h + a(W h + U x + b))`, or :math:`\alpha\,(-h + W a(h) + U x + b)` of currents.

    Args:
        input_size: Channels of one step.
        hidden_size: Units.
        alpha: α, in (0, 1].
        form: "rate" or "current".
        init_gain: `W` starts at `N(0, init_gain² / hidden_size)`; above 0.
        activation: a; see `DriftOptions`.
        options: Keyword arguments of `CellOptions`.
    """

    reads = LINEAR_INPUT

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        alpha: float,
        form: str,
        init_gain: float,
        activation: str | Activation = "tanh",
        **options: Unpack[CellOptions],
    ) -> None:
        super().__init__(input_size, hidden_size, **options)
        check_choice("form", form, FORMS)
        check_number("init_gain", init_gain, above=0.0)
        self.activation = activation_of(activation)
        self.activation_name = self.activation.name
        self.alpha = alpha
        self.form = form
        std = init_gain / math.sqrt(hidden_size)
        self.W = nn.Parameter(torch.randn(hidden_size, hidden_size, dtype=options.get("dtype")) * std)
        self.input = nn.Linear(input_size, hidden_size, **options)

    def recurrence(self) -> Recurrence:
        """The step in tensors."""
        step = self.W.new_full((self.hidden_size,), self.alpha)
        weights = (None, self.W, self.input.weight, bias_of(self.input))
        return Recurrence(self.form, *weights, step, activation=self.activation)

    def output(self, state: Tensor) -> Tensor:
        """The rates: the state, or a(h) of currents."""
        return self.activation(state) if self.form == "current" else state


class RateRNN(RecurrentLayer):
    r"""A network of leaky rate units, with noise. Its outputs are rates.

    In the rate form

    .. math:: r \leftarrow (1 - \alpha)\, r + \alpha\, a(W r + U x + b) + \eta,

    in the current form

    .. math:: v \leftarrow (1 - \alpha)\, v + \alpha\, (W a(v) + U x + b) + \eta, \qquad r = a(v) .

    The state is `r` or `v`, and so are `h_0` and `h_n`. A step of `dt` nominal steps has `α dt` in place of α; a
    warning says where that is above 1. `dt` is not in the unit of `tau`. With noise inside the activation the rate form
    is :math:`r \leftarrow (1 - \alpha)\, r + \alpha\, a(W r + U x + b + \zeta)`. With the level σ = `additive` the
    standard deviations in one step are

    ============  =====================  ======================  =====================
    noise_units   η (outside)            ζ (inside)              μ (relative)
    ============  =====================  ======================  =====================
    per_step      σ                      σ                       σ₂
    per_time      √α σ                   σ / √α                  σ₂ / √α
    stationary    √(2α) σ                √(2/α) σ                √(2/α) σ₂
    ============  =====================  ======================  =====================

    "stationary": a unit without input and recurrent weights then has, for small α, the standard deviation σ (for any α
    σ √(2 / (2 - α))). A `diffusion` has the units of η. With `multiplicative` σ₂ each unit's change in a step, α times
    f = -r + a(W r + U x + b), is multiplied by 1 + μ ξ: noise √(2α) σ₂ f ξ with "stationary", as σ₂ diag(f) of the
    equation has it. Rate form and α = 1 give `nn.RNN`.

    Args:
        input_size: Channels of one step, at least 1.
        hidden_size: Units, at least 1.
        alpha: Leak α = step / time constant, in (0, 1]; 0.2 by default.
        tau: Time constant, above 0, in any unit; given with `step_size` in place of `alpha`.
        step_size: Length of one step in the unit of `tau`, at most `tau`.
        form: "rate" or "current".
        noise_units: "per_step", "per_time" or "stationary".
        noise_place: "outside", or "inside" the activation, for the rate form only: noise on currents is inside already.
        init_gain: `W` starts at `N(0, init_gain² / hidden_size)`; above 0.
        options: Keyword arguments of `DriftOptions` and `LayerOptions`.

    Raises:
        ValueError: If an argument is out of range or does not go with another.

    Example:
        >>> layer = RateRNN(input_size=3, hidden_size=8, tau=100.0, step_size=20.0, activation="softplus")
        >>> rates, h_n = layer(torch.zeros(2, 5, 3))
        >>> rates.shape, h_n.shape
        (torch.Size([2, 5, 8]), torch.Size([1, 2, 8]))

    Reference:
        Song, Yang and Wang, Training excitatory-inhibitory recurrent neural networks for cognitive tasks, PLoS
        Computational Biology 2016; Eckstein and Srinivasan, arXiv:2601.04539, on noise outside and inside.
    """

    defaults: ClassVar[LayerOptions] = {"additive": 0.05}

    built_with: ClassVar[Collection[str]] = (
        "alpha",
        "tau",
        "step_size",
        "form",
        "init_gain",
        "activation",
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        alpha: float | None = None,
        tau: float | None = None,
        step_size: float | None = None,
        form: str = "rate",
        noise_units: str = "stationary",
        noise_place: str = "outside",
        init_gain: float = 1.0,
        activation: str | Activation = "tanh",
        **options: Unpack[LayerOptions],
    ) -> None:
        leak = leak_of(alpha, tau, step_size)
        check_choice("noise_units", noise_units, NOISE_UNITS)
        build = partial(
            RateCell,
            alpha=leak,
            form=form,
            init_gain=init_gain,
            activation=activation,
            **cell_options(options),
        )
        super().__init__(build, input_size, hidden_size, **merge_options(self.defaults, options))
        self.alpha = alpha
        self.tau = tau
        self.step_size = step_size
        self.form = form
        self.noise_units = noise_units
        self.noise_place = noise_place
        self.init_gain = init_gain
        self.activation = as_option(activation)
        self._check_place()

    @property
    def leak(self) -> float:
        """The leak α of a nominal step, in (0, 1]: `alpha`, or `step_size` / `tau`."""
        return leak_of(self.alpha, self.tau, self.step_size)

    def _check_steps(self, sizes: Tensor) -> None:
        """Warn if the leak of a step is above 1, where it overshoots."""
        largest = float(sizes.detach().max())
        if self.leak * largest > 1 + 1e-6:
            warnings.warn(
                f"A step of dt {largest:g} has the leak {self.leak * largest:.3g}, above 1, and overshoots. dt counts "
                "nominal steps: divide a length in the unit of tau by step_size, or lower alpha.",
                stacklevel=4,
            )

    def _noise_of(self, cell: Any) -> HiddenNoise:
        """Return the noise of one cell, per step."""
        noise = super()._noise_of(cell)
        if self.noise_place != "outside":
            noise = replace(noise, place=self.noise_place)
            if self.form == "current":
                raise ValueError(
                    "noise_place must be 'outside' with form 'current', got 'inside': the noise on the current v is "
                    "inside the activation already, as rates are a(v)."
                )
        check_choice("noise_units", self.noise_units, NOISE_UNITS)
        if self.noise_units == "per_step":
            return noise
        level = math.sqrt(2) if self.noise_units == "stationary" else 1.0
        return noise.per_time(noise_level=level, step_size=self.leak)

    def _check_place(self) -> None:
        """Raise `ValueError` unless the options of the noise go with the form and the scheme."""
        _ = self.hidden_noise
        if self.noise_place == "outside":
            return
        if self.scheme != "euler-maruyama":
            raise ValueError(
                f"scheme must be 'euler-maruyama' with noise_place 'inside', got {self.scheme!r}: the noise is not a "
                "diffusion."
            )


def leak_of(alpha: float | None, tau: float | None, step_size: float | None) -> float:
    """Return α, given as such or as `step_size / tau`.

    Raises:
        ValueError: If it is given twice, half, or is out of (0, 1].
    """
    if tau is None and step_size is None:
        alpha = ALPHA if alpha is None else alpha
        check_number("alpha", alpha, above=0.0)
        check_number("alpha", alpha, maximum=1.0)
        return float(alpha)
    for name, value in (("tau", tau), ("step_size", step_size)):
        if value is not None:
            check_number(name, value, above=0.0)
    if alpha is not None:
        raise ValueError(f"alpha must be None with tau and step_size, got {alpha:g}. Give one or the other.")
    if tau is None or step_size is None:
        raise ValueError(f"tau and step_size must be given together, got {tau!r} and {step_size!r}.")
    if step_size > tau:
        raise ValueError(f"step_size must be at most tau, {tau:g}, got {step_size:g}.")
    return float(step_size) / float(tau)
