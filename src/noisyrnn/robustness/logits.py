"""Calls of the model under test: any callable from inputs to logits, or to values for a regression."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from noisyrnn.checks import check_labels
from noisyrnn.targets import counted

Model = Callable[..., Tensor]
"""`model(inputs)`, or `model(inputs, lengths=lengths)`: `(batch, steps, input_size)` to logits `(batch, classes)`.

For labels at every step the logits are `(batch, steps, classes)`; outputs of a regression have the shape of the labels.
"""


def check_model(model: Model) -> None:
    """Raise unless `model` is callable, and not a module in training mode."""
    if not callable(model):
        raise TypeError(f"model must be callable, got {model!r}.")
    if isinstance(model, torch.nn.Module) and model.training:
        raise ValueError("model must be in eval mode, got training mode. Call model.eval() first.")


def as_batch_first(model: Model) -> Any:
    """Return the model for inputs `(batch, steps, input_size)`: a view of it if its layer takes steps first."""
    if isinstance(model, partial):
        return partial(as_batch_first(model.func), *model.args, **model.keywords)
    view = getattr(model, "as_batch_first", None)
    return model if view is None else view()


def call_model(model: Model, inputs: Tensor, lengths: Tensor | None) -> Any:
    """Call the model with lengths if there are any: it need not know them otherwise."""
    model = as_batch_first(model)
    return model(inputs) if lengths is None else model(inputs, lengths=lengths)


def check_repeatable(model: Model, inputs: Tensor, lengths: Tensor | None) -> None:
    """Warn if two calls with the same inputs differ: a model in training mode, perhaps inside a function."""
    with torch.no_grad():
        one, two = (call_model(model, inputs, lengths) for _ in range(2))
    if isinstance(one, Tensor) and isinstance(two, Tensor) and not torch.allclose(one, two, rtol=1e-4, atol=1e-5):
        warnings.warn(
            f"model gives different logits for the same inputs, by up to {float((one - two).abs().max()):.2g}. Is it "
            "in training mode, or its noise on? Call model.eval() first; else every result depends on chance.",
            stacklevel=3,
        )


def predict(model: Model, inputs: Tensor, labels: Tensor, lengths: Tensor | None) -> Tensor:
    """Compute logits `(batch, classes)`, or what else the labels are for, and check them.

    Labels at every step `(batch, steps)` need logits `(batch, steps, classes)`, and labels that are values need outputs
    of their own shape.

    Raises:
        TypeError: If the model returns something other than a tensor.
        ValueError: If the model returns another shape, or a label has no logit.
        RuntimeError: If a logit is not finite.
    """
    logits = call_model(model, inputs, lengths)
    batch, values = inputs.shape[0], labels.is_floating_point()
    name = "outputs" if values else "logits"
    if not isinstance(logits, Tensor):
        raise TypeError(f"model must return a tensor of {name}, got {type(logits).__name__}.")
    fits = logits.shape == labels.shape if values else logits.shape[:-1] == labels.shape
    if not fits or logits.ndim < 2 or len(labels) != batch:
        shape = ", ".join([*map(str, (batch, *labels.shape[1:])), *(() if values else ("classes",))])
        raise ValueError(f"model must return {name} of shape ({shape}), got {tuple(logits.shape)}.")
    if not values and logits.shape[-1] == 1:
        raise ValueError(
            f"model must return one logit for each class, got {tuple(logits.shape)}. For two classes and one logit z, "
            "return torch.cat([torch.zeros_like(z), z], dim=1)."
        )
    if not values:
        known = labels[counted(labels)] if labels.ndim > 1 else labels
        check_labels(known, count=len(known), classes=logits.shape[-1])
    bad = int((~torch.isfinite(logits)).flatten(1).any(dim=1).sum())
    if bad:
        raise RuntimeError(
            f"{name} became non-finite for {bad} of {batch} sequences. Lower the model's step size or the strength."
        )
    return logits
