"""Converts sequences to and from the caller's form: batch or steps first, unbatched, packed, or with a mask."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from noisyrnn.checks import autocasts, check_lengths, check_mask, values_hidden
from noisyrnn.models.modules import first_weight
from noisyrnn.padding import valid_steps


class Sequences(NamedTuple):
    """Sequences in the form that the loops take, with what is needed to return results in the caller's form.

    Args:
        values: `(batch, steps, input_size)`.
        lengths: Valid steps of each sequence, int64 `(batch,)` on the device of `values`; `None` if all are valid.
        batch_first: Whether the caller's batch axis comes before the steps.
        unbatched: Whether the caller passed one sequence without a batch axis.
        packed: The caller's sequences if they were packed.
    """

    values: Tensor
    lengths: Tensor | None
    batch_first: bool
    unbatched: bool = False
    packed: PackedSequence | None = None

    def restore(self, outputs: Tensor) -> Tensor | PackedSequence:
        """Return outputs `(batch, steps, size)` in the caller's form."""
        if self.packed is not None:
            return _packed_like(self.packed, outputs)
        if self.unbatched:
            return outputs[0]
        return outputs if self.batch_first else outputs.transpose(0, 1)


def check_form(inputs: Tensor | PackedSequence, *, input_size: int, batch_first: bool) -> None:
    """Raise unless `inputs` are sequences of `input_size` channels in one of the forms that `to_batch_first` takes.

    Raises:
        ValueError: If their shape does not fit.
        TypeError: If they are not a floating tensor or packed sequence.
    """
    if isinstance(inputs, PackedSequence):
        if inputs.data.ndim != 2 or inputs.data.shape[1] != input_size:
            raise ValueError(
                f"inputs must be packed with data of shape (values, {input_size}), got {tuple(inputs.data.shape)}."
            )
        inputs = inputs.data
    elif not isinstance(inputs, Tensor):
        raise TypeError(f"inputs must be a tensor or a PackedSequence, got {type(inputs).__name__}.")
    elif inputs.ndim not in (2, 3) or inputs.shape[-1] != input_size:
        axes = "batch, steps" if batch_first else "steps, batch"
        hint = " For several sequences add the feature axis: inputs.unsqueeze(-1)." if inputs.ndim == 2 else ""
        raise ValueError(
            f"inputs must have shape ({axes}, {input_size}), or (steps, {input_size}) for one sequence, "
            f"got {tuple(inputs.shape)}.{hint}"
        )
    elif 0 in inputs.shape:
        raise ValueError(f"inputs must hold at least one sequence of one step, got {tuple(inputs.shape)}.")
    if not inputs.is_floating_point():
        raise TypeError(f"inputs must be floating point, got {inputs.dtype}. Convert: inputs.float().")


def check_dtype(argument: str, values: Tensor, module: nn.Module) -> None:
    """Raise `TypeError` unless `values` have the type of the module's weights; autocast converts them itself."""
    weight = first_weight(module)
    if weight is None or values.dtype == weight.dtype or autocasts(values.device.type):
        return
    raise TypeError(
        f"{argument} must be {weight.dtype}, as the weights are, got {values.dtype}. Convert one of them: "
        f"{argument}.to({weight.dtype}), or the module: .to({values.dtype})."
    )


def to_batch_first(
    inputs: Tensor | PackedSequence,
    *,
    input_size: int,
    batch_first: bool,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
) -> Sequences:
    """Convert sequences to the form that the loops take.

    Args:
        inputs: `(batch, steps, input_size)`, or `(steps, batch, input_size)` without `batch_first`;
            `(steps, input_size)` for one sequence; or packed, which includes their lengths.
        input_size: Channels of one step.
        batch_first: Whether the batch axis of `inputs` comes before the steps.
        lengths: Valid steps of each sequence, integers `(batch,)`, each in [1, steps].
        mask: Valid steps as a mask, bool `(batch, steps)`: true on a sequence's valid steps, which come first.

    Raises:
        ValueError: If a shape or a value does not fit, or lengths are given twice.
        TypeError: If an argument has the wrong type.
    """
    check_form(inputs, input_size=input_size, batch_first=batch_first)
    both = [name for name, given in (("lengths", lengths), ("mask", mask)) if given is not None]
    if len(both) == 2:
        raise ValueError("lengths must be None with a mask, got both. Give one of them.")
    if isinstance(inputs, PackedSequence):
        if both:
            raise ValueError(f"{both[0]} must be None with a PackedSequence, which has its own lengths, got a tensor.")
        values, lengths = pad_packed_sequence(inputs, batch_first=True)
        return Sequences(values, lengths.to(values.device), batch_first, packed=inputs)
    if inputs.ndim == 2:
        if both:
            raise ValueError(f"{both[0]} must be None for one sequence without a batch axis, got a tensor.")
        return Sequences(inputs.unsqueeze(0), None, batch_first, unbatched=True)
    values = inputs if batch_first else inputs.transpose(0, 1)
    if mask is not None:
        lengths = _lengths_of(mask, values)
    if lengths is not None:
        check_lengths(lengths, batch=values.shape[0], steps=values.shape[1])
        lengths = lengths.to(values.device)
    return Sequences(values, lengths, batch_first)


def reverse_valid(values: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse the valid steps of `(batch, steps)` or `(batch, steps, size)`; padding stays behind them."""
    if lengths is None:
        return values.flip(1)
    steps = values.shape[1]
    index = (lengths[:, None] - 1 - torch.arange(steps, device=values.device)) % steps  # past the end stays past it
    return torch.take_along_dim(values, index if values.ndim == 2 else index.unsqueeze(-1), dim=1)


def step_lengths(dt: Tensor | float, values: Tensor, lengths: Tensor | None, like: Tensor) -> Tensor:
    """Return step lengths as a tensor `(steps,)` or `(batch, steps)`; 1 past a sequence's end.

    Args:
        dt: Lengths in nominal steps, above 0: a number, `(steps,)` or `(batch, steps)`.
        values: The sequences, `(batch, steps, input_size)`.
        lengths: Valid steps of each sequence, int64 `(batch,)`; `None` if all are valid.
        like: Tensor whose type and device the result has.

    Raises:
        ValueError: If the shape does not fit, or a step length is not positive and finite.
        TypeError: If `dt` is not a number or a tensor.
    """
    batch, steps, _ = values.shape
    if isinstance(dt, str | bool) or dt is None:
        raise TypeError(f"dt must be a number or a tensor, got {dt!r}.")
    sizes = torch.as_tensor(dt, dtype=like.dtype, device=like.device)
    if sizes.ndim == 0:
        sizes = sizes.expand(steps)
    if sizes.shape not in ((steps,), (batch, steps)):
        raise ValueError(f"dt must be a number or have shape ({steps},) or {(batch, steps)}, got {tuple(sizes.shape)}.")
    if lengths is not None and sizes.ndim == 2:
        sizes = torch.where(valid_steps(lengths, steps), sizes, 1.0)  # padding may be anything
    if values_hidden():
        return sizes
    smallest, largest = float(sizes.detach().min()), float(sizes.detach().max())
    if not smallest > 0:
        raise ValueError(f"dt must be positive, got {smallest:g} as the smallest.")
    if not math.isfinite(largest):
        raise ValueError(f"dt must be finite, got {largest:g} as the largest.")
    return sizes


def _lengths_of(mask: Tensor, values: Tensor) -> Tensor:
    """Return the number of true entries in each row of a mask; they must come first."""
    check_mask(mask, count=values.shape[0], steps=values.shape[1])
    if not values_hidden():
        broken = (mask[:, 1:] & ~mask[:, :-1]).any(dim=1).nonzero()
        if len(broken):
            raise ValueError(
                f"mask must be true on the first steps of a sequence and false on the others, got a gap in row "
                f"{int(broken[0])}. Move each sequence to the front, or give dt for steps that are missing."
            )
    return mask.sum(dim=1)


def _packed_like(packed: PackedSequence, outputs: Tensor) -> PackedSequence:
    """Return outputs `(batch, steps, size)` packed like `packed`."""
    if packed.sorted_indices is not None:
        outputs = outputs[packed.sorted_indices]
    counts = packed.batch_sizes.to(outputs.device)  # sequences that have each step, the longest first
    going = valid_steps(counts, outputs.shape[0])
    return PackedSequence(
        outputs.transpose(0, 1)[going], packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
    )
