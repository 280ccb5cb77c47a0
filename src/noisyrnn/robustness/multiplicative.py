"""Multiplicative noise on the inputs."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from noisyrnn.robustness.base import InputNoise, Range, check_settings, standard_normal


@final
@dataclass(frozen=True)
class MultiplicativeNoise(InputNoise):
    r"""Multiplicative noise, independent for every step and channel; an entry that is zero stays zero.

    .. math:: x' = x \odot \mu, \quad \mu \sim N(1, \sigma^2 I) .

    Args:
        strength: The relative standard deviation σ, `>= 0`.
        clip: Range the result is cut to; `None` lets it leave the range of the data.

    Raises:
        ValueError: If `strength` is negative or `clip` is empty.
    """

    strength: float
    clip: Range | None = None

    name: ClassVar[str] = "multiplicative_noise"
    symbol: ClassVar[str] = "σ"
    random: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self.strength, self.clip)

    def perturb(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """The inputs times the noise."""
        return inputs * (1 + self.strength * standard_normal(inputs, generator))
