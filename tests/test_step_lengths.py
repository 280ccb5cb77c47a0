"""Which callables take lengths of steps, and in which forms."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from noisyrnn import analysis
from noisyrnn.models import GRU, LipschitzRNN, NoisyRNN, SequenceClassifier
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


MEASURED = {
    "jacobian_spectra": lambda m, x, y, dt: analysis.jacobian_spectra(m, x, dt=dt).value,
    "jacobian_norms": lambda m, x, y, dt: analysis.jacobian_norms(m, x, dt=dt).value,
    "gradient_norms": lambda m, x, y, dt: analysis.gradient_norms(m, x, y, dt=dt).value,
    "lyapunov_spectrum": lambda m, x, y, dt: analysis.lyapunov_spectrum(m, x, burn_in=1, dt=dt).value,
    "stabilization_scan": lambda m, x, y, dt: analysis.stabilization_scan(m, x, levels=[1.0], burn_in=1, dt=dt).value,
    "explicit_regularizer": lambda m, x, y, dt: analysis.explicit_regularizer(m, x, y, dt=dt).total,
    "tangent_regularizer": lambda m, x, y, dt: analysis.tangent_regularizer(m, x, y, draws=2, dt=dt).total,
    "antithetic_regularizer": lambda m, x, y, dt: analysis.antithetic_regularizer(m, x, y, pairs=2, dt=dt).value,
    "margin_certificate": lambda m, x, y, dt: analysis.margin_certificate(m, x, y, dt=dt).value,
}


@pytest.mark.parametrize("form", [float, torch.tensor])
@pytest.mark.parametrize("name", MEASURED)
def test_a_number_is_the_length_of_every_step(name: str, form: Callable[[float], Any]) -> None:
    torch.manual_seed(0)
    layer = LipschitzRNN(2, 4, step_size=0.5, init_std=2.0, additive=0.1, multiplicative=0.1)
    model = SequenceClassifier(layer, classes=3).eval()
    inputs, labels = torch.randn(3, 6, 2), torch.tensor([0, 1, 2])
    found, every, plain = (
        torch.as_tensor(MEASURED[name](model, inputs, labels, dt)).detach()
        for dt in (form(0.3), torch.full((3, 6), 0.3), None)
    )
    torch.testing.assert_close(found, every, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(found, plain, rtol=1e-3) or not plain.any()
