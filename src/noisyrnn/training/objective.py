"""What a training step makes small."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from noisyrnn.models import SequenceClassifier, SequenceRegressor
from noisyrnn.sde.brownian import BrownianPath

Trained = SequenceClassifier | SequenceRegressor
"""What a run fits: one answer for each sequence."""


class Objective(Protocol):
    """The loss of each sequence of a batch under a noise path, and the outputs that count as its answers."""

    def __call__(
        self, model: Any, inputs: Tensor, labels: Tensor, lengths: Tensor | None, path: BrownianPath
    ) -> tuple[Tensor, Tensor]:
        """Losses `(batch,)` and outputs: logits `(batch, classes)`, or numbers `(batch, targets)`.

        Args:
            model: A classifier, or a regressor where the objective is meant for both; in training mode.
            inputs: `(batch, steps, input_size)`.
            labels: Classes `(batch,)`, or numbers `(batch, targets)`.
            lengths: Valid steps of each sequence, `(batch,)`; `None` where all are.
            path: A new one for every training step; where all random numbers come from.
        """


def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
    """Loss of each sequence `(batch,)`: cross-entropy with classes, mean squared error with numbers.

    Args:
        outputs: `(batch, classes)` or `(batch, targets)`.
        labels: Classes `(batch,)`, or numbers `(batch, targets)`.

    Example:
        >>> loss_of(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]]))
        tensor([5.])
    """
    if labels.is_floating_point():
        return (outputs - labels).square().mean(dim=1)
    return functional.cross_entropy(outputs, labels, reduction="none")


def answered(outputs: Tensor, labels: Tensor) -> Tensor:
    """Which sequences are classified rightly, boolean `(batch,)`; arguments as for `loss_of`. Numbers never are."""
    if labels.is_floating_point():
        return torch.zeros_like(labels[:, 0], dtype=torch.bool)
    return outputs.argmax(1) == labels


def noisy_loss(
    model: Trained, inputs: Tensor, labels: Tensor, lengths: Tensor | None, path: BrownianPath
) -> tuple[Tensor, Tensor]:
    """`loss_of` with the hidden noise on: how a noisy RNN is trained. See `Objective`."""
    outputs = model(inputs, lengths=lengths, path=path)
    return loss_of(outputs, labels), outputs
