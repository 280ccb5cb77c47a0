"""Salt-and-pepper noise on the inputs."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from noisyrnn.checks import check_number
from noisyrnn.robustness.base import InputNoise, Range, check_settings, uniform


@final
@dataclass(frozen=True)
class SaltAndPepper(InputNoise):
    """Salt-and-pepper noise: each entry becomes, with probability α, `low` or `high` with equal chance, else stays.

    What a small α changes, a larger one changes too, in the same way, when the generator is the same.

    Args:
        strength: The probability α, in [0, 1].
        clip: Range the result is cut to; it changes only entries that lay outside it.
        low: Value of pepper, the smallest an input takes; or one number for each channel.
        high: Value of salt, the largest an input takes; or one number for each channel, not below `low`.

    Raises:
        ValueError: If `strength` is not a probability, `clip` is empty, or `high` is not above `low`.
    """

    strength: float
    clip: Range | None = None
    low: float | tuple[float, ...] = 0.0
    high: float | tuple[float, ...] = 1.0

    name: ClassVar[str] = "salt_and_pepper"
    symbol: ClassVar[str] = "α"
    random: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self.strength, self.clip)
        check_number("strength", self.strength, minimum=0, maximum=1)
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

    def perturb(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """The inputs with salt and pepper."""
        if isinstance(self.low, tuple) and inputs.shape[2] != len(self.low):
            raise ValueError(f"inputs must have {len(self.low)} channels, those of low, got {inputs.shape[2]}.")
        hit = uniform(inputs, generator) < self.strength
        salt = uniform(inputs, generator) < 0.5
        low, high = (inputs.new_tensor(value).expand_as(inputs) for value in (self.low, self.high))
        extreme = torch.where(salt, high, low)
        return torch.where(hit, extreme, inputs)
