"""Checks of the arguments that several diagnostics share."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from noisyrnn.checks import (
    as_int64,
    check_batch,
    check_finite,
    check_lengths,
    check_sequences,
    check_tensor,
    values_hidden,
)
from noisyrnn.models import Cell, SequenceModel
from noisyrnn.models.sequences.layout import step_lengths
from noisyrnn.padding import valid_values
from noisyrnn.robustness.logits import HoldingModel, Model, TimedModel, check_model
from noisyrnn.robustness.standardized_values import StandardizedModel


def check_complete(inputs: object, lengths: Tensor | None = None, *, input_size: int | None = None) -> None:
    """Raise unless `inputs` is `(batch, steps, input_size)`, `lengths` fits it, and values of valid steps are finite.

    A diagnostic that counts all values of a sequence as independent is wrong where a model holds a value in place of a
    missing one. Padding may have any values. Within `torch.func` or `torch.compile` values are not read.

    Raises:
        TypeError: If the inputs are not a floating tensor.
        ValueError: If a shape does not fit, or a value is NaN or infinite.
    """
    check_sequences("inputs", inputs, input_size=input_size)
    assert isinstance(inputs, Tensor)
    if lengths is not None:
        check_lengths(lengths, batch=inputs.shape[0], steps=inputs.shape[1])
    if values_hidden():
        return
    bad = ~torch.isfinite(inputs) & valid_values(inputs, lengths)
    count = int(bad.sum())
    if count:
        first = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"inputs must be finite for this diagnostic, which is for complete sequences, got {count} NaN or infinite "
            f"values, the first at index {first}. Impute the values, or leave these sequences out."
        )


def check_measured(model: Model, inputs: Tensor, lengths: Tensor | None) -> None:
    """Raise as `check_batch` does, and if values are missing that a `SequenceModel` does not meet.

    For diagnostics that are right in the values that are there. Another callable may meet missing values in its way.
    """
    check_batch(inputs, lengths)
    inner = _unwrapped(model)
    if isinstance(inner, SequenceModel) and inner.missing is None and not _holds(model):
        check_complete(inputs, lengths)


def step_sizes(
    dt: Tensor | float | None, inputs: Tensor, lengths: Tensor | None, *, cell: Cell, like: Tensor, name: str = ""
) -> Tensor | None:
    """Return the lengths of steps as a layer takes them: `(steps,)` or `(batch, steps)`; `None` if there are none.

    Args:
        dt: A number, `(steps,)` or `(batch, steps)`, positive and finite at the valid steps.
        inputs: `(batch, steps, input_size)`.
        lengths: Valid steps of each sequence, `(batch,)`; `None` if all are.
        cell: The cell that takes the steps.
        like: Tensor whose type and device the result has.
        name: Name of the model for messages (default: that of the cell).

    Raises:
        TypeError: If `dt` is not a number or a tensor.
        ValueError: If its shape or its values are wrong, or the steps of the cell have no length.
    """
    if dt is None:
        return None
    if not cell.supports_dt:
        raise ValueError(
            f"dt must be None for {name or type(cell).__name__}, whose steps have no length, got step lengths."
        )
    return step_lengths(dt, inputs, lengths, like)


def initial_state(h_0: object, cell: Cell, *, batch: int) -> Tensor:
    """Return the initial state of a layer of one cell, `(1, batch, state_size)`, as `(batch, state_size)`, float64.

    Raises:
        TypeError: If it is not a tensor.
        ValueError: If its shape is another, or a value is NaN or infinite.
    """
    check_tensor("h_0", h_0)
    assert isinstance(h_0, Tensor)
    shape = (1, batch, cell.state_size)
    if h_0.shape != shape:
        raise ValueError(f"h_0 must have shape {shape}, as the layer takes it, got {tuple(h_0.shape)}.")
    check_finite("h_0", h_0)
    return h_0[0].detach().double()


def check_classifier(model: Model) -> None:
    """Raise as `check_class_logits` and `check_noise_off` do."""
    check_class_logits(model)
    check_noise_off(model)


def check_class_logits(model: Model) -> None:
    """Raise unless `model` can be called, is in eval mode and, as far as known, returns one logit for each class.

    Raises:
        TypeError: If it cannot be called, or is a `SequenceModel` of values or with answers at every step.
        ValueError: If it is a module in training mode.
    """
    check_model(model)
    inner = _unwrapped(model)
    if isinstance(inner, SequenceModel) and (inner.loss != "cross_entropy" or inner.every_step):
        answers = "a class at every step" if inner.loss == "cross_entropy" else "values"
        raise TypeError(
            f"model must return one logit for each class of a sequence, got a {type(inner).__name__} that predicts "
            f"{answers}. Margins and radii are for one class for each sequence."
        )


def check_noise_off(model: Model) -> None:
    """Raise `ValueError` if a module of `model` draws hidden noise at each call.

    A function is not known from within; `functools.partial` with a `path` fixes the noise.
    """
    inner = _unwrapped(model)
    if not isinstance(inner, nn.Module) or _has_path(model):
        return
    for module in inner.modules():
        if getattr(module, "noise_mode", None) == "on":
            raise ValueError("model must be free of noise, got noise 'on'. Set model.layer.noise_mode = 'off'.")


def check_class_labels(labels: object, *, count: int) -> Tensor:
    """Convert labels to int64; raise unless they are integers of any type, one class for each of `count` sequences.

    Raises:
        TypeError: If they are not integers.
        ValueError: If they have another shape.
    """
    labels = as_int64(labels)
    if labels.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one class for each sequence, got {tuple(labels.shape)}.")
    return labels


def _unwrapped(model: Any) -> Any:
    """Return the model within `functools.partial` and the views that change only its arguments."""
    while isinstance(model, partial | TimedModel | HoldingModel | StandardizedModel):
        model = model.func if isinstance(model, partial) else model.model
    return getattr(model, "_orig_mod", model)  # what torch.compile made of a module


def _holds(model: Any) -> bool:
    """Whether a view of a model holds values in place of missing ones."""
    while isinstance(model, partial | TimedModel | StandardizedModel):
        model = model.func if isinstance(model, partial) else model.model
    return isinstance(model, HoldingModel)


def _has_path(model: Any) -> bool:
    """Whether the noise of a model is that of a path, fixed by `functools.partial`."""
    while isinstance(model, partial):
        if model.keywords.get("path") is not None:
            return True
        model = model.func
    return False
