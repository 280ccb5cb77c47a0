"""The start and the proposals of the ℓ2 Square Attack, against their formulas written out for one sequence."""

import numpy as np
import pytest
import torch

from noisyrnn.robustness.bumps import TILES, propose_bumps, start_bumps


class Fixed:
    """Draws that are given: each call returns the next of them."""

    def __init__(self, *values):
        self.values = list(values)

    def uniform(self, inputs):
        drawn = self.values.pop(0)
        assert drawn.shape == inputs.shape
        return drawn


@pytest.fixture
def fixed(monkeypatch):
    """Makes `draw_uniform` take the values of a `Fixed`."""
    monkeypatch.setattr("noisyrnn.robustness.bumps.draw_uniform", lambda inputs, source: source.uniform(inputs))


def bump(length):
    """The bump of the paper for one dimension: a sum for each step, numbered from 1 as there."""
    n = length // 2
    heights = []
    for r in range(1, length + 1):
        last = n - abs(r - n - 1)
        heights.append(sum(1 / (n + 1 - k) ** 2 for k in range(last + 1)))
    return np.array(heights)


def pattern(length, first, second):
    half = length // 2
    return np.concatenate([first * bump(half), second * bump(length - half)])


def sign(value):
    return -1.0 if value < 0.5 else 1.0


def uniform(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9, 13, 30])
def test_the_start_is_a_pattern_in_each_tile(length, fixed):
    drawn = uniform(2, TILES, 6)
    inputs, lengths = torch.zeros(2, 30, 3), torch.tensor([length, 30])
    found = start_bumps(inputs, lengths, Fixed(drawn))
    expected = np.zeros((30, 3))
    for tile in range(TILES):
        steps = [step for step in range(length) if step * TILES // length == tile]
        for channel in range(3):
            signs = [sign(float(drawn[0, tile, channel + part])) for part in (0, 3)]
            if steps:
                expected[steps, channel] = pattern(len(steps), *signs)
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(found.square().sum(dim=(1, 2)).numpy(), 1, rtol=1e-12)


@pytest.mark.parametrize(("length", "share"), [(12, 0.3), (9, 0.5), (12, 1.0), (5, 0.01), (1, 0.7)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_proposal_moves_the_norm_of_two_windows_into_one(length, share, seed, fixed):
    drawn, offset = uniform(1, 1, 7, seed=seed), uniform(1, 12, 2, seed=seed + 9) - 0.5
    offset[0, length:] = 0
    offset /= offset.norm()
    found = propose_bumps(offset, torch.zeros(1, 12, 2), torch.tensor([length]), share, Fixed(drawn))[0].numpy()
    before, window = offset[0].numpy(), min(length, max(3, round(share * length)))
    into, other = (int(float(drawn[0, 0, k]) * (length - window + 1)) for k in (0, 1))
    into, other = range(into, into + window), range(other, other + window)
    expected, signs = before.copy(), [sign(float(value)) for value in drawn[0, 0, 3:]]
    signed = np.stack([pattern(window, signs[channel], signs[channel + 2]) for channel in range(2)], axis=1)
    kept, t = before[into], 2 * float(drawn[0, 0, 2])
    mixed = t * signed / np.linalg.norm(signed) + kept / np.linalg.norm(kept)
    available = sum((before[step] ** 2).sum() for step in {*into, *other})
    expected[other] = 0
    expected[into] = np.sqrt(available) * mixed / np.linalg.norm(mixed)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)
    assert np.linalg.norm(found) == pytest.approx(1, rel=1e-12)


def test_a_window_that_would_cancel_takes_the_opposite_sign(fixed):
    """Its own pattern with the other sign would leave rounding errors only."""
    drawn = torch.full((1, 1, 5), 0.5, dtype=torch.float64)
    drawn[..., 3:] = 0.9
    offset = torch.zeros(1, 4, 1, dtype=torch.float64)
    offset[0, :, 0] = -torch.tensor([*bump(2), *bump(2)])
    offset /= offset.norm() * (1 + 1e-15)
    found = propose_bumps(offset, torch.zeros(1, 4, 1), None, 1.0, Fixed(drawn))
    torch.testing.assert_close(found, -offset, rtol=1e-12, atol=1e-12)


def test_positions_are_uniform():
    """Window 3 of 10: starts 0 to 7 of both windows, in 4000 sequences."""
    generator = torch.Generator().manual_seed(2)
    offset = torch.full((4000, 10, 1), 0.1**0.5, dtype=torch.float64)
    found = propose_bumps(offset, torch.zeros(4000, 10, 1), None, 0.3, generator)[..., 0]
    emptied = found == 0
    filled = (found != offset[..., 0]) & ~emptied
    whole = emptied.sum(dim=1) == 3  # the windows do not overlap
    assert bool((filled.sum(dim=1) == 3).all()) and 0.3 < float(whole.double().mean()) < 0.7
    for windows in (filled, emptied[whole]):
        start = windows.int().argmax(dim=1)
        assert set(start.tolist()) == set(range(8))
        assert abs(float(start.double().mean()) - 3.5) < 4 * (63 / 12 / 1000) ** 0.5
