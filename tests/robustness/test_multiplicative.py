import math

import torch

from noisyrnn.robustness import MultiplicativeNoise


def test_factor_has_mean_one_and_variance_of_the_strength_squared():
    n, sigma = 40_000, 0.3
    inputs = torch.full((4, n // 4, 1), -2.0, dtype=torch.float64)
    result = MultiplicativeNoise(sigma)(None, inputs, inputs, generator=torch.Generator().manual_seed(1))
    factor = result / inputs
    assert abs(factor.mean() - 1) < 4 * sigma / math.sqrt(n)
    assert abs(factor.var() - sigma**2) < 4 * sigma**2 * math.sqrt(2 / n)


def test_zero_stays_zero():
    inputs = torch.zeros(2, 3, 1)
    assert torch.equal(MultiplicativeNoise(5.0)(None, inputs, inputs, generator=torch.Generator()), inputs)
