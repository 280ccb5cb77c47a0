"""The generator: its published answers, for torch and numpy alike."""

import numpy as np
import pytest
import torch

from noisyrnn.sde.philox import WORD, philox, round_keys, rounds

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


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    c0, c1, c2, c3 = (torch.tensor([value]) for value in counter)
    assert tuple(int(word) for word in philox((c0, c1, c2, c3), key)) == expected


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_numpy_gives_the_published_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    words = [np.array([value], np.uint64) for value in counter]
    for memory in ((None,) * 5, np.empty((5, 1), np.uint64)):
        found = rounds(np, tuple(words), round_keys(key), memory)
        assert tuple(int(word[0]) & WORD for word in found) == expected


def test_philox_broadcasts_and_leaves_its_arguments_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((5,), (3, 1), (2, 1, 1), (1,))
    counter = [torch.randint(2**32, shape, generator=generator) for shape in shapes]
    key = [torch.randint(2**32, shape, generator=generator) for shape in ((2, 1, 1, 1), ())]
    before = [tensor.clone() for tensor in (*counter, *key)]
    whole = torch.broadcast_tensors(*counter, *key)
    found = philox(tuple(counter), tuple(key))
    for n in range(2):
        plain = [tensor[n] for tensor in whole]
        expected = philox(tuple(plain[:4]), (int(key[0][n]), int(key[1])))
        assert all(torch.equal(one[n], other) for one, other in zip(found, expected, strict=True))
    assert all(torch.equal(one, other) for one, other in zip((*counter, *key), before, strict=True))
