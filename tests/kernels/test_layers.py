"""Whole layers by the C++ kernel and by the reference loop, along one path: outputs, last states and gradients.

The errors of float32 are compared as in `tests.kernels.cpp`: at most twice those of the plain float32 loop.
"""

import copy
import warnings
from typing import Any

import pytest
import torch
from tests.products import sampled
from torch import Tensor

from noisyrnn.kernels.select import KernelNotice
from noisyrnn.models import MODELS, RecurrentLayer, build_layer
from noisyrnn.native import library
from noisyrnn.noise import BrownianPath
from noisyrnn.sde.activation import ACTIVATIONS

BATCH, STEPS, INPUT, HIDDEN = 11, 9, 3, 19
PATH = BrownianPath(seed=2**63 + 5, first_row=3, first_step=7)
LENGTHS = torch.tensor([9, 1, 4, 9, 7, 2, 9, 3, 8, 6, 9])
SILENT = {"additive": 0.0, "multiplicative": 0.0}
NOISES: dict[str, dict[str, Any]] = {
    "two levels": {"additive": 0.2, "multiplicative": 0.3},
    "one motion": {"additive": 0.2, "multiplicative": 0.3, "noise_form": "shared"},
    "uniform": {"additive": 0.2, "multiplicative": 0.3, "noise_law": "uniform"},
    "silent": SILENT,
    "learned matrix": {**SILENT, "diffusion": "learned"},
}
CURRENT = {"form": "current", "activation": "softplus"}
INSIDE = {"noise_place": "inside"}


@pytest.fixture(autouse=True)
def _compiled() -> None:
    reason = library.unavailable()
    if reason is not None:
        pytest.skip(reason)


def build(model: str, options: dict[str, Any]) -> RecurrentLayer:
    options = dict(options)
    if model == "rate" and "noise_law" in options:
        options["noise_units"] = "per_step"  # uniform noise has no level per unit of time
    if options.get("diffusion") == "learned":
        matrix = 0.3 * torch.randn(HIDDEN, 4, generator=torch.Generator().manual_seed(7))
        options |= {"diffusion": matrix, "learn_diffusion": True}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer = build_layer(model, INPUT, HIDDEN, options)
        for name, parameter in layer.named_parameters():
            if name.endswith("threshold"):
                torch.nn.init.uniform_(parameter, 0.1, 0.3)
    layer.noise_mode = "on"
    return layer


def results(layer: RecurrentLayer, kernel: str, dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
    """Outputs, last states and gradients in everything that has one, by a kernel in a type."""
    layer = copy.deepcopy(layer).to(dtype)
    layer.kernel = kernel
    generator = torch.Generator().manual_seed(2)
    shapes = (BATCH, STEPS, INPUT), (1, BATCH, layer.cell.state_size), (BATCH, STEPS, HIDDEN)
    inputs, h_0, weights = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
    leaves = {"inputs": inputs.requires_grad_(), "h_0": h_0.requires_grad_(), **dict(layer.named_parameters())}
    options = {name: t.to(dtype) if t.is_floating_point() else t for name, t in options.items()}
    outputs, h_n = layer(inputs, h_0, path=PATH, **options)
    value = (outputs * weights).sum() + h_n.square().sum()
    gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    found = {"outputs": outputs.detach(), "h_n": h_n.detach(), **dict(zip(leaves, gradients, strict=True))}
    return {name: t for name, t in found.items() if t is not None}


def assert_follows(layer: RecurrentLayer, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelNotice)
        found = results(layer, "cpp", torch.float32, **options)
    plain, exact = (results(layer, "reference", dtype, **options) for dtype in (torch.float32, torch.float64))
    assert found.keys() == exact.keys()
    for name, truth in exact.items():
        assert found[name].shape == truth.shape, name
        error, allowed = (found[name] - truth).norm(), 2 * (plain[name] - truth).norm()
        # Two roundings are always allowed: of a few numbers the plain loop's error may be small by luck.
        assert error <= allowed + 2**-22 * truth.norm(), name


@pytest.mark.parametrize(("model", "noise", "padded"), sampled(tuple(MODELS), tuple(NOISES), (False, True)))
def test_models_on_one_path(model: str, noise: str, padded: bool) -> None:
    layer = build(model, NOISES[noise])
    options: dict[str, Tensor] = {"lengths": LENGTHS} if padded else {}
    if padded and layer.cell.supports_dt and noise != "uniform":
        options["dt"] = torch.linspace(0.5, 1.5, BATCH * STEPS).view(BATCH, STEPS)
    assert_follows(layer, **options)


@pytest.mark.parametrize("noise", ["two levels", "learned matrix"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("form", ["rate", "current"])
def test_both_forms_of_the_rate_network(form: str, activation: str, noise: str) -> None:
    options = {"form": form, "activation": activation, **NOISES[noise]}
    assert_follows(build("rate", options), lengths=LENGTHS, dt=torch.linspace(0.5, 1.5, STEPS))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("noise", [{"additive": 0.2}, NOISES["learned matrix"]], ids=["additive", "learned matrix"])
def test_noise_inside_the_activation(noise: dict[str, Any], activation: str) -> None:
    layer = build("rate", {"activation": activation, **INSIDE, **noise})
    assert_follows(layer, lengths=LENGTHS, dt=torch.linspace(0.5, 1.5, STEPS))


@pytest.mark.parametrize("options", [{}, CURRENT, INSIDE], ids=["rate", "current", "inside"])
def test_a_learned_matrix_has_a_gradient(options: dict[str, Any]) -> None:
    """The comparison above is of numbers that are not all zero."""
    found = results(build("rate", {**options, **NOISES["learned matrix"]}), "cpp", torch.float32)
    assert found["diffusion.matrix"].shape == (HIDDEN, 4)
    assert (found["diffusion.matrix"].abs() > 1e-6).all()


@pytest.mark.parametrize("options", [CURRENT, INSIDE, {"activation": "retanh"}], ids=str)
def test_a_step_of_every_form_is_packed(options: dict[str, Any]) -> None:
    layer = build("rate", options)
    x, state = torch.randn(4, INPUT), torch.randn(4, HIDDEN)
    with torch.no_grad():
        expected = layer.cell.step(x, state)
    torch.testing.assert_close(layer.step(x, state), expected, rtol=1e-5, atol=1e-6)
    assert layer._packed[0]._packed[""].step is not None
