"""Settings, and numbers over sequences."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.analysis.diagnostics.context_cases import TimeIsUpError, stopping_after, subject_of

from noisyrnn.analysis.diagnostics import DIAGNOSTICS, AnalysisSettings
from noisyrnn.analysis.diagnostics.context import mean_quantity, median_quantity
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.noise.hidden_noise import HiddenNoise

VALUES = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.0, 3.5, 8.0]


def _certificate(values: list[float]) -> Measurement:
    return Measurement(value=torch.tensor(values), kind="certificate", confidence=0.8)


def test_a_mean_with_its_interval_keeps_the_kind() -> None:
    found = mean_quantity("n", "T", _certificate(VALUES), better="higher", unit="u", note="why")
    mean, error = np.mean(VALUES), np.std(VALUES, ddof=1) / math.sqrt(len(VALUES))
    assert float(found.measurement.value) == pytest.approx(mean)
    reach = 2.306004 * error  # Student's t of nine sequences
    assert found.interval == pytest.approx((mean - reach, mean + reach), rel=1e-6)
    assert (found.measurement.kind, found.measurement.confidence) == ("certificate", 0.8)
    assert (found.name, found.title, found.better, found.unit) == ("n", "T", "higher", "u")
    assert found.note == "why; mean over 9 sequences with its interval over them"


def test_a_mean_leaves_out_what_is_not_finite_and_says_so() -> None:
    found = mean_quantity("n", "T", _certificate([*VALUES, math.nan, math.inf]), better=None, note="why")
    assert float(found.measurement.value) == pytest.approx(np.mean(VALUES))
    assert found.note.startswith("why; mean over 9 sequences")
    alone = mean_quantity("n", "T", _certificate([2.0, math.nan]), better=None, note="why")
    assert float(alone.measurement.value) == 2.0 and alone.interval is None


def test_a_median_with_its_interval_counts_infinite_ones() -> None:
    """The interval of the sign test: of 11 values the 2nd and the 10th, which miss with 2 (1 + 11) / 2¹¹ = 1.2 %."""
    found = median_quantity("n", "T", _certificate([*VALUES, math.inf, math.inf]), better="higher", unit="u", note="w")
    ordered = sorted(VALUES)
    assert float(found.measurement.value) == pytest.approx(ordered[5])
    assert found.interval == pytest.approx((ordered[1], math.inf))
    assert (found.measurement.kind, found.measurement.confidence) == ("certificate", 0.8)
    assert (found.name, found.title, found.better, found.unit) == ("n", "T", "higher", "u")
    assert found.note == "w; median over 11 sequences with its interval over them"


def test_a_median_is_infinite_where_most_are() -> None:
    found = median_quantity("n", "T", _certificate([1.0, math.inf, math.inf]), better="higher", unit="u", note="w")
    assert float(found.measurement.value) == math.inf


def test_the_words_count_the_sequences() -> None:
    subject = subject_of()
    assert subject.test_data == "27 test sequences drawn with seed 3"
    assert subject.train_data == "6 training sequences drawn with seed 3"
    assert subject.settings.noise == HiddenNoise(additive=0.2, multiplicative=0.1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"analysis_seed": -1}, r"analysis_seed must be at least 0, got -1\."),
        ({"test_sequences": 1}, r"test_sequences must be at least 2, got 1\."),
        ({"curvature_sequences": 0}, r"curvature_sequences must be at least 1, got 0\."),
        ({"smoothing_draws": 0}, r"smoothing_draws must be at least 1, got 0\."),
        ({"probes": 3}, r"probes must be at least 4, got 3\."),
        ({"density_probes": 1}, r"density_probes must be at least 2, got 1\."),
        ({"landscape_points": 2}, r"landscape_points must be at least 3, got 2\."),
        ({"smoothing_noise": 0.0}, r"smoothing_noise must be greater than 0, got 0\."),
        ({"confidence": 0.0}, r"confidence must be greater than 0, got 0\."),
        ({"max_attack_radius": 0.0}, r"max_attack_radius must be greater than 0, got 0\."),
        ({"landscape_extent": -1.0}, r"landscape_extent must be greater than 0, got -1\."),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        AnalysisSettings(**settings)


@pytest.mark.parametrize(
    ("name", "pieces"), [("jacobians", 6), ("stability", 7), ("regularizer", 4), ("smoothing", 27)]
)
def test_a_diagnostic_looks_at_the_clock_before_each_piece(name: str, pieces: int) -> None:
    """Pieces of 5 and then of all, levels, halves of 25 and 2, and single ones, of 27 sequences."""
    with pytest.raises(TimeIsUpError):
        DIAGNOSTICS[name].build(subject_of(check_time=stopping_after(pieces - 1)))
    DIAGNOSTICS[name].build(subject_of(check_time=stopping_after(pieces)))


@pytest.mark.parametrize(
    ("value_range", "expected"), [((0.0, 1.0), (0.1, 5.0)), ((-5.0, 250.0), (25.5, 1275.0)), (None, (0.1, 0.5))]
)
def test_default_strengths_are_in_the_unit_of_the_data(
    value_range: tuple[float, float] | None, expected: tuple[float, float]
) -> None:
    found = AnalysisSettings().for_data(value_range)
    assert (found.smoothing_noise, found.max_attack_radius) == pytest.approx(expected)
    given = AnalysisSettings(smoothing_noise=0.3, max_attack_radius=2.0).for_data(value_range)
    assert (given.smoothing_noise, given.max_attack_radius) == (0.3, 2.0)
