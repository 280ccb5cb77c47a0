import math
from functools import partial

import pytest
import torch
from torch import nn

from noisyrnn import analysis
from noisyrnn.analysis.trajectory import Trajectory
from noisyrnn.data.split import Split
from noisyrnn.models import (
    LipschitzRNN,
    NoisyRNN,
    SequenceClassifier,
    SequenceModel,
    SequenceRegressor,
    SequenceToSequence,
    TanhRNN,
    WithHiddenNoise,
)
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.robustness.logits import HoldingModel, TimedModel

BATCH, STEPS, CHANNELS, UNITS, CLASSES = 3, 6, 2, 4, 3
LABELS = torch.tensor([0, 1, 2])
LENGTHS = torch.tensor([6, 2, 4])
NOISE = HiddenNoise(additive=0.1)


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(channels=CHANNELS, kind=LipschitzRNN, **options):
    torch.manual_seed(0)
    return kind(channels, UNITS, step_size=0.3, init_std=1.0, **options)


def classifier(missing=None, **options):
    mean, std = torch.tensor([0.2, -0.5]), torch.tensor([2.0, 0.5])
    channels = 2 * CHANNELS if missing == "mask" else CHANNELS
    model = SequenceClassifier(layer(channels, **options), CLASSES, missing=missing, mean=mean, std=std)
    return model.double().eval()


STATES = {
    "spectra": analysis.jacobian_spectra,
    "norms": analysis.jacobian_norms,
    "spectrum": analysis.lyapunov_spectrum,
    "exponent": partial(analysis.largest_exponent, noise=NOISE, paths=2),
    "scan": partial(analysis.stabilization_scan, levels=[1.0], noise=NOISE, paths=2),
}
LABELLED = {
    "gradients": analysis.gradient_norms,
    "explicit": partial(analysis.explicit_regularizer, noise=NOISE),
    "tangent": partial(analysis.tangent_regularizer, noise=NOISE, draws=3),
    "antithetic": partial(analysis.antithetic_regularizer, noise=NOISE, pairs=3),
    "penalty": partial(analysis.penalty, noise=NOISE),
    "penalized_loss": partial(analysis.penalized_loss, noise=NOISE),
    "certificate": analysis.margin_certificate,
}
TIMED = {**STATES, **LABELLED}
"""What takes step lengths."""

COMPLETE = {**TIMED, "attack": partial(analysis.attack_radius, upper=20.0, rounds=2)}
"""What needs complete sequences."""


def call(name, model, inputs, **options):
    measure = COMPLETE[name]
    found = measure(model, inputs, **options) if name in STATES else measure(model, inputs, LABELS, **options)
    if isinstance(found, analysis.Regularizer):
        found = found.P + found.Q
    if isinstance(found, tuple):
        found = found[0]
    return getattr(found, "value", found)


def holes(inputs):
    found = inputs.clone()
    found[0, 1:3, 0] = torch.nan
    found[1, 1] = torch.nan
    return found


REFUSES = (
    r"^inputs must be finite for this diagnostic, .*, got 4 NaN or infinite values, the first at index \(0, 1, 0\)\."
)


@pytest.mark.parametrize("missing", [None, "hold", "mask", "skip"])
@pytest.mark.parametrize("name", COMPLETE)
def test_missing_values_are_refused(name, missing):
    model, inputs = classifier(missing), holes(drawn(BATCH, STEPS, CHANNELS))
    with pytest.raises(ValueError, match=REFUSES):
        call(name, model, inputs)


def test_infinite_inputs_of_a_cell_are_refused():
    inputs = drawn(BATCH, STEPS, CHANNELS)
    inputs[2, 0, 1] = math.inf
    with pytest.raises(ValueError, match=r"got 1 NaN or infinite values, the first at index \(2, 0, 1\)\. Impute"):
        Trajectory.of(classifier().layer.cell, inputs)


@pytest.mark.parametrize("name", COMPLETE)
def test_padding_may_be_anything(name):
    model, inputs = classifier("hold"), drawn(BATCH, STEPS, CHANNELS)
    padded = inputs.clone()
    padded[1, 2:], padded[2, 4:] = torch.nan, torch.nan
    one, two = (call(name, model, x, lengths=LENGTHS) for x in (inputs, padded))
    torch.testing.assert_close(one, two, equal_nan=True)


@pytest.mark.parametrize("missing", ["hold", "skip"])
@pytest.mark.parametrize("name", TIMED)
def test_a_model_that_meets_missing_values_is_measured_on_complete_ones(name, missing):
    inputs = drawn(BATCH, STEPS, CHANNELS)
    expected = call(name, classifier(), inputs)
    torch.testing.assert_close(call(name, classifier(missing), inputs), expected, equal_nan=True)


@pytest.mark.parametrize("name", TIMED)
def test_a_mask_of_complete_sequences_is_a_bias(name):
    masked, plain, inputs = classifier("mask"), classifier(), drawn(BATCH, STEPS, CHANNELS)
    plain.load_state_dict({**plain.state_dict(), **kept(masked)})
    expected = call(name, plain, inputs)
    torch.testing.assert_close(call(name, masked, inputs), expected, equal_nan=True)


def kept(masked):
    """The weights of a model without a mask whose bias has what the channels of the mask add."""
    state = masked.state_dict()
    weight, bias = "layer.cells.l0.input.weight", "layer.cells.l0.input.bias"
    state[bias] = state[bias] + state[weight][:, CHANNELS:].sum(dim=1)
    state[weight] = state[weight][:, :CHANNELS]
    return state


@pytest.mark.parametrize("missing", ["hold", "mask", "skip"])
def test_the_jacobian_and_the_linear_distances_are_those_of_the_measured_values(missing):
    model, inputs = classifier(missing), holes(drawn(BATCH, STEPS, CHANNELS))
    there = ~inputs.isnan()
    jacobian = analysis.input_jacobian(model, inputs).value
    assert (jacobian[~there[:, None].expand_as(jacobian)] == 0).all()
    for m in range(STEPS):
        for k in range(CHANNELS):
            move = torch.zeros_like(inputs)
            move[:, m, k] = 1e-6
            slope = (model(inputs + move) - model(inputs - move)) / 2e-6
            torch.testing.assert_close(jacobian[:, :, m, k], slope, rtol=1e-6, atol=1e-8)
    labels, logits = model(inputs).argmax(dim=1), model(inputs).detach()
    distances = analysis.linearised_margin(model, inputs, labels).value
    for b in range(BATCH):
        ratios = [
            float((logits[b, labels[b]] - logits[b, j]) / (jacobian[b, labels[b]] - jacobian[b, j]).norm())
            for j in range(CLASSES)
            if j != labels[b]
        ]
        assert float(distances[b]) == pytest.approx(min(ratios), rel=1e-9)
    assert analysis.input_margin_estimate(model, inputs, labels, points=3).value.isfinite().all()


def test_smoothing_is_that_of_the_measured_values():
    inputs = torch.tensor([[[1.0], [torch.nan], [0.4], [torch.nan]]])

    class Held(SequenceModel):
        def forward(self, inputs, **options):
            held, _, _ = self._without_missing(inputs, None, None)
            z = held.sum(dim=(1, 2))[:, None]
            return torch.cat([-z, z], dim=1)

    model = Held(layer(1), CLASSES, loss="cross_entropy", missing="hold").eval()
    found = analysis.certify(model, inputs, sigma=1.0, draws=20_000)  # 2 (x_0 + x_2): 1.4 / √2 from the boundary
    assert 0.9 * 1.4 / math.sqrt(2) < float(found.radius.value) <= 1.4 / math.sqrt(2)
    assert analysis.smoothed_predictions(model, inputs, sigma=1.0).tolist() == [1]


ANYTHING = {
    "jacobian": lambda model, inputs: analysis.input_jacobian(model, inputs),
    "linearised": lambda model, inputs: analysis.linearised_margin(model, inputs, LABELS),
    "estimate": lambda model, inputs: analysis.input_margin_estimate(model, inputs, LABELS),
    "certify": lambda model, inputs: analysis.certify(model, inputs, sigma=1.0, draws=5),
    "smoothed": lambda model, inputs: analysis.smoothed_predictions(model, inputs, sigma=1.0, draws=5),
}


@pytest.mark.parametrize("name", ANYTHING)
def test_a_model_that_does_not_meet_missing_values_is_not_called(name):
    inputs = holes(drawn(BATCH, STEPS, CHANNELS))
    for model in (classifier(), partial(classifier(), dt=0.5)):
        with pytest.raises(ValueError, match=REFUSES):
            ANYTHING[name](model, inputs)
    ANYTHING[name](HoldingModel(classifier()), inputs)
    ANYTHING[name](lambda x: classifier()(x.nan_to_num()), inputs)


WRONG_SHAPES = [
    (BATCH, STEPS + 3),
    (STEPS + 3,),
    (BATCH, STEPS - 1),
    (STEPS - 1,),
    (BATCH,),
    (1, STEPS),
    (STEPS, BATCH),
]


@pytest.mark.parametrize("name", [*TIMED, "trajectory"])
def test_step_lengths_follow_one_rule(name):
    model, inputs = classifier(), drawn(BATCH, STEPS, CHANNELS)

    def measure(dt):
        if name == "trajectory":
            return Trajectory.of(model.layer.cell, inputs, dt=dt).end
        return call(name, model, inputs, dt=dt)

    for shape in [*WRONG_SHAPES, (BATCH, STEPS, 1)]:
        with pytest.raises(ValueError, match=r"^dt must be a number or have shape \(6,\) or \(3, 6\), got "):
            measure(torch.ones(shape, dtype=torch.float64))
    for value, sentence in (
        (-1.0, "positive, got -1"),
        (torch.nan, "positive, got nan"),
        (math.inf, "finite, got inf"),
    ):
        for dt in (value, torch.full((BATCH, STEPS), value, dtype=torch.float64)):
            with pytest.raises(ValueError, match=rf"^dt must be {sentence} as the"):
                measure(dt)
    with pytest.raises(TypeError, match=r"^dt must be a number or a tensor, got '1'"):
        measure("1")
    expected = measure(torch.full((BATCH, STEPS), 0.5, dtype=torch.float64))
    for dt in (0.5, torch.tensor(0.5), torch.full((STEPS,), 0.5)):
        torch.testing.assert_close(measure(dt), expected, rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", TIMED)
def test_step_lengths_of_padding_may_be_anything(name):
    model, inputs = classifier(), drawn(BATCH, STEPS, CHANNELS)
    dt = drawn(BATCH, STEPS, seed=2).abs() + 0.2
    padded = dt.clone()
    padded[1, 2:], padded[2, 4:] = torch.nan, -1.0
    one, two = (call(name, model, inputs, lengths=LENGTHS, dt=x) for x in (dt, padded))
    torch.testing.assert_close(one, two, equal_nan=True)


OF_CLASSES = {
    "linearised": analysis.linearised_margin,
    "estimate": analysis.input_margin_estimate,
    "attack": COMPLETE["attack"],
}


@pytest.mark.parametrize("name", [*OF_CLASSES, "certificate"])
def test_there_is_one_label_for_each_sequence(name):
    inputs = drawn(BATCH, STEPS, CHANNELS)
    measure = {**OF_CLASSES, "certificate": analysis.margin_certificate}[name]
    sentence = r"^labels must have shape \(3,\), one class for each sequence, got \(3, 6\)\.$"
    with pytest.raises(ValueError, match=sentence):
        measure(classifier(), inputs, LABELS[:, None].expand(BATCH, STEPS))
    if name != "certificate":
        with pytest.raises(ValueError, match=sentence):  # of any callable, too
            measure(lambda x: x @ x.new_ones(CHANNELS, CLASSES), inputs, LABELS[:, None].expand(BATCH, STEPS))


def test_output_margins_are_for_one_class_for_each_sequence():
    inputs, every = drawn(BATCH, 2, CHANNELS), LABELS[:, None].expand(BATCH, 2).contiguous()
    steps = Split(inputs=inputs, labels=every, classes=CLASSES)
    with pytest.raises(
        ValueError, match=r"^split must have one class for each sequence .* got classes at every step\."
    ):
        analysis.output_margins(lambda x: x @ x.new_ones(CHANNELS, CLASSES), steps)
    values = Split(inputs=inputs, labels=drawn(BATCH, CLASSES), classes=0)
    with pytest.raises(ValueError, match=r"^split must have one class for each sequence .* got values\."):
        analysis.output_margins(lambda x: x.sum(dim=1) @ x.new_ones(CHANNELS, CLASSES), values)


def heads():
    return {
        "SequenceRegressor that predicts values": SequenceRegressor(layer(), targets=CLASSES),
        "SequenceToSequence that predicts a class at every step": SequenceToSequence(layer(), classes=CLASSES),
        "SequenceToSequence that predicts values": SequenceToSequence(layer(), targets=CLASSES),
    }


@pytest.mark.parametrize("kind", heads())
def test_margins_and_radii_are_for_classes(kind):
    model, inputs = heads()[kind].double().eval(), drawn(BATCH, STEPS, CHANNELS)
    split = Split(inputs=inputs, labels=LABELS, classes=CLASSES)
    sentence = rf"^model must return one logit for each class of a sequence, got a {kind}\. Margins"
    for measure in (
        *(partial(measure, labels=LABELS) for measure in OF_CLASSES.values()),
        partial(analysis.certify, sigma=1.0),
        partial(analysis.smoothed_predictions, sigma=1.0),
    ):
        for one in (model, partial(model, dt=0.5)):
            with pytest.raises(TypeError, match=sentence):
                measure(one, inputs=inputs)
    with pytest.raises(TypeError, match=sentence):
        analysis.output_margins(model, split)


NOISE_FREE = {
    **OF_CLASSES,
    "certificate": analysis.margin_certificate,
    "output": lambda model, inputs, labels: analysis.output_margins(
        model, Split(inputs=inputs, labels=labels, classes=CLASSES)
    ),
    "norms": lambda model, inputs, labels: analysis.input_jacobian_norms(model, inputs)[0],
}


@pytest.mark.parametrize("name", NOISE_FREE)
def test_the_noise_must_be_off(name):
    model, inputs = classifier(additive=0.3), drawn(BATCH, STEPS, CHANNELS)
    measured = NOISE_FREE[name](model, inputs, LABELS)
    model.layer.noise_mode = "on"
    sentence = r"^model must be free of noise, got noise 'on'\. Set model\.layer\.noise_mode = 'off'\."
    with pytest.raises(ValueError, match=sentence):
        NOISE_FREE[name](model, inputs, LABELS)
    if name != "certificate":
        for wrapped in (nn.Sequential(model).eval(), partial(model, dt=1.0), TimedModel(model, torch.ones(3, 6))):
            with pytest.raises(ValueError, match=sentence):
                NOISE_FREE[name](wrapped, inputs, LABELS)
        fixed = partial(model, path=BrownianPath(seed=0))  # one draw of the noise, chosen by the caller
        one, two = (NOISE_FREE[name](fixed, inputs, LABELS).value for _ in range(2))
        assert torch.equal(one, two) and not torch.equal(one, measured.value)


def test_the_noise_of_a_torch_module_must_be_off():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.noisy = WithHiddenNoise(nn.GRUCell(CHANNELS, CLASSES).double(), NOISE)

        def forward(self, inputs):
            state = None
            for m in range(inputs.shape[1]):
                state = self.noisy(inputs[:, m], state)
            return state

    model, inputs = Model().eval(), drawn(BATCH, STEPS, CHANNELS)
    analysis.linearised_margin(model, inputs, LABELS)
    model.noisy.noise_mode = "on"
    with pytest.raises(ValueError, match=r"^model must be free of noise, got noise 'on'\."):
        analysis.linearised_margin(model, inputs, LABELS)


@pytest.mark.parametrize("head", [SequenceClassifier, SequenceRegressor, SequenceToSequence])
def test_every_head_has_dynamics(head):
    mean, std = torch.tensor([0.2, -0.5]), torch.tensor([2.0, 0.5])
    model = head(layer(kind=NoisyRNN, additive=0.1), 2, mean=mean, std=std).double().eval()
    inputs = drawn(BATCH, STEPS, CHANNELS)
    standard = model.standardize(inputs)
    for measure in STATES.values():
        expected = measure(model.layer, standard).value
        torch.testing.assert_close(measure(model, inputs).value, expected, equal_nan=True)
    own = analysis.stabilization_scan(model, inputs, levels=[0.0, 1.0])
    assert torch.equal(own.value, analysis.stabilization_scan(model.layer, standard, levels=[0.0, 1.0]).value)
    for bounds in (analysis.discrete_exponent_bounds, analysis.continuous_exponent_bounds):
        assert [end.value for end in bounds(model)] == [end.value for end in bounds(model.layer)]


def test_one_cell_is_needed():
    model = SequenceClassifier(layer(bidirectional=True), CLASSES).double().eval()
    inputs = drawn(BATCH, STEPS, CHANNELS)
    for name in TIMED:
        with pytest.raises(
            TypeError, match=r"^model must have one cell \(one layer, one direction\) .* with 2: l0, l0_"
        ):
            call(name, model, inputs)


@pytest.mark.parametrize("targets", [1, 2])
def test_values_have_an_input_jacobian(targets):
    mean, std = torch.arange(targets) + 1.0, torch.arange(targets) + 3.0
    model = SequenceRegressor(layer(), targets, target_mean=mean, target_std=std).double().eval()
    inputs = drawn(BATCH, STEPS, CHANNELS)
    full = torch.autograd.functional.jacobian(model, inputs)
    expected = torch.stack([full[b, :, b] for b in range(BATCH)])
    torch.testing.assert_close(analysis.input_jacobian(model, inputs).value, expected)
    spectral, frobenius = analysis.input_jacobian_norms(model, inputs)
    values = torch.linalg.svdvals(expected.flatten(2))
    torch.testing.assert_close(spectral.value, values[:, 0])
    torch.testing.assert_close(frobenius.value, values.norm(dim=1))


def test_the_outputs_of_an_input_jacobian():
    inputs = drawn(BATCH, STEPS, CHANNELS)
    with pytest.raises(ValueError, match=r"^model must return outputs of shape \(3, outputs\), got \(3, 6, 2\)\."):
        analysis.input_jacobian_norms(SequenceToSequence(layer(), 2).double().eval(), inputs)
    with pytest.raises(TypeError, match=r"^model must return a tensor of outputs, got tuple\.$"):
        analysis.input_jacobian(lambda x: (x,), inputs)
    with pytest.raises(RuntimeError, match=r"^outputs became non-finite for 1 of 3 sequences\."):
        analysis.input_jacobian(lambda x: (x - x[:1]).sum(dim=1) / (x - x[:1]).sum(dim=1), inputs)


def test_the_tanh_rnn_has_an_exact_regularizer():
    model = SequenceClassifier(TanhRNN(CHANNELS, UNITS), CLASSES).double().eval()
    found = analysis.explicit_regularizer(model, drawn(BATCH, STEPS, CHANNELS), LABELS, noise=NOISE)
    simulated = analysis.tangent_regularizer(model, drawn(BATCH, STEPS, CHANNELS), LABELS, noise=NOISE, draws=2000)
    estimate = simulated.measurement()
    assert ((found.total - estimate.value).abs() < 4 * estimate.standard_error).all()
