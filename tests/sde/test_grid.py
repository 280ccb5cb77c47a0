import math

import pytest
import torch

from noisyrnn.sde import TimeGrid

SIZES = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 1.0, 2.0, 2.0]], dtype=torch.float64)


def test_times_are_partial_sums_from_zero() -> None:
    expected = torch.tensor([[0.0, 0.1, 0.3, 0.6, 1.0], [0.0, 1.0, 2.0, 4.0, 6.0]], dtype=torch.float64)
    torch.testing.assert_close(TimeGrid(SIZES).times(), expected)
    torch.testing.assert_close(TimeGrid.from_times(expected + 7).sizes, SIZES)
    torch.testing.assert_close(TimeGrid.from_times(expected[0]).times(), expected[0])


def test_uniform() -> None:
    grid = TimeGrid.uniform(5, 0.25, dtype=torch.float64)
    assert grid.steps == 5
    assert grid.sizes.dtype == torch.float64
    assert torch.equal(grid.times(), torch.arange(6, dtype=torch.float64) / 4)


def test_coarsening_keeps_every_other_point() -> None:
    grid = TimeGrid(SIZES)
    assert grid.coarsen(2).steps == 2
    torch.testing.assert_close(grid.coarsen(2).times(), grid.times()[:, ::2])
    torch.testing.assert_close(grid.coarsen(4).sizes, SIZES.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        (torch.tensor(1.0), r"^sizes must have shape \(steps,\) or \(batch, steps\), got \(\)\.$"),
        (torch.ones(0), r"^sizes must have shape \(steps,\) or \(batch, steps\), got \(0,\)\.$"),
        (torch.ones(2, 3, 4), r"^sizes must have shape \(steps,\) or \(batch, steps\), got \(2, 3, 4\)\.$"),
        (torch.tensor([0.1, 0.0]), r"^sizes must be positive, got 0 as the smallest\.$"),
        (torch.tensor([0.1, -0.5]), r"^sizes must be positive, got -0\.5 as the smallest\.$"),
        (torch.tensor([0.1, math.nan]), r"^sizes must be positive, got nan as the smallest\.$"),
        (torch.tensor([0.1, math.inf]), r"^sizes must be finite, got inf as the largest\.$"),
    ],
)
def test_bad_sizes(sizes: torch.Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TimeGrid(sizes)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"^factor must divide the number of steps, 4, got 3\.$"):
        TimeGrid(SIZES).coarsen(3)
    with pytest.raises(ValueError, match=r"^factor must be at least 1, got 0\.$"):
        TimeGrid(SIZES).coarsen(0)
    with pytest.raises(ValueError, match=r"^steps must be at least 1, got 0\.$"):
        TimeGrid.uniform(0, 0.1)
    with pytest.raises(ValueError, match=r"^size must be greater than 0, got -1\.$"):
        TimeGrid.uniform(3, -1.0)
    with pytest.raises(ValueError, match=r"^sizes must be positive, got -1 as the smallest\.$"):
        TimeGrid.from_times(torch.tensor([0.0, 2.0, 1.0]))
