"""Salt-and-pepper noise on the inputs."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from noisyrnn.checks import check_number
from noisyrnn.robustness.base import Noise
from noisyrnn.robustness.draws import Draws, draw_uniform


@final
@dataclass(frozen=True)
class SaltAndPepper(Noise):
    """Salt-and-pepper noise: each value becomes, with probability α, `low` or `high` with equal chance.

    With the same generator, a larger α changes every value that a smaller α changes, in the same way.

    Args:
        strength: Probability α, in [0, 1].
        clip: Range that the result is cut to; it changes only values that lay outside it.
        low: Value of pepper, the smallest that an input takes; or one number for each channel.
        high: Value of salt, the largest that an input takes; or one number for each channel, not below `low`.
        scale: `None`: a probability has no unit.

    Raises:
        ValueError: If `strength` is not a probability, `clip` is empty, or `high` is not above `low`.
    """

    low: float | tuple[float, ...] = 0.0
    high: float | tuple[float, ...] = 1.0

    name = "salt_and_pepper"
    symbol = "α"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("strength", self.strength, minimum=0, maximum=1)
        if self.scale is not None:
            raise ValueError("scale must be None for salt and pepper, got a Scale. Set low=scale.low, high=scale.high.")
        low, high = self.low, self.high
        if isinstance(low, tuple) and isinstance(high, tuple):
            if len(low) != len(high):
                raise ValueError(f"low and high must hold as many numbers, got {len(low)} and {len(high)}.")
            for one, other in zip(low, high, strict=True):
                check_number("low", one)
                check_number("high", other, minimum=one)
            return
        check_number("low", low)
        assert isinstance(low, int | float)
        check_number("high", high, above=low)

    def change(self, inputs: Tensor, strength: float | Tensor, generator: Draws) -> Tensor:
        """Set some values to `low` or `high`."""
        if isinstance(self.low, tuple) and inputs.shape[2] != len(self.low):
            raise ValueError(f"inputs must have {len(self.low)} channels, those of low, got {inputs.shape[2]}.")
        hit = draw_uniform(inputs, generator) < strength
        salt = draw_uniform(inputs, generator) < 0.5
        low, high = (inputs.new_tensor(value).expand_as(inputs) for value in (self.low, self.high))
        return torch.where(hit, torch.where(salt, high, low), inputs)
