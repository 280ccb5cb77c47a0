"""Converts the parameters of an estimator to JSON and back; nothing in it can be executed."""

from typing import Any

import numpy as np


def to_json(argument: str, value: Any) -> Any:
    """Convert `value` to JSON; arrays, tuples and dictionaries are marked as such.

    Args:
        argument: Name of the value in messages.
        value: Numbers, strings, `None`, and lists, tuples, dictionaries and arrays of them.

    Raises:
        TypeError: If `value` has another type.

    Example:
        >>> to_json("class_weight", {0: 1.5})
        {'dict': [[0, 1.5]]}
    """
    if isinstance(value, np.ndarray):
        return {"array": [to_json(argument, entry) for entry in value.tolist()], "dtype": value.dtype.str}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {"dict": [[to_json(argument, key), to_json(argument, entry)] for key, entry in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [to_json(argument, entry) for entry in value]}
    if isinstance(value, list):
        return [to_json(argument, entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{argument} must be numbers, strings, lists or dictionaries of them to be saved, got {value!r}.")


def from_json(value: Any) -> Any:
    """Convert the result of `to_json` back.

    Example:
        >>> from_json({"dict": [[0, 1.5]]})
        {0: 1.5}
    """
    if isinstance(value, list):
        return [from_json(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.array(from_json(value["array"]), dtype=np.dtype(value["dtype"]))
    if "dict" in value:
        return {from_json(key): from_json(entry) for key, entry in value["dict"]}
    return tuple(from_json(value["tuple"]))
