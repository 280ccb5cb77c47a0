"""The start and the proposals of the ℓ2 Square Attack: offsets of bumps, in units of the radius.

A pattern is two bumps side by side, each with a sign of its own. In the paper they have opposite signs, as the edges in
an image do; a recurrent network often reacts to a shift of many steps in one direction, which such pairs leave out.
"""

import torch
from torch import Tensor

from noisyrnn.padding import valid_values
from noisyrnn.robustness.draws import Draws, draw_uniform

TILES = 5
"""Windows that the start divides the valid steps into, as in the paper."""

SMALLEST = 3
"""Smallest window, as in the paper: a window of one step could only take all of the norm of another, or none."""

CANCELLED = 1e-6
"""Norm of a sum of two vectors of norm 1 that is rounding error only: the window then takes the opposite sign."""


def random_signs(uniform: Tensor) -> Tensor:
    """Convert uniform values from [0, 1) to -1 or 1 with equal probability."""
    return torch.where(uniform < 0.5, -1.0, 1.0)


def start_bumps(inputs: Tensor, lengths: Tensor | None, generator: Draws) -> Tensor:
    """Return an offset of norm 1 for each sequence: two bumps in each tile, of random signs in each channel.

    Args:
        inputs: `(batch, steps, channels)`.
        lengths: Valid steps of each sequence, `(batch,)`; `None` where all are.
        generator: Source of the draws: two signs for each tile and channel.

    Returns:
        Float64, `(batch, steps, channels)`.
    """
    batch, steps, channels = inputs.shape
    drawn = draw_uniform(inputs.new_empty(batch, TILES, 2 * channels, dtype=torch.float64), generator)
    count = _count(inputs, lengths)
    step = torch.arange(steps, device=inputs.device)[None, :, None]
    tile = (step * TILES // count).clamp(max=TILES - 1)  # (batch, steps, 1)
    first, last = (-(-(tile + k) * count // TILES) for k in (0, 1))
    signs = random_signs(drawn).gather(1, tile.expand(-1, -1, 2 * channels))
    offset = _pattern(step - first, last - first, signs)
    return _normalized(torch.where(step < count, offset, 0.0))


def propose_bumps(offset: Tensor, inputs: Tensor, lengths: Tensor | None, share: float, generator: Draws) -> Tensor:
    r"""Return the offset with the norm of two windows in one of them.

    With windows V and W of the same length, a pattern η of that length with random signs and t uniform in [0, 2):

    .. math:: \delta'_V = \|\delta_{V \cup W}\| \, \frac{\nu}{\|\nu\|}, \quad \nu = t \frac{\eta}{\|\eta\|}
        + \frac{\delta_V}{\|\delta_V\|}, \quad \delta'_{W \setminus V} = 0 .

    The norms are over all channels together, so that a proposal can move norm between channels; in the paper each
    channel keeps its own, except for what a clip cuts off.

    Args:
        offset: Float64, `(batch, steps, channels)`, of norm 1 for each sequence.
        inputs: Shape, type and place of the draws.
        lengths: Valid steps of each sequence, `(batch,)`; `None` where all are.
        share: Share of the valid steps that a window covers, in (0, 1].
        generator: Source of the draws: for each sequence two positions and t, and two signs for each channel.
    """
    batch, steps, channels = inputs.shape
    drawn = draw_uniform(inputs.new_empty(batch, 1, 2 * channels + 3, dtype=torch.float64), generator)
    count = _count(inputs, lengths)
    window = (share * count.double()).round().long().clamp_min(SMALLEST).minimum(count)
    start, other = ((drawn[..., k : k + 1] * (count - window + 1)).long() for k in (0, 1))
    step = torch.arange(steps, device=inputs.device)[None, :, None]
    inside, outside = ((first <= step) & (step < first + window) for first in (start, other))
    signed = _normalized(_pattern(step - start, window, random_signs(drawn[..., 3:])))
    mixed = 2 * drawn[..., 2:3] * signed + _normalized(offset * inside)  # the weight 1 of the paper refines less
    cancels = mixed.square().sum(dim=(1, 2), keepdim=True) < CANCELLED**2
    mixed = torch.where(cancels, signed, mixed)
    available = (offset * (inside | outside)).square().sum(dim=(1, 2), keepdim=True).sqrt()
    moved = available * _normalized(mixed)
    return torch.where(inside, moved, torch.where(outside, 0.0, offset))


def _count(inputs: Tensor, lengths: Tensor | None) -> Tensor:
    """Number of valid steps of each sequence, `(batch, 1, 1)`."""
    return valid_values(inputs, lengths).sum(dim=1, keepdim=True)


def _pattern(place: Tensor, length: Tensor, signs: Tensor) -> Tensor:
    """Return two bumps, half a window each, with their signs; zero outside of the window.

    Args:
        place: Number of each step in its window, `(batch, steps, 1)`.
        length: Length of the window, `(batch, steps or 1, 1)`.
        signs: -1 or 1, those of the first bump in each channel and those of the second,
            `(batch, steps or 1, 2 · channels)`.
    """
    half = length // 2
    first, second = signs.double().chunk(2, dim=2)
    return first * _bump(place, half) + second * _bump(place - half, length - half)


def _bump(place: Tensor, length: Tensor) -> Tensor:
    r"""Return the bump of the paper for one dimension, float64; zero outside of `[0, length)`.

    .. math:: \eta_r = \sum_{k=0}^{n - |r - n|} \frac{1}{(n + 1 - k)^2}, \quad n = \frac{\ell}{2}

    where ℓ is the length, and n is rounded down.
    """
    middle = length // 2
    size = int(middle.max()) + 2
    sums = torch.arange(1, size, dtype=torch.float64, device=place.device).pow(-2).cumsum(dim=0)
    sums = torch.cat([sums.new_zeros(1), sums])  # sums[n] = 1 + 1/4 + … + 1/n²
    height = sums[middle + 1] - sums[(place - middle).abs().clamp(max=size - 1)]
    return torch.where((place >= 0) & (place < length), height, 0.0)


def _normalized(values: Tensor) -> Tensor:
    """Divide each sequence by its norm; zeros remain zeros."""
    norm = values.square().sum(dim=(1, 2), keepdim=True).sqrt()
    return values / norm.clamp_min(torch.finfo(values.dtype).tiny)
