"""Diagnostics of margins: exact output margins, and estimates, certificates and attacks for input margins."""

from dataclasses import replace

import torch
from torch import Tensor

from noisyrnn.analysis.diagnostic_results import Curve, DiagnosticResults, Quantity
from noisyrnn.analysis.diagnostics.context import DiagnosticContext, mean_quantity, median_quantity
from noisyrnn.analysis.margins.attack_radius import attack_radius
from noisyrnn.analysis.margins.lipschitz_bound import margin_certificate
from noisyrnn.analysis.margins.margin import input_margin_estimate, linearised_margin, output_margins
from noisyrnn.analysis.margins.smoothing import ABSTAIN, certify
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.padding import valid_values
from noisyrnn.robustness.logits import Model
from noisyrnn.robustness.standardized_values import StandardizedValues
from noisyrnn.robustness.statistics import accuracy_interval

_POINTS = 60  # of a curve
_ATTACKED = 25  # sequences between two looks at the clock


class _Distances:
    """Test sequences in the unit of distances, and the model as a function of them.

    The unit is that of the data if they state their range of values. Otherwise it is the standard deviation s of each
    channel in the training data, and s√n for the ℓ2 norm of a whole sequence, with n the number of its values that
    vary, so that the unit depends neither on the scale of the data nor on the length of a sequence.

    Args:
        context: Context with the test sequences.
        rows: Indices of the sequences to use (default: all).
        per_value: Whether sequences are in units of s√n.

    Attributes:
        model: Function from `inputs` to logits.
        inputs: Sequences.
        labels: Classes of the sequences.
        lengths: Lengths of the sequences, or `None`.
        step_unit: Name of the unit of the change of one step.
        unit: Name of the unit of the ℓ2 norm of a whole sequence.
        about: Explanation of the units.
        root: √n of each sequence, `(rows,)`; 1 in the units of the data.
        largest_scale: Largest s; 1 in the units of the data.
    """

    def __init__(self, context: DiagnosticContext, rows: slice = slice(None), *, per_value: bool = False) -> None:
        test, scale = context.test, context.scale
        self.inputs = test.inputs[rows]
        self.labels = test.labels[rows]
        self.lengths = None if test.lengths is None else test.lengths[rows]
        self.model: Model = context.model
        self.step_unit = self.unit = "units of the data"
        self.about = ""
        self.largest_scale = 1.0
        self.root = torch.ones(len(self.inputs), dtype=torch.float64, device=self.inputs.device)
        if scale is None:
            return
        if not any(scale.std):
            raise ValueError("data must vary in the training part, got a standard deviation of 0 in every channel.")
        self.step_unit, self.unit = "s", "s√n"
        self.about = "; s: standard deviation of each channel in the training data, n: values of a sequence"
        self.largest_scale = max(scale.std)
        steps = valid_values(self.inputs, self.lengths).sum(dim=(1, 2))
        self.root = (steps * sum(std > 0 for std in scale.std)).double().sqrt()
        values = StandardizedValues(self.inputs, scale, factor=self.root if per_value else None)
        self.inputs, self.model = values.values, values.view(context.model)


def margins(context: DiagnosticContext) -> DiagnosticResults:
    """Compute output margins, estimates of the input margin, and its rigorous lower bound if there is one."""
    model, test, data = context.model, context.test, context.test_data
    space = _Distances(context)
    arguments = (space.model, space.inputs, space.labels)
    linearised = linearised_margin(*arguments, lengths=space.lengths)
    quantities = [
        mean_quantity("output_margin", "Output margin", output_margins(model, test), better="higher", note=data),
        median_quantity(
            "linearised_margin",
            "Input margin, linearised model",
            replace(linearised, value=linearised.value / space.root),
            better="higher",
            unit=space.unit,
            note=f"ℓ2 distance to first order; {data}{space.about}",
        ),
        median_quantity(
            "input_margin_estimate",
            "Input margin, from Jacobians",
            input_margin_estimate(*arguments, lengths=space.lengths),
            better="higher",
            unit=space.step_unit,
            note=f"largest change of one step, the supremum taken at the sequence; {data}{space.about}",
        ),
    ]
    try:
        bound = margin_certificate(model, test.inputs[:], test.labels, lengths=test.lengths)
    except (TypeError, ValueError):  # no global Lipschitz constant is known for this cell
        return DiagnosticResults(quantities=quantities, data=data)
    quantities.append(
        median_quantity(
            "margin_certificate",
            "Input margin, lower bound",
            # A change within r√n of the standardized values is one within r√n times the largest scale.
            replace(bound, value=bound.value / (space.root * space.largest_scale)),
            better="higher",
            unit=space.unit,
            note=f"ℓ2, from global Lipschitz constants; {data}{space.about}",
        )
    )
    return DiagnosticResults(quantities=quantities, data=data)


def attack(context: DiagnosticContext) -> DiagnosticResults:
    """Compute upper bounds on the input margin: the smallest successful attack."""
    test, settings = context.test, context.settings
    assert settings.max_attack_radius is not None
    sizes = []
    for first in range(0, len(test), _ATTACKED):
        context.check_time()
        space = _Distances(context, slice(first, first + _ATTACKED), per_value=True)
        found = attack_radius(
            space.model,
            space.inputs,
            space.labels,
            upper=settings.max_attack_radius,
            seed=settings.analysis_seed,
            lengths=space.lengths,
        )
        sizes.append(found.value)
    each = torch.cat(sizes).cpu()
    note = f"ℓ2, projected gradient ascent and bisection; {context.test_data}; 0 where misclassified{space.about}"
    middle = median_quantity(
        "attack_radius",
        "Input margin, upper bound",
        Measurement(value=each, kind="certificate"),
        better="higher",
        unit=space.unit,
        note=note,
    )
    finite = each[each.isfinite()]
    radii = torch.linspace(
        0,
        float(finite.max()) if len(finite) else settings.max_attack_radius,
        _POINTS,
        dtype=torch.float32,
        device="cpu",
    )
    curve = _share_curve(
        [each > radius for radius in radii], radii, unit=space.unit, note=f"not broken by an attack; {note}"
    )
    return DiagnosticResults(quantities=[middle], curves={"attack_accuracy": curve}, data=context.test_data)


def smoothing(context: DiagnosticContext) -> DiagnosticResults:
    """Compute certified radii of the classifier smoothed with white noise."""
    test, settings = context.test, context.settings
    assert settings.smoothing_noise is not None
    parts, roots = [], []
    for k in range(len(test)):
        context.check_time()
        space = _Distances(context, slice(k, k + 1))
        roots.append(space.root.cpu())
        parts.append(
            certify(
                space.model,
                space.inputs,
                sigma=settings.smoothing_noise,
                draws=settings.smoothing_draws,
                confidence=settings.confidence,
                seed=settings.analysis_seed + k,
                lengths=space.lengths,
            )
        )
    predictions = torch.cat([part.predictions for part in parts])
    radius = torch.cat([part.radius.value for part in parts]) / torch.cat(roots)
    right = predictions == test.labels.cpu()
    undecided = accuracy_interval((predictions == ABSTAIN).int().tolist(), draws=1)
    sigma = f"{settings.smoothing_noise:g}{'' if context.scale is None else ' s'}"
    note = f"smoothed with σ = {sigma}, {settings.smoothing_draws} draws; {context.test_data}{space.about}"
    quantities = [
        mean_quantity(
            "certified_radius",
            "Certified radius, smoothed",
            Measurement(value=radius * right, kind="certificate", confidence=settings.confidence),
            better="higher",
            unit=space.unit,
            note=f"ℓ2, 0 where wrong or undecided, each at its own confidence; {note}",
        ),
        Quantity(
            name="abstention",
            title="Undecided, smoothed",
            measurement=Measurement(
                value=torch.tensor(undecided.mean, dtype=torch.float32, device="cpu"), kind="exact"
            ),
            interval=(undecided.low, undecided.high),
            bounds=(0.0, 1.0),
            better="lower",
            note=f"share of sequences with its interval over them; {note}",
        ),
    ]
    radii = torch.linspace(0, 1.05 * max(float(radius.max()), 1e-9), _POINTS, dtype=torch.float32, device="cpu")
    curve = _share_curve(
        [right & (radius >= r) for r in radii],
        radii,
        unit=space.unit,
        note=f"certified; {note}",
        confidence=settings.confidence,
    )
    return DiagnosticResults(quantities=quantities, curves={"certified_accuracy": curve}, data=context.test_data)


def _share_curve(held: list[Tensor], radii: Tensor, *, unit: str, note: str, confidence: float | None = None) -> Curve:
    """Return the share of sequences for which a condition holds at each radius, with its interval."""
    shares = [accuracy_interval(one.int().tolist(), draws=1) for one in held]
    mean, low, high = (
        torch.tensor([getattr(share, end) for share in shares], dtype=torch.float32, device="cpu")
        for end in ("mean", "low", "high")
    )
    return Curve(
        x=radii,
        y=mean,
        low=low,
        high=high,
        xlabel=f"ℓ2 radius, in {unit}",
        ylabel="share of sequences",
        kind="certificate",
        confidence=confidence,
        note=note,
        band="the 95 % interval over its sequences",
    )
