"""Models of any kind as callables from inputs to logits or values: modules, functions and fitted estimators."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noisyrnn.data.split import Split
from noisyrnn.missing import missing_of
from noisyrnn.robustness.evaluate import rows_on
from noisyrnn.robustness.logits import Model, adapt, call_model, take_rows
from noisyrnn.step_lengths import takes_dt

_SMALLEST = 1e-300
"""Probability of a class that an estimator does not know."""


def has_gradients(model: Model, split: Split) -> bool:
    """Whether the outputs for one sequence depend on its inputs through autograd.

    The model is called as `evaluate` calls it, and its errors are raised.
    """
    row = torch.arange(1, device="cpu")
    inputs, _, lengths, dt = rows_on(None, split, row)
    inputs = inputs.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            outputs = call_model(
                adapt(take_rows(model, row), dt=dt, missing=split.missing is not None), inputs, lengths
            )
    except RuntimeError as error:
        if "numpy() on Tensor that requires grad" in str(error):  # it converts its inputs to an array
            return False
        raise
    return isinstance(outputs, Tensor) and outputs.requires_grad


def as_callable(name: str, model: Any, split: Split, class_names: Sequence[str] = ()) -> Model:
    """Return a model as a callable from inputs to logits or values; an estimator is wrapped."""
    if isinstance(model, nn.Module) or not (hasattr(model, "predict") or hasattr(model, "predict_proba")):
        if not callable(model):
            raise TypeError(f"models must hold callables or fitted estimators, got {type(model).__name__} as {name!r}.")
        checked: Model = model
        return checked
    inner = getattr(model, "sequence_model", None)
    if isinstance(inner, nn.Module) and not split.every_step:  # an estimator of this library
        columns = _columns(name, model, split.classes, class_names) if split.classes else []
        return inner if columns == list(range(split.classes)) else ReorderedModel(inner, tuple(columns), split.classes)
    if split.every_step or split.lengths is not None:
        raise ValueError(
            f"data must have one label for each sequence and one length for an estimator, got others for {name!r}. "
            "Give a function from inputs and lengths to logits."
        )
    _, steps, channels = split.inputs.shape
    flat = getattr(model, "n_features_in_", None) == steps * channels
    columns = _columns(name, model, split.classes, class_names) if split.classes else []
    turned = not flat and _channels_first(model)

    def outputs(inputs: Tensor) -> Tensor:
        values = inputs.detach().cpu().numpy()
        values = values.reshape(len(values), -1) if flat else values.swapaxes(1, 2) if turned else values
        if not split.classes:
            return torch.from_numpy(np.array(model.predict(values), dtype=np.float64)).reshape(len(values), -1)
        if hasattr(model, "predict_proba"):
            known = np.asarray(model.predict_proba(values), dtype=np.float64)
        else:
            known = (np.asarray(model.predict(values))[:, None] == np.asarray(model.classes_)[None]).astype(np.float64)
        probabilities = np.zeros((len(values), split.classes))
        probabilities[:, columns] = known
        return torch.from_numpy(np.log(np.maximum(probabilities, _SMALLEST)))

    return outputs


@dataclass(frozen=True)
class ReorderedModel:
    """A classifier whose classes are some of those of the data, or have another order.

    Args:
        model: The classifier.
        columns: For each of its classes, the index in the data.
        classes: Number of classes of the data.
    """

    model: Model
    columns: tuple[int, ...]
    classes: int

    def __call__(self, inputs: Tensor, **options: Any) -> Tensor:
        """Return logarithms of the probabilities of the classes of the data."""
        known = torch.log_softmax(self.model(inputs, **options), dim=1)
        logits = known.new_full((len(known), self.classes), math.log(_SMALLEST))
        return logits.index_copy(1, torch.tensor(self.columns, dtype=torch.int64, device=known.device), known)

    @property
    def supports_dt(self) -> bool:
        """Whether the model takes lengths of steps."""
        return takes_dt(self.model)

    @property
    def missing(self) -> str | None:
        """How the model meets missing values."""
        return missing_of(self.model)


def _channels_first(model: Any) -> bool:
    """Whether an estimator, or one inside it, has the parameter `layout` "channels_first"."""
    parameters = model.get_params() if hasattr(model, "get_params") else {}
    return any(key.split("__")[-1] == "layout" and value == "channels_first" for key, value in parameters.items())


def _columns(name: str, model: Any, classes: int, class_names: Sequence[str]) -> list[int]:
    """Return the class index of each class of an estimator, which knows it by its index or its name.

    Raises:
        ValueError: If it has other classes, or numbers that are indices of some classes and names of others.
    """
    known = getattr(model, "classes_", None)
    if known is None:
        raise ValueError(f"models must hold fitted estimators with classes_, got none in {name!r}. Fit it first.")
    values = np.asarray(known).tolist()
    texts = [str(each) for each in values]
    readings = [{text: index for index, text in enumerate(class_names)}, {str(k): k for k in range(classes)}]
    fitting = [places for places in readings if set(texts) <= set(places)]
    found = [[places[text] for text in texts] for places in fitting]
    if not found:
        wanted = ", ".join(readings[0]) or f"0 to {classes - 1}"
        raise ValueError(
            f"models must hold estimators for the classes of the data, {wanted}, got {', '.join(texts[:10])} in "
            f"{name!r}. Fit it with the class indices of the data."
        )
    if found[0] != found[-1] and not all(isinstance(each, str) for each in values):
        raise ValueError(
            f"models must hold estimators whose classes are unambiguous, got {', '.join(texts[:10])} in {name!r}, "
            f"which may be indices or names, as the names are {', '.join(class_names[:10])}. Fit it with names as text."
        )
    return found[0]
