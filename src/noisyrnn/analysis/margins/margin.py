"""Distances of sequences from a decision boundary: exact in the logits, to first order in the inputs."""

import math
from typing import Literal

import torch
from torch import Tensor

from noisyrnn.analysis.arguments import check_class_labels, check_classifier, check_measured
from noisyrnn.analysis.dynamics.jacobian import input_jacobian
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.checks import check_choice, check_integer
from noisyrnn.data.split import Split, check_regular, check_split
from noisyrnn.padding import valid_values
from noisyrnn.robustness.evaluate import BLOCK
from noisyrnn.robustness.gradient import recording
from noisyrnn.robustness.logits import Model, check_rows, predict, take_rows


def leads(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the label's logit minus each other logit, float64 `(batch, classes)`; infinite at the label itself."""
    logits, column = logits.double(), labels[:, None]
    return (logits.gather(1, column) - logits).scatter(1, column, math.inf)


@torch.no_grad()
def output_margins(model: Model, split: Split) -> Measurement:
    r"""Compute the output margin :math:`o = \mathrm{logit}_y - \max_{j \neq y} \mathrm{logit}_j` of each sequence.

    Args:
        model: Deterministic callable from inputs to logits, on the device of `split`; a module must be in eval mode.
        split: Sequences and their labels, one class for each.

    Returns:
        Exact, float64 `(n,)`, in units of the logits; negative if another class has a larger logit.

    Raises:
        TypeError: If the model predicts values or classes of steps.
        ValueError: If the model is in training mode or its noise on, it returns another shape, or the labels are values
            or those of steps.
        RuntimeError: If a logit is not finite.

    Example:
        >>> split = Split(inputs=torch.tensor([[[1.0]], [[-2.0]]]), labels=torch.tensor([1, 1]), classes=2)
        >>> output_margins(lambda x: torch.cat([-x[:, 0], x[:, 0]], dim=1), split).value
        tensor([ 2., -4.], dtype=torch.float64)
    """
    check_classifier(model)
    check_split("split", split)
    check_regular("split", split)
    if not split.one_class_each:
        got = "classes at every step" if split.classes else "values"
        raise ValueError(f"split must have one class for each sequence for output margins, got {got}.")
    check_rows(model, len(split))
    margins = []
    for rows in torch.arange(len(split), device="cpu").split(BLOCK):
        labels, lengths = split.labels[rows], None if split.lengths is None else split.lengths[rows]
        margins.append(leads(predict(take_rows(model, rows), split.inputs[rows], labels, lengths), labels).amin(dim=1))
    return Measurement(value=torch.cat(margins), kind="exact")


@recording
def linearised_margin(model: Model, inputs: Tensor, labels: Tensor, *, lengths: Tensor | None = None) -> Measurement:
    r"""Compute the ℓ2 distance to the nearest decision boundary of the model linearised at each sequence.

    .. math:: \min_{j \neq y} \frac{\mathrm{logit}_y - \mathrm{logit}_j}
        {\|\nabla_x (\mathrm{logit}_y - \mathrm{logit}_j)\|_2}

    It is the exact distance for a model that is linear in its inputs, and neither a lower nor an upper bound otherwise.

    Args:
        model: Deterministic and differentiable, treating its rows separately; a module must be in eval mode.
        inputs: `(batch, steps, input_size)`. NaN where a value is missing, for a model with `missing`: the distance is
            over the values that are there.
        labels: True classes, `(batch,)`.
        lengths: Valid steps of each sequence, `(batch,)`; padding has no effect.

    Returns:
        An estimate, float64 `(batch,)`, in units of the inputs: 0 if misclassified, infinite if no gradient
        leads to another class.

    Raises:
        TypeError: If the model predicts values or classes of steps.
        ValueError: If a shape does not fit, the model is in training mode or its noise on.
        RuntimeError: If the outputs carry no gradient, or it is not finite.

    Example:
        >>> model = lambda x: torch.stack([-x.sum(dim=(1, 2)), x.sum(dim=(1, 2))], dim=1)
        >>> linearised_margin(model, torch.ones(1, 4, 1), torch.tensor([1])).value
        tensor([2.], dtype=torch.float64)
    """
    check_classifier(model)
    check_measured(model, inputs, lengths)
    labels = check_class_labels(labels, count=len(inputs))
    ahead, jacobian = _linearisation(model, inputs, labels, lengths)
    distances, _ = _class_distances(ahead, jacobian, labels)
    return Measurement(value=distances.amin(dim=1), kind="estimate")


@recording
def input_margin_estimate(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: Literal["l2", "largest_step"] = "largest_step",
    points: int = 1,
    lengths: Tensor | None = None,
) -> Measurement:
    r"""Estimate a lower bound on the distance to the decision boundary, from the gain of each step.

    .. math:: \frac{o}{\sqrt 2 \, \sum_m g_m}, \quad
        g_m = \sup \left\| \frac{\partial\, \mathrm{logits}}{\partial x_m} \right\|_2, \quad
        \frac{\partial\, \mathrm{logits}}{\partial x_m} = \delta_m V \Phi_{M,m+1} D_m U

    with `o` the output margin and the sup over the segment from the sequence to the boundary. With the true sup the
    logits differ by at most :math:`\sum_m g_m \|\Delta x_m\|`, so this bounds :math:`\max_m \|\Delta x_m\|_2`, and
    with :math:`(\sum_m g_m^2)^{1/2}` in place of the sum it bounds :math:`\|\Delta x\|_2`. The sup is not known: it is
    replaced by the largest value at a few points of the segment to the boundary of the linearised model, so the result
    is an estimate.

    Args:
        model: Deterministic and differentiable, treating its rows separately; a module must be in eval mode. For steps
            that last `dt`, `functools.partial(model, dt=dt)`.
        inputs: `(batch, steps, input_size)`, not standardised: the model's own standardisation is differentiated. NaN
            where a value is missing, for a model with `missing`: the distance is over the values that are there.
        labels: True classes, `(batch,)`.
        norm: `"largest_step"`, the largest change of one step, as published; or `"l2"`, of the whole sequence.
        points: Points of the segment, equally spaced from the sequence to the boundary, `>= 1`; 1 is the sequence.
        lengths: Valid steps of each sequence, `(batch,)`; padding has no effect.

    Returns:
        An estimate, float64 `(batch,)`, in units of the inputs: 0 if misclassified, infinite if no step has an effect.

    Raises:
        TypeError: If the model predicts values or classes of steps.
        ValueError: If a shape does not fit, an option is out of range, the model is in training mode or its noise on.
        RuntimeError: If the outputs carry no gradient, or it is not finite.

    Example:
        >>> model = lambda x: torch.stack([-x.sum(dim=(1, 2)), x.sum(dim=(1, 2))], dim=1)
        >>> estimate = input_margin_estimate(model, torch.ones(1, 4, 1), torch.tensor([1]))
        >>> round(float(estimate.value), 6), estimate.kind
        (1.0, 'estimate')

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021.
    """
    check_classifier(model)
    check_measured(model, inputs, lengths)
    labels = check_class_labels(labels, count=len(inputs))
    check_choice("norm", norm, ("l2", "largest_step"))
    check_integer("points", points, minimum=1)
    ahead, jacobian = _linearisation(model, inputs, labels, lengths)
    gains = _gains(jacobian)
    if points > 1:
        to_boundary = _to_boundary(ahead, jacobian, labels).to(inputs.dtype)
        for k in range(1, points):
            moved = inputs.detach() + k / (points - 1) * to_boundary
            gains = torch.maximum(gains, _gains(_linearisation(model, moved, labels, lengths)[1]))
    total = gains.sum(dim=1) if norm == "largest_step" else torch.linalg.vector_norm(gains, dim=1)
    return Measurement(value=_distance(ahead.amin(dim=1), math.sqrt(2) * total), kind="estimate")


def _distance(lead: Tensor, gain: Tensor) -> Tensor:
    """Return `lead / gain`, and 0 where there is no lead: on the boundary or beyond."""
    return torch.where(lead > 0, lead / gain, 0.0)


def _gains(jacobian: Tensor) -> Tensor:
    """Return the spectral norm of each step's block of the Jacobian, `(batch, steps)`."""
    return torch.linalg.matrix_norm(jacobian.transpose(1, 2), ord=2)


def _class_distances(ahead: Tensor, jacobian: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first-order distance to each class `(batch, classes)`, and the gradients of the leads."""
    gradients = jacobian[torch.arange(len(labels), device=labels.device), labels][:, None] - jacobian
    return _distance(ahead, gradients.flatten(2).norm(dim=2)), gradients


def _to_boundary(ahead: Tensor, jacobian: Tensor, labels: Tensor) -> Tensor:
    """Return the shortest move to the boundary of the linearised model, shaped as the inputs; zero if there is none."""
    distances, gradients = _class_distances(ahead, jacobian, labels)
    distance, nearest = distances.min(dim=1)
    gradient = gradients[torch.arange(len(labels), device=labels.device), nearest]
    length = gradient.flatten(1).norm(dim=1)
    scale = torch.where(distance.isfinite() & (distance > 0), distance / length, 0.0)
    return -scale[:, None, None] * gradient


def _linearisation(model: Model, inputs: Tensor, labels: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return leads `(batch, classes)` and the Jacobian of the logits `(batch, classes, steps, input_size)`, float64."""
    with torch.no_grad():
        logits = predict(model, inputs, labels, lengths)
    jacobian = input_jacobian(model, inputs, lengths=lengths).value.double()
    bad = int((~torch.isfinite(jacobian)).flatten(1).any(dim=1).sum())
    if bad:
        raise RuntimeError(
            f"gradient of the logits became non-finite for {bad} of {len(inputs)} sequences. "
            "Lower the model's step size."
        )
    return leads(logits, labels), jacobian * valid_values(inputs, lengths)[:, None]
