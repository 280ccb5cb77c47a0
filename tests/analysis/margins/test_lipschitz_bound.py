import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn

from noisyrnn.analysis.margins.attack_radius import attack_radius
from noisyrnn.analysis.margins.lipschitz_bound import _log_gain, _step_bounds, margin_certificate
from noisyrnn.analysis.margins.margin import input_margin_estimate, linearised_margin
from noisyrnn.models import SequenceClassifier, build_layer

STEPS, CHANNELS, UNITS, CLASSES = 5, 2, 4, 3
LENGTHS = torch.tensor([5, 1, 3, 4, 5, 2])
KNOWN = ("noisy", "lipschitz", "antisymmetric", "cornn", "exprnn", "rnn")
TIMED = ("noisy", "lipschitz", "antisymmetric", "cornn")
VARIANTS = ("plain", "lengths", "dt")


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classifier(name, channels=CHANNELS, units=UNITS, classes=CLASSES):
    torch.manual_seed(0)
    options = {"step_size": 0.1, "init_std": 2.0, "damping": 0.1} if name in TIMED[:3] else {}
    layer = build_layer(name, channels, units, options)
    model = SequenceClassifier(
        layer, classes, mean=torch.arange(channels) * 0.2 - 0.1, std=torch.arange(channels) * 1.5 + 0.5
    ).double()
    if name == "noisy":
        layer.cell.step_size.data = torch.tensor([0.1, 0.2, 0.05, -0.1], dtype=torch.float64)[:units]
    if name == "exprnn":
        layer.cell.threshold.data = -0.02 * torch.arange(units).double()
    return model.eval()


def settings(name, variant):
    if variant == "lengths":
        return {"lengths": LENGTHS}
    if variant == "dt" and name in TIMED:
        return {"dt": torch.randint(1, 4, (6, STEPS), generator=torch.Generator().manual_seed(3)) / 2}
    return {}


def norm(matrix):
    return float(torch.linalg.svdvals(matrix.detach()).max())


def by_hand(model, name, dt=1.0):
    """`L` and `c` from the parameters."""
    cell, eye = model.layer.cell, torch.eye(UNITS, dtype=torch.float64)
    scale = torch.diag(1 / model.std)
    if name == "rnn":
        return norm(cell.rnn.weight_hh_l0), norm(cell.rnn.weight_ih_l0 @ scale)
    U = cell.input.weight @ scale
    if name == "exprnn":
        return 1.0, norm(U)
    if name == "cornn":
        s, W = 0.042 * dt, cell.recurrent.weight
        rows = []  # the state after the step as a matrix acting on (y, z, force)
        for i in range(UNITS):
            y, z, force = torch.zeros(3, UNITS, dtype=torch.float64)
            y[i] = z[i] = force[i] = 1
            rows.append(torch.cat([-s * 2.7 * y, z - s * 4.7 * z, s * force]))
        new_z = torch.stack(rows)
        new_y = torch.cat([eye, torch.zeros(UNITS, 2 * UNITS, dtype=torch.float64)], dim=1) + s * new_z
        whole = torch.cat([new_y, new_z])
        B, G = whole[:, : 2 * UNITS], whole[:, 2 * UNITS :]
        return norm(B + G @ W / 2) + norm(G @ W) / 2, norm(G @ U)
    step = cell.step_size * dt * torch.ones(UNITS, dtype=torch.float64)
    d = torch.diag(step)
    if name == "antisymmetric":
        A, W = torch.zeros_like(eye), cell.C - cell.C.T - 0.1 * eye
    else:
        A, W = (0.25 * (M + M.T) + 0.75 * (M - M.T) - 0.1 * eye for M in (cell.B, cell.C))
    return norm(eye + d @ (A + W / 2)) + norm(d @ W) / 2, norm(d @ U)


@pytest.mark.parametrize(("name", "dt"), [(name, 1.0) for name in KNOWN] + [(name, 1.7) for name in TIMED])
def test_constants_of_a_step_are_those_written_out(name, dt):
    model = classifier(name)
    with torch.no_grad():
        L, c = _step_bounds(model, dt).tolist()
    expected = by_hand(model, name, dt)
    assert math.isclose(L, expected[0], rel_tol=1e-6)  # the orthogonal matrix is one to float32
    assert math.isclose(c, expected[1], rel_tol=1e-10)


@pytest.mark.parametrize("name", KNOWN)
def test_no_slope_of_the_activation_exceeds_the_constant(name):
    # The Jacobian is affine in the slopes, so its norm is largest at a corner of their cube.
    model = classifier(name)
    cell = model.layer.cell
    weight = cell.rnn.weight_hh_l0 if name == "rnn" else cell.recurrence().W
    step = torch.ones(UNITS, dtype=torch.float64) if name in ("rnn", "exprnn") else cell.recurrence().step
    largest = 0.0
    for corner in itertools.product([0.0, 1.0], repeat=UNITS):
        D = torch.diag(torch.tensor(corner, dtype=torch.float64))
        force, d = D @ weight, torch.diag(step)
        if name in ("rnn", "exprnn"):
            J = force
        elif name == "cornn":
            half = torch.eye(2 * UNITS, dtype=torch.float64)
            y, z = half[:UNITS], half[UNITS:]
            new_z = z + d @ (force - 2.7 * y - 4.7 * z)
            J = torch.cat([y + d @ new_z, new_z])
        else:
            A = cell.recurrence().A
            J = torch.eye(UNITS, dtype=torch.float64) + d @ (force if A is None else A + force)
        largest = max(largest, norm(J))
    with torch.no_grad():
        L = float(_step_bounds(model, 1.0)[0])
    assert largest <= L * (1 + 1e-12)
    assert 3 * abs(largest - 1) + 1e-6 > L - 1  # and it is not idle


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", KNOWN)
def test_the_certificate_is_the_formula_written_out(name, variant):
    model, inputs, chosen = classifier(name), drawn(6, STEPS, CHANNELS), settings(name, variant)
    logits = model(inputs, **chosen).detach()
    labels = logits.argmax(dim=1)
    labels[0] = (labels[0] + 1) % CLASSES
    V, expected = model.readout.weight.detach(), []
    for b in range(6):
        last = int(LENGTHS[b]) if variant == "lengths" else STEPS
        constants = [by_hand(model, name, float(chosen["dt"][b, m]) if "dt" in chosen else 1.0) for m in range(last)]
        squares = 0.0
        for m in range(last):
            after = math.prod(constants[k][0] for k in range(m + 1, last))
            squares += (constants[m][1] * after) ** 2
        y = int(labels[b])
        distances = [float((logits[b, y] - logits[b, j]) / (V[y] - V[j]).norm()) for j in range(CLASSES) if j != y]
        expected.append(max(0.0, min(distances)) / math.sqrt(squares))
    measured = margin_certificate(model, inputs, labels, **chosen)
    torch.testing.assert_close(measured.value, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0)
    assert measured.kind == "certificate" and measured.confidence is None
    assert float(measured.value[0]) == 0 and not measured.value.requires_grad


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", KNOWN)
def test_no_pair_of_inputs_moves_the_state_further_than_the_gain(name, variant):
    model, inputs, chosen = classifier(name), drawn(6, STEPS, CHANNELS), settings(name, variant)
    with torch.no_grad():
        gain = _log_gain(model, inputs, chosen.get("lengths"), chosen.get("dt")).exp()
        for seed in range(60):
            other = inputs + 10.0 ** (seed % 3 - 2) * drawn(6, STEPS, CHANNELS, seed=seed)
            if seed % 2:  # all of it at one step
                other = torch.where(torch.arange(STEPS)[:, None] == seed % STEPS, other, inputs)
            apart = torch.stack([model.layer((x - model.mean) / model.std, **chosen)[1][0] for x in (inputs, other)])
            moved = (apart[1] - apart[0]).norm(dim=1)
            alive = LENGTHS if variant == "lengths" else torch.full((6,), STEPS)
            valid = torch.arange(STEPS) < alive[:, None]
            assert bool((moved <= gain * ((other - inputs) * valid[..., None]).flatten(1).norm(dim=1) + 1e-12).all())


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        *zip(KNOWN, itertools.cycle(["plain", "lengths"]), strict=False),
        *(
            pytest.param(name, variant, marks=pytest.mark.slow)
            for name, variant in zip(KNOWN, itertools.cycle(["lengths", "plain"]), strict=False)
        ),
    ],
)
def test_no_attack_is_smaller_than_the_certificate(name, variant):
    model, inputs, chosen = classifier(name), 2 * drawn(6, STEPS, CHANNELS), settings(name, variant)
    labels = model(inputs, **chosen).argmax(dim=1)
    below = margin_certificate(model, inputs, labels, **chosen).value
    above = attack_radius(model, inputs, labels, upper=200.0, steps=15, rounds=4, **chosen).value
    assert bool((below > 0).all()) and bool((below <= above).all())


def test_all_bounds_meet_at_the_distance_of_a_linear_model():
    # One unit and no threshold: h adds up U x. Two opposite classes are then two half-spaces.
    model, inputs = classifier("exprnn", channels=1, units=1, classes=2), drawn(8, STEPS, 1)
    with torch.no_grad():
        model.layer.cell.threshold.zero_()
        model.layer.cell.input.weight.fill_(0.7)
        model.readout.weight.copy_(torch.tensor([[-1.5], [1.5]]))
        logits = model(inputs)
    labels = logits.argmax(dim=1)
    slope = 3 * 0.7 / float(model.std)  # of the difference of the logits, at every step
    expected = (logits[:, 1] - logits[:, 0]).abs() / (math.sqrt(STEPS) * slope)
    torch.testing.assert_close(margin_certificate(model, inputs, labels).value, expected)
    torch.testing.assert_close(linearised_margin(model, inputs, labels).value, expected)
    torch.testing.assert_close(input_margin_estimate(model, inputs, labels, norm="l2").value, expected)
    attacked = attack_radius(model, inputs, labels, upper=20.0, rounds=5, restarts=1).value
    assert bool((attacked >= expected * (1 - 1e-9)).all()) and bool((attacked <= expected * 1.02).all())


def test_a_long_sequence_gives_a_small_radius_and_no_overflow():
    model = classifier("rnn")
    model.layer.cell.rnn.weight_hh_l0.data.mul_(1e3)
    inputs = drawn(2, 784, CHANNELS)
    radius = margin_certificate(model, inputs, model(inputs).argmax(dim=1)).value
    assert radius.tolist() == [0.0, 0.0]
    with torch.no_grad():
        gain = _log_gain(model, inputs, None, None)
    assert bool(gain.isfinite().all()) and float(gain.min()) > 700


def test_what_does_not_matter_leaves_an_infinite_radius():
    model, inputs = classifier("rnn"), drawn(2, STEPS, CHANNELS)
    cell = model.layer.cell.rnn
    labels = model(inputs).argmax(dim=1)
    cell.weight_hh_l0.data.zero_()  # the last step alone counts
    last = margin_certificate(model, inputs, model(inputs).argmax(dim=1)).value
    assert bool(last.isfinite().all()) and bool((last > 0).all())
    cell.weight_ih_l0.data.zero_()
    labels = model(inputs).argmax(dim=1)
    assert margin_certificate(model, inputs, labels).value.tolist() == [math.inf, math.inf]
    model.readout.weight.data.zero_()
    model.readout.bias.data.zero_()
    assert margin_certificate(model, inputs, labels).value.tolist() == [0, 0]


def test_step_lengths_may_be_a_number_or_shared():
    model, inputs = classifier("lipschitz"), drawn(3, STEPS, CHANNELS)
    shared = torch.tensor([0.5, 1.0, 0.5, 2.0, 1.0])
    labels = model(inputs, dt=shared).argmax(dim=1)
    certify = partial(margin_certificate, model, inputs)
    assert torch.equal(certify(labels, dt=shared).value, certify(labels, dt=shared.expand(3, STEPS)).value)
    labels = model(inputs, dt=0.5).argmax(dim=1)
    assert torch.equal(certify(labels, dt=0.5).value, certify(labels, dt=torch.full((STEPS,), 0.5)).value)
    assert not torch.equal(certify(labels, dt=0.5).value, certify(labels).value)


def test_messages():
    inputs, labels = drawn(2, STEPS, CHANNELS), torch.tensor([0, 1])
    for name, written in (("gru", "GRU"), ("lstm", "LSTM")):
        sentence = rf"^model must be Lipschitz: no global Lipschitz constant is known for {written}\. Use smoothing"
        with pytest.raises(TypeError, match=sentence):
            margin_certificate(classifier(name), inputs, labels)
    deep = SequenceClassifier(build_layer("noisy", CHANNELS, UNITS, {"num_layers": 2}), 2).double().eval()
    with pytest.raises(TypeError, match=r"^model must have one cell .* got NoisyRNN with 2: l0, l1\.$"):
        margin_certificate(deep, inputs, labels)
    with pytest.raises(TypeError, match=r"^model must be a SequenceClassifier, got Linear\.$"):
        margin_certificate(nn.Linear(1, 2), inputs, labels)
    model = classifier("noisy")
    with pytest.raises(ValueError, match=r"^model must be in eval mode"):
        margin_certificate(model.train(), inputs, labels)
    model.eval().layer.noise_mode = "on"
    with pytest.raises(ValueError, match=r"^model must be free of noise, got noise 'on'\. Set model\.layer\.noise"):
        margin_certificate(model, inputs, labels)
    model.layer.noise_mode = "off"
    with pytest.raises(ValueError, match=r"^inputs must"):
        margin_certificate(model, drawn(2, 5, 3), labels)
    with pytest.raises(ValueError, match=r"^dt must be None for TanhRNN"):
        margin_certificate(classifier("rnn"), inputs, labels, dt=0.5)
    model = classifier("exprnn")
    model.layer.cell.threshold.data = torch.tensor([-1.0, 0.25, 0.0, -2.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^thresholds must be at most 0 .*, got 0\.25 as the largest: modReLU then"):
        margin_certificate(model, inputs, labels)
