"""Argument checks and their wording.

Messages read "<argument> must <rule>, got <value>. <What to do>." Bad values raise `ValueError`, bad types `TypeError`.
Public functions call these before any work starts.
"""

import difflib
import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def check_choice(argument: str, value: object, choices: Iterable[str]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`; the message names the nearest one."""
    names = sorted(choices)
    if value in names:
        return
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{argument} must be one of {', '.join(names)}, got {value!r}.{hint}")


def check_text(argument: str, value: object) -> None:
    """Raise unless `value` is a string that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, got {value!r}.")
    if not value:
        raise ValueError(f"{argument} must not be empty, got {value!r}.")


LARGEST_SIZE = 2**31 - 1
"""Largest size of one axis of a layer's weights."""
MOST_LAYERS = 1000


def check_integer(argument: str, value: object, *, minimum: int, maximum: int | None = None) -> None:
    """Raise unless `value` is an integer `>= minimum`, and `<= maximum` if that is set; a bool is not an integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an integer, got {value!r}.{_conversion_advice(value, 'int')}")
    if value < minimum:
        raise ValueError(f"{argument} must be at least {minimum}, got {value}.")
    if maximum is not None and value > maximum:
        raise ValueError(f"{argument} must be at most {maximum}, got {value}.")


def _conversion_advice(value: object, kind: str) -> str:
    """Return the advice for a number that NumPy or torch wraps."""
    is_number = hasattr(value, "item") and getattr(value, "shape", None) == ()
    return f" Convert it: {kind}(…)." if is_number else ""


def check_device(argument: str, value: object) -> None:
    """Raise unless `value` is `None` or an available device: a `torch.device`, or the name or index of one."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, str | int | torch.device):
        raise TypeError(f"{argument} must be a torch.device, a text such as 'cpu' or 'cuda', or None, got {value!r}.")
    try:
        torch.empty(0, device=value, dtype=torch.float32)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"{argument} must be a device of this machine, got {str(value)!r} ({reason}).") from None


def check_flag(argument: str, value: object) -> None:
    """Raise `TypeError` unless `value` is `True` or `False`; "False" would otherwise count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be True or False, got {value!r}.")


def check_show_progress(value: object) -> None:
    """Raise `TypeError` unless `value` is `True`, `False` or `None`."""
    if value is not None and not isinstance(value, bool):
        raise TypeError(
            f"show_progress must be True, False or None, got {value!r}. None shows progress on a terminal and in a "
            "notebook only."
        )


def check_number(
    argument: str,
    value: object,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    above: float | None = None,
) -> None:
    """Raise unless `value` is a finite number in `[minimum, maximum]`, and `> above` if that is set."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} must be a number, got {value!r}.{_conversion_advice(value, 'float')}")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ValueError(f"{argument} must be at most {sys.float_info.max:.3g} in size, got a larger integer.")
    if not math.isfinite(value):
        rule = "" if above is None else f" and greater than {above:g}"
        raise ValueError(f"{argument} must be finite{rule}, got {value}.")
    if above is not None and value <= above:
        raise ValueError(f"{argument} must be greater than {above:g}, got {value:g}.")
    if minimum <= value <= maximum:
        return
    if maximum == math.inf:
        raise ValueError(f"{argument} must be at least {minimum:g}, got {value:g}.")
    if minimum == -math.inf:
        raise ValueError(f"{argument} must be at most {maximum:g}, got {value:g}.")
    raise ValueError(f"{argument} must lie in [{minimum:g}, {maximum:g}], got {value:g}.")


def check_range(argument: str, value: tuple[float, float]) -> None:
    """Raise unless `value` is a pair of finite numbers, the first below the second."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{argument} must be a pair (low, high), got {value!r}.")
    for number in value:
        check_number(argument, number)
    if not value[0] < value[1]:
        raise ValueError(f"{argument} must have its low end below its high end, got ({value[0]:g}, {value[1]:g}).")


def check_file_path(argument: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a path: a string or a `pathlib.Path`."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{argument} must be a path, got {value!r}.")


def check_tensor(argument: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{argument} must be a tensor, got {type(value).__name__}. Convert: torch.as_tensor({argument})."
        )


def check_sequences(argument: str, inputs: object, *, input_size: int | None = None) -> None:
    """Raise unless `inputs` is a floating tensor `(batch, steps, input_size)` with at least one row and step.

    Its values are not read: that would stall a GPU. `check_finite` does it where data enter.
    """
    check_tensor(argument, inputs)
    assert isinstance(inputs, Tensor)
    size = "input_size" if input_size is None else str(input_size)
    rule = f"{argument} must have shape (batch, steps, {size})"
    if inputs.ndim == 2:
        raise ValueError(f"{rule}, got {tuple(inputs.shape)}. Add the feature axis: {argument}.unsqueeze(-1).")
    if inputs.ndim != 3 or (input_size is not None and inputs.shape[2] != input_size):
        raise ValueError(f"{rule}, got {tuple(inputs.shape)}.")
    if inputs.shape[0] == 0 or inputs.shape[1] == 0:
        raise ValueError(f"{argument} must hold at least one sequence of one step, got {tuple(inputs.shape)}.")
    if inputs.shape[2] == 0:
        raise ValueError(f"{argument} must hold at least one channel, got {tuple(inputs.shape)}.")
    if not inputs.is_floating_point():
        raise TypeError(f"{argument} must be floating point, got {inputs.dtype}. Convert: {argument}.float().")


def check_finite(argument: str, values: Tensor) -> None:
    """Raise unless every value is finite; the message has their number and the index of the first one."""
    if _largest(values) < math.inf:  # a single pass, and false for NaN
        return
    bad = ~torch.isfinite(values)
    count = int(bad.sum())
    if count:
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"{argument} must be finite, got {count} NaN or infinite values, the first at index {first}. "
            "Remove or impute them."
        )


def _largest(values: Tensor) -> float:
    """Return the largest magnitude, NaN if a value is NaN, and 0 for an empty tensor."""
    if values.numel() == 0:
        return 0.0
    low, high = torch.aminmax(values)
    return max(-float(low), float(high))


LARGEST = 1e150
"""Largest magnitude of an input: the square of a larger one overflows in float64."""


def check_values(argument: str, values: Tensor, *, missing: bool = False) -> None:
    """Raise unless every value and its square are finite; with `missing`, values may be NaN."""
    if missing:
        values = torch.where(values.isnan(), 0.0, values)
    check_finite(argument, values)
    largest = _largest(values)
    if largest > LARGEST:
        raise ValueError(
            f"{argument} must lie within ±{LARGEST:g}, got a size of {largest:g}. Give the values in a larger unit."
        )


def values_hidden() -> bool:
    """Whether `torch.func` or `torch.compile` is active: a tensor's shape can then be read, but not its values."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def autocasts(device: str) -> bool:
    """Whether autocast is active for a type of device; never for "meta", about which torch cannot be asked."""
    return device != "meta" and torch.is_autocast_enabled(device)


_LOCAL = threading.local()


@contextmanager
def known_lengths() -> Iterator[None]:
    """Take the values of lengths as right until the block ends: they were checked with the data.

    Reading them again would make the host wait for a GPU at each step.
    """
    before = getattr(_LOCAL, "known", False)
    _LOCAL.known = True
    try:
        yield
    finally:
        _LOCAL.known = before


def check_lengths(lengths: object, *, batch: int, steps: int) -> None:
    """Raise unless `lengths` is an integer tensor `(batch,)` with `1 <= lengths <= steps`.

    Within a transform of `torch.func` or `torch.compile`, or `known_lengths`, the values are not checked.
    """
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths must be a tensor, got {type(lengths).__name__}. Convert: torch.as_tensor(lengths).")
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must be integers, got {lengths.dtype}.")
    if lengths.shape != (batch,):
        raise ValueError(f"lengths must have shape ({batch},), got {tuple(lengths.shape)}.")
    if values_hidden() or getattr(_LOCAL, "known", False):
        return
    low, high = int(lengths.min()), int(lengths.max())
    if low < 1 or high > steps:
        raise ValueError(f"lengths must lie in [1, {steps}], the number of steps, got {low if low < 1 else high}.")


def check_mask(mask: object, *, count: int, steps: int) -> None:
    """Raise unless `mask` is a bool tensor `(count, steps)`."""
    check_tensor("mask", mask)
    assert isinstance(mask, Tensor)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, got {mask.dtype}. Convert: mask.bool().")
    if mask.shape != (count, steps):
        raise ValueError(f"mask must have shape ({count}, {steps}), one for each step, got {tuple(mask.shape)}.")


def check_counted(mask: Tensor, argument: str = "mask") -> None:
    """Raise unless `mask`, bool `(n, steps)`, is true at one step of each sequence or more."""
    empty = (~mask.any(dim=1)).nonzero()
    if len(empty):
        raise ValueError(
            f"{argument} must be true at one valid step of each sequence or more, got none for {len(empty)} of "
            f"{len(mask)} sequences, the first at index {int(empty[0])}. Leave these sequences out."
        )


def check_batch(inputs: object, lengths: Tensor | None) -> None:
    """Raise unless `inputs` is `(batch, steps, input_size)` and `lengths`, if there are any, fits it."""
    check_sequences("inputs", inputs)
    if lengths is not None:
        assert isinstance(inputs, Tensor)
        check_lengths(lengths, batch=inputs.shape[0], steps=inputs.shape[1])


def as_int64(labels: object) -> Tensor:
    """Convert class indices of any integer type to int64, the only type that torch's losses and indexing accept.

    Raises:
        TypeError: If they are something else.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}. Convert: torch.as_tensor(labels).")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}. Convert class indices: labels.long().")
    return labels.long()


def check_labels(labels: object, *, count: int, classes: int) -> Tensor:
    """Convert labels to int64; raise unless they are integers of any type, `(count,)`, in `[0, classes)`."""
    labels = as_int64(labels)
    if labels.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one for each sequence, got {tuple(labels.shape)}.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must lie in [0, {classes - 1}], got {low if low < 0 else high}.")
    return labels
