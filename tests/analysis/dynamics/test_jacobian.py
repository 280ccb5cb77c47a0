import math

import mpmath
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from noisyrnn.analysis.dynamics.jacobian import (
    float64_trajectory,
    gradient_norms,
    gradient_rate,
    input_jacobian,
    input_jacobian_norms,
    jacobian_norms,
    jacobian_spectra,
)
from noisyrnn.analysis.dynamics.lyapunov import lyapunov_spectrum
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.models import MODELS, Cell, LipschitzRNN, RateRNN, RecurrentLayer, SequenceClassifier, build_layer

BATCH, STEPS, CHANNELS, UNITS, CLASSES = 3, 5, 2, 4, 3
LENGTHS = torch.tensor([5, 1, 3])


class MatrixCell(Cell):
    """`h <- P_m h` with the matrix `P_m` as the input, row by row: any Jacobians one likes."""

    def __init__(self, units):
        super().__init__(units**2, units)
        self.register_parameter("unused", nn.Parameter(torch.zeros(1)))

    def increment(self, inputs, state, dt=None):
        P = inputs.unflatten(1, (self.hidden_size, self.hidden_size))
        return (P @ state[..., None])[..., 0] - state


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(name):
    torch.manual_seed(0)
    options = {}
    if name in ("noisy", "lipschitz", "antisymmetric"):
        options = {"step_size": 0.3, "init_std": 3.0, "damping": 0.1}
    mean, std = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.7])
    layer = build_layer(name, CHANNELS, UNITS, options)
    return SequenceClassifier(layer, CLASSES, mean=mean, std=std).double().eval()


def classifier_of(cell, classes=CLASSES):
    torch.manual_seed(0)
    layer = RecurrentLayer(lambda input_size, hidden_size: cell, cell.input_size, cell.hidden_size)
    return SequenceClassifier(layer, classes).double().eval()


def settings(name, variant):
    if variant == "lengths":
        return {"lengths": LENGTHS}
    timed = built(name).layer.cell.supports_dt
    return {"dt": drawn(BATCH, STEPS).abs() + 0.2} if variant == "dt" and timed else {}


def from_here(model, inputs, m, chosen):
    """States from `h_m` on, as a function of it: `(batch, state)` to `(batch, state)`."""
    trajectory = float64_trajectory(model, inputs, **chosen)

    def onward(h):
        for n in range(m, trajectory.steps):
            h = trajectory.maps(n, h)
        return h

    return trajectory, onward


@pytest.mark.parametrize("variant", ["plain", "lengths", "dt"])
@pytest.mark.parametrize("name", MODELS)
def test_spectra_are_those_of_the_jacobian_of_the_rest_of_the_pass(name, variant):
    model, inputs, chosen = built(name), drawn(BATCH, STEPS, CHANNELS), settings(name, variant)
    measured = jacobian_spectra(model, inputs, **chosen)
    norms = jacobian_norms(model, inputs, **chosen)
    lengths = LENGTHS if variant == "lengths" else torch.full((BATCH,), STEPS)
    assert measured.kind == norms.kind == "exact"
    for m in range(STEPS):
        trajectory, onward = from_here(model, inputs, m, chosen)
        full = torch.autograd.functional.jacobian(onward, trajectory.states[m], vectorize=True)
        for b in range(BATCH):
            if m >= lengths[b]:
                assert measured.value[b, m].isnan().all() and norms.value[b, m].isnan()
                continue
            expected = torch.linalg.svdvals(full[b, :, b]).log()
            shown = ~measured.value[b, m].isnan()
            assert bool((expected[~shown] < expected[0] + math.log(1e-9)).all())
            blur = 1e-9 + 1e-13 * (expected[0] - expected).exp()  # both products round, relative to the largest value
            assert bool(((measured.value[b, m] - expected).abs() < blur)[shown].all())
            assert float(norms.value[b, m]) == pytest.approx(float(expected[0]), abs=1e-10)


def matrices(kind, steps, units):
    """`(steps, units, units)`: graded products, or growth that later steps take back."""
    rotations = torch.linalg.qr(drawn(steps, units, units, seed=7))[0]
    scales = torch.logspace(0, -1.5, units, dtype=torch.float64)
    graded = rotations[0] @ torch.diag(scales) @ rotations[0].T
    if kind == "graded":
        return graded.expand(steps, units, units)
    if kind == "random":
        return rotations * scales
    half = steps // 2
    grown = torch.cat([graded.expand(half, units, units), torch.linalg.inv(graded).expand(half, units, units)])
    return grown if kind == "there and back" else grown.flip(0)


@pytest.mark.parametrize("kind", ["graded", "random", "there and back", "back and there"])
def test_a_singular_value_is_right_or_nan(kind):
    units, steps = 4, 24
    P = matrices(kind, steps, units)
    logs = jacobian_spectra(MatrixCell(units), P.reshape(1, steps, -1)).value[0]
    finite = 0
    with mpmath.workdps(120):
        product = mpmath.eye(units)
        for m in reversed(range(steps)):
            product = product * mpmath.matrix(P[m].tolist())
            exact = sorted((mpmath.log(s) for s in mpmath.svd_r(product, compute_uv=False)), reverse=True)
            for measured, true in zip(logs[m].tolist(), exact, strict=True):
                if math.isnan(measured):
                    # Only what float64 cannot hold: growth of 1e8 in between, or 1e-8 of the largest value.
                    assert kind not in ("graded", "random") or true < exact[0] + math.log(1e-8)
                else:
                    finite += 1
                    assert abs(measured - float(true)) < 1.1e-3
            if kind in ("graded", "random"):
                assert math.isfinite(logs[m, 0])
    assert 2 * steps < finite < 4 * steps - 8


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_products_neither_overflow_nor_vanish(factor):
    steps, units = 400, 3
    rotations = torch.linalg.qr(drawn(steps, units, units))[0]
    logs = jacobian_spectra(MatrixCell(units), (factor * rotations).reshape(1, steps, -1)).value
    expected = math.log(factor) * torch.arange(steps, 0, -1, dtype=torch.float64)[None, :, None].expand(1, -1, units)
    torch.testing.assert_close(logs, expected, rtol=1e-12, atol=1e-9)


def test_a_zero_jacobian_has_no_logarithm():
    assert jacobian_spectra(MatrixCell(2), torch.zeros(1, 3, 4, dtype=torch.float64)).value.isnan().all()


def test_leading_values_are_the_first():
    model, inputs = built("lstm"), drawn(BATCH, STEPS, CHANNELS)
    assert torch.equal(jacobian_spectra(model, inputs, leading=2).value, jacobian_spectra(model, inputs).value[..., :2])
    with pytest.raises(ValueError, match="leading must be at most 8, the size of the state, got 9"):
        jacobian_spectra(model, inputs, leading=9)
    with pytest.raises(ValueError, match=r"^leading must"):
        jacobian_spectra(model, inputs, leading=0)


def test_padding_changes_nothing():
    inputs = drawn(BATCH, STEPS, CHANNELS)
    padded = inputs.masked_fill((torch.arange(STEPS) >= LENGTHS[:, None])[..., None], math.nan)
    model, labels = built("noisy"), torch.tensor([0, 1, 2])
    spectra = jacobian_spectra(model, padded, lengths=LENGTHS).value
    norms = gradient_norms(model, padded, labels, lengths=LENGTHS).value
    for b, length in enumerate(LENGTHS.tolist()):
        alone = inputs[b : b + 1, :length]
        torch.testing.assert_close(spectra[b, :length], jacobian_spectra(model, alone).value[0])
        torch.testing.assert_close(norms[b, : length + 1], gradient_norms(model, alone, labels[b : b + 1]).value[0])
        assert norms[b, length + 1 :].isnan().all()


def test_the_model_is_left_as_it_is_and_computed_in_float64():
    inputs = drawn(BATCH, STEPS, CHANNELS)
    single = built("noisy").float()
    single.train()
    logs = jacobian_spectra(single, inputs.float()).value
    assert gradient_norms(single, inputs.float(), torch.tensor([0, 1, 2])).value.dtype == torch.float64
    assert logs.dtype == torch.float64 and not logs.requires_grad
    assert single.training and all(p.dtype == torch.float32 and p.grad is None for p in single.parameters())
    double = jacobian_spectra(built("noisy").float().double(), inputs.float().double()).value
    torch.testing.assert_close(logs, double, rtol=0, atol=1e-12)
    assert float((logs - jacobian_spectra(built("noisy"), inputs).value).abs().max()) < 1e-5


def pruned(layer):
    prune.l1_unstructured(layer.cell, "W", 0.5)
    prune.l1_unstructured(layer.cell.input, "weight", 0.3)


def normalized(layer):
    nn.utils.spectral_norm(layer.cell, "W")
    nn.utils.weight_norm(layer.cell.input)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", [pruned, normalized])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_that_a_hook_sets_are_computed_in_float64_too(change, training):
    torch.manual_seed(0)
    layer, plain = (RateRNN(CHANNELS, 6).train(training) for _ in range(2))
    change(layer)
    inputs = drawn(BATCH, STEPS, CHANNELS).float()
    measured = jacobian_norms(layer, inputs).value
    current = {"W": layer.cell.W, "input.weight": layer.cell.input.weight, "input.bias": layer.cell.input.bias}
    plain.cell.load_state_dict(current, strict=False)
    torch.testing.assert_close(measured, jacobian_norms(plain, inputs).value, rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.cell.W, plain.cell.W)  # the layer is left as it is
    assert layer.training is layer.cell.training is training
    assert lyapunov_spectrum(layer, inputs).value.dtype == torch.float64


@pytest.mark.parametrize("name", MODELS)
def test_an_initial_state_is_where_the_products_begin(name):
    layer = built(name).layer
    inputs, h_0 = drawn(BATCH, STEPS, CHANNELS), drawn(1, BATCH, layer.cell.state_size, seed=4)
    measured = jacobian_norms(layer, inputs, h_0=h_0).value[:, 0]
    full = torch.autograd.functional.jacobian(lambda h: layer(inputs, h)[1], h_0)
    expected = torch.stack([torch.linalg.matrix_norm(full[0, b, :, 0, b], ord=2).log() for b in range(BATCH)])
    torch.testing.assert_close(measured, expected)
    with pytest.raises(ValueError, match=r"^h_0 must have shape \(1, 3, "):
        jacobian_norms(layer, inputs, h_0=h_0[0])


def test_a_layer_and_a_cell_take_standardised_inputs():
    model, inputs = built("gru"), drawn(BATCH, STEPS, CHANNELS)
    standard = (inputs - model.mean) / model.std
    expected = jacobian_norms(model, inputs).value
    torch.testing.assert_close(jacobian_norms(model.layer, standard).value, expected)
    torch.testing.assert_close(jacobian_norms(model.layer.cell, standard).value, expected)


def test_what_cannot_be_followed_is_refused():
    inputs = drawn(BATCH, STEPS, CHANNELS)
    with pytest.raises(ValueError, match="dt must be None for TorchCell, whose steps have no length, got step lengths"):
        jacobian_norms(built("gru"), inputs, dt=torch.ones(STEPS))
    with pytest.raises(TypeError, match="got Linear"):
        jacobian_norms(nn.Linear(1, 1), inputs)
    with pytest.raises(TypeError, match="model must be a SequenceClassifier for a gradient of its loss, got GRU"):
        gradient_norms(built("gru").layer, inputs, torch.zeros(BATCH, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^labels must"):
        gradient_norms(built("gru"), inputs, torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match=r"^lengths must"):
        jacobian_norms(built("gru"), inputs, lengths=torch.tensor([6, 1, 1]))
    growing = LipschitzRNN(input_size=1, hidden_size=2, step_size=1e30).double()
    with torch.no_grad():
        growing.cell.B.fill_(1.0)  # the state is about 1e30 after one step, and grows by as much each step
    with pytest.raises(
        RuntimeError, match=r"state became non-finite at step 11 of 20 for 2 of 2 sequences\. Lower the"
    ):
        jacobian_norms(growing, torch.zeros(2, 20, 1))


@pytest.mark.parametrize("variant", ["plain", "lengths", "dt"])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_norms_are_autograds(name, variant):
    model, inputs, chosen = built(name), drawn(BATCH, STEPS, CHANNELS), settings(name, variant)
    labels = torch.tensor([2, 0, 1])
    measured = gradient_norms(model, inputs, labels, **chosen)
    lengths = LENGTHS if variant == "lengths" else torch.full((BATCH,), STEPS)
    assert measured.kind == "exact" and measured.value.shape == (BATCH, STEPS + 1)
    for m in range(STEPS + 1):
        trajectory, onward = from_here(model, inputs, m, chosen)
        h = trajectory.states[m].clone().requires_grad_(True)
        with torch.enable_grad():
            logits = model.readout(onward(h)[:, :UNITS])
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, h)
        there = m <= lengths
        torch.testing.assert_close(measured.value[there, m], gradient.norm(dim=1).log()[there], rtol=1e-9, atol=1e-9)
        assert measured.value[~there, m].isnan().all()


def test_a_confident_model_keeps_its_gradient():
    model = classifier_of(MatrixCell(2), classes=2)
    with torch.no_grad():
        model.readout.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        model.readout.bias.copy_(torch.tensor([0.0, 1000.0]))
    steps = torch.eye(2, dtype=torch.float64).expand(1, 3, 2, 2).reshape(1, 3, 4)
    norms = gradient_norms(model, steps, torch.tensor([1]))
    # 1 - p_y = exp(-1000) up to rounding, and V^T (e_0 - e_1) = (3, -4)
    torch.testing.assert_close(norms.value, torch.full((1, 4), -1000 + math.log(5.0), dtype=torch.float64))
    assert float(gradient_rate(norms).value) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("factor", "rate"), [(1e-3, math.log(1e-3)), (1e3, math.log(1e3))])
def test_the_rate_tells_vanishing_from_exploding(factor, rate):
    steps = 250  # the norm leaves float64's range long before
    P = factor * torch.linalg.qr(drawn(steps, 2, 2))[0]
    norms = gradient_norms(classifier_of(MatrixCell(2)), P.reshape(1, steps, 4), torch.tensor([1]))
    assert float(gradient_rate(norms).value) == pytest.approx(rate, rel=1e-9)
    assert float(norms.value[0, 0] - norms.value[0, -1]) == pytest.approx(steps * rate, rel=1e-9)


def test_a_gradient_that_is_zero_stays_so():
    norms = gradient_norms(
        classifier_of(MatrixCell(2)), torch.zeros(1, 3, 4, dtype=torch.float64), torch.tensor([1])
    ).value[0]
    assert norms[:3].tolist() == [-math.inf] * 3 and math.isfinite(norms[3])


def test_the_rate_is_a_least_squares_slope_over_what_is_finite():
    logs = torch.tensor([[9.0, 4.0, 2.0, 0.0], [5.0, 1.0, math.nan, math.nan], [-math.inf, -math.inf, 1.0, math.nan]])
    norms = Measurement(value=logs.double(), kind="exact")
    rate = gradient_rate(norms)
    # first row: offsets 1.5, .5, -.5, -1.5 give (13.5 + 2 - 1 - 0) / 5
    assert rate.kind == "exact" and rate.value[:2].tolist() == pytest.approx([2.9, 4.0])
    assert rate.value[2].isnan()


@pytest.mark.parametrize("name", MODELS)
def test_the_input_jacobian_is_autograds(name):
    model, inputs = built(name), drawn(BATCH, STEPS, CHANNELS)
    for lengths in (None, LENGTHS):
        chosen = {} if lengths is None else {"lengths": lengths}
        measured = input_jacobian(model, inputs, **chosen)
        full = torch.autograd.functional.jacobian(lambda x, c=chosen: model(x, **c), inputs, vectorize=True)
        expected = torch.stack([full[b, :, b] for b in range(BATCH)])
        assert measured.kind == "exact"
        torch.testing.assert_close(measured.value, expected, rtol=1e-10, atol=1e-12)
        spectral, frobenius = input_jacobian_norms(model, inputs, **chosen)
        for b in range(BATCH):
            values = torch.linalg.svdvals(expected[b].reshape(CLASSES, -1))
            assert float(spectral.value[b]) == pytest.approx(float(values[0]), rel=1e-10)
            assert float(frobenius.value[b]) == pytest.approx(float(values.square().sum().sqrt()), rel=1e-10)
    assert (measured.value[1, :, 1:] == 0).all()
    assert all(p.grad is None for p in model.parameters())


def test_any_callable_has_an_input_jacobian():
    weight = drawn(CLASSES, STEPS * CHANNELS)
    measured = input_jacobian(lambda x: x.flatten(1) @ weight.T, drawn(BATCH, STEPS, CHANNELS)).value
    torch.testing.assert_close(measured, weight.reshape(1, CLASSES, STEPS, CHANNELS).expand_as(measured))
    single = built("noisy").float()
    assert input_jacobian(single, drawn(BATCH, STEPS, CHANNELS).float()).value.dtype == torch.float32
    parameter = nn.Parameter(torch.ones(BATCH, CLASSES))
    assert (input_jacobian(lambda x: parameter * 2, drawn(BATCH, STEPS, CHANNELS)).value == 0).all()


def test_logits_without_a_gradient_are_refused():
    inputs = drawn(BATCH, STEPS, CHANNELS)
    with pytest.raises(RuntimeError, match="outputs must depend on the inputs through torch operations"):
        input_jacobian(lambda x: x.detach().sum(1), inputs)
    with pytest.raises(ValueError, match="model must be in eval mode, got training mode"):
        input_jacobian(built("noisy").train(), inputs)
    with pytest.raises(ValueError, match=r"^inputs must"):
        input_jacobian_norms(built("noisy"), inputs[..., 0])
