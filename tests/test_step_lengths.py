"""Which callables take lengths of steps."""

from functools import partial

import pytest
import torch

from noisyrnn.models import GRU, NoisyRNN, SequenceClassifier
from noisyrnn.step_lengths import takes_dt


class Plain(torch.nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


class Timed(torch.nn.Module):
    def forward(self, inputs: torch.Tensor, dt: torch.Tensor | None = None) -> torch.Tensor:
        return inputs


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (lambda inputs: inputs, False),
        (lambda inputs, dt: inputs, True),
        (lambda inputs, **options: inputs, True),
        (partial(lambda inputs, dt=None, k=1: inputs, k=2), True),
        (Plain(), False),
        (Timed(), True),
        (SequenceClassifier(NoisyRNN(1, 4), 2), True),
        (SequenceClassifier(GRU(1, 4), 2), False),
        (SequenceClassifier(NoisyRNN(1, 4, additive=0.1, noise_law="uniform"), 2), False),
        (SequenceClassifier(NoisyRNN(1, 4, additive=0.0, multiplicative=0.0, noise_law="uniform"), 2), True),
        (max, False),
    ],
)
def test_the_attribute_or_the_signature_decides(function: object, takes: bool) -> None:
    assert takes_dt(function) is takes
