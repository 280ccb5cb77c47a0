import itertools
import math

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev, stack_module_state, vmap
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from noisyrnn.analysis import regularizer
from noisyrnn.analysis.regularizer import (
    antithetic_regularizer,
    explicit_regularizer,
    penalized_loss,
    penalty,
    tangent_regularizer,
)
from noisyrnn.models import MODELS, SequenceClassifier, build_layer
from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.noise.hidden_noise import HiddenNoise

BATCH, STEPS, CHANNELS, UNITS, CLASSES = 3, 15, 2, 6, 4
DRIFTS = ("noisy", "lipschitz", "antisymmetric")
OTHERS = tuple(name for name in MODELS if name not in DRIFTS)
FORMS = ("shared", "independent")
VARIANTS = ("plain", "lengths", "dt", "both")
PATH = BrownianPath(seed=7)


def classifier(name, *, units=UNITS, classes=CLASSES, readout=2.0, mean=(0.1, -0.1), std=(0.9, 1.2), **options):
    torch.manual_seed(0)
    if name in DRIFTS:
        options = {"step_size": 0.25, "init_std": 3.0, "damping": 0.1, **options}
    layer = build_layer(name, CHANNELS, units, options)
    model = SequenceClassifier(layer, classes, mean=torch.tensor(mean), std=torch.tensor(std)).double()
    with torch.no_grad():
        model.readout.weight.copy_(readout * drawn(classes, units, seed=5))
        if name == "noisy":
            layer.cell.step_size.mul_(0.5 + torch.rand(units, dtype=torch.float64))
        if name == "exprnn":
            layer.cell.threshold.fill_(0.1)  # its map then has a jump at 0 only
    return model


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data(variant="plain", *, batch=BATCH, steps=STEPS):
    chosen = {}
    if variant in ("lengths", "both"):
        chosen["lengths"] = torch.tensor([steps, 1, steps // 2])[:batch]
    if variant == "dt":
        chosen["dt"] = drawn(steps, seed=2).abs() + 0.2
    if variant == "both":
        chosen["dt"] = drawn(batch, steps, seed=2).abs() + 0.2
    return (drawn(batch, steps, CHANNELS), torch.tensor([2, 0, 1])[:batch]), chosen


def noise_of(form, scale=1.0):
    return HiddenNoise(additive=scale * 0.2, multiplicative=scale * 0.5, form=form)


def assert_within_four(estimate, value):
    assert estimate.kind == "estimate"
    assert ((estimate.value - value).abs() <= 4 * estimate.standard_error).all()
    assert (estimate.standard_error < 0.1 * value.abs().max()).all()  # else it would say nothing


def every_pattern(path, draws, roots):
    """All signs that there are, in place of random ones: their mean is the expectation itself."""
    steps, (batch, units) = len(roots), roots[0].shape
    patterns = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=steps * units)), dtype=roots[0].dtype)
    assert draws == len(patterns)
    return patterns.unflatten(1, (steps, 1, units)).expand(-1, -1, batch, -1).unbind(1)


def double_sums(model, inputs, label, noise, steps, dt):
    """The paper's theorem for one sequence as it is printed: P and Q as double and single sums of matrix products."""
    cell, size, units = model.layer.cell, model.layer.cell.state_size, model.layer.hidden_size
    inputs = (inputs - model.mean) / model.std

    def step(m):
        return lambda h: cell.step(inputs[m][None], h[None], dt[m])[0]

    h = [torch.zeros(size, dtype=torch.float64)]
    for m in range(steps):
        h.append(step(m)(h[m]))
    J = [jacrev(step(m))(h[m]) for m in range(steps)]
    H = [jacrev(jacrev(step(m)))(h[m]) for m in range(steps)]
    N = []
    for m in range(steps):
        relative = noise.multiplicative / math.sqrt(dt[m]) * (h[m + 1] - h[m])
        additive = noise.additive * math.sqrt(dt[m])
        variance = (additive + relative) ** 2 if noise.form == "shared" else additive**2 + relative**2
        variance[units:] = 0
        N.append(torch.diag(variance))

    def flow(end, start):  # Φ_{end,start} = J_{end-1} … J_start
        product = torch.eye(size, dtype=torch.float64)
        for m in range(start, end):
            product = J[m] @ product
        return product

    def loss(last):
        return functional.cross_entropy(model.readout(last[:units]), label)

    gradient, curvature = jacrev(loss)(h[steps]), jacrev(jacrev(loss))(h[steps])
    Q = sum((curvature @ flow(steps, m + 1) @ N[m] @ flow(steps, m + 1).T).trace() for m in range(steps))
    w = torch.zeros(size, dtype=torch.float64)
    for k in range(steps):
        for m in range(k):
            covariance = flow(k, m + 1) @ N[m] @ flow(k, m + 1).T
            w = w + flow(steps, k + 1) @ (0.5 * torch.einsum("ijk,jk->i", H[k], covariance))
    return 2 * gradient @ w, Q


def all_double_sums(model, inputs, labels, noise, lengths=None, dt=None):
    batch, steps, _ = inputs.shape
    lengths = torch.full((batch,), steps) if lengths is None else lengths
    dt = torch.ones(batch, steps, dtype=torch.float64) if dt is None else dt.expand(batch, steps)
    parts = [double_sums(model, inputs[b], labels[b], noise, int(lengths[b]), dt[b].clone()) for b in range(batch)]
    return torch.stack([P for P, _ in parts]).detach(), torch.stack([Q for _, Q in parts]).detach()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "variant"), [*itertools.product(DRIFTS, VARIANTS), ("rate", "both"), ("rnn", "lengths")]
)
def test_the_recursion_folds_the_double_sums(name, form, variant):
    model, noise = classifier(name), noise_of(form)
    (inputs, labels), chosen = data(variant, steps=8)
    P, Q = all_double_sums(model, inputs, labels, noise, **chosen)
    found = explicit_regularizer(model, inputs, labels, noise=noise, **chosen)
    torch.testing.assert_close(found.P.detach(), P, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found.Q.detach(), Q, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.total.detach(), (P + Q) / 2, rtol=1e-10, atol=1e-13)
    assert (Q > 0).all()
    assert found.measurement().kind == "exact" and found.measurement().standard_error is None
    assert torch.equal(found.measurement("P").value, found.P) and torch.equal(found.measurement("Q").value, found.Q)


def test_it_may_be_negative():
    model, noise = classifier("lipschitz", readout=8.0), noise_of("shared")
    (inputs, labels), _ = data()
    P, Q = all_double_sums(model, inputs, labels, noise)
    total = explicit_regularizer(model, inputs, labels, noise=noise).total.detach()
    assert total.min() < -0.1
    torch.testing.assert_close(total, (P + Q) / 2, rtol=1e-10, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_one_step_from_rest_has_a_closed_form(form):
    # h_1 = d tanh(U x + b), C_1 = N_0, w_1 = 0; with two classes ∇²ℓ = p (1 - p) D Dᵀ, D the difference of the rows.
    noise = noise_of(form)
    model = classifier("lipschitz", classes=2)
    (inputs, labels), _ = data(steps=1)
    labels = labels.clamp(max=1)
    cell = model.layer.cell
    for sharpness in (1.0, 50.0, 5000.0):  # down to probabilities far below the rounding of 1
        with torch.no_grad():
            model.readout.weight.mul_(sharpness)
            h = 0.25 * torch.tanh(cell.input((inputs[:, 0] - model.mean) / model.std))
            variance = (0.2 + 0.5 * h) ** 2 if form == "shared" else 0.2**2 + (0.5 * h) ** 2
            rows = model.readout.weight[0] - model.readout.weight[1]
            p = torch.sigmoid(model.readout(h) @ torch.tensor([1.0, -1.0]).double())
            q = torch.sigmoid(model.readout(h) @ torch.tensor([-1.0, 1.0]).double())
            found = explicit_regularizer(model, inputs, labels, noise=noise)
            model.readout.weight.div_(sharpness)
        assert torch.equal(found.P, torch.zeros(BATCH).double())
        torch.testing.assert_close(found.Q, p * q * (variance * rows**2).sum(1), rtol=1e-9, atol=1e-300)


def test_a_saturated_softmax_gives_finite_gradients():
    model = classifier("noisy", readout=1e5)
    (inputs, labels), _ = data()
    found = explicit_regularizer(model, inputs, labels, noise=noise_of("independent"))
    found.total.sum().backward()
    assert found.total.isfinite().all() and (found.Q >= 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_linear_dynamics_have_no_first_part():
    model = classifier("lipschitz", damping=0.0)
    with torch.no_grad():
        model.layer.cell.C.zero_()
    (inputs, labels), _ = data()
    found = explicit_regularizer(model, inputs, labels, noise=noise_of("shared"))
    assert torch.equal(found.P, torch.zeros(BATCH).double()) and (found.Q > 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_in_the_papers_parametrisation_the_noise_level_factors_out(form):
    step, first, second = 0.25, 0.7, 1.3
    model = classifier("lipschitz")
    (inputs, labels), _ = data()
    found = []
    for level in (1.0, 0.01):
        noise = HiddenNoise(additive=first, multiplicative=second, form=form).per_time(
            noise_level=level, step_size=step
        )
        found.append(explicit_regularizer(model, inputs, labels, noise=noise).total / level**2)
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=0)
    # one step: ε² δ (σ₁ + σ₂ f)²
    noise = HiddenNoise(additive=first, multiplicative=second, form=form).per_time(noise_level=1.0, step_size=step)
    one = explicit_regularizer(model, inputs[:, :1], labels, noise=noise).Q
    f = torch.tanh(model.layer.cell.input((inputs[:, 0] - model.mean) / model.std))
    spread = step * ((first + second * f) ** 2 if form == "shared" else first**2 + (second * f) ** 2)
    p = model.readout(step * f).softmax(1)
    centred = model.readout.weight - (p @ model.readout.weight)[:, None]
    torch.testing.assert_close(one, (p[..., None] * centred**2 * spread[:, None]).sum((1, 2)), rtol=1e-10, atol=0)


def quadrature(nodes, dimensions):
    """Gauss–Hermite points `(nodes ** dimensions, dimensions)` and weights for standard normals."""
    points, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(nodes))
    grid = torch.tensor(list(itertools.product(range(nodes), repeat=dimensions)))
    return points[grid], (weights / weights.sum())[grid].prod(1)


@pytest.mark.parametrize(("form", "units"), [("shared", 2), ("independent", 1)])
@pytest.mark.parametrize("name", ["noisy", "antisymmetric"])
def test_what_is_left_out_is_of_fourth_order(name, form, units):
    # Three steps take six normals; the mean over them is exact but for rounding.
    model, noise, steps = classifier(name, units=units, mean=(0.3, -0.2), std=(0.5, 2.0)), noise_of(form), 3
    (inputs, labels), _ = data(batch=1, steps=steps)
    dt = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    cell, standard = model.layer.cell, (inputs[0] - model.mean) / model.std
    points, weights = quadrature(6, 6)
    points = points.unflatten(1, (steps, 2))
    with torch.no_grad():

        def mean_loss(scale):
            h = torch.zeros(len(points), units, dtype=torch.float64)
            for m in range(steps):
                increment = cell.step(standard[m].expand(len(h), CHANNELS), h, dt[m]) - h
                first, second = (points[:, m],) * 2 if form == "shared" else points[:, m].split(1, dim=1)
                relative = noise.multiplicative / dt[m].sqrt() * second
                h = h + increment * (1 + scale * relative) + scale * noise.additive * dt[m].sqrt() * first
            losses = functional.cross_entropy(model.readout(h), labels.expand(len(h)), reduction="none")
            return float(weights @ losses)

        total = float(explicit_regularizer(model, inputs, labels, noise=noise, dt=dt).total)
        scales = [2.0**-k for k in range(2, 6)]
        errors = [abs((mean_loss(scale) - mean_loss(0.0)) / scale**2 - total) for scale in scales]
    slope = np.polyfit(np.log(scales), np.log(errors), 1)[0]
    assert abs(slope - 2) < 0.05  # the sixth order bends it by scale² = 1/16 at most
    assert errors[-1] < 1e-2 * abs(total)


@pytest.mark.parametrize("name", DRIFTS)
def test_its_cost_is_linear_in_the_steps_and_cubic_in_the_units(name):
    def flops(steps, units=UNITS):
        model = classifier(name, units=units)
        (inputs, labels), _ = data(steps=steps)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            explicit_regularizer(model, inputs, labels, noise=noise_of("shared"))
        return counter.get_total_flops()

    one, two, four = flops(5), flops(10), flops(20)
    assert four - two == 2 * (two - one) > 0
    assert 3.8 * one < four < 4 * one
    assert flops(10, 128) < 8.5 * flops(10, 64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", DRIFTS)
def test_gradients_of_the_exact_value_are_right(name, form):
    model = classifier(name, units=2, classes=3)
    (inputs, labels), chosen = data("both", steps=4)
    inputs.requires_grad_()
    for noise in (noise_of(form), HiddenNoise(multiplicative=0.5, form=form)):
        leaves = (inputs, *model.parameters())
        assert torch.autograd.gradcheck(
            lambda *_, noise=noise: explicit_regularizer(model, inputs, labels, noise=noise, **chosen).total,
            leaves,
            fast_mode=True,
        )


def test_sequences_do_not_see_one_another_nor_the_padding():
    model, noise = classifier("noisy"), noise_of("independent")
    (inputs, labels), chosen = data("both")
    whole = explicit_regularizer(model, inputs, labels, noise=noise, **chosen).total
    padded = inputs.clone()
    padded[1, 1:] = torch.nan
    with_padding = explicit_regularizer(model, padded.requires_grad_(), labels, noise=noise, **chosen).total
    assert torch.equal(whole, with_padding)
    with_padding.sum().backward()
    assert padded.grad.isfinite().all() and not padded.grad[1, 1:].any()
    for b in range(BATCH):
        steps = int(chosen["lengths"][b])
        alone = explicit_regularizer(
            model, inputs[b : b + 1, :steps], labels[b : b + 1], noise=noise, dt=chosen["dt"][b, :steps]
        ).total
        torch.testing.assert_close(alone[0], whole[b], rtol=1e-12, atol=0)


def test_the_layers_own_noise_is_the_default_and_its_switches_do_not_matter():
    model = classifier("noisy", additive=0.2, multiplicative=0.5, noise_form="shared")
    (inputs, labels), _ = data()
    expected = explicit_regularizer(model, inputs, labels, noise=noise_of("shared")).total
    model.layer.noise_mode = "on"
    assert torch.equal(explicit_regularizer(model.eval(), inputs, labels).total, expected)
    assert torch.equal(explicit_regularizer(model.train(), inputs, labels).total, expected)
    assert model.layer.noise_mode == "on" and model.training


@pytest.mark.parametrize("name", DRIFTS)
def test_without_noise_it_is_zero(name):
    (inputs, labels), _ = data()
    found = explicit_regularizer(classifier(name), inputs, labels, noise=HiddenNoise())
    assert not found.P.any() and not found.Q.any()


def test_what_does_not_fit_is_refused():
    (inputs, labels), _ = data()
    model = classifier("noisy")
    with pytest.raises(
        TypeError, match=r"noisy, Lipschitz, antisymmetric, rate or tanh RNN .* got CoRNNCell. Use tangent_regularizer"
    ):
        explicit_regularizer(classifier("cornn"), inputs, labels)
    with pytest.raises(TypeError, match="model must be a SequenceClassifier, got NoisyRNN"):
        explicit_regularizer(model.layer, inputs, labels)
    with pytest.raises(ValueError, match=r"noise_law must be 'gaussian' .* got 'uniform'"):
        explicit_regularizer(model, inputs, labels, noise=HiddenNoise(multiplicative=0.1, law="uniform"))
    with pytest.raises(ValueError, match="labels must"):
        explicit_regularizer(model, inputs, labels + 2)
    with pytest.raises(ValueError, match="inputs must"):
        explicit_regularizer(model, inputs[..., :1], labels)
    with pytest.raises(ValueError, match="lengths must"):
        explicit_regularizer(model, inputs, labels, lengths=torch.tensor([1, 2, 16]))
    with pytest.raises(ValueError, match=r"dt must be a number or have shape \(15,\) or \(3, 15\), got \(3,\)"):
        explicit_regularizer(model, inputs, labels, dt=torch.ones(3))
    with pytest.raises(ValueError, match="part must"):
        explicit_regularizer(model, inputs, labels).measurement("R")


@pytest.mark.parametrize(
    ("name", "form", "variant"),
    [
        ("noisy", "shared", "both"),
        ("noisy", "independent", "plain"),
        ("lipschitz", "independent", "both"),
        ("antisymmetric", "shared", "plain"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("noisy", "shared", "plain"),
                ("noisy", "independent", "both"),
                ("lipschitz", "shared", "plain"),
                ("lipschitz", "shared", "both"),
                ("lipschitz", "independent", "plain"),
                ("antisymmetric", "shared", "both"),
                ("antisymmetric", "independent", "plain"),
                ("antisymmetric", "independent", "both"),
            )
        ),
    ],
)
def test_the_exact_value_is_what_both_estimators_estimate(name, form, variant):
    model, noise = classifier(name), noise_of(form)
    (inputs, labels), chosen = data(variant)
    exact = explicit_regularizer(model, inputs, labels, noise=noise, **chosen)
    tangent = tangent_regularizer(model, inputs, labels, noise=noise, draws=4000, seed=1, **chosen)
    assert tangent.P.shape == tangent.Q.shape == (4000, BATCH) and tangent.kind == "estimate"
    assert_within_four(tangent.measurement("P"), exact.P)
    assert_within_four(tangent.measurement("Q"), exact.Q)
    assert_within_four(tangent.measurement(), exact.total)
    simulated = antithetic_regularizer(
        model, inputs, labels, noise=noise, scale=0.01, pairs=4000, seed=1, **chosen
    )  # a bias of 1e-4 at most, far below the standard error
    assert_within_four(simulated, exact.total)


@pytest.mark.parametrize("name", OTHERS)
def test_both_estimators_agree_for_any_cell(name):
    model, noise = classifier(name), noise_of("independent")
    (inputs, labels), chosen = data("both")
    if not model.layer.cell.supports_dt:
        del chosen["dt"]
    tangent = tangent_regularizer(model, inputs, labels, noise=noise, draws=1500, seed=1, **chosen).measurement()
    # The exponential RNN is linear away from its jump, which noise as weak as this hardly ever reaches.
    scale = 1e-4 if name == "exprnn" else 0.01
    simulated = antithetic_regularizer(model, inputs, labels, noise=noise, scale=scale, pairs=1500, seed=2, **chosen)
    error = torch.hypot(tangent.standard_error, simulated.standard_error)
    assert ((tangent.value - simulated.value).abs() <= 4 * error).all()
    assert (error < 0.15 * tangent.value.abs().max()).all()


def simulated_exactly(model, inputs, labels, noise, dt):
    """½ (P + Q) of short sequences by second differences along each direction of the noise, its mean taken exactly.

    The second-order effect is half the trace of the loss's second derivative in all normals of the noise at once.
    """
    cell, units, (batch, steps, _) = model.layer.cell, model.layer.hidden_size, inputs.shape
    inputs, motions = (inputs - model.mean) / model.std, 1 if noise.form == "shared" else 2
    totals = []
    for b in range(batch):

        def loss(normals, b=b):
            h = torch.zeros(1, cell.state_size, dtype=torch.float64)
            for m in range(steps):
                increment = cell.step(inputs[b, m][None], h, dt[m] if cell.supports_dt else None) - h
                root = dt[m].sqrt()
                moved = increment[:, :units] * (1 + noise.multiplicative / root * normals[m, -1])
                moved = moved + noise.additive * root * normals[m, 0]
                h = h + torch.cat([moved, increment[:, units:]], dim=1)
            return functional.cross_entropy(model.readout(h[:, :units]), labels[b : b + 1])

        count = steps * motions * units
        second = torch.func.hessian(lambda flat: loss(flat.unflatten(0, (steps, motions, units))))
        totals.append(second(torch.zeros(count, dtype=torch.float64)).trace() / 2)
    return torch.stack(totals).detach()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_the_mean_over_all_signs_is_the_trace_in_the_noise(name, form, monkeypatch):
    model, noise, steps = classifier(name, units=2), noise_of(form), 4
    (inputs, labels), _ = data(steps=steps)
    timed = model.layer.cell.supports_dt
    dt = drawn(steps, seed=2).abs() + 0.2 if timed else torch.ones(steps, dtype=torch.float64)
    expected = simulated_exactly(model, inputs, labels, noise, dt)
    monkeypatch.setattr(regularizer, "_signs", every_pattern)
    found = tangent_regularizer(model, inputs, labels, noise=noise, draws=2**8, dt=dt if timed else None)
    torch.testing.assert_close(found.total.mean(0), expected, rtol=1e-10, atol=1e-12)
    if name in DRIFTS:
        exact = explicit_regularizer(model, inputs, labels, noise=noise, dt=dt)
        torch.testing.assert_close(found.P.mean(0), exact.P, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.Q.mean(0), exact.Q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["noisy", "cornn", "lstm"])
def test_finished_sequences_are_left_alone(name):
    model, noise = classifier(name), noise_of("independent")
    (inputs, labels), _ = data()
    padded = inputs.clone()
    padded[1, 4:] = torch.nan
    lengths = torch.tensor([STEPS, 4, STEPS])
    whole = tangent_regularizer(model, padded, labels, noise=noise, draws=3, lengths=lengths)
    rows = penalty(model, padded, labels, kind="hutchinson", path=PATH, noise=noise, lengths=lengths)
    alone = penalty(
        model,
        inputs[1:2, :4],
        labels[1:2],
        kind="hutchinson",
        path=BrownianPath(seed=PATH.seed, first_row=1),
        noise=noise,
    )
    assert whole.total.isfinite().all()
    torch.testing.assert_close(rows[1:2], alone, rtol=1e-10, atol=0)  # a row's numbers are its own


@pytest.mark.parametrize("form", FORMS)
def test_the_error_of_the_expansion_falls_four_fold(form):
    # With common random numbers, effect(s) = total + c s² + …, so differences of effects fall four-fold as well.
    model, noise = classifier("noisy"), noise_of(form)
    (inputs, labels), _ = data()
    exact = explicit_regularizer(model, inputs, labels, noise=noise).total.detach()
    coarse, middle, fine = (
        antithetic_regularizer(model, inputs, labels, noise=noise, scale=scale, pairs=3000, seed=3)
        for scale in (0.05, 0.025, 0.0125)
    )
    slopes = torch.log2((coarse.value - middle.value) / (middle.value - fine.value))
    assert ((slopes - 2).abs() < 0.05).all()  # the sixth order bends it by a few hundredths
    limit = (4 * fine.value - middle.value) / 3
    assert ((limit - exact).abs() <= 4 * fine.standard_error).all()
    assert (fine.standard_error < 0.05 * exact.abs().max()).all()


def test_antithetic_noise_cancels_in_a_linear_loss():
    # W = 0: the state is linear in additive noise. A hopeless prediction: the loss is the difference of two logits.
    model = classifier("lipschitz", damping=0.0)
    with torch.no_grad():
        model.layer.cell.C.zero_()
        model.readout.bias.copy_(torch.tensor([500.0, 0, 0, 0]))
    (inputs, _), _ = data()
    labels, noise = torch.tensor([1, 2, 3]), HiddenNoise(additive=0.2)
    found = antithetic_regularizer(model, inputs, labels, noise=noise, pairs=10)
    torch.testing.assert_close(found.value, torch.zeros(BATCH).double(), rtol=0, atol=1e-12)
    assert explicit_regularizer(model, inputs, labels, noise=noise).total.abs().max() < 1e-100


@pytest.mark.parametrize("name", MODELS)
def test_without_noise_all_are_zero(name):
    model = classifier(name)
    (inputs, labels), _ = data()
    silent = HiddenNoise()
    found = tangent_regularizer(model, inputs, labels, noise=silent, draws=2)
    assert not found.P.any() and not found.Q.any()
    simulated = antithetic_regularizer(model, inputs, labels, noise=silent, pairs=2).value
    torch.testing.assert_close(
        simulated, torch.zeros(BATCH).double(), rtol=0, atol=1e-14
    )  # rounding of larger products
    assert not penalty(model, inputs, labels, kind="hutchinson", path=PATH, noise=silent).any()


def test_pairs_do_not_depend_on_how_they_are_cut(monkeypatch):
    model, noise = classifier("noisy"), noise_of("shared")
    (inputs, labels), chosen = data("both")
    settings = {"noise": noise, "pairs": 7, "seed": 4, **chosen}
    whole = antithetic_regularizer(model, inputs, labels, **settings)
    monkeypatch.setattr("noisyrnn.analysis.regularizer._ROWS", 2 * BATCH)
    torch.testing.assert_close(antithetic_regularizer(model, inputs, labels, **settings).value, whole.value)
    other = antithetic_regularizer(model, inputs, labels, **{**settings, "seed": 5})
    assert not torch.isclose(other.value, whole.value).any()


def test_a_pair_is_a_path_and_its_negative():
    model = classifier("noisy", additive=0.2, multiplicative=0.5)
    (inputs, labels), _ = data()
    model.layer.noise_mode = "on"

    def losses(path):
        return functional.cross_entropy(model(inputs, path=path), labels, reduction="none").detach()

    paths = [BrownianPath(seed=derive_seed(9, "antithetic"), first_row=first) for first in (0, BATCH)]
    means = torch.stack([(losses(path) + losses(path.negated())) / 2 for path in paths]).mean(0)
    model.layer.noise_mode = "off"
    expected = means - losses(None)
    found = antithetic_regularizer(model, inputs, labels, pairs=2, seed=9)
    torch.testing.assert_close(found.value, expected, rtol=1e-9, atol=1e-12)


def test_signs_are_independent_and_belong_to_their_row():
    like = torch.zeros(200, 4, 50, dtype=torch.float64)
    values = torch.stack(list(regularizer._signs(PATH, 3, like)))  # (steps, draws, batch, units)
    assert values.shape == (200, 3, 4, 50) and values.dtype == torch.float64
    assert torch.equal(values.abs(), torch.ones_like(values))
    count = values.numel()
    assert abs(float(values.sum())) < 4 * math.sqrt(count)
    flat = values.reshape(200, -1)
    correlation = flat.T @ flat / 200  # over steps, of each draw, row and unit with each other
    off = correlation[~torch.eye(600, dtype=torch.bool)]
    assert off.abs().max() < 6 / math.sqrt(200) and abs(float(off.mul(math.sqrt(200)).var()) - 1) < 0.05
    assert abs(float((values[1:] * values[:-1]).mean())) < 4 / math.sqrt(count)
    first = torch.stack(list(regularizer._signs(PATH, 1, like)))
    later = torch.stack(list(regularizer._signs(BrownianPath(seed=7, first_row=2), 1, like[:, :2])))
    assert torch.equal(first[:, 0], values[:, 0]) and torch.equal(first[:, :, 2:], later)


def test_more_draws_than_one_are_averaged():
    model, noise = classifier("noisy"), noise_of("shared")
    (inputs, labels), _ = data()
    mean = penalty(model, inputs, labels, kind="hutchinson", draws=5, path=PATH, noise=noise)
    expansion = regularizer._Expansion.of(model, inputs, labels, noise=noise, lengths=None, dt=None)
    draws = expansion.sampled(PATH, 5).total
    assert draws.shape == (5, BATCH) and draws.std(0).min() > 0
    torch.testing.assert_close(mean, draws.mean(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["explicit", "hutchinson"])
@pytest.mark.parametrize("name", DRIFTS)
def test_the_penalised_loss_is_the_quiet_one_and_the_penalty(name, kind):
    model = classifier(name, additive=0.2, multiplicative=0.5).train()
    (inputs, labels), chosen = data("both")
    total, logits = penalized_loss(model, inputs, labels, kind=kind, path=PATH, **chosen)
    added = penalty(model, inputs, labels, kind=kind, path=PATH, **chosen)
    assert added.shape == total.shape == (BATCH,) and added.requires_grad
    quiet = model.eval()(inputs, **chosen)
    torch.testing.assert_close(logits, quiet, rtol=1e-12, atol=1e-12)
    loss = functional.cross_entropy(quiet, labels, reduction="none")
    torch.testing.assert_close(total, loss + added, rtol=1e-12, atol=0)
    if kind == "explicit":
        assert torch.equal(added, explicit_regularizer(model, inputs, labels, **chosen).total)
        assert torch.equal(added, penalty(model, inputs, labels, **chosen))


@pytest.mark.parametrize("name", DRIFTS)
def test_the_gradient_by_draws_has_the_exact_one_as_its_mean(name, monkeypatch):
    model, noise = classifier(name, units=2), noise_of("independent")
    (inputs, labels), _ = data(steps=4)
    monkeypatch.setattr(regularizer, "_signs", every_pattern)
    parameters = list(model.parameters())
    by_draws = penalty(model, inputs, labels, kind="hutchinson", draws=2**8, path=PATH, noise=noise)
    exact = penalty(model, inputs, labels, noise=noise)
    for one, other in zip(
        torch.autograd.grad(by_draws.sum(), parameters, allow_unused=True),
        torch.autograd.grad(exact.sum(), parameters, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [*DRIFTS, "cornn", "rnn", "gru", "lstm"])
def test_gradients_of_the_estimate_are_right(name):
    model, noise = classifier(name, units=2), noise_of("independent")
    (inputs, labels), chosen = data("both", batch=1, steps=3)
    if not model.layer.cell.supports_dt:
        del chosen["dt"]
    inputs.requires_grad_()
    leaves = (inputs, *model.parameters())
    assert torch.autograd.gradcheck(
        lambda *_: penalty(model, inputs, labels, kind="hutchinson", path=PATH, noise=noise, **chosen),
        leaves,
        fast_mode=True,
    )


@pytest.mark.parametrize("name", ["noisy", "gru"])
def test_replicas_can_be_mapped(name):
    models = [classifier(name, units=2, additive=0.1) for _ in range(2)]
    with torch.no_grad():
        models[1].readout.weight.mul_(2)
    weights, buffers = stack_module_state(models)
    inputs, labels = drawn(2, BATCH, 4, CHANNELS), torch.tensor([[0, 1, 2], [3, 2, 1]])
    seeds = torch.tensor([5, 6])

    class Penalised(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = models[0]

        def forward(self, inputs, labels, seed):
            return penalized_loss(self.model, inputs, labels, kind="hutchinson", path=BrownianPath(seed=seed))[0]

    def one(weights, buffers, *data):
        named = {f"model.{key}": value for key, value in (weights | buffers).items()}
        return functional_call(Penalised(), named, data)

    mapped = vmap(one)(weights, buffers, inputs, labels, seeds)
    for k, model in enumerate(models):
        path = BrownianPath(seed=int(seeds[k]))
        alone, _ = penalized_loss(model, inputs[k], labels[k], kind="hutchinson", path=path)
        torch.testing.assert_close(mapped[k], alone, rtol=1e-10, atol=1e-13)


def test_half_precision_is_kept_out():
    model = classifier("noisy", additive=0.2, multiplicative=0.5).float()
    (inputs, labels), _ = data()
    inputs = inputs.float()
    for kind in ("explicit", "hutchinson"):
        plain = penalized_loss(model, inputs, labels, kind=kind, path=PATH)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = penalized_loss(model, inputs, labels, kind=kind, path=PATH)
        assert torch.equal(mixed[0], plain[0]) and torch.equal(mixed[1], plain[1])


def test_the_seed_decides_the_draws():
    model, noise = classifier("noisy"), noise_of("shared")
    (inputs, labels), _ = data()
    first, again, other = (
        tangent_regularizer(model, inputs, labels, noise=noise, draws=3, seed=seed).total for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.isclose(first, other).any()


def test_nothing_is_changed():
    model = classifier("noisy", additive=0.2).train()
    (inputs, labels), _ = data()
    before, state = inputs.clone(), torch.get_rng_state()
    tangent = tangent_regularizer(model, inputs, labels, draws=2)
    simulated = antithetic_regularizer(model, inputs, labels, pairs=2)
    assert torch.equal(inputs, before) and torch.equal(torch.get_rng_state(), state)
    assert model.training and model.layer.noise_mode == "auto" and torch.is_grad_enabled()
    assert not tangent.P.requires_grad and not simulated.value.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_does_not_fit_an_estimate_or_a_penalty_is_refused():
    (inputs, labels), _ = data()
    model = classifier("noisy")
    gru = classifier("gru")
    uniform = HiddenNoise(multiplicative=0.1, law="uniform")
    for estimate in (tangent_regularizer, antithetic_regularizer):
        with pytest.raises(TypeError, match="model must"):
            estimate(gru.layer, inputs, labels)
        with pytest.raises(ValueError, match="dt must be None for GRU, whose steps have no length, got step lengths"):
            estimate(gru, inputs, labels, dt=torch.ones(STEPS))
        with pytest.raises(ValueError, match="noise_law must"):
            estimate(model, inputs, labels, noise=uniform)
        with pytest.raises(ValueError, match="seed must"):
            estimate(model, inputs, labels, seed=-1)
    with pytest.raises(ValueError, match="draws must"):
        tangent_regularizer(model, inputs, labels, draws=0)
    with pytest.raises(ValueError, match="draws must be at least 2 for a standard error, got 1"):
        tangent_regularizer(model, inputs, labels, draws=1).measurement()
    with pytest.raises(ValueError, match="pairs must"):
        antithetic_regularizer(model, inputs, labels, pairs=1)
    with pytest.raises(ValueError, match="scale must"):
        antithetic_regularizer(model, inputs, labels, scale=0.0)
    with pytest.raises(ValueError, match="kind must"):
        penalty(model, inputs, labels, kind="exact")
    with pytest.raises(ValueError, match="draws must"):
        penalized_loss(model, inputs, labels, draws=0)
    with pytest.raises(ValueError, match=r"path must be given for kind 'hutchinson', got None\. Use BrownianPath"):
        penalized_loss(model, inputs, labels, kind="hutchinson")
    with pytest.raises(TypeError, match=r"got TorchCell\. Use tangent_regularizer or kind='hutchinson'"):
        penalty(gru, inputs, labels)
