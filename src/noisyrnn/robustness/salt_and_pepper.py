"""Salt-and-pepper noise on the inputs."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from noisyrnn.checks import check_number
from noisyrnn.robustness.base import Model, Range, check_batch, check_settings, finish, uniform


@final
@dataclass(frozen=True)
class SaltAndPepper:
    """Salt-and-pepper noise: each entry becomes, with probability α, `low` or `high` with equal chance, else stays.

    What a small α changes, a larger one changes too, in the same way, when the generator is the same.

    Args:
        strength: The probability α, in [0, 1].
        clip: Range the result is cut to; it changes only entries that lay outside it.
        low: Value of pepper, the smallest an input takes.
        high: Value of salt, the largest an input takes.

    Raises:
        ValueError: If `strength` is no probability, `clip` is empty, or `high` is not above `low`.
    """

    strength: float
    clip: Range | None = None
    low: float = 0.0
    high: float = 1.0

    name: ClassVar[str] = "salt_and_pepper"
    symbol: ClassVar[str] = "α"
    random: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self.strength, self.clip)
        check_number("strength", self.strength, minimum=0, maximum=1)
        check_number("low", self.low)
        check_number("high", self.high, above=self.low)

    def __call__(
        self,
        model: Model | None,
        inputs: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Perturbed copy of `inputs`, `(batch, steps, input_size)`; neither model nor labels is used."""
        check_batch(inputs, lengths)
        if self.strength == 0:
            return inputs.clone()
        hit = uniform(inputs, generator) < self.strength
        salt = uniform(inputs, generator) < 0.5
        extreme = torch.where(salt, torch.full_like(inputs, self.high), torch.full_like(inputs, self.low))
        return finish(inputs, torch.where(hit, extreme, inputs), lengths=lengths, clip=self.clip)
