"""A layer in float64 computes with the numbers it was given, not with their roundings to float32."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyrnn.models import HEADS, MODELS, RecurrentLayer

DOUBLE = torch.float64
INPUTS = torch.randn(3, 40, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)

# Numbers that float32 rounds, and weights so large that a rounding of the step is visible at 1e-12.
OPTIONS: dict[str, dict[str, Any]] = {
    "noisy": {
        "step_size": 0.1,
        "skew_symmetry": 0.7,
        "damping": 0.3,
        "skew_symmetry_w": 0.6,
        "damping_w": 0.1,
        "init_std": 2.3,
    },
    "lipschitz": {"step_size": 0.1, "skew_symmetry": 0.7, "damping": 0.3, "skew_symmetry_w": 0.6, "init_std": 2.3},
    "antisymmetric": {"step_size": 0.1, "damping": 0.3, "init_std": 2.3},
    "cornn": {"step_size": 0.1, "stiffness": 2.7, "friction": 4.7},
}


def by_hand(name: str, cell: Any, o: dict[str, Any]) -> Tensor:
    """The last states of a loop over time, written out with the options themselves."""
    d = 6
    U, b, eye = cell.input.weight.detach(), cell.input.bias.detach(), torch.eye(d, dtype=DOUBLE)
    y, z = torch.zeros(3, d, dtype=DOUBLE), torch.zeros(3, d, dtype=DOUBLE)

    def matrix(free: Tensor, beta: float, gamma: float) -> Tensor:
        return (1 - beta) * (free + free.T) + beta * (free - free.T) - gamma * eye

    for x in INPUTS.unbind(1):
        drive = x @ U.T + b
        if name == "cornn":
            W = cell.recurrent.weight.detach()
            force = torch.tanh(y @ W[:, :d].T + z @ W[:, d:].T + drive)
            z = z + o["step_size"] * (force - o["stiffness"] * y - o["friction"] * z)
            y = y + o["step_size"] * z
        elif name == "antisymmetric":
            W = matrix(cell.C.detach(), 1.0, o["damping"])
            y = y + o["step_size"] * torch.tanh(y @ W.T + drive)
        else:
            A = matrix(cell.B.detach(), o["skew_symmetry"], o["damping"])
            W = matrix(cell.C.detach(), o.get("skew_symmetry_w", o["skew_symmetry"]), o.get("damping_w", o["damping"]))
            y = y + o["step_size"] * (y @ A.T + torch.tanh(y @ W.T + drive))
    return y


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_loop_with_the_options_themselves(name: str, converted: bool) -> None:
    if converted and name == "noisy":
        pytest.skip("a learnable step is a weight: converting keeps its value")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer: RecurrentLayer = MODELS[name].build(2, 6, dtype=None if converted else DOUBLE, **OPTIONS[name])
    layer.noise_mode = "off"
    if converted:
        layer = layer.double()
    expected = by_hand(name, layer.cell, OPTIONS[name])
    torch.testing.assert_close(layer.last_output(INPUTS), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_initial_weights_are_drawn_in_the_dtype(name: str) -> None:
    layer = MODELS[name].build(2, 6, dtype=DOUBLE)
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.dtype == DOUBLE
        drawn = parameter.detach()[parameter.detach() != 0]
        if not parameter_name.endswith("step_size"):
            assert (drawn != drawn.float().double()).any(), parameter_name


def test_the_exponential_rnn_is_orthogonal_to_the_precision_of_its_dtype() -> None:
    for base in ("identity", "initial"):
        Q = MODELS["exprnn"].build(2, 40, dtype=DOUBLE, recurrent_base=base).cell.recurrent.weight.detach()
        assert float((Q.T @ Q - torch.eye(40, dtype=DOUBLE)).abs().max()) < 1e-13


def test_a_fixed_step_that_was_changed_is_converted_as_it_is() -> None:
    layer = MODELS["lipschitz"].build(2, 3)
    layer.cell.step_size.copy_(torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(layer.double().cell.step_size, torch.tensor([0.1, 0.2, 0.3]).double())
    twice = MODELS["lipschitz"].build(2, 3).double().float().half().double()
    assert twice.cell.step_size.tolist() == [0.03] * 3


def test_a_fixed_step_is_kept_on_the_meta_device() -> None:
    layer = MODELS["lipschitz"].build(2, 3, device="meta")
    assert layer.cell.step_size.is_meta
    assert layer.to_empty(device="cpu").cell.step_size.shape == (3,)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_head_has_the_dtype_of_its_layer(head: str) -> None:
    model = HEADS[head](MODELS["noisy"].build(2, 6, dtype=DOUBLE), 3)
    out = model(INPUTS)
    assert out.dtype == model.readout.weight.dtype == DOUBLE
    assert model.readout.weight.detach().abs().max() <= 1 / math.sqrt(6)
    assert isinstance(model.readout, nn.Linear)
