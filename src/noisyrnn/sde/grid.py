"""Partitions of time into steps, equal or not."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from noisyrnn.checks import check_integer, check_number


@dataclass(frozen=True, eq=False)
class TimeGrid:
    """A partition `0 = t_0 < … < t_M` given by its step sizes.

    Args:
        sizes: Step sizes δ, `(steps,)`, or `(batch, steps)` where every sequence has its own; all positive and finite.

    Raises:
        ValueError: If a size is not positive or the shape is another.
    """

    sizes: Tensor

    def __post_init__(self) -> None:
        if self.sizes.ndim not in (1, 2) or self.sizes.numel() == 0:
            raise ValueError(f"sizes must have shape (steps,) or (batch, steps), got {tuple(self.sizes.shape)}.")
        smallest, largest = float(self.sizes.min()), float(self.sizes.max())
        if not smallest > 0:
            raise ValueError(f"sizes must be positive, got {smallest:g} as the smallest.")
        if not math.isfinite(largest):
            raise ValueError(f"sizes must be finite, got {largest:g} as the largest.")

    @classmethod
    def uniform(cls, steps: int, size: float, *, dtype: torch.dtype | None = None) -> "TimeGrid":
        """`steps` equal steps of length `size`."""
        check_integer("steps", steps, minimum=1)
        check_number("size", size, above=0.0)
        return cls(torch.full((steps,), size, dtype=dtype))

    @classmethod
    def from_times(cls, times: Tensor) -> "TimeGrid":
        """The grid through increasing `times`, `(steps + 1,)` or `(batch, steps + 1)`."""
        return cls(times.diff(dim=-1))

    @property
    def steps(self) -> int:
        """Number of steps M."""
        return self.sizes.shape[-1]

    def times(self) -> Tensor:
        """The grid points `t_0 = 0` to `t_M`, `(..., steps + 1)`."""
        zero = torch.zeros_like(self.sizes[..., :1])
        return torch.cat([zero, self.sizes.cumsum(-1)], dim=-1)

    def coarsen(self, factor: int) -> "TimeGrid":
        """The grid of every `factor`-th point; `factor` must divide the number of steps."""
        check_integer("factor", factor, minimum=1)
        if self.steps % factor:
            raise ValueError(f"factor must divide the number of steps, {self.steps}, got {factor}.")
        return TimeGrid(self.sizes.unflatten(-1, (-1, factor)).sum(-1))
