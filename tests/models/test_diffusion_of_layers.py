"""Diffusions in stacks, in cells of one's own, and through everything that torch does with a module."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyrnn import (
    GRU,
    LSTM,
    Activation,
    BrownianPath,
    CoRNN,
    ExpRNN,
    FunctionDiffusion,
    HiddenNoise,
    LipschitzRNN,
    MatrixDiffusion,
    NoisyRNN,
    RateRNN,
    RecurrentLayer,
    SequenceClassifier,
    TanhRNN,
    WithHiddenNoise,
    load,
    save,
)
from noisyrnn.kernels import reference
from noisyrnn.models import Cell

Make = Callable[..., Any]
UNITS = 5
PATH = BrownianPath(seed=6)
MATRIX = torch.linspace(-0.4, 0.5, 2 * UNITS, dtype=torch.float64).view(UNITS, 2)
ROWS = MATRIX.tolist()
SINE = Activation(torch.sin, lipschitz=1.0)


def function(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return 0.2 * h.cos()[..., None] * MATRIX.to(h) + 0.01 * t[..., None]


class OwnCell(Cell):
    """A leaky cell whose noise grows with its units."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.W, self.U = nn.Linear(hidden_size, hidden_size), nn.Linear(input_size, hidden_size)
        self.level = nn.Parameter(torch.full((hidden_size,), 0.3))

    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        change = 0.2 * (torch.tanh(self.W(state) + self.U(inputs)) - state)
        return change if dt is None else dt * change

    def diffusion(self, h: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.level * h.cos() + 0.1 * x[:, :1] + 0.05 * t


def made(kind: Any, *sizes: Any, seed: int = 0, **options: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(*sizes, **options).double()


# -- stacks and every layer


@pytest.mark.parametrize("kind", [GRU, LSTM, TanhRNN, CoRNN, ExpRNN, LipschitzRNN, RateRNN])
@pytest.mark.parametrize("diffusion", [ROWS, function], ids=["matrix", "function"])
def test_a_stack_in_both_directions_is_its_cells_in_turn(kind: Any, diffusion: Any, make_inputs: Make) -> None:
    """Each cell has its own stream of the path; time starts at 0 in each direction."""
    options = {"noise_units": "per_step"} if kind is RateRNN else {}
    layer = made(kind, 2, UNITS, num_layers=2, bidirectional=True, diffusion=diffusion, **options)
    inputs = make_inputs()
    outputs, h_n = layer(inputs, path=PATH)
    values, noise, k = inputs, layer.hidden_noise, 0
    for level in range(2):
        found = []
        for direction in ("", "_reverse"):
            cell = layer.cells[f"l{level}{direction}"]
            x = values.flip(1) if direction else values
            path = BrownianPath(seed=6, stream=PATH.stream + k)
            out, end = reference.run(cell, x, cell.initial_state(4), noise=noise, path=path)
            assert out is not None
            found.append(out.flip(1) if direction else out)
            torch.testing.assert_close(end, h_n[k], rtol=0, atol=1e-14)
            k += 1
        values = torch.cat(found, dim=2)
    torch.testing.assert_close(outputs, values, rtol=0, atol=1e-14)
    quiet = layer.eval()(inputs)[0]
    assert not torch.allclose(outputs, quiet, atol=0.05)
    layer.noise_mode = "on"
    assert torch.equal(layer(inputs, path=PATH)[0], outputs)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell, OwnCell])
@pytest.mark.parametrize("diffusion", [ROWS, function, None], ids=["matrix", "function", "own"])
def test_a_loop_is_the_layer(kind: Any, diffusion: Any, make_inputs: Make) -> None:
    if (diffusion is None) != (kind is OwnCell):
        pytest.skip("one has a diffusion of its own, the others are given one")
    cell, inputs = made(kind, 2, UNITS), make_inputs()
    layer = RecurrentLayer(lambda *sizes: cell, 2, UNITS, diffusion=diffusion)
    noisy = WithHiddenNoise(cell, HiddenNoise(diffusion=diffusion))  # type: ignore[arg-type]
    state, found = None, []
    for m in range(6):
        state = noisy(inputs[:, m], state, path=PATH, step=m)
        found.append(state[0] if isinstance(state, tuple) else state)
    outputs = layer(inputs, path=PATH)[0]
    torch.testing.assert_close(torch.stack(found, dim=1), outputs, rtol=0, atol=1e-12)
    assert not torch.allclose(outputs, layer.eval()(inputs)[0], atol=0.01)


@pytest.mark.parametrize("diffusion", [ROWS, function], ids=["matrix", "function"])
def test_padding_and_time_in_a_direction(diffusion: Any, make_inputs: Make) -> None:
    layer, inputs = made(LipschitzRNN, 2, UNITS, bidirectional=True, diffusion=diffusion), make_inputs(batch=2)
    lengths, dt = torch.tensor([6, 3]), torch.linspace(0.5, 2.0, 6).double()
    outputs, h_n = layer(inputs, lengths=lengths, dt=dt, path=PATH)
    alone, end = layer(inputs[1:, :3], dt=dt[:3], path=BrownianPath(seed=6, first_row=1))
    torch.testing.assert_close(outputs[1:, :3], alone, rtol=0, atol=1e-14)
    torch.testing.assert_close(h_n[:, 1:], end, rtol=0, atol=1e-14)
    assert not outputs[1, 3:].any()


def test_what_a_function_is_called_with(make_inputs: Make) -> None:
    seen: list[tuple[Any, ...]] = []

    def sigma(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
        seen.append((tuple(h.shape), tuple(x.shape), t.expand(len(h), 1)[:, 0].tolist()))
        return 0.1 * h

    layer, inputs = made(LipschitzRNN, 2, UNITS, num_layers=2, diffusion=sigma), make_inputs(batch=2, steps=3)
    layer(inputs, path=BrownianPath(seed=0, first_step=4), dt=torch.tensor([[1.0, 2.0, 1.0], [0.5, 0.5, 9.0]]).double())
    times = [[4.0, 4.0], [5.0, 4.5], [7.0, 5.0]]
    lower, upper = ([((2, UNITS), (2, width), t) for t in (times[0], *times)] for width in (2, UNITS))
    assert seen == lower + upper  # first the shapes, then every step


# -- cells with a diffusion of their own


def test_a_diffusion_of_the_cell_itself(make_inputs: Make) -> None:
    layer, inputs = made(RecurrentLayer, OwnCell, 2, UNITS, num_layers=2), make_inputs()
    outputs, _ = layer(inputs, path=PATH)
    values = inputs
    for k in range(2):  # each by its own level
        cell, after = layer.cells[f"l{k}"], []
        with torch.no_grad():
            cell.level.mul_(k + 1)
        xi = BrownianPath(seed=6, stream=k).normals(steps=6, batch=4, units=UNITS, motions=1, dtype=torch.float64)[0]
        h = torch.zeros(4, UNITS, dtype=torch.float64)
        for m in range(6):
            t = torch.full((1, 1), float(m), dtype=torch.float64)
            h = h + cell.increment(values[:, m], h) + cell.diffusion(h, values[:, m], t) * xi[m]
            after.append(h)
        values = torch.stack(after, dim=1)
    torch.testing.assert_close(layer(inputs, path=PATH)[0], values, rtol=0, atol=1e-14)
    assert not torch.allclose(outputs, values)
    layer(inputs)[0].sum().backward()
    assert all(bool(cell.level.grad.any()) for cell in layer.cells.values())
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.cells["l0"].level.zero_()
    assert not torch.allclose(twin(inputs, path=PATH)[0], values)
    torch.testing.assert_close(layer(inputs, path=PATH)[0], values, rtol=0, atol=1e-14)


class WithAttribute(Cell):
    """A cell whose diffusion is an attribute."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.U = nn.Linear(input_size, hidden_size)
        self.diffusion = FunctionDiffusion(lambda h, x, t: 0.3 + 0.1 * h, diagonal=True)

    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        return 0.1 * self.U(inputs)


def test_a_diffusion_that_is_an_attribute(make_inputs: Make) -> None:
    layer, inputs = made(RecurrentLayer, WithAttribute, 2, UNITS, scheme="milstein"), make_inputs()
    assert layer.hidden_noise.diffusion is layer.cell.diffusion
    assert not torch.allclose(layer(inputs)[0], layer.eval()(inputs)[0])


def test_levels_or_a_diffusion_of_the_layer_with_one_of_the_cell() -> None:
    for make in (
        lambda: RecurrentLayer(OwnCell, 2, UNITS, additive=0.1),
        lambda: WithHiddenNoise(OwnCell(2, UNITS), HiddenNoise(additive=0.1)),
    ):
        with pytest.raises(ValueError, match=r"^additive must be 0 with a diffusion, which replaces both levels"):
            make()
    with pytest.raises(ValueError, match=r"^diffusion must be None for a cell with one of its own, OwnCell"):
        RecurrentLayer(OwnCell, 2, UNITS, diffusion=ROWS)
    with pytest.raises(ValueError, match=r"^diffusion must be a matrix or declared diagonal with scheme 'milstein'"):
        RecurrentLayer(OwnCell, 2, UNITS, scheme="milstein")


# -- types, copies and files


def test_a_matrix_has_the_type_of_the_weights(make_inputs: Make) -> None:
    for dtype in (torch.float32, torch.float64):
        for given in (MATRIX, MATRIX.float(), ROWS, MATRIX.numpy()):
            for learn in (False, True):
                layer = NoisyRNN(2, UNITS, diffusion=given, learn_diffusion=learn, dtype=dtype)
                assert layer.diffusion.matrix.dtype == dtype and layer.learn_diffusion == learn
                layer(make_inputs().to(dtype))
    layer = NoisyRNN(2, UNITS, diffusion=MATRIX, learn_diffusion=True)  # a tensor of another type than the weights
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}
    assert NoisyRNN(2, UNITS, diffusion=ROWS, dtype=torch.float64).options()["diffusion"] == ROWS
    assert layer.to(torch.bfloat16)(make_inputs().bfloat16())[0].dtype == torch.bfloat16


def test_a_matrix_without_values() -> None:
    layer = NoisyRNN(2, UNITS, diffusion=ROWS, learn_diffusion=True).to("meta")
    assert "diffusion" in repr(layer) and layer(torch.zeros(3, 4, 2, device="meta"))[0].is_meta
    assert "diffusion" in layer.options()


def test_a_coarsened_path_counts_its_own_steps() -> None:
    times = []
    layer = LipschitzRNN(1, UNITS, diffusion=lambda h, x, t: times.append(t.item()) or 0.1 * h, dtype=torch.float64)
    layer(torch.zeros(1, 3, 1, dtype=torch.float64), path=BrownianPath(seed=0, first_step=8).coarsened(4))
    assert times == [2.0, 2.0, 3.0, 4.0]  # the first is the look at the shape


@pytest.mark.parametrize("learn", [False, True])
def test_copies_and_pickles(learn: bool, make_inputs: Make) -> None:
    layer, inputs = made(NoisyRNN, 2, UNITS, diffusion=ROWS, learn_diffusion=learn), make_inputs()
    expected = layer(inputs, path=PATH)[0]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(inputs, path=PATH)[0], expected)
        twin.diffusion.matrix.data.zero_()
        assert not torch.equal(twin(inputs, path=PATH)[0], expected)
    assert torch.equal(layer(inputs, path=PATH)[0], expected)
    noisy = WithHiddenNoise(layer.cell, layer.hidden_noise)
    twin = copy.deepcopy(noisy)
    twin.diffusion.matrix.data.zero_()
    assert twin.hidden_noise.diffusion is twin.diffusion and bool(noisy.diffusion.matrix.any())
    assert ("diffusion.matrix" in dict(noisy.named_parameters())) == learn


def test_a_learned_matrix_comes_from_the_file(tmp_path: Path, make_inputs: Make) -> None:
    layer = NoisyRNN(2, UNITS, diffusion=ROWS, learn_diffusion=True)
    with torch.no_grad():
        layer.diffusion.matrix.add_(1 / 3)
    model, inputs = SequenceClassifier(layer, 3).eval(), make_inputs().float()
    save(model, tmp_path / "m.safetensors")
    loaded = load(tmp_path / "m.safetensors")
    layer.noise_mode = loaded.layer.noise_mode = "on"
    assert torch.equal(loaded(inputs, path=PATH), model(inputs, path=PATH))
    assert torch.equal(loaded.layer.diffusion.matrix, layer.diffusion.matrix) and loaded.layer.learn_diffusion
    own = SequenceClassifier(NoisyRNN(2, UNITS, diffusion=MatrixDiffusion(ROWS, learn=True)), 3).eval()
    save(own, tmp_path / "own.safetensors")
    assert load(tmp_path / "own.safetensors").layer.diffusion.learn


def test_functions_are_in_no_file(tmp_path: Path) -> None:
    for options, sentence in (
        (
            {"diffusion": function},
            r"^diffusion must be a matrix in a file, which holds no functions, got FunctionDiffusion",
        ),
        (
            {"activation": SINE},
            r"^activation must be a name in a file, .*Save model\.state_dict\(\), and load it into a",
        ),
    ):
        with pytest.raises(TypeError, match=sentence):
            save(SequenceClassifier(NoisyRNN(2, UNITS, **options), 3), tmp_path / "m.safetensors")
        assert not (tmp_path / "m.safetensors").exists()


# -- transforms


@pytest.mark.parametrize("options", [{}, {"scheme": "stochastic-heun"}, {"activation": "relu"}, {"activation": SINE}])
def test_vmap_over_learned_matrices(options: dict[str, Any], make_inputs: Make) -> None:
    inputs = make_inputs()
    layers = [
        made(NoisyRNN, 2, UNITS, seed=k, diffusion=MATRIX * (k + 1), learn_diffusion=True, **options) for k in (0, 1)
    ]
    parameters, buffers = torch.func.stack_module_state(layers)

    def call(parameters: Any, buffers: Any, seed: Tensor) -> Tensor:
        arguments = (inputs,), {"path": BrownianPath(seed=seed)}
        return torch.func.functional_call(layers[0], (parameters, buffers), *arguments)[0]

    found = torch.func.vmap(call)(parameters, buffers, torch.arange(2))
    for k, layer in enumerate(layers):
        torch.testing.assert_close(found[k], layer(inputs, path=BrownianPath(seed=k))[0], rtol=0, atol=1e-13)


EQUATIONS: list[dict[str, Any]] = [
    {"diffusion": ROWS},
    {"diffusion": function},
    {"scheme": "stochastic-heun"},
    {"activation": SINE},
    {"diffusion": function, "scheme": "stochastic-heun"},
]


@pytest.mark.parametrize("options", EQUATIONS)
def test_without_gradients_and_in_half_precision(options: dict[str, Any], make_inputs: Make) -> None:
    torch.manual_seed(0)
    layer, inputs = NoisyRNN(2, UNITS, **options), make_inputs().float()
    expected = layer(inputs, path=PATH)[0]
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert torch.equal(layer(inputs, path=PATH)[0], expected)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = layer(inputs, path=PATH)[0]
        outputs.sum().backward()
    torch.testing.assert_close(outputs.float(), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("options", EQUATIONS[:4])
def test_compiled(options: dict[str, Any], make_inputs: Make) -> None:
    torch.compiler.reset()
    layer, inputs = NoisyRNN(2, UNITS, **options), make_inputs(steps=3).float()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(inputs, path=PATH)[0], layer(inputs, path=PATH)[0], rtol=0, atol=1e-6)
