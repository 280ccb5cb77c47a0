"""The generator: its published answers, for torch and numpy alike."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from noisyrnn.sde.draws import seed_bits
from noisyrnn.sde.philox import WORD, round_keys, rounds

# Known answers of the authors' library (Random123, kat_vectors, philox4x32 with ten rounds).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox(counter: tuple[Tensor, ...], key: Tensor) -> tuple[Tensor, ...]:
    """Four 32-bit words for each counter, all held in int64; a key has 64 bits, the first word's below the second's."""
    c0, c1, c2, c3, _ = torch.broadcast_tensors(*counter, key)
    return tuple(word & WORD for word in rounds(torch, (c0, c1, c2, c3), round_keys(key)))


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_torch_gives_the_published_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    c0, c1, c2, c3 = (torch.tensor([value]) for value in counter)
    bits = seed_bits(key[0] | key[1] << 32)
    assert tuple(int(word) for word in philox((c0, c1, c2, c3), bits)) == expected
    found = rounds(torch, (c0, c1, c2, c3), round_keys(bits), torch.empty(5, 1, dtype=torch.int64).unbind(0))
    assert tuple(int(word) & WORD for word in found) == expected


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("size", [1, 3])
def test_numpy_gives_the_published_answers(
    counter: tuple[int, ...],
    key: tuple[int, int],
    expected: tuple[int, ...],
    byteorder: str,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if byteorder != sys.byteorder == "big":
        pytest.skip("this machine cannot do as if its words began with the lower half")
    monkeypatch.setattr(sys, "byteorder", byteorder)
    words = [np.full(size, value, np.uint64) for value in counter]
    keys = round_keys(np.array([key[0] | key[1] << 32], np.uint64))
    for memory in ((None,) * 5, np.empty((5, size), np.uint64)):
        found = rounds(np, tuple(words), keys, memory)
        assert all(tuple(int(word[n]) & WORD for word in found) == expected for n in range(size))


def test_philox_broadcasts_and_leaves_its_arguments_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((5,), (3, 1), (2, 1, 1), (1,), (2, 1, 1, 1))
    *counter, key = [torch.randint(2**32, shape, generator=generator) for shape in shapes]
    key = key * 2**31 + 17
    before = [tensor.clone() for tensor in (*counter, key)]
    whole = torch.broadcast_tensors(*counter, key)
    found = philox(tuple(counter), key)
    for n in range(2):
        expected = philox(tuple(tensor[n] for tensor in whole[:4]), key[n, 0, 0, 0])
        assert all(torch.equal(one[n], other) for one, other in zip(found, expected, strict=True))
    assert all(torch.equal(one, other) for one, other in zip((*counter, key), before, strict=True))
