"""Layers one above another, each in one direction or in both."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from noisyrnn.models.sequences.layout import turned

Pass = Callable[[Tensor, Tensor, Tensor | None, bool], tuple[Tensor | None, Tensor]]
"""One cell over a sequence: inputs, initial state, step lengths and whether every output is wanted, to outputs and the
last state; as `kernels.reference.run`."""


def stacked(
    passes: Sequence[Pass],
    values: Tensor,
    states: Sequence[Tensor],
    *,
    directions: int,
    lengths: Tensor | None,
    dt: Tensor | None,
    every_step: bool,
    between: Callable[[Tensor, int], Tensor],
) -> tuple[Tensor | None, list[Tensor]]:
    """Outputs of the last layer, `(batch, steps, directions * hidden_size)`, and the last state of every pass.

    Args:
        passes: Of the first layer forward and, for two directions, backward; of the second; and so on.
        values: `(batch, steps, input_size)`.
        states: Initial states in the order of `passes`, each `(batch, state_size)`.
        directions: 1 or 2.
        lengths: Valid steps of each sequence, int64 `(batch,)`; a backward pass starts at the last of them.
        dt: Length of each step, `(steps,)` or `(batch, steps)`.
        every_step: Whether the outputs are wanted; else they are `None`.
        between: Makes the inputs of the next layer of a layer's outputs and its number.
    """
    ends: list[Tensor] = []
    outputs: Tensor | None = None
    for first in range(0, len(passes), directions):
        is_last = first + directions == len(passes)
        every = every_step or not is_last
        outputs, end = passes[first](values, states[first], dt, every)
        ends.append(end)
        if directions == 2:
            sizes = None if dt is None else turned(dt.expand(values.shape[:2]), lengths)
            backward, end = passes[first + 1](turned(values, lengths), states[first + 1], sizes, every)
            ends.append(end)
            if outputs is not None and backward is not None:
                outputs = torch.cat([outputs, turned(backward, lengths)], dim=2)
        if not is_last:
            assert outputs is not None
            values = between(outputs, first // directions)
    return (outputs if every_step else None), ends
