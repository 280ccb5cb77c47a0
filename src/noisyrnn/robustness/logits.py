"""Calls of the model under test: any callable from inputs to logits, or to values for a regression."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_labels
from noisyrnn.missing import hold_last_or_next, missing_of
from noisyrnn.padding import valid_values
from noisyrnn.step_lengths import takes_dt
from noisyrnn.targets import counted

Model = Callable[..., Tensor]
"""`model(inputs)`, or `model(inputs, lengths=lengths)`: `(batch, steps, input_size)` to logits `(batch, classes)`.

For labels at every step the logits are `(batch, steps, classes)`; outputs of a regression have the shape of the labels.
For sequences whose steps have lengths, a model that takes them is also called with `dt=`, `(batch, steps)`.
"""


@dataclass(frozen=True)
class TimedModel:
    """A model for sequences whose steps have these lengths, called without them.

    Args:
        model: Takes `dt`.
        dt: `(batch, steps)`.
    """

    model: Model
    dt: Tensor

    def __call__(self, inputs: Tensor, **options: Any) -> Tensor:
        """Call the model with the lengths of the steps."""
        return self.model(inputs, dt=self.dt, **options)

    @property
    def missing(self) -> str | None:
        """How the model meets missing values."""
        return missing_of(self.model)

    def as_batch_first(self) -> "TimedModel":
        """Return it for inputs `(batch, steps, input_size)`."""
        return TimedModel(as_batch_first(self.model), self.dt)

    def take(self, rows: Tensor) -> "TimedModel":
        """Return the model for some of the sequences; `rows` holds their numbers."""
        return TimedModel(take_rows(self.model, rows), self.dt[rows.to(self.dt.device)])


def with_dt(model: Model, dt: Tensor | None) -> Model:
    """Return a model for sequences whose steps have these lengths: itself if there are none or it cannot use them."""
    return model if dt is None or not takes_dt(model) else TimedModel(model, dt)


_ROW_AXES = {"dt": 2, "lengths": 1, "mask": 2}
"""Keyword arguments of a call with one row for each sequence, and their number of axes where they have these rows."""


def take_rows(model: Model, rows: Tensor) -> Model:
    """Return a model for some of the sequences that it knows: itself if it knows none.

    A `functools.partial` knows its sequences where it holds `dt` of shape `(batch, steps)`, `lengths` or a `mask`.

    Args:
        model: Callable from inputs to logits.
        rows: Numbers of the sequences, int64 `(rows,)`; a number may occur several times.
    """
    if isinstance(model, partial):
        held = {name: value[rows.to(value.device)] for name, value in _held_rows(model).items()}
        return partial(take_rows(model.func, rows), *model.args, **model.keywords | held)
    take = getattr(model, "take", None)
    return model if take is None else take(rows)


def check_rows(model: Model | None, count: int) -> None:
    """Raise `ValueError` if a model, a `functools.partial`, holds values for another number of sequences."""
    while isinstance(model, partial):
        for name, value in _held_rows(model).items():
            if len(value) != count:
                raise ValueError(
                    f"{name} of the model must have one row for each of the {count} sequences, got "
                    f"{tuple(value.shape)}."
                )
        model = model.func


def _held_rows(model: "partial[Tensor]") -> dict[str, Tensor]:
    """Return the keyword arguments that a partial holds for each sequence."""
    values = {name: model.keywords.get(name) for name in _ROW_AXES}
    return {
        name: value for name, value in values.items() if isinstance(value, Tensor) and value.ndim == _ROW_AXES[name]
    }


@dataclass(frozen=True)
class HoldingModel:
    """A model that does not meet missing values itself, called with the last value of each channel in their place.

    Args:
        model: For complete sequences.
    """

    model: Model

    def __call__(self, inputs: Tensor, **options: Any) -> Tensor:
        """Call the model with complete sequences; before the first value of a channel they have that value."""
        return self.model(hold_last_or_next(inputs), **options)

    @property
    def supports_dt(self) -> bool:
        """Whether the model takes lengths of steps."""
        return takes_dt(self.model)

    def as_batch_first(self) -> "HoldingModel":
        """Return it for inputs `(batch, steps, input_size)`."""
        return HoldingModel(as_batch_first(self.model))

    def take(self, rows: Tensor) -> "HoldingModel":
        """Return the model for some of the sequences; `rows` holds their numbers."""
        return HoldingModel(take_rows(self.model, rows))


def adapt(model: Model, *, dt: Tensor | None, missing: bool) -> Model:
    """Return a model for sequences with these lengths of steps and perhaps missing values: itself if it needs neither.

    Args:
        model: Takes complete sequences; lengths of steps if `takes_dt`, missing values if `missing_of`.
        dt: `(batch, steps)`, or `None`.
        missing: Whether values may be missing.
    """
    if missing and missing_of(model) is None:
        model = HoldingModel(model)
    return with_dt(model, dt)


def check_model(model: Model) -> None:
    """Raise unless `model` is callable, and not a module in training mode or a partial of one."""
    if not callable(model):
        raise TypeError(f"model must be callable, got {model!r}.")
    while isinstance(model, partial):
        model = model.func
    if isinstance(model, nn.Module) and model.training:
        raise ValueError("model must be in eval mode, got training mode. Call model.eval() first.")


def as_batch_first(model: Model) -> Any:
    """Return the model for inputs `(batch, steps, input_size)`: a view of it if its layer takes steps first."""
    if isinstance(model, partial):
        return partial(as_batch_first(model.func), *model.args, **model.keywords)
    view = getattr(model, "as_batch_first", None)
    return model if view is None else view()


def call_model(model: Model, inputs: Tensor, lengths: Tensor | None) -> Any:
    """Call the model with lengths if there are any: it need not know them otherwise.

    A module of another library gets the inputs in the type of its weights, such as float32 for data in float64.

    Raises:
        TypeError: If a function does not take the type of the inputs.
    """
    model = as_batch_first(model)
    dtype = _weights_dtype(model)
    if dtype is not None:
        inputs = inputs.to(dtype)
    try:
        return model(inputs) if lengths is None else model(inputs, lengths=lengths)
    except RuntimeError as error:
        if inputs.dtype == torch.float64 and "dtype" in str(error):
            raise TypeError(
                f"model must take inputs in float64, the type of these data, got: {error}. Let it convert them: "
                "inputs.float()."
            ) from error
        raise


def _weights_dtype(model: Model) -> torch.dtype | None:
    """Return the type of a module's weights; `None` if it has several, or a part with `any_dtype` converts inputs."""
    while isinstance(model, TimedModel | HoldingModel | partial):
        model = model.func if isinstance(model, partial) else model.model
    if not isinstance(model, nn.Module) or any(getattr(part, "any_dtype", False) for part in model.modules()):
        return None
    dtypes = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else None


def check_repeatable(model: Model, inputs: Tensor, lengths: Tensor | None) -> None:
    """Warn if two calls with the same inputs differ: a model in training mode, perhaps inside a function.

    Raises:
        ValueError: If the model changes its inputs.
    """
    before = inputs.clone()
    with torch.no_grad():
        one, two = (call_model(model, inputs, lengths) for _ in range(2))
    if not torch.allclose(inputs, before, rtol=0.0, atol=0.0, equal_nan=True):
        raise ValueError("model must leave its inputs unchanged, got others after a call. Work on inputs.clone().")
    if not isinstance(one, Tensor) or not isinstance(two, Tensor):
        return
    if not torch.allclose(one, two, rtol=1e-4, atol=1e-5, equal_nan=True):
        warnings.warn(
            f"model gives different logits for the same inputs, by up to {float((one - two).abs().max()):.2g}. Is it "
            "in training mode, or its noise on? Call model.eval() and set model.layer.noise_mode = 'auto'; else every "
            "result depends on chance. noisyrnn.analysis.scores_with_noise measures hidden noise, from a seed.",
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
        raise RuntimeError(f"{name} became non-finite for {bad} of {batch} sequences. {_advice(inputs, lengths)}")
    return logits


def _advice(inputs: Tensor, lengths: Tensor | None) -> str:
    """Return what to do where outputs are not finite."""
    if bool((~inputs.isfinite() & valid_values(inputs, lengths)).any()):
        return "Their inputs hold NaN or infinite values: remove or impute them."
    return "Lower the model's step size or the strength."
