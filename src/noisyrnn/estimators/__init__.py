"""Scikit-learn's view of the library: arrays in, labels or numbers out."""

from noisyrnn.estimators.classifier import NoisyRNNClassifier
from noisyrnn.estimators.regressor import NoisyRNNRegressor
from noisyrnn.estimators.robustness import RobustnessReport, RobustnessRow

__all__ = ["NoisyRNNClassifier", "NoisyRNNRegressor", "RobustnessReport", "RobustnessRow"]
