"""Diffusions: products, corrections by whole Jacobians, shapes, types and what is refused."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noisyrnn import FunctionDiffusion, LipschitzRNN, MatrixDiffusion
from noisyrnn.sde.diffusion import as_diffusion, own_slopes

BATCH, UNITS, CHANNELS = 3, 4, 2


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ARGUMENTS = (randn(BATCH, UNITS), randn(BATCH, CHANNELS, seed=1), torch.tensor([[0.5], [1.5], [4.0]]).double())


def coupled(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(h + 2 * h.roll(1, -1)) + x[..., :1] + 0.1 * t


def diagonal(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(2 * h) + x[..., :1] * h + t * h


def columns(r: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def sigma(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return torch.stack([torch.cos(h * (j + 1)) * h.roll(j, -1) + x[..., 1:] * t for j in range(r)], dim=-1)

    return sigma


FUNCTIONS = {
    "coupled": (FunctionDiffusion(coupled), UNITS),
    "diagonal": (FunctionDiffusion(diagonal, diagonal=True), UNITS),
    **{f"{r} columns": (FunctionDiffusion(columns(r)), r) for r in (1, 2, 4, 6)},
}


def whole(diffusion: FunctionDiffusion, b: int) -> Callable[[Tensor], Tensor]:
    """σ of one row as a matrix, `(UNITS, r)`."""
    x, t = ARGUMENTS[1][b : b + 1], ARGUMENTS[2][b : b + 1]

    def sigma(h: Tensor) -> Tensor:
        value = diffusion.function(h[None], x, t)[0]
        return torch.diag(value) if value.ndim == 1 else value

    return sigma


@pytest.mark.parametrize("name", FUNCTIONS)
def test_products_and_corrections_are_those_of_the_matrix(name: str) -> None:
    diffusion, r = FUNCTIONS[name]
    xi = randn(BATCH, r, seed=2)
    assert diffusion.columns(*ARGUMENTS) == r
    product, correction, factor = (
        diffusion.product(*ARGUMENTS, xi),
        diffusion.correction(*ARGUMENTS),
        diffusion.factor(*ARGUMENTS),
    )
    for b in range(BATCH):
        sigma = whole(diffusion, b)
        matrix, jacobian = sigma(ARGUMENTS[0][b]), torch.autograd.functional.jacobian(sigma, ARGUMENTS[0][b])
        expected = torch.stack(
            [
                sum(matrix[i, j] * jacobian[k, j, i] for i in range(UNITS) for j in range(r))  # type: ignore[misc]
                for k in range(UNITS)
            ]
        )
        torch.testing.assert_close(correction[b], expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(product[b], matrix @ xi[b], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.diag(factor[b]) if factor.ndim == 2 else factor[b], matrix)


def test_own_slopes_are_the_diagonal_of_the_jacobian() -> None:
    h = ARGUMENTS[0]

    def function(h: Tensor) -> Tensor:
        return coupled(h, *ARGUMENTS[1:])

    jacobian = torch.func.vmap(torch.func.jacrev(lambda h, x, t: coupled(h[None], x[None], t[None])[0]))(*ARGUMENTS)
    torch.testing.assert_close(own_slopes(function, h), jacobian.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("r", [1, 3, 7])
def test_a_matrix(r: int) -> None:
    matrix = randn(UNITS, r)
    diffusion = MatrixDiffusion(matrix)
    xi = randn(BATCH, r, seed=2)
    assert diffusion.columns(*ARGUMENTS) == r and diffusion.correction(*ARGUMENTS) is None and diffusion.constant
    torch.testing.assert_close(diffusion.product(*ARGUMENTS, xi), torch.stack([matrix @ row for row in xi]))
    assert torch.equal(diffusion.factor(*ARGUMENTS), matrix.expand(BATCH, UNITS, r))
    assert repr(diffusion) == f"MatrixDiffusion({UNITS} units, {r} columns)" and not diffusion.learn
    matrix.zero_()  # the values were copied
    assert bool((diffusion.matrix != 0).all())


def test_values_of_every_kind_and_type() -> None:
    rows = [[0.1, 1.0], [0.2, 0.0]]
    for given in (rows, tuple(map(tuple, rows)), np.array(rows), torch.tensor(rows), [[1, 0], [0, 1]]):
        assert MatrixDiffusion(given).matrix.dtype == torch.float32
    assert MatrixDiffusion(torch.tensor(rows).double()).matrix.dtype == torch.float64
    exact = MatrixDiffusion(rows, dtype=torch.float64)  # not by way of float32
    assert exact.matrix.tolist() == rows
    trained = MatrixDiffusion(torch.ones(2, 1, requires_grad=True), learn=True)
    assert trained.learn and [name for name, _ in trained.named_parameters()] == ["matrix"] and trained.matrix.is_leaf


def test_a_value_of_another_type_is_converted() -> None:
    h, x, t = (argument.float() for argument in ARGUMENTS)
    for name in ("coupled", "2 columns"):
        diffusion, r = FUNCTIONS[name]
        double = FunctionDiffusion(lambda h, x, t, d=diffusion: d.function(h, x, t).double())
        xi = randn(BATCH, r).float()
        assert double.product(h, x, t, xi).dtype == torch.float32
        torch.testing.assert_close(double.correction(h, x, t), diffusion.correction(h, x, t))


BAD: list[tuple[Any, type[Exception], str]] = [
    ([0.1, 0.2], ValueError, r"^diffusion must have shape \(hidden_size, columns\), got \(2,\)\.$"),
    (torch.zeros(2, 0), ValueError, r"^diffusion must have shape \(hidden_size, columns\), got \(2, 0\)\.$"),
    (torch.zeros(2, 2, 2), ValueError, r"^diffusion must have shape"),
    ([[math.nan], [0.0]], ValueError, r"^diffusion must be finite, got 1 NaN or infinite values"),
    ([[1.0], [1.0, 2.0]], TypeError, r"^diffusion must be a matrix of numbers, got \[\[1\.0\], \[1\.0, 2\.0\]\]"),
    ([["a"]], TypeError, r"^diffusion must be a matrix of numbers"),
    (
        torch.ones(2, 2).long(),
        TypeError,
        r"^diffusion must be floating point, got torch\.int64\. Convert: diffusion\.float\(\)\.$",
    ),
    (0.1, TypeError, r"^diffusion must be a matrix or a callable of h, x and t, got 0\.1\.$"),
    ("eye", TypeError, r"^diffusion must be a matrix or a callable"),
]


@pytest.mark.parametrize(("given", "error", "sentence"), BAD)
def test_what_is_no_diffusion(given: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        as_diffusion(given)


def test_what_can_be_learned() -> None:
    assert as_diffusion(None) is None
    for given in (None, torch.cos, FunctionDiffusion(coupled)):
        with pytest.raises(ValueError, match=r"^learn_diffusion must be False unless diffusion is a matrix, got True"):
            as_diffusion(given, learn=True)
    with pytest.raises(ValueError, match=r"^learn_diffusion must be False with a MatrixDiffusion that is not trained"):
        as_diffusion(MatrixDiffusion([[1.0]]), learn=True)
    trained = MatrixDiffusion([[1.0]], learn=True)
    assert as_diffusion(trained, learn=True) is trained and as_diffusion(trained) is trained
    with pytest.raises(TypeError, match=r"^learn_diffusion must be True or False, got 1\.$"):
        MatrixDiffusion([[1.0]], learn=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "error", "sentence"),
    [
        (None, TypeError, r"^diffusion must return a tensor, got NoneType\.$"),
        (0.1, TypeError, r"^diffusion must return a tensor, got float\.$"),
        (torch.ones(4), ValueError, r"^diffusion must return the shape \(3, 4\) or \(3, 4, columns\), got \(4,\)\.$"),
        (torch.ones(4, 2), ValueError, r"got \(4, 2\)\.$"),
        (torch.ones(1, 4), ValueError, r"got \(1, 4\)\.$"),
        (torch.ones(3, 4, 0), ValueError, r"got \(3, 4, 0\)\.$"),
        (torch.ones(3, 4, 1, 1), ValueError, r"got \(3, 4, 1, 1\)\.$"),
    ],
)
def test_what_a_function_may_not_return(value: Any, error: type[Exception], sentence: str) -> None:
    layer = LipschitzRNN(CHANNELS, UNITS, diffusion=lambda h, x, t: value)
    with pytest.raises(error, match=sentence):
        layer(torch.zeros(BATCH, 5, CHANNELS))


def test_a_diagonal_returns_no_matrix() -> None:
    layer = LipschitzRNN(CHANNELS, UNITS, diffusion=FunctionDiffusion(columns(2), diagonal=True))
    with pytest.raises(ValueError, match=r"^diffusion must return the shape \(3, 4\), got \(3, 4, 2\)\.$"):
        layer(torch.zeros(BATCH, 5, CHANNELS))
    with pytest.raises(TypeError, match=r"^diagonal must be True or False, got 'yes'\.$"):
        FunctionDiffusion(coupled, diagonal="yes")  # type: ignore[arg-type]


def test_a_representation_names_the_function() -> None:
    assert repr(FunctionDiffusion(coupled)) == "FunctionDiffusion(coupled, diagonal=False)"
    assert "Bilinear, diagonal=True" in repr(FunctionDiffusion(nn.Bilinear(2, 2, 2), diagonal=True))
