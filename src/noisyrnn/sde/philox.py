"""Philox 4x32 with ten rounds, on torch's tensors or numpy's arrays, whose elementwise functions share their names."""

import functools
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch

WORD = 0xFFFFFFFF
"""The bits of a word."""

_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # what words are multiplied with
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # what the keys grow by

Array = Any
"""An int64 tensor or a uint64 array."""


def round_keys(key: Array) -> list[tuple[Array, Array]]:
    """What the two products of every other round are xored with: this round's key above the next one's."""
    low, high = ([(word + n * step) & WORD for n in range(10)] for word, step in ((key, _W0), (key >> 32, _W1)))
    return [tuple((word[n] << 32) | word[n + 1] for word in (low, high)) for n in range(0, 10, 2)]


def rounds(
    xp: ModuleType,
    counter: tuple[Array, Array, Array, Array],
    keys: Sequence[tuple[Array, Array]],
    memory: Sequence[Array | None] = (None,) * 5,
) -> tuple[Array, Array, Array, Array]:
    """Ten rounds; of the words the lower 32 bits count.

    A round takes the words (c0, c1, c2, c3) to the upper halves of c2's and c0's products, xored with c1, c3 and the
    keys, and to the lower halves. These are used once only, in the next round, so they stay where they are, below the
    upper ones; and keys for both halves go in at once.

    Args:
        xp: `torch` or `numpy`.
        counter: Four arrays of words that broadcast against one another; the last has no axis that the others lack.
        keys: Of `round_keys`.
        memory: Five of the shape that all words broadcast to, or `None` for fresh ones.

    Reference:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    cross = functools.partial(_cross, xp)
    c0, c1, c2, c3 = counter
    m0, m1, m2, m3, m4 = memory
    # After one round a word depends on a part of the counter only; after three on nearly all of it. So far the words
    # stay as small as broadcasting lets them.
    (k0, k1), (l0, l1) = keys[:2]
    p0, p1 = (c0 * _M0) ^ k1, (c2 * _M1) ^ k0
    c0, c1, c2, c3 = cross(p1, c1), p1, cross(p0, c3), p0

    p0, p1 = c0 * _M0, c2 * _M1
    c0, c1, c2, c3 = cross(p1, c1), p1, cross(p0, c3, m1), p0

    p0, p1 = (c0 * _M0) ^ l1, c2
    p1 *= _M1
    p1 ^= l0
    c0, c1, c2, c3 = cross(p1, c1, m0), p1, cross(p0, c3, m2), p0

    for n in range(3, 10):
        p0, p1 = c0, c2
        p0 *= _M0
        p1 *= _M1
        if n % 2 == 0:
            k0, k1 = keys[n // 2]
            p0 ^= k1
            p1 ^= k0
        c0 = cross(p1, c1, m4)
        c2 = cross(p0, c3, m1)
        c1, c3 = p1, p0
        m0, m1, m2, m3, m4 = m4, m2, m1, m0, m3  # where c0 to c3 now are, and what is free
    return c0, c1, c2, c3


def _cross(xp: ModuleType, above: Array, below: Array, memory: Array | None = None) -> Array:
    """The upper half of `above`, xored with the lower half of `below`; in `memory` or a fresh array."""
    if memory is None or above.shape != memory.shape:
        return xp.bitwise_xor((above >> 32) & WORD, below & WORD, out=memory)
    if xp is np and below.shape == memory.shape and sys.byteorder == "little":
        # As 32-bit words in a row, `below`'s lower halves come one before `above`'s upper ones: no shift, no mask.
        below32, above32, out = (array.reshape(-1).view(np.uint32) for array in (below, above, memory))
        np.bitwise_xor(above32[1:], below32[:-1], out=out[1:])
        memory >>= 32  # away with the lower halves, which mean nothing
        return memory
    if xp is np:
        np.right_shift(above, 32, out=memory)
    else:
        torch.bitwise_right_shift(above, 32, out=memory)
    memory ^= below
    memory &= WORD
    return memory
