"""A figure of results, as a notebook draws it."""

import pytest
import torch
from matplotlib.figure import Figure

import noisyrnn
from noisyrnn.data import Split
from noisyrnn.robustness import FGSM, RobustnessResult, WhiteNoise, compare_models, evaluate


@pytest.fixture(scope="module")
def results() -> list[RobustnessResult]:
    inputs = torch.randn(40, 3, 1, generator=torch.Generator().manual_seed(1))
    split = Split(inputs=inputs, labels=(inputs.sum(dim=(1, 2)) > 0).long(), classes=2)

    def model(inputs: torch.Tensor) -> torch.Tensor:
        score = inputs.sum(dim=1)
        return torch.cat([-score, score], dim=1)

    return [evaluate(model, split, p) for p in (WhiteNoise(1.0), None, WhiteNoise(0.5), FGSM(0.3))]


def test_panels_hold_the_values_and_intervals_by_strength(results: list[RobustnessResult]) -> None:
    figure = noisyrnn.plot({"one": results, "_two": results[:2]})
    assert isinstance(figure, Figure)
    noise, attack = figure.axes
    assert (noise.get_title(loc="left"), noise.get_xlabel()) == ("White noise", "strength σ")
    assert noise.get_ylabel() == "test accuracy (%)"
    line, _, (bars,) = noise.containers[0].lines
    by_strength = [results[1], results[2], results[0]]
    assert line.get_xdata().tolist() == [0, 0.5, 1.0]
    assert line.get_ydata().tolist() == pytest.approx([100 * result.accuracy for result in by_strength])
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    for (low, high), result in zip(ends, by_strength, strict=True):
        assert (low, high) == pytest.approx(tuple(100 * end for end in result.interval))
    assert noise.containers[1].lines[0].get_xdata().tolist() == [0, 1.0]
    assert attack.containers[0].lines[0].get_xdata().tolist() == [0, 0.3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", " _two"]
    assert not noisyrnn.plot(results).legends


def test_a_comparison_is_drawn_model_by_model() -> None:
    inputs = torch.randn(20, 3, 1, generator=torch.Generator().manual_seed(1))
    split = Split(inputs=inputs, labels=(inputs.sum(dim=(1, 2)) > 0).long(), classes=2)

    def without_gradients(inputs: torch.Tensor) -> torch.Tensor:
        score = inputs.detach().sum(dim=1)
        return torch.cat([-score, score], dim=1)

    found = compare_models(
        {"a": lambda x: without_gradients(x), "b": without_gradients}, split, [WhiteNoise(0.5), FGSM(0.1)]
    )
    (axis,) = noisyrnn.plot(found).axes  # neither has gradients to be attacked with
    assert [bars.lines[0].get_ydata()[1] for bars in axis.containers] == pytest.approx(
        [100 * found.results[name]["white_noise 0.5"].accuracy for name in "ab"]  # type: ignore[union-attr]
    )


def test_what_cannot_be_drawn_is_refused(results: list[RobustnessResult]) -> None:
    with pytest.raises(ValueError, match=r"^results must hold a result of a perturbation, got 1 without"):
        noisyrnn.plot(results[1:2])
    with pytest.raises(ValueError, match=r"^metric must be one of accuracy, got 'r2'"):
        noisyrnn.plot(results, metric="r2")
