import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from noisyrnn.models.sequences.layout import reverse_valid, step_lengths, to_batch_first
from noisyrnn.noise import BrownianPath
from noisyrnn.padding import valid_steps

Make = Callable[..., Any]
LENGTHS = torch.tensor([3, 1, 6, 2])  # sorting them is not its own inverse
MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1] + [0] * 5, [1] * 6, [1, 1, 0, 0, 0, 0]], dtype=torch.bool)


def test_a_mask_is_its_lengths() -> None:
    assert torch.equal(valid_steps(LENGTHS, 6), MASK)
    given = to_batch_first(torch.zeros(4, 6, 2), input_size=2, batch_first=True, mask=MASK)
    assert torch.equal(given.lengths, LENGTHS)
    given = to_batch_first(torch.zeros(6, 4, 2), input_size=2, batch_first=False, mask=MASK)
    assert torch.equal(given.lengths, LENGTHS) and given.values.shape == (4, 6, 2)


def test_turned_by_hand() -> None:
    values = torch.tensor([[1, 2, 3, 9], [1, 9, 9, 9], [1, 2, 3, 4]])
    lengths = torch.tensor([3, 1, 4])
    expected = torch.tensor([[3, 2, 1, 9], [1, 9, 9, 9], [4, 3, 2, 1]])
    assert torch.equal(reverse_valid(values, lengths), expected)
    assert torch.equal(reverse_valid(values[..., None].expand(3, 4, 2), lengths), expected[..., None].expand(3, 4, 2))
    assert torch.equal(reverse_valid(values, None), values.flip(1))
    assert torch.equal(reverse_valid(reverse_valid(values, lengths), lengths), values)


@pytest.mark.parametrize("name", ["noisy", "cornn", "lstm"])
@pytest.mark.parametrize("switch", ["off", "on"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_packed_sequence_is_its_padded_one(
    name: str, switch: str, batch_first: bool, make_layer: Make, make_inputs: Make
) -> None:
    layer = make_layer(name, bidirectional=True, num_layers=2, additive=0.1, batch_first=batch_first)
    layer.noise_mode, path, inputs = switch, BrownianPath(seed=3), make_inputs()
    inputs = inputs if batch_first else inputs.transpose(0, 1)
    packed = pack_padded_sequence(inputs, LENGTHS, batch_first=batch_first, enforce_sorted=False)
    h_0 = torch.full((4, 4, layer.cells["l0"].state_size), 0.3, dtype=torch.float64)
    outputs, h_n = layer(packed, h_0, path=path)
    expected, h_expected = layer(inputs, h_0, lengths=LENGTHS, path=path)
    found, lengths = pad_packed_sequence(outputs, batch_first=batch_first)
    assert torch.equal(lengths, LENGTHS)
    assert torch.equal(found, expected) and torch.equal(h_n, h_expected)
    assert torch.equal(
        layer.last_output(packed, h_0, path=path), layer.last_output(inputs, h_0, lengths=LENGTHS, path=path)
    )


@pytest.mark.parametrize("name", ["noisy", "lstm"])
def test_steps_first_is_the_transpose(name: str, make_layer: Make, make_inputs: Make) -> None:
    first, second = (make_layer(name, additive=0.1, bidirectional=True, batch_first=flag) for flag in (True, False))
    inputs, path = make_inputs(), BrownianPath(seed=2)
    for dtype in (torch.float64, torch.float32):  # the kernels take what is transposed in memory
        outputs, h_n = first.to(dtype)(inputs.to(dtype), lengths=LENGTHS, path=path)
        other, h_other = second.to(dtype)(inputs.to(dtype).transpose(0, 1), mask=MASK, path=path)
        assert torch.equal(other.transpose(0, 1), outputs) and torch.equal(h_other, h_n)


@pytest.mark.parametrize("name", ["noisy", "lstm"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_one_sequence_is_a_batch_of_one(name: str, batch_first: bool, make_layer: Make, make_inputs: Make) -> None:
    layer = make_layer(name, additive=0.1, bidirectional=True, batch_first=batch_first)
    inputs, path = make_inputs(batch=1), BrownianPath(seed=2)
    h_0 = torch.full((2, layer.cells["l0"].state_size), 0.3, dtype=torch.float64)
    outputs, h_n = layer(inputs[0], h_0, path=path)
    wanted, h_wanted = layer(inputs if batch_first else inputs.transpose(0, 1), h_0[:, None], path=path)
    assert outputs.shape == (6, 10) and h_n.shape == h_0.shape
    assert torch.equal(outputs, wanted.squeeze(0 if batch_first else 1)) and torch.equal(h_n, h_wanted[:, 0])
    assert torch.equal(
        layer.last_output(inputs[0], path=path),
        layer.last_output(inputs.reshape(1, 6, 2) if batch_first else inputs.reshape(6, 1, 2), path=path)[0],
    )


def test_step_lengths_past_the_end_may_be_anything() -> None:
    values, like = torch.zeros(2, 3, 1), torch.zeros(1)
    dt = torch.tensor([[0.5, 2.0, math.nan], [0.25, 0.0, -1.0]])
    found = step_lengths(dt, values, torch.tensor([2, 1]), like)
    assert torch.equal(found, torch.tensor([[0.5, 2.0, 1.0], [0.25, 1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"^dt must be positive, got nan as the smallest\.$"):
        step_lengths(dt, values, torch.tensor([3, 1]), like)


def packed(size: int = 2, dtype: torch.dtype = torch.float64) -> Any:
    return pack_padded_sequence(torch.zeros(4, 6, size, dtype=dtype), LENGTHS, batch_first=True, enforce_sorted=False)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "sentence"),
    [
        (
            torch.zeros(4, 6, 2),
            {"mask": ~MASK},
            ValueError,
            r"^mask must be true on the first steps of a sequence and false on the others, got a gap in row 0\. Move ",
        ),
        (
            torch.zeros(4, 6, 2),
            {"mask": MASK & (torch.arange(24).view(4, 6) != 14)},
            ValueError,
            r"got a gap in row 2\. ",
        ),
        (
            torch.zeros(4, 6, 2),
            {"mask": MASK[:, :5]},
            ValueError,
            r"^mask must have shape \(4, 6\), one for each step, got \(4, 5\)\.$",
        ),
        (
            torch.zeros(4, 6, 2),
            {"mask": MASK.int()},
            TypeError,
            r"^mask must be bool, got torch\.int32\. Convert",
        ),
        (torch.zeros(4, 6, 2), {"mask": [True]}, TypeError, r"^mask must be a tensor, got list\."),
        (
            torch.zeros(4, 6, 2),
            {"mask": MASK & (torch.arange(4) != 2)[:, None]},
            ValueError,
            r"^lengths must lie in \[1, 6\], the number of steps, got 0\.$",
        ),
        (
            torch.zeros(4, 6, 2),
            {"mask": MASK, "lengths": LENGTHS},
            ValueError,
            r"^lengths must be None with a mask, got both\. Give one of them\.$",
        ),
        (
            packed(),
            {"lengths": LENGTHS},
            ValueError,
            r"^lengths must be None with a PackedSequence, which has its own ",
        ),
        (packed(), {"mask": MASK}, ValueError, r"^mask must be None with a PackedSequence, which has its own lengths"),
        (packed(3), {}, ValueError, r"^inputs must be packed with data of shape \(values, 2\), got \(12, 3\)\.$"),
        (packed(2, torch.int64), {}, TypeError, r"^inputs must be floating point, got torch\.int64\. Convert: "),
        (
            torch.zeros(6, 2),
            {"lengths": torch.tensor([3])},
            ValueError,
            r"^lengths must be None for one sequence without a batch axis, got a tensor\.$",
        ),
        (torch.zeros(6, 2), {"mask": MASK[0]}, ValueError, r"^mask must be None for one sequence without a batch axis"),
        (
            torch.zeros(4, 6, 3),
            {"batch_first": False},
            ValueError,
            r"^inputs must have shape \(steps, batch, 2\), or \(steps, 2\) for one sequence, got \(4, 6, 3\)\.$",
        ),
        (torch.zeros(2), {}, ValueError, r"^inputs must have shape .*, got \(2,\)\.$"),
        (torch.zeros(0, 2), {}, ValueError, r"^inputs must hold at least one sequence of one step, got \(0, 2\)\.$"),
    ],
)
def test_bad_layouts(inputs: Any, options: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        to_batch_first(inputs, **{"input_size": 2, "batch_first": True, **options})
