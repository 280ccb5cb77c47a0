"""Trainable recurrent networks; no optimiser here."""

from noisyrnn.models.antisymmetric import AntisymmetricRNN
from noisyrnn.models.cell import Cell, RecurrenceCell
from noisyrnn.models.cornn import CoRNN
from noisyrnn.models.exprnn import ExpRNN
from noisyrnn.models.gated import GRU, LSTM, TanhRNN
from noisyrnn.models.heads import HEADS, Head, SequenceClassifier, SequenceModel, SequenceRegressor, SequenceToSequence
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.models.lipschitz import LipschitzRNN
from noisyrnn.models.loops.module_cell import ModuleCell
from noisyrnn.models.loops.noisy_cell import NoisyCell
from noisyrnn.models.loops.with_hidden_noise import WithHiddenNoise
from noisyrnn.models.noisy import NoisyRNN
from noisyrnn.models.options import CellOptions, LayerOptions, LipschitzOptions, NoiseOptions
from noisyrnn.models.prediction import predict
from noisyrnn.models.rate import RateRNN
from noisyrnn.models.registry import MODELS, build_layer, layer_options
from noisyrnn.models.released import from_released_weights

__all__ = [
    "GRU",
    "HEADS",
    "LSTM",
    "MODELS",
    "AntisymmetricRNN",
    "Cell",
    "CellOptions",
    "CoRNN",
    "ExpRNN",
    "Head",
    "LayerOptions",
    "LipschitzOptions",
    "LipschitzRNN",
    "ModuleCell",
    "NoiseOptions",
    "NoisyCell",
    "NoisyRNN",
    "RateRNN",
    "RecurrenceCell",
    "RecurrentLayer",
    "SequenceClassifier",
    "SequenceModel",
    "SequenceRegressor",
    "SequenceToSequence",
    "TanhRNN",
    "WithHiddenNoise",
    "build_layer",
    "from_released_weights",
    "layer_options",
    "predict",
]
