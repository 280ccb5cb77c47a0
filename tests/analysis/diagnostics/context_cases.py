"""A small classifier and its sequences, with no setting at its default, for the tests of the diagnostics."""

from collections.abc import Callable
from typing import Any

import torch
from tests.analysis.loss.curvature_cases import classifier
from torch import Tensor

from noisyrnn.analysis.diagnostic_results import DiagnosticResults, Quantity
from noisyrnn.analysis.diagnostics import AnalysisSettings, DiagnosticContext
from noisyrnn.data.split import Split

SETTINGS = {
    "analysis_seed": 3,
    "additive": 0.2,
    "multiplicative": 0.1,
    "smoothing_noise": 0.4,
    "smoothing_draws": 60,
    "confidence": 0.9,
    "max_attack_radius": 0.7,
    "probes": 8,
    "density_probes": 3,
    "landscape_points": 3,
    "landscape_extent": 0.2,
}


class TimeIsUpError(Exception):
    """What the clock of a test raises."""


def ragged(count: int, *, seed: int) -> Split:
    """Sequences of 8 to 12 steps, with ones behind their ends."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 12, 2, generator=generator, dtype=torch.float64)
    lengths = 8 + torch.arange(count) % 5
    inputs[torch.arange(12) >= lengths[:, None]] = 1.0
    labels = torch.randint(3, (count,), generator=generator)
    return Split(inputs=inputs, labels=labels, lengths=lengths, classes=3)


def subject_of(
    name: str = "noisy", *, check_time: Callable[[], None] = lambda: None, **settings: Any
) -> DiagnosticContext:
    """27 test sequences, two more than what is computed at once, and 6 training sequences.

    The classes come about equally often, so that some sequences lie near a boundary; most labels are right.
    """
    model, test = classifier(name), ragged(27, seed=1)
    with torch.no_grad():
        model.readout.bias.sub_(model(test.inputs, lengths=test.lengths).mean(0))
        labels = model(test.inputs, lengths=test.lengths).argmax(1)
    labels[::4] = test.labels[::4]
    return DiagnosticContext(
        model=model,
        train=ragged(6, seed=2),
        test=Split(inputs=test.inputs, labels=labels, lengths=test.lengths, classes=3),
        settings=AnalysisSettings(**{**SETTINGS, **settings}),
        check_time=check_time,
    )


def stopping_after(calls: int) -> Callable[[], None]:
    """A clock that lets so many looks pass and raises at the next."""
    left = iter(range(calls))

    def check_time() -> None:
        if next(left, None) is None:
            raise TimeIsUpError

    return check_time


def quantity(found: DiagnosticResults, name: str) -> Quantity:
    return next(one for one in found.quantities if one.name == name)


def value(found: DiagnosticResults, name: str) -> float:
    return float(quantity(found, name).measurement.value)


def finite_mean(values: Tensor) -> float:
    return float(values[values.isfinite()].mean())
