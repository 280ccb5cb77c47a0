"""Diagnostics of the curvature of the training loss at the trained weights."""

from torch import Tensor

from noisyrnn.analysis.diagnostic_results import Curve, DiagnosticResults, Quantity
from noisyrnn.analysis.diagnostics.context import DiagnosticContext
from noisyrnn.analysis.loss.hessian import LossHessian
from noisyrnn.analysis.loss.landscape import eigen_directions, filter_normalized_directions, loss_landscape
from noisyrnn.analysis.loss.spectrum import hessian_eigenvalues, spectral_density
from noisyrnn.analysis.loss.trace import hessian_trace


def curvature(context: DiagnosticContext) -> DiagnosticResults:
    """Compute the Hessian's extreme eigenvalues, trace and density, and the loss along the two leading eigenvectors."""
    settings, data = context.settings, context.train_data
    seed = settings.analysis_seed
    hessian = _Timed(LossHessian(context.model, context.train), context)
    pairs = hessian_eigenvalues(hessian, leading=2, trailing=2, seed=seed)
    worst = float(pairs.residuals.max())
    ends = f"Lanczos, {pairs.products} products, residual at most {worst:.2g}; {data}"
    trace = hessian_trace(hessian, probes=settings.probes, seed=seed)
    density = spectral_density(hessian, probes=settings.density_probes, seed=seed)
    context.check_time()
    plane = loss_landscape(
        context.model,
        context.train,
        eigen_directions(pairs),
        extent=settings.landscape_extent,
        points=settings.landscape_points,
    )
    entries = (
        ("hessian_largest", "Hessian's largest eigenvalue", pairs.largest, "lower", ends),
        ("hessian_smallest", "Hessian's smallest eigenvalue", pairs.smallest, None, ends),
        ("condition_number", "|largest| / |smallest| eigenvalue", pairs.condition_number, "lower", ends),
        ("hessian_trace", "Hessian's trace", trace, "lower", f"Hutch++, {settings.probes} products; {data}"),
    )
    quantities = [
        Quantity(name=name, title=title, measurement=found, better=better, note=note)  # type: ignore[arg-type]
        for name, title, found, better, note in entries
    ]
    low, high = density.density.interval()
    curve = Curve(
        x=density.grid,
        y=density.density.value,
        low=low,
        high=high,
        xlabel="eigenvalue",
        ylabel="density",
        kind="estimate",
        note=f"stochastic Lanczos quadrature, {settings.density_probes} probes, "
        f"normal densities of width {density.width:.2g}; {data}",
        band="the 95 % interval over its probes",
    )
    landscape = {**plane.to_dict(), "note": f"unit eigenvectors; {data}"}
    return DiagnosticResults(
        quantities=quantities, curves={"spectral_density": curve}, landscapes={"eigen": landscape}, data=data
    )


def landscape(context: DiagnosticContext) -> DiagnosticResults:
    """Compute the loss along two random directions whose rows have the norms of the rows of the weights."""
    settings = context.settings
    plane = loss_landscape(
        context.model,
        context.train,
        filter_normalized_directions(context.model, seed=settings.analysis_seed),
        extent=settings.landscape_extent,
        points=settings.landscape_points,
    )
    note = f"filter-normalised directions, seed {settings.analysis_seed}; {context.train_data}"
    return DiagnosticResults(landscapes={"filter": {**plane.to_dict(), "note": note}}, data=context.train_data)


class _Timed:
    """A Hessian that checks the time limit before every product."""

    def __init__(self, hessian: LossHessian, context: DiagnosticContext) -> None:
        self._hessian, self._subject = hessian, context
        self.size, self.dtype, self.device = hessian.size, hessian.dtype, hessian.device

    def matvec(self, vectors: Tensor) -> Tensor:
        """Return the product with a vector `(size,)`."""
        self._subject.check_time()
        return self._hessian.matvec(vectors)
