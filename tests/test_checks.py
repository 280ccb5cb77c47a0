"""Every check: what it lets through, and the sentence it raises otherwise, numbers included."""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

import noisyrnn
from noisyrnn import checks


def says(sentence: str) -> str:
    """A pattern for the whole sentence."""
    return f"^{re.escape(sentence)}$"


def check_number(value: object, **bounds: float) -> Callable[[], None]:
    return lambda: checks.check_number("radius", value, **bounds)


def check_lengths(lengths: object) -> Callable[[], None]:
    return lambda: checks.check_lengths(lengths, batch=2, steps=7)


def check_labels(labels: object) -> Callable[[], object]:
    return lambda: checks.check_labels(labels, count=2, classes=3)


def check_sequences(inputs: object, input_size: int | None = 3) -> Callable[[], None]:
    return lambda: checks.check_sequences("inputs", inputs, input_size=input_size)


BAD = [
    (
        lambda: checks.check_choice("model", "lipshitz", ["noisy", "lipschitz"]),
        ValueError,
        "model must be one of lipschitz, noisy, got 'lipshitz'. Did you mean 'lipschitz'?",
    ),
    (
        lambda: checks.check_choice("model", "transformer", ["noisy", "gru"]),
        ValueError,
        "model must be one of gru, noisy, got 'transformer'.",
    ),
    (lambda: checks.check_choice("noise", 3, ["on"]), ValueError, "noise must be one of on, got 3."),
    (lambda: checks.check_integer("steps", 2.0, minimum=1), TypeError, "steps must be an integer, got 2.0."),
    (lambda: checks.check_integer("steps", True, minimum=1), TypeError, "steps must be an integer, got True."),
    (lambda: checks.check_integer("steps", 2, minimum=3), ValueError, "steps must be at least 3, got 2."),
    (lambda: checks.check_integer("steps", 4, minimum=1, maximum=3), ValueError, "steps must be at most 3, got 4."),
    (
        lambda: checks.check_integer("steps", np.int64(2), minimum=1),
        TypeError,
        "steps must be an integer, got np.int64(2). Convert it: int(…).",
    ),
    (check_number(torch.tensor(2.0)), TypeError, "radius must be a number, got tensor(2.). Convert it: float(…)."),
    (check_number(10**400), ValueError, "radius must be at most 1.8e+308 in size, got a larger integer."),
    (check_number(-(10**400), above=0.0), ValueError, "radius must be at most 1.8e+308 in size, got a larger integer."),
    (
        lambda: checks.check_device("device", 1.5),
        TypeError,
        "device must be a torch.device, a text such as 'cpu' or 'cuda', or None, got 1.5.",
    ),
    (lambda: checks.check_flag("bias", "False"), TypeError, "bias must be True or False, got 'False'."),
    (lambda: checks.check_flag("bias", 0), TypeError, "bias must be True or False, got 0."),
    (
        lambda: checks.check_show_progress(1),
        TypeError,
        "show_progress must be True, False or None, got 1. None shows progress on a terminal and in a notebook only.",
    ),
    (lambda: checks.check_file_path("path", 3), TypeError, "path must be a path, got 3."),
    (lambda: noisyrnn.load(None), TypeError, "path must be a path, got None."),
    (lambda: noisyrnn.load_dataset("digits", data_dir=3), TypeError, "data_dir must be a path, got 3."),
    (check_number("a"), TypeError, "radius must be a number, got 'a'."),
    (check_number(True), TypeError, "radius must be a number, got True."),
    (check_number(0, above=0.0), ValueError, "radius must be greater than 0, got 0."),
    (check_number(math.nan, above=0.5), ValueError, "radius must be finite and greater than 0.5, got nan."),
    (check_number(math.inf, above=0.5), ValueError, "radius must be finite and greater than 0.5, got inf."),
    (check_number(math.inf), ValueError, "radius must be finite, got inf."),
    (check_number(math.nan, minimum=0), ValueError, "radius must be finite, got nan."),
    (check_number(-0.25, minimum=0.0), ValueError, "radius must be at least 0, got -0.25."),
    (check_number(1.25, maximum=1.0), ValueError, "radius must be at most 1, got 1.25."),
    (check_number(0.3, minimum=0.5, maximum=1.0), ValueError, "radius must lie in [0.5, 1], got 0.3."),
    (check_number(1.3, minimum=0.5, maximum=1.0), ValueError, "radius must lie in [0.5, 1], got 1.3."),
    (check_sequences([[1.0]]), TypeError, "inputs must be a tensor, got list. Convert: torch.as_tensor(inputs)."),
    (
        check_sequences(torch.zeros(64, 784), 1),
        ValueError,
        "inputs must have shape (batch, steps, 1), got (64, 784). Add the feature axis: inputs.unsqueeze(-1).",
    ),
    (
        check_sequences(torch.zeros(64, 784), None),
        ValueError,
        "inputs must have shape (batch, steps, input_size), got (64, 784). Add the feature axis: inputs.unsqueeze(-1).",
    ),
    (
        check_sequences(torch.zeros(4, 5, 2)),
        ValueError,
        "inputs must have shape (batch, steps, 3), got (4, 5, 2).",
    ),
    (
        check_sequences(torch.zeros(4, 5, 2, 3), None),
        ValueError,
        "inputs must have shape (batch, steps, input_size), got (4, 5, 2, 3).",
    ),
    (
        check_sequences(torch.zeros(0, 5, 3)),
        ValueError,
        "inputs must hold at least one sequence of one step, got (0, 5, 3).",
    ),
    (
        check_sequences(torch.zeros(5, 0, 3)),
        ValueError,
        "inputs must hold at least one sequence of one step, got (5, 0, 3).",
    ),
    (
        check_sequences(torch.zeros(4, 5, 3, dtype=torch.int64)),
        TypeError,
        "inputs must be floating point, got torch.int64. Convert: inputs.float().",
    ),
    (
        lambda: checks.check_finite("X", torch.tensor([[1.0, math.nan], [math.inf, 2.0]])),
        ValueError,
        "X must be finite, got 2 NaN or infinite values, the first at index (0, 1). Remove or impute them.",
    ),
    (check_lengths([1, 2]), TypeError, "lengths must be a tensor, got list. Convert: torch.as_tensor(lengths)."),
    (check_lengths(torch.tensor([1.0, 2.0])), TypeError, "lengths must be integers, got torch.float32."),
    (check_lengths(torch.tensor([True, True])), TypeError, "lengths must be integers, got torch.bool."),
    (check_lengths(torch.tensor([1, 2, 3])), ValueError, "lengths must have shape (2,), got (3,)."),
    (check_lengths(torch.tensor([8, 3])), ValueError, "lengths must lie in [1, 7], the number of steps, got 8."),
    (check_lengths(torch.tensor([8, 0])), ValueError, "lengths must lie in [1, 7], the number of steps, got 0."),
    (check_labels([0, 1]), TypeError, "labels must be a tensor, got list. Convert: torch.as_tensor(labels)."),
    (
        check_labels(torch.tensor([0.0, 1.0])),
        TypeError,
        "labels must be integers, got torch.float32. Convert class indices: labels.long().",
    ),
    (
        check_labels(torch.tensor([True, True])),
        TypeError,
        "labels must be integers, got torch.bool. Convert class indices: labels.long().",
    ),
    (
        check_labels(torch.tensor([0])),
        ValueError,
        "labels must have shape (2,), one for each sequence, got (1,).",
    ),
    (check_labels(torch.tensor([0, 3])), ValueError, "labels must lie in [0, 2], got 3."),
    (check_labels(torch.tensor([3, -1])), ValueError, "labels must lie in [0, 2], got -1."),
]

GOOD = [
    lambda: checks.check_choice("model", "gru", ["noisy", "gru"]),
    lambda: checks.check_integer("steps", 3, minimum=3),
    check_number(0, minimum=0.0),
    check_number(1.0, minimum=0.5, maximum=1.0),
    check_number(0.5, minimum=0.5, maximum=1.0),
    check_number(1e-9, above=0.0),
    check_number(-3.0),
    check_sequences(torch.zeros(1, 1, 3)),
    check_sequences(torch.full((1, 1, 3), math.nan)),  # values are not read here
    check_sequences(torch.zeros(1, 1, 8, dtype=torch.float16), None),
    lambda: checks.check_finite("X", torch.zeros(2, 2)),
    check_lengths(torch.tensor([1, 7])),
    check_lengths(torch.tensor([1, 7], dtype=torch.int32)),
]


@pytest.mark.parametrize(("check", "error", "sentence"), BAD, ids=[sentence for _, _, sentence in BAD])
def test_bad_values_raise_the_sentence(check: Callable[[], None], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=says(sentence)):
        check()


@pytest.mark.parametrize("check", GOOD)
def test_good_values_pass(check: Callable[[], None]) -> None:
    assert check() is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64])
def test_labels_of_any_integer_type_are_int64(dtype: torch.dtype) -> None:
    labels = checks.check_labels(torch.tensor([0, 2]).to(dtype), count=2, classes=3)
    assert labels.dtype == torch.int64 and labels.tolist() == [0, 2]


def test_lengths_within_a_transform_are_checked_by_shape_alone() -> None:
    def lengths_of(rows: torch.Tensor) -> torch.Tensor:
        checks.check_lengths(rows, batch=2, steps=7)
        return rows

    assert not checks.values_hidden()
    torch.func.vmap(lengths_of)(torch.tensor([[1, 7], [2, 9]]))
    with pytest.raises(ValueError, match=r"lengths must have shape \(2,\), got \(3,\)\."):
        torch.func.vmap(lengths_of)(torch.ones(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cuda:-7", 99])
def test_a_device_that_is_not_there_is_refused(device: object) -> None:
    with pytest.raises(ValueError, match=rf"^device must be a device of this machine, got '{device}' \("):
        checks.check_device("device", device)
    for there in (None, "cpu", torch.device("cpu")):
        checks.check_device("device", there)


def test_the_meta_device_has_no_autocast() -> None:
    assert not checks.autocasts("meta")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert checks.autocasts("cpu")


def test_known_lengths_are_not_read() -> None:
    wrong = torch.tensor([0, 9])
    with checks.known_lengths():
        with checks.known_lengths():
            checks.check_lengths(wrong, batch=2, steps=7)
        checks.check_lengths(wrong, batch=2, steps=7)
        with pytest.raises(ValueError, match=r"lengths must have shape \(3,\)"):
            checks.check_lengths(wrong, batch=3, steps=7)
    with pytest.raises(ValueError, match=r"lengths must lie in \[1, 7\]"):
        checks.check_lengths(wrong, batch=2, steps=7)
