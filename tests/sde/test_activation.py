"""Activations: values, derivatives at many points, slopes and what is refused."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyrnn import Activation, LipschitzRNN, RateRNN
from noisyrnn.sde import ACTIVATIONS
from noisyrnn.sde.activation import activation_of

WRITTEN: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda z: 2 / (1 + torch.exp(-2 * z)) - 1,
    "sigmoid": lambda z: 1 / (1 + torch.exp(-z)),
    "relu": lambda z: torch.where(z > 0, z, 0 * z),
    "softplus": lambda z: z.clamp(min=0) + torch.log1p(torch.exp(-z.abs())),
    "retanh": lambda z: torch.where(z > 0, torch.tanh(z), 0 * z),
    "identity": lambda z: z,
}
CLOSE = {"rtol": 1e-12, "atol": 1e-14}

names = pytest.mark.parametrize("name", sorted(WRITTEN))


def points() -> Tensor:
    """Points on both sides of the kink, next to it and not at it."""
    near = torch.logspace(-12, 0, 13, dtype=torch.float64)
    far = torch.linspace(-6, 6, 48, dtype=torch.float64)  # an even number, without 0
    return torch.cat([near, -near, far])


def test_all_are_written_here() -> None:
    assert sorted(WRITTEN) == sorted(ACTIVATIONS)


@names
def test_derivatives_are_those_of_autograd(name: str) -> None:
    z = points().requires_grad_()
    value = WRITTEN[name](z)
    (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
    bend = torch.autograd.grad(slope.sum(), z, allow_unused=True)[0] if slope.requires_grad else None
    found = ACTIVATIONS[name].derivatives(z.detach())
    torch.testing.assert_close(ACTIVATIONS[name](z), value, **CLOSE)
    torch.testing.assert_close(found.value, value.detach(), **CLOSE)
    torch.testing.assert_close(found.slope, slope.detach(), **CLOSE)
    torch.testing.assert_close(found.bend, torch.zeros_like(z) if bend is None else bend, rtol=1e-11, atol=1e-13)
    assert torch.equal(ACTIVATIONS[name].slope(z.detach()), found.slope)


@names
def test_derivatives_far_from_zero_are_finite_and_have_their_limits(name: str) -> None:
    slopes = {"tanh": (0, 0), "sigmoid": (0, 0), "retanh": (0, 0), "identity": (1, 1)}.get(name, (0, 1))
    for size in (50.0, 1e3, 1e30, 1e300):
        found = ACTIVATIONS[name].derivatives(torch.tensor([-size, size], dtype=torch.float64))
        assert found.value.isfinite().all()
        torch.testing.assert_close(found.slope, torch.tensor(slopes, dtype=torch.float64), rtol=0, atol=1e-15)
        torch.testing.assert_close(found.bend, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-15)


def test_softplus_has_no_kink() -> None:
    """torch's softplus is the identity from 20 on, which is off by 2e-9 there."""
    z = torch.linspace(15, 45, 301, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS["softplus"](z), z + torch.log1p(torch.exp(-z)), rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", ["relu", "retanh"])
def test_at_a_kink_the_slope_is_that_of_the_left(name: str) -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    assert [float(each) for each in ACTIVATIONS[name].derivatives(zero)] == [0.0, 0.0, 0.0]
    z = zero.clone().requires_grad_()
    assert float(torch.autograd.grad(ACTIVATIONS[name](z).sum(), z)[0]) == 0.0  # as in training


@names
def test_slopes_bound_every_quotient_and_no_smaller_interval_does(name: str) -> None:
    activation = ACTIVATIONS[name]
    z = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    quotients = activation(z).diff() / z.diff()
    low, high = activation.slopes
    assert low - 1e-9 <= float(quotients.min()) <= low + 1e-6
    assert high - 1e-6 <= float(quotients.max()) <= high + 1e-9
    assert activation.lipschitz == max(abs(low), abs(high)) and activation.name == name


def test_a_function_is_differentiated_twice() -> None:
    activation, z = Activation(torch.sin, lipschitz=1.0), points()
    found = activation.derivatives(z)
    for value, expected in zip(found, (z.sin(), z.cos(), -z.sin()), strict=True):
        torch.testing.assert_close(value, expected, **CLOSE)
    torch.testing.assert_close(activation.slope(z), z.cos(), **CLOSE)
    assert activation.slopes == (-1.0, 1.0) and activation.name == ""


def test_what_names_an_activation() -> None:
    sine = Activation(torch.sin, lipschitz=1)
    assert activation_of("relu") is ACTIVATIONS["relu"] and activation_of(sine) is sine
    assert pickle.loads(pickle.dumps(ACTIVATIONS["softplus"])) == ACTIVATIONS["softplus"]
    for given, shown in ((ACTIVATIONS["relu"], "relu"), ("relu", "relu"), (sine, sine)):
        assert LipschitzRNN(1, 2, activation=given).options()["activation"] == shown


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (
            lambda: activation_of("rellu"),
            ValueError,
            r"^activation must be one of .*got 'rellu'\. Did you mean 'relu'\?$",
        ),
        (
            lambda: activation_of(torch.sin),
            TypeError,
            r"^activation must be a name or state its Lipschitz constant, got",
        ),
        (lambda: activation_of(nn.ReLU()), TypeError, r"Use Activation\(function, lipschitz=\.\.\.\)\.$"),
        (lambda: activation_of(None), TypeError, r"^activation must be a name"),
        (lambda: Activation("sin", lipschitz=1.0), TypeError, r"^function must be callable, got 'sin'\.$"),
        (lambda: Activation(torch.sin, lipschitz=-1.0), ValueError, r"^lipschitz must be at least 0, got -1\.$"),
        (lambda: Activation(torch.sin, lipschitz=math.inf), ValueError, r"^lipschitz must be finite, got inf\.$"),
        (lambda: Activation(torch.sin, lipschitz="1"), TypeError, r"^lipschitz must be a number, got '1'\.$"),
        (
            lambda: Activation(nn.PReLU(), lipschitz=1.0),
            ValueError,
            r"^function must have no parameters, got PReLU\(num_parameters=1\): training would change its slopes\.$",
        ),
    ],
)
def test_what_is_refused(make: Callable[[], Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        make()


@pytest.mark.parametrize(
    ("function", "error", "sentence"),
    [
        (lambda z: z.sum(), ValueError, r"^activation must return the shape of its argument, \(1, 4\), got \(\)\.$"),
        (lambda z: z[:, :1], ValueError, r"^activation must return the shape of its argument"),
        (lambda z: None, TypeError, r"^activation must return a tensor, got NoneType\.$"),
        (
            torch.relu_,
            ValueError,
            r"^activation must not write into its argument, got <built-in method relu_ .*which does",
        ),
    ],
)
@pytest.mark.parametrize("form", ["rate", "current"])
def test_a_function_that_is_none_of_a_scalar_is_refused_by_the_pass(
    function: Any, error: type[Exception], sentence: str, form: str
) -> None:
    layer = RateRNN(2, 4, form=form, activation=Activation(function, lipschitz=1.0))
    with pytest.raises(error, match=sentence):
        layer(torch.zeros(3, 5, 2))
