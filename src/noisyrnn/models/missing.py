"""How a sequence model meets missing values: NaN in its inputs.

The values are standardized first, so that zero is the mean of a channel in the training data.
"""

import torch
from torch import Tensor

from noisyrnn.checks import check_choice, check_lengths, values_hidden
from noisyrnn.missing import MISSING, hold_last
from noisyrnn.models.sequences.layout import step_lengths
from noisyrnn.padding import valid_steps


def layer_channels(channels: int, missing: str | None) -> int:
    """Return the channels that the layer of a model sees: with "mask" twice those of the inputs."""
    return 2 * channels if missing == "mask" else channels


def check_missing_setting(missing: str | None, *, every_step: bool, supports_dt: bool, name: str) -> None:
    """Raise unless `missing` is `None` or a key of `MISSING` that a model can have.

    Args:
        missing: The setting.
        every_step: Whether there is an answer at every step.
        supports_dt: Whether the steps of the layer have a length.
        name: The layer, for messages.
    """
    if missing is None:
        return
    check_choice("missing", missing, MISSING)
    if missing == "skip" and not supports_dt:
        raise ValueError(
            f"missing must be 'mask' or 'hold' for {name}, whose steps have no length, got 'skip'. Only a step with a "
            "length can take the time of those that are skipped."
        )
    if missing == "skip" and every_step:
        raise ValueError(
            "missing must be 'mask' or 'hold' for answers at every step, got 'skip'. A skipped step has no answer."
        )


def add_mask(values: Tensor) -> Tensor:
    """Return the values as `hold_last` does, and as many channels more: 1 where there is a value, else 0.

    Example:
        >>> add_mask(torch.tensor([[[2.0], [torch.nan]]]))
        tensor([[[2., 1.],
                 [2., 0.]]])
    """
    return torch.cat([hold_last(values), (~values.isnan()).to(values.dtype)], dim=2)


def skip_steps(values: Tensor, lengths: Tensor | None, dt: Tensor | float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Leave out the steps without any value; the step before takes over their lengths. Other values are held.

    It is what `hold_last` does with equal steps made one: their lengths add up to the same time. The first step of a
    sequence always remains.

    Args:
        values: `(batch, steps, channels)`, NaN where a value is missing.
        lengths: Valid steps of each sequence, `(batch,)`; `None` if all are.
        dt: Lengths of the steps: a number, `(steps,)` or `(batch, steps)`; `None`: 1.

    Returns:
        The values, zero behind the steps that remain; the number of these, `(batch,)`; and their lengths, float64
        `(batch, steps)`, 1 behind them.

    Raises:
        ValueError: If a shape, a length or a step length is out of range.
        TypeError: If lengths are not integers, or `dt` is not a number or a tensor.

    Example:
        >>> values, lengths, dt = skip_steps(torch.tensor([[[1.0], [torch.nan], [2.0]]]), None, None)
        >>> values.flatten(), lengths, dt
        (tensor([1., 2.]), tensor([2]), tensor([[2., 1.]], dtype=torch.float64))
    """
    batch, steps, _ = values.shape
    valid = torch.ones(batch, steps, dtype=torch.bool, device=values.device)
    if lengths is not None:
        check_lengths(lengths, batch=batch, steps=steps)
        lengths = lengths.to(values.device)
        valid = valid_steps(lengths, steps)
    like = values.new_empty(0, dtype=torch.float64)
    sizes = step_lengths(1.0 if dt is None else dt, values, lengths, like).expand(batch, steps)
    first = torch.arange(steps, device=values.device) == 0
    kept = valid & (first | ~values.isnan().all(dim=2))
    count = kept.sum(dim=1)
    order = (~kept).to(torch.int64).argsort(dim=1, stable=True)
    remains = valid_steps(count, steps)
    place = (kept.cumsum(dim=1) - 1).clamp(min=0)  # of the kept step that each one belongs to
    summed = torch.zeros_like(sizes).scatter_add(1, place, torch.where(valid, sizes, 0.0))
    held = hold_last(values)
    moved = held.gather(1, order[:, :, None].expand_as(held))
    moved = torch.where(remains[:, :, None], moved, 0.0)
    sizes = torch.where(remains, summed, 1.0)
    if not values_hidden():  # the results are the same with more padding
        longest = int(count.max())
        moved, sizes = moved[:, :longest], sizes[:, :longest]
    return moved, count, sizes
