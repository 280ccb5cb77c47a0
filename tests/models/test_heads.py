"""What every entry of `HEADS` promises, and what is particular to one."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from noisyrnn.models import (
    GRU,
    HEADS,
    NoisyRNN,
    SequenceClassifier,
    SequenceModel,
    SequenceRegressor,
    SequenceToSequence,
)
from noisyrnn.models.heads import LOSSES
from noisyrnn.noise import BrownianPath

Make = Callable[..., Any]
LENGTHS = torch.tensor([6, 1, 3, 2])
MASK = torch.arange(6) < LENGTHS[:, None]
PATH = BrownianPath(seed=2)
MEAN, STD = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-13}

every = pytest.mark.parametrize("name", sorted(HEADS))


def build(name: str, layer: Any, outputs: int = 3) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HEADS[name](layer, outputs, mean=MEAN, std=STD).double()


@every
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_the_readout_of_the_layer(
    name: str, bidirectional: bool, batch_first: bool, make_layer: Make, make_inputs: Make
) -> None:
    layer = make_layer("noisy", bidirectional=bidirectional, num_layers=2, batch_first=batch_first)
    model, inputs = build(name, layer), make_inputs()
    assert model.readout.in_features == layer.output_size == (10 if bidirectional else 5)
    given = inputs if batch_first else inputs.transpose(0, 1)
    standard, dt = (given - MEAN) / STD, torch.linspace(0.5, 1.5, 6).double()
    outputs, h_n = layer(standard, lengths=LENGTHS, dt=dt, path=PATH)
    outputs = outputs if batch_first else outputs.transpose(0, 1)
    if name == "sequence":
        expected = model.readout(outputs) * MASK[..., None]
        expected = expected if batch_first else expected.transpose(0, 1)
    else:
        last = torch.cat([h_n[-2], h_n[-1]], dim=1) if bidirectional else h_n[-1]
        assert torch.equal(last[:, :5], outputs[torch.arange(4), LENGTHS - 1][:, :5])
        assert torch.equal(last[:, 5:], outputs[:, 0, 5:])  # a backward direction ends at the first step
        expected = model.readout(last)
    found = model(given, lengths=LENGTHS, dt=dt, path=PATH)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert torch.equal(model(given, mask=MASK, dt=dt, path=PATH), found)
    packed = pack_padded_sequence(given, LENGTHS, batch_first=batch_first, enforce_sorted=False)
    if name == "sequence":
        padded = given.masked_fill(~(MASK if batch_first else MASK.T)[..., None], torch.nan)
        assert torch.equal(model(padded, lengths=LENGTHS, dt=dt, path=PATH), found)
        result = model(packed, dt=dt, path=PATH)
        assert isinstance(result, PackedSequence)
        torch.testing.assert_close(pad_packed_sequence(result, batch_first=batch_first)[0], expected, **CLOSE)
    else:
        torch.testing.assert_close(model(packed, dt=dt, path=PATH), expected, **CLOSE)


@every
def test_one_sequence(name: str, make_layer: Make, make_inputs: Make) -> None:
    model, inputs = build(name, make_layer("cornn", bidirectional=True)).eval(), make_inputs()
    torch.testing.assert_close(model(inputs[2]), model(inputs)[2], **CLOSE)


@every
def test_its_mode_decides_on_noise(name: str, make_layer: Make, make_inputs: Make) -> None:
    model, inputs = build(name, make_layer("noisy", num_layers=2, dropout=0.5)).eval(), make_inputs()
    clean = model(inputs)
    model.layer.train()
    assert torch.equal(model(inputs), clean)
    assert not torch.allclose(model.train()(inputs), clean)


@every
def test_gradients_reach_every_parameter(name: str, make_layer: Make, make_inputs: Make) -> None:
    model = build(name, make_layer("noisy", bidirectional=True))
    model(make_inputs(), lengths=LENGTHS).square().sum().backward()
    assert all((p.grad != 0).any() for p in model.parameters())


@every
def test_wrong_channels_are_refused_before_broadcasting(name: str, make_layer: Make, make_inputs: Make) -> None:
    with pytest.raises(ValueError, match=r"^inputs must have shape \(batch, steps, 2\), or .*, got \(4, 6, 1\)\.$"):
        build(name, make_layer("gru"))(make_inputs(input_size=1))


@pytest.mark.parametrize("head", [SequenceRegressor, SequenceToSequence])
def test_bad_targets(head: Any, make_layer: Make) -> None:
    with pytest.raises(ValueError, match=r"^targets must be at least 1, got 0\.$"):
        head(make_layer("gru"), 0)
    with pytest.raises(TypeError, match=r"^targets must be an integer, got 1\.5\.$"):
        head(make_layer("gru"), 1.5)
    assert head(make_layer("gru")).targets == 1


def test_losses_are_written_out() -> None:
    classes_loss, values_loss = LOSSES["cross_entropy"], LOSSES["squared_error"]
    logits, classes = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]).double(), torch.tensor([1, 0])
    expected = [
        -float(row[c]) + math.log(sum(math.exp(v) for v in row)) for row, c in zip(logits, classes, strict=True)
    ]
    assert classes_loss.values(logits, classes).tolist() == pytest.approx(expected)
    assert classes_loss.correct(logits, classes).tolist() == [True, False]
    numbers, targets = torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert values_loss.values(numbers, targets).tolist() == [2.0, 4.5]
    assert values_loss.correct(numbers, targets).tolist() == [False, False]


@pytest.mark.parametrize("kind", ["values", "classes"])
def test_losses_leave_out_padding_and_what_a_mask_leaves_out(kind: str) -> None:
    options: dict[str, Any] = {"targets": 2} if kind == "values" else {"classes": 2}
    model = SequenceToSequence(NoisyRNN(3, 8), **options).eval()
    inputs = torch.randn(4, 6, 3)
    targets = torch.randn(4, 6, 2) if kind == "values" else torch.randint(2, (4, 6))
    outputs = model(inputs, lengths=LENGTHS)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[0, 2] = mask[2, 0] = False
    for measure in (model.losses, model.correct):
        for given, kept in (
            ({"lengths": LENGTHS}, MASK),
            ({"mask": mask}, mask),
            ({"lengths": LENGTHS, "mask": mask}, MASK & mask),
        ):
            alone = [measure(outputs[k : k + 1, kept[k]], targets[k : k + 1, kept[k]]) for k in range(4)]
            torch.testing.assert_close(measure(outputs, targets, **given), torch.cat(alone))
    with pytest.raises(ValueError, match=r"^mask must be true at one valid step .* the first at index 1\."):
        model.losses(outputs, targets, mask=MASK & ~MASK[1])
    with pytest.raises(ValueError, match=r"^lengths must have shape \(4,\), got \(3,\)"):
        model.losses(outputs, targets, lengths=LENGTHS[:3])
    with pytest.raises(TypeError, match=r"^mask must be bool"):
        model.losses(outputs, targets, mask=MASK.long())
    last = SequenceClassifier(NoisyRNN(3, 8), 2)
    logits, classes = last(inputs, lengths=LENGTHS), torch.tensor([0, 1, 1, 0])
    assert last.losses(logits, classes, lengths=LENGTHS, mask=MASK).equal(last.losses(logits, classes))


@every
@pytest.mark.parametrize(("switch", "value"), [("noise_mode", "on"), ("noise_scale", 0.0), ("kernel", "reference")])
def test_what_controls_the_layer_is_not_set_on_the_model(name: str, switch: str, value: Any) -> None:
    model = build(name, NoisyRNN(2, 4))
    with pytest.raises(
        AttributeError, match=rf"^{switch} must be set on the layer, got a .*: model\.layer\.{switch}\.$"
    ):
        setattr(model, switch, value)
    assert not hasattr(model, switch)


@every
def test_a_pass_may_begin_at_an_initial_state(name: str) -> None:
    model = build(name, NoisyRNN(2, 4, num_layers=2, bidirectional=True)).eval()
    inputs, h_0 = torch.randn(4, 6, 2).double(), torch.randn(4, 4, 4).double().requires_grad_()
    outputs, _ = model.layer(model.standardize(inputs), h_0, lengths=LENGTHS)
    ends = outputs if name == "sequence" else model.layer.last_output(model.standardize(inputs), h_0, lengths=LENGTHS)
    answers = model(inputs, lengths=LENGTHS, h_0=h_0)
    valid = MASK[..., None] if name == "sequence" else torch.ones(4, 1, dtype=torch.bool)
    torch.testing.assert_close(answers, torch.where(valid, model.answers(ends), 0.0))
    answers.sum().backward()
    assert h_0.grad is not None and bool((h_0.grad != 0).any())
    with pytest.raises(ValueError, match=r"^h_0 must have shape"):
        model(inputs, h_0=h_0[:1])


def test_logits_are_the_readout_of_the_last_valid_output(make_layer: Make, make_inputs: Make) -> None:
    model = SequenceClassifier(make_layer("lstm"), classes=3).double()
    inputs, lengths = make_inputs(), torch.tensor([6, 1, 3, 2])
    outputs, _ = model.layer(inputs, lengths=lengths)
    last = outputs[torch.arange(4), lengths - 1]
    expected = last @ model.readout.weight.T + model.readout.bias
    torch.testing.assert_close(model(inputs, lengths=lengths), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(model(inputs), model.readout(model.layer(inputs)[0][:, -1]), rtol=0, atol=1e-14)
    assert model(inputs).shape == (4, 3)


def test_inputs_are_standardised(make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer("noisy"), make_inputs()
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])
    model = SequenceClassifier(layer, classes=2, mean=mean, std=std).double()
    path = BrownianPath(seed=1)
    by_hand = torch.stack([(inputs[..., 0] - 1.0) / 0.5, (inputs[..., 1] + 2.0) / 4.0], dim=2)
    expected = model.readout(layer.last_output(by_hand, path=path))
    torch.testing.assert_close(model(inputs, path=path), expected, rtol=0, atol=1e-14)
    mean.zero_()  # the model keeps its own copy
    torch.testing.assert_close(model(inputs, path=path), expected, rtol=0, atol=1e-14)


def test_statistics_travel_with_the_weights(make_layer: Make, make_inputs: Make) -> None:
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])
    model = SequenceClassifier(make_layer("gru"), classes=2, mean=mean, std=std).double().eval()
    other = SequenceClassifier(make_layer("gru", seed=1), classes=2).double().eval()
    assert not torch.equal(model(make_inputs()), other(make_inputs()))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(make_inputs()), other(make_inputs()))
    assert not any(name in ("mean", "std") for name, _ in model.named_parameters())


def test_arguments_reach_the_layer(make_layer: Make, make_inputs: Make) -> None:
    layer, inputs, path = make_layer("noisy"), make_inputs(), BrownianPath(seed=2)
    model = SequenceClassifier(layer, classes=2).double()
    expected = model.readout(layer.last_output(inputs, dt=0.5, path=path, lengths=torch.tensor([6, 1, 3, 2])))
    result = model(inputs, dt=0.5, path=path, lengths=torch.tensor([6, 1, 3, 2]))
    assert torch.equal(result, expected)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"classes": 1}, ValueError, r"^classes must be at least 2, got 1\.$"),
        ({"classes": 2.0}, TypeError, r"^classes must be an integer, got 2\.0\.$"),
        ({"mean": torch.zeros(3)}, ValueError, r"^mean must have shape \(2,\), got \(3,\)\.$"),
        ({"std": torch.ones(1, 2)}, ValueError, r"^std must have shape \(2,\), got \(1, 2\)\.$"),
        ({"std": torch.tensor([1.0, 0.0])}, ValueError, r"^std must be positive, got 0 as the smallest\.$"),
        ({"std": torch.tensor([1.0, -0.5])}, ValueError, r"^std must be positive, got -0\.5 as the smallest\.$"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        SequenceClassifier(GRU(2, 4), **{"classes": 2, **options})


def test_a_model_of_another_loss_and_of_every_step(make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer("noisy").eval(), make_inputs()
    model = SequenceModel(layer, 3, loss="squared_error", every_step=True).double().eval()
    torch.testing.assert_close(model(inputs), model.readout(layer(inputs)[0]), **CLOSE)
    with pytest.raises(ValueError, match=r"^loss must"):
        SequenceModel(layer, 3, loss="hinge")
    with pytest.raises(ValueError, match=r"^outputs must"):
        SequenceModel(layer, 0, loss="cross_entropy")
    with pytest.raises(TypeError, match=r"^layer must be a RecurrentLayer, got GRU"):
        SequenceModel(torch.nn.GRU(1, 2), 3, loss="cross_entropy")  # type: ignore[arg-type]


def test_a_compiled_layer_in_training_mode_adds_no_noise_to_a_model_in_evaluation_mode(make_inputs: Make) -> None:
    layer = GRU(2, 4, additive=0.5).double()
    model = SequenceClassifier(torch.compile(layer, backend="eager"), classes=2).double().eval()  # type: ignore[arg-type]
    clean = model(make_inputs())
    layer.train()
    model.layer.train()
    assert torch.equal(model(make_inputs()), clean) and model.layer.training and layer.training
