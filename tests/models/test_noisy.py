import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from noisyrnn.models import LipschitzRNN, NoisyRNN, build_layer
from noisyrnn.noise import BrownianPath, HiddenNoise
from noisyrnn.sde import RecurrentDrift, skew_damped

Make = Callable[..., Any]
PATH = BrownianPath(seed=3)


@pytest.mark.parametrize("name", ["noisy", "lipschitz"])
@pytest.mark.parametrize("learn_step", [True, False])
def test_equals_a_written_out_loop(name: str, learn_step: bool, make_layer: Make, make_inputs: Make) -> None:
    options = {"step_size": 0.25, "learn_step": learn_step, "skew_symmetry": 0.6, "damping": 0.1}
    layer, inputs = make_layer(name, **options, additive=0.0, multiplicative=0.0), make_inputs()
    cell = layer.cell
    if learn_step:
        with torch.no_grad():
            cell.step_size.copy_(torch.linspace(0.05, 0.4, 5))
    outputs, _ = layer(inputs)
    B, C, U, b, d = (p.detach() for p in (cell.B, cell.C, cell.input.weight, cell.input.bias, cell.step_size))
    A, W = (0.4 * (M + M.T) + 0.6 * (M - M.T) - 0.1 * torch.eye(5).double() for M in (B, C))
    for n in range(4):
        h = [0.0] * 5
        for m in range(6):
            old = h
            h = []
            for i in range(5):
                inner = sum(float(W[i, j]) * old[j] for j in range(5)) + float(U[i] @ inputs[n, m] + b[i])
                f = sum(float(A[i, j]) * old[j] for j in range(5)) + math.tanh(inner)
                h.append(old[i] + float(d[i]) * f)
            assert outputs[n, m].tolist() == pytest.approx(h, abs=1e-12)


def test_paper_parametrisation_is_euler_maruyama(make_layer: Make, make_inputs: Make) -> None:
    eps, s1, s2, delta = 0.7, 0.4, 1.3, 0.125
    layer = make_layer(
        "noisy",
        step_size=delta,
        learn_step=False,
        noise_units="per_time",
        noise_level=eps,
        additive=s1,
        multiplicative=s2,
        noise_form="shared",
    )
    inputs = make_inputs()
    outputs, _ = layer(inputs, path=PATH)
    cell = layer.cell
    f = RecurrentDrift.from_matrices(skew_damped(cell.B), skew_damped(cell.C), cell.input.weight, cell.input.bias)
    increments = math.sqrt(delta) * PATH.normals(steps=6, batch=4, units=5, motions=1, dtype=torch.float64)[0]
    h = torch.zeros(4, 5, dtype=torch.float64)
    for m in range(6):
        drift = f(h, inputs[:, m])
        h = h + delta * drift + eps * (s1 + s2 * drift) * increments[m]
        torch.testing.assert_close(outputs[:, m], h, rtol=0, atol=1e-12)


def test_step_lengths_are_euler_maruyama_too(make_layer: Make, make_inputs: Make) -> None:
    eps, s1, s2, delta = 0.7, 0.4, 1.3, 0.125
    levels = {"noise_level": eps, "additive": s1, "multiplicative": s2, "noise_form": "shared"}
    layer = make_layer("noisy", step_size=delta, learn_step=False, noise_units="per_time", **levels)
    inputs, dt = make_inputs(), torch.rand(4, 6, generator=torch.Generator().manual_seed(0)).double() + 0.5
    outputs, _ = layer(inputs, dt=dt, path=PATH)
    cell = layer.cell
    f = RecurrentDrift.from_matrices(skew_damped(cell.B), skew_damped(cell.C), cell.input.weight, cell.input.bias)
    normals = PATH.normals(steps=6, batch=4, units=5, motions=1, dtype=torch.float64)[0]
    h = torch.zeros(4, 5, dtype=torch.float64)
    for m in range(6):
        step = (delta * dt[:, m])[:, None]
        drift = f(h, inputs[:, m])
        h = h + step * drift + eps * (s1 + s2 * drift) * step.sqrt() * normals[m]
        torch.testing.assert_close(outputs[:, m], h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["noisy", "lipschitz"])
def test_equals_torch_rnn_where_a_is_minus_the_identity(name: str, make_layer: Make, make_inputs: Make) -> None:
    layer = make_layer(name, step_size=1.0, skew_symmetry=0.5, damping=1.0, additive=0.0, multiplicative=0.0)
    cell, inputs = layer.cell, make_inputs()
    with torch.random.fork_rng():
        torch.manual_seed(4)
        rnn = nn.RNN(2, 5, batch_first=True).double()
    with torch.no_grad():
        cell.B.zero_()
        cell.C.copy_(rnn.weight_hh_l0 + torch.eye(5))  # W = C - I
        cell.input.weight.copy_(rnn.weight_ih_l0)
        cell.input.bias.copy_(rnn.bias_ih_l0 + rnn.bias_hh_l0)
    weight = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    results = []
    for module in (layer, rnn):
        x = inputs.clone().requires_grad_()
        h_0 = torch.full((1, 4, 5), 0.3, dtype=torch.float64, requires_grad=True)
        outputs, h_n = module(x, h_0)
        ((outputs * weight).sum() + h_n.square().sum()).backward()
        results.append((outputs, h_n, x.grad, h_0.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for ours, theirs in [
        (cell.C, rnn.weight_hh_l0),
        (cell.input.weight, rnn.weight_ih_l0),
        (cell.input.bias, rnn.bias_ih_l0),
        (cell.input.bias, rnn.bias_hh_l0),
    ]:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)


def test_lipschitz_is_noisy_without_noise(make_layer: Make, make_inputs: Make) -> None:
    options = {"step_size": 0.1, "learn_step": True, "additive": 0.0, "multiplicative": 0.0}
    noisy, lipschitz = (make_layer(name, **options) for name in ("noisy", "lipschitz"))
    assert torch.equal(noisy(make_inputs())[0], lipschitz(make_inputs())[0])


@pytest.mark.parametrize("kernel", ["auto", "eager", "reference"])
def test_each_matrix_has_its_own_skew_symmetry_and_damping(kernel: str, make_inputs: Make) -> None:
    """In what the kernels and the analyses read, and in what comes out."""
    options = {
        "skew_symmetry": 0.6,
        "damping": 0.3,
        "skew_symmetry_w": 0.9,
        "damping_w": 0.05,
        "init_std": 4.0,
        "step_size": 0.2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = LipschitzRNN(2, 5, **options)
    layer.kernel, inputs = kernel, make_inputs().float()
    cell = layer.cell
    B, C, U, b = (p.detach().double() for p in (cell.B, cell.C, cell.input.weight, cell.input.bias))
    A = 0.4 * (B + B.T) + 0.6 * (B - B.T) - 0.3 * torch.eye(5)
    W = 0.1 * (C + C.T) + 0.9 * (C - C.T) - 0.05 * torch.eye(5)
    recurrence = cell.recurrence()
    torch.testing.assert_close(recurrence.A.double(), A, rtol=0, atol=1e-6)
    torch.testing.assert_close(recurrence.W.double(), W, rtol=0, atol=1e-6)
    h = torch.zeros(4, 5, dtype=torch.float64)
    for x in inputs.double().unbind(1):
        h = h + 0.2 * (h @ A.T + torch.tanh(h @ W.T + x @ U.T + b))
    for _ in range(2):  # packed weights are kept: the second pass finds them changed
        torch.testing.assert_close(layer.last_output(inputs).double(), h, rtol=0, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(layer.last_output(inputs).double(), h, rtol=0, atol=1e-5)
    cell.damping_w = 5.0
    with torch.no_grad():
        assert not torch.allclose(layer.last_output(inputs).double(), h, rtol=0, atol=1e-2)


def test_published_defaults() -> None:
    noisy, lipschitz = NoisyRNN(1, 4), LipschitzRNN(1, 4)
    expected = {"step_size": 0.01, "additive": 0.05, "multiplicative": 0.02, "skew_symmetry": 0.75, "damping": 0.001}
    assert {name: getattr(noisy, name) for name in expected} == expected
    assert noisy.learn_step and isinstance(noisy.cell.step_size, nn.Parameter)
    assert noisy.cell.step_size.tolist() == pytest.approx([0.01] * 4)
    assert (lipschitz.step_size, lipschitz.learn_step) == (0.03, False)
    assert lipschitz.hidden_noise.silent
    assert "step_size" in dict(lipschitz.cell.named_buffers())


def test_initial_weights_have_the_published_spread() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cell = NoisyRNN(1, 128, init_std=0.1).cell
    for matrix in (cell.B, cell.C):
        assert matrix.std().item() == pytest.approx(0.1 / 128, rel=4 / math.sqrt(2 * 128**2))  # four standard errors


def test_hidden_noise_in_both_parametrisations() -> None:
    assert NoisyRNN(1, 2).hidden_noise == HiddenNoise(additive=0.05, multiplicative=0.02)
    layer = NoisyRNN(
        1, 2, learn_step=False, noise_units="per_time", noise_level=0.5, step_size=0.04, noise_form="shared"
    )
    expected = HiddenNoise(additive=0.05, multiplicative=0.02, form="shared").per_time(noise_level=0.5, step_size=0.04)
    assert layer.hidden_noise == expected
    assert layer.hidden_noise.additive == pytest.approx(0.5 * 0.2 * 0.05)


def test_the_learnable_step_is_trained_and_the_fixed_one_is_not(make_layer: Make, make_inputs: Make) -> None:
    learnt, fixed = make_layer("noisy"), make_layer("noisy", learn_step=False)
    for layer in (learnt, fixed):
        layer(make_inputs(), path=PATH)[0].sum().backward()
    assert (learnt.cell.step_size.grad != 0).all()
    assert not fixed.cell.step_size.requires_grad
    assert "cells.l0.step_size" in copy.deepcopy(fixed).state_dict()


def test_the_uniform_law_refuses_step_lengths(make_layer: Make, make_inputs: Make) -> None:
    layer = make_layer("noisy", noise_law="uniform")
    assert not torch.equal(layer(make_inputs())[0], layer(make_inputs())[0])
    with pytest.raises(ValueError, match=r"^dt must be None with noise_law 'uniform', got step lengths\. Use .*$"):
        layer(make_inputs(), dt=1.0)


@pytest.mark.parametrize("name", ["noisy", "lipschitz"])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"step_size": 0.0}, r"^step_size must be greater than 0, got 0\.$"),
        ({"skew_symmetry": 0.3}, r"^skew_symmetry must lie in \[0\.5, 1\], got 0\.3\.$"),
        ({"damping": -0.5}, r"^damping must be at least 0, got -0\.5\.$"),
        ({"skew_symmetry_w": 0.3}, r"^skew_symmetry_w must lie in \[0\.5, 1\], got 0\.3\.$"),
        ({"damping_w": -0.5}, r"^damping_w must be at least 0, got -0\.5\.$"),
        ({"init_std": 0.0}, r"^init_std must be greater than 0, got 0\.$"),
    ],
)
def test_bad_cell_options(name: str, options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build_layer(name, 1, 2, options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"noise_units": "per_timer"},
            r"^noise_units must be one of per_step, per_time, got 'per_timer'\. Did you mean 'per_time'\?$",
        ),
        ({"noise_level": -1.0}, r"^noise_level must be at least 0, got -1\.$"),
        ({"noise_level": 0.5}, r"^noise_level must be 1 with noise_units 'per_step', got 0\.5\. Use noise"),
        ({"noise_units": "per_time"}, r"^learn_step must be False with noise_units 'per_time', got True\.$"),
        (
            {"noise_units": "per_time", "learn_step": False, "noise_law": "uniform"},
            r"^noise_law must be 'gaussian' with noise_units 'per_time', got 'uniform'\.$",
        ),
    ],
)
def test_bad_noise_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        NoisyRNN(1, 2, **options)


def test_levels_that_are_set_later_count_from_the_next_pass_on() -> None:
    layer = NoisyRNN(1, 3, additive=0.1)
    assert layer.hidden_noise is layer.hidden_noise  # checked once
    layer.additive = 0.2
    assert layer.hidden_noise.additive == 0.2
    copied = copy.deepcopy(layer)
    copied.multiplicative = 0.3
    assert (copied.hidden_noise.additive, copied.hidden_noise.multiplicative) == (0.2, 0.3)
    assert layer.hidden_noise.multiplicative == layer.multiplicative
    layer.additive = -1.0
    with pytest.raises(ValueError, match="additive must be at least 0"):
        _ = layer.hidden_noise
