"""All diagnostics by name, in the order in which they are computed: the cheap ones first."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

from noisyrnn.analysis.diagnostic_results import DiagnosticResults
from noisyrnn.analysis.diagnostics.context import AnalysisSettings, DiagnosticContext
from noisyrnn.analysis.diagnostics.curvature import curvature, landscape
from noisyrnn.analysis.diagnostics.dynamics import jacobians, regularizer, stability
from noisyrnn.analysis.diagnostics.margins import attack, margins, smoothing
from noisyrnn.analysis.diagnostics.noise import noise_at_test_time
from noisyrnn.registry import Entry, Registry

Build = Callable[[DiagnosticContext], DiagnosticResults]


@dataclass(frozen=True, kw_only=True)
class DiagnosticEntry(Entry[Build]):
    """One entry of `DIAGNOSTICS`.

    Args:
        description: One line for lists and help.
        build: Computes the diagnostic, or raises `ValueError` with the reason why the model or the data have none.
        cost: About how many times as long as the margins it takes, at least 1, for the estimate of the time left.
    """

    cost: int = 5


def of_one_class(build: Build) -> Build:
    """Wrap a diagnostic that is defined for one class of each sequence, so that it refuses other data."""

    @wraps(build)
    def checked(context: DiagnosticContext) -> DiagnosticResults:
        if not context.one_class_each:
            labels = "targets at every step" if context.test.every_step else "values to predict"
            raise ValueError(f"data must have one class for each sequence for this diagnostic, got {labels}.")
        return build(context)

    return checked


_ENTRIES: dict[str, DiagnosticEntry] = {
    "margins": DiagnosticEntry(
        description="Output margins, input margins estimated and bounded from below",
        build=of_one_class(margins),
        cost=1,
    ),
    "jacobians": DiagnosticEntry(description="Norms of Jacobians and gradients over time", build=jacobians, cost=10),
    "stability": DiagnosticEntry(
        description="Lyapunov exponents, bounds, and their change with noise", build=stability, cost=3
    ),
    "regularizer": DiagnosticEntry(
        description="Increase of the loss by hidden noise", build=of_one_class(regularizer), cost=15
    ),
    "test-noise": DiagnosticEntry(
        description="Accuracy or R² against the level of noise at test time", build=noise_at_test_time, cost=1
    ),
    "smoothing": DiagnosticEntry(
        description="Certified radii by randomised smoothing", build=of_one_class(smoothing), cost=10
    ),
    "landscape": DiagnosticEntry(description="Loss along two filter-normalised directions", build=landscape, cost=8),
    "attack": DiagnosticEntry(
        description="Input margins bounded from above by attacks", build=of_one_class(attack), cost=20
    ),
    "curvature": DiagnosticEntry(
        description="Hessian: eigenvalues, trace, density; loss along eigenvectors", build=curvature, cost=150
    ),
}

DIAGNOSTICS: Registry[DiagnosticEntry] = Registry("noisyrnn.diagnostics", _ENTRIES, kind=DiagnosticEntry)
"""All diagnostics."""

__all__ = ["DIAGNOSTICS", "AnalysisSettings", "DiagnosticContext", "DiagnosticEntry"]
