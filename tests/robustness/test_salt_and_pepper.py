import pytest
import torch
from scipy import stats

from noisyrnn.robustness import SaltAndPepper


def corrupted(alpha, *, seed=1, n=20_000):
    inputs = torch.full((2, n // 4, 2), 0.5)
    return SaltAndPepper(alpha, low=-1.0, high=2.0)(None, inputs, inputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("alpha", [0.03, 0.4])
def test_rates_within_binomial_bounds(alpha):
    n = 20_000
    result = corrupted(alpha, n=n)
    for value in (-1.0, 2.0):
        # 6e-5: the two tails beyond four standard errors.
        low, high = stats.binom.interval(1 - 6e-5, n, alpha / 2)
        assert low <= int((result == value).sum()) <= high
    assert set(result.unique().tolist()) == {-1.0, 0.5, 2.0}


def test_probability_one_spares_nothing():
    assert set(corrupted(1.0).unique().tolist()) == {-1.0, 2.0}


def test_larger_probability_extends_the_smaller():
    small, large = corrupted(0.1), corrupted(0.2)
    hit = small != 0.5
    assert torch.equal(small[hit], large[hit])
    assert int((large != 0.5).sum()) > int(hit.sum())


def test_messages():
    with pytest.raises(ValueError, match=r"^strength must"):
        SaltAndPepper(1.5)
    with pytest.raises(ValueError, match="high"):
        SaltAndPepper(0.1, low=1.0, high=0.0)
    with pytest.raises(TypeError, match="low"):
        SaltAndPepper(0.1, low=None)
