"""Training objectives other than the model's own loss."""

import functools
import hashlib
from types import CodeType, FunctionType, MethodType
from typing import Any, Protocol

from torch import Tensor

from noisyrnn.data.base import tensor_digest
from noisyrnn.sde.brownian import BrownianPath


class Objective(Protocol):
    """The loss of each sequence of a batch under a noise path, and the outputs that count as its answers."""

    def __call__(
        self, model: Any, inputs: Tensor, labels: Tensor, lengths: Tensor | None, path: BrownianPath
    ) -> tuple[Tensor, Tensor]:
        """Losses `(batch,)` and outputs: logits `(batch, classes)`, or numbers `(batch, targets)`.

        Args:
            model: A classifier, or a regressor where the objective is meant for both; in training mode.
            inputs: `(batch, steps, input_size)`.
            labels: Classes `(batch,)`, or numbers `(batch, targets)`.
            lengths: Valid steps of each sequence, `(batch,)`; `None` where all are.
            path: A new one for every training step; where all random numbers come from.
        """


def objective_digest(objective: Objective | None) -> str:
    """A digest that differs between objectives: of name, code, defaults and the values a closure holds.

    The code of the library's own functions counts by its name only. Global variables that a function reads, and what
    the functions do that it calls, are not seen.
    """
    return hashlib.sha256(repr(_described(objective)).encode()).hexdigest()


def _described(value: Any) -> Any:
    """A description whose `repr` is the same in every process."""
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
    if isinstance(value, str | bytes | int | float | complex | None):
        return repr(value)
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if isinstance(value, MethodType):
        return [_described(value.__func__), _plain(value.__self__)]
    if not isinstance(value, FunctionType):  # an object that can be called
        return [name, _described(getattr(type(value), "__call__", None)), _plain(value)]  # noqa: B004
    code = None if name.startswith("noisyrnn.") else _described(value.__code__)
    held = [_contents(cell) for cell in value.__closure__ or ()]
    return [name, code, _described(value.__defaults__), _described(value.__kwdefaults__), held]


def _contents(cell: Any) -> Any:
    try:
        return _described(cell.cell_contents)
    except ValueError:  # not assigned yet
        return "empty"


def _plain(value: Any) -> Any:
    """The numbers, texts and tensors among an object's attributes."""
    held = getattr(value, "__dict__", {})
    kept = {
        key: item for key, item in held.items() if isinstance(item, str | int | float | tuple | list | Tensor | None)
    }
    return [_described(kept)]
