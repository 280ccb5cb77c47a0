"""Missing values: NaN in the inputs of a model that states, in its attribute `missing`, how it meets them."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

MISSING = {
    "mask": "held, with a mask channel",
    "hold": "held",
    "skip": "skipped",
}
"""How a model can meet missing values, with the words of a summary; `noisyrnn.models.missing` computes it."""


def missing_of(model: Any) -> str | None:
    """Return how a model meets missing values, a key of `MISSING`; `None` if it does not."""
    while isinstance(model, partial):
        model = model.func
    stated = getattr(model, "missing", None)
    return stated if isinstance(stated, str) else None


def hold_last(values: Tensor, start: float | Tensor = 0.0) -> Tensor:
    """Replace missing values by the last one of their channel, and by `start` where there is none yet.

    Args:
        values: `(batch, steps, channels)`, NaN where a value is missing.
        start: A number, or one for each channel, `(channels,)`.

    Example:
        >>> hold_last(torch.tensor([[[torch.nan], [1.0], [torch.nan], [2.0]]])).flatten()
        tensor([0., 1., 1., 2.])
    """
    step = torch.arange(values.shape[1], device=values.device)[None, :, None]
    last = torch.where(values.isnan(), -1, step).cummax(dim=1).values
    return torch.where(last >= 0, values.gather(1, last.clamp(min=0)), start)


def hold_last_or_next(values: Tensor) -> Tensor:
    """As `hold_last`, but where there is no value yet take the first one that comes; zero if there is none at all.

    Example:
        >>> hold_last_or_next(torch.tensor([[[torch.nan], [1.0], [torch.nan]]])).flatten()
        tensor([1., 1., 1.])
    """
    known = ~values.isnan()
    first = known.to(torch.int8).argmax(dim=1, keepdim=True)
    begun = known.cumsum(dim=1) > 0
    start = torch.where(known.any(dim=1, keepdim=True), values.gather(1, first), 0.0)
    return torch.where(begun, hold_last(values), start)
