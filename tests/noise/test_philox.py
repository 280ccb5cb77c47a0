"""The generator: its published answers."""

import pytest
import torch

from noisyrnn.noise.draws import seed_bits
from noisyrnn.noise.philox import WORD, philox

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
def test_the_published_answers(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    c0, c1, c2, c3 = (torch.tensor([value]) for value in counter)
    bits = seed_bits(key[0] | key[1] << 32)
    assert tuple(int(word) for word in philox((c0, c1, c2, c3), bits)) == expected


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
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(torch.broadcast_to(one, whole[0].shape)[n], other)
    assert all(torch.equal(one, other) for one, other in zip((*counter, key), before, strict=True))
