"""Runs stacked layers, each in one direction or in both."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from noisyrnn.models.sequences.layout import reverse_valid

Pass = Callable[..., tuple[Tensor | None, Tensor]]
"""Runs one cell over sequences. Takes inputs, initial state, `dt` and `every_step`, like `kernels.operator.run`."""


def run_stack(
    passes: Sequence[Pass],
    values: Tensor,
    states: Sequence[Tensor],
    *,
    directions: int,
    lengths: Tensor | None,
    dt: Tensor | None,
    every_step: bool,
    between: Callable[[Tensor, int], Tensor] | None,
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the outputs of the last layer, `(batch, steps, directions * hidden_size)`, and every pass's last state.

    Args:
        passes: The passes layer by layer; with two directions, forward and backward alternate.
        values: `(batch, steps, input_size)`.
        states: Initial states in the order of `passes`, each `(batch, state_size)`.
        directions: 1 or 2.
        lengths: Valid steps of each sequence, int64 `(batch,)`; a backward pass starts at the last of them.
        dt: Length of each step in nominal steps, `(steps,)` or `(batch, steps)`; `None` for 1.
        every_step: Whether to return outputs; without it they are `None`.
        between: Maps a layer's outputs and its number to the inputs of the next layer; `None` for the identity.
    """
    last_states: list[Tensor] = []
    outputs: Tensor | None = None
    for first in range(0, len(passes), directions):
        is_last = first + directions == len(passes)
        every = every_step or not is_last
        outputs, state = passes[first](values, states[first], dt=dt, every_step=every)
        last_states.append(state)
        if directions == 2:
            sizes = None if dt is None else reverse_valid(dt.expand(values.shape[:2]), lengths)
            backward, state = passes[first + 1](
                reverse_valid(values, lengths), states[first + 1], dt=sizes, every_step=every
            )
            last_states.append(state)
            if outputs is not None and backward is not None:
                outputs = torch.cat([outputs, reverse_valid(backward, lengths)], dim=2)
        if not is_last:
            assert outputs is not None
            values = outputs if between is None else between(outputs, first // directions)
    return (outputs if every_step else None), last_states
