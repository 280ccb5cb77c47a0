"""The loop over time against the same sums written out in NumPy, with every feature on."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noisyrnn.kernels import reference
from noisyrnn.models import GRU, LSTM, AntisymmetricRNN, Cell, CoRNN, ExpRNN, NoisyRNN, RecurrentLayer
from noisyrnn.models.lipschitz import LipschitzCell
from noisyrnn.noise import BrownianPath, HiddenNoise

BATCH, STEPS, INPUT, HIDDEN = 4, 6, 2, 5
PATH = BrownianPath(seed=21, first_row=3, first_step=7)
LENGTHS = torch.tensor([6, 1, 3, 2])


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def cell() -> LipschitzCell:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cell = LipschitzCell(
            INPUT, HIDDEN, step_size=0.25, learn_step=True, skew_symmetry=0.6, damping=0.1, init_std=2.0
        ).double()
    with torch.no_grad():
        cell.step_size.copy_(torch.linspace(0.1, 0.5, HIDDEN))
    return cell


INPUTS, STATE = randn(BATCH, STEPS, INPUT, seed=1), randn(BATCH, HIDDEN, seed=2)
PER_STEP = torch.linspace(0.5, 1.5, STEPS, dtype=torch.float64)
PER_ROW = PER_STEP * torch.tensor([[1.0], [0.7], [1.4], [0.4]], dtype=torch.float64)


def written_out(
    cell: LipschitzCell, noise: HiddenNoise | None, lengths: Tensor | None, dt: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and last state of the noisy recurrence, one sequence and one step at a time."""
    B, C, U, b, d = (p.detach().numpy() for p in (cell.B, cell.C, cell.input.weight, cell.input.bias, cell.step_size))
    eye = np.eye(HIDDEN)
    A, W = (0.4 * (M + M.T) + 0.6 * (M - M.T) - 0.1 * eye for M in (B, C))
    normals = PATH.normals(steps=STEPS, batch=BATCH, units=HIDDEN, dtype=torch.float64).numpy()
    uniforms = PATH.uniforms(steps=STEPS, batch=BATCH, units=HIDDEN, dtype=torch.float64).numpy()
    outputs, last = np.zeros((BATCH, STEPS, HIDDEN)), np.zeros((BATCH, HIDDEN))
    for n in range(BATCH):
        h = STATE[n].numpy()
        for m in range(STEPS if lengths is None else int(lengths[n])):
            length = 1.0 if dt is None else float(dt[m] if dt.ndim == 1 else dt[n, m])
            delta = length * d * (A @ h + np.tanh(W @ h + U @ INPUTS[n, m].numpy() + b))
            if noise is not None:
                first, second = normals[0, m, n], normals[0 if noise.form == "shared" else 1, m, n]
                mu = 1 + noise.multiplicative / math.sqrt(length) * second
                if noise.law == "uniform":
                    mu = 1 - noise.multiplicative * (1 - uniforms[m, n])
                delta = mu * delta + noise.additive * math.sqrt(length) * first
            h = h + delta
            outputs[n, m] = h
        last[n] = h
    return outputs, last


NOISES = [
    None,
    HiddenNoise(),
    HiddenNoise(additive=0.3),
    HiddenNoise(multiplicative=0.4),
    HiddenNoise(additive=0.3, multiplicative=0.4),
    HiddenNoise(additive=0.3, multiplicative=0.4, form="shared"),
    HiddenNoise(multiplicative=0.4, form="shared"),
]


@pytest.mark.parametrize("noise", NOISES, ids=str)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
@pytest.mark.parametrize("dt", [None, PER_STEP, PER_ROW], ids=["nominal", "per_step", "per_row"])
def test_equals_the_written_out_loop(
    cell: LipschitzCell, noise: HiddenNoise | None, lengths: Tensor | None, dt: Tensor | None
) -> None:
    outputs, state = reference.run(cell, INPUTS, STATE, noise=noise, path=PATH, lengths=lengths, dt=dt)
    expected, last = written_out(cell, noise, lengths, dt)
    np.testing.assert_allclose(outputs.detach().numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(state.detach().numpy(), last, rtol=0, atol=1e-12)
    silent, again = reference.run(cell, INPUTS, STATE, noise=noise, path=PATH, lengths=lengths, dt=dt, every_step=False)
    assert silent is None
    assert torch.equal(again, state)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "lengths"])
def test_uniform_law_equals_the_written_out_loop(cell: LipschitzCell, lengths: Tensor | None) -> None:
    noise = HiddenNoise(additive=0.3, multiplicative=0.4, law="uniform")
    outputs, state = reference.run(cell, INPUTS, STATE, noise=noise, path=PATH, lengths=lengths)
    expected, last = written_out(cell, noise, lengths, None)
    np.testing.assert_allclose(outputs.detach().numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(state.detach().numpy(), last, rtol=0, atol=1e-12)


def test_weights_are_made_once_a_pass(cell: LipschitzCell, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    recurrence = cell.recurrence
    monkeypatch.setattr(cell, "recurrence", lambda: made.append(1) or recurrence())
    reference.run(cell, INPUTS, STATE, noise=NOISES[4], path=PATH)
    assert len(made) == 1


def test_noise_without_a_path_is_none(cell: LipschitzCell) -> None:
    outputs, _ = reference.run(cell, INPUTS, STATE, noise=NOISES[4])
    expected, _ = written_out(cell, None, None, None)
    np.testing.assert_allclose(outputs.detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("noise", [None, NOISES[5]], ids=["silent", "noisy"])
def test_nothing_flows_back_from_the_padding(cell: LipschitzCell, noise: HiddenNoise | None) -> None:
    inputs = INPUTS.masked_fill((torch.arange(STEPS) >= LENGTHS[:, None])[..., None], torch.nan).requires_grad_()
    outputs, state = reference.run(cell, inputs, STATE, noise=noise, path=PATH, lengths=LENGTHS)
    (outputs.square().sum() + state.sum()).backward()
    past = torch.arange(STEPS) >= LENGTHS[:, None]
    assert (inputs.grad[past] == 0).all()
    assert (inputs.grad[~past] != 0).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in cell.parameters())


KINDS: list[tuple[Callable[..., RecurrentLayer], dict[str, Any]]] = [
    (NoisyRNN, {"step_size": 0.3, "init_std": 1.0}),
    (NoisyRNN, {"step_size": 0.3, "init_std": 1.0, "noise_form": "shared"}),
    (NoisyRNN, {"step_size": 0.3, "init_std": 1.0, "noise_law": "uniform"}),
    (AntisymmetricRNN, {"step_size": 0.3, "init_std": 1.0}),
    (CoRNN, {"step_size": 0.3}),
    (ExpRNN, {}),
    (GRU, {}),
    (LSTM, {}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_gradients_with_noise_on_a_fixed_path(kind: Callable[..., RecurrentLayer], options: dict[str, Any]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = kind(2, 3, additive=0.2, multiplicative=0.3, **options).double()
    timed = layer.cell.supports_dt and layer.noise_law == "gaussian"
    dt = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64).requires_grad_() if timed else None
    inputs = randn(3, 4, 2, seed=3).requires_grad_()
    h_0 = randn(1, 3, layer.cell.state_size, seed=4).requires_grad_()
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def outputs(inputs: Tensor, h_0: Tensor, dt: Tensor | None, *values: Tensor) -> Tensor:
        arguments = {"lengths": torch.tensor([4, 1, 3]), "dt": dt, "path": PATH}
        results = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (inputs, h_0), arguments)
        return torch.cat([part.flatten() for part in results])

    assert torch.autograd.gradcheck(outputs, (inputs, h_0, dt, *parameters))


class Returning(Cell):
    """A cell whose increment is what `change` makes of the state."""

    def __init__(self, input_size: int, hidden_size: int, change: Any) -> None:
        super().__init__(input_size, hidden_size)
        self.weights, self.change = nn.Linear(input_size, hidden_size), change

    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        return self.change(self.weights(inputs) - state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h[:, :1], r"the shape of the state, \(4, 3\), got \(4, 1\)\."),  # these three would be broadcast
        (lambda h: h[0], r"the shape of the state, \(4, 3\), got \(3,\)\."),
        (lambda h: h.mean(), r"the shape of the state, \(4, 3\), got \(\)\."),
        (lambda h: (h, h), r"a tensor, got tuple\."),
        (lambda h: None, r"a tensor, got NoneType\."),
    ],
)
def test_what_an_increment_returns_is_checked(change: Any, message: str) -> None:
    inputs = torch.randn(4, 5, 2)
    layer = RecurrentLayer(lambda *sizes: Returning(*sizes, change), 2, 3, additive=0.1)
    for run in (lambda: layer(inputs), lambda: layer.eval()(inputs), lambda: layer.step(inputs[:, 0])):
        with pytest.raises((TypeError, ValueError), match=rf"^increment must return {message}"):
            run()
