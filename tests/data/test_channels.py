"""A channel is the one of its name, in a test file, in shards and in predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisyrnn.data import Dataset, load_dataset
from noisyrnn.data.channels import channel_order
from noisyrnn.data.inputs import read_inputs
from noisyrnn.data.options import ReadingOptions

VALUES = np.random.default_rng(0).normal(size=(12, 3, 2)).round(3) + np.array([0, 10])
"""Two channels, u about 0 and v about 10."""


def test_the_order_is_found_and_other_names_are_named() -> None:
    assert channel_order("it", ["c", "a", "b"], ["a", "b", "c"]) == [1, 2, 0]
    assert channel_order("it", ["a", "b"], ("a", "b")) is None
    assert channel_order("it", [], ["a"]) is None and channel_order("it", ["a"], []) is None
    assert channel_order("it", ["a", "a"], ["a", "a"]) is None
    with pytest.raises(
        ValueError, match=r"^it must have the channels of the training data, got none called 'b' and un"
    ):
        channel_order("it", ["a", "c"], ["a", "b"])
    with pytest.raises(ValueError, match=r"got unknown 'c'\. Rename the channels, or leave columns out with drop"):
        channel_order("it", ["a", "b", "c"], ["a", "b"])
    with pytest.raises(ValueError, match=r"got none called 'b'\."):
        channel_order("it", ["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"got 'a' twice, in another order\."):
        channel_order("it", ["a", "b", "a"], ["a", "a", "b"])
    with pytest.raises(ValueError, match=r"called 'n0', .*'n9', … and"):
        channel_order("it", ["a"], [f"n{k}" for k in range(11)])


def long(names: str, columns: list[int], *, label: bool = True, values: np.ndarray = VALUES) -> str:
    """The long format with a column per channel."""
    lines = [f"id,{names}{',class' if label else ''}"]
    for k, sequence in enumerate(values):
        for row in sequence:
            lines.append(",".join([f"s{k}", *(str(row[c]) for c in columns), *(["ab"[k % 2]] if label else [])]))
    return "\n".join(lines)


def melted(names: list[str], *, label: bool = True) -> str:
    """The long format with a value per line; the first name is that of channel u."""
    lines = [f"id,t,what,value{',class' if label else ''}"]
    for k, sequence in enumerate(VALUES):
        for t, row in enumerate(sequence):
            for name, value in reversed(list(zip(names, row, strict=False))):
                lines.append(",".join([f"s{k}", f"{t}", name, f"{value}", *(["ab"[k % 2]] if label else [])]))
    return "\n".join(lines)


def wide(names: list[str], columns: list[int]) -> str:
    """One sequence per line, the columns of a channel next to each other."""
    lines = [",".join(["class", *(f"{name}_{step}" for name in names for step in range(3))])]
    for k, sequence in enumerate(VALUES):
        lines.append(",".join(["ab"[k % 2], *(str(v) for c in columns for v in sequence[:, c])]))
    return "\n".join(lines)


MELTED = {"id": "id", "time": "t", "channel": "what", "value": "value"}


@pytest.mark.parametrize(
    ("train", "test", "other", "options"),
    [
        (long("u,v", [0, 1]), long("v,u", [1, 0]), long("u,w", [0, 1]), {"id": "id"}),
        (melted(["u", "v"]), melted(["u", "v"]), melted(["u", "w"]), MELTED),
        (wide(["u", "v"], [0, 1]), wide(["v", "u"], [1, 0]), wide(["u", "w"], [0, 1]), {"layout": "time-last"}),
        (wide(["v", "u"], [1, 0]), wide(["u", "v"], [0, 1]), wide(["v", "w"], [0, 1]), {"layout": "channels-last"}),
    ],
    ids=["long", "melted", "wide", "wide, the other order"],
)
def test_channels_of_a_test_file_are_matched_by_name(
    train: str, test: str, other: str, options: dict[str, Any], tmp_path: Path
) -> None:
    def load(text: str) -> Dataset:
        (tmp_path / "own_TRAIN.csv").write_text(train)
        (tmp_path / "own_TEST.csv").write_text(text)
        return load_dataset(str(tmp_path / "own_TRAIN.csv"), **options)

    dataset = load(test)
    assert sorted(dataset.channel_names) == ["u", "v"]
    places = [dataset.channel_names.index(name) for name in "uv"]
    assert np.array_equal(dataset.test.inputs[:][..., places], VALUES)
    assert (
        float(dataset.train.inputs[:][..., places[0]].max()) < 5 < float(dataset.train.inputs[:][..., places[1]].min())
    )
    with pytest.raises(ValueError, match=r"^The test data of .* got none called '[uv]' and unknown 'w'\."):
        load(other).test  # noqa: B018 (reads the file)


@pytest.mark.parametrize("names", [("u", "v"), ()])
@pytest.mark.parametrize("kind", ["long", "wide", "folder"])
def test_channels_of_a_file_to_predict_are_matched_by_name(names: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"long": {"id": "id"}, "wide": {"layout": "time-last"}, "folder": {}}[kind]
    path = tmp_path / ("new" if kind == "folder" else "new.csv")
    if kind == "folder":
        path.mkdir()
        for k, sequence in enumerate(VALUES):
            (path / f"{k:02}.csv").write_text("\n".join(["v,u", *(f"{v},{u}" for u, v in sequence)]))
    else:
        path.write_text(long("v,u", [1, 0]) if kind == "long" else wide(["v", "u"], [1, 0]))
    found = read_inputs(str(path), ReadingOptions(**options), channels=names).inputs[:]
    assert np.array_equal(found, VALUES if names else VALUES[..., ::-1])  # by position where no names are known
    with pytest.raises(ValueError, match=r"got none called 'w' and unknown 'u'\."):
        read_inputs(str(path), ReadingOptions(**options), channels=("w", "v"))


def test_a_channel_may_be_called_as_labels_are(tmp_path: Path) -> None:
    """The training had a class next to x and y; a file without a class has both too."""
    path = tmp_path / "new.csv"
    for header, columns, label in (("x,y", [0, 1], False), ("y,x", [1, 0], False), ("y,x", [1, 0], True)):
        path.write_text(long(header, columns, label=label))
        found = read_inputs(str(path), ReadingOptions(id="id"), channels=("x", "y"))
        assert np.array_equal(found.inputs[:], VALUES)
    path.write_text(long("x,y,z", [0, 1, 1], label=False))
    with pytest.raises(ValueError, match=r"got unknown 'z'\."):
        read_inputs(str(path), ReadingOptions(id="id"), channels=("x", "y"))
    path.write_text(long("x,z", [0, 1], label=False))
    with pytest.raises(ValueError, match=r"got none called 'y' and unknown 'z'\."):
        read_inputs(str(path), ReadingOptions(id="id"), channels=("x", "y"))
    path.write_text(long("x,y", [0, 1], label=False))  # y was the label of the training
    assert read_inputs(str(path), ReadingOptions(id="id"), channels=("x",)).inputs.shape == (12, 3, 1)


def test_a_column_of_labels_by_its_number_is_no_channel(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    for label in (True, False):
        path.write_text(long("u,v", [0, 1], label=label))
        found = read_inputs(str(path), ReadingOptions(id="id", label_column=-1), channels=("u", "v"))
        assert np.array_equal(found.inputs[:], VALUES)
        found = read_inputs(str(path), ReadingOptions(id="id", label_column=4), channels=("u", "v"))
        assert np.array_equal(found.inputs[:], VALUES)


def test_channels_that_no_sequence_has_are_missing_where_values_may_be(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text(melted(["u"], label=False))
    reading = ReadingOptions(missing="mask", **MELTED)
    found = read_inputs(str(path), reading, channels=("u", "v"), nominal=1.0).inputs[:]
    assert np.array_equal(found[..., 0], VALUES[..., 0]) and found[..., 1].isnan().all()
    with pytest.raises(ValueError, match=r"got none called 'v'\."):
        read_inputs(str(path), ReadingOptions(**MELTED), channels=("u", "v"), nominal=1.0)


def test_a_value_called_y_is_not_taken_for_the_label(tmp_path: Path) -> None:
    """The columns x, y and z of one channel, next to a class in the training."""
    path = tmp_path / "new.csv"
    path.write_text("x,y,z\n1,2,3\n4,5,6\n")
    reading = ReadingOptions(layout="one-channel")
    with pytest.raises(ValueError, match=r"^labelled must be given for .* if column 2 holds labels"):
        read_inputs(str(path), reading, steps=3)
    assert read_inputs(str(path), reading, steps=3, labelled=False).inputs[:].squeeze(2).tolist() == [
        [1, 2, 3],
        [4, 5, 6],
    ]
    assert read_inputs(str(path), reading, steps=2).inputs[:].squeeze(2).tolist() == [[1, 3], [4, 6]]
    path.write_text("t1,y,t2,t3\n1,2,3,7\n4,5,6,8\n")
    assert read_inputs(str(path), steps=4).inputs[:].squeeze(2).tolist() == [[1, 3, 7], [4, 6, 8]]


RECORDING = "when,v,u\n0,10,1\n1,11,2\n2,12.5,3.5\n"


@pytest.mark.parametrize(
    ("text", "options", "more"),
    [
        (RECORDING, {"time": "when"}, {"channels": ("u", "v"), "nominal": 1.0}),
        (RECORDING, {"drop": "when"}, {"channels": ("u", "v"), "input_size": 2}),
        ("u,v\n1,10\n2,11\n3.5,12.5\n", {}, {"input_size": 2, "channels": ("u", "v")}),
        ("1.0,10\n2,11\n3.5,12.5\n", {}, {"input_size": 2, "channels": ("u", "v")}),
    ],
)
def test_one_recording_is_predicted(text: str, options: dict[str, Any], more: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "rec.csv"
    path.write_text(text)
    found = read_inputs(str(path), ReadingOptions(**options), **more)
    assert found.names == ("rec.csv",) and found.lengths is None and found.dt is None
    assert found.inputs[:].tolist() == [[[1, 10], [2, 11], [3.5, 12.5]]]


def test_a_recording_with_an_unknown_column_and_a_wide_table_are_not_taken_for_another(tmp_path: Path) -> None:
    path = tmp_path / "rec.csv"
    path.write_text(RECORDING)
    with pytest.raises(ValueError, match=r"unknown 'when'\. If its lines are of several sequences, give id \(--id COL"):
        read_inputs(str(path), channels=("u", "v"), input_size=2)
    path.write_text("1.0,10\n2,11\n3,12\n")
    assert read_inputs(str(path), labelled=False, input_size=1).inputs.shape == (3, 2, 1)
    path.write_text("1.5\n3\n7\n")
    assert read_inputs(str(path), labelled=False, input_size=1).inputs.shape == (3, 1, 1)
    assert read_inputs(str(path), input_size=1, recording=True).inputs.shape == (1, 3, 1)
    path.write_text("u_0,u_1,v_0,v_1\n1,2,3,4\n5,6,7,8\n")
    reading = ReadingOptions(layout="time-last")
    found = read_inputs(str(path), reading, labelled=False, channels=("v", "u"), input_size=2, recording=True)
    assert found.inputs[:].tolist() == [[[3, 1], [4, 2]], [[7, 5], [8, 6]]]
    path.write_text("0,1.5\n1,3\n")
    assert read_inputs(str(path), labelled=False, input_size=1, recording=True).inputs.shape == (2, 2, 1)
    path.write_text("t0,t1\n0,1.5\n1,3\n")  # the training was on the long format, with a time
    assert read_inputs(str(path), ReadingOptions(time="t"), labelled=False, input_size=1).inputs.shape == (2, 2, 1)
    path.write_text("0,1.5\n1,3\n2,7.5\n")
    assert read_inputs(str(path), ReadingOptions(time=1), input_size=1, nominal=1.0).inputs.shape == (1, 3, 1)


def test_what_a_message_advises_is_an_option_of_training(tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", X=np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match=r"Train the model with missing='hold' \(--missing hold\), or 'mask'"):
        read_inputs(str(tmp_path / "new.npz"))


def test_a_description_shows_the_names(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text(long("u,v", [0, 1]))
    dataset = load_dataset(str(tmp_path / "own.csv"), id="id")
    assert dataset.channel_names == ("u", "v")
    assert "channels: 2 (u, v)" in repr(dataset)
    rows = [line.split()[0] for line in dataset.summary().splitlines()[-3:]]
    assert rows == ["channel", "u", "v"]
    assert dataset.fingerprint().keys() == {"train", "validation", "class_names", "value_range", "standardize"}


def test_names_are_one_for_each_channel() -> None:
    part = load_dataset("digits").train
    names: dict[str, Any] = {"class_names": tuple("0123456789"), "value_range": None, "standardize": True}
    with pytest.raises(ValueError, match=r"^channel_names must hold one name for each of 1 channels, got 2\."):
        Dataset(name="d", train=part, validation=part, read_test=lambda: part, channel_names=("a", "b"), **names)
