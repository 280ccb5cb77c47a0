import itertools
import math

import numpy as np
import pytest
import torch
from torch.func import hessian, jacfwd
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from noisyrnn.analysis.regularizer import explicit_regularizer
from noisyrnn.models import SequenceClassifier, build_layer
from noisyrnn.noise.hidden_noise import HiddenNoise

BATCH, STEPS, CHANNELS, UNITS, CLASSES = 3, 15, 2, 6, 4
DRIFTS = ("noisy", "lipschitz", "antisymmetric")
FORMS = ("shared", "independent")
VARIANTS = ("plain", "lengths", "dt", "both")


def classifier(name, *, units=UNITS, classes=CLASSES, readout=2.0, **options):
    torch.manual_seed(0)
    if name in DRIFTS:
        options = {"step_size": 0.25, "init_std": 3.0, "damping": 0.1, **options}
    layer = build_layer(name, CHANNELS, units, options)
    mean, std = torch.tensor([0.3, -0.2]), torch.tensor([0.5, 2.0])
    model = SequenceClassifier(layer, classes, mean=mean, std=std).double()
    with torch.no_grad():
        model.readout.weight.copy_(readout * drawn(classes, units, seed=5))
        if name == "noisy":
            layer.cell.step_size.mul_(0.5 + torch.rand(units, dtype=torch.float64))
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


def double_sums(model, inputs, label, noise, steps, dt):
    """The paper's theorem for one sequence as it is printed: P and Q as double and single sums of matrix products."""
    cell, size, units = model.layer.cell, model.layer.cell.state_size, model.layer.hidden_size
    inputs = (inputs - model.mean) / model.std

    def step(m):
        return lambda h: cell.step(inputs[m][None], h[None], dt[m])[0]

    h = [torch.zeros(size, dtype=torch.float64)]
    for m in range(steps):
        h.append(step(m)(h[m]))
    J = [jacfwd(step(m))(h[m]) for m in range(steps)]
    H = [hessian(step(m))(h[m]) for m in range(steps)]
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

    gradient, curvature = jacfwd(loss)(h[steps]), hessian(loss)(h[steps])
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


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", DRIFTS)
def test_the_recursion_folds_the_double_sums(name, form, variant):
    model, noise = classifier(name), noise_of(form)
    (inputs, labels), chosen = data(variant)
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
        noise = HiddenNoise.paper(noise_level=level, additive=first, multiplicative=second, step_size=step, form=form)
        found.append(explicit_regularizer(model, inputs, labels, noise=noise).total / level**2)
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=0)
    # one step: ε² δ (σ₁ + σ₂ f)²
    noise = HiddenNoise.paper(noise_level=1.0, additive=first, multiplicative=second, step_size=step, form=form)
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
    model, noise, steps = classifier(name, units=units), noise_of(form), 3
    (inputs, labels), _ = data(batch=1, steps=steps)
    dt = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    cell, standard = model.layer.cell, (inputs[0] - model.mean) / model.std
    points, weights = quadrature(7, 6)
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
def test_gradients_are_right(name, form):
    model = classifier(name, units=2, classes=3)
    (inputs, labels), chosen = data("both", steps=4)
    inputs.requires_grad_()
    for noise in (noise_of(form), HiddenNoise(multiplicative=0.5, form=form)):
        leaves = (inputs, *model.parameters())
        assert torch.autograd.gradcheck(
            lambda *_, noise=noise: explicit_regularizer(model, inputs, labels, noise=noise, **chosen).total, leaves
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
    with pytest.raises(TypeError, match=r"noisy, Lipschitz or antisymmetric .* got CoRNNCell. Use tangent_regularizer"):
        explicit_regularizer(classifier("cornn"), inputs, labels)
    with pytest.raises(TypeError, match="model must be a SequenceClassifier, got NoisyRNN"):
        explicit_regularizer(model.layer, inputs, labels)
    with pytest.raises(ValueError, match=r"noise_law must be 'gaussian' .* got 'uniform'"):
        explicit_regularizer(model, inputs, labels, noise=HiddenNoise(multiplicative=0.1, law="uniform"))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\], got 4"):
        explicit_regularizer(model, inputs, labels + 2)
    with pytest.raises(ValueError, match=r"inputs must have shape \(batch, steps, 2\), got \(3, 15, 1\)"):
        explicit_regularizer(model, inputs[..., :1], labels)
    with pytest.raises(ValueError, match=r"lengths must lie in \[1, 15\]"):
        explicit_regularizer(model, inputs, labels, lengths=torch.tensor([1, 2, 16]))
    with pytest.raises(ValueError, match=r"dt must have shape \(15,\) or \(3, 15\), got \(3,\)"):
        explicit_regularizer(model, inputs, labels, dt=torch.ones(3))
    with pytest.raises(ValueError, match="part must be one of P, Q, total, got 'R'"):
        explicit_regularizer(model, inputs, labels).measurement("R")
