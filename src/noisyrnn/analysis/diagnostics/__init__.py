"""All diagnostics by name, in the order in which they are computed: the cheap ones first."""

from collections.abc import Callable
from functools import wraps

from noisyrnn.analysis.diagnostic_results import DiagnosticResults
from noisyrnn.analysis.diagnostics.context import AnalysisSettings, DiagnosticContext
from noisyrnn.analysis.diagnostics.curvature import curvature, landscape
from noisyrnn.analysis.diagnostics.dynamics import jacobians, regularizer, stability
from noisyrnn.analysis.diagnostics.margins import attack, margins, smoothing
from noisyrnn.analysis.diagnostics.noise import noise_at_test_time
from noisyrnn.registry import Entry, Registry

Build = Callable[[DiagnosticContext], DiagnosticResults]


def of_one_class(build: Build) -> Build:
    """Wrap a diagnostic that is defined for one class of each sequence, so that it refuses other data."""

    @wraps(build)
    def checked(context: DiagnosticContext) -> DiagnosticResults:
        if not context.one_class_each:
            labels = "targets at every step" if context.test.every_step else "values to predict"
            raise ValueError(f"data must have one class for each sequence for this diagnostic, got {labels}.")
        return build(context)

    return checked


_ENTRIES: dict[str, Entry[Build]] = {
    "margins": Entry(
        description="Output margins, input margins estimated and bounded from below", build=of_one_class(margins)
    ),
    "jacobians": Entry(description="Norms of Jacobians and gradients over time", build=jacobians),
    "stability": Entry(description="Lyapunov exponents, bounds, and their change with noise", build=stability),
    "regularizer": Entry(description="Increase of the loss by hidden noise", build=of_one_class(regularizer)),
    "test-noise": Entry(description="Accuracy or R² against the level of noise at test time", build=noise_at_test_time),
    "smoothing": Entry(description="Certified radii by randomised smoothing", build=of_one_class(smoothing)),
    "landscape": Entry(description="Loss along two filter-normalised directions", build=landscape),
    "attack": Entry(description="Input margins bounded from above by attacks", build=of_one_class(attack)),
    "curvature": Entry(description="Hessian: eigenvalues, trace, density; loss along eigenvectors", build=curvature),
}

DIAGNOSTICS: Registry[Entry[Build]] = Registry("noisyrnn.diagnostics", _ENTRIES)
"""Each `build` computes the diagnostic, or raises `ValueError` with the reason why the model or the data have none."""

__all__ = ["DIAGNOSTICS", "AnalysisSettings", "DiagnosticContext"]
