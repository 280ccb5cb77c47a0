"""Additive white noise on the inputs."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from noisyrnn.robustness.base import Noise
from noisyrnn.robustness.draws import Draws, draw_normal


@final
@dataclass(frozen=True)
class WhiteNoise(Noise):
    r"""Additive white noise, independent for every step and channel.

    .. math:: x' = x + \sigma \xi, \quad \xi \sim N(0, I) .

    Args:
        strength: Standard deviation σ, `>= 0`.
        clip: Range that the result is cut to; `None` lets it leave the range of the data, as the published table does.
        scale: Scale of the channels, in whose units the strength is; `None`: the units of the data.

    Example:
        >>> import torch
        >>> inputs, labels = torch.zeros(1, 40_000, 1), torch.tensor([0])
        >>> noisy = WhiteNoise(0.1)(None, inputs, labels, generator=torch.Generator().manual_seed(1))
        >>> round(float(noisy.std()), 2)
        0.1
    """

    name = "white_noise"
    symbol = "σ"

    def change(self, inputs: Tensor, strength: float | Tensor, generator: Draws) -> Tensor:
        """Add white noise."""
        return inputs + strength * draw_normal(inputs, generator)
