"""Training objectives other than the model's own loss."""

import functools
import hashlib
import inspect
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from noisyrnn.data.split import tensor_digest
from noisyrnn.noise.brownian import BrownianPath


class Objective(Protocol):
    """Computes the loss of each sequence of a batch under a noise path, and the outputs to evaluate."""

    def __call__(
        self, model: Any, inputs: Tensor, labels: Tensor, lengths: Tensor | None, path: BrownianPath
    ) -> tuple[Tensor, Tensor]:
        """Return losses `(batch,)` and outputs: logits `(batch, classes)`, or values `(batch, targets)`.

        For a model of every step the outputs are `(batch, steps, …)`. For data whose steps have lengths an objective
        needs one argument more, `dt=None`, which gets them, `(batch, steps)`.

        Args:
            model: Classifier, or regressor if the objective supports it, in training mode.
            inputs: `(batch, steps, input_size)`.
            labels: Classes `(batch,)`, or values `(batch, targets)`; at every step `(batch, steps)` or `(batch, steps,
                outputs)`, -1 or NaN where they do not count.
            lengths: Valid steps of each sequence, `(batch,)`; `None` if all steps are valid.
            path: Source of all random numbers, a new path for every training step.
        """


def check_objective(objective: object) -> None:
    """Raise `TypeError` unless an objective can be called with the arguments of `Objective`."""
    wanted = "a function of (model, inputs, labels, lengths, path)"
    if not callable(objective):
        raise TypeError(f"objective must be {wanted}, got {objective!r}.")
    try:
        signature = inspect.signature(objective.forward if isinstance(objective, nn.Module) else objective)
    except ValueError:  # a builtin
        return
    try:
        signature.bind("model", "inputs", "labels", "lengths", "path")
    except TypeError as error:
        raise TypeError(
            f"objective must be {wanted}, got one that takes {signature} ({error}). It returns the loss of each "
            "sequence and the outputs."
        ) from None


def check_results(results: object, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses and outputs that an objective computed; raise unless they are those of `Objective`.

    Args:
        results: What the objective returned.
        labels: Those of its batch.

    Raises:
        TypeError: If they are not two tensors.
        ValueError: If there is not one loss for each sequence, the losses depend on no weight, or the outputs do not
            fit the labels.
    """
    kinds = [type(one).__name__ for one in (results if isinstance(results, tuple | list) else (results,))]
    if (
        not isinstance(results, tuple | list)
        or len(results) != 2
        or not all(isinstance(one, Tensor) for one in results)
    ):
        raise TypeError(
            f"objective must return two tensors, losses and outputs, got {', '.join(kinds) or 'nothing'}. Return the "
            "losses (batch,) and what the model answered."
        )
    losses, outputs = results
    if losses.shape != labels.shape[:1]:
        raise ValueError(
            f"objective must return one loss for each sequence, of shape {tuple(labels.shape[:1])}, got "
            f"{tuple(losses.shape)}. Take no mean over the batch; take that over the steps of each sequence."
        )
    if not losses.requires_grad:
        raise ValueError(
            "objective must return losses that depend on the weights, got a tensor without gradient. Compute them with "
            "torch, without detach() or no_grad()."
        )
    fits = outputs.shape == labels.shape if labels.is_floating_point() else outputs.shape[:-1] == labels.shape
    if not fits:
        sizes = [*labels.shape] if labels.is_floating_point() else [*labels.shape, "classes"]
        raise ValueError(
            f"objective must return outputs of shape ({', '.join(map(str, sizes))}), got {tuple(outputs.shape)}. "
            "Return the losses first, then what the model answered."
        )
    return losses, outputs


def objective_digest(objective: Objective | None) -> str:
    """Return a digest that identifies an objective: name, code, defaults and values of closures.

    Functions of this library and compiled ones are identified by name only. The digest does not cover global variables
    that a function reads, the functions that it calls, nor the weights of modules that it holds.
    """
    return hashlib.sha256(repr(_described(objective)).encode()).hexdigest()


def _described(value: Any) -> Any:
    """Return a description with the same `repr` in every process."""
    if isinstance(value, Tensor):
        return tensor_digest(value)
    if isinstance(value, tuple | list):
        return [_described(entry) for entry in value]
    if isinstance(value, frozenset | set):
        return sorted(repr(_described(entry)) for entry in value)
    if isinstance(value, dict):
        return [(str(key), _described(value[key])) for key in sorted(value, key=str)]
    if isinstance(value, functools.partial):
        return ["partial", _described(value.func), _described(value.args), _described(value.keywords)]
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, _described(value.co_consts)]
    if isinstance(value, np.ndarray):
        return [value.dtype.str, _described(value.tolist())]
    if isinstance(value, str | bytes | int | float | complex | range | slice | np.generic | torch.dtype | None):
        return repr(value)
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if isinstance(value, MethodType):
        return [_described(value.__func__), _plain(value.__self__)]
    if isinstance(value, type | ModuleType | np.ufunc):
        return [name, value.__name__]
    if not isinstance(value, FunctionType):  # an object, whose class may have a function that calls it
        call = getattr(type(value), "forward" if isinstance(value, nn.Module) else "__call__", None)
        return [name, _described(call) if isinstance(call, FunctionType) else None, _plain(value)]
    code = None if name.startswith("noisyrnn.") else _described(value.__code__)
    held = [_contents(cell) for cell in value.__closure__ or ()]
    return [name, code, _described(value.__defaults__), _described(value.__kwdefaults__), held]


def _contents(cell: Any) -> Any:
    try:
        return _described(cell.cell_contents)
    except ValueError:  # not assigned yet
        return "empty"


def _plain(value: Any) -> Any:
    """Return the numbers, strings, arrays and tensors among an object's attributes."""
    held = getattr(value, "__dict__", {})
    values = {
        key: item
        for key, item in held.items()
        if isinstance(item, str | int | float | tuple | list | Tensor | np.ndarray | np.generic | None)
    }
    return [_described(values)]
