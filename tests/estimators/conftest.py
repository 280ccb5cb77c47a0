import numpy as np
import pytest

from noisyrnn.estimators import NoisyRNNClassifier, NoisyRNNRegressor

SMALL = {"hidden_size": 8, "epochs": 10, "learning_rate": 0.05, "random_state": 0}


@pytest.fixture
def classifier():
    return NoisyRNNClassifier(**SMALL)


@pytest.fixture
def regressor():
    return NoisyRNNRegressor(**SMALL)


@pytest.fixture
def waves():
    """40 sines of two frequencies and two channels, (n, channels, time), with names as labels."""
    time = np.linspace(0, 6, 12)
    rng = np.random.default_rng(0)
    X = np.stack([np.stack([np.sin((1 + k % 2) * time), np.cos(time)]) for k in range(40)])
    return X + 0.1 * rng.standard_normal(X.shape), np.array(["slow", "fast"] * 20)
