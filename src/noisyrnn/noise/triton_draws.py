"""Draws a path's normal and uniform values on a GPU; imported only where it runs, since that takes a while."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from noisyrnn.native.library import Place

_BLOCK = 256
_MOST = 65535
"""Programs along the second and third axis of a grid."""


@triton.jit
def uniform(word):
    """A number on [0, 1) from the upper 24 bits of a word."""
    return (word >> 8).to(tl.float32) * (1.0 / 16777216.0)


@triton.jit
def _log(x):
    """Logarithm on (0, 1] to one rounding; the built-in one is an approximation too coarse near 1 (after Cephes)."""
    bits = x.to(tl.int32, bitcast=True) - 0x3F3504F3
    exponent = (bits >> 23).to(tl.float32)
    f = ((bits & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0  # in [sqrt(1/2) - 1, sqrt(2) - 1)
    z = f * f
    y = 7.0376836292e-2 * f - 1.1514610310e-1
    y = y * f + 1.1676998740e-1
    y = y * f - 1.2420140846e-1
    y = y * f + 1.4249322787e-1
    y = y * f - 1.6668057665e-1
    y = y * f + 2.0000714765e-1
    y = y * f - 2.4999993993e-1
    y = y * f + 3.3333331174e-1
    y = y * f * z - 2.12194440e-4 * exponent - 0.5 * z
    return f + y + 0.693359375 * exponent


@triton.jit
def _cos_sin(word):
    """Cosine and sine of the full turn times `uniform(word)`, to one rounding: the quadrant is exact in integers."""
    place = (word >> 8).to(tl.int32)
    quadrant = (place + (1 << 21)) >> 22
    x = (place - (quadrant << 22)).to(tl.float32) * 3.74507028e-7  # 2 pi / 2**24; x in [-pi/4, pi/4]
    z = x * x
    s = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * x + x
    c = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0
    turned = (quadrant & 1) == 1
    cos = tl.where(turned, s, c)
    sin = tl.where(turned, c, s)
    return tl.where(((quadrant + 1) & 2) == 2, -cos, cos), tl.where((quadrant & 2) == 2, -sin, sin)


@triton.jit
def normals(first, second):
    """Two standard normals from two words, as `noisyrnn.noise.draws.box_muller` makes them."""
    radius = tl.sqrt(-2.0 * _log(((first >> 8).to(tl.float32) + 0.5) * (1.0 / 16777216.0)))
    cos, sin = _cos_sin(second)
    return radius * cos, radius * sin


@triton.jit
def words(unit, pair, step, stream, seed):
    """Philox's four words of a counter, whose parts and the seed are broadcast."""
    low = (seed & 0xFFFFFFFF).to(tl.uint32)
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return tl.philox_impl(unit, pair, step, stream, low, high)


@triton.jit(do_not_specialize=["skip", "first_pair", "first_step", "stream"])
def _fill(
    seeds, first, second, first_replica, first_step_stride, second_replica, second_step_stride,
    batch, units, pairs, skip, first_pair, first_step, stream,
    FIRST: tl.constexpr, SECOND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The values of `BLOCK` units and pairs of rows of one step and replica."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    step, replica = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    pair, unit = place // units, place % units
    row = 2 * pair - skip
    now = (first_step + tl.program_id(1)).to(tl.uint32)
    c0, c1, c2, c3 = words(
        unit.to(tl.uint32), (first_pair + pair).to(tl.uint32), now, stream.to(tl.uint32), tl.load(seeds + replica)
    )
    at = row.to(tl.int64) * units + unit
    even, odd = (pair < pairs) & (row >= 0), (pair < pairs) & (row + 1 < batch)
    if FIRST:
        one, two = normals(c0, c1)
        target = first + replica * first_replica + step * first_step_stride + at
        tl.store(target, one, mask=even)
        tl.store(target + units, two, mask=odd)
    if SECOND != "":
        if SECOND == "uniform":
            one, two = uniform(c2), uniform(c3)
        else:
            one, two = normals(c2, c3)
        target = second + replica * second_replica + step * second_step_stride + at
        tl.store(target, one, mask=even)
        tl.store(target + units, two, mask=odd)


def fits(target: Tensor) -> bool:
    """Whether the kernel can write into a tensor `(replicas, steps, batch, units)`, and its grid has room for it."""
    return target[:1, :1].is_contiguous() and target.shape[0] <= _MOST and target.shape[1] <= _MOST


def fill(seeds: Tensor, first: Tensor | None, second: Tensor | None, place: Place, *, uniform: bool) -> None:
    """Write random values of a path's words, as `noisyrnn.native.library.draw` does.

    Args:
        seeds: int64 `(replicas,)` with the bits of the seeds.
        first: Gets the normals of the first motion, float32 `(replicas, steps, batch, units)`; `None` for none.
        second: Likewise the values of the second motion.
        place: Where the values begin in the path.
        uniform: Whether those are uniform, not normal.
    """
    target = second if first is None else first
    assert target is not None
    replicas, steps, batch, units = target.shape
    if target.numel() == 0:
        return
    skip, pairs = place.first_row % 2, (place.first_row % 2 + batch + 1) // 2
    blocks = triton.cdiv(pairs * units, _BLOCK)
    strides: list[Any] = [
        number for each in (first, second) for number in ((0, 0) if each is None else each.stride()[:2])
    ]
    _fill[(blocks, steps, replicas)](
        seeds,
        target if first is None else first,
        target if second is None else second,
        *strides,
        batch,
        units,
        pairs,
        skip,
        place.first_row // 2,
        place.first_step,
        place.stream,
        FIRST=first is not None,
        SECOND="" if second is None else "uniform" if uniform else "normal",
        BLOCK=_BLOCK,
    )
