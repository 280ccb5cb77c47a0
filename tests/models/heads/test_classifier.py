from collections.abc import Callable
from typing import Any

import pytest
import torch

from noisyrnn.models import GRU, SequenceClassifier
from noisyrnn.sde import BrownianPath

Make = Callable[..., Any]


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


def test_a_single_channel_is_not_spread_over_several(make_layer: Make, make_inputs: Make) -> None:
    model = SequenceClassifier(make_layer("gru"), classes=2).double()
    with pytest.raises(ValueError, match=r"^inputs must have shape \(batch, steps, 2\), or .*, got \(4, 6, 1\)\.$"):
        model(make_inputs(input_size=1))


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
