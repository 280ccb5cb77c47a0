import copy
import pickle

import pytest
import torch

from noisyrnn.models.sequences.source import NoiseSource
from noisyrnn.sde import BrownianPath, HiddenNoise, derive_seed

NOISE = HiddenNoise(additive=0.1)


def test_when_it_acts() -> None:
    source = NoiseSource(None)
    assert source.switch == "auto"
    assert source.acts(NOISE, True) and not source.acts(NOISE, False)
    source.switch = "on"
    assert source.acts(NOISE, False) and not source.acts(HiddenNoise(), True)
    source.switch = "off"
    assert not source.acts(NOISE, True)


def test_paths_of_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    source = NoiseSource(4)
    assert [source.path() for _ in range(2)] == [BrownianPath(seed=derive_seed(4, 0, count)) for count in (1, 2)]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    assert source.path() == BrownianPath(seed=derive_seed(4, 2, 3))
    assert NoiseSource(None).path() != NoiseSource(None).path()


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
