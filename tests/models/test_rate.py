import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from noisyrnn import BrownianPath, NoisyRNN, RateRNN, SequenceClassifier, load, save
from noisyrnn.kernels import reference
from noisyrnn.models.rate import leak_of

Make = Callable[..., Any]
ALPHA, LEVEL, ROWS, STEPS = 0.3, 0.4, 400, 60


@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_without_leak_it_is_torch_rnn(form: str, activation: str, make_inputs: Make) -> None:
    layer = RateRNN(2, 5, alpha=1.0, form=form, activation=activation, additive=0.0, dtype=torch.float64)
    rnn = nn.RNN(2, 5, nonlinearity=activation, batch_first=True).double()
    cell, inputs = layer.cell, make_inputs()
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(cell.W)
        rnn.weight_ih_l0.copy_(cell.input.weight)
        rnn.bias_ih_l0.copy_(cell.input.bias)
        rnn.bias_hh_l0.zero_()
    weights = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    results = []
    for module in (layer, rnn):
        x = inputs.clone().requires_grad_()
        outputs, _ = module(x)
        (outputs * weights).sum().backward()
        results.append((outputs, x.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(cell.W.grad, rnn.weight_hh_l0.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(cell.input.weight.grad, rnn.weight_ih_l0.grad, rtol=0, atol=1e-12)


def test_the_rate_form_is_a_noisy_rnn(make_inputs: Make) -> None:
    levels = {"additive": 0.3, "multiplicative": 0.2, "noise_units": "per_step", "dtype": torch.float64}
    rate = RateRNN(2, 5, alpha=ALPHA, **levels)
    # skew_symmetry 1/2 leaves M - γ I, so that B = 0 and C = W + I give A = -I and W.
    noisy = NoisyRNN(2, 5, step_size=ALPHA, learn_step=False, skew_symmetry=0.5, damping=1.0, **levels)
    with torch.no_grad():
        noisy.cell.B.zero_()
        noisy.cell.C.copy_(rate.cell.W + torch.eye(5))
        noisy.cell.input.load_state_dict(rate.cell.input.state_dict())
    inputs, path, dt = make_inputs(), BrownianPath(seed=2), torch.linspace(0.5, 2.0, 6, dtype=torch.float64)
    torch.testing.assert_close(
        rate(inputs, path=path, dt=dt)[0], noisy(inputs, path=path, dt=dt)[0], rtol=0, atol=1e-12
    )


UNITS = {"per_step": LEVEL, "per_time": math.sqrt(ALPHA) * LEVEL, "stationary": math.sqrt(2 * ALPHA) * LEVEL}


def silenced(**options: Any) -> RateRNN:
    """A network whose weights are zero, so that only leak and noise remain."""
    layer = RateRNN(1, 8, alpha=ALPHA, additive=LEVEL, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    return layer


def states_of(layer: RateRNN, **options: Any) -> Tensor:
    """Last states and all states after a burn-in of 60 steps, whose memory is 0.7⁶⁰ = 5e-10."""
    path = BrownianPath(seed=11)
    _, h = layer(torch.zeros(ROWS, 60, 1, dtype=torch.float64), path=path, **options)
    states: list[Tensor] = []
    for m in range(STEPS):
        _, h = layer(torch.zeros(ROWS, 1, 1, dtype=torch.float64), h, path=BrownianPath(seed=11, first_step=60 + m))
        states.append(h[0])
    return torch.stack(states)


def check_mean(values: Tensor, expected: float) -> None:
    """The mean over independent rows and units lies within four standard errors."""
    error = float(values.std()) / math.sqrt(values.numel())
    assert abs(float(values.mean()) - expected) < 4 * error


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("form", ["rate", "current"])
def test_stationary_variance_and_autocorrelation(units: str, form: str) -> None:
    states = states_of(silenced(noise_units=units, form=form))
    variance = UNITS[units] ** 2 / (1 - (1 - ALPHA) ** 2)
    check_mean(states.square().mean(0), variance)
    for k in (1, 3):
        check_mean((states[k:] * states[:-k]).mean(0), variance * (1 - ALPHA) ** k)
    if units == "stationary":
        assert variance == pytest.approx(LEVEL**2 * 2 / (2 - ALPHA))


@pytest.mark.parametrize("units", UNITS)
def test_variance_of_noise_inside(units: str) -> None:
    """With the identity as activation the step multiplies it by α."""
    states = states_of(silenced(noise_units=units, noise_place="inside", activation="identity"))
    added = ALPHA * (LEVEL if units == "per_step" else UNITS[units] / ALPHA)
    check_mean(states.square().mean(0), added**2 / (1 - (1 - ALPHA) ** 2))


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_two_half_steps_have_the_variance_of_a_whole_one(place: str) -> None:
    layer = silenced(noise_place=place, activation="identity")
    with torch.no_grad():
        layer.cell.input.bias.zero_()
    zeros = torch.zeros(20_000, 2, 1, dtype=torch.float64)
    end = layer(zeros, path=BrownianPath(seed=1), dt=0.5)[1][0]
    step = 2 * ALPHA * LEVEL**2 / 2  # half the variance of a step
    check_mean(end.square(), step * (1 + (1 - ALPHA / 2) ** 2))


def test_alpha_by_the_time_constant(make_inputs: Make) -> None:
    inputs, path = make_inputs(), BrownianPath(seed=3)
    one, two = (make(dtype=torch.float64, seed=0) for make in (by_alpha, by_tau))
    assert torch.equal(one(inputs, path=path)[0], two(inputs, path=path)[0])


def by_alpha(*, seed: int, **options: Any) -> RateRNN:
    torch.manual_seed(seed)
    return RateRNN(2, 5, alpha=0.2, **options)


def by_tau(*, seed: int, **options: Any) -> RateRNN:
    torch.manual_seed(seed)
    return RateRNN(2, 5, tau=100.0, step_size=20.0, **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"alpha": 0.0}, r"^alpha must be greater than 0, got 0\.$"),
        ({"alpha": 1.5}, r"^alpha must be at most 1, got 1\.5\.$"),
        ({"alpha": 0.2, "tau": 1.0, "step_size": 0.2}, r"^alpha must be None with tau and step_size, got 0\.2\."),
        ({"tau": 1.0}, r"^tau and step_size must be given together, got 1\.0 and None\.$"),
        ({"tau": 1.0, "step_size": 2.0}, r"^step_size must be at most tau, 1, got 2\.$"),
        ({"form": "spike"}, r"^form must be one of current, rate, got 'spike'"),
        ({"noise_units": "per_year"}, r"^noise_units must be one of per_step, per_time, stationary, got 'per_year'"),
        ({"noise_place": "beside"}, r"^noise_place must be one of inside, outside, got 'beside'"),
        ({"noise_place": "inside", "form": "current"}, r"^noise_place must be 'outside' with form 'current'"),
        ({"noise_place": "inside", "multiplicative": 0.1}, r"^multiplicative must be 0 with noise_place 'inside'"),
        ({"noise_place": "inside", "diffusion": torch.cos}, r"^diffusion must be a matrix with noise_place 'inside'"),
        (
            {"noise_place": "inside", "scheme": "milstein"},
            r"^scheme must be 'euler-maruyama' with noise_place 'inside'",
        ),
        ({"noise_law": "uniform"}, r"^noise_law must be 'gaussian' for a noise of unit time, got 'uniform'\.$"),
        ({"init_gain": 0.0}, r"^init_gain must be greater than 0, got 0\.$"),
    ],
)
def test_bad_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RateRNN(2, 3, **options)


def test_alpha_has_a_default() -> None:
    assert leak_of(None, None, None) == 0.2


def test_outputs_of_currents_are_rates_and_states_currents(make_inputs: Make) -> None:
    layer = RateRNN(2, 5, form="current", activation="softplus", num_layers=2, bidirectional=True).double().eval()
    outputs, h_n = layer(make_inputs())
    torch.testing.assert_close(outputs[:, -1, :5], nn.functional.softplus(h_n[2]), rtol=1e-6, atol=0)
    torch.testing.assert_close(outputs[:, 0, 5:], nn.functional.softplus(h_n[3]), rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.last_output(make_inputs()), torch.cat([outputs[:, -1, :5], outputs[:, 0, 5:]], 1))


def test_single_steps_of_currents(make_inputs: Make) -> None:
    layer, inputs = RateRNN(2, 5, form="current", num_layers=2, dtype=torch.float64).eval(), make_inputs()
    state = None
    for m in range(6):
        state = layer.step(inputs[:, m], state)
    torch.testing.assert_close(state, layer(inputs)[1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("options", [{"form": "current"}, {"noise_place": "inside"}, {"tau": 1.0, "step_size": 0.1}])
def test_saved_and_loaded(options: dict[str, Any], tmp_path: Any, make_inputs: Make) -> None:
    model = SequenceClassifier(RateRNN(2, 5, activation="retanh", **options), classes=3).eval()
    save(model, tmp_path / "model.safetensors")
    loaded, inputs = load(tmp_path / "model.safetensors"), make_inputs().float()
    assert torch.equal(loaded(inputs), model(inputs))
    assert loaded.layer.options() == model.layer.options()


@pytest.mark.parametrize("form", ["rate", "current"])
def test_its_recurrence_runs_as_the_cell_does(form: str, make_inputs: Make) -> None:
    cell, inputs = RateRNN(2, 5, form=form, dtype=torch.float64).cell, make_inputs()
    start = torch.full((4, 5), 0.3, dtype=torch.float64)
    for ours, theirs in zip(
        reference.run(cell, inputs, start), reference.run(cell.recurrence(), inputs, start), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_place_of_the_noise_set_later_is_checked(make_layer, make_inputs):
    layer = make_layer("rate", form="current")
    layer.noise_place = "inside"
    with pytest.raises(ValueError, match=r"^noise_place must be 'outside' with form 'current'"):
        layer(make_inputs())


def test_the_leak_is_that_of_a_nominal_step() -> None:
    assert RateRNN(3, 4).leak == 0.2
    assert RateRNN(3, 4, alpha=0.5).leak == 0.5
    assert RateRNN(3, 4, tau=100.0, step_size=20.0).leak == pytest.approx(0.2)


def test_a_step_that_overshoots_is_told() -> None:
    layer, inputs = RateRNN(3, 4, tau=100.0, step_size=20.0).eval(), torch.zeros(2, 6, 3)
    with pytest.warns(
        UserWarning, match=r"^A step of dt 20 has the leak 4, above 1, .* divide a length .* by step_size"
    ):
        layer(inputs, dt=20.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(inputs, dt=5.0)  # a leak of 1
        padded = torch.tensor([[1.0] * 6, [1.0, 1.0, 99.0, 99.0, 99.0, 99.0]])
        layer(inputs, dt=padded, lengths=torch.tensor([6, 2]))
        NoisyRNN(3, 4)(inputs, dt=20.0)


@pytest.mark.parametrize("units", ["per_step", "per_time", "stationary"])
def test_multiplicative_noise_is_relative_to_the_change_of_a_step(units: str) -> None:
    alpha, level, path = 0.3, 0.1, BrownianPath(seed=1)
    options: dict[str, Any] = {"alpha": alpha, "additive": 0.0, "noise_units": units}
    layer = RateRNN(3, 4, multiplicative=level, **options)
    inputs, state = torch.randn(5, 1, 3), torch.randn(1, 5, 4)
    noisy = layer(inputs, state, path=path)[1]
    change = layer.eval()(inputs, state)[1] - state
    mu = level * {"per_step": 1.0, "per_time": alpha**-0.5, "stationary": (2 / alpha) ** 0.5}[units]
    xi = path.normals(steps=1, batch=5, units=4, motions=2, dtype=torch.float32)[1]  # (1, 5, 4)
    torch.testing.assert_close(noisy, state + change * (1 + mu * xi), rtol=0, atol=1e-6)
