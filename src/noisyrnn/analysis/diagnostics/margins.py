"""How far sequences are from being misclassified: exactly, estimated, certified and attacked."""

import torch
from torch import Tensor

from noisyrnn.analysis.diagnostics.subject import Subject, mean_quantity, median_quantity
from noisyrnn.analysis.findings import Curve, Findings, Quantity
from noisyrnn.analysis.margins.attack_radius import attack_radius
from noisyrnn.analysis.margins.lipschitz_bound import margin_certificate
from noisyrnn.analysis.margins.margin import input_margin_estimate, linearised_margin, output_margins
from noisyrnn.analysis.margins.smoothing import ABSTAIN, certify
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.robustness.statistics import accuracy_interval

_POINTS = 60  # of a curve


def margins(subject: Subject) -> Findings:
    """Output margins, estimates of the input margin, and its rigorous lower bound where there is one."""
    model, test, data = subject.model, subject.test, subject.test_data
    given = (model, test.inputs, test.labels)
    quantities = [
        mean_quantity("output_margin", "Output margin", output_margins(model, test), better="higher", note=data),
        median_quantity(
            "linearised_margin",
            "Input margin, linearised model",
            linearised_margin(*given, lengths=test.lengths),
            better="higher",
            unit="units of the data",
            note=f"ℓ2 distance to first order; {data}",
        ),
        median_quantity(
            "input_margin_estimate",
            "Input margin, from Jacobians",
            input_margin_estimate(*given, lengths=test.lengths),
            better="higher",
            unit="units of the data",
            note=f"largest change of one step, the supremum taken at the sequence; {data}",
        ),
    ]
    try:
        bound = margin_certificate(*given, lengths=test.lengths)
    except (TypeError, ValueError):  # no global Lipschitz constant is known for this cell
        return Findings(quantities=quantities, data=data)
    quantities.append(
        median_quantity(
            "margin_certificate",
            "Input margin, lower bound",
            bound,
            better="higher",
            unit="units of the data",
            note=f"ℓ2, from global Lipschitz constants; {data}",
        )
    )
    return Findings(quantities=quantities, data=data)


def attack(subject: Subject) -> Findings:
    """Upper bounds on the input margin: the smallest successful attack."""
    test, settings = subject.test, subject.settings
    sizes = []
    for rows in torch.arange(len(test), device="cpu").split(25):
        subject.check_time()
        found = attack_radius(
            subject.model,
            test.inputs[rows],
            test.labels[rows],
            upper=settings.max_attack_radius,
            seed=settings.analysis_seed,
            lengths=None if test.lengths is None else test.lengths[rows],
        )
        sizes.append(found.value)
    each = torch.cat(sizes).cpu()
    note = f"ℓ2, projected gradient ascent and bisection; {subject.test_data}; 0 where misclassified"
    middle = median_quantity(
        "attack_radius",
        "Input margin, upper bound",
        Measurement(value=each, kind="certificate"),
        better="higher",
        unit="units of the data",
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
    curve = _share_curve([each > radius for radius in radii], radii, note=f"not broken by an attack; {note}")
    return Findings(quantities=[middle], curves={"attack_accuracy": curve}, data=subject.test_data)


def smoothing(subject: Subject) -> Findings:
    """Certified radii of the classifier smoothed with white noise."""
    test, settings = subject.test, subject.settings
    parts = []
    for k in range(len(test)):
        subject.check_time()
        parts.append(
            certify(
                subject.model,
                test.inputs[k : k + 1],
                sigma=settings.smoothing_noise,
                draws=settings.smoothing_draws,
                confidence=settings.confidence,
                seed=settings.analysis_seed + k,
                lengths=None if test.lengths is None else test.lengths[k : k + 1],
            )
        )
    predictions = torch.cat([part.predictions for part in parts])
    radius = torch.cat([part.radius.value for part in parts])
    right = predictions == test.labels.cpu()
    undecided = accuracy_interval((predictions == ABSTAIN).int().tolist(), draws=1)
    note = f"smoothed with σ = {settings.smoothing_noise:g}, {settings.smoothing_draws} draws; {subject.test_data}"
    quantities = [
        mean_quantity(
            "certified_radius",
            "Certified radius, smoothed",
            Measurement(value=radius * right, kind="certificate", confidence=settings.confidence),
            better="higher",
            unit="units of the data",
            note=f"ℓ2, 0 where wrong or undecided, each at its own confidence; {note}",
        ),
        Quantity(
            name="abstention",
            title="Undecided, smoothed",
            measurement=Measurement(
                value=torch.tensor(undecided.mean, dtype=torch.float32, device="cpu"), kind="exact"
            ),
            interval=(undecided.low, undecided.high),
            better="lower",
            note=f"share of sequences with its interval over them; {note}",
        ),
    ]
    radii = torch.linspace(0, 1.05 * max(float(radius.max()), 1e-9), _POINTS, dtype=torch.float32, device="cpu")
    curve = _share_curve(
        [right & (radius >= r) for r in radii], radii, note=f"certified; {note}", confidence=settings.confidence
    )
    return Findings(quantities=quantities, curves={"certified_accuracy": curve}, data=subject.test_data)


def _share_curve(held: list[Tensor], radii: Tensor, *, note: str, confidence: float | None = None) -> Curve:
    """Shares of sequences for which something held at each radius, with Wilson intervals."""
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
        xlabel="ℓ2 radius, in units of the data",
        ylabel="share of sequences",
        kind="certificate",
        confidence=confidence,
        note=note,
        band="the 95 % interval over its sequences",
    )
