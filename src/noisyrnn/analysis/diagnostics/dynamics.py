"""Diagnostics of the dynamics: Jacobians, regulariser, Lyapunov exponents."""

import copy
import math

import torch
from torch import Tensor

from noisyrnn.analysis.diagnostic_results import Curve, DiagnosticResults, Quantity
from noisyrnn.analysis.diagnostics.context import DiagnosticContext, mean_quantity
from noisyrnn.analysis.dynamics.jacobian import gradient_norms, gradient_rate, input_jacobian_norms, jacobian_norms
from noisyrnn.analysis.dynamics.lyapunov import largest_exponent
from noisyrnn.analysis.dynamics.stability import discrete_exponent_bounds, stabilization_scan, verdict
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.analysis.regularizer import antithetic_regularizer, explicit_regularizer, tangent_regularizer
from noisyrnn.analysis.trajectory import cell_of
from noisyrnn.kernels.recurrence import DRIFTS
from noisyrnn.kernels.reference import recurrence_of

LEVELS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
_PAIRS, _DRAWS, _PATHS = 256, 64, 4
_FEW = 25  # sequences of what takes O(steps · d³) for each
_LN10 = math.log(10)


def jacobians(context: DiagnosticContext) -> DiagnosticResults:
    """Compute norms over time of state-to-state Jacobians and gradients, and norms of the Jacobian of the logits.

    Without one class for each sequence there are only those of the states.
    """
    model, test, data = context.model, context.test, context.test_data
    states, inputs = context.dynamics
    norms = []
    few = f"{min(_FEW, len(test))} of {data}"
    for rows in torch.arange(min(_FEW, len(test)), device="cpu").split(5):
        context.check_time()
        lengths = None if test.lengths is None else test.lengths[rows]
        norms.append(jacobian_norms(states, inputs[rows], lengths=lengths).value)
    products = torch.cat(norms)
    counts = (
        torch.full((len(test),), test.inputs.shape[1], dtype=torch.int64, device="cpu")
        if test.lengths is None
        else test.lengths.cpu()
    )
    quantities = [
        mean_quantity(
            "jacobian_norm",
            "log₁₀ norm of the whole product of Jacobians",
            Measurement(value=products[:, 0] / _LN10, kind="exact"),
            better="lower",
            note=f"spectral norm of ∂h_M/∂h_0; {few}",
        )
    ]
    curves = {"jacobian_norms": _over_time(products, counts[:_FEW], "log₁₀ spectral norm of ∂h_M/∂h_m")}
    if not context.one_class_each:  # the other quantities are those of the logits and of their loss
        return DiagnosticResults(quantities=quantities, curves=curves, data=data)
    gradients = gradient_norms(model, test.inputs[:], test.labels, lengths=test.lengths)
    context.check_time()
    spectral, frobenius = input_jacobian_norms(model, test.inputs[:], lengths=test.lengths)
    quantities += [
        mean_quantity(
            "input_jacobian_norm",
            "Jacobian of logits to inputs, spectral norm",
            spectral,
            better="lower",
            unit="logits per unit of the data",
            note=data,
        ),
        mean_quantity(
            "input_jacobian_frobenius",
            "Jacobian of logits to inputs, Frobenius norm",
            frobenius,
            better="lower",
            unit="logits per unit of the data",
            note=data,
        ),
        mean_quantity(
            "gradient_rate",
            "Growth of the gradient",
            gradient_rate(gradients),
            better=None,
            unit="per step back",
            note=f"below 0 it vanishes, above 0 it explodes; {data}",
        ),
    ]
    curves["gradient_norms"] = _over_time(gradients.value, counts + 1, "log₁₀ norm of ∂ℓ/∂h_m")
    return DiagnosticResults(quantities=quantities, curves=curves, data=data)


def _over_time(logs: Tensor, counts: Tensor, ylabel: str) -> Curve:
    """Return median and middle 80 % over sequences of natural logarithms `(n, steps)`, by steps before the end.

    `counts` `(n,)` is the number of entries in each row.
    """
    back = torch.arange(logs.shape[1], device="cpu")
    place = counts[:, None] - 1 - back
    aligned = logs.cpu().gather(1, place.clamp(min=0)).where(place >= 0, torch.nan) / _LN10
    aligned = aligned.where(aligned.isfinite(), torch.nan)
    low, middle, high = (aligned.nanquantile(q, dim=0) for q in (0.1, 0.5, 0.9))
    return Curve(
        x=back.double(),
        y=middle,
        low=low,
        high=high,
        xlabel="steps before the end",
        ylabel=ylabel,
        kind="exact",
        note="median over sequences",
        band="the middle 80 % of its sequences",
    )


def regularizer(context: DiagnosticContext) -> DiagnosticResults:
    """Compute the increase of the loss by the reference noise: to second order, and in total."""
    test, settings = context.test, context.settings
    noise, labels = settings.noise, test.labels
    model = copy.deepcopy(context.model).double()
    recurrence = recurrence_of(cell_of(model))
    exact = recurrence is not None and recurrence.kind in DRIFTS
    totals, first, second, simulated = [], [], [], []
    for rows in torch.arange(len(test), device="cpu").split(25):
        context.check_time()
        lengths = None if test.lengths is None else test.lengths[rows]
        arguments = (model, test.inputs[rows].double(), labels[rows])
        if exact:
            with torch.no_grad():
                found = explicit_regularizer(*arguments, noise=noise, lengths=lengths)
        else:
            found = tangent_regularizer(
                *arguments, noise=noise, lengths=lengths, draws=_DRAWS, seed=settings.analysis_seed
            )
        totals.append(found.measurement().value)
        first.append(found.measurement("P").value)
        second.append(found.measurement("Q").value)
        context.check_time()
        simulated.append(
            antithetic_regularizer(
                context.model,
                test.inputs[rows],
                labels[rows],
                noise=noise,
                lengths=lengths,
                pairs=_PAIRS,
                seed=settings.analysis_seed,
            ).value
        )
    kind = "exact" if exact else "estimate"
    how = "covariance recursion" if exact else f"{_DRAWS} random tangents"
    reference = f"noise additive {noise.additive:g}, multiplicative {noise.multiplicative:g}; {context.test_data}"
    entries = (
        ("regularizer", "Regulariser ½(P + Q)", totals, "lower", kind, how),
        ("regularizer_P", "P, through the dynamics' curvature", first, None, kind, how),
        ("regularizer_Q", "Q, through the loss's curvature", second, "lower", kind, how),
        ("noise_effect", "Rise of the loss by the noise", simulated, "lower", "estimate", f"{_PAIRS} antithetic pairs"),
    )
    quantities = [
        mean_quantity(
            name,
            title,
            Measurement(value=torch.cat(values), kind=of),
            better="lower" if better else None,
            unit="nats",
            note=f"{source}, {reference}",
        )
        for name, title, values, better, of, source in entries
    ]
    return DiagnosticResults(quantities=quantities, data=context.test_data)


def stability(context: DiagnosticContext) -> DiagnosticResults:
    """Compute the largest Lyapunov exponent without and with reference noise, bounds, and its change with noise."""
    (model, inputs), test, settings = context.dynamics, context.test, context.settings
    shortest = inputs.shape[1] if test.lengths is None else int(test.lengths.min())
    burn_in = shortest // 4
    seed, noise = settings.analysis_seed, settings.noise
    quiet = largest_exponent(model, inputs, burn_in=burn_in, seed=seed, lengths=test.lengths)
    context.check_time()
    note = f"burn-in {burn_in} steps; {context.test_data}, which drive it; standard error over them"
    quantities = [
        Quantity(
            name="lyapunov_exponent",
            title="Largest Lyapunov exponent",
            measurement=quiet,
            better="lower",
            unit="per step",
            note=f"without noise; {note}",
        )
    ]
    try:
        low, high = discrete_exponent_bounds(model)
    except TypeError:
        pass
    else:
        for name, title, bound in (("lower", "lower", low), ("upper", "upper", high)):
            quantities.append(
                Quantity(
                    name=f"lyapunov_{name}_bound",
                    title=f"Largest Lyapunov exponent, {title} bound",
                    measurement=bound,
                    better="lower",
                    unit="per step",
                    note="without noise, for all inputs, from singular values of the weights",
                )
            )
    scans = []
    for level in LEVELS:
        context.check_time()
        scans.append(
            stabilization_scan(
                model,
                inputs[:_FEW],
                levels=[level],
                noise=noise,
                paths=_PATHS,
                seed=seed,
                burn_in=burn_in,
                lengths=None if test.lengths is None else test.lengths[:_FEW],
            )
        )
    value = torch.cat([scan.value for scan in scans])
    ends = [(scan.value, scan.value) if scan.standard_error is None else scan.interval() for scan in scans]
    curve = Curve(
        x=torch.tensor(LEVELS, dtype=torch.float32, device="cpu"),
        y=value,
        low=torch.cat([low for low, _ in ends]),
        high=torch.cat([high for _, high in ends]),
        xlabel="noise, in multiples of the reference",
        ylabel="largest Lyapunov exponent, per step",
        kind="estimate",
        note=f"reference noise: additive {noise.additive:g}, multiplicative {noise.multiplicative:g}; "
        f"{len(inputs[:_FEW])} sequences, {_PATHS} paths each",
        band="the 95 % interval over its sequences",
    )
    return DiagnosticResults(
        quantities=quantities, curves={"stabilization": curve}, verdict=verdict(quiet), data=context.test_data
    )
