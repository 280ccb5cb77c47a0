import copy
import pickle

import pytest
import torch

from noisyrnn.models.sequences.source import NoiseSource, _scrambled
from noisyrnn.sde import BrownianPath, HiddenNoise

NOISE = HiddenNoise(additive=0.1)


def test_when_it_acts() -> None:
    source = NoiseSource(None)
    assert source.switch == "auto"
    assert source.acts(NOISE, True) and not source.acts(NOISE, False)
    source.switch = "on"
    assert source.acts(NOISE, False) and not source.acts(HiddenNoise(), True)
    source.switch = "off"
    assert not source.acts(NOISE, True)


SPLITMIX64 = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
"""The published sequence from 1234567."""


def test_paths_of_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    source = NoiseSource(1234567)
    assert [source.path() for _ in range(5)] == [BrownianPath(seed=seed) for seed in SPLITMIX64]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    seeds = set()
    for rank in range(8):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        of_rank = NoiseSource(1234567)
        seeds |= {of_rank.path().seed for _ in range(50)}
    assert len(seeds) == 400
    assert NoiseSource(None).path() != NoiseSource(None).path()


@pytest.mark.parametrize("start", [0, 1234567, 2**63, 2**64 - 1, 3 * 2**64 + 5])
def test_a_tensor_gives_the_same_seeds_as_a_number(start: int) -> None:
    counts = torch.tensor([1, 2, 3, 1000, 2**40])
    found = [int(seed) % 2**64 for seed in _scrambled(start, counts)]
    assert found == [_scrambled(start, int(count)) for count in counts]


def test_copies_go_on_alike() -> None:
    source = NoiseSource(None)
    source.path()
    for other in (copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        assert other.path() == copy.deepcopy(source).path()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"^noise_seed must be at least 0, got -1\.$"):
        NoiseSource(-1)
    source = NoiseSource(1)
    with pytest.raises(ValueError, match=r"^noise must be one of auto, off, on, got 'of'\. Did you mean 'off'\?$"):
        source.switch = "of"
    assert source.switch == "auto"
