"""Whether a file gives the model's answers."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from noisyrnn.export.agreement import BATCHES, STEPS, check_agreement
from noisyrnn.export.graph import SequenceGraph, StepGraph
from noisyrnn.models import GRU, HEADS, Head, TanhRNN


def model_of(head: str = "classifier", batch_first: bool = True, dtype: torch.dtype = torch.float64) -> Head:
    torch.manual_seed(0)
    layer = GRU(2, 4, batch_first=batch_first)
    return HEADS[head](layer, 3, mean=torch.tensor([0.4, -1.0]), std=torch.tensor([2.0, 0.5])).to(dtype).eval()


class Recorder:
    """What a file that adds `error` to the model's answers would do; it keeps what it was given."""

    def __init__(self, model: Head, error: float = 0.0) -> None:
        self.model = model
        self.error = error
        self.given: list[tuple[Tensor, Tensor]] = []

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        self.given.append((inputs[0], inputs[1]))
        with torch.no_grad():
            return [self.model(inputs[0], lengths=inputs[1]) + self.error]


@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.parametrize("batch_first", [True, False])
def test_batch_sizes_lengths_and_range_that_are_tried(head: str, batch_first: bool) -> None:
    model = model_of(head, batch_first)
    run = Recorder(model)
    check_agreement(model, SequenceGraph(model), run)
    shapes = [tuple(inputs.shape[:2] if batch_first else inputs.shape[1::-1]) for inputs, _ in run.given]
    assert shapes == [(1, 1), (1, 17), (1, 100), (3, 1), (3, 17), (3, 100)]
    assert len(STEPS) >= 3 and len(BATCHES) >= 2
    inputs, lengths = run.given[-1]
    assert lengths.shape == (3,) and len(set(lengths.tolist())) > 1 and int(lengths.min()) >= 1
    values = inputs.reshape(300, 2)  # of 300 draws: mean and deviation within four standard errors
    torch.testing.assert_close(values.mean(0), model.mean, rtol=0, atol=4 * 2 / 300**0.5)
    torch.testing.assert_close(values.std(0), model.std, rtol=4 / 600**0.5, atol=0)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, "1.0e-12"), (torch.float32, "1.0e-05")])
def test_a_difference_is_found_and_told(dtype: torch.dtype, allowed: str) -> None:
    model = model_of(dtype=dtype)
    check_agreement(model, SequenceGraph(model), Recorder(model, 0.5 * float(allowed)))
    sentence = (
        rf"^export must agree with the model to {allowed}, got a difference of 1\.1e-04 for a batch of 1 and 1 steps\. "
    )
    with pytest.raises(RuntimeError, match=sentence):
        check_agreement(model, SequenceGraph(model), Recorder(model, 1.1e-4))


def test_answers_that_are_not_finite_are_found() -> None:
    model = model_of()
    with pytest.raises(RuntimeError, match="got a difference of nan"):
        check_agreement(model, SequenceGraph(model), Recorder(model, float("nan")))


def test_a_model_that_amplifies_rounding_is_allowed_ten_times_its_own() -> None:
    """A random network of gain 3 is chaotic: in single precision it and its exact self part within 100 steps."""
    torch.manual_seed(0)
    layer = TanhRNN(1, 32)
    torch.nn.init.normal_(layer.cell.rnn.weight_hh_l0, std=3 / 32**0.5)
    model = HEADS["regressor"](layer, 2).eval()
    check_agreement(model, SequenceGraph(model), Recorder(model))
    with pytest.raises(RuntimeError, match="and 1 steps"):  # where there is nothing yet to amplify
        check_agreement(model, SequenceGraph(model), Recorder(model, 1e-3))


def test_so_is_one_in_double_precision() -> None:
    """Of the same network with an order of its sums that is not that of the model."""
    torch.manual_seed(0)
    layer = TanhRNN(1, 32)
    torch.nn.init.normal_(layer.cell.rnn.weight_hh_l0, std=3 / 32**0.5)
    model = HEADS["regressor"](layer, 2).double().eval()
    other = deepcopy(model)
    rnn = other.layer.cell.rnn
    for weight in (rnn.weight_hh_l0, rnn.weight_ih_l0, rnn.bias_ih_l0, rnn.bias_hh_l0):
        weight.data = weight.data.flip(0)
    rnn.weight_hh_l0.data, other.readout.weight.data = rnn.weight_hh_l0.data.flip(1), other.readout.weight.data.flip(1)
    inputs = torch.randn(1, 100, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(other(inputs[:, :5]), model(inputs[:, :5]), rtol=0, atol=1e-13)
    assert not torch.allclose(other(inputs), model(inputs), rtol=0, atol=1e-11)
    check_agreement(model, SequenceGraph(model), Recorder(other))
    with pytest.raises(RuntimeError, match="and 1 steps"):
        check_agreement(model, SequenceGraph(model), Recorder(model, 1e-10))


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_stream_is_held_against_the_whole_pass(head: str) -> None:
    model = model_of(head, batch_first=head != "sequence")
    graph = StepGraph(model)

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.no_grad():
            return graph(*inputs)

    def forgetful(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return run([inputs[0], torch.zeros_like(inputs[1])])

    check_agreement(model, graph, run)
    with pytest.raises(RuntimeError, match="for a batch of 1 and 17 steps"):
        check_agreement(model, graph, forgetful)
