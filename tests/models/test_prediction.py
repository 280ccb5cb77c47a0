"""Probabilities and values that a trained model predicts."""

from typing import Any

import pytest
import torch

from noisyrnn.models import NoisyRNN, SequenceClassifier, SequenceRegressor, SequenceToSequence, predict


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(5, 7, 2, generator=torch.Generator().manual_seed(0))


def test_classes_get_the_softmax_of_the_logits_whatever_the_mode(inputs: torch.Tensor) -> None:
    model = SequenceClassifier(NoisyRNN(2, 8, step_size=0.5), classes=3)
    expected = model.eval()(inputs).double().softmax(dim=1)
    model.train()
    model.layer.noise_mode = "on"
    found = predict(model, inputs, sequences_per_pass=2)
    assert torch.allclose(found, expected, atol=1e-6)
    assert model.training
    assert model.layer.training
    assert model.layer.noise_mode == "on"
    assert not found.requires_grad


def test_lengths_and_answers_at_every_step(inputs: torch.Tensor) -> None:
    model = SequenceToSequence(NoisyRNN(2, 8, step_size=0.5), targets=2)
    lengths = torch.tensor([7, 1, 3, 4, 2])
    found = predict(model, inputs, lengths=lengths, sequences_per_pass=2)
    assert found.shape == (5, 7, 2)
    assert torch.allclose(found[1, :1], predict(model, inputs[1:2, :1])[0], atol=1e-6)
    last = SequenceClassifier(NoisyRNN(2, 8, step_size=0.5), classes=3)
    shorter = predict(last, inputs, lengths=lengths, sequences_per_pass=2)
    assert torch.allclose(shorter[4], predict(last, inputs[4:, :2])[0], atol=1e-6)
    values = SequenceRegressor(NoisyRNN(2, 8), target_mean=torch.tensor([50.0]), target_std=torch.tensor([2.0]))
    assert torch.allclose(predict(values, inputs), values.eval()(inputs).double())


@pytest.mark.parametrize("missing", [None, "skip"])
@pytest.mark.parametrize("shape", [(), (7,), (5, 7)])
@pytest.mark.parametrize("form", ["tensor", "array", "list"])
def test_lengths_of_steps_in_every_form_of_a_call(
    shape: tuple[int, ...], form: str, missing: str | None, inputs: torch.Tensor
) -> None:
    model = SequenceClassifier(NoisyRNN(2, 8, step_size=0.5), classes=3, missing=missing).eval()
    dt = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5
    given: Any = {"tensor": dt, "array": dt.numpy(), "list": dt.tolist()}[form]
    expected = model(inputs, dt=dt).double().softmax(dim=1)
    assert torch.allclose(predict(model, inputs, dt=given, sequences_per_pass=2), expected, atol=1e-6)
    assert not torch.allclose(predict(model, inputs, sequences_per_pass=2), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["dt", "lengths"])
def test_rows_for_another_number_of_sequences_are_refused(name: str, inputs: torch.Tensor) -> None:
    model, values = (
        SequenceClassifier(NoisyRNN(2, 8), classes=3),
        {"dt": torch.ones(6, 7), "lengths": torch.ones(6).int()},
    )
    wanted = "one row for each of 5 sequences, got 6" if name == "dt" else r"shape \(5,\), got \(6,\)"
    with pytest.raises(ValueError, match=rf"^{name} must have {wanted}\.$"):
        predict(model, inputs, sequences_per_pass=2, **{name: values[name]})


def test_a_layer_that_takes_steps_first_takes_sequences_first(inputs: torch.Tensor) -> None:
    model = SequenceClassifier(NoisyRNN(2, 8, batch_first=False, step_size=0.5), classes=3).eval()
    assert torch.allclose(predict(model, inputs), model(inputs.transpose(0, 1)).double().softmax(dim=1), atol=1e-6)


def test_wrong_arguments_are_refused(inputs: torch.Tensor) -> None:
    model = SequenceClassifier(NoisyRNN(2, 8), classes=3)
    with pytest.raises(TypeError, match=r"^model must be a SequenceModel"):
        predict(torch.nn.Linear(2, 2), inputs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^inputs must"):
        predict(model, inputs[..., :1])
    with pytest.raises(ValueError, match=r"^inputs must be finite"):
        predict(model, inputs / 0)
    with pytest.raises(TypeError, match=r"^lengths must be a tensor, got list\."):
        predict(model, inputs, lengths=[7] * 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^lengths must lie in \[1, 7\], the number of steps, got 8\."):
        predict(model, inputs, lengths=torch.tensor([7, 7, 7, 7, 8]), sequences_per_pass=2)
    with pytest.raises(ValueError, match=r"^sequences_per_pass must"):
        predict(model, inputs, sequences_per_pass=0)
