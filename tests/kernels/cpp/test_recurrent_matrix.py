"""Recurrent matrices made by compiled code are those of the definition, to the bit, and so are their gradients."""

import pytest
import torch
from torch import Tensor

from noisyrnn.kernels.cpp.recurrent_matrix import skew_damped_together
from noisyrnn.models import LipschitzRNN
from noisyrnn.native import compiler, library
from noisyrnn.sde import skew_damped


@pytest.fixture(autouse=True)
def _library() -> None:
    reason = library.unavailable()
    if reason is not None:
        pytest.skip(reason)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the matrices that compiled code makes from now on."""
    sizes: list[int] = []
    compiled = library.native()
    really = compiled.structure

    def structure(*arguments: float) -> int:
        sizes.append(int(arguments[4]))
        return int(really(*arguments))

    monkeypatch.setattr(compiled, "structure", structure)
    return sizes


@pytest.mark.parametrize("n", [1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 100, 130])
@pytest.mark.parametrize(
    ("skew_symmetry", "damping"), [(0.5, 0.0), (0.65, 0.0013), (0.75, 0.001), (0.9, 0.3), (1.0, 2.0)]
)
def test_same_bits_as_the_definition(n: int, skew_symmetry: float, damping: float, compiled: list[int]) -> None:
    ours = [randn(n, n, seed=k).requires_grad_() for k in range(2)]
    theirs = [m.detach().clone().requires_grad_() for m in ours]
    betas, gammas = (skew_symmetry, 0.55), (damping, 0.7)  # one of each per matrix
    found = skew_damped_together(*ours, skew_symmetry=betas, damping=gammas)
    assert compiled == [n, n]
    expected = [skew_damped(m, skew_symmetry=b, damping=g) for m, b, g in zip(theirs, betas, gammas, strict=True)]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    weights = [randn(n, n, seed=2), randn(n, n, seed=3)]
    for matrices in (found, expected):
        sum((m * w).sum() for m, w in zip(matrices, weights, strict=True)).backward()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("level", compiler.LEVELS)
def test_every_instruction_set(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", level)
    reason = library.unavailable()
    if reason is not None:
        pytest.skip(reason)
    m = randn(37, 37)
    (found,) = skew_damped_together(m, skew_symmetry=(0.65,), damping=(0.1,))
    exact = skew_damped(m.double(), skew_symmetry=0.65, damping=0.1)
    torch.testing.assert_close(found.double(), exact, rtol=2e-7, atol=2e-7)


def test_one_matrix_without_a_gradient_and_one_unused() -> None:
    free, fixed, unused = randn(3, 3).requires_grad_(), randn(3, 3, seed=1), randn(3, 3, seed=2).requires_grad_()
    one, two, _ = skew_damped_together(free, fixed, unused, skew_symmetry=(0.75, 0.6, 1.0), damping=(0.5, 0.1, 0.0))
    (one * two).sum().backward()
    assert fixed.grad is None
    assert torch.equal(unused.grad, torch.zeros(3, 3))
    (expected,) = torch.autograd.grad((skew_damped(free, skew_symmetry=0.75, damping=0.5) * two).sum(), free)
    assert torch.equal(free.grad, expected)


def test_gradients_that_are_no_plain_matrices() -> None:
    """A sum hands down one number for all entries, a transpose a turned view."""
    for make in (lambda a: a.sum(), lambda a: (a.T @ randn(5, 5, seed=1)).square().sum()):
        m = randn(5, 5).requires_grad_()
        (a,) = skew_damped_together(m, skew_symmetry=(0.65,), damping=(0.1,))
        make(a).backward()
        (expected,) = torch.autograd.grad(make(skew_damped(m, skew_symmetry=0.65, damping=0.1)), m)
        torch.testing.assert_close(m.grad, expected, rtol=1e-6, atol=1e-6)


def test_second_derivatives() -> None:
    m = randn(4, 4).requires_grad_()

    def curvature(make) -> Tensor:
        (gradient,) = torch.autograd.grad(make(m).pow(3).sum(), m, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), m)[0]

    ours = curvature(lambda m: skew_damped_together(m, skew_symmetry=(0.65,), damping=(0.1,))[0])
    torch.testing.assert_close(ours, curvature(lambda m: skew_damped(m, skew_symmetry=0.65, damping=0.1)))


@pytest.mark.parametrize(
    "matrix", [randn(4, 4, dtype=torch.float64), randn(8, 8)[::2, ::2], randn(4, 4).T], ids=["float64", "cut", "turned"]
)
def test_other_matrices_take_the_definition(matrix: Tensor, compiled: list[int]) -> None:
    (found,) = skew_damped_together(matrix, skew_symmetry=(0.65,), damping=(0.1,))
    assert compiled == []
    assert torch.equal(found, skew_damped(matrix, skew_symmetry=0.65, damping=0.1))


def test_transforms_and_graphs_take_the_definition(compiled: list[int]) -> None:
    stack = randn(3, 4, 4)
    mapped = torch.func.vmap(lambda m: skew_damped_together(m, skew_symmetry=(0.65,), damping=(0.1,))[0])(stack)
    graph = torch.compile(
        lambda m: skew_damped_together(m, skew_symmetry=(0.65,), damping=(0.1,))[0], backend="eager", fullgraph=True
    )
    for m, one in zip(stack, mapped, strict=True):
        torch.testing.assert_close(one, skew_damped(m, skew_symmetry=0.65, damping=0.1))
        torch.testing.assert_close(graph(m), skew_damped(m, skew_symmetry=0.65, damping=0.1))
    assert compiled == []


def test_without_a_library_that_is_loaded_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_natives", {})
    monkeypatch.setattr(library, "Native", lambda level: pytest.fail("compiled"))
    (found,) = skew_damped_together(randn(3, 3), skew_symmetry=(0.65,), damping=(0.1,))
    assert torch.equal(found, skew_damped(randn(3, 3), skew_symmetry=0.65, damping=0.1))


def test_a_layer_uses_it_once_it_has_run(compiled: list[int]) -> None:
    layer = LipschitzRNN(2, 5)
    layer(randn(1, 3, 2))[0].sum().backward()
    assert compiled == [5, 5]
