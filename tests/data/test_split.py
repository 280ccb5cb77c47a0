"""A split checks its tensors, and knows what is valid, missing and equal."""

import math

import pytest
import torch

from noisyrnn.data import Split
from noisyrnn.data.split import check_regular, tensor_digest


def split(**changes: object) -> Split:
    arguments = {"inputs": torch.rand(3, 4, 2), "labels": torch.tensor([0, 1, 1]), "classes": 2} | changes
    return Split(**arguments)  # type: ignore[arg-type]


def test_a_label_outside_the_range_is_refused():
    with pytest.raises(ValueError, match=r"^labels must"):
        split(labels=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"^labels must"):
        split(labels=torch.tensor([0, 1, -1]))


def test_labels_of_another_count_are_refused():
    with pytest.raises(ValueError, match=r"^labels must"):
        split(labels=torch.tensor([0, 1]))


def test_a_missing_feature_axis_is_refused():
    with pytest.raises(ValueError, match=r"got \(3, 4\)\. Add the feature axis: inputs\.unsqueeze\(-1\)\.$"):
        split(inputs=torch.rand(3, 4))


def test_nan_is_refused_and_located():
    inputs = torch.rand(3, 4, 2)
    inputs[1, 2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"^inputs must be finite, got 1 NaN .* first at index \(1, 2, 0\)"):
        split(inputs=inputs)


def test_lengths_beyond_the_steps_are_refused():
    with pytest.raises(ValueError, match=r"^lengths must"):
        split(lengths=torch.tensor([4, 5, 1]))
    with pytest.raises(ValueError, match=r"got 0\.$"):
        split(lengths=torch.tensor([4, 0, 1]))


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="inputs"):
        split(inputs=torch.rand(0, 4, 2), labels=torch.zeros(0, dtype=torch.long))


def test_subset_keeps_order_and_lengths():
    whole = split(lengths=torch.tensor([4, 2, 3]))
    part = whole.subset(torch.tensor([2, 0]))
    assert torch.equal(part.inputs, whole.inputs[[2, 0]])
    assert part.labels.tolist() == [1, 0]
    assert part.lengths is not None and part.lengths.tolist() == [3, 4]
    assert len(part) == 2


def test_valid_marks_the_steps_of_each_sequence():
    expected = [[True] * 4, [True, True, False, False], [True] * 3 + [False]]
    assert split(lengths=torch.tensor([4, 2, 3])).valid().tolist() == expected
    assert split().valid().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_integers_of_any_type_are_held_as_int64(dtype: torch.dtype):
    whole = split(labels=torch.tensor([0, 1, 1], dtype=dtype), lengths=torch.tensor([4, 1, 2], dtype=dtype))
    assert whole.labels.dtype == torch.int64 and whole.labels.tolist() == [0, 1, 1]
    assert whole.lengths is not None and whole.lengths.dtype == torch.int64


def test_values_whose_squares_overflow_are_refused():
    with pytest.raises(ValueError, match=r"^inputs must lie within ±1e\+150, got a size of 1e\+160\. Give the values"):
        split(inputs=torch.full((3, 4, 2), -1e160, dtype=torch.float64))


def test_lengths_of_steps_are_checked_kept_and_part_of_the_fingerprint():
    dt = torch.tensor([[1.0, 2.0, 1.0, 1.0]] * 3)
    whole = split(dt=dt)
    assert whole.subset(torch.tensor([1])).dt is not None
    assert set(whole.fingerprint()) - set(split().fingerprint()) == {"dt"}
    with pytest.raises(ValueError, match=r"^dt must be greater than 0, got 0\.$"):
        split(dt=dt * torch.tensor([1.0, 0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"^dt must have shape \(3, 4\), one for each step, got \(3, 3\)\.$"):
        split(dt=dt[:, :3])
    with pytest.raises(TypeError, match=r"^dt must be floating point, got torch\.int64\.$"):
        split(dt=dt.long())
    message = r"^split must have steps of equal length for the theory diagnostics, got times with unequal distances\. "
    message += r"Leave .* those of the hidden state and its noise, and margin_certificate, take dt\.$"
    with pytest.raises(ValueError, match=message):
        check_regular("split", whole)
    check_regular("split", split())


@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [
        (torch.ones(2, dtype=torch.int64), TypeError, r"weights must be floating point, got torch.int64\."),
        (torch.ones(3), ValueError, r"weights must have shape \(2,\), one for each sequence, got \(3,\)\."),
        (torch.tensor([1.0, -0.5]), ValueError, r"weights must be at least 0, got -0.5\."),
        (torch.zeros(2), ValueError, r"weights must not all be zero, got 2 zeros\."),
        (torch.tensor([1.0, float("nan")]), ValueError, "weights must be finite, got 1 NaN"),
    ],
)
def test_wrong_weights(weights, error, text):
    with pytest.raises(error, match=text):
        Split(inputs=torch.zeros(2, 3, 1), labels=torch.tensor([0, 1]), weights=weights, classes=2)


@pytest.mark.parametrize(
    ("labels", "error", "text"),
    [
        (torch.tensor([0, 1]), TypeError, r"labels must be floating point where classes is 0, got torch.int64\."),
        (
            torch.zeros(2),
            ValueError,
            r"labels must have shape \(2, targets\) where classes is 0, or \(2, 3, outputs\) for values at every step, "
            r"got \(2,\)\.",
        ),
        (torch.full((2, 1), float("inf")), ValueError, "labels must be finite, got 2 NaN or infinite"),
    ],
)
def test_wrong_targets(labels, error, text):
    with pytest.raises(error, match=text):
        Split(inputs=torch.zeros(2, 3, 1), labels=labels, classes=0)


def test_a_subset_keeps_weights_and_targets():
    labels, weights = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, 0.0, 2.0])
    part = Split(inputs=torch.zeros(3, 2, 1), labels=labels, weights=weights, classes=0).subset(torch.tensor([2, 0]))
    assert part.labels.tolist() == [[3.0], [1.0]] and part.weights.tolist() == [2.0, 1.0]


def test_a_fingerprint_changes_with_every_field() -> None:
    inputs, labels = torch.arange(12.0).reshape(3, 4, 1), torch.tensor([0, 1, 1])
    lengths, weights = torch.tensor([4, 3, 4]), torch.tensor([1.0, 2.0, 0.5])
    base = Split(inputs=inputs, labels=labels, lengths=lengths, weights=weights, classes=2).fingerprint()
    same = Split(inputs=inputs.clone(), labels=labels.clone(), lengths=lengths, weights=weights, classes=2)
    assert same.fingerprint() == base
    others = {
        "inputs": [inputs + 1e-6 * (inputs == 5), inputs.reshape(3, 2, 2).transpose(1, 2).reshape(3, 4, 1)],
        "labels": [1 - labels],
        "lengths": [None, torch.tensor([4, 4, 4])],
        "weights": [None, weights.flip(0), weights.double()],
    }
    for name, values in others.items():
        for value in values:
            fields = {"inputs": inputs, "labels": labels, "lengths": lengths, "weights": weights} | {name: value}
            found = Split(**fields, classes=2).fingerprint()  # type: ignore[arg-type]
            assert {key for key in base if found[key] != base[key]} == {name}
    assert Split(inputs=inputs.reshape(3, 2, 2), labels=labels, classes=2).fingerprint()["inputs"] != base["inputs"]
    assert Split(inputs=inputs[..., :0].expand(3, 4, 0).new_zeros(1, 1, 1), labels=labels[:1], classes=2).fingerprint()


def test_a_fingerprint_is_computed_once_and_again_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []

    def count(tensor: torch.Tensor | None) -> str | None:
        hashed.append(0 if tensor is None else tensor.numel())
        return tensor_digest(tensor)

    monkeypatch.setattr("noisyrnn.data.split.tensor_digest", count)
    data = split()
    first = data.fingerprint()
    first.pop("labels")  # belongs to the caller
    assert data.fingerprint().keys() == {"inputs", "labels", "lengths", "weights"}
    assert sum(hashed) == 3 * 4 * 2 + 3
    data.inputs[0, 0, 0] += 1
    assert data.fingerprint()["inputs"] != first["inputs"]
    with torch.inference_mode():
        untracked = torch.zeros(3, 4, 2)
    data = split(inputs=untracked)
    before = data.fingerprint()
    with torch.inference_mode():
        untracked += 1
    assert data.fingerprint()["inputs"] != before["inputs"]


@pytest.mark.parametrize("name", ["inputs", "labels", "lengths", "weights"])
@pytest.mark.parametrize("classes", [2, 0])
def test_arrays_are_refused_with_what_to_do(name: str, classes: int):
    labels = torch.tensor([0, 1]) if classes else torch.ones(2, 1)
    parts = {
        "inputs": torch.zeros(2, 3, 1),
        "labels": labels,
        "lengths": torch.tensor([3, 3]),
        "weights": torch.ones(2),
    }
    with pytest.raises(
        TypeError, match=rf"^{name} must be a tensor, got ndarray\. Convert: torch\.as_tensor\({name}\)\.$"
    ):
        Split(**{**parts, name: parts[name].numpy()}, classes=classes)


def test_splits_are_joined_and_padded() -> None:
    one = split(lengths=torch.tensor([4, 2, 3]), weights=torch.tensor([1.0, 2.0, 3.0]))
    two = Split(inputs=torch.rand(2, 6, 2), labels=torch.tensor([1, 0]), classes=2)
    both = one.joined(two)
    assert both.inputs.shape == (5, 6, 2) and both.lengths is not None and both.weights is not None
    assert torch.equal(both.inputs[:3, :4], one.inputs) and torch.equal(both.inputs[3:], two.inputs)
    assert both.lengths.tolist() == [4, 2, 3, 6, 6] and both.labels.tolist() == [0, 1, 1, 1, 0]
    assert both.weights.tolist() == [1.0, 2.0, 3.0, 1.0, 1.0]
    shorter = split().joined(two)
    assert shorter.lengths is not None and shorter.lengths.tolist() == [4, 4, 4, 6, 6]
    equal = split().joined(split())
    assert equal.lengths is None and equal.weights is None and equal.dt is None
    gaps = split(inputs=torch.full((3, 4, 2), torch.nan), missing="hold")
    assert gaps.joined(gaps).missing == "hold"
    with pytest.raises(ValueError, match=r"^other must have missing None as this split has, got 'hold'"):
        split().joined(gaps)


def test_splits_with_labels_at_every_step_are_joined() -> None:
    mask = torch.tensor([[True, False, True], [True, True, True]])
    one = Split(inputs=torch.rand(2, 3, 1), labels=torch.tensor([[0, 1, 1], [1, 0, 1]]), mask=mask, classes=2)
    two = Split(inputs=torch.rand(1, 4, 1), labels=torch.tensor([[1, 1, 0, 0]]), dt=torch.full((1, 4), 2.0), classes=2)
    both = one.joined(two)
    assert both.labels.tolist() == [[0, -1, 1, -1], [1, 0, 1, -1], [1, 1, 0, 0]]
    assert both.dt is not None and both.dt.tolist() == [[1.0] * 4] * 2 + [[2.0] * 4]


def test_splits_of_other_kinds_are_not_joined() -> None:
    for other in (split(inputs=torch.rand(3, 4, 1)), split(classes=3), split(labels=torch.rand(3, 1), classes=0)):
        with pytest.raises(ValueError, match=r"^other must have the channels"):
            split().joined(other)


@pytest.mark.parametrize(
    ("values", "lengths", "expected"),
    [
        ([[1.0, -2.0], [3.0, 0.5]], None, (-2.0, 3.0)),
        ([[1.0, math.nan], [3.0, 0.5]], None, (0.5, 3.0)),
        ([[math.nan, math.nan]], None, None),
        ([[1.0, 9.0], [3.0, 0.5]], [1, 2], (0.5, 3.0)),
        ([[1.0, 9.0], [math.nan, math.nan]], [1, 2], (1.0, 1.0)),
    ],
)
def test_extremes(values: list[list[float]], lengths: list[int] | None, expected: tuple[float, float] | None) -> None:
    inputs = torch.tensor(values).unsqueeze(2)
    known = None if lengths is None else torch.tensor(lengths)
    split = Split(
        inputs=inputs, labels=torch.zeros(len(inputs), dtype=torch.int64), classes=1, lengths=known, missing="hold"
    )
    assert split.extremes() == expected
