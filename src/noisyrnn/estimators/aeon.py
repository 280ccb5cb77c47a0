"""The estimators with aeon's interface; requires aeon, `pip install noisyrnn[ucr]`."""

from typing import Any, ClassVar

import numpy as np
from aeon.classification import BaseClassifier
from aeon.regression import BaseRegressor
from sklearn.base import clone

from noisyrnn.estimators.classifier import NoisyRNNClassifier
from noisyrnn.estimators.regressor import NoisyRNNRegressor

_TAGS = {
    "X_inner_type": ["np-list", "numpy3D"],
    "capability:multivariate": True,
    "capability:unequal_length": True,
    "non_deterministic": True,
    "algorithm_type": "deeplearning",
}


class AeonNoisyRNNClassifier(BaseClassifier):  # type: ignore[misc]
    """`NoisyRNNClassifier` with aeon's interface.

    Args:
        estimator: Estimator with the settings and the layout "channels_first" (default: default settings). It is
            cloned.
        random_state: Replaces the `random_state` of `estimator` unless it is `None`.
    """

    _tags: ClassVar[dict[str, Any]] = _TAGS

    def __init__(self, estimator: NoisyRNNClassifier | None = None, random_state: int | None = None) -> None:
        self.estimator = estimator
        self.random_state = random_state
        super().__init__()

    def _fit(self, X: Any, y: np.ndarray) -> "AeonNoisyRNNClassifier":
        self.estimator_ = _fresh(self.estimator or NoisyRNNClassifier(), self.random_state).fit(X, y)
        return self

    def _predict(self, X: Any) -> np.ndarray:
        return self.estimator_.predict(X)

    def _predict_proba(self, X: Any) -> np.ndarray:
        return self.estimator_.predict_proba(X)

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {"estimator": NoisyRNNClassifier(hidden_size=4, epochs=2)}


class AeonNoisyRNNRegressor(BaseRegressor):  # type: ignore[misc]
    """`NoisyRNNRegressor` with aeon's interface; arguments as for `AeonNoisyRNNClassifier`."""

    _tags: ClassVar[dict[str, Any]] = _TAGS

    def __init__(self, estimator: NoisyRNNRegressor | None = None, random_state: int | None = None) -> None:
        self.estimator = estimator
        self.random_state = random_state
        super().__init__()

    def _fit(self, X: Any, y: np.ndarray) -> "AeonNoisyRNNRegressor":
        self.estimator_ = _fresh(self.estimator or NoisyRNNRegressor(), self.random_state).fit(X, y)
        return self

    def _predict(self, X: Any) -> np.ndarray:
        return self.estimator_.predict(X)

    @classmethod
    def _get_test_params(cls, parameter_set: str = "default") -> dict[str, Any]:
        return {"estimator": NoisyRNNRegressor(hidden_size=4, epochs=2)}


def _fresh(estimator: Any, random_state: int | None) -> Any:
    """Return an unfitted copy with the random state of the adapter."""
    copy = clone(estimator)
    return copy if random_state is None else copy.set_params(random_state=random_state)
