"""The linear readout that all heads share."""

from torch import nn

from noisyrnn.models.layer import RecurrentLayer


def readout_of(layer: RecurrentLayer, outputs: int) -> nn.Linear:
    """A linear map of the layer's outputs, `(..., output_size)` to `(..., outputs)`, of its dtype and on its device."""
    example = next(layer.parameters())
    return nn.Linear(layer.output_size, outputs, dtype=example.dtype).to(example.device)
