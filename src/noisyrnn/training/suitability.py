"""Whether a model can be trained on a data set."""

import warnings

import torch
from torch import Tensor

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.models.heads import SequenceModel
from noisyrnn.step_lengths import takes_dt
from noisyrnn.targets import moments
from noisyrnn.training.objective import Objective

_ROUNDING = 0.01
"""Largest rounding error of a target, in its standard deviations."""


def check_trainable(model: SequenceModel, dataset: Dataset) -> None:
    """Raise unless a model's kind and sizes are those of a data set.

    Raises:
        TypeError: If one is of another type, or the model's answers are of another kind than the labels.
        ValueError: If the model's sizes are others, or all its weights are frozen.
    """
    if not isinstance(model, SequenceModel):
        raise TypeError(
            "model must be a SequenceClassifier, a SequenceRegressor or a SequenceToSequence, got "
            f"{type(model).__name__}. Wrap it."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"model must have trainable parameters, got none in {type(model).__name__}. Call model.requires_grad_()."
        )
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset must be a Dataset, got {type(dataset).__name__}. Build one: noisyrnn.data.dataset_from_splits("
            "Split.from_arrays(X, y)), or use load_dataset or noisyrnn.estimators."
        )
    if (model.loss == "cross_entropy", model.every_step) != (dataset.classes > 0, dataset.every_step):
        wanted, labels = head_for(dataset)
        raise TypeError(f"model must be a {wanted} for data with {labels}, got {described_head(model)}.")
    outputs = getattr(model.readout, "out_features", dataset.outputs)  # the user's own readout may not have it
    sizes = {
        "classes" if dataset.classes else "targets": (outputs, dataset.outputs),
        "input_size": (model.input_size, dataset.input_size),
    }
    if dataset.missing is not None and model.missing != dataset.missing:
        raise ValueError(
            f"model must have missing={dataset.missing!r}, as the data set has, got {model.missing!r}. Build it with "
            "that setting."
        )
    for name, (found, needed) in sizes.items():
        if found != needed:
            raise ValueError(f"model must have {name} {needed}, that of the data set, got {found}.")
    if not dataset.classes:
        _check_rounding(dataset.train.labels, model.readout.weight.dtype)


def _check_rounding(targets: Tensor, dtype: torch.dtype) -> None:
    """Raise `ValueError` if targets lie so far from zero that rounding to the type of answers hides their spread."""
    mean, variance = moments(targets)
    error = torch.finfo(dtype).eps * mean.abs()
    hidden = (error > _ROUNDING * variance.sqrt()) & (variance > 0)
    if bool(hidden.any()):
        k = int(hidden.nonzero()[0])
        raise ValueError(
            f"labels must differ by more than {dtype} rounds them, got {float(mean[k]):g} ± "
            f"{float(variance[k].sqrt()):.3g} as target {k}. Subtract an offset, or train with precision='64-true' (in "
            "Python on model.double())."
        )


def check_times(model: SequenceModel, split: Split, objective: Objective | None) -> None:
    """Warn if the steps of a split have lengths that a model cannot use.

    Raises:
        ValueError: If an objective does not take them.
    """
    if split.dt is None:
        return
    if not model.supports_dt:
        warnings.warn(f"{without_step_length(model)} The times of the data are not used.", stacklevel=3)
    elif objective is not None and not takes_dt(objective):
        raise ValueError(
            "objective must take dt for data whose steps have lengths, got one without. Add dt=None to its arguments, "
            "or train on steps of equal length: replace(split, dt=None)."
        )


def without_step_length(model: SequenceModel) -> str:
    """Return the sentence about a model that cannot use the lengths of steps."""
    kind = type(getattr(model.layer, "_orig_mod", model.layer)).__name__
    return f"{kind} takes all steps as equally long: those of its cell or its noise have no length."


def head_for(dataset: Dataset) -> tuple[str, str]:
    """Return the model that fits a data set, and its labels, both as text for a message."""
    count = f"classes={dataset.classes}" if dataset.classes else f"targets={dataset.outputs}"
    kind = "SequenceClassifier" if dataset.classes else "SequenceRegressor"
    where = " at every step" if dataset.every_step else ""
    labels = f"{dataset.classes} classes" if dataset.classes or not where else f"{dataset.outputs} values"
    return f"SequenceToSequence(layer, {count})" if where else kind, labels + where


def described_head(model: SequenceModel) -> str:
    """Return the class of a model, and for answers at every step of which kind they are."""
    answers = "classes" if model.loss == "cross_entropy" else "values"
    return f"{type(model).__name__} of {answers}" if model.every_step else type(model).__name__
