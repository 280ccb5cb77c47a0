"""Regressor of sequences."""

from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_array
from torch import Tensor

from noisyrnn.checks import check_values
from noisyrnn.data.numbers import check_real
from noisyrnn.data.split import Split
from noisyrnn.estimators.base import SequenceEstimator
from noisyrnn.estimators.inputs import float64_tensor
from noisyrnn.models import Head, SequenceModel, SequenceRegressor


class NoisyRNNRegressor(RegressorMixin, SequenceEstimator):  # type: ignore[misc]
    """A recurrent network that predicts values for sequences, trained with noise added to its hidden state.

    It minimizes the squared error of the standardised targets. The arguments are those of `NoisyRNNClassifier` without
    `class_weight`. The attributes are the same without `classes_`, and `model_` is a `SequenceRegressor` with outputs
    in the units of `y`.

    Attributes:
        y_mean_: Mean of each target in the first fit, `(targets,)`.
        y_std_: Standard deviation of each target, 1 where it never varies, `(targets,)`.

    Example:
        >>> t = np.linspace(0, 6, 20)
        >>> slopes = np.linspace(-1, 1, 40)
        >>> X = slopes[:, None] * t
        >>> regressor = NoisyRNNRegressor(hidden_size=8, epochs=50, learning_rate=0.02, random_state=0).fit(X, slopes)
        >>> bool(regressor.score(X, slopes) > 0.9)
        True
    """

    _head: ClassVar[type[Head]] = SequenceRegressor

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch on these sequences, from the current weights, without a validation part.

        Standardisation is that of the first call. Each call resets the optimizer's moments, so many small calls train
        worse than one `fit`.
        """
        self._continue(X, y, sample_weight, learn=not hasattr(self, "model_"))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict the values of each sequence, `(n,)` or `(n, targets)`, the shape of `y` in `fit`."""
        found = self._outputs(X).numpy()
        return found if self.tabular_ else found[:, 0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _checked(self, y: Any) -> np.ndarray:
        check_real("y", y)
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=self)
        check_values("y", float64_tensor(y))
        return y

    def _learn(self, y: np.ndarray, weights: np.ndarray | None = None) -> None:
        self.tabular_ = y.ndim == 2
        rows = y.reshape(len(y), -1)
        self.y_mean_ = np.average(rows, axis=0, weights=weights)
        std = np.sqrt(np.average((rows - self.y_mean_) ** 2, axis=0, weights=weights))
        self.y_std_ = np.where((std > 0) & (np.ptp(rows, axis=0) > 0), std, 1.0)

    def _labels(self, y: np.ndarray) -> Tensor:
        rows = y.reshape(len(y), -1)
        if rows.shape[1] != len(self.y_mean_):
            raise ValueError(f"y must hold {len(self.y_mean_)} targets, as before, got {rows.shape[1]}.")
        return torch.tensor((rows - self.y_mean_) / self.y_std_, dtype=torch.float32, device="cpu")

    def _true(self, y: np.ndarray) -> Tensor:
        return float64_tensor(y.reshape(len(y), -1))

    def _class_names(self) -> tuple[str, ...]:
        return ()

    def _row_weights(self, y: np.ndarray) -> np.ndarray | None:
        return None

    def _draw(self, split: Split, size: int, seed: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed), device="cpu")
        return order[:size], order[size:]

    def _finished(self, model: SequenceModel) -> SequenceModel:
        """Return the model with the units of `y` in its readout."""
        mean, std = self._target_scale()
        weight, bias = model.readout.weight, model.readout.bias
        return _with_readout(model, weight * std[:, None], bias * std + mean)

    def _unfinished(self, model: SequenceModel) -> SequenceModel:
        mean, std = self._target_scale()
        weight, bias = model.readout.weight, model.readout.bias
        return _with_readout(model, weight / std[:, None], (bias - mean) / std)

    def _target_scale(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the targets, float64 `(targets,)`."""
        mean, std = (torch.tensor(each, dtype=torch.float64, device="cpu") for each in (self.y_mean_, self.y_std_))
        return mean, std


@torch.no_grad()
def _with_readout(model: SequenceModel, weight: Tensor, bias: Tensor) -> SequenceModel:
    """Set the weights of a model's readout and return the model."""
    model.readout.weight.copy_(weight)
    model.readout.bias.copy_(bias)
    return model
