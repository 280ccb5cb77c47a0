"""The noisy RNN, and the cell that it shares with the Lipschitz RNN."""

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_choice, check_number
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.models.cell import Cell
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.sde.diffusion import HiddenNoise
from noisyrnn.sde.drift import RecurrentDrift
from noisyrnn.sde.structure import check_structure, structured

PARAMETRISATIONS = ("paper", "published")


class LipschitzCell(Cell[RecurrentDrift]):
    r"""The increment :math:`d \odot (A h + \tanh(W h + U x + b))` with `A` and `W` of prescribed skewness and damping.

    Args:
        input_size: Channels of one step.
        hidden_size: Units.
        step_size: Initial value of every unit's step d, above 0.
        learn_step: Whether d is trained, one value a unit.
        skewness: β of both matrices, in [0.5, 1].
        damping: γ of both matrices, at least 0.
        init_std: The free matrices start at `N(0, (init_std / hidden_size)²)`, above 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float,
        learn_step: bool,
        skewness: float,
        damping: float,
        init_std: float,
    ) -> None:
        super().__init__(input_size, hidden_size)
        check_number("step_size", step_size, above=0.0)
        check_structure(skewness, damping)
        check_number("init_std", init_std, above=0.0)
        self.skewness = skewness
        self.damping = damping
        std = init_std / hidden_size
        self.B = nn.Parameter(torch.randn(hidden_size, hidden_size) * std)
        self.C = nn.Parameter(torch.randn(hidden_size, hidden_size) * std)
        self.input = nn.Linear(input_size, hidden_size)
        step = torch.full((hidden_size,), float(step_size))
        if learn_step:
            self.step_size = nn.Parameter(step)
        else:
            self.register_buffer("step_size", step)

    def _matrices(self) -> tuple[Tensor, Tensor]:
        """`A` and `W`."""
        A = structured(self.B, skewness=self.skewness, damping=self.damping)
        return A, structured(self.C, skewness=self.skewness, damping=self.damping)

    def weights(self) -> RecurrentDrift:
        """The drift with `A` and `W` written out."""
        return RecurrentDrift.from_matrices(*self._matrices(), self.input.weight, self.input.bias)

    def recurrence(self) -> Recurrence:
        """The same step for the fused kernels."""
        return Recurrence("drift", *self._matrices(), self.input.weight, self.input.bias, self.step_size)

    def drive(self, inputs: Tensor, weights: RecurrentDrift) -> Tensor:
        """`U x + b`."""
        return weights.drive(inputs)

    def increment(self, drive: Tensor, state: Tensor, weights: RecurrentDrift, dt: Tensor | None = None) -> Tensor:
        """The drift times each unit's step."""
        step = self.step_size if dt is None else self.step_size * dt
        return step * weights.driven(state, drive)


class NoisyRNN(RecurrentLayer):
    r"""The noisy RNN: :math:`h \leftarrow h + \mu \odot d \odot (A h + \tanh(W h + U x + b)) + \eta`.

    The Euler-Maruyama discretisation of :math:`dh = f\,dt + \varepsilon(\sigma_1 + \sigma_2 f)\,dB`, trained with the
    noise on and used with it off. Defaults are the published ones.

    Args:
        input_size: Channels of one step, at least 1.
        hidden_size: Units, at least 1.
        step_size: Initial step d of every unit, above 0.
        learn_step: Whether d is trained, one value a unit.
        skewness: β of `A` and `W`, in [0.5, 1].
        damping: γ of `A` and `W`, at least 0.
        init_std: The free matrices start at `N(0, (init_std / hidden_size)²)`, above 0.
        additive: "published": standard deviation of η. "paper": σ₁.
        multiplicative: "published": standard deviation of μ. "paper": σ₂.
        noise_level: ε; other than 1 for "paper" alone.
        parametrisation: "published" (levels of one step), or "paper" (levels of unit time, scaled by the root of the
            step, which must then be fixed).
        noise_form: "independent" or "shared"; see `HiddenNoise`.
        noise_law: "gaussian" or "uniform"; see `HiddenNoise`.
        noise_seed: See `RecurrentLayer`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> layer = NoisyRNN(input_size=1, hidden_size=8)
        >>> outputs, h_n = layer(torch.zeros(2, 5, 1))
        >>> outputs.shape, h_n.shape
        (torch.Size([2, 5, 8]), torch.Size([1, 2, 8]))

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float = 0.01,
        learn_step: bool = True,
        skewness: float = 0.75,
        damping: float = 0.001,
        init_std: float = 0.1,
        additive: float = 0.05,
        multiplicative: float = 0.02,
        noise_level: float = 1.0,
        parametrisation: str = "published",
        noise_form: str = "independent",
        noise_law: str = "gaussian",
        noise_seed: int | None = None,
    ) -> None:
        check_choice("parametrisation", parametrisation, PARAMETRISATIONS)
        check_number("noise_level", noise_level, minimum=0.0)
        if parametrisation == "published" and noise_level != 1:
            raise ValueError(
                f"noise_level must be 1 with parametrisation 'published', got {noise_level:g}. "
                "Use parametrisation='paper'."
            )
        if parametrisation == "paper" and learn_step:
            raise ValueError("learn_step must be False with parametrisation 'paper', got True.")
        if parametrisation == "paper" and noise_law == "uniform":
            raise ValueError("noise_law must be 'gaussian' with parametrisation 'paper', got 'uniform'.")
        cell = LipschitzCell(
            input_size,
            hidden_size,
            step_size=step_size,
            learn_step=learn_step,
            skewness=skewness,
            damping=damping,
            init_std=init_std,
        )
        super().__init__(
            cell,
            additive=additive,
            multiplicative=multiplicative,
            noise_form=noise_form,
            noise_law=noise_law,
            noise_seed=noise_seed,
        )
        self.step_size = step_size
        self.learn_step = learn_step
        self.skewness = skewness
        self.damping = damping
        self.init_std = init_std
        self.noise_level = noise_level
        self.parametrisation = parametrisation

    @property
    def hidden_noise(self) -> HiddenNoise:
        """The noise as laws and levels, in the published parametrisation."""
        if self.parametrisation == "published":
            return self._published_noise()
        return HiddenNoise.paper(
            noise_level=self.noise_level,
            additive=self.additive,
            multiplicative=self.multiplicative,
            step_size=self.step_size,
            form=self.noise_form,
        )
