import math

import torch

from noisyrnn.robustness import WhiteNoise


def test_mean_and_variance_within_four_standard_errors():
    n, sigma = 40_000, 0.3
    inputs = torch.full((4, n // 4, 1), 0.7, dtype=torch.float64)
    noise = WhiteNoise(sigma)(None, inputs, torch.zeros(4), generator=torch.Generator().manual_seed(1)) - inputs
    assert abs(noise.mean()) < 4 * sigma / math.sqrt(n)
    assert abs(noise.var() - sigma**2) < 4 * sigma**2 * math.sqrt(2 / n)


def test_is_independent_of_the_input():
    small, large = torch.zeros(3, 50, 2, dtype=torch.float64), torch.full((3, 50, 2), 8.0, dtype=torch.float64)
    one, two = (WhiteNoise(0.5)(None, x, x, generator=torch.Generator().manual_seed(1)) - x for x in (small, large))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-14)  # rounding at 8


def test_scales_with_strength():
    inputs = torch.zeros(3, 50, 2)
    one, two = (WhiteNoise(s)(None, inputs, inputs, generator=torch.Generator().manual_seed(1)) for s in (0.5, 1.0))
    assert torch.equal(2 * one, two)
