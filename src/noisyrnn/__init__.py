"""Recurrent networks as stochastic differential equations: trained with noise, used without it, hard to upset."""

from noisyrnn.data import load_dataset
from noisyrnn.models import (
    GRU,
    LSTM,
    AntisymmetricRNN,
    CoRNN,
    ExpRNN,
    LipschitzRNN,
    NoisyCell,
    NoisyRNN,
    RecurrentLayer,
    SequenceClassifier,
    SequenceRegressor,
    SequenceToSequence,
    TanhRNN,
    WithHiddenNoise,
)
from noisyrnn.sde import BrownianPath, HiddenNoise
from noisyrnn.training import TrainConfig, fit, load, save

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "AntisymmetricRNN",
    "BrownianPath",
    "CoRNN",
    "ExpRNN",
    "HiddenNoise",
    "LipschitzRNN",
    "NoisyCell",
    "NoisyRNN",
    "RecurrentLayer",
    "SequenceClassifier",
    "SequenceRegressor",
    "SequenceToSequence",
    "TanhRNN",
    "TrainConfig",
    "WithHiddenNoise",
    "__version__",
    "fit",
    "load",
    "load_dataset",
    "save",
]
