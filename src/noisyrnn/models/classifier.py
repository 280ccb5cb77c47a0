"""A recurrent layer and a readout: sequences in, logits out."""

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_integer, check_sequences
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.sde.brownian import BrownianPath


class SequenceClassifier(nn.Module):
    """Logits from the last valid output of a recurrent layer.

    Args:
        layer: Run over the standardised inputs.
        classes: At least 2.
        mean: Subtracted from each channel, `(input_size,)`; zero by default. Travels with the weights.
        std: Each channel is divided by it, `(input_size,)`, above 0; one by default. Travels with the weights.

    Raises:
        ValueError: If `classes` is below 2, or `mean` or `std` have another shape or range.

    Example:
        >>> from noisyrnn.models import NoisyRNN
        >>> model = SequenceClassifier(NoisyRNN(input_size=1, hidden_size=8), classes=3)
        >>> model(torch.zeros(2, 5, 1)).shape
        torch.Size([2, 3])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, layer: RecurrentLayer, classes: int, *, mean: Tensor | None = None, std: Tensor | None = None
    ) -> None:
        super().__init__()
        check_integer("classes", classes, minimum=2)
        size = layer.input_size
        mean = torch.zeros(size) if mean is None else mean
        std = torch.ones(size) if std is None else std
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != (size,):
                raise ValueError(f"{name} must have shape ({size},), got {tuple(value.shape)}.")
        if not bool((std > 0).all()):
            raise ValueError(f"std must be positive, got {float(std.min()):g} as the smallest.")
        self.layer = layer
        self.classes = classes
        self.readout = nn.Linear(layer.hidden_size, classes)
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(
        self,
        inputs: Tensor,
        *,
        lengths: Tensor | None = None,
        dt: Tensor | float | None = None,
        path: BrownianPath | None = None,
    ) -> Tensor:
        """Logits `(batch, classes)` of `inputs`, `(batch, steps, input_size)`; arguments as for `RecurrentLayer`."""
        check_sequences("inputs", inputs, input_size=self.layer.input_size)  # before broadcasting hides a wrong shape
        standard = (inputs - self.mean) / self.std
        last = self.layer.last_output(standard, lengths=lengths, dt=dt, path=path, owner_training=self.training)
        return self.readout(last)
