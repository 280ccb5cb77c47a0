"""Padding: the steps past the end of a sequence that is shorter than its batch."""

import torch
from torch import Tensor


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """Mask of the steps that belong to their sequence, bool `(..., steps)`; false where they are padding.

    Args:
        lengths: Valid steps of each sequence, integers `(...)`.
        steps: Number of steps of the batch.

    Example:
        >>> valid_steps(torch.tensor([1, 3]), 3)
        tensor([[ True, False, False],
                [ True,  True,  True]])
    """
    return torch.arange(steps, device=lengths.device) < lengths[..., None]


def valid_values(inputs: Tensor, lengths: Tensor | None) -> Tensor:
    """Mask of the steps of `inputs` that belong to their sequence, bool `(batch, steps, 1)`.

    Args:
        inputs: `(batch, steps, input_size)`.
        lengths: Valid steps of each sequence, integers `(batch,)`; `None` where all are.
    """
    batch, steps, _ = inputs.shape
    if lengths is None:
        return torch.ones(batch, steps, 1, dtype=torch.bool, device=inputs.device)
    return valid_steps(lengths.to(inputs.device), steps).unsqueeze(-1)


def repeat_last(inputs: Tensor, lengths: Tensor | None, steps: int) -> Tensor:
    """Return sequences of `steps` steps, in which the last valid value of a shorter one is repeated.

    Args:
        inputs: `(batch, steps before, input_size)`.
        lengths: Valid steps of each sequence, integers `(batch,)`; `None` where all are.
        steps: Steps of the result, at least those of `inputs`.

    Example:
        >>> repeat_last(torch.tensor([[[1.0], [2.0], [0.0]]]), torch.tensor([2]), 4).flatten()
        tensor([1., 2., 2., 2.])
    """
    batch, own, size = inputs.shape
    ends = torch.full((batch,), own, dtype=torch.int64, device=inputs.device)
    if lengths is not None:
        ends = lengths.to(ends)
    places = torch.arange(steps, device=inputs.device).minimum(ends[:, None] - 1)
    return inputs.gather(1, places[..., None].expand(batch, steps, size))
