"""What both passes need: blocks of steps, the time they take, and products with or without the axis of replicas."""

from typing import NamedTuple

import torch
from torch import Tensor

from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.cpp import buffers
from noisyrnn.padding import valid_steps

BLOCK = 32
"""Steps; fewer are not worth the calls, more leave a processor's last cache."""


class Time(NamedTuple):
    """What time does to a step; the tensors broadcast against `(R, T, B, hidden_size)`.

    Args:
        dt: Step lengths, 1 past a sequence's end.
        over: Whether the sequence has ended.
        moves: The length of a step, 0 past the end.
    """

    dt: Tensor | None
    over: Tensor | None
    moves: Tensor

    @classmethod
    def of(cls, call: KernelCall) -> "Time":
        """The one of a pass."""
        steps = call.inputs.shape[2]
        over, dt = None, None
        if call.lengths is not None:
            over = ~valid_steps(call.lengths, steps).transpose(1, 2)[..., None]
        if call.dt is not None:
            dt = call.dt.transpose(1, 2)[..., None]
            dt = dt if over is None else torch.where(over, 1.0, dt)
        moves = call.inputs.new_ones(1, 1, 1, 1) if dt is None or call.kind == "modrelu" else dt
        moves = moves if over is None else moves.masked_fill(over, 0.0)
        return cls(dt, over, moves.expand(len(call.state), steps, -1, -1))


def valid_inputs(call: KernelCall, time: Time) -> Tensor:
    """Inputs `(R, T, B, input_size)`, zero past the end: padding may be anything."""
    x = call.inputs.transpose(1, 2)
    return x if time.over is None else x.masked_fill(time.over, 0.0)


def empty(like: Tensor, *shape: int) -> Tensor:
    """Memory for numbers such as these; the processor's is used again, since fresh pages are slow to come."""
    if like.device.type == "cpu" and like.dtype == torch.float32:
        return buffers.empty(*shape)
    return like.new_empty(shape)


def each_step(block: Tensor) -> tuple[Tensor, ...]:
    """Steps of `(R, k, ...)`, without the axis R where it is 1: plain matrices take the shorter way."""
    return block[0].unbind(0) if len(block) == 1 else block.unbind(1)


def squeezed(tensor: Tensor) -> Tensor:
    """`(R, ...)` without the axis R where that is 1."""
    return tensor[0] if len(tensor) == 1 else tensor


def add_product(target: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`target += left @ right` for a matrix, or one for each replica."""
    return target.addmm_(left, right) if target.ndim == 2 else target.baddbmm_(left, right)
