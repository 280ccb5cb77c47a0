"""Training objectives other than the model's own loss."""

import functools
import hashlib
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from noisyrnn.data.base import tensor_digest
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
