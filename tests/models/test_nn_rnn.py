"""Layers under the whole contract of `nn.RNN`: with A = -I and steps of 1 the noisy family is torch's own network."""

from typing import Any

import pytest
import torch
from tests.products import sampled
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from noisyrnn.models import MODELS, RecurrentLayer

BATCH, STEPS, INPUT, HIDDEN = 4, 6, 2, 3
LENGTHS = torch.tensor([3, 6, 1, 6])
BETA = 0.75
# Some hundred roundings of 1e-16 in numbers of size 1.
CLOSE = {"rtol": 0, "atol": 1e-12}


def suffixes(num_layers: int, bidirectional: bool) -> list[str]:
    return [f"l{level}{way}" for level in range(num_layers) for way in (("", "_reverse") if bidirectional else ("",))]


def skew_damped(matrix: Tensor) -> Tensor:
    """The linear part of the structure of `A` and `W`; it is its own transpose, as a map of matrices."""
    return (1 - BETA) * (matrix + matrix.T) + BETA * (matrix - matrix.T)


def unstructured(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / (4 * (1 - BETA)) + (matrix - matrix.T) / (4 * BETA)


def test_the_inverse_of_the_structure() -> None:
    matrix = torch.arange(9.0).view(3, 3).double()
    torch.testing.assert_close(skew_damped(unstructured(matrix)), matrix, rtol=0, atol=1e-13)


def pair(name: str, **options: Any) -> tuple[RecurrentLayer, nn.RNNBase]:
    """A layer and torch's network that computes the same."""
    kind = {"gru": nn.GRU, "lstm": nn.LSTM}.get(name, nn.RNN)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        theirs = kind(INPUT, HIDDEN, dtype=torch.float64, **options)
        exact = {"additive": 0.0, "multiplicative": 0.0, "dtype": torch.float64}
        if name in ("noisy", "lipschitz"):
            exact |= {"step_size": 1.0, "skew_symmetry": BETA, "damping": 1.0}
        ours = MODELS[name].build(INPUT, HIDDEN, **options, **exact)
    with torch.no_grad():
        for suffix, cell in ours.cells.items():
            w_ih, w_hh = (getattr(theirs, f"weight_{part}_{suffix}") for part in ("ih", "hh"))
            if name not in ("noisy", "lipschitz"):
                for parameter, value in cell.rnn.named_parameters():
                    value.copy_(getattr(theirs, parameter.replace("l0", suffix)))
                continue
            cell.B.zero_()  # A = -I
            cell.C.copy_(unstructured(w_hh + torch.eye(HIDDEN)))
            cell.input.weight.copy_(w_ih)
            if options.get("bias", True):
                cell.input.bias.copy_(getattr(theirs, f"bias_ih_{suffix}") + getattr(theirs, f"bias_hh_{suffix}"))
    return ours, theirs


def state_of(theirs: Any) -> Tensor:
    """Torch's last state as ours is: an LSTM's output and memory side by side."""
    return torch.cat(theirs, dim=-1) if isinstance(theirs, tuple) else theirs


def results(module: nn.Module, inputs: Tensor, h_0: Tensor | None, form: str) -> list[Any]:
    """Outputs, last state and the gradients of inputs and initial state, and how the outputs are packed."""
    x = inputs.clone().requires_grad_()
    start = None if h_0 is None else h_0.clone().requires_grad_()
    given: Any = x
    if form.startswith("packed"):
        lengths = LENGTHS.sort(descending=True).values if form == "packed sorted" else LENGTHS
        first = getattr(module, "batch_first", True)
        given = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=form == "packed sorted")
    state: Any = start
    if start is not None and isinstance(module, nn.LSTM):
        state = tuple(part.contiguous() for part in start.chunk(2, dim=-1))
    outputs, end = module(given, state)
    end, packing = state_of(end), []
    if isinstance(outputs, PackedSequence):
        packing = [outputs.batch_sizes, outputs.sorted_indices, outputs.unsorted_indices]
        outputs = outputs.data
    weight = torch.arange(outputs.numel(), dtype=outputs.dtype).view(outputs.shape).sin()
    ((outputs * weight).sum() + (end * torch.arange(end.numel()).view(end.shape).cos()).sum()).backward()
    return [outputs, end, x.grad, torch.zeros(1) if start is None else start.grad, *packing]


@pytest.mark.parametrize(
    ("name", "num_layers", "bidirectional", "batch_first", "started", "bias", "form"),
    sampled(
        ["noisy", "lipschitz", "rnn", "gru", "lstm"],
        [1, 2, 3],
        [False, True],
        [True, False],
        [True, False],
        [True, False],
        ["batched", "alone", "packed", "packed sorted"],
    ),
)
def test_equals_torch(
    name: str, num_layers: int, bidirectional: bool, batch_first: bool, started: bool, bias: bool, form: str
) -> None:
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "batch_first": batch_first, "bias": bias}
    ours, theirs = pair(name, **options)
    generator = torch.Generator().manual_seed(3)
    shape = (STEPS, INPUT) if form == "alone" else (BATCH, STEPS, INPUT) if batch_first else (STEPS, BATCH, INPUT)
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    h_0 = None
    if started:
        count, size = len(ours.cells), HIDDEN * (2 if name == "lstm" else 1)
        shape = (count, size) if form == "alone" else (count, BATCH, size)
        h_0 = torch.randn(shape, generator=generator, dtype=torch.float64)
    found, wanted = results(ours, inputs, h_0, form), results(theirs, inputs, h_0, form)
    assert len(found) == len(wanted) == (7 if form.startswith("packed") else 4)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.shape == other.shape and one.dtype == other.dtype
            torch.testing.assert_close(one, other, **CLOSE)
    for suffix, cell in ours.cells.items():
        if name not in ("noisy", "lipschitz"):
            for parameter, value in cell.rnn.named_parameters():
                torch.testing.assert_close(value.grad, getattr(theirs, parameter.replace("l0", suffix)).grad, **CLOSE)
            continue
        torch.testing.assert_close(cell.C.grad, skew_damped(getattr(theirs, f"weight_hh_{suffix}").grad), **CLOSE)
        torch.testing.assert_close(cell.input.weight.grad, getattr(theirs, f"weight_ih_{suffix}").grad, **CLOSE)
        assert (cell.input.bias is not None) == bias
        if bias:
            torch.testing.assert_close(cell.input.bias.grad, getattr(theirs, f"bias_hh_{suffix}").grad, **CLOSE)


@pytest.mark.parametrize("name", ["noisy", "rnn"])
def test_the_names_and_order_of_the_cells_are_torchs(name: str) -> None:
    ours, _ = pair(name, num_layers=2, bidirectional=True)
    assert list(ours.cells) == suffixes(2, True) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    assert [cell.input_size for cell in ours.cells.values()] == [INPUT, INPUT, 2 * HIDDEN, 2 * HIDDEN]


def test_dropout_in_evaluation_mode_is_torchs() -> None:
    ours, theirs = pair("lipschitz", num_layers=3, dropout=0.5, batch_first=True)
    inputs = torch.randn(BATCH, STEPS, INPUT, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(inputs)[0], theirs.eval()(inputs)[0], **CLOSE)


def test_dropout_with_one_layer_warns_as_torch_does() -> None:
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        nn.RNN(1, 2, dropout=0.25)
    with pytest.warns(
        UserWarning, match=r"^dropout acts between layers, so that 0\.25 changes nothing with num_layers 1"
    ):
        MODELS["lipschitz"].build(1, 2, dropout=0.25)
