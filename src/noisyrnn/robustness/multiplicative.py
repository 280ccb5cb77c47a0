"""Multiplicative noise on the inputs."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from noisyrnn.robustness.base import Noise
from noisyrnn.robustness.draws import Draws, draw_normal


@final
@dataclass(frozen=True)
class MultiplicativeNoise(Noise):
    r"""Multiplicative noise, independent for every step and channel; a value that is zero stays zero.

    .. math:: x' = x \odot \mu, \quad \mu \sim N(1, \sigma^2 I) .

    Args:
        strength: Relative standard deviation σ, `>= 0`.
        clip: Range that the result is cut to; `None` lets it leave the range of the data.
        scale: Scale of the channels; the noise then multiplies the deviation from the channel's mean.
    """

    name = "multiplicative_noise"
    symbol = "σ"
    scale_unit = "of (x − m)"

    def change(self, inputs: Tensor, strength: float | Tensor, generator: Draws) -> Tensor:
        """Multiply by the noise."""
        return inputs * (1 + strength * draw_normal(inputs, generator))
