"""A model as a graph."""

from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn.export.graph import SequenceGraph, StepGraph
from noisyrnn.models import HEADS, MODELS, Head, build_layer
from noisyrnn.sde import Activation

STACK = {"num_layers": 2, "bidirectional": True, "batch_first": False}


def model_of(name: str, head: str = "classifier", **options: Any) -> Head:
    """In double precision, with a readout and standardisation that tell mistakes, and noise that must not act."""
    torch.manual_seed(0)
    if name in ("noisy", "lipschitz", "antisymmetric"):
        options |= {"init_std": 4.0, "step_size": 0.3}
    layer = build_layer(name, 2, 4, {"additive": 0.5, "multiplicative": 0.5, **options})
    statistics = {"mean": torch.tensor([0.4, -1.0]), "std": torch.tensor([2.0, 0.5])}
    model = HEADS[head](layer, 3, **statistics).double().eval()
    model.layer.kernel = "reference"
    return model


def sequences(*, batch_first: bool = True, generator_seed: int = 0) -> tuple[Tensor, Tensor]:
    """Four of lengths 6, 1, 3 and 5, with padding that must not be read."""
    generator = torch.Generator().manual_seed(generator_seed)
    inputs = torch.randn(4, 6, 2, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([6, 1, 3, 5])
    inputs[torch.arange(6) >= lengths[:, None]] = torch.nan
    return (inputs if batch_first else inputs.transpose(0, 1)), lengths


@pytest.mark.parametrize(
    "name",
    [
        # Two take the path of the noisy RNN, or of the LSTM.
        pytest.param(name, marks=[pytest.mark.slow] if name in ("lipschitz", "gru") else [])
        for name in sorted(MODELS)
    ],
)
def test_a_stack_of_both_directions_gives_the_models_answers(name: str) -> None:
    head = ("classifier", "regressor", "sequence")[sorted(MODELS).index(name) % 3]
    model = model_of(name, head, **STACK)
    inputs, lengths = sequences(batch_first=False)
    with torch.no_grad():
        torch.testing.assert_close(
            SequenceGraph(model)(inputs, lengths), model(inputs, lengths=lengths), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("head", sorted(HEADS))
def test_one_layer(head: str) -> None:
    model = model_of("cornn", head)
    inputs, lengths = sequences()
    with torch.no_grad():
        expected = model(inputs, lengths=lengths)
        torch.testing.assert_close(SequenceGraph(model)(inputs, lengths), expected, rtol=0, atol=1e-12)


def test_lengths_beyond_the_last_step_stand_for_all_steps() -> None:
    model = model_of("noisy")
    inputs = torch.ones(2, 3, 2, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(SequenceGraph(model)(inputs, torch.tensor([3, 2**63 - 1])), model(inputs))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_steps_one_after_another_give_the_whole_pass(name: str, layers: int) -> None:
    check_steps(model_of(name, "sequence", num_layers=layers))


def check_steps(model: Head) -> None:
    graph = StepGraph(model)
    inputs = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state = torch.zeros_like(graph.signature().example[1])
    with torch.no_grad():
        expected, later = model(inputs), None
        for m in range(5):
            answer, state = graph(inputs[:, m], state)
            later = model.layer.step((inputs[:, m] - model.mean) / model.std, later)
            torch.testing.assert_close(answer, expected[:, m], rtol=0, atol=1e-12)
            torch.testing.assert_close(state, later, rtol=0, atol=1e-12)


QUIET = {"multiplicative": 0.0, "scheme": "stochastic-heun"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("noisy", {"activation": "sigmoid"}),
        ("lipschitz", {"activation": Activation(torch.sin, lipschitz=1.0), **QUIET}),
        ("rate", {"activation": "relu"}),
        ("rate", {"activation": "retanh", "form": "current"}),
        ("rate", {"activation": "softplus", "form": "current", **QUIET}),
        ("antisymmetric", {"additive": 0.0, "multiplicative": 0.0, "diffusion": torch.ones(4, 2)}),
    ],
)
def test_other_equations(name: str, options: dict[str, Any]) -> None:
    """Whole passes, and single steps of a graph and of a layer."""
    model = model_of(name, **STACK, **options)
    inputs, lengths = sequences(batch_first=False)
    with torch.no_grad():
        expected = model(inputs, lengths=lengths)
        torch.testing.assert_close(SequenceGraph(model)(inputs, lengths), expected, rtol=0, atol=1e-12)
    check_steps(model_of(name, "sequence", num_layers=2, **options))


def test_what_goes_in_and_comes_out() -> None:
    whole = SequenceGraph(model_of("lstm", **STACK)).signature()
    assert whole.inputs == ("inputs", "lengths") and whole.outputs == ("logits",)
    assert whole.axes == ({0: "steps", 1: "batch"}, {0: "batch"})
    assert [tuple(value.shape) for value in whole.example] == [(3, 2, 2), (2,)]
    step = StepGraph(model_of("lstm", "regressor", num_layers=3)).signature()
    assert step.inputs == ("inputs", "state") and step.outputs == ("outputs", "next_state")
    assert step.axes == ({0: "batch"}, {1: "batch"})
    assert [tuple(value.shape) for value in step.example] == [(2, 2), (3, 2, 8)]


def test_a_backward_direction_does_not_stream() -> None:
    with pytest.raises(ValueError, match=r"^streaming must be False for a bidirectional layer, got True\. A backward"):
        StepGraph(model_of("gru", **STACK))
