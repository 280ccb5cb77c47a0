"""Lengths of steps from the times of a sequence, in units of a nominal step."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_EQUAL = 0.01
"""Relative difference up to which the distances of times count as equal: clocks jitter, and files round."""
_OTHER_UNIT = 50
"""Ratio of the distances of times from which they may be in another unit: seconds and minutes differ by 60."""


def typical_gap(times: Sequence[np.ndarray]) -> float:
    """Return the median distance of neighbouring times, over all sequences; 1 where no sequence has two steps."""
    gaps = np.concatenate([np.diff(entry) for entry in times])
    return float(np.median(gaps)) if len(gaps) else 1.0


def step_lengths(times: Sequence[np.ndarray], nominal: float | None = None) -> Tensor | None:
    """Return how long each value holds, in nominal steps: the time until the next one, and 1 for the last.

    Args:
        times: Increasing times of each sequence.
        nominal: Length of a nominal step (default: the median distance of two times).

    Returns:
        Float64 `(n, steps)`, 1 at padding; or `None` where all are 1 within 1 %.

    Example:
        >>> step_lengths([np.array([0.0, 1.0, 3.0, 4.0]), np.array([2.0, 3.0])]).tolist()
        [[1.0, 2.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    unit = typical_gap(times) if nominal is None else nominal
    lengths = np.ones((len(times), max(map(len, times))))
    for row, entry in zip(lengths, times, strict=True):
        row[: len(entry) - 1] = np.diff(entry) / unit
    return None if bool((np.abs(lengths - 1) <= _EQUAL).all()) else torch.from_numpy(lengths)


def warn_of_unit(name: str, gap: float, nominal: float) -> None:
    """Warn if the distance of two times is of another order of magnitude than that of the training data."""
    if not nominal / _OTHER_UNIT < gap < nominal * _OTHER_UNIT:
        warnings.warn(
            f"{name}: the median distance of its times is {gap:g}, and that of the training data {nominal:g}. If "
            "they are in another unit or format, write them as for training, or give time_format (--time-format).",
            stacklevel=2,
        )
