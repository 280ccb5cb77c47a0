"""The noisy RNN's cell, for user-written loops over time."""

import inspect
from typing import Unpack

import torch

from noisyrnn.models.loops.with_hidden_noise import WithHiddenNoise
from noisyrnn.models.noisy import NoisyRNN
from noisyrnn.models.options import CellOptions, LipschitzOptions, NoiseOptions, show_options


class NoisyCellOptions(LipschitzOptions, NoiseOptions, CellOptions, total=False):
    """Options of a `NoisyCell`; see `NoisyRNN` for `noise_level` and `noise_units`, `LayerOptions` for the rest."""

    noise_level: float
    noise_units: str
    scheme: str
    device: torch.device | str | None


class NoisyCell(WithHiddenNoise):
    r"""One step of the noisy RNN. Called like `nn.RNNCell`, with the arguments of `WithHiddenNoise.forward`.

    A `NoisyRNN` of one cell has the same weights: `layer.cell.load_state_dict(noisy_cell.cell.state_dict())`.

    Args:
        input_size: Channels of one step, at least 1.
        hidden_size: Units, at least 1.
        options: `noise_level`, `noise_units`, `scheme` and `device` of `NoisyRNN`, and the keyword arguments of
            `LipschitzOptions`, `NoiseOptions` and `CellOptions`, with the defaults of `NoisyRNN`.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an option is unknown.

    Example:
        >>> cell = NoisyCell(input_size=3, hidden_size=8)
        >>> h = cell(torch.zeros(4, 3))
        >>> cell(torch.zeros(4, 3), h).shape
        torch.Size([4, 8])

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021.
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Unpack[NoisyCellOptions]) -> None:
        inspect.signature(NoisyCell).bind(input_size, hidden_size, **options)  # no options of a stack of layers
        layer = NoisyRNN(input_size, hidden_size, **options)
        super().__init__(layer.cell, layer.hidden_noise)


show_options(NoisyCell, NoisyRNN, without=("num_layers", "bidirectional", "batch_first", "dropout"))
