from pathlib import Path

import pytest
import torch
from tests.analysis.diagnostics.context_cases import TimeIsUpError, quantity, subject_of, value

from noisyrnn.analysis.diagnostics.noise import LEVELS, _gain, noise_at_test_time
from noisyrnn.analysis.noise_at_test_time import scores_with_noise
from noisyrnn.report.analysis import read_analysis
from noisyrnn.report.table import pool, value_texts
from noisyrnn.robustness.evaluate import Score
from noisyrnn.robustness.metrics import METRICS


def test_the_curve_and_the_table() -> None:
    subject = subject_of()
    found = noise_at_test_time(subject)
    scores = [one["accuracy"] for one in scores_with_noise(subject.model, subject.test, levels=LEVELS, seed=3)]
    curve = found.curves["test_noise"]
    assert curve.x.tolist() == list(LEVELS) and 0.0 in LEVELS and 1.0 in LEVELS and max(LEVELS) == 2
    assert curve.y.tolist() == pytest.approx([100 * score.mean for score in scores])
    assert curve.low.tolist() == pytest.approx([100 * score.interval[0] for score in scores])
    assert curve.high.tolist() == pytest.approx([100 * score.interval[1] for score in scores])
    assert curve.ylabel == "accuracy, %" and curve.kind == "estimate"
    off, trained = scores[0], scores[LEVELS.index(1.0)]
    assert value(found, "test_noise_off") == pytest.approx(off.mean)
    assert value(found, "test_noise_on") == pytest.approx(trained.mean)
    assert value(found, "test_noise_gain") == pytest.approx(trained.mean - off.mean, abs=1e-9)
    assert quantity(found, "test_noise_on").interval == trained.interval
    assert {one.unit for one in found.quantities} == {"%"}
    assert [one.bounds for one in found.quantities] == [(0, 1), (0, 1), (-1, 1)]
    # On a page the shares are in per cent.
    shown = read_analysis({"quantities": found.to_dict("test-noise")["quantities"]}, Path())
    (title, text), *_ = (
        (one.title, value_texts(pool({1: number}), one)[0]) for one, number in shown.quantities.items()
    )
    assert (title, text) == ("Accuracy without noise", f"{100 * off.mean:.1f}")


def test_the_gain_has_a_paired_interval() -> None:
    subject = subject_of()
    subject.model.layer.additive = 3.0
    gain = quantity(noise_at_test_time(subject), "test_noise_gain")
    low, high = gain.interval
    assert low < float(gain.measurement.value) < high < 0  # strong noise harms


def test_a_model_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="model must be trained with hidden noise"):
        noise_at_test_time(subject_of("lipschitz"))


def test_it_looks_at_the_clock() -> None:
    def check_time() -> None:
        raise TimeIsUpError

    with pytest.raises(TimeIsUpError):
        noise_at_test_time(subject_of(check_time=check_time))


@pytest.mark.parametrize(("name", "sign"), [("r2", 1), ("mean_squared_error", -1), ("accuracy", 1)])
def test_a_gain_is_above_zero_where_noise_helps(name: str, sign: float) -> None:
    off, trained = (Score.of(name, torch.tensor([[x, x + 0.25, x + 0.125]]).double(), 0.0) for x in (0.25, 0.5))
    gain = _gain(off, trained, METRICS[name], "note")
    assert float(gain.measurement.value) == pytest.approx(sign * 0.25)
