"""A recurrent layer and a readout of every step: sequences in, sequences out."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from noisyrnn.checks import check_integer
from noisyrnn.models.heads.readout import check_layer, readout_of
from noisyrnn.models.heads.standardization import Standardized
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.padding import valid_steps
from noisyrnn.sde.brownian import BrownianPath


class SequenceToSequence(Standardized):
    """Numbers, or logits, for every step of a sequence, from a recurrent layer's output there.

    Args:
        layer: Run over the standardised inputs.
        targets: Numbers for each step, at least 1.
        mean: Subtracted from each channel, `(input_size,)`; zero by default. Travels with the weights.
        std: Each channel is divided by it, `(input_size,)`, above 0; one by default. Travels with the weights.

    Raises:
        ValueError: If `targets` is below 1, or `mean` or `std` have another shape or range.

    Example:
        >>> from noisyrnn.models import NoisyRNN
        >>> SequenceToSequence(NoisyRNN(input_size=1, hidden_size=8), targets=2)(torch.zeros(4, 5, 1)).shape
        torch.Size([4, 5, 2])
    """

    def __init__(
        self, layer: RecurrentLayer, targets: int = 1, *, mean: Tensor | None = None, std: Tensor | None = None
    ) -> None:
        check_integer("targets", targets, minimum=1)
        check_layer(layer)
        super().__init__(layer, mean, std)
        self.targets = targets
        self.readout = readout_of(layer, targets)

    def forward(
        self,
        inputs: Tensor | PackedSequence,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        dt: Tensor | float | None = None,
        path: BrownianPath | None = None,
    ) -> Tensor | PackedSequence:
        """Numbers `(batch, steps, targets)` in the form of the inputs, zero past a sequence's end.

        Arguments as for `RecurrentLayer`.
        """
        self.layer.check_inputs(inputs)  # before broadcasting hides a wrong shape
        outputs, _ = self.layer(
            self._standardize(inputs),
            lengths=lengths,
            mask=mask,
            dt=dt,
            path=path,
            owner_training=self.training,
        )
        if isinstance(outputs, PackedSequence):
            return outputs._replace(data=self.readout(outputs.data))
        targets: Tensor = self.readout(outputs)
        if lengths is not None:
            mask = valid_steps(lengths.to(targets.device), targets.shape[1 if self.layer.batch_first else 0])
        if mask is None:
            return targets
        inside = mask if self.layer.batch_first else mask.T
        return torch.where(inside.to(targets.device)[..., None], targets, 0.0)
