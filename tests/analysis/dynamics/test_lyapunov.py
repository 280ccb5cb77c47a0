import functools
import math
import warnings

import pytest
import torch
from scipy.stats import norm
from torch import nn

from noisyrnn.analysis.dynamics.jacobian import float64_trajectory
from noisyrnn.analysis.dynamics.lyapunov import largest_exponent, lyapunov_spectrum
from noisyrnn.models import MODELS, Cell, RateRNN, SequenceClassifier, build_layer
from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.noise.hidden_noise import HiddenNoise

pytestmark = pytest.mark.filterwarnings("ignore:The state stays at zero")  # the tangents of a linear cell do not mind


class LinearCell(Cell):
    """`h <- h + δ G h + s √δ x h`: with normal inputs x, one Brownian motion common to all units."""

    def __init__(self, matrix, *, step_size=1.0, common=0.0):
        G = torch.as_tensor(matrix, dtype=torch.float64).reshape(-1, round(torch.as_tensor(matrix).numel() ** 0.5))
        super().__init__(1, len(G))
        self.G = nn.Parameter(G)
        self.step_size, self.common = step_size, common

    def increment(self, inputs, state, dt=None):
        step = self.step_size * (1 if dt is None else dt)
        return step * state @ self.G.T + self.common * step**0.5 * inputs * state


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def still(steps, batch=1):
    return torch.zeros(batch, steps, 1, dtype=torch.float64)


@functools.cache
def normal_quantiles(count=400_000):
    p = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.from_numpy(norm.ppf(p.numpy()))


def expected_log(mean, deviation):
    """E log|mean + deviation ξ| by the midpoint rule in the distribution's probability."""
    return float((mean + deviation * normal_quantiles()).abs().log().mean())


def close(measured, expected, errors=3.0):
    assert measured.kind == "estimate"
    return bool(((measured.value - expected).abs() < errors * measured.standard_error).all())


@pytest.mark.parametrize("step_size", [1.0, 0.5])
def test_a_symmetric_matrix_gives_its_eigenvalues(step_size):
    basis = torch.linalg.qr(drawn(4, 4))[0]
    rates = torch.tensor([0.4, 0.1, -0.3, -0.8], dtype=torch.float64)
    cell = LinearCell(basis @ torch.diag(rates) @ basis.T, step_size=step_size)
    measured = lyapunov_spectrum(cell, still(130), burn_in=100, step_size=step_size)
    torch.testing.assert_close(measured.value, (1 + step_size * rates).log() / step_size, rtol=0, atol=1e-9)
    assert measured.standard_error is None and measured.kind == "estimate"


def test_any_matrix_gives_the_moduli_of_its_eigenvalues():
    matrix = torch.tensor([[0.3, 2.0, 0.0], [-2.0, 0.3, 0.0], [5.0, 1.0, -0.7]], dtype=torch.float64)
    steps = 200
    pair = 0.5 * math.log((1 + 0.5 * 0.3) ** 2 + (0.5 * 2) ** 2)
    measured = lyapunov_spectrum(LinearCell(matrix, step_size=0.5), still(steps), burn_in=40).value
    single = math.log(1 - 0.35)
    # The frame of a rotating pair turns within its plane: what is not a full turn at the end is of order 1 / steps.
    assert measured.tolist() == pytest.approx([pair, pair, single], abs=5 / steps)
    assert float(measured[:2].sum()) == pytest.approx(2 * pair, abs=1e-10)


def test_the_exponents_are_those_of_a_loop_written_out():
    torch.manual_seed(0)
    layer = build_layer("noisy", 2, 4, {"step_size": 0.3, "init_std": 4.0}).double()
    noise, inputs = HiddenNoise(additive=0.2, multiplicative=0.3), drawn(2, 6, 2)
    path = BrownianPath(seed=derive_seed(3, "lyapunov noise"))
    trajectory = float64_trajectory(layer, inputs.repeat_interleave(2, 0), noise=noise, path=path)
    frames = torch.randn(
        4, 4, 3, generator=torch.Generator().manual_seed(derive_seed(3, "lyapunov frames")), dtype=torch.float64
    )
    rates = []
    for row in range(4):
        Q, total = torch.linalg.qr(frames[row])[0], torch.zeros(3, dtype=torch.float64)
        for m in range(6):
            full = torch.autograd.functional.jacobian(lambda h, m=m: trajectory.maps(m, h), trajectory.states[m])
            Q, R = torch.linalg.qr(full[row, :, row] @ Q)
            if m >= 2:
                total += R.diagonal().abs().log()
        rates.append(total / (4 * 0.3))
    means = [(rates[0] + rates[1]) / 2, (rates[2] + rates[3]) / 2]
    measured = lyapunov_spectrum(layer, inputs, exponents=3, noise=noise, paths=2, seed=3, burn_in=2, step_size=0.3)
    torch.testing.assert_close(measured.value, (means[0] + means[1]) / 2)
    torch.testing.assert_close(measured.standard_error, (means[0] - means[1]).abs() / 2)


@pytest.mark.parametrize("name", MODELS)
def test_the_spectrum_adds_up_to_the_volume(name):
    torch.manual_seed(0)
    layer = build_layer(name, 2, 4, {}).double()
    inputs = drawn(2, 7, 2)
    noise = HiddenNoise(additive=0.1, multiplicative=0.2, form="shared")
    trajectory = float64_trajectory(
        layer, inputs, noise=noise, path=BrownianPath(seed=derive_seed(0, "lyapunov noise"))
    )
    volume = sum(torch.linalg.slogdet(trajectory.jacobian(m).detach())[1] for m in range(7)).mean() / 7
    measured = lyapunov_spectrum(layer, inputs, noise=noise)
    assert float(measured.value.sum()) == pytest.approx(float(volume), abs=1e-9)


RATE, LEVEL = -1.0, 0.8  # -g and εσ₂
LIMIT = RATE - (LEVEL * RATE) ** 2 / 2


def exponent_of_a_step(step_size):
    """E log|1 - gδ + gεσ₂√δ ξ| / δ."""
    return expected_log(1 + RATE * step_size, abs(RATE) * LEVEL * math.sqrt(step_size)) / step_size


@pytest.mark.parametrize(
    ("step_size", "form"),
    [
        (0.2, "independent"),
        (0.2, "shared"),
        (0.05, "independent"),
        pytest.param(0.05, "shared", marks=pytest.mark.slow),
        pytest.param(0.1, "independent", marks=pytest.mark.slow),
        pytest.param(0.1, "shared", marks=pytest.mark.slow),
    ],
)
def test_independent_multiplicative_noise_has_the_closed_form(step_size, form):
    noise = HiddenNoise(additive=0.5, multiplicative=1.0, form=form).per_time(noise_level=LEVEL, step_size=step_size)
    cell, steps = LinearCell(RATE, step_size=step_size), round(4 / step_size)
    measured = largest_exponent(cell, still(steps), noise=noise, paths=4000, seed=5, step_size=step_size)
    assert close(measured, exponent_of_a_step(step_size))
    if step_size == 0.2:  # there the limit is 25 standard errors away
        assert not close(measured, LIMIT, errors=20)


def test_the_closed_form_of_a_step_tends_to_that_of_the_equation():
    gaps = [exponent_of_a_step(step_size) - LIMIT for step_size in (0.02, 0.01, 0.005)]
    assert abs(gaps[-1]) < 0.01
    assert 1.9 < gaps[0] / gaps[1] < 2.15 and 1.9 < gaps[1] / gaps[2] < 2.1  # of first order in the step


def test_units_with_their_own_noise_keep_their_mean_exponent():
    step_size, level = 0.1, 0.8
    noise = HiddenNoise(additive=0.0, multiplicative=1.0).per_time(noise_level=level, step_size=step_size)
    rates = torch.tensor([0.5, -0.5, -1.0], dtype=torch.float64)
    cell = LinearCell(torch.diag(rates), step_size=step_size)
    measured = lyapunov_spectrum(cell, still(200), noise=noise, paths=800, burn_in=150, step_size=step_size)
    exact = [expected_log(1 + g * step_size, g * level * math.sqrt(step_size)) / step_size for g in rates.tolist()]
    assert close(measured, torch.tensor(exact, dtype=torch.float64), errors=4)


@pytest.mark.parametrize(
    ("strength", "stable"),
    [(0.0, False), (0.7, False), (1.4, True), pytest.param(2.0, True, marks=pytest.mark.slow)],
)
def test_noise_common_to_all_units_stabilises(strength, stable):
    g, step_size, steps = 0.5, 0.02, 60  # s > √(2g) = 1 stabilises
    xi = drawn(6400, steps, 1, seed=2)
    cell = LinearCell(torch.eye(3) * g, step_size=step_size, common=strength)
    measured = largest_exponent(cell, xi, step_size=step_size)
    if strength == 0:
        assert float(measured.value) == pytest.approx(math.log(1 + g * step_size) / step_size, rel=1e-10)
    else:
        exact = expected_log(1 + g * step_size, strength * math.sqrt(step_size)) / step_size
        assert close(measured, exact)
        gap = 0.75 * strength**4 * step_size  # of the step's exponent from that of the equation, to first order
        assert abs(float(measured.value) - (g - strength**2 / 2)) < 3 * float(measured.standard_error) + 2 * gap
        spectrum = lyapunov_spectrum(cell, xi[:4], step_size=step_size).value
        torch.testing.assert_close(spectrum, spectrum[:1].expand(3))  # every unit has the same factor
    assert (float(measured.value) < 0) is stable


def test_additive_noise_alone_changes_nothing():
    cell = LinearCell(drawn(3, 3), step_size=0.1)
    noisy = lyapunov_spectrum(cell, still(50), noise=HiddenNoise(additive=3.0), seed=4)
    assert torch.equal(noisy.value, lyapunov_spectrum(cell, still(50), seed=4).value)


def test_two_neighbouring_paths_part_at_the_largest_exponent():
    torch.manual_seed(0)
    layer = build_layer("noisy", 1, 4, {"step_size": 0.3, "init_std": 8.0}).double()
    noise, inputs, steps = HiddenNoise(additive=0.1, multiplicative=0.3), drawn(1, 60, 1), 60
    path = BrownianPath(seed=derive_seed(1, "lyapunov noise"))
    maps = float64_trajectory(layer, inputs, noise=noise, path=path).maps
    start = torch.randn(
        1, 4, 1, generator=torch.Generator().manual_seed(derive_seed(1, "lyapunov frames")), dtype=torch.float64
    )[..., 0]
    gap = 1e-7 * start / start.norm()
    one, other = torch.zeros(1, 4, dtype=torch.float64), gap
    with torch.no_grad():
        for m in range(steps):
            one, other = maps(m, one), maps(m, other)
    rate = float(((one - other).norm() / gap.norm()).log()) / steps
    assert abs(rate) > 0.01
    assert float(largest_exponent(layer, inputs, noise=noise, seed=1).value) == pytest.approx(rate, abs=1e-5)


def test_lengths_and_step_lengths_count_as_time():
    cell, lengths = LinearCell(0.5), torch.tensor([6, 4, 3])
    dt = drawn(3, 6).abs() + 0.1
    exact = [
        float((1 + 0.5 * dt[b, 2:n]).log().sum() / (dt[b, 2:n].sum() * 0.1)) for b, n in enumerate(lengths.tolist())
    ]
    measured = lyapunov_spectrum(cell, still(6, 3), lengths=lengths, dt=dt, burn_in=2, step_size=0.1)
    assert float(measured.value) == pytest.approx(sum(exact) / 3, rel=1e-10)
    deviation = torch.tensor(exact, dtype=torch.float64).std()
    assert float(measured.standard_error) == pytest.approx(float(deviation) / math.sqrt(3), rel=1e-10)
    # The same row after row: paths that repeat a sequence are no further evidence.
    repeated = lyapunov_spectrum(
        cell,
        still(6, 3),
        lengths=lengths,
        dt=dt,
        burn_in=2,
        step_size=0.1,
        noise=HiddenNoise(additive=1.0),
        paths=5,
    )
    torch.testing.assert_close(repeated.standard_error, measured.standard_error)
    torch.testing.assert_close(repeated.value, measured.value)
    common = lyapunov_spectrum(cell, still(6, 3), dt=dt[0], burn_in=2).value
    assert float(common) == pytest.approx(float((1 + 0.5 * dt[0, 2:]).log().sum() / dt[0, 2:].sum()), rel=1e-10)


def test_the_same_seed_gives_the_same_bits():
    cell, noise = LinearCell(-0.5), HiddenNoise(multiplicative=0.5)
    first = lyapunov_spectrum(cell, still(20), noise=noise, paths=3, seed=1)
    assert torch.equal(first.value, lyapunov_spectrum(cell, still(20), noise=noise, paths=3, seed=1).value)
    assert not torch.equal(first.value, lyapunov_spectrum(cell, still(20), noise=noise, paths=3, seed=2).value)
    assert float(first.standard_error) > 0


def test_a_classifier_standardises_its_inputs():
    torch.manual_seed(0)
    layer = build_layer("gru", 1, 3, {}).double()
    model = SequenceClassifier(layer, 2, mean=torch.tensor([1.0]), std=torch.tensor([2.0])).double()
    inputs = drawn(2, 5, 1)
    measured, expected = lyapunov_spectrum(model, inputs), lyapunov_spectrum(layer, (inputs - 1) / 2)
    torch.testing.assert_close(measured.value, expected.value)


def test_a_map_that_forgets_everything_has_no_finite_exponent():
    assert float(largest_exponent(LinearCell(-1.0), still(5)).value) == -math.inf


def test_one_vector_and_a_frame_of_one_agree_with_the_full_frame():
    matrix = drawn(4, 4)
    cell = LinearCell(matrix + matrix.T, step_size=0.2)  # symmetric: no frame turns for ever
    full = lyapunov_spectrum(cell, still(90), burn_in=60).value
    assert float(largest_exponent(cell, still(90), burn_in=60).value) == pytest.approx(float(full[0]), abs=1e-9)
    assert largest_exponent(cell, still(9)).value.shape == ()
    assert lyapunov_spectrum(cell, still(9), exponents=2).value.shape == (2,)


def test_the_largest_exponent_takes_every_option():
    torch.manual_seed(0)
    layer = build_layer("noisy", 2, 3, {"step_size": 0.3, "init_std": 4.0}).double()
    options = {
        "noise": HiddenNoise(additive=0.2, multiplicative=0.3),
        "paths": 2,
        "seed": 3,
        "burn_in": 2,
        "step_size": 0.3,
        "lengths": torch.tensor([8, 5]),
        "dt": drawn(2, 8).abs() + 0.1,
        "h_0": drawn(1, 2, 3, seed=2),
    }
    one = largest_exponent(layer, drawn(2, 8, 2), **options)
    first = lyapunov_spectrum(layer, drawn(2, 8, 2), exponents=1, **options)
    assert torch.equal(one.value, first.value[0]) and torch.equal(one.standard_error, first.standard_error[0])


def chaotic(units):
    torch.manual_seed(1)
    return RateRNN(1, units, init_gain=2.5, bias=False, alpha=0.1, additive=0.0).double()


def test_the_initial_state_decides_where_the_path_goes():
    layer, steps, units = chaotic(20), 400, 20
    W, state, tangent = layer.cell.W.detach(), drawn(units, seed=5), drawn(units, seed=6)
    total = 0.0
    for m in range(steps):
        slope = 1 - torch.tanh(W @ state) ** 2
        tangent = 0.9 * tangent + 0.1 * slope * (W @ tangent)
        state = 0.9 * state + 0.1 * torch.tanh(W @ state)
        if m >= 200:
            total += float(tangent.norm().log())
        tangent = tangent / tangent.norm()
    measured = largest_exponent(layer, still(steps), burn_in=200, h_0=drawn(units, seed=5)[None, None])
    origin = torch.linalg.eigvals(0.9 * torch.eye(units) + 0.1 * W).abs().max().log()
    assert float(measured.value) == pytest.approx(total / 200, abs=0.01) != pytest.approx(float(origin), abs=0.03)


def test_each_sequence_and_path_starts_at_its_initial_state():
    layer, h_0, noise = chaotic(5), drawn(1, 2, 5), HiddenNoise(additive=0.1)
    both = lyapunov_spectrum(layer, still(30, batch=2), h_0=h_0)
    each = [lyapunov_spectrum(layer, still(30), h_0=h_0[:, k : k + 1]).value for k in range(2)]
    # The frames of the second sequence differ; the sum of all exponents does not depend on them.
    assert float(both.value.sum()) == pytest.approx(float((each[0] + each[1]).sum() / 2), abs=1e-9)
    one = chaotic(1)  # in a single step, which the noise does not change
    alone = [float(largest_exponent(one, still(1), h_0=h_0[:, k : k + 1, :1]).value) for k in range(2)]
    paths = largest_exponent(one, still(1, batch=2), h_0=h_0[..., :1], noise=noise, paths=3)
    assert float(paths.value) == pytest.approx(sum(alone) / 2, abs=1e-9)
    assert float(paths.standard_error) == pytest.approx(abs(alone[0] - alone[1]) / 2, abs=1e-9)


def test_a_state_that_stays_at_zero_is_told():
    layer = chaotic(5)
    with pytest.warns(UserWarning, match=r"^The state stays at zero, .* torch\.randn\(1, 2, 5\)"):
        lyapunov_spectrum(layer, still(9, batch=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lyapunov_spectrum(layer, still(9), h_0=torch.zeros(1, 1, 5))
        lyapunov_spectrum(layer, still(9) + 0.1)
        lyapunov_spectrum(layer, still(9), noise=HiddenNoise(additive=0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"h_0": torch.ones(5, 2)}, r"h_0 must have shape \(1, 1, 2\), as the layer takes it, got \(5, 2\)"),
        ({"h_0": torch.full((1, 1, 2), math.nan)}, "h_0 must be finite, got 2 NaN"),
        ({"exponents": 3}, "exponents must be at most 2, the size of the state, got 3"),
        ({"exponents": 0}, "exponents must be at least 1, got 0"),
        ({"paths": 0}, "paths must be at least 1, got 0"),
        ({"paths": 2}, "paths must be 1 without noise, got 2: they would all be the same"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"burn_in": -1}, "burn_in must be at least 0, got -1"),
        ({"burn_in": 5}, "burn_in must be less than 5, the steps of the shortest sequence, got 5"),
        ({"burn_in": 3, "lengths": torch.tensor([3])}, "burn_in must be less than 3, the steps of the shortest"),
        ({"step_size": 0.0}, "step_size must be greater than 0, got 0"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        lyapunov_spectrum(LinearCell(torch.eye(2)), still(5), **options)
