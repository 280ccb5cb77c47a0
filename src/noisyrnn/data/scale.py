"""Scale of the channels of data that state no range of values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from noisyrnn.checks import check_number
from noisyrnn.data.split import Split
from noisyrnn.data.stored import StoredSequences

QUANTILES = (0.001, 0.999)
"""Quantiles that define the extremes of a channel: a single outlier does not move them."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Mean, standard deviation and extremes of each channel, in the units of the data.

    Args:
        mean: Mean of each channel.
        std: Standard deviation of each channel, 0 where it never varies.
        low: Quantile 0.1 % of each channel.
        high: Quantile 99.9 % of each channel.

    Raises:
        ValueError: If a number is not finite, a standard deviation is negative, or the four have different lengths.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std", "low", "high"):
            numbers = tuple(map(float, getattr(self, name)))
            if len(numbers) != len(self.mean):
                raise ValueError(
                    f"{name} must hold one number for each of {len(self.mean)} channels, got {len(numbers)}."
                )
            for number in numbers:
                check_number(name, number, minimum=0 if name == "std" else -math.inf)
            object.__setattr__(self, name, numbers)

    @classmethod
    def of(cls, split: Split) -> "Scale":
        """Compute the scale of the valid steps of a split in float64; a sequence counts by its weight.

        Missing values do not count; a channel without any value gets zeros. The extremes of inputs that stay in their
        files are those of a sample of them, spread evenly.
        """
        if isinstance(split.inputs, StoredSequences):
            scan = split.inputs.scan
            low, high = np.quantile(scan.sample.numpy(), QUANTILES, axis=0)
            ends = tuple(low.tolist()), tuple(high.tolist())
            return cls(mean=tuple(scan.mean.tolist()), std=tuple(scan.std.tolist()), low=ends[0], high=ends[1])
        valid = split.valid()
        values = split.inputs[valid].double().cpu().numpy()
        weights = None
        if split.weights is not None:
            weights = split.weights[:, None].expand(valid.shape)[valid].double().cpu().numpy()
            values, weights = values[weights > 0], weights[weights > 0]
        known = ~np.isnan(values)
        if known.all():
            found = _describe(values, weights)
        else:
            columns = [
                _describe(column[there][:, None], None if weights is None else weights[there])
                for column, there in zip(values.T, known.T, strict=True)
            ]
            found = [np.concatenate(parts) for parts in zip(*columns, strict=True)]
        mean, std, low, high = (tuple(entries.tolist()) for entries in found)
        return cls(mean=mean, std=std, low=low, high=high)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Scale":
        """Rebuild a scale from the result of `dataclasses.asdict`."""
        return cls(**{name: tuple(values[name]) for name in ("mean", "std", "low", "high")})


def _describe(values: np.ndarray, weights: np.ndarray | None) -> list[np.ndarray]:
    """Return mean, standard deviation and extremes of each column; zeros where there is no value."""
    if len(values) == 0:
        return [np.zeros(values.shape[1])] * 4
    mean = np.average(values, axis=0, weights=weights)
    std = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    std[np.ptp(values, axis=0) == 0] = 0.0  # the rounded mean would leave a tiny value
    low, high = np.quantile(values, QUANTILES, axis=0) if weights is None else _weighted_quantiles(values, weights)
    return [mean, std, low, high]


def _weighted_quantiles(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return, for each of `QUANTILES` and each channel, the smallest value with at least that share of the weight."""
    order = values.argsort(axis=0)
    shares = weights[order].cumsum(axis=0) / weights.sum()
    columns = range(values.shape[1])
    places = [[min(int(np.searchsorted(shares[:, c], q)), len(values) - 1) for c in columns] for q in QUANTILES]
    return np.array([[values[order[row[c], c], c] for c in columns] for row in places])
