"""Converts arrays, lists and torch's data sets to the tensors of a split."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisyrnn.checks import check_choice
from noisyrnn.data.labels import is_one_hot
from noisyrnn.data.numbers import check_real


def as_tensor(values: Any) -> Tensor:
    """Convert an array, a list or a tensor to a tensor of its type."""
    return values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _numbers(argument: str, values: Any) -> Tensor:
    """Convert real numbers to a floating tensor: float32 if that represents every value of their type, else float64."""
    if not isinstance(values, Tensor):
        check_real(argument, values)
        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{argument} must hold real numbers, got {array.dtype}.")
        exact = np.can_cast(array.dtype, np.float32, "safe")
        return torch.from_numpy(np.array(array, dtype=np.float32 if exact else np.float64, order="C"))
    if values.is_complex():
        raise TypeError(f"{argument} must hold real numbers, got {values.dtype}.")
    if values.is_floating_point():
        return values.detach()
    check_real(argument, values.detach().cpu().numpy())
    small = values.dtype in (torch.bool, torch.uint8, torch.int8, torch.int16)
    return values.detach().to(torch.float32 if small else torch.float64)


def check_layout(shape: Sequence[int], layout: str | None, *, argument: str = "X", option: str = "layout='{}'") -> None:
    """Raise unless it is clear which axis of an array with three is time.

    Args:
        shape: `(n, steps, channels)`, or `(n, channels, steps)`.
        layout: "channels-last" or "time-last"; `None`: there must be at least as many steps as channels.
        argument: Name of the array.
        option: How the layout is given, with its value as `{}`.
    """
    if len(shape) == 3 and layout is None and 0 < shape[1] < shape[2]:
        raise ValueError(
            f"{argument} must have shape (n, steps, channels), got {tuple(shape)}, fewer steps than channels. If it is "
            f"(n, channels, steps), give {option.format('time-last')}, else {option.format('channels-last')}."
        )


def stack_sequences(X: Any, layout: str | None = None) -> tuple[Tensor, Tensor | None]:
    """Return sequences as `(n, steps, channels)`, and their lengths int64 `(n,)` if they differ.

    Args:
        X: `(n, steps, channels)` or `(n, steps)`; or a list of `(steps, channels)` or `(steps,)`.
        layout: As in `Split.from_arrays`.

    Raises:
        ValueError: If it has another shape, the sequences of a list differ in their channels, or all have fewer steps
            than channels and `layout` is `None`.
    """
    if layout is not None:
        check_choice("layout", layout, ("channels-last", "time-last"))
    if isinstance(X, list | tuple) and not all(np.isscalar(x) for x in X):
        sequences = [_numbers(f"X[{k}]", x) for k, x in enumerate(X)]
        if all(x.ndim == 2 for x in sequences):
            longest = max(sequences, key=len)  # of which all have fewer steps than channels, if this one has
            check_layout((len(X), *longest.shape), layout)
            sequences = [x.T if layout == "time-last" else x for x in sequences]
        sequences = [x[:, None] if x.ndim == 1 else x for x in sequences]
        shapes = {x.shape[1] if x.ndim == 2 else -1 for x in sequences}
        if len(shapes) > 1 or -1 in shapes or not all(len(x) for x in sequences):
            raise ValueError(
                "X must hold sequences (steps, channels) or (steps,) with the same channels and at least one step, got "
                f"{', '.join(str(tuple(x.shape)) for x in sequences[:3])}."
            )
        kind = torch.promote_types(sequences[0].dtype, torch.float64) if len({x.dtype for x in sequences}) > 1 else None
        sequences = sequences if kind is None else [x.to(kind) for x in sequences]
        lengths = torch.tensor([len(x) for x in sequences], dtype=torch.int64, device="cpu")
        inputs = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        return inputs, None if bool((lengths == inputs.shape[1]).all()) else lengths
    inputs = _numbers("X", X)
    if inputs.ndim not in (2, 3):
        raise ValueError(f"X must have shape (n, steps, channels) or (n, steps), got {tuple(inputs.shape)}.")
    check_layout(inputs.shape, layout)
    if inputs.ndim == 3 and layout == "time-last":
        inputs = inputs.transpose(1, 2).contiguous()
    return inputs.unsqueeze(-1) if inputs.ndim == 2 else inputs, None


def read_labels(y: Any, classes: int | None, *, steps: int, masked: bool = False) -> tuple[Tensor, int]:
    """Return the labels of a split, and the number of classes, 0 for numbers to predict.

    Args:
        y: Class indices or numbers to predict.
        classes: Number of classes; `None` to decide by the type of `y`.
        steps: Steps of the sequences, to tell labels at every step.
        masked: Whether a mask states that there are labels at every step.

    Raises:
        TypeError: If `y` holds no numbers.
        ValueError: If it is unclear whether whole numbers of a floating type are classes, or whether there is a class
            at every step; or classes do not begin at 0.
    """
    labels = as_tensor(y) if isinstance(y, Tensor) else _label_array(y)
    if not masked and labels.ndim == 2 and labels.shape[1] == steps > 1 and is_one_hot(labels.cpu().numpy()):
        raise ValueError(
            f"y must hold a class for each sequence or at every step, got {tuple(labels.shape)} with a single 1 in "
            "each row, as one-hot classes have, and as many columns as steps. Give y.argmax(1); or if there is a class "
            "at every step, mask=np.ones(y.shape, bool) too."
        )
    if labels.ndim == 2 and labels.shape[1] == 1 != steps and classes != 0:  # as MATLAB writes a vector
        labels = labels[:, 0]
    if classes is None and labels.is_floating_point():
        finite = labels[labels.isfinite()]
        if labels.ndim < 3 and bool((finite == finite.round()).all()):
            raise ValueError(
                f"classes must be given where y holds whole numbers of a floating type ({labels.dtype}): the number of "
                "classes, or 0 for numbers to predict."
            )
        classes = 0
    if classes == 0:
        labels = labels if labels.is_floating_point() else labels.to(torch.float64)
        if labels.ndim == 2 and labels.shape[1] == steps > 1:
            raise ValueError(
                f"y must have shape (n, steps, 1) for numbers at each step, got {tuple(labels.shape)}. "
                "Write y[..., None]; if these are targets of a sequence, build Split(inputs=X, labels=y, classes=0)."
            )
        return labels.unsqueeze(-1) if labels.ndim == 1 else labels, 0
    if labels.is_floating_point():
        labels = labels.nan_to_num(-1).long()
    if classes is None:
        low = int(labels.min()) if labels.ndim == 1 else 0
        if low != 0:
            raise ValueError(
                f"y must hold class indices from 0, got {low} as the smallest. Give classes, or convert other labels: "
                "np.unique(y, return_inverse=True)[1]."
            )
        classes = int(labels.max()) + 1
    return labels, classes


def _label_array(y: Any) -> Tensor:
    """Convert an array or a list of labels to a tensor."""
    try:
        array = np.asarray(y)
    except ValueError:  # of unequal shapes
        shapes = [tuple(np.shape(each)) for each in y]
        raise ValueError(_unequal(shapes)) from None
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"y must hold class indices or numbers, got {array.dtype}. Convert names of classes to indices: "
            "np.unique(y, return_inverse=True)[1]."
        )
    return torch.from_numpy(np.array(array.astype(np.int64) if array.dtype.kind in "bu" else array))


def read_loader(data: Any, layout: str | None = None) -> tuple[Any, Tensor, Tensor | None]:
    """Read all of a `DataLoader` or `Dataset`, and return sequences, labels and lengths; `layout` is that of both."""
    from torch.utils.data import DataLoader  # slow to import

    loader = isinstance(data, DataLoader)
    if not loader and not (hasattr(data, "__getitem__") or hasattr(data, "__iter__")):
        raise TypeError(f"data must be a torch Dataset or DataLoader, got {type(data).__name__}.")
    sized = not loader and hasattr(data, "__getitem__") and hasattr(data, "__len__")
    entries = [data[k] for k in range(len(data))] if sized else list(data)
    if not entries:
        raise ValueError("data must hold at least one sequence, got none.")
    what = "batches (X, y) or (X, y, lengths)" if loader else "items (sequence, label)"
    for entry in entries:
        if not isinstance(entry, tuple | list) or len(entry) not in ((2, 3) if loader else (2,)):
            raise TypeError(f"data must give {what}, got {type(entry).__name__}. Map it to this form first.")
    if not loader:
        return [x for x, _ in entries], _joined([as_tensor(label)[None] for _, label in entries]), None
    batches = [_numbers("X", entry[0]) for entry in entries]
    y = _joined([as_tensor(entry[1]) for entry in entries])
    lengths = _joined([as_tensor(entry[2]) for entry in entries]) if len(entries[0]) == 3 else None
    axis = 2 if layout == "time-last" and all(batch.ndim == 3 for batch in batches) else 1
    steps = {batch.shape[axis] for batch in batches}
    if len(steps) > 1 and lengths is None:
        raise ValueError(
            f"data must give batches (X, y, lengths) where they differ in their steps, got {sorted(steps)} steps. "
            "Return the lengths from collate_fn too."
        )
    longest = max(steps)
    padded = []
    for batch in batches:
        shape = list(batch.shape)
        shape[axis] = longest - shape[axis]
        padded.append(torch.cat([batch, batch.new_zeros(shape)], dim=axis))
    return torch.cat(padded), y, lengths


def _joined(parts: list[Tensor]) -> Tensor:
    shapes = [tuple(part.shape[1:]) for part in parts]
    if len(set(shapes)) > 1:
        raise ValueError(_unequal(shapes))
    return torch.cat(parts)


def _unequal(shapes: Sequence[tuple[int, ...]]) -> str:
    """Return the message about labels whose shapes differ from sequence to sequence."""
    first, other = list(dict.fromkeys(shapes))[:2]
    return (
        f"y must have one shape for all sequences, got {first} and {other}. Pad labels at every step to the longest "
        "sequence, as X is: what they are past the end of a sequence has no effect."
    )
