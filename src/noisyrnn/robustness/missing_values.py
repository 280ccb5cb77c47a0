"""Values that are missing at random, one by one or for a while."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from noisyrnn.checks import check_integer, check_number
from noisyrnn.missing import hold_last, missing_of
from noisyrnn.robustness.base import Noise
from noisyrnn.robustness.draws import Draws, draw_uniform

OUTAGE = 10
"""Steps of an outage in `PERTURBATIONS`."""


@final
@dataclass(frozen=True)
class MissingValues(Noise):
    """Each value is missing with probability p; or, with a `block`, each outage of that many steps happens with p.

    A missing value is NaN, and the model meets it as its attribute `missing` states. For a model without one the last
    value of the channel takes its place, and `fill` before the first value.

    An outage takes all channels. The steps are cut into blocks of `block` steps, the first of which begins at a random
    step up to `block - 1` steps before the sequence, so that each step is missing with probability p. With the same
    generator, a larger p removes every value that a smaller p removes.

    Args:
        strength: Probability p, in [0, 1].
        clip: Range that the other values are cut to.
        block: Steps of an outage; 1: each value by itself, whatever its channel.
        fill: What a model that does not meet missing values gets before the first value of a channel; or one number for
            each channel. The mean of the channel is a good one.
        scale: `None`: a probability has no unit.

    Raises:
        ValueError: If `strength` is not a probability, `clip` is empty, or `block` is below 1.

    Example:
        >>> inputs, labels = torch.arange(1.0, 9.0).reshape(1, 8, 1), torch.tensor([0])
        >>> lossy = MissingValues(0.3, block=2)
        >>> lossy(None, inputs, labels, generator=torch.Generator().manual_seed(1)).flatten()
        tensor([1., 1., 1., 4., 5., 6., 7., 7.])
    """

    block: int = 1
    fill: float | tuple[float, ...] = 0.0

    symbol = "p"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("strength", self.strength, minimum=0, maximum=1)
        check_integer("block", self.block, minimum=1)
        for value in self.fill if isinstance(self.fill, tuple) else (self.fill,):
            check_number("fill", value)
        if self.scale is not None:
            raise ValueError("scale must be None for missing values, got a Scale. A probability has no unit.")

    @property
    def name(self) -> str:
        """`missing_values`, or `missing_blocks` for outages."""
        return "missing_values" if self.block == 1 else "missing_blocks"

    def change(self, inputs: Tensor, strength: float | Tensor, generator: Draws) -> Tensor:
        """Remove some values."""
        drawn = draw_uniform(inputs, generator)
        if self.block > 1:
            shift = (draw_uniform(inputs[:, :1, :1], generator) * self.block).long().clamp(max=self.block - 1)
            step = torch.arange(inputs.shape[1], device=inputs.device)[None, :, None]
            drawn = drawn[:, :, :1].gather(1, (step + shift) // self.block)
        return torch.where(drawn < strength, torch.nan, inputs)

    def for_model(self, changed: Tensor, model: Any) -> Tensor:
        """Hold the last value in place of those that are missing, if the model does not meet them itself."""
        if missing_of(model) is not None:
            return changed
        if isinstance(self.fill, tuple) and len(self.fill) != changed.shape[2]:
            raise ValueError(f"inputs must have {len(self.fill)} channels, those of fill, got {changed.shape[2]}.")
        return hold_last(changed, torch.tensor(self.fill, dtype=changed.dtype, device=changed.device))
