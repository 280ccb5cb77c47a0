import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from noisyrnn.sde import skew_damped


def matrix_of(seed: int, size: int) -> Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("skew_symmetry", "damping"), [(0.5, 0.0), (0.75, 0.001), (0.6, 2.0), (1.0, 0.3)])
def test_equals_the_written_out_definition(skew_symmetry: float, damping: float) -> None:
    M = matrix_of(0, 5)
    expected = torch.empty_like(M)
    for i in range(5):
        for j in range(5):
            symmetric, skew = M[i, j] + M[j, i], M[i, j] - M[j, i]
            expected[i, j] = (1 - skew_symmetry) * symmetric + skew_symmetry * skew - (damping if i == j else 0.0)
    torch.testing.assert_close(
        skew_damped(M, skew_symmetry=skew_symmetry, damping=damping), expected, rtol=0, atol=1e-14
    )


def test_defaults_are_the_published_ones() -> None:
    M = matrix_of(1, 4)
    assert torch.equal(skew_damped(M), skew_damped(M, skew_symmetry=0.75, damping=0.001))


seeds, sizes = st.integers(0, 10**6), st.integers(1, 8)


@settings(max_examples=50, deadline=None)
@given(seeds, sizes)
def test_a_skew_symmetry_of_one_without_damping_is_skew(seed: int, size: int) -> None:
    S = skew_damped(matrix_of(seed, size), skew_symmetry=1.0, damping=0.0)
    assert torch.equal(S, -S.T)


@settings(max_examples=50, deadline=None)
@given(seeds, sizes, st.floats(0, 10))
def test_a_skew_symmetry_of_half_is_the_matrix_less_the_damping(seed: int, size: int, damping: float) -> None:
    M = matrix_of(seed, size)
    expected = M - damping * torch.eye(size, dtype=torch.float64)
    assert torch.equal(skew_damped(M, skew_symmetry=0.5, damping=damping), expected)


@settings(max_examples=50, deadline=None)
@given(seeds, sizes, st.floats(0.5, 1), st.floats(0, 10))
def test_damping_moves_every_eigenvalue_to_the_left(seed: int, size: int, skew_symmetry: float, damping: float) -> None:
    M = matrix_of(seed, size)
    undamped = skew_damped(M, skew_symmetry=skew_symmetry, damping=0.0)
    shifted = undamped - damping * torch.eye(size, dtype=torch.float64)
    assert torch.equal(skew_damped(M, skew_symmetry=skew_symmetry, damping=damping), shifted)
    # The symmetric part is 2(1-β) times that of M: it bounds how fast the linear part can grow.
    symmetric = (undamped + undamped.T) / 2
    torch.testing.assert_close(symmetric, (1 - skew_symmetry) * (M + M.T), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("skew_symmetry", "damping", "sentence"),
    [
        (0.3, 0.0, r"^skew_symmetry must lie in \[0\.5, 1\], got 0\.3\.$"),
        (1.2, 0.0, r"^skew_symmetry must lie in \[0\.5, 1\], got 1\.2\.$"),
        (0.5, -0.1, r"^damping must be at least 0, got -0\.1\.$"),
    ],
)
def test_out_of_range(skew_symmetry: float, damping: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        skew_damped(torch.eye(2), skew_symmetry=skew_symmetry, damping=damping)
