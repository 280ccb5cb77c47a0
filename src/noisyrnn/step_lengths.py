"""Lengths of steps: which callables take them."""

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def takes_dt(function: Any) -> bool:
    """Whether a model, or an objective, takes lengths of steps as `dt`.

    Its attribute `supports_dt` states it; without one it does if its signature has `dt`, or any keyword.

    Example:
        >>> takes_dt(lambda inputs, dt=None: inputs), takes_dt(lambda inputs: inputs)
        (True, False)
    """
    while isinstance(function, partial):
        function = function.func
    stated = getattr(function, "supports_dt", None)
    if isinstance(stated, bool):
        return stated
    try:
        called = function.forward if isinstance(function, nn.Module) else function
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):  # a builtin
        return False
    return "dt" in parameters or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())


def as_step_lengths(dt: Tensor | float | None, steps: int, like: Tensor) -> Tensor | None:
    """Return lengths of steps as a tensor: a number becomes `(steps,)`, others and `None` stay unchanged.

    Args:
        dt: A number, `(steps,)` or `(batch, steps)`, or `None`.
        steps: Number of steps.
        like: Tensor whose type and device a number gets.

    Raises:
        TypeError: If `dt` is not a number or a tensor.

    Example:
        >>> as_step_lengths(0.5, 3, torch.zeros(1))
        tensor([0.5000, 0.5000, 0.5000])
    """
    if dt is None or (isinstance(dt, Tensor) and dt.ndim > 0):
        return dt
    if isinstance(dt, bool) or not isinstance(dt, int | float | Tensor):
        raise TypeError(f"dt must be a number or a tensor, got {dt!r}.")
    return torch.as_tensor(dt, dtype=like.dtype, device=like.device).expand(steps)
