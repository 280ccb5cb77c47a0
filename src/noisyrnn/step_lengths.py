"""Lengths of steps: which callables take them."""

import inspect
from functools import partial
from typing import Any

from torch import nn


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
