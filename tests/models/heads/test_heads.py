"""What every entry of `HEADS` promises."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from noisyrnn.models import HEADS, SequenceRegressor, SequenceToSequence
from noisyrnn.sde import BrownianPath

Make = Callable[..., Any]
LENGTHS = torch.tensor([6, 1, 3, 2])
MASK = torch.arange(6) < LENGTHS[:, None]
PATH = BrownianPath(seed=2)
MEAN, STD = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 4.0])
CLOSE = {"rtol": 0, "atol": 1e-13}

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
