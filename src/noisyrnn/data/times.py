"""Times of steps: parsed from cells, and turned into the lengths of the steps."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor

from noisyrnn.data.numbers import parse_number

_EQUAL = 0.01
"""Relative difference up to which the distances of times count as equal: clocks jitter, and files round."""


def parse_times(cells: Sequence[str]) -> np.ndarray | None:
    """Parse numbers, or dates in ISO 8601 to seconds, float64 `(n,)`; `None` if one is neither.

    Example:
        >>> parse_times(["2026-01-01 00:00:01.5", "2026-01-01 00:00:00"]).tolist()
        [1767225601.5, 1767225600.0]
    """
    numbers = [parse_number(cell) for cell in cells]
    if all(number is not None for number in numbers):
        return np.array(numbers, dtype=np.float64)
    try:
        dates = [datetime.fromisoformat(cell) for cell in cells]
    except ValueError:
        return None
    return np.array([(date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() for date in dates])


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
