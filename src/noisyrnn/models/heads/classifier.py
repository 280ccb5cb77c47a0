"""A recurrent layer and a readout: sequences in, logits out."""

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from noisyrnn.checks import LARGEST_SIZE, check_integer
from noisyrnn.models.heads.readout import check_layer, readout_of
from noisyrnn.models.heads.standardization import Standardized
from noisyrnn.models.layer import RecurrentLayer, last_output
from noisyrnn.sde.brownian import BrownianPath


class SequenceClassifier(Standardized):
    """Logits from what a recurrent layer ends with: its last valid output, beside the first of a backward direction.

    Args:
        layer: Run over the standardised inputs.
        classes: At least 2.
        mean: Subtracted from each channel, `(input_size,)`; zero by default. Travels with the weights.
        std: Each channel is divided by it, `(input_size,)`, above 0; one by default. Travels with the weights.

    Raises:
        ValueError: If `classes` is below 2, or `mean` or `std` have another shape or range.

    Example:
        >>> import torch
        >>> from noisyrnn.models import NoisyRNN
        >>> model = SequenceClassifier(NoisyRNN(input_size=1, hidden_size=8), classes=3)
        >>> model(torch.zeros(2, 5, 1)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, layer: RecurrentLayer, classes: int, *, mean: Tensor | None = None, std: Tensor | None = None
    ) -> None:
        check_integer("classes", classes, minimum=2, maximum=LARGEST_SIZE)
        check_layer(layer)
        super().__init__(layer, mean, std)
        self.classes = classes
        self.readout = readout_of(layer, classes)

    def forward(
        self,
        inputs: Tensor | PackedSequence,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        dt: Tensor | float | None = None,
        path: BrownianPath | None = None,
    ) -> Tensor:
        """Logits `(batch, classes)`; arguments as for `RecurrentLayer`."""
        self.layer.check_inputs(inputs)  # before broadcasting hides a wrong shape
        last = last_output(
            self.layer,
            self._standardize(inputs),
            lengths=lengths,
            mask=mask,
            dt=dt,
            path=path,
            owner_training=self.training,
        )
        return self.readout(last)
