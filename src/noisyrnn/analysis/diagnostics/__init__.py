"""Every diagnostic by name, in the order in which they are computed: what is cheap comes first."""

from noisyrnn.analysis.diagnostics.curvature import curvature, landscape
from noisyrnn.analysis.diagnostics.dynamics import jacobians, regularizer, stability
from noisyrnn.analysis.diagnostics.margins import attack, margins, smoothing
from noisyrnn.analysis.diagnostics.subject import AnalysisSettings, Diagnostic, Subject

DIAGNOSTICS: dict[str, Diagnostic] = {
    "margins": Diagnostic(description="Output margins, input margins estimated and bounded from below", run=margins),
    "jacobians": Diagnostic(description="Norms of Jacobians and gradients over time", run=jacobians),
    "stability": Diagnostic(description="Lyapunov exponents, bounds, and their change with noise", run=stability),
    "regularizer": Diagnostic(description="What hidden noise adds to the loss", run=regularizer),
    "smoothing": Diagnostic(description="Certified radii by randomised smoothing", run=smoothing),
    "landscape": Diagnostic(description="Loss along two filter-normalised directions", run=landscape),
    "attack": Diagnostic(description="Input margins bounded from above by attacks", run=attack),
    "curvature": Diagnostic(description="Hessian: eigenvalues, trace, density; loss along eigenvectors", run=curvature),
}

__all__ = ["DIAGNOSTICS", "AnalysisSettings", "Diagnostic", "Subject"]
