"""Kernels under other defaults of torch: a layer keeps the type and the place of its weights."""

import pytest
import torch
from tests.defaults import defaults
from torch import Tensor

from noisyrnn import NoisyRNN

LENGTHS = torch.tensor([6, 1, 4, 6])


def results(layer: NoisyRNN, inputs: Tensor) -> list[Tensor]:
    """Outputs, last states and gradients in training, then outputs, last states and one step without gradients."""
    layer.train().zero_grad()
    outputs, h_n = layer(inputs, lengths=LENGTHS, dt=0.5)
    outputs[:, -1].square().sum().backward()
    grads = [p.grad for p in layer.parameters() if p.grad is not None]
    with torch.no_grad():
        return [outputs, h_n, *grads, *layer.eval()(inputs), layer.step(inputs[:, 0])]


@pytest.mark.parametrize("kernel", ["auto", "eager", "reference"])
@pytest.mark.parametrize("value", [torch.float64, torch.float16, torch.bfloat16, "meta"], ids=str)
def test_results_do_not_depend_on_them(kernel: str, value: torch.dtype | str) -> None:
    torch.manual_seed(0)
    layer = NoisyRNN(3, 9, step_size=1.0, additive=0.0, multiplicative=0.0)
    layer.kernel, inputs = kernel, torch.randn(4, 6, 3)
    expected = results(layer, inputs)
    with defaults(device=value) if isinstance(value, str) else defaults(value):
        found = results(layer, inputs)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and one.device.type == "cpu"
        assert one.equal(other)


def test_the_measured_case() -> None:
    """The plain loop's gradients in float64, written out."""
    torch.manual_seed(0)
    layer = NoisyRNN(3, 8, step_size=1.0, additive=0.0, multiplicative=0.0)
    inputs = torch.randn(4, 6, 3)
    with defaults(torch.float64):
        layer(inputs)[0][:, -1].square().sum().backward()
    step, bias = layer.cell.step_size.grad[:2], layer.cell.input.bias.grad[:2]
    torch.testing.assert_close(step, torch.tensor([6.4784, 31.0471]), rtol=1e-4, atol=0)
    torch.testing.assert_close(bias, torch.tensor([-24.5547, 62.0240]), rtol=1e-4, atol=0)
