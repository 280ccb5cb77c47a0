import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import nn

from noisyrnn.analysis.dynamics.lyapunov import largest_exponent, lyapunov_spectrum
from noisyrnn.analysis.dynamics.stability import (
    continuous_exponent_bounds,
    discrete_exponent_bounds,
    expected_log,
    stabilization_scan,
    verdict,
)
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.models import Cell, LipschitzRNN, NoisyRNN, SequenceClassifier, build_layer
from noisyrnn.noise.hidden_noise import HiddenNoise


class LinearCell(Cell):
    """`h <- h + δ g h`."""

    def __init__(self, rate, *, step_size, units=1):
        super().__init__(1, units)
        self.rate, self.step_size = nn.Parameter(torch.tensor(rate, dtype=torch.float64)), step_size

    def increment(self, inputs, state, dt=None):
        return self.step_size * self.rate * state


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(name="noisy", *, units=4, seed=0, unequal=True, **options):
    torch.manual_seed(seed)
    layer = build_layer(name, 2, units, {"step_size": 0.2, "init_std": 3.0, **options}).double()
    if unequal and isinstance(layer, NoisyRNN):
        with torch.no_grad():
            layer.cell.step_size.mul_(torch.linspace(0.5, 1.5, units))
    return layer


def matrices(layer):
    """`A` and `W` with each row times its unit's step, and the largest of `‖A + D W‖` over all vertices `D`."""
    r = layer.cell.recurrence()
    step = r.step.detach()[:, None]
    W = step * r.W.detach()
    A = torch.zeros_like(W) if r.A is None else step * r.A.detach()
    vertices = [torch.diag(torch.tensor(v, dtype=torch.float64)) for v in itertools.product((0.0, 1.0), repeat=len(W))]
    return A, W, [A + D @ W for D in vertices]


def ends(bounds):
    assert all(bound.kind == "certificate" and bound.value.shape == () for bound in bounds)
    return float(bounds[0].value), float(bounds[1].value)


def spectral(matrix):
    return float(torch.linalg.matrix_norm(matrix, 2))


def random_layers(smallest_step, largest_step):
    return st.builds(
        built,
        st.sampled_from(["noisy", "lipschitz", "antisymmetric"]),
        units=st.integers(1, 5),
        seed=st.integers(0, 10**6),
        step_size=st.floats(smallest_step, largest_step),
        init_std=st.floats(0.1, 20.0),
        damping=st.floats(0.0, 1.0),
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(random_layers(0.01, 0.6))
def test_measured_exponents_lie_within_the_bounds_of_a_step(layer):
    spectrum = lyapunov_spectrum(layer, 3 * drawn(2, 12, 2)).value
    low, high = ends(discrete_exponent_bounds(layer))
    assert low - 1e-10 <= float(spectrum.min()) and float(spectrum.max()) <= high + 1e-10


@settings(max_examples=25, deadline=None, derandomize=True)
@given(random_layers(1e-4, 1e-2))
def test_measured_exponents_lie_within_the_bounds_of_the_equation(layer):
    spectrum = lyapunov_spectrum(layer, 3 * drawn(2, 12, 2)).value
    L = spectral(sum(matrices(layer)[:2])) + spectral(matrices(layer)[1])
    low, high = ends(continuous_exponent_bounds(layer))
    # log‖(I + K) u‖ = log(1 + 2 u'Ku + ‖Ku‖²) / 2 with ‖K‖ <= L differs from u'Ku by at most L² / 2 above and, by
    # log(1 + x) >= x - x² for x >= -1/2, by (2L + L²)² / 2 below; both of second order in the step.
    assume(2 * L + L**2 < 0.5)
    assert low - (2 * L + L**2) ** 2 / 2 <= float(spectrum.min())
    assert float(spectrum.max()) <= high + L**2 / 2


@pytest.mark.parametrize("law", ["gaussian", "uniform"])
@pytest.mark.parametrize("seed", range(4))
def test_measured_noisy_exponents_lie_within_their_bounds(seed, law):
    layer = built(seed=seed, damping=0.3)
    noise = HiddenNoise(additive=0.3, multiplicative=0.6, law=law)
    measured = largest_exponent(layer, drawn(1, 25, 2, seed=seed), noise=noise, paths=300, seed=seed)
    low, high = ends(discrete_exponent_bounds(layer, noise=noise))
    value, error = float(measured.value), float(measured.standard_error)
    assert low - 4 * error < value < high + 4 * error
    assert -math.inf < low < high
    if law == "gaussian":
        low, high = ends(continuous_exponent_bounds(layer, noise=noise))
        lipschitz = max(spectral(corner) for corner in matrices(layer)[2])
        assert low - 4 * error - 4 * lipschitz**2 < value < high + 4 * error + lipschitz**2


@pytest.mark.parametrize("name", ["noisy", "lipschitz", "antisymmetric"])
@pytest.mark.parametrize("seed", range(5))
def test_the_bounds_contain_every_slope_and_lie_within_the_published_ones(name, seed):
    layer = built(name, seed=seed)
    A, W, corners = matrices(layer)
    low, high = ends(continuous_exponent_bounds(layer))
    symmetric = torch.linalg.eigvalsh((A + A.T) / 2)
    assert float(symmetric[0]) - spectral(W) - 1e-12 <= low and high <= float(symmetric[-1]) + spectral(W) + 1e-12
    for K in corners:
        values = torch.linalg.eigvalsh((K + K.T) / 2)
        assert low <= float(values[0]) + 1e-12 and float(values[-1]) <= high + 1e-12
    low, high = ends(discrete_exponent_bounds(layer))
    eye = torch.eye(len(A), dtype=torch.float64)
    for K in corners:
        values = torch.linalg.svdvals(eye + K).log()
        assert low <= float(values[-1]) + 1e-12 and float(values[0]) <= high + 1e-12
    assert high < max(spectral(eye + K) for K in corners) - 1 + 0.5 * spectral(W)  # and is not idle


def test_the_bounds_are_those_written_out():
    layer, noise = built(seed=1), HiddenNoise(additive=0.4, multiplicative=0.5)
    A, W, _ = matrices(layer)
    radius, centre = spectral(W) / 2, A + W / 2
    L, eye = spectral(centre) + radius, torch.eye(4, dtype=torch.float64)
    values = torch.linalg.eigvalsh((centre + centre.T) / 2)
    expected = float(values[0]) - radius - (0.5 * L) ** 2 / 2, float(values[-1]) + radius + (0.5 * L) ** 2 / 2
    assert ends(continuous_exponent_bounds(layer, noise=noise)) == pytest.approx(expected, abs=1e-12)
    S, s = spectral(eye + centre) + radius, float(torch.linalg.svdvals(eye + centre)[-1]) - radius
    expected = math.log(s) + expected_log(0.5 * L / s), 0.5 * math.log(S**2 + (0.5 * L) ** 2)
    assert ends(discrete_exponent_bounds(layer, noise=noise)) == pytest.approx(expected, abs=1e-12)
    S = spectral(eye + 0.75 * centre) + 0.75 * radius
    s = float(torch.linalg.svdvals(eye + 0.75 * centre)[-1]) - 0.75 * radius - 0.25 * L
    expected = math.log(s), 0.5 * math.log(S**2 + 0.5**2 / 12 * L**2)
    assert ends(discrete_exponent_bounds(layer, noise=replace(noise, law="uniform"))) == pytest.approx(expected)


def test_additive_noise_alone_changes_no_bound():
    layer, noise = built(), HiddenNoise(additive=2.0)
    for bounds in (continuous_exponent_bounds, discrete_exponent_bounds):
        assert ends(bounds(layer, noise=noise)) == ends(bounds(layer))
        model = SequenceClassifier(layer, 2)
        assert ends(bounds(model)) == ends(bounds(layer)) == ends(bounds(layer.cell))


def test_one_linear_unit_meets_its_bounds():
    g, step_size, level = 0.7, 0.1, 0.9
    layer = LipschitzRNN(input_size=1, hidden_size=1, step_size=step_size, damping=0.0).double()
    with torch.no_grad():
        layer.cell.B.fill_(-2 * g)  # S(B) = 2 (1 - β) B = B / 2
        layer.cell.C.zero_()
    assert ends(discrete_exponent_bounds(layer)) == pytest.approx([math.log(1 - g * step_size)] * 2)
    noise = HiddenNoise(additive=1.0, multiplicative=1.0).per_time(noise_level=level, step_size=step_size)
    low, high = ends(continuous_exponent_bounds(layer, noise=noise))
    assert low / step_size == pytest.approx(-g - (level * g) ** 2 / 2)  # the closed form itself
    assert high / step_size == pytest.approx(-g + (level * g) ** 2 / 2)
    low, high = ends(discrete_exponent_bounds(layer, noise=noise))
    deviation = level * math.sqrt(step_size) * g
    exact = math.log(1 - g * step_size) + gauss_log(deviation / (1 - g * step_size))
    assert low == pytest.approx(exact, abs=1e-7) and high > exact


def test_the_noise_term_of_the_equation_lies_between_phi_and_psi():
    u, w = drawn(5000, 3), drawn(5000, 3, seed=2)
    w[:2000] = u[:2000] * (1 + 0.1 * w[:2000])
    basis = torch.eye(3, dtype=torch.float64)
    u, w = torch.cat([u, basis]), torch.cat([w, 2 * basis])
    ratio = w.square().sum(1) / u.square().sum(1)
    term = w.square().sum(1) / (2 * u.square().sum(1)) - (u * w).square().sum(1) / u.square().sum(1) ** 2
    assert bool((term.abs() <= ratio / 2 + 1e-12).all())
    assert float((term / ratio).min()) < -0.499 and float((term / ratio).max()) > 0.45


def gauss_log(ratio):
    """E log|1 + ratio ξ| by quadrature with its singularity marked."""

    def density(x):
        return math.log(abs(1 + ratio * x)) * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    pole = -1 / ratio
    if pole < -12:
        return quad(density, -12, 12, epsabs=1e-14, limit=400)[0]
    return sum(quad(density, a, b, epsabs=1e-13, limit=400)[0] for a, b in ((-30, pole), (pole, 0), (0, 30)))


@pytest.mark.parametrize("ratio", [1e-4, 0.01, 0.0299, 0.0301, 0.1, 0.5, 0.765, 1.0, 3.0, 50.0])
def test_the_expected_logarithm_is_the_integral(ratio):
    assert expected_log(ratio) == pytest.approx(gauss_log(ratio), abs=1e-9, rel=1e-6)


def test_the_expected_logarithm_is_smallest_where_it_is_said_to_be():
    assert expected_log(0.7651521) == pytest.approx(-0.245357, abs=1e-6)
    grid = [0.02 * k for k in range(1, 200)]
    values = [expected_log(r) for r in grid]
    assert min(values) >= expected_log(0.7651521)
    turn = values.index(min(values))
    assert values[:turn] == sorted(values[:turn], reverse=True) and values[turn:] == sorted(values[turn:])
    with pytest.raises(ValueError, match=r"^ratio must"):
        expected_log(0.0)


def test_strong_noise_does_not_lower_the_bound_further():
    layer = built(seed=2)
    lowest = ends(discrete_exponent_bounds(layer))[0] + expected_log(0.7651521)
    assert ends(discrete_exponent_bounds(layer, noise=HiddenNoise(multiplicative=50.0)))[0] == pytest.approx(lowest)


def test_a_bound_that_says_nothing_is_infinite():
    layer = built(step_size=0.6, init_std=20.0)
    assert ends(discrete_exponent_bounds(layer))[0] == -math.inf
    layer, uniform = built(step_size=0.27, damping=0.5), HiddenNoise(multiplicative=1.0, law="uniform")
    assert ends(discrete_exponent_bounds(layer))[0] > -math.inf
    assert ends(discrete_exponent_bounds(layer, noise=uniform))[0] == -math.inf


def test_bounds_are_refused_where_they_are_not_known():
    for bounds in (continuous_exponent_bounds, discrete_exponent_bounds):
        with pytest.raises(TypeError, match=r"model must have the drift .* got CoRNNCell\. Measure them"):
            bounds(build_layer("cornn", 1, 2, {}))
        with pytest.raises(TypeError, match=r"model must have the drift .* got TorchCell"):
            bounds(build_layer("gru", 1, 2, {}))
        with pytest.raises(TypeError, match="got Linear"):
            bounds(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="noise_law must be 'gaussian' for the differential equation, got 'uniform'"):
        continuous_exponent_bounds(built(), noise=HiddenNoise(multiplicative=0.1, law="uniform"))


def estimate(value, error=None):
    error = None if error is None else torch.tensor(error)
    return Measurement(value=torch.tensor(value), kind="estimate", standard_error=error)


@pytest.mark.parametrize(
    ("exponent", "words"),
    [
        (estimate(-0.12, 0.01), "stable: nearby states approach each other, Λ = -0.12 [-0.14, -0.1] per step"),
        (estimate(0.5, 0.1), "unstable: nearby states move apart, Λ = 0.5 [0.304, 0.696] per step"),
        (estimate(0.1, 0.1), "undecided: the interval includes zero, Λ = 0.1 [-0.096, 0.296] per step"),
        (
            estimate(-0.25),
            "stable: nearby states approach each other, Λ = -0.25 per step, from a single path and so without an "
            "interval",
        ),
        (estimate(-math.inf, math.nan), "stable: nearby states become equal, Λ = -inf per step"),
        (estimate(-math.inf), "stable: nearby states become equal, Λ = -inf per step"),
    ],
)
def test_the_verdict_in_words(exponent, words):
    assert verdict(exponent) == words


def test_the_verdict_takes_a_confidence_and_a_unit():
    wide = verdict(estimate(-0.12, 0.05), confidence=0.999, unit="per unit of time")
    assert wide == "undecided: the interval includes zero, Λ = -0.12 [-0.285, 0.0445] per unit of time"
    with pytest.raises(ValueError, match=r"exponent must be an estimate of shape \(\), got estimate of shape \(2,\)"):
        verdict(estimate([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"got exact of shape \(\)"):
        verdict(Measurement(value=torch.tensor(0.1), kind="exact"))


def test_noise_stabilises_as_the_closed_form_says():
    g, step_size, level = 0.5, 0.05, 1.0  # εσ₂ > √(2/g) = 2 stabilises
    noise = HiddenNoise(additive=1.0, multiplicative=1.0).per_time(noise_level=level, step_size=step_size)
    levels = [0.0, 1.0, 1.5, 3.0, 4.0]
    scan = stabilization_scan(
        LinearCell(g, step_size=step_size),
        torch.zeros(1, 50, 1, dtype=torch.float64),
        levels=levels,
        noise=noise,
        paths=3200,
        step_size=step_size,
    )
    base = math.log(1 + g * step_size)
    assert scan.kind == "estimate" and scan.value.shape == (5,)
    assert float(scan.value[0]) == pytest.approx(base / step_size) and float(scan.standard_error[0]) < 1e-12
    for k in range(1, 5):
        exact = (base + gauss_log(levels[k] * g * math.sqrt(step_size) / (1 + g * step_size))) / step_size
        assert abs(float(scan.value[k]) - exact) < 4 * float(scan.standard_error[k])
    words = [verdict(estimate(float(v), float(e))).split(":")[0] for v, e in zip(*_pair(scan), strict=True)]
    assert words == ["unstable", "unstable", "unstable", "stable", "stable"]


def _pair(scan):
    return scan.value, scan.standard_error


def test_a_scan_scales_the_models_own_noise():
    torch.manual_seed(0)
    layer = NoisyRNN(2, 4, step_size=0.2, init_std=3.0, additive=0.1, multiplicative=0.4, noise_form="shared").double()
    inputs = drawn(1, 10, 2)
    scan = stabilization_scan(SequenceClassifier(layer, 2).double(), inputs, levels=[0.5, 2.0], paths=3, seed=4)
    for k, factor in enumerate((0.5, 2.0)):
        noise = HiddenNoise(additive=0.1 * factor, multiplicative=0.4 * factor, form="shared")
        one = largest_exponent(layer, inputs, noise=noise, paths=3, seed=4)
        torch.testing.assert_close(scan.value[k], one.value)
        torch.testing.assert_close(scan.standard_error[k], one.standard_error)
    single = stabilization_scan(layer, inputs, levels=[1.0], paths=1)
    assert single.standard_error is None
    dt, lengths = torch.full((10,), 0.5), torch.tensor([7])
    options = {"burn_in": 2, "step_size": 0.2, "dt": dt, "lengths": lengths}
    timed = stabilization_scan(layer, inputs, levels=[1.0], paths=2, **options)
    one = largest_exponent(layer, inputs, noise=layer.hidden_noise, paths=2, **options)
    torch.testing.assert_close(timed.value[0], one.value)


def test_a_scan_needs_levels_and_noise():
    inputs = drawn(1, 3, 2)
    with pytest.raises(ValueError, match="levels must hold at least one number, got none"):
        stabilization_scan(built(), inputs, levels=[])
    with pytest.raises(ValueError, match=r"^levels\[1\] must"):
        stabilization_scan(built(), inputs, levels=[1.0, -1.0])
    with pytest.raises(ValueError, match="noise must be above level 0, got none in the model"):
        stabilization_scan(built("lipschitz"), inputs, levels=[1.0])
    with pytest.raises(ValueError, match="noise must be above level 0"):
        stabilization_scan(built().cell, inputs, levels=[1.0])
    with pytest.raises(ValueError, match="multiplicative must be at most 1 with noise_law 'uniform', got 2"):
        stabilization_scan(built(), inputs, levels=[4.0], noise=HiddenNoise(multiplicative=0.5, law="uniform"))
