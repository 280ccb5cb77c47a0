"""Trainable recurrent networks; no optimiser here."""

from noisyrnn.models.antisymmetric import AntisymmetricRNN
from noisyrnn.models.cell import Cell
from noisyrnn.models.cornn import CoRNN
from noisyrnn.models.exprnn import ExpRNN
from noisyrnn.models.gated import GRU, LSTM, TanhRNN
from noisyrnn.models.heads import HEADS, Head, SequenceClassifier, SequenceRegressor, SequenceToSequence
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.models.lipschitz import LipschitzRNN
from noisyrnn.models.loops.module_cell import ModuleCell
from noisyrnn.models.loops.noisy_cell import NoisyCell
from noisyrnn.models.loops.with_hidden_noise import WithHiddenNoise
from noisyrnn.models.noisy import NoisyRNN
from noisyrnn.models.registry import ModelEntry
from noisyrnn.models.released import from_released_weights

MODELS: dict[str, ModelEntry] = {
    "noisy": ModelEntry("Noisy RNN: the Lipschitz cell with a learnable step, trained with hidden noise", NoisyRNN),
    "lipschitz": ModelEntry(
        "Lipschitz RNN: matrices of prescribed skew-symmetry and damping, fixed step", LipschitzRNN
    ),
    "antisymmetric": ModelEntry("Antisymmetric RNN: skew-symmetric recurrent matrix, fixed step", AntisymmetricRNN),
    "cornn": ModelEntry("coRNN: coupled damped oscillators", CoRNN),
    "exprnn": ModelEntry("Exponential RNN: orthogonal recurrent matrix, modReLU", ExpRNN),
    "rnn": ModelEntry("Tanh RNN (torch.nn.RNN)", TanhRNN),
    "gru": ModelEntry("Gated recurrent unit (torch.nn.GRU)", GRU),
    "lstm": ModelEntry("Long short-term memory (torch.nn.LSTM)", LSTM),
}

__all__ = [
    "GRU",
    "HEADS",
    "LSTM",
    "MODELS",
    "AntisymmetricRNN",
    "Cell",
    "CoRNN",
    "ExpRNN",
    "Head",
    "LipschitzRNN",
    "ModelEntry",
    "ModuleCell",
    "NoisyCell",
    "NoisyRNN",
    "RecurrentLayer",
    "SequenceClassifier",
    "SequenceRegressor",
    "SequenceToSequence",
    "TanhRNN",
    "WithHiddenNoise",
    "from_released_weights",
]
