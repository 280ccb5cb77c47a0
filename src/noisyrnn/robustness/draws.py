"""Random values in the shape of inputs, from torch's generator or from a counter."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from noisyrnn.noise.brownian import BrownianPath


@dataclass
class PathDraws:
    """Draws that depend only on (seed, number of the draw, row, step, channel): those of `BrownianPath`.

    A batch that is split over processes has the values of the whole batch.

    Args:
        seed: In [0, 2⁶⁴).
        first_row: Number of the first row in the whole batch.
    """

    seed: int
    first_row: int = 0
    _streams: int = field(default=0, init=False, repr=False)

    def normal(self, inputs: Tensor) -> Tensor:
        """Draw the next N(0, 1) values in the shape, type and place of `inputs`, `(batch, steps, channels)`."""
        batch, steps, units = inputs.shape
        dtype, device = inputs.dtype, inputs.device
        drawn = self._next().normals(steps=steps, batch=batch, units=units, motions=1, dtype=dtype, device=device)
        return drawn[0].transpose(0, 1)

    def uniform(self, inputs: Tensor) -> Tensor:
        """Draw the next values from [0, 1), likewise."""
        batch, steps, units = inputs.shape
        dtype, device = inputs.dtype, inputs.device
        return self._next().uniforms(steps=steps, batch=batch, units=units, dtype=dtype, device=device).transpose(0, 1)

    def _next(self) -> BrownianPath:
        path = BrownianPath(seed=self.seed, first_row=self.first_row, stream=self._streams)
        self._streams += 1
        return path


Draws = torch.Generator | PathDraws
"""Source of random values; a generator is one of the CPU."""


def draw_normal(inputs: Tensor, generator: Draws) -> Tensor:
    """Draw independent N(0, 1) values in the shape, type and place of `inputs`."""
    if isinstance(generator, PathDraws):
        return generator.normal(inputs)
    return torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype, device="cpu").to(inputs.device)


def draw_uniform(inputs: Tensor, generator: Draws) -> Tensor:
    """Draw independent values from [0, 1) in the shape, type and place of `inputs`."""
    if isinstance(generator, PathDraws):
        return generator.uniform(inputs)
    return torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype, device="cpu").to(inputs.device)
