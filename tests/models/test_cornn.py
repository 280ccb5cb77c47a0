import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchrecurrent

from noisyrnn.models import CoRNN
from noisyrnn.noise import BrownianPath

Make = Callable[..., Any]
OPTIONS = {"step_size": 0.3, "stiffness": 1.1, "friction": 0.7}


def test_equals_torchrecurrent_with_copied_weights(make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer("cornn", **OPTIONS), make_inputs()
    theirs = torchrecurrent.coRNN(2, 5, batch_first=True, dt=0.3, gamma=1.1, epsilon=0.7).double()
    cell = theirs.cells[0]
    with torch.no_grad():
        cell.weight_ih.copy_(layer.cell.input.weight)
        cell.weight_hh.copy_(layer.cell.recurrent.weight[:, :5])
        cell.weight_ch.copy_(layer.cell.recurrent.weight[:, 5:])
        cell.bias_ih.copy_(layer.cell.input.bias)
        cell.bias_hh.zero_()
        cell.bias_ch.zero_()
    outputs, h_n = layer(inputs)
    zeros = torch.zeros(1, 4, 5, dtype=torch.float64)
    expected, (y_n, z_n) = theirs(inputs, (zeros, zeros))
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(h_n, torch.cat([y_n, z_n], dim=2), rtol=0, atol=1e-12)
    outputs.square().sum().backward()
    expected.square().sum().backward()
    recurrent = torch.cat([cell.weight_hh.grad, cell.weight_ch.grad], dim=1)
    torch.testing.assert_close(layer.cell.recurrent.weight.grad, recurrent, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.cell.input.weight.grad, cell.weight_ih.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.cell.input.bias.grad, cell.bias_ih.grad, rtol=0, atol=1e-12)


def test_equals_a_written_out_loop(make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer("cornn", **OPTIONS), make_inputs()
    outputs, h_n = layer(inputs)
    W, U, b = (p.detach() for p in (layer.cell.recurrent.weight, layer.cell.input.weight, layer.cell.input.bias))
    for n in range(4):
        y, z = torch.zeros(5).double(), torch.zeros(5).double()
        for m in range(6):
            drive, new = U @ inputs[n, m] + b, z.clone()
            for i in range(5):
                inner = float(drive[i] + W[i, :5] @ y + W[i, 5:] @ z)
                new[i] = z[i] + 0.3 * (math.tanh(inner) - 1.1 * y[i] - 0.7 * z[i])
            z = new
            y = y + 0.3 * z  # the new velocity
            torch.testing.assert_close(outputs[n, m], y, rtol=0, atol=1e-12)
        torch.testing.assert_close(h_n[0, n], torch.cat([y, z]), rtol=0, atol=1e-12)


def test_noise_acts_on_the_positions(make_layer: Make, make_inputs: Make) -> None:
    noisy, silent = (make_layer("cornn", **OPTIONS, additive=level) for level in (0.2, 0.0))
    inputs, path = make_inputs(steps=1), BrownianPath(seed=1)
    difference = (noisy(inputs, path=path)[1] - silent(inputs)[1])[0]
    xi = path.normals(steps=1, batch=4, units=5, motions=1, dtype=torch.float64)[0, 0]
    torch.testing.assert_close(difference, torch.cat([0.2 * xi, 0 * xi], dim=1), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"step_size": 0.0}, r"^step_size must be greater than 0, got 0\.$"),
        ({"stiffness": -1.5}, r"^stiffness must be at least 0, got -1\.5\.$"),
        ({"friction": -2.5}, r"^friction must be at least 0, got -2\.5\.$"),
    ],
)
def test_bad_options(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CoRNN(1, 2, **options)
