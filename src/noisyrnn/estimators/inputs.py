"""Converts sequences in the layouts of scikit-learn, aeon and sktime to one padded tensor."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data
from torch import Tensor

from noisyrnn.checks import check_choice
from noisyrnn.data.numbers import check_real
from noisyrnn.data.parts import pad_sequences

LAYOUTS = ("channels_first", "channels_last")
"""(n, channels, time), as in aeon and sktime, and (n, time, channels)."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of an estimator's `X`.

    Args:
        inputs: Float64 `(n, steps, channels)`, padded with zeros at the end.
        lengths: Int64 `(n,)`, valid steps of each; `None` if all have `steps`.
    """

    inputs: Tensor
    lengths: Tensor | None

    def __len__(self) -> int:
        return len(self.inputs)

    def subset(self, kept: Tensor) -> "Sequences":
        """Select the sequences for which the boolean `kept`, `(n,)`, is true."""
        return Sequences(self.inputs[kept], None if self.lengths is None else self.lengths[kept])


def read_sequences(estimator: BaseEstimator, X: Any, *, layout: str, first: bool, missing: bool = False) -> Sequences:
    """Check `X` and return its sequences.

    Args:
        estimator: Estimator for which scikit-learn checks a table; it stores the number of columns, `n_features_in_`.
        X: `(n, time)` for one channel; `(n, channels, time)` or `(n, time, channels)`; or a list, or an object array,
            of sequences `(time,)`, `(channels, time)` or `(time, channels)` of any lengths.
        layout: Key of `LAYOUTS`, for inputs with channels.
        first: Whether this is the first fit, which determines the number of columns of all later tables; inputs in
            another form may have any number of steps.
        missing: Whether values may be missing, NaN.

    Raises:
        ValueError: If `X` has another form, is empty, or contains infinite values, or NaN that it may not.
        TypeError: If it is sparse or does not contain numbers.

    Example:
        >>> sequences = read_sequences(BaseEstimator(), [[1.0, 2.0], [3.0]], layout="channels_first", first=True)
        >>> sequences.inputs.squeeze(-1), sequences.lengths
        (tensor([[1., 2.],
                [3., 0.]], dtype=torch.float64), tensor([2, 1]))
    """
    check_choice("layout", layout, LAYOUTS)
    with _advice_on_missing():
        return _read(estimator, X, layout, first, missing)


@contextmanager
def _advice_on_missing() -> Iterator[None]:
    """Add what accepts missing values to scikit-learn's message about them."""
    try:
        yield
    except ValueError as error:
        found = str(error).splitlines()[0]
        if not found.endswith("contains NaN."):
            raise
        raise ValueError(
            f"{found} Set missing='hold', 'mask' or 'skip' to accept missing values, or impute them."
        ) from None


def _read(estimator: BaseEstimator, X: Any, layout: str, first: bool, missing: bool) -> Sequences:
    options = _checks(missing)
    if isinstance(X, Tensor):
        X = X.detach().cpu()
    if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1:
        X = list(X)
    if isinstance(X, list | tuple) and len({np.shape(np.asarray(x)) for x in X if _is_regular(x)}) > 1:
        X = [_one_sequence(x, index, layout, missing) for index, x in enumerate(X)]
        sizes = sorted({x.shape[1] for x in X})
        if len(sizes) > 1:
            raise ValueError(f"X must hold sequences with one number of channels, got {sizes[0]} and {sizes[-1]}.")
        _forget_columns(estimator, first)
        return Sequences(*pad_sequences(X))
    if not hasattr(X, "toarray"):  # scikit-learn rejects sparse ones
        check_real("X", X)
    axes = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
    if axes == 3:
        array = check_array(X, allow_nd=True, input_name="X", estimator=estimator, **options)
        if 0 in array.shape:
            raise ValueError(f"X must hold at least one sequence of one step, got {array.shape}.")
        _forget_columns(estimator, first)
        return Sequences(_steps_first(array, layout), None)
    if axes > 3:
        raise ValueError(f"X must have 2 or 3 dimensions, got {axes}.")
    return Sequences(float64_tensor(validate_data(estimator, X, reset=first, **options))[:, :, None], None)


def float64_tensor(array: Any) -> Tensor:
    """Copy to an array that torch accepts: without negative strides, foreign byte orders or read-only flags."""
    return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))


def _is_regular(x: Any) -> bool:
    """Return whether `x` has a shape: a list of lists of several lengths has none."""
    try:
        np.asarray(x)
    except ValueError:
        return False
    return True


def _checks(missing: bool) -> dict[str, Any]:
    """Return the arguments of scikit-learn's checks."""
    return {"dtype": np.float64, "ensure_all_finite": "allow-nan" if missing else True}


def _one_sequence(x: Any, index: int, layout: str, missing: bool) -> Tensor:
    """Convert one sequence of a list to float64 `(length, channels)`."""
    check_real(f"X[{index}]", x)
    array = check_array(x, ensure_2d=False, ensure_min_features=1, input_name=f"X[{index}]", **_checks(missing))
    return float64_tensor(array)[:, None] if array.ndim == 1 else _steps_first(array, layout)


def _steps_first(array: np.ndarray, layout: str) -> Tensor:
    """Convert an array to a tensor whose last two axes are steps and channels."""
    tensor = float64_tensor(array)
    return tensor.transpose(-1, -2).contiguous() if layout == "channels_first" else tensor


def _forget_columns(estimator: BaseEstimator, first: bool) -> None:
    """Remove the number of columns of an earlier fit on a table."""
    if first:
        for name in ("n_features_in_", "feature_names_in_"):
            vars(estimator).pop(name, None)


def check_sample_weight(sample_weight: Any, count: int) -> np.ndarray:
    """Return `sample_weight` as float64 `(count,)`; raise unless its values are finite, at least 0 and not all 0."""
    check_real("sample_weight", sample_weight)
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (count,):
        raise ValueError(f"sample_weight must have shape ({count},), one for each sequence, got {weights.shape}.")
    bad = int((~np.isfinite(weights)).sum())
    if bad:
        raise ValueError(f"sample_weight must be finite, got {bad} NaN or infinite values.")
    if weights.min() < 0:
        raise ValueError(f"sample_weight must be at least 0, got {weights.min():g}.")
    if weights.max() == 0:
        raise ValueError(f"sample_weight must not be all zero, got {count} zeros.")
    return weights
