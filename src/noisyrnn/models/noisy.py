"""The noisy RNN."""

from typing import Any, ClassVar, Unpack

from noisyrnn.checks import check_choice, check_number
from noisyrnn.models.lipschitz import LipschitzRNN
from noisyrnn.models.options import LayerOptions, LipschitzOptions, merge_options
from noisyrnn.noise.hidden_noise import HiddenNoise

NOISE_UNITS = ("per_step", "per_time")


class NoisyLayerOptions(LipschitzOptions, LayerOptions, total=False):
    """Options that a `NoisyRNN` shares with other layers."""


class NoisyRNN(LipschitzRNN):
    r"""The noisy RNN: :math:`h \leftarrow h + \mu \odot d \odot (A h + a(W h + U x + b)) + \eta`.

    The Euler-Maruyama discretisation of :math:`dh = f\,dt + \varepsilon(\sigma_1 + \sigma_2 f)\,dB`, trained with the
    noise on and used with it off: a `LipschitzRNN` with a learnable step and with hidden noise. Defaults are the
    published ones.

    Args:
        input_size: Channels of one step, at least 1.
        hidden_size: Units, at least 1.
        noise_level: ε; other than 1 for "per_time" only.
        noise_units: "per_step", where `additive` and `multiplicative` are the standard deviations of η and μ in one
            step; or "per_time", where they are σ₁ and σ₂, levels of unit time, scaled by the root of the step, which
            must then be fixed. A diffusion has the units of `additive`.
        options: Keyword arguments of `LipschitzOptions` and `LayerOptions`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> layer = NoisyRNN(input_size=1, hidden_size=8)
        >>> outputs, h_n = layer(torch.zeros(2, 5, 1))
        >>> outputs.shape, h_n.shape
        (torch.Size([2, 5, 8]), torch.Size([1, 2, 8]))

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021.
    """

    defaults: ClassVar[NoisyLayerOptions] = {
        "step_size": 0.01,
        "learn_step": True,
        "additive": 0.05,
        "multiplicative": 0.02,
    }

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        noise_level: float = 1.0,
        noise_units: str = "per_step",
        **options: Unpack[NoisyLayerOptions],
    ) -> None:
        super().__init__(input_size, hidden_size, **merge_options(self.defaults, options))
        self.noise_level = noise_level
        self.noise_units = noise_units
        _ = self.hidden_noise  # options that do not go together fail here

    def _noise_of(self, cell: Any) -> HiddenNoise:
        """Return the noise of one cell, per step."""
        check_choice("noise_units", self.noise_units, NOISE_UNITS)
        check_number("noise_level", self.noise_level, minimum=0.0)
        noise = super()._noise_of(cell)
        if self.noise_units == "per_step":
            if self.noise_level != 1:
                raise ValueError(
                    f"noise_level must be 1 with noise_units 'per_step', got {self.noise_level:g}. "
                    "Use noise_units='per_time'."
                )
            return noise
        if self.learn_step:
            raise ValueError("learn_step must be False with noise_units 'per_time', got True.")
        if self.noise_law == "uniform":
            raise ValueError("noise_law must be 'gaussian' with noise_units 'per_time', got 'uniform'.")
        return noise.per_time(noise_level=self.noise_level, step_size=self.step_size)
