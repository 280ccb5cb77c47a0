"""Checks of the tensors of a split, before anything is computed from them."""

import math

from torch import Tensor

from noisyrnn.checks import check_choice, check_counted, check_finite, check_labels, check_tensor, check_values
from noisyrnn.data.options import missing_advice
from noisyrnn.missing import MISSING


def check_targets(labels: Tensor, *, count: int, steps: int) -> None:
    """Raise unless `labels` is a floating tensor `(count, targets)` or `(count, steps, outputs)`; see `check_known`."""
    check_tensor("labels", labels)
    if not labels.is_floating_point():
        raise TypeError(f"labels must be floating point where classes is 0, got {labels.dtype}.")
    if labels.ndim not in (2, 3) or labels.shape[:-1] != (count, steps)[: labels.ndim - 1] or labels.shape[-1] == 0:
        raise ValueError(
            f"labels must have shape ({count}, targets) where classes is 0, or ({count}, {steps}, outputs) for values "
            f"at every step, got {tuple(labels.shape)}."
        )


def check_known(labels: Tensor, mask: Tensor, *, classes: int) -> None:
    """Raise unless every sequence has a step that counts, and the labels at all of these are in range and finite."""
    check_counted(mask)
    known = labels[mask]
    if classes > 0:
        check_labels(known, count=len(known), classes=classes)
    else:
        check_values("labels", known)


def check_weights(weights: Tensor, *, count: int) -> None:
    """Raise unless `weights` is a finite floating tensor `(count,)` of numbers `>= 0`, not all of them zero."""
    check_tensor("weights", weights)
    if not weights.is_floating_point():
        raise TypeError(f"weights must be floating point, got {weights.dtype}.")
    if weights.shape != (count,):
        raise ValueError(f"weights must have shape ({count},), one for each sequence, got {tuple(weights.shape)}.")
    check_finite("weights", weights)
    if float(weights.min()) < 0:
        raise ValueError(f"weights must be at least 0, got {float(weights.min()):g}.")
    if float(weights.max()) == 0:
        raise ValueError(f"weights must not all be zero, got {count} zeros.")


def check_dt(dt: Tensor, *, count: int, steps: int) -> None:
    """Raise unless `dt` is a finite floating tensor `(count, steps)` of numbers above 0."""
    check_tensor("dt", dt)
    if not dt.is_floating_point():
        raise TypeError(f"dt must be floating point, got {dt.dtype}.")
    if dt.shape != (count, steps):
        raise ValueError(f"dt must have shape ({count}, {steps}), one for each step, got {tuple(dt.shape)}.")
    check_finite("dt", dt)
    if float(dt.min()) <= 0:
        raise ValueError(f"dt must be greater than 0, got {float(dt.min()):g}.")


def check_missing(argument: str, values: Tensor, missing: str | None) -> None:
    """Raise unless `missing` is `None` or a key of `MISSING`, and values are finite, or NaN where it is one."""
    if missing is not None:
        check_choice("missing", missing, MISSING)
        check_values(argument, values, missing=True)
        return
    if math.isnan(float(values.max())):  # one pass, and NaN for NaN
        count = int(values.isnan().sum())
        first = tuple(values.isnan().nonzero()[0].tolist())
        raise ValueError(
            f"{argument} must be finite, got {count} NaN values, the first at index {first}. {missing_advice()} Or "
            "impute the values, or leave these sequences out."
        )
    check_values(argument, values)
