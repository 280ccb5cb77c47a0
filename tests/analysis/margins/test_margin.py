import math
from functools import partial

import pytest
import torch
from torch import nn

from noisyrnn.analysis.margins.margin import input_margin_estimate, leads, linearised_margin, output_margins
from noisyrnn.data.split import Split
from noisyrnn.models import SequenceClassifier, build_layer

STEPS, CHANNELS, CLASSES = 5, 2, 3
LENGTHS = torch.tensor([5, 1, 3, 4, 5, 2])


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear(nn.Module):
    """Logits linear in the valid steps."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, inputs, lengths=None):
        if lengths is not None:
            inputs = inputs * (torch.arange(inputs.shape[1]) < lengths[:, None])[..., None]
        return torch.einsum("bsc,ksc->bk", inputs, self.weight)


@pytest.fixture
def linear():
    return Linear(drawn(CLASSES, STEPS, CHANNELS)).eval()


def classifier(name="noisy", channels=CHANNELS, **options):
    torch.manual_seed(0)
    if name in ("noisy", "lipschitz", "antisymmetric"):
        options = {"step_size": 0.3, "init_std": 3.0, "damping": 0.1, **options}
    layer = build_layer(name, channels, 4, options)
    mean, std = torch.arange(channels) * 0.2 - 0.1, torch.arange(channels) * 1.5 + 0.5
    return SequenceClassifier(layer, CLASSES, mean=mean, std=std).double().eval()


def said(model, inputs, **options):
    """What the model says, so that every margin is positive."""
    return model(inputs, **options).argmax(dim=1)


def test_leads_are_differences_to_the_label():
    ahead = leads(torch.tensor([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]]), torch.tensor([1, 2]))
    assert ahead.tolist() == [[3, math.inf, 2], [1, -2, math.inf]]


def test_output_margin_is_the_lead_over_the_next_class(linear):
    n = 603  # more than two blocks
    inputs, lengths = drawn(n, STEPS, CHANNELS), torch.arange(n) % STEPS + 1
    labels = torch.arange(n) % CLASSES
    split = Split(inputs=inputs, labels=labels, lengths=lengths, classes=CLASSES)
    expected = []
    for x, label, length in zip(inputs, labels, lengths, strict=True):
        logits = [float((x[:length] * w[:length]).sum()) for w in linear.weight.detach()]
        expected.append(logits[label] - max(logits[j] for j in range(CLASSES) if j != label))
    measured = output_margins(linear, split)
    torch.testing.assert_close(measured.value, torch.tensor(expected, dtype=torch.float64))
    assert measured.kind == "exact" and not measured.value.requires_grad
    whole = Split(inputs=inputs, labels=labels, classes=CLASSES)
    assert not torch.allclose(output_margins(linear, whole).value, measured.value)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_linearised_margin_of_a_linear_model_is_the_distance(linear, lengths):
    inputs = drawn(6, STEPS, CHANNELS)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    options = {} if lengths is None else {"lengths": lengths}
    weight = linear.weight.detach()
    expected = []
    for b, label in enumerate(labels):
        valid = STEPS if lengths is None else lengths[b]
        distances = []
        for j in range(CLASSES):
            if j != label:
                normal = (weight[label] - weight[j])[:valid]
                distances.append(max(0.0, float((inputs[b, :valid] * normal).sum() / normal.norm())))
        expected.append(min(distances))
    measured = linearised_margin(linear, inputs, labels, **options)
    torch.testing.assert_close(measured.value, torch.tensor(expected, dtype=torch.float64))
    assert 0 < (measured.value == 0).sum() < 6
    assert measured.kind == "estimate" and measured.standard_error is None and linear.weight.grad is None


def test_linearised_margin_is_that_of_finite_differences():
    model, inputs, small = classifier(), drawn(2, STEPS, CHANNELS), 1e-6
    labels = said(model, inputs)
    measured = linearised_margin(model, inputs, labels).value
    for b in range(2):
        logits = model(inputs[b : b + 1])[0].detach()
        slopes = torch.zeros(CLASSES, STEPS, CHANNELS, dtype=torch.float64)
        for m in range(STEPS):
            for c in range(CHANNELS):
                moved = inputs[b : b + 1].clone()
                moved[0, m, c] += small
                slopes[:, m, c] = (model(moved)[0].detach() - logits) / small
        y = int(labels[b])
        expected = min(
            float((logits[y] - logits[j]) / (slopes[y] - slopes[j]).norm()) for j in range(CLASSES) if j != y
        )
        assert abs(float(measured[b]) / expected - 1) < 1e-5  # first-order differences


@pytest.mark.parametrize("variant", ["plain", "lengths", "dt"])
@pytest.mark.parametrize("name", ["noisy", "antisymmetric"])
def test_the_estimate_is_the_formula_written_out(name, variant):
    model, inputs = classifier(name), drawn(6, STEPS, CHANNELS)
    lengths = LENGTHS if variant == "lengths" else None
    dt = drawn(6, STEPS, seed=2).abs() + 0.2 if variant == "dt" else torch.ones(6, STEPS, dtype=torch.float64)
    called = partial(model, dt=dt) if variant == "dt" else model
    labels = said(called, inputs, lengths=lengths)
    step = model.layer.cell.recurrence()
    V, A, W = model.readout.weight, step.A, step.W
    U = step.U / model.std
    steep, gentle = [], []
    for b in range(6):
        M = STEPS if lengths is None else int(lengths[b])
        h, J, drive = torch.zeros(4, dtype=torch.float64), [], []
        for m in range(M):
            z = W @ h + step.U @ ((inputs[b, m] - model.mean) / model.std) + step.b
            delta, D = torch.diag(step.step * dt[b, m]), torch.diag(1 - torch.tanh(z) ** 2)
            linear = torch.zeros_like(W) if A is None else A
            J.append(torch.eye(4, dtype=torch.float64) + delta @ (linear + D @ W))
            drive.append(delta @ D @ U)
            h = h + delta @ (linear @ h + torch.tanh(z))
        logits = (V @ h + model.readout.bias).detach()
        y = int(labels[b])
        o = logits[y] - max(logits[j] for j in range(CLASSES) if j != y)
        gains = []
        for m in range(M):
            product = V
            for k in range(M - 1, m, -1):
                product = product @ J[k]
            gains.append(float(torch.linalg.matrix_norm(product @ drive[m], ord=2).detach()))
        steep.append(float(o) / (math.sqrt(2) * sum(gains)))
        gentle.append(float(o) / math.sqrt(2 * sum(g * g for g in gains)))
    measured = input_margin_estimate(called, inputs, labels, lengths=lengths)
    torch.testing.assert_close(measured.value, torch.tensor(steep, dtype=torch.float64))
    euclidean = input_margin_estimate(called, inputs, labels, norm="l2", lengths=lengths)
    torch.testing.assert_close(euclidean.value, torch.tensor(gentle, dtype=torch.float64))
    assert measured.kind == euclidean.kind == "estimate"


RATES = torch.tensor([0.4, -1.1, 0.8], dtype=torch.float64)


def waves(inputs, lengths=None):
    """Logits that add up sin(a_k x) over the valid steps, with gains |a cos(a x)| that change along the way."""
    waved = torch.sin(inputs * RATES)
    if lengths is not None:
        waved = waved * (torch.arange(inputs.shape[1]) < lengths[:, None])[..., None]
    return waved.sum(dim=1)


@pytest.mark.parametrize("points", [1, 2, 3, 5])
def test_the_supremum_runs_over_the_segment_to_the_linearised_boundary(points):
    inputs, lengths = 1 + 0.5 * drawn(6, 3, 1), torch.tensor([3, 1, 2, 3, 2, 1])
    labels = said(waves, inputs, lengths=lengths)
    expected, distances = [], []
    for x, y, length in zip(inputs[..., 0], labels.tolist(), lengths.tolist(), strict=True):
        x = x[:length]
        logits = torch.sin(x[:, None] * RATES).sum(dim=0)
        slopes = RATES * torch.cos(x[:, None] * RATES)
        moves = []
        for j in range(3):
            if j != y:
                lead, slope = logits[y] - logits[j], slopes[:, y] - slopes[:, j]
                moves.append((float(lead / slope.norm()), -lead / (slope @ slope) * slope))
        distance, move = min(moves, key=lambda pair: pair[0])
        gains = torch.zeros(length, dtype=torch.float64)
        for k in range(points):
            at = x + (k / (points - 1) if points > 1 else 0) * move
            gains = torch.maximum(gains, (RATES * torch.cos(at[:, None] * RATES)).norm(dim=1))
        o = logits[y] - max(logits[j] for j in range(3) if j != y)
        expected.append(o / math.sqrt(2) / gains.sum())
        distances.append(distance)
    measured = input_margin_estimate(waves, inputs, labels, points=points, lengths=lengths).value
    torch.testing.assert_close(measured, torch.stack(expected))
    linear = linearised_margin(waves, inputs, labels, lengths=lengths).value
    torch.testing.assert_close(linear, torch.tensor(distances, dtype=torch.float64))


@pytest.mark.parametrize("norm", ["l2", "largest_step"])
@pytest.mark.parametrize("points", [1, 4])
def test_estimates_of_two_opposite_linear_classes_are_distances(norm, points):
    weight = drawn(1, STEPS, CHANNELS)
    model, inputs = Linear(torch.cat([-weight, weight])).eval(), drawn(4, STEPS, CHANNELS)
    lead = (2 * inputs * weight).sum(dim=(1, 2)).abs()
    dual = weight[0].norm(dim=1).sum() if norm == "largest_step" else weight.norm()
    measured = input_margin_estimate(model, inputs, said(model, inputs), norm=norm, points=points)
    torch.testing.assert_close(measured.value, lead / (2 * dual))


@pytest.mark.parametrize(
    "measure", [linearised_margin, input_margin_estimate, partial(input_margin_estimate, points=3)]
)
def test_margins_are_zero_across_the_boundary_and_infinite_without_one(measure):
    inputs = drawn(3, STEPS, CHANNELS)

    def flat(x, lengths=None):
        return 0 * x.sum(dim=(1, 2))[:, None] + torch.tensor([2.0, 1.0], dtype=torch.float64)

    assert measure(flat, inputs, torch.tensor([0, 1, 0])).value.tolist() == [math.inf, 0, math.inf]
    even = measure(lambda x: 0 * flat(x), inputs, torch.tensor([0, 1, 0]))
    assert even.value.tolist() == [0, 0, 0]


@pytest.mark.parametrize("measure", [linearised_margin, input_margin_estimate])
def test_padding_counts_for_nothing(linear, measure):
    inputs, lengths = drawn(6, STEPS, CHANNELS), torch.full((6,), 2)

    def careless(x, lengths=None):  # reads the padding
        return linear(x)

    kept = Linear(linear.weight.detach()[:, :2]).eval()
    padded = torch.cat([inputs[:, :2], torch.zeros(6, 3, CHANNELS, dtype=torch.float64)], dim=1)
    labels = said(linear, padded)
    measured = measure(careless, padded, labels, lengths=lengths).value
    torch.testing.assert_close(measured, measure(kept, inputs[:, :2], labels).value)


@pytest.mark.parametrize("measure", [linearised_margin, input_margin_estimate])
def test_messages(linear, measure):
    inputs, labels = drawn(2, STEPS, CHANNELS), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"^model must be in eval mode, got training mode\."):
        measure(Linear(drawn(2, STEPS, CHANNELS)), inputs, labels)
    with pytest.raises(ValueError, match=r"^lengths must"):
        measure(linear, inputs, labels, lengths=torch.tensor([6, 1]))
    with pytest.raises(RuntimeError, match=r"^outputs must depend on the inputs .* got outputs without a gradient\."):
        measure(lambda x: linear(x).detach(), inputs, labels)
    with pytest.raises(RuntimeError, match=r"^gradient of the logits became non-finite for 1 of 2 sequences\."):
        measure(lambda x: linear(x - x[:1]).abs().sqrt(), inputs, labels)


def test_messages_of_output_margins_and_options(linear):
    split = Split(inputs=drawn(2, STEPS, CHANNELS), labels=torch.tensor([0, 1]), classes=2)
    with pytest.raises(ValueError, match=r"^model must be in eval mode"):
        output_margins(Linear(drawn(2, STEPS, CHANNELS)), split)
    with pytest.raises(ValueError, match=r"^norm must"):
        input_margin_estimate(linear, split.inputs, split.labels, norm="linf")
    with pytest.raises(ValueError, match=r"^points must"):
        input_margin_estimate(linear, split.inputs, split.labels, points=0)
