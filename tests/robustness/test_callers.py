"""What callers bring: other layouts, autograd modes, label types and objects than the library's own."""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from noisyrnn import analysis
from noisyrnn.data import Split
from noisyrnn.models import LipschitzRNN, NoisyRNN, SequenceClassifier
from noisyrnn.robustness import FGSM, PGD, WhiteNoise, evaluate, examples

X = torch.randn(12, 12, 2, generator=torch.Generator().manual_seed(0))  # as many sequences as steps
Y = torch.arange(12) % 3


def classifier(*, batch_first: bool = True) -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(NoisyRNN(2, 6, step_size=1.0, batch_first=batch_first), 3).eval()


def split(labels: Tensor = Y, **changes: Any) -> Split:
    return Split(inputs=X, labels=labels, classes=3, **changes)


DIFFERENTIATING = {
    "FGSM": lambda m, x, y: evaluate(m, Split(inputs=x, labels=y, classes=3), FGSM(0.3)).correct,
    "PGD": lambda m, x, y: PGD(0.3, steps=2)(m, x, y, generator=torch.Generator().manual_seed(0)),
    "attack_radius": lambda m, x, y: analysis.attack_radius(m, x, y, upper=1.0, rounds=1).value,
    "linearised_margin": lambda m, x, y: analysis.linearised_margin(m, x, y).value,
    "input_margin_estimate": lambda m, x, y: analysis.input_margin_estimate(m, x, y).value,
    "gradient_norms": lambda m, x, y: analysis.gradient_norms(m, x, y).value,
    "jacobian_norms": lambda m, x, y: analysis.jacobian_norms(m, x).value,
    "explicit_regularizer": lambda m, x, y: analysis.explicit_regularizer(m, x, y).total,
    "tangent_regularizer": lambda m, x, y: analysis.tangent_regularizer(m, x, y, draws=2).total,
    "margin_certificate": lambda m, x, y: analysis.margin_certificate(m, x, y).value,
    "LossHessian": lambda m, x, y: (
        analysis.LossHessian(m, Split(inputs=x, labels=y, classes=3))
        @ torch.ones(sum(p.numel() for p in m.parameters()))
    ),
}


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(found).detach(), torch.as_tensor(expected).detach(), equal_nan=True)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", DIFFERENTIATING)
def test_any_mode_of_the_caller_gives_the_same(name: str, mode: Any) -> None:
    expected = DIFFERENTIATING[name](classifier(), X, Y)
    with mode():
        same(DIFFERENTIATING[name](classifier(), X.clone(), Y.clone()), expected)  # made there too
        model = classifier()
    same(DIFFERENTIATING[name](model, X, Y), expected) if mode is torch.no_grad else None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
@pytest.mark.parametrize("name", DIFFERENTIATING)
def test_labels_of_any_integer_type_give_the_same(name: str, dtype: torch.dtype) -> None:
    same(DIFFERENTIATING[name](classifier(), X, Y.to(dtype)), DIFFERENTIATING[name](classifier(), X, Y))


@pytest.mark.parametrize("name", DIFFERENTIATING)
def test_a_model_with_steps_first_gives_the_same(name: str) -> None:
    other = classifier(batch_first=False)
    same(DIFFERENTIATING[name](other, X, Y), DIFFERENTIATING[name](classifier(), X, Y))
    assert other.layer.batch_first is False
    expected = (other(X.transpose(0, 1)).argmax(1) == Y).tolist()
    assert [bool(count) for count in evaluate(other, split()).correct] == expected
    shown = examples(other, split(), [], indices=[0, 5])
    assert [record["prediction"] for record in shown] == other(X.transpose(0, 1)).argmax(1)[[0, 5]].tolist()


@pytest.mark.parametrize("given", [DataLoader(TensorDataset(X, Y)), TensorDataset(X, Y), (X, Y), X])
def test_other_containers_are_refused_with_what_to_build(given: Any) -> None:
    message = (
        rf"^split must be a Split, got {type(given).__name__}\. Build one .* Split\(inputs=X, labels=y, classes=10\)"
    )
    for function in (evaluate, analysis.LossHessian, analysis.output_margins):
        with pytest.raises(TypeError, match=message):
            function(classifier(), given)  # type: ignore[operator]


@pytest.mark.parametrize("given", [lambda *_, **__: X, FGSM, 0.1])
def test_what_is_not_a_perturbation_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="perturbation"):
        evaluate(classifier(), split(), given)
    with pytest.raises(TypeError, match=r"perturbations\[1\]"):
        examples(classifier(), split(), [FGSM(0.1), given], indices=[0])


def test_one_logit_is_refused_with_what_to_return() -> None:
    message = (
        r"^model must return one logit for each class, got \(12, 1\)\. .* torch\.cat\(\[torch\.zeros_like\(z\), z\]"
    )
    with pytest.raises(ValueError, match=message):
        evaluate(lambda x: x[:, 0, :1], split())


def test_targets_need_outputs_of_their_shape_and_have_no_accuracy() -> None:
    values = Split(inputs=X, labels=X.mean(1), classes=0)
    with pytest.raises(ValueError, match=r"^model must return outputs of shape \(12, 2\), got \(12, 3\)\.$"):
        evaluate(classifier(), values)
    result = evaluate(lambda x: x.mean(1), values)
    with pytest.raises(ValueError, match=r"^accuracy must be of a classification, got a regression\. Use scores: r2, "):
        _ = result.accuracy
    with pytest.raises(ValueError, match=r"^correct must be of one class for each sequence, got r2\. Use scores\.$"):
        _ = result.correct
    with pytest.raises(ValueError, match=r"^split must have one class for each sequence, got labels \(12, 2\)\.$"):
        examples(lambda x: x.mean(1), values, [], indices=[0])


@pytest.mark.parametrize("perturbation", [None, WhiteNoise(0.1), FGSM(0.1), PGD(0.1, steps=1)])
def test_a_model_that_answers_twice_in_different_ways_is_noted(perturbation: Any) -> None:
    model = classifier().train()
    with pytest.warns(UserWarning, match=r"^model gives different logits for the same inputs, .* Call model\.eval\(\)"):
        evaluate(lambda x: model(x), split(), perturbation)


def test_float64_values_far_from_zero_are_attacked_in_float64() -> None:
    torch.manual_seed(0)
    near, far = X.double(), 1.7e9 + 30 * X.double()
    statistics = {"mean": torch.full((2,), 1.7e9).double(), "std": torch.full((2,), 30.0).double()}
    model = SequenceClassifier(LipschitzRNN(2, 6), 3, **statistics).eval()
    torch.manual_seed(0)
    plain = SequenceClassifier(LipschitzRNN(2, 6), 3).eval()
    radii = [
        analysis.attack_radius(each, inputs, Y, upper=upper, rounds=1, seed=3).value
        for each, inputs, upper in ((plain, near, 1.0), (model, far, 30.0))
    ]
    torch.testing.assert_close(radii[1], 30 * radii[0], rtol=1e-3, atol=1e-4)


def test_inputs_of_another_type_than_the_weights_are_refused() -> None:
    layer = NoisyRNN(2, 6)
    message = (
        r"^inputs must be torch\.float32, as the weights are, got torch\.float64\. Convert one of them: inputs\.to"
    )
    with pytest.raises(TypeError, match=message):
        layer(X.double())
    with pytest.raises(TypeError, match=message):
        layer.step(X[:, 0].double())
    with pytest.raises(TypeError, match=r"^h_0 must be torch\.float32, as the weights are, got torch\.float64"):
        layer(X, torch.zeros(1, 12, 6, dtype=torch.float64))
    with contextlib.nullcontext() if X.is_cuda else torch.autocast("cpu", torch.bfloat16):
        layer(X.bfloat16())


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_one_message(device: str) -> None:
    split = Split(inputs=torch.zeros(2, 3, 1), labels=torch.tensor([0, 1]), classes=2)
    with pytest.raises(ValueError, match=f"^device must be a device of this machine, got '{device}'"):
        evaluate(lambda inputs: torch.zeros(len(inputs), 2), split, device=device)
