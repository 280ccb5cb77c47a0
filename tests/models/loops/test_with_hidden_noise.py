from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyrnn.models import MODELS, ModuleCell, RecurrentLayer, WithHiddenNoise
from noisyrnn.noise import BrownianPath, HiddenNoise

Make = Callable[..., Any]
NOISE = HiddenNoise(additive=0.1, multiplicative=0.2)
PATH = BrownianPath(seed=4, first_step=2)
CELLS = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
CLOSE = {"rtol": 0, "atol": 1e-12}

kinds = pytest.mark.parametrize("kind", sorted(CELLS))


def plain_cell(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return CELLS[kind](2, 5).double()


@kinds
def test_the_formula_written_out(kind: str, make_inputs: Make) -> None:
    cell, inputs = plain_cell(kind), make_inputs()
    noisy = WithHiddenNoise(cell, NOISE)
    first, second = PATH.normals(steps=6, batch=4, units=5, dtype=torch.float64)
    state, h, c = None, torch.zeros(4, 5).double(), torch.zeros(4, 5).double()
    for m in range(6):
        state = noisy(inputs[:, m], state, path=PATH, step=m)
        if kind == "lstm":
            new, c = cell(inputs[:, m], (h, c))
        else:
            new = cell(inputs[:, m], h)
        h = h + (1 + 0.2 * second[m]) * (new - h) + 0.1 * first[m]
        found = state if kind != "lstm" else state[0]
        torch.testing.assert_close(found, h, **CLOSE)
        assert kind != "lstm" or (isinstance(state, tuple) and torch.allclose(state[1], c, rtol=0, atol=1e-12))
    assert noisy.input_size == 2 and noisy.hidden_size == 5


@kinds
def test_a_loop_is_the_layer(kind: str, make_inputs: Make, make_layer: Make) -> None:
    """In a layer of their own kind the same weights, path and steps give the same outputs."""
    layer, inputs = make_layer(kind, additive=0.1, multiplicative=0.2), make_inputs()
    cell = CELLS[kind](2, 5).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.cell.rnn.state_dict().items()})
    outputs, h_n = layer(inputs, path=PATH)
    noisy, state, found = WithHiddenNoise(cell, NOISE), None, []
    for m in range(6):
        state = noisy(inputs[:, m], state, path=PATH, step=m)
        found.append(state[0] if kind == "lstm" else state)
    torch.testing.assert_close(torch.stack(found, dim=1), outputs, **CLOSE)
    torch.testing.assert_close(torch.cat(state, dim=1) if kind == "lstm" else state, h_n[0], **CLOSE)
    adapted = RecurrentLayer(lambda *sizes: cell, 2, 5, additive=0.1, multiplicative=0.2)
    torch.testing.assert_close(adapted(inputs, path=PATH)[0], outputs, **CLOSE)
    adapted.noise_mode = "off"
    layer.noise_mode = "off"
    torch.testing.assert_close(adapted(inputs)[0], layer(inputs)[0], **CLOSE)


@pytest.mark.parametrize("name", ["lipschitz", "cornn"])
def test_a_cell_of_the_library_with_step_lengths(name: str, make_inputs: Make, make_layer: Make) -> None:
    layer, inputs = make_layer(name, step_size=0.3, additive=0.1, multiplicative=0.2), make_inputs()
    noisy, state = WithHiddenNoise(layer.cell, NOISE), None
    dt = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)).double() + 0.5
    for coarse in (PATH, PATH.coarsened(2), PATH.negated()):
        state = None
        for m in range(6):
            state = noisy(inputs[:, m], state, dt=dt[:, m], path=coarse, step=m)
        torch.testing.assert_close(state, layer(inputs, dt=dt, path=coarse)[1][0], **CLOSE)
    halved = noisy(inputs[:, 0], dt=0.5, path=PATH)
    torch.testing.assert_close(halved, layer(inputs[:, :1], dt=0.5, path=PATH)[1][0], **CLOSE)


@kinds
def test_without_noise_it_is_the_cell(kind: str, make_inputs: Make) -> None:
    cell, x = plain_cell(kind), make_inputs()[:, 0]
    noisy = WithHiddenNoise(cell, NOISE).eval()
    state: Any = torch.full((4, 5), 0.3).double()
    state = (state, 2 * state) if kind == "lstm" else state
    for found, wanted in ((noisy(x, state, path=PATH), cell(x, state)), (noisy(x), cell(x))):
        for one, other in zip(*((r if kind == "lstm" else [r]) for r in (found, wanted)), strict=True):
            torch.testing.assert_close(one, other, **CLOSE)
    alone, row = noisy(x[1]), noisy(x)
    alone, row = (alone[1], row[1]) if kind == "lstm" else (alone, row)
    assert alone.shape == (5,)
    torch.testing.assert_close(alone, row[1], **CLOSE)


def test_the_switch_and_new_paths() -> None:
    x = torch.ones(3, 2, dtype=torch.float64)
    first, twin = (WithHiddenNoise(plain_cell("gru"), NOISE) for _ in range(2))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        calls = [first(x) for _ in range(2)]
        torch.manual_seed(7)
        assert all(torch.equal(twin(x), call) for call in calls)
        torch.manual_seed(7)
        seeds = [torch.randint(2**63 - 1, ()) for _ in range(2)]  # one for each call
    assert all(torch.equal(twin(x, path=BrownianPath(seed=s)), call) for s, call in zip(seeds, calls, strict=True))
    assert not torch.equal(*calls)
    first.noise_mode = "off"
    assert torch.equal(first(x), first(x)) and first.noise_mode == "off"
    assert torch.equal(twin.eval()(x), first(x))
    twin.noise_mode = "on"
    assert not torch.equal(twin(x), twin(x))
    assert not torch.equal(*(WithHiddenNoise(plain_cell("gru"), NOISE)(x) for _ in range(2)))
    assert "additive=0.1" in repr(first)


def test_its_factor_scales_all_levels() -> None:
    cell, x, path = torch.nn.GRUCell(2, 3), torch.randn(4, 2), BrownianPath(seed=1)
    double = WithHiddenNoise(cell, HiddenNoise(additive=0.2, multiplicative=0.4))(x, path=path)
    adapted = WithHiddenNoise(cell, HiddenNoise(additive=0.1, multiplicative=0.2))
    adapted.noise_scale = 2.0
    torch.testing.assert_close(adapted(x, path=path), double)
    adapted.noise_scale = 0.0
    torch.testing.assert_close(adapted(x, path=path), cell(x))
    adapted.noise_scale = -1.0
    with pytest.raises(ValueError, match=r"^noise_scale must be at least 0, got -1\.$"):
        adapted(x, path=path)


def test_gradients_reach_weights_and_state(make_inputs: Make) -> None:
    noisy, x = WithHiddenNoise(plain_cell("lstm"), NOISE), make_inputs()[:, 0].requires_grad_()
    h, c = (torch.full((4, 5), 0.3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    sum(part.square().sum() for part in noisy(x, (h, c), path=PATH)).backward()
    assert all((t.grad != 0).any() for t in (x, h, c, *noisy.parameters()))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "sentence"),
    [
        ((torch.zeros(4, 3),), {}, ValueError, r"^inputs must have shape \(batch, 2\) or \(2,\), got \(4, 3\)\.$"),
        ((torch.zeros(1, 4, 2),), {}, ValueError, r"^inputs must have shape .*, got \(1, 4, 2\)\.$"),
        (
            (torch.zeros(4, 2), torch.zeros(3, 5)),
            {},
            ValueError,
            r"^state must hold 5 entries for each of 4 rows, got \(3, 5\)\.$",
        ),
        (
            (torch.zeros(4, 2), (torch.zeros(4, 5), torch.zeros(4, 5))),
            {},
            ValueError,
            r"^state must hold 5 entries for each of 4 rows, got \(4, 5\), \(4, 5\)\.$",
        ),
        ((torch.zeros(4, 2),), {"step": 3}, ValueError, r"^step must be 0 without a path, got 3\. Give path=Brown"),
        ((torch.zeros(4, 2),), {"path": 3}, TypeError, r"^path must be a BrownianPath, got 3\. Give BrownianPath\("),
        ((torch.zeros(4, 2),), {"step": -1, "path": PATH}, ValueError, r"^step must be at least 0, got -1\.$"),
        ((torch.zeros(4, 2),), {"dt": 0.5}, ValueError, r"^dt must be None for ModuleCell, whose steps have no length"),
    ],
)
def test_bad_calls(arguments: Any, options: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        WithHiddenNoise(nn.GRUCell(2, 5), NOISE)(*arguments, **options)


class Own(nn.Module):
    """A cell of somebody's own, with a memory."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.mix = nn.Linear(input_size + hidden_size, hidden_size)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h, c = state
        c = 0.5 * c + self.mix(torch.cat([x, h], dim=1))
        return torch.tanh(c), c


def test_a_module_of_ones_own(make_inputs: Make) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = RecurrentLayer(lambda *sizes: ModuleCell(Own(*sizes), parts=2), 2, 5, num_layers=2, additive=0.1)
    layer, inputs = layer.double(), make_inputs()
    outputs, h_n = layer(inputs, path=PATH)
    assert h_n.shape == (2, 4, 10)
    values, state = inputs, None
    for k, cell in enumerate(layer.cells.values()):
        noisy, found, state = WithHiddenNoise(cell, HiddenNoise(additive=0.1)), [], None
        path = BrownianPath(seed=4, first_step=2, stream=k)
        for m in range(6):
            state = noisy(values[:, m], state, path=path, step=m)
            found.append(state[0])
        values = torch.stack(found, dim=1)
    torch.testing.assert_close(outputs, values, **CLOSE)
    torch.testing.assert_close(h_n[1], torch.cat(state, dim=1), **CLOSE)
    assert "cells.l0.module.mix.weight" in layer.state_dict()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_cell_of_the_library(name: str, make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer(name, additive=0.1, multiplicative=0.2), make_inputs()
    noisy, state = WithHiddenNoise(layer.cell, layer.hidden_noise), None
    for m in range(6):
        state = noisy(inputs[:, m], state, path=PATH, step=m)
    torch.testing.assert_close(state, layer(inputs, path=PATH)[1][0], **CLOSE)
