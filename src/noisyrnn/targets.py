"""Targets of sequences: classes or values, one for each sequence or one at every step, and which of the steps count.

The tensor of the targets states all of that itself. Integers are classes, `(n,)` or `(n, steps)`; floating-point
numbers are values, `(n, outputs)` or `(n, steps, outputs)`. At a step that does not count the class is -1 and the
values are NaN. So a mask needs no tensor of its own on the way through training, attacks and evaluation.
"""

import torch
from torch import Tensor

UNCOUNTED = -1
"""Class at a step that does not count."""


def at_every_step(targets: Tensor) -> bool:
    """Whether there is a target at every step, rather than one for each sequence."""
    return targets.ndim == (3 if targets.is_floating_point() else 2)


def counted(targets: Tensor) -> Tensor:
    """Mask of the targets that count, bool: `(n,)`, or `(n, steps)` for targets at every step.

    Example:
        >>> counted(torch.tensor([[0, -1, 2]])), counted(torch.tensor([[[1.0, 2.0], [torch.nan, torch.nan]]]))
        (tensor([[ True, False,  True]]), tensor([[ True, False]]))
    """
    return ~targets.isnan().any(dim=-1) if targets.is_floating_point() else targets >= 0


def mark_uncounted(targets: Tensor, mask: Tensor) -> Tensor:
    """Replace the targets at steps that do not count, where `mask`, bool `(n, steps)`, is false, by -1 or NaN."""
    if targets.is_floating_point():
        return torch.where(mask[..., None], targets, torch.nan)
    return torch.where(mask, targets, UNCOUNTED)


def without_marks(targets: Tensor) -> Tensor:
    """Replace the marks of steps that do not count by class 0 or values 0, so that they can be computed with."""
    if not at_every_step(targets):  # one for each sequence: all count
        return targets
    return targets.nan_to_num(nan=0.0) if targets.is_floating_point() else targets.clamp(min=0)


def mean_over_steps(values: Tensor, targets: Tensor) -> Tensor:
    """Mean of `values` over the counted steps of each sequence, `(n,)`; one value for each sequence stays unchanged.

    Args:
        values: One for each target: `(n,)`, or `(n, steps)` for targets at every step. At a step that does not count it
            may be anything.
        targets: The targets, with at least one counted step in each sequence.
    """
    if not at_every_step(targets):
        return values
    mask = counted(targets)
    if not values.is_floating_point():
        values = values.double()
    return torch.where(mask, values, 0.0).sum(dim=-1) / mask.sum(dim=-1)


def largest_share(targets: Tensor, classes: int, weights: Tensor | None = None) -> float:
    """Accuracy of always answering the most frequent class, as `mean_over_steps` counts steps and weights sequences.

    Args:
        targets: Classes, `(n,)` or `(n, steps)`.
        classes: Their number.
        weights: `(n,)`, at least 0 and not all 0; `None`: all count equally.

    Example:
        >>> largest_share(torch.tensor([0, 0, 0, 1]), 2, torch.tensor([1.0, 1.0, 1.0, 9.0]))
        0.75
    """
    shares = torch.stack([mean_over_steps(targets == k, targets).double() for k in range(classes)])
    weights = torch.ones(len(targets), dtype=torch.float64, device=targets.device) if weights is None else weights
    return float((shares @ weights.double()).max() / weights.double().sum())


def moments(targets: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance of each output of targets that are values, float64 `(outputs,)`.

    Each sequence has the same share, however many of its steps count, or one in proportion to its weight.

    Args:
        targets: `(n, outputs)` or `(n, steps, outputs)`.
        weights: `(n,)`, at least 0 and not all 0; `None`: all count equally.

    Example:
        >>> moments(torch.tensor([[1.0], [2.0], [6.0]]))
        (tensor([3.], dtype=torch.float64), tensor([4.6667], dtype=torch.float64))
    """
    mask = counted(targets)
    shares = torch.ones(len(targets), dtype=torch.float64, device=targets.device) if weights is None else weights
    if at_every_step(targets):
        shares = (shares.double() / mask.sum(dim=1))[:, None].expand(mask.shape)
    values, share = targets[mask].double(), shares[mask].double()
    values, share = values[share > 0], share[share > 0] / share.sum()
    offsets = values - values[0]  # exact zeros where all are equal, and small where all are far from zero
    mean = share @ offsets
    variance = share @ (offsets - mean) ** 2
    return values[0] + mean, torch.where((offsets != 0).any(dim=0), variance, 0.0)
