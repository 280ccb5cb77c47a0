"""Models of any kind side by side: modules, functions and estimators, with paired tests over sequences."""

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import nn

import noisyrnn
from noisyrnn.data import Dataset, Split
from noisyrnn.robustness import FGSM, PGD, Square, WhiteNoise, adjust, compare_models, evaluate, paired_test
from noisyrnn.robustness.compare_models import NOT_ATTACKED


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(60, 4, 1, generator=generator)
    return Split(inputs=inputs, labels=(inputs.sum(dim=(1, 2)) > 0).long(), classes=2)


class Sum(nn.Module):
    """The sum of the inputs, times a factor, as the logit of class 1."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        score = self.factor * inputs.sum(dim=(1, 2))
        return torch.stack([-score, score], dim=1)


def last(inputs: torch.Tensor) -> torch.Tensor:
    return torch.cat([-inputs[:, -1], inputs[:, -1]], dim=1)


def test_results_are_those_of_evaluate_and_tests_those_of_paired_values(split: Split) -> None:
    noise = WhiteNoise(0.5)
    found = noisyrnn.compare_models({"sum": Sum().eval(), "last": last}, split, [noise, FGSM(0.1)], draws=2, seed=3)
    assert list(found.results) == ["sum", "last"]
    assert list(found.results["sum"]) == ["clean", "white_noise 0.5", "fgsm 0.1"]
    expected = evaluate(last, split, noise, draws=2, seed=3)
    assert found.results["last"]["white_noise 0.5"] == expected
    base = {key: evaluate(Sum().eval(), split, p, draws=2, seed=3) for key, p in (("clean", None), ("n", noise))}
    by_hand = {
        "clean": paired_test(evaluate(last, split).main.sequences, base["clean"].main.sequences),
        "n": paired_test(expected.main.sequences, base["n"].main.sequences),
        "a": paired_test(
            evaluate(last, split, FGSM(0.1), draws=2, seed=3).main.sequences,
            evaluate(Sum().eval(), split, FGSM(0.1), draws=2, seed=3).main.sequences,
        ),
    }
    corrected = adjust(by_hand)
    for key, name in (("clean", "clean"), ("white_noise 0.5", "n"), ("fgsm 0.1", "a")):
        test = found.tests["last", key]
        assert test.difference == by_hand[name].difference < 0
        assert test.adjusted == corrected[name].adjusted
        assert test.covers == "test sequences, for these trained models"


def test_the_table_names_what_was_not_attacked(split: Split) -> None:
    flat = split.inputs.reshape(60, -1).numpy()
    logistic = LogisticRegression().fit(flat, split.labels.numpy())
    attacks = [PGD(0.2, steps=2), Square(0.2, queries=20)]
    found = compare_models({"<sum>": Sum().eval(), "logistic": logistic}, split, attacks, draws=1)
    assert found.results["logistic"]["pgd_linf 0.2"] is None
    assert ("logistic", "pgd_linf 0.2") not in found.tests
    square = found.results["logistic"]["square_linf 0.2"]
    clean = found.results["logistic"]["clean"]
    assert square is not None
    assert clean is not None
    assert clean.accuracy == pytest.approx(logistic.score(flat, split.labels.numpy()))
    assert square.accuracy < clean.accuracy
    lines = repr(found).splitlines()
    assert lines[0].split() == ["inputs", "<sum>", "logistic"]
    assert lines[2].startswith("pgd_linf 0.2")
    assert lines[2].endswith(NOT_ATTACKED)
    markdown = found.to_markdown()
    assert markdown.startswith("| inputs | \\<sum\\> | logistic |\n|---|---:|---:|\n| clean | 100.0 [")
    assert "p: paired test against <sum> over the same sequences, corrected for" in markdown
    assert "<th>&lt;sum&gt;</th>" in found._repr_html_()


def named(split: Split, names: tuple[str, ...]) -> Dataset:
    """A data set with these names of classes, each part of which is `split`."""
    return Dataset(
        name="named",
        train=split,
        validation=split,
        read_test=lambda: split,
        class_names=names,
        value_range=None,
        standardize=True,
    )


def test_an_estimator_may_know_names_fewer_classes_and_no_probabilities(split: Split) -> None:
    three = Split(inputs=split.inputs, labels=2 * split.labels, classes=3)
    data = named(three, ("low", "none", "high"))

    class Named:
        classes_ = np.array(["high", "low"])

        def predict(self, X: np.ndarray) -> np.ndarray:
            assert X.shape[1:] == (4, 1)
            return np.where(X.sum(axis=(1, 2)) > 0, "high", "low")

    found = compare_models({"named": Named()}, data)
    assert found.results["named"]["clean"].accuracy == 1.0  # type: ignore[union-attr]
    assert list(found.results["named"]) == [
        "clean",
        "white_noise 0.1 s",
        "salt_and_pepper 0.05",
        "fgsm 0.05 s",
        "pgd_linf 0.05 s",
    ]
    assert found.results["named"]["fgsm 0.05 s"] is None
    with pytest.raises(ValueError, match=r"^models must hold estimators for the classes of the data, 0 to 1, got high"):
        compare_models({"named": Named()}, split, [])


def test_an_estimator_of_some_classes_whose_names_are_numbers() -> None:
    labels = torch.arange(30) % 3
    inputs = 0.1 * torch.randn(30, 4, 1, generator=torch.Generator().manual_seed(0)) + labels[:, None, None]
    data = named(Split(inputs=inputs, labels=labels, classes=3), ("1", "2", "3"))  # as in the UCR archive
    X, known = inputs.flatten(1).numpy(), labels.numpy() < 2
    texts, numbers, indices = np.array(["1", "2", "3"])[labels], labels.numpy() + 1, labels.numpy()

    def score(y: np.ndarray, rows: Any = slice(None)) -> float:
        found = compare_models({"one": LogisticRegression(C=100.0).fit(X[rows], y[rows])}, data, [])
        return found.results["one"]["clean"].accuracy  # type: ignore[union-attr]

    assert score(texts) == score(numbers) == score(indices) == 1
    assert score(texts, known) == pytest.approx(2 / 3)
    assert score(indices, known) == pytest.approx(2 / 3)  # 0 is no name
    with pytest.raises(ValueError, match=r"^models must hold estimators whose classes are unambiguous, got 1, 2 in"):
        score(numbers, known)


def test_a_partial_that_holds_rows_is_measured_as_by_evaluate() -> None:
    model = noisyrnn.SequenceClassifier(noisyrnn.NoisyRNN(1, 4), classes=2).eval()
    split = Split(inputs=torch.randn(10, 5, 1), labels=torch.arange(10) % 2, classes=2)
    held = partial(model, dt=torch.rand(10, 5) + 0.5)
    found = compare_models({"held": held}, split, [FGSM(0.1)], draws=1).results["held"]
    assert found["clean"] == evaluate(held, split) and found["fgsm 0.1"] is not None


def test_a_regression_by_an_estimator(split: Split) -> None:
    flat, target = split.inputs.reshape(60, -1), split.inputs.sum(dim=(1, 2))[:, None].double()
    values = Split(inputs=split.inputs, labels=target, classes=0)
    linear = LinearRegression().fit(flat.numpy(), target.numpy())
    found = compare_models({"linear": linear}, values, [])
    assert found.metric == "r2"
    assert found.results["linear"]["clean"].main.mean == pytest.approx(1.0, abs=1e-6)  # type: ignore[union-attr]


def test_a_function_that_leaves_torch_is_not_attacked(split: Split) -> None:
    def left(inputs: torch.Tensor) -> torch.Tensor:
        return last(torch.from_numpy(inputs.numpy()))

    assert compare_models({"left": left}, split, [FGSM(0.1)]).results["left"]["fgsm 0.1"] is None


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ({}, ValueError, r"^models must hold at least one model"),
        ([last], TypeError, r"^models must map names to models, got list\. Write \{'mine': model\}\.$"),
        ({1: last}, TypeError, r"^name of a model must be a string, got 1\."),
        ({"a": 3}, TypeError, r"^models must hold callables or fitted estimators, got int as 'a'"),
        ({"a": LogisticRegression()}, ValueError, r"^models must hold fitted estimators"),
        ({"a": Sum()}, ValueError, r"^model must be in eval mode"),
    ],
)
def test_what_is_not_a_model_is_refused(models: dict[str, Any], error: Any, message: str, split: Split) -> None:
    with pytest.raises(error, match=message):
        compare_models(models, split, [])
    with pytest.raises(TypeError, match=r"^data must be a Dataset or a Split"):
        compare_models({"a": last}, split.inputs, [])  # type: ignore[arg-type]


def test_perturbations_are_a_list_in_which_clean_counts_once(split: Split) -> None:
    with pytest.raises(TypeError, match=r"^perturbations must be a list, got FGSM\(.*\. Write \[FGSM\("):
        compare_models({"a": last}, split, FGSM(0.1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^perturbations\[1\] must be a Perturbation, got 'fgsm'\."):
        compare_models({"a": last}, split, [None, "fgsm"])  # type: ignore[list-item]
    assert list(compare_models({"a": last}, split, (None, FGSM(0.1))).results["a"]) == ["clean", "fgsm 0.1"]


def test_a_module_with_a_part_called_sequence_model_is_measured_as_a_whole(split: Split) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sequence_model = nn.Flatten()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return -self.sequence_model(inputs)[:, : split.classes]

        def predict(self, inputs: torch.Tensor) -> torch.Tensor:
            return self(inputs).argmax(1)

    whole = Whole().eval()
    found = compare_models({"whole": whole, "function": lambda inputs: whole(inputs)}, split, [])
    assert found.results["whole"]["clean"].correct == found.results["function"]["clean"].correct  # type: ignore[union-attr]


def test_two_perturbations_of_one_title_are_both_measured(split: Split) -> None:
    found = compare_models({"last": last}, split, [PGD(0.1, steps=1), PGD(0.1, steps=3)], draws=1)
    assert len(found.results["last"]) == 3


def irregular() -> Split:
    """Sequences in float64 with a missing value and steps of unequal length."""
    count = 6
    inputs = torch.randn(count, 4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs[:, 2] = torch.nan
    return Split(
        inputs=inputs,
        labels=torch.arange(count) % 2,
        dt=torch.full((count, 4), 1.5, dtype=torch.float64),
        missing="hold",
        classes=2,
    )


def test_gradients_are_asked_for_as_the_evaluation_calls() -> None:
    def timed(inputs: torch.Tensor, dt: torch.Tensor) -> torch.Tensor:
        assert not inputs.isnan().any() and dt.shape == inputs.shape[:2]
        score = inputs.sum(dim=1)
        return torch.cat([-score, score], dim=1)

    found = compare_models({"timed": timed}, irregular(), [FGSM(0.1)], draws=1).results["timed"]
    assert [key.split()[0] for key in found] == ["clean", "fgsm"] and found["fgsm 0.1"] is not None

    def fails(inputs: torch.Tensor) -> torch.Tensor:
        if inputs.requires_grad:
            raise RuntimeError("out of order")
        return timed(inputs, torch.ones(inputs.shape[:2]))

    with pytest.raises(RuntimeError, match="out of order"):
        compare_models({"fails": fails}, irregular(), [FGSM(0.1)], draws=1)

    def converts(inputs: torch.Tensor) -> torch.Tensor:
        score = torch.tensor(inputs.numpy()).sum(dim=1)
        return torch.cat([-score, score], dim=1)

    found = compare_models({"converts": converts}, irregular(), [FGSM(0.1)], draws=1).results["converts"]
    assert found["fgsm 0.1"] is None


def test_a_module_gets_inputs_in_the_type_of_its_weights() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.readout = nn.Linear(1, 2)

        def forward(self, inputs: torch.Tensor) -> Any:
            return self.readout(inputs[:, -1])

    found = compare_models({"plain": Plain().eval()}, irregular(), [FGSM(0.1)], draws=1).results["plain"]
    assert all(result is not None for result in found.values())
    inner = Plain().eval()
    with pytest.raises(
        TypeError, match=r"^model must take inputs in float64, .* Let it convert them: inputs\.float\(\)"
    ):
        compare_models({"function": lambda inputs: inner(inputs)}, irregular(), [], draws=1)
    head = noisyrnn.SequenceClassifier(
        noisyrnn.GRU(1, 4), classes=2, mean=torch.tensor([1e9]), std=torch.tensor([1.0])
    ).eval()
    far = Split(inputs=torch.full((2, 3, 1), 1e9, dtype=torch.float64) + 0.25, labels=torch.tensor([0, 1]), classes=2)
    seen: list[torch.Tensor] = []
    head.layer.register_forward_pre_hook(lambda layer, arguments: seen.append(arguments[0]))
    for module in (head, nn.Sequential(head).eval()):
        compare_models({"head": module}, far, [], draws=1)
    assert seen and all(torch.allclose(inputs, torch.tensor(0.25)) for inputs in seen)  # not rounded to float32 before


def test_the_number_of_logits_is_that_of_the_classes() -> None:
    with pytest.raises(ValueError, match=r"^model must return 2 logits, one for each class, got 5\."):
        compare_models({"many": lambda inputs: torch.zeros(len(inputs), 5)}, irregular(), [], draws=1)


def test_answers_that_are_never_numbers_are_not_called_random() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="logits became non-finite for 6 of 6 sequences"):
            compare_models({"nan": lambda inputs: torch.full((len(inputs), 2), torch.nan)}, irregular(), [], draws=1)
