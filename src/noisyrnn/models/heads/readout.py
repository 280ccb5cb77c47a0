"""The linear readout that all heads share, and the layer that it reads."""

from torch import nn

from noisyrnn.models.layer import RecurrentLayer


def check_layer(layer: object) -> None:
    """Raise `TypeError` unless `layer` is one of the library's or of a class derived from it."""
    if not isinstance(getattr(layer, "_orig_mod", layer), RecurrentLayer):  # or what torch.compile made of one
        raise TypeError(
            f"layer must be a RecurrentLayer, got {type(layer).__name__}. Wrap a cell: "
            "RecurrentLayer(torch.nn.GRUCell, input_size, hidden_size)."
        )


def readout_of(layer: RecurrentLayer, outputs: int) -> nn.Linear:
    """A linear map of the layer's outputs, `(..., output_size)` to `(..., outputs)`, of its dtype and on its device."""
    example = next(layer.parameters())
    return nn.Linear(layer.output_size, outputs, dtype=example.dtype, device="cpu").to(example.device)
