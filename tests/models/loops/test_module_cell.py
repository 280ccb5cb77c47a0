from typing import Any

import pytest
import torch
from torch import nn

from noisyrnn.models import LipschitzRNN, ModuleCell, RecurrentLayer, WithHiddenNoise
from noisyrnn.models.loops.module_cell import as_cell
from noisyrnn.noise import HiddenNoise


@pytest.mark.parametrize(("kind", "parts"), [(nn.RNNCell, 1), (nn.GRUCell, 1), (nn.LSTMCell, 2)])
def test_one_step(kind: type[nn.Module], parts: int) -> None:
    module = kind(2, 3, dtype=torch.float64)
    cell = ModuleCell(module)
    assert (cell.input_size, cell.hidden_size, cell.state_size) == (2, 3, 3 * parts)
    x = torch.linspace(-1, 1, 8).double().view(4, 2)
    state = torch.linspace(-1, 1, 12 * parts).double().view(4, 3 * parts)
    new = module(x, state if parts == 1 else (state[:, :3], state[:, 3:]))
    expected = new if parts == 1 else torch.cat(new, dim=1)
    torch.testing.assert_close(cell.step(x, state), expected, rtol=0, atol=1e-14)
    assert torch.equal(cell.initial_state(4), torch.zeros_like(state))


def test_as_cell() -> None:
    cell, module = LipschitzRNN(1, 2).cell, nn.GRUCell(1, 2)
    assert as_cell(cell) is cell
    found = as_cell(module)
    assert isinstance(found, ModuleCell) and found.module is module and found.parts == 1


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_layer_in_place_of_a_cell_is_refused(kind: type[nn.RNNBase]) -> None:
    name = kind.__name__
    message = rf"^cell must take one step, as nn\.GRUCell does, got {name}, which .* Use nn\.{name}Cell\.$"
    with pytest.raises(TypeError, match=message):
        as_cell(kind(2, 3))
    with pytest.raises(TypeError, match=message):
        WithHiddenNoise(kind(2, 3), HiddenNoise(additive=0.1))
    with pytest.raises(TypeError, match=message):
        RecurrentLayer(kind, 2, 3)


def test_bad_arguments() -> None:
    with pytest.raises(
        TypeError, match=r"^module must have integers input_size and hidden_size, got Linear with None and None\. Set "
    ):
        ModuleCell(nn.Linear(1, 2))
    with pytest.raises(ValueError, match=r"^parts must be at least 1, got 0\.$"):
        ModuleCell(nn.GRUCell(1, 2), parts=0)


class Returning(nn.Module):
    """A module called like `nn.RNNCell` that returns what `change` makes of its new state."""

    def __init__(self, input_size: int, hidden_size: int, change: Any) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.change = input_size, hidden_size, change
        self.weights = nn.Linear(input_size + hidden_size, hidden_size)

    def forward(self, inputs: torch.Tensor, state: torch.Tensor) -> Any:
        return self.change(self.weights(torch.cat([inputs, state], dim=1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h[:, :1], r" in the shape \(4, 3\), got \(4, 1\)\."),  # these three would be broadcast
        (lambda h: h[0], r" in the shape \(4, 3\), got \(3,\)\."),
        (lambda h: h.mean(), r" in the shape \(4, 3\), got \(\)\."),
        (lambda h: (h, h), r" in the shape \(4, 3\), got \(4, 3\), \(4, 3\)\. .* ModuleCell\(module, parts=2\)\."),
        (lambda h: None, r", got NoneType\."),
        (lambda h: h.tolist(), r", got list\."),
    ],
)
def test_what_a_module_returns_is_checked(change: Any, message: str) -> None:
    inputs = torch.randn(4, 5, 2)
    layer = RecurrentLayer(lambda *sizes: Returning(*sizes, change), 2, 3, additive=0.1)
    cell = WithHiddenNoise(Returning(2, 3, change), HiddenNoise(additive=0.1))
    for run in (lambda: layer(inputs), lambda: layer.step(inputs[:, 0]), lambda: cell(inputs[:, 0])):
        with pytest.raises((TypeError, ValueError), match=rf"^Returning must return its new state{message}"):
            run()


@pytest.mark.parametrize("build", [nn.GRUCell(2, 3), None, "gru"])
def test_a_cell_in_place_of_its_class_is_refused(build: Any) -> None:
    got = "GRUCell" if isinstance(build, nn.Module) else repr(build)
    with pytest.raises(TypeError, match=rf"^build must be a class of cells, such as nn\.GRUCell, .*, got {got}\."):
        RecurrentLayer(build, 2, 3)
