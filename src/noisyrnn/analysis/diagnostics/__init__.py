"""All diagnostics by name, in the order in which they are computed: the cheap ones first."""

from collections.abc import Callable

from noisyrnn.analysis.diagnostic_results import DiagnosticResults
from noisyrnn.analysis.diagnostics.context import AnalysisSettings, DiagnosticContext
from noisyrnn.analysis.diagnostics.curvature import curvature, landscape
from noisyrnn.analysis.diagnostics.dynamics import jacobians, regularizer, stability
from noisyrnn.analysis.diagnostics.margins import attack, margins, smoothing
from noisyrnn.analysis.diagnostics.noise import noise_at_test_time
from noisyrnn.registry import Entry

DIAGNOSTICS: dict[str, Entry[Callable[[DiagnosticContext], DiagnosticResults]]] = {
    "margins": Entry(description="Output margins, input margins estimated and bounded from below", build=margins),
    "jacobians": Entry(description="Norms of Jacobians and gradients over time", build=jacobians),
    "stability": Entry(description="Lyapunov exponents, bounds, and their change with noise", build=stability),
    "regularizer": Entry(description="Increase of the loss by hidden noise", build=regularizer),
    "test-noise": Entry(
        description="Accuracy or error against the level of noise at test time", build=noise_at_test_time
    ),
    "smoothing": Entry(description="Certified radii by randomised smoothing", build=smoothing),
    "landscape": Entry(description="Loss along two filter-normalised directions", build=landscape),
    "attack": Entry(description="Input margins bounded from above by attacks", build=attack),
    "curvature": Entry(description="Hessian: eigenvalues, trace, density; loss along eigenvectors", build=curvature),
}
"""Each `build` computes the diagnostic."""

__all__ = ["DIAGNOSTICS", "AnalysisSettings", "DiagnosticContext"]
