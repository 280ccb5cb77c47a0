from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchrecurrent

from noisyrnn.models import AntisymmetricRNN

Make = Callable[..., Any]


def test_equals_torchrecurrent_with_copied_weights(make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer("antisymmetric", step_size=0.3, damping=0.2), make_inputs()
    theirs = torchrecurrent.AntisymmetricRNN(2, 5, batch_first=True, epsilon=0.3, gamma=0.2).double()
    cell = theirs.cells[0]
    with torch.no_grad():
        cell.weight_ih.copy_(layer.cell.input.weight)
        cell.weight_hh.copy_(layer.cell.C)
        cell.bias_ih.copy_(layer.cell.input.bias)
        cell.bias_hh.zero_()
    outputs, h_n = layer(inputs)
    expected, h_expected = theirs(inputs, torch.zeros(1, 4, 5, dtype=torch.float64))
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(h_n, h_expected, rtol=0, atol=1e-12)
    outputs.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(layer.cell.C.grad, cell.weight_hh.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.cell.input.weight.grad, cell.weight_ih.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.cell.input.bias.grad, cell.bias_ih.grad, rtol=0, atol=1e-12)


def test_recurrent_matrix_is_skew_less_the_damping(make_layer: Make) -> None:
    layer = make_layer("antisymmetric", damping=0.2)
    W = layer.cell.recurrence().W.detach()
    torch.testing.assert_close(W + W.T, -0.4 * torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-15)
    assert float(W[0, 1]) == pytest.approx(layer.cell.C[0, 1].item() - layer.cell.C[1, 0].item(), abs=1e-15)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"step_size": -0.5}, r"^step_size must be greater than 0, got -0\.5\.$"),
        ({"damping": -0.1}, r"^damping must be at least 0, got -0\.1\.$"),
        ({"init_std": 0.0}, r"^init_std must be greater than 0, got 0\.$"),
    ],
)
def test_bad_options(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        AntisymmetricRNN(1, 2, **options)
