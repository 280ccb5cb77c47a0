"""Philox 4x32 with ten rounds, on torch's tensors or numpy's arrays, whose elementwise functions share their names."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORD = 0xFFFFFFFF
"""The bits of a word."""

_M0, _M1 = 0xD2511F53, 0xCD9E8D57

Array = Any
"""An int64 tensor or a uint64 array."""

Key = tuple[int | Array, int | Array]


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Key) -> tuple[Tensor, ...]:
    """Four 32-bit words for each counter, all held in int64.

    Args:
        counter: Four int64 tensors that broadcast against one another, with values in [0, 2³²).
        key: Two integers in [0, 2³²), or int64 tensors of such that broadcast against the counters.

    Reference:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    whole = torch.broadcast_tensors(*counter, *(word for word in key if isinstance(word, Tensor)))
    words = rounds(torch, (whole[0], whole[1], whole[2], whole[3]), round_keys(key), (None,) * 5)
    return tuple(word & WORD for word in words)


def round_keys(key: Key) -> list[Key]:
    """The keys of all ten rounds, with upper bits that do not count."""
    return [(key[0] + n * 0x9E3779B9, key[1] + n * 0xBB67AE85) for n in range(10)]


def rounds(
    xp: ModuleType, counter: tuple[Array, Array, Array, Array], keys: Sequence[Key], memory: Sequence[Array | None]
) -> tuple[Array, Array, Array, Array]:
    """Ten rounds with their keys; the words have upper bits that do not count.

    A product of two 32-bit words fills 64 bits; what is above wraps, which leaves these right. Only what is multiplied
    has to be free of upper bits, so most words keep theirs.

    Args:
        xp: `torch` or `numpy`.
        counter: As in `philox`; the last word has no axis that the others lack.
        keys: Of the rounds.
        memory: Five of the shape that all words broadcast to, or `None` for fresh ones.
    """
    shift = torch.bitwise_right_shift if xp is torch else np.right_shift
    c0, c1, c2, c3 = counter
    m0, m1, m2, m3, m4 = memory
    # After one round a word depends on a part of the counter only; after three on nearly all of it. So far the words
    # stay as small as broadcasting lets them, and are masked while they are.
    k0, k1 = keys[0]
    p0, p1 = c0 * _M0, c2 * _M1
    c0, c1 = ((p1 >> 32) ^ c1 ^ k0) & WORD, p1
    c2, c3 = ((p0 >> 32) ^ c3 ^ k1) & WORD, p0

    k0, k1 = keys[1]
    p0, p1 = c0 * _M0, c2 * _M1
    c0, c1 = ((p1 >> 32) ^ c1 ^ k0) & WORD, p1
    c2, c3 = xp.bitwise_xor((p0 >> 32) & WORD, (c3 ^ k1) & WORD, out=m1), p0

    k0, k1 = keys[2]
    p0, p1 = c0 * _M0, c2
    p1 *= _M1
    c0 = shift(p1, 32, out=m0)
    c0 ^= c1 ^ k0
    c1 = p1
    c2, c3 = xp.bitwise_xor((p0 >> 32) & WORD, c3 ^ k1, out=m2), p0

    for k0, k1 in keys[3:]:
        p0, p1 = c0, c2
        p0 &= WORD
        p0 *= _M0
        p1 &= WORD
        p1 *= _M1
        c0 = shift(p1, 32, out=m4)
        c0 ^= c1
        c0 ^= k0
        c1 = p1
        c2 = shift(p0, 32, out=m1)
        c2 ^= c3
        c2 ^= k1
        c3 = p0
        m0, m1, m2, m3, m4 = m4, m2, m1, m0, m3  # where c0 to c3 now are, and what is free
    return c0, c1, c2, c3
