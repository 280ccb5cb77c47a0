from typing import Any

import pytest
import torch

from noisyrnn import BrownianPath, NoisyRNN, RateRNN, SequenceClassifier, SequenceRegressor
from noisyrnn.analysis import scores_with_noise
from noisyrnn.data.split import Split
from noisyrnn.noise import derive_seed
from noisyrnn.robustness import FGSM, WhiteNoise, evaluate

ROWS = 260  # more than one block of 250


def data(classes: int) -> Split:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, 6, 2, generator=generator)
    labels = torch.arange(ROWS) % classes if classes else torch.randn(ROWS, 1, generator=generator)
    lengths = torch.randint(2, 7, (ROWS,), generator=generator)
    return Split(inputs=inputs, labels=labels, lengths=lengths, classes=classes)


def classifier(**options: Any) -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(RateRNN(2, 5, additive=0.6, **options), classes=3).eval()


@pytest.mark.parametrize("options", [{}, {"noise_place": "inside"}, {"additive": 0.0, "diffusion": [[0.5]] * 5}])
def test_scores_are_those_of_passes_with_scaled_noise(options: dict[str, Any]) -> None:
    model, split = classifier(), data(3)
    if options:
        torch.manual_seed(0)
        model = SequenceClassifier(RateRNN(2, 5, **{"additive": 0.6, **options}), classes=3).eval()
    found = scores_with_noise(model, split, levels=[0.0, 0.5, 2.0], draws=3, seed=4)
    assert model.layer.noise_mode == "auto" and model.layer.noise_scale == 1
    model.layer.noise_mode = "on"
    for level, scores in zip((0.0, 0.5, 2.0), found, strict=True):
        model.layer.noise_scale = level
        shares = torch.zeros(ROWS, dtype=torch.float64)
        for draw in range(3):
            # The whole split at once: the noise of a sequence does not depend on the block that it is in.
            path = BrownianPath(seed=derive_seed(4, "test-time noise", draw))
            answers = model(split.inputs, lengths=split.lengths, path=path).argmax(1)
            shares += (answers == split.labels).double() / 3
        assert scores["accuracy"].mean == pytest.approx(float(shares.mean()))
        assert scores["accuracy"].sequences == pytest.approx(shares.tolist())
        assert scores["accuracy"].interval[0] < scores["accuracy"].mean < scores["accuracy"].interval[1]


def test_without_noise_it_is_the_models_own_accuracy() -> None:
    model, split = classifier(), data(3)
    (scores,) = scores_with_noise(model, split, levels=[0.0])
    right = model(split.inputs, lengths=split.lengths).argmax(1) == split.labels
    assert scores["accuracy"].mean == pytest.approx(float(right.double().mean()))
    assert len(scores["accuracy"].draws) == 1


def test_perturbed_inputs_are_those_of_evaluate() -> None:
    model, split, noise = classifier(), data(3), WhiteNoise(0.8)
    quiet, noisy = scores_with_noise(model, split, levels=[0.0, 1.0], perturbation=noise, draws=3, seed=4)
    assert quiet["accuracy"] == evaluate(model, split, noise, draws=3, seed=4).main
    assert len(noisy["accuracy"].draws) == 3
    again = scores_with_noise(model, split, levels=[1.0], perturbation=noise, draws=3, seed=4)
    assert again == [noisy]
    clean = scores_with_noise(model, split, levels=[1.0], perturbation=WhiteNoise(0.0), draws=3, seed=4)
    assert clean == scores_with_noise(model, split, levels=[1.0], draws=3, seed=4) != again
    with pytest.raises(ValueError, match=r"^perturbation must not be an attack, got FGSM"):
        scores_with_noise(model, split, levels=[1.0], perturbation=FGSM(0.1))
    with pytest.raises(TypeError, match=r"^perturbation must"):
        scores_with_noise(model, split, levels=[1.0], perturbation="white_noise")  # type: ignore[arg-type]


def test_a_regression_has_errors() -> None:
    torch.manual_seed(0)
    model, split = SequenceRegressor(NoisyRNN(2, 5, additive=0.5)).eval(), data(0)
    quiet, noisy = scores_with_noise(model, split, levels=[0.0, 4.0])
    assert noisy["mean_squared_error"].mean > quiet["mean_squared_error"].mean
    assert set(quiet) == {"r2", "mean_squared_error", "mean_absolute_error"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"levels": []}, r"^levels must hold at least one number"),
        ({"levels": [-1.0]}, r"^levels\[0\] must be at least 0, got -1\.$"),
        ({"levels": [1.0], "draws": 0}, r"^draws must be at least 1, got 0\.$"),
    ],
)
def test_bad_arguments(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        scores_with_noise(classifier(), data(3), **options)


def test_a_model_without_noise_or_in_training_mode_is_refused() -> None:
    silent = SequenceClassifier(RateRNN(2, 5, additive=0.0), classes=3).eval()
    with pytest.raises(ValueError, match=r"^model must be trained with hidden noise .* got none"):
        scores_with_noise(silent, data(3), levels=[1.0])
    with pytest.raises(ValueError, match="model must be in eval mode"):
        scores_with_noise(classifier().train(), data(3), levels=[1.0])


def test_a_negative_factor_is_refused() -> None:
    model = classifier().train()
    model.layer.noise_scale = -1.0
    with pytest.raises(ValueError, match=r"^noise_scale must be at least 0, got -1\.$"):
        model(torch.zeros(1, 2, 2))
