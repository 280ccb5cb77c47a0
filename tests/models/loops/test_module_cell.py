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
