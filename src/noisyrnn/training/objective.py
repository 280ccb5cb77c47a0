"""The training objective."""

import functools
import hashlib
from types import CodeType, FunctionType, MethodType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from noisyrnn.data.base import tensor_digest
from noisyrnn.models import SequenceClassifier, SequenceRegressor
from noisyrnn.sde.brownian import BrownianPath

Trained = SequenceClassifier | SequenceRegressor
"""What a run fits: one answer for each sequence."""


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


def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
    """Loss of each sequence `(batch,)`: cross-entropy with classes, mean squared error with numbers.

    Args:
        outputs: `(batch, classes)` or `(batch, targets)`.
        labels: Classes `(batch,)`, or numbers `(batch, targets)`.

    Example:
        >>> loss_of(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
        tensor([5.])
    """
    if labels.is_floating_point():
        return (outputs - labels).square().mean(dim=1)
    return functional.cross_entropy(outputs, labels, reduction="none")


def answered(outputs: Tensor, labels: Tensor) -> Tensor:
    """Which sequences are classified rightly, boolean `(batch,)`; arguments as for `loss_of`. Numbers never are."""
    if labels.is_floating_point():
        return torch.zeros_like(labels[:, 0], dtype=torch.bool)
    return outputs.argmax(1) == labels


def noisy_loss(
    model: Trained, inputs: Tensor, labels: Tensor, lengths: Tensor | None, path: BrownianPath
) -> tuple[Tensor, Tensor]:
    """`loss_of` with the hidden noise on: how a noisy RNN is trained. See `Objective`."""
    outputs = model(inputs, lengths=lengths, path=path)
    return loss_of(outputs, labels), outputs


def objective_digest(objective: Objective) -> str:
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
