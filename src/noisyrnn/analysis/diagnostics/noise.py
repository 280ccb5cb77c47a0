"""Diagnostic of the hidden noise at test time."""

import math

import torch

from noisyrnn.analysis.diagnostic_results import Curve, DiagnosticResults, Quantity
from noisyrnn.analysis.diagnostics.context import DiagnosticContext
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.analysis.noise_at_test_time import scores_with_noise
from noisyrnn.robustness.evaluate import Score
from noisyrnn.robustness.metrics import METRICS, Metric
from noisyrnn.robustness.statistics import mean_interval

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_DRAWS = 10


def noise_at_test_time(context: DiagnosticContext) -> DiagnosticResults:
    """Measure the model with its own hidden noise left on, from none to twice its training level."""
    scores = []
    for level in LEVELS:
        context.check_time()
        scores += scores_with_noise(
            context.model, context.test, levels=[level], draws=_DRAWS, seed=context.settings.analysis_seed
        )
    name = next(iter(scores[0]))
    metric, mains = METRICS[name], [score[name] for score in scores]
    note = f"{_DRAWS} draws of the noise; {context.test_data}"

    def values(part: int | None = None) -> torch.Tensor:
        numbers = [score.mean if part is None else score.interval[part] for score in mains]
        return metric.factor * torch.tensor(numbers, dtype=torch.float64, device="cpu")

    curve = Curve(
        x=torch.tensor(LEVELS, dtype=torch.float64, device="cpu"),
        y=values(),
        low=values(0),
        high=values(1),
        xlabel="hidden noise at test time, in multiples of its training level",
        ylabel=f"{metric.title}, %" if metric.unit == "%" else metric.title,
        kind="estimate",
        note=note,
        band="the 95 % interval over its sequences",
    )
    off, trained = mains[0], mains[LEVELS.index(1.0)]
    quantities = [
        _quantity("test_noise_off", f"{metric.heading} without noise", off, metric, note),
        _quantity("test_noise_on", f"{metric.heading} with the noise of training", trained, metric, note),
        _gain(off, trained, metric, note),
    ]
    return DiagnosticResults(quantities=quantities, curves={"test_noise": curve}, data=context.test_data)


def _quantity(name: str, title: str, score: Score, metric: Metric, note: str) -> Quantity:
    """Return a score as a row of the table."""
    value = torch.tensor(score.mean, dtype=torch.float64, device="cpu")
    return Quantity(
        name=name,
        title=title,
        measurement=Measurement(value=value, kind="estimate"),
        interval=score.interval,
        unit=metric.unit,
        bounds=metric.bounds,
        note=note,
    )


def _gain(off: Score, trained: Score, metric: Metric, note: str) -> Quantity:
    """Return what the noise of training adds at test time, paired by sequence; above 0 where it is an improvement."""
    sign = 1.0 if metric.better == "higher" else -1.0
    low, high = metric.bounds
    gains = [sign * (one - other) for one, other in zip(trained.sequences, off.sequences, strict=True)]
    found = mean_interval(gains)
    return Quantity(
        name="test_noise_gain",
        title=f"Gain in {metric.title} by the noise of training",
        measurement=Measurement(value=torch.tensor(found.mean, dtype=torch.float64, device="cpu"), kind="estimate"),
        interval=None if math.isnan(found.low) else (found.low, found.high),
        unit=metric.unit,
        bounds=(low - high, high - low),
        note=f"{note}; differences between the same sequences",
    )
