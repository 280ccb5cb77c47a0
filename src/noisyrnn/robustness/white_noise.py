"""Additive white noise on the inputs."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from noisyrnn.robustness.base import InputNoise, Range, check_settings, standard_normal


@final
@dataclass(frozen=True)
class WhiteNoise(InputNoise):
    r"""Additive white noise, independent for every step and channel.

    .. math:: x' = x + \sigma \xi, \quad \xi \sim N(0, I) .

    Args:
        strength: The standard deviation σ, in units of the inputs, `>= 0`.
        clip: Range the result is cut to; `None` lets it leave the range of the data, as the published table does.

    Raises:
        ValueError: If `strength` is negative or `clip` is empty.

    Example:
        >>> inputs, labels = torch.zeros(1, 40_000, 1), torch.tensor([0])
        >>> noisy = WhiteNoise(0.1)(None, inputs, labels, generator=torch.Generator().manual_seed(1))
        >>> round(float(noisy.std()), 2)
        0.1
    """

    strength: float
    clip: Range | None = None

    name: ClassVar[str] = "white_noise"
    symbol: ClassVar[str] = "σ"
    random: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self.strength, self.clip)

    def perturb(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """The inputs plus white noise."""
        return inputs + self.strength * standard_normal(inputs, generator)
