import math

import pytest
import torch
from scipy.optimize import brentq, minimize_scalar

from noisyrnn.analysis import fixed_points
from noisyrnn.models import MODELS, RateRNN, SequenceClassifier, build_layer

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(6, 20, 1, generator=GENERATOR)


def rates(W, *, bias=0.0, activation="tanh", alpha=0.1):
    layer = RateRNN(1, len(W), alpha=alpha, activation=activation, additive=0.0)
    with torch.no_grad():
        layer.cell.W.copy_(torch.tensor(W))
        layer.cell.input.bias.fill_(bias)
    return layer


def test_two_bistable_units_have_nine_points():
    layer = rates([[2.0, 0.0], [0.0, 2.0]])
    found = fixed_points(layer, 2 * INPUTS, searches=400, scatter=1.0)
    x = brentq(lambda h: math.tanh(2 * h) - h, 0.5, 1.0)  # of one unit: -x, 0 and x
    expected = {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert {tuple(round(float(h / x)) for h in state) for state in found.states} == expected and len(found) == 9
    assert float((found.states - found.states.sign() * x).where(found.states.abs() > 0.1, 0.0).abs().max()) < 1e-7
    assert found.counts.sum() == found.searches == 400 and found.counts.tolist() == sorted(found.counts, reverse=True)
    assert float(found.speeds.max()) <= 1e-8
    slope = 0.9 + 0.1 * 2 * (1 - found.states**2)
    torch.testing.assert_close(found.eigenvalues.real, slope.sort(dim=1, descending=True).values)
    assert found.unstable_directions.equal((found.states.abs() < 0.1).sum(dim=1))
    assert found.stable.equal(found.unstable_directions == 0) and int(found.stable.sum()) == 4
    assert repr(found) == "FixedPoints(9 points, 4 of them stable, by 400 of 400 searches)"


@pytest.mark.parametrize("name", MODELS)
def test_a_pass_from_a_point_stays_there(name):
    torch.manual_seed(0)
    layer = build_layer(name, 2, 5, {"additive": 0.1}).double()
    inputs, at = torch.randn(3, 8, 2, generator=GENERATOR).double(), torch.tensor([0.3, -0.2]).double()
    if name in ("noisy", "lipschitz", "exprnn"):  # saturated there: only the state zero without an input is one
        at = torch.zeros(2).double()
        if layer.cell.input.bias is not None:
            torch.nn.init.zeros_(layer.cell.input.bias)
    found = fixed_points(layer, inputs, at=at, searches=32)
    assert len(found) > 0
    layer.eval()
    constant = at.expand(len(found), 1, 2)
    outputs, after = layer(constant, found.states[None])
    torch.testing.assert_close(after[0], found.states, rtol=0, atol=1e-7)
    torch.testing.assert_close(outputs[:, 0], found.outputs, rtol=0, atol=1e-7)
    full = torch.autograd.functional.jacobian(lambda h: layer(constant[:1], h)[1], found.states[:1][None])
    moduli = torch.linalg.eigvals(full[0, 0, :, 0, 0]).abs().sort(descending=True).values
    torch.testing.assert_close(found.eigenvalues[0].abs(), moduli, rtol=0, atol=1e-6)


def test_a_continuum_and_its_absence():
    still = rates([[1.0, 0.0], [0.0, 1.0]], activation="identity")
    line = fixed_points(still, INPUTS, searches=20, scatter=0.5)
    assert len(line) == 20 and line.counts.tolist() == [1] * 20
    torch.testing.assert_close(line.eigenvalues, torch.ones(20, 2, dtype=torch.complex128))
    drifting = rates([[1.0, 0.0], [0.0, 1.0]], activation="identity", bias=1.0)
    none = fixed_points(drifting, INPUTS, searches=4, iterations=20)
    assert len(none) == 0 and none.states.shape == none.eigenvalues.shape == (0, 2) and none.searches == 4
    assert repr(none) == "FixedPoints(0 points, 0 of them stable, by 0 of 4 searches)"
    # The speed is 0.1 √2 everywhere: with that tolerance each state is a slow point.
    assert int(fixed_points(drifting, INPUTS, searches=4, tolerance=0.15).counts.sum()) == 4


@pytest.mark.parametrize(
    ("W", "alpha", "tolerance", "points"),
    [
        ([[0.999, 0.0], [0.0, 0.5]], 0.001, 1e-8, 1),  # so slow that the speed is below the tolerance far from it
        ([[0.5, 0.0], [0.0, 0.5]], 1.0, 0.1, 1),
        ([[2.0, 0.0], [0.0, 2.0]], 0.1, 1e-2, 9),
    ],
)
def test_a_tolerance_decides_what_is_a_point_and_not_where(W, alpha, tolerance, points):
    found = fixed_points(rates(W, alpha=alpha), 2 * INPUTS, searches=300, scatter=0.5, tolerance=tolerance)
    assert len(found) == points and int(found.counts.sum()) == 300


def test_slow_points_are_where_the_speed_is_least():
    # tanh(1.2 h + 0.09) - h has one root, above 0.5, and a minimum above 0 on the other side: a slow point.
    layer = rates([[1.2]], bias=0.09, alpha=0.5)
    slowest = minimize_scalar(lambda h: math.tanh(1.2 * h + 0.09) - h, bounds=(-0.9, 0.2), method="bounded")
    least = 0.5 * float(slowest.fun)
    exact, slow = (
        fixed_points(layer, 3 * INPUTS, searches=64, scatter=0.5, tolerance=tolerance)
        for tolerance in (1e-8, 1.0001 * least)
    )
    assert len(exact) == 1 and float(exact.states) > 0.5 and 0 < int(exact.counts.sum()) < 64
    assert int(slow.counts.sum()) == 64
    found = slow.states[slow.states[:, 0] < 0.2]
    assert len(found) > 0 and float((found - slowest.x).abs().max()) < 0.02
    assert float(slow.speeds.max()) <= 1.0001 * least


def test_a_classifier_standardises_the_inputs_and_the_constant_one():
    torch.manual_seed(0)
    layer = RateRNN(1, 4)
    mean, std = torch.tensor([3.0]), torch.tensor([2.0])
    model = SequenceClassifier(layer, 2, mean=mean, std=std)
    whole = fixed_points(model, INPUTS, at=torch.tensor([4.0]), searches=8)
    inner = fixed_points(layer, (INPUTS - mean) / std, at=torch.tensor([0.5]), searches=8)
    torch.testing.assert_close(whole.states, inner.states, rtol=0, atol=1e-6)


def test_starts_are_states_of_the_path_and_the_seed_decides():
    layer = rates([[1.0, 0.0], [0.0, 1.0]], activation="identity")  # whose every state is a fixed point
    lengths, h_0 = torch.tensor([2, 1, 1, 1, 1, 1]), torch.randn(1, 6, 2, generator=GENERATOR)
    found = fixed_points(layer, INPUTS, searches=200, lengths=lengths, h_0=h_0)
    visited = torch.cat([h_0[0, 0, None], layer.eval()(INPUTS[:1, :2], h_0[:, :1])[0][0]])
    visited = torch.cat([visited, h_0[0, 1:], layer(INPUTS[1:, :1], h_0[:, 1:])[0][:, 0]]).double()
    assert len(found) == 13
    assert float(torch.cdist(found.states, visited).amin(dim=1).max()) < 1e-6
    same, other = (fixed_points(layer, INPUTS, searches=9, scatter=0.1, seed=seed) for seed in (0, 1))
    assert same.states.equal(fixed_points(layer, INPUTS, searches=9, scatter=0.1).states)
    assert not same.states.equal(other.states)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"searches": 0}, r"^searches must be at least 1, got 0"),
        ({"scatter": -1.0}, r"^scatter must be at least 0, got -1"),
        ({"tolerance": 0.0}, r"^tolerance must be greater than 0, got 0"),
        ({"iterations": 0}, r"^iterations must be at least 1, got 0"),
        ({"at": torch.zeros(2)}, r"^at must have shape \(1,\), got \(2,\)"),
        ({"at": torch.tensor([math.nan])}, r"^at must be finite"),
        ({"h_0": torch.zeros(6, 2)}, r"^h_0 must have shape \(1, 6, 2\)"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        fixed_points(rates([[1.0, 0.0], [0.0, 1.0]]), INPUTS, **options)
