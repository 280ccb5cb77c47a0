"""Estimators with scikit-learn's interface: from arrays to labels or numbers."""

from noisyrnn.estimators.classifier import NoisyRNNClassifier
from noisyrnn.estimators.regressor import NoisyRNNRegressor
from noisyrnn.estimators.robustness import RobustnessReport, RobustnessRow

__all__ = ["NoisyRNNClassifier", "NoisyRNNRegressor", "RobustnessReport", "RobustnessRow"]
