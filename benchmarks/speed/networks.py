"""The models whose kernels are timed, and how many products of matrices a step of each has."""

from dataclasses import dataclass, field
from typing import Any

ADDITIVE, MULTIPLICATIVE = 0.05, 0.02
"""Levels of the hidden noise, where there is any."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """One recurrent model.

    Args:
        title: Name in tables.
        model: Key of `noisyrnn.models.MODELS`.
        products: Products of a state with a square matrix in one step.
        options: Options of the model beside its levels of noise.
        width: Times the hidden size of the others at the main size.
    """

    title: str
    model: str
    products: int
    options: dict[str, Any] = field(default_factory=dict)
    width: int = 1


NETWORKS: dict[str, Network] = {
    "noisy": Network(title="noisy RNN (drift)", model="noisy", products=2),
    "rate": Network(title="rate network", model="rate", products=1, options={"noise_units": "per_step"}),
    "current": Network(
        title="rate network, currents",
        model="rate",
        products=1,
        options={"form": "current", "noise_units": "per_step"},
    ),
    "cornn": Network(title="coRNN (oscillator)", model="cornn", products=2, width=2),
    "exprnn": Network(title="exponential RNN (modReLU)", model="exprnn", products=1),
    "gru": Network(title="GRU", model="gru", products=3),
    "lstm": Network(title="LSTM", model="lstm", products=4),
    "rnn": Network(title="tanh RNN", model="rnn", products=1),
}
