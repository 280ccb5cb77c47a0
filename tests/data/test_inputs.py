"""Sequences read for predictions, with and without labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noisyrnn.data.inputs import read_inputs
from noisyrnn.data.options import ReadingOptions


def read(name: str, *, labelled: bool | None = None, steps: int | None = None, **options: Any) -> Any:
    return read_inputs(name, ReadingOptions(**options), labelled=labelled, steps=steps)[:2]


VALUES = [[1.0, 2.5, 3.0], [4.0, 5.0, 6.5]]


def write(folder: Path, text: str, name: str = "new.csv") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("class,a,b,c\n7,1,2.5,3\n8,4,5,6.5\n", {}),  # the header names the class
        ("a,b,c\n1,2.5,3\n4,5,6.5\n", {"labelled": False}),
        ("a,b,c\n1,2.5,3\n4,5,6.5\n", {"steps": 3}),
        ("1,2.5,3\n4,5,6.5\n", {"steps": 3}),
        ("7,1,2.5,3\n8,4,5,6.5\n", {"steps": 3}),  # one cell more than a sequence
        ("left,1,2.5,3\nright,4,5,6.5\n", {}),  # text cannot be a value
        ("?,1,2.5,3\n?,4,5,6.5\n", {}),
        ("1,2.5,3,7\n4,5,6.5,8\n", {"label_column": -1, "steps": 3}),
        ("1,2.5,3\n4,5,6.5\n", {"label_column": -1, "steps": 3}),
        ("a,state,b,c\n1,x,2.5,3\n4,y,5,6.5\n", {"label_column": "state"}),
        ("a,b,c\n1,2.5,3\n4,5,6.5\n", {"label_column": "state"}),  # its header had that name
        ("7,1,2.5,3\n8,4,5,6.5\n", {"labelled": True}),
        ("1;2,5;3;left\n4;5;6,5;right\n", {"separator": ";", "decimal": ",", "label_column": -1}),
        ("n,a,b,c,class\n9,1,2.5,3,7\n8,4,5,6.5,7\n", {"drop": "n"}),
        ("n,a,b,c\n9,1,2.5,3\n8,4,5,6.5\n", {"drop": "n,other", "steps": 3}),  # a column that the new file lacks
        ("who,a,b,c\nme,1,2.5,3\nme,4,5,6.5\n", {"group_column": "who", "steps": 3}),
    ],
)
def test_a_csv_file_gives_the_same_sequences_with_and_without_labels(
    text: str, options: dict[str, Any], tmp_path: Path
) -> None:
    inputs, lengths = read(write(tmp_path, text), **options)
    assert inputs.dtype == torch.float64
    assert inputs.squeeze(-1).tolist() == VALUES
    assert lengths is None


def test_lines_may_be_shorter(tmp_path: Path) -> None:
    inputs, lengths = read(write(tmp_path, "1,2,3\n4,5,\n"), steps=3)
    assert inputs.squeeze(-1).tolist() == [[1, 2, 3], [4, 5, 0]]
    assert lengths is not None
    assert lengths.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "1,2,5\n3,4,6\n",
            {},
            r"^labelled must be given for .*new.csv, got lines of 3 numbers\. .*if column 1 holds labels",
        ),
        ("1,2,5\n3,4,6\n", {"steps": 7}, r"got lines of 3 numbers and training sequences of 7 values"),
        ("1,2\n3,x\n", {"steps": 2}, r"^Line 2 of .* must hold finite numbers, got 'x'"),
        ("NA,2\n3,4\n", {"steps": 2}, r"^Line 1 of .* must hold finite numbers, got 'NA'"),
        ("index,a,b\n0,1,2\n1,3,4\n", {"labelled": False}, r"^.* as pandas calls its index"),
        ("", {}, r"must hold at least one sequence"),
        ("1,2,9007199254740993\n", {"steps": 3}, r"that float64 represents exactly"),
        ("a,b\n1,2\n", {"label_column": "c", "labelled": True}, r"^label_column must be the name"),
    ],
)
def test_a_csv_file_that_cannot_be_read_is_refused(
    text: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, text), **options)


def test_an_archive_needs_no_y(tmp_path: Path) -> None:
    X = np.arange(24.0).reshape(2, 3, 4)
    np.savez(tmp_path / "new.npz", X=X, lengths=np.array([3, 1]))
    inputs, lengths = read(str(tmp_path / "new.npz"))
    assert lengths is not None
    assert lengths.tolist() == [3, 1]
    assert torch.equal(inputs[0], torch.from_numpy(X[0]))
    assert inputs[1, 1:].abs().max() == 0  # padding
    np.savez(tmp_path / "turned.npz", X=X.transpose(0, 2, 1), y=np.zeros(2))
    assert torch.equal(read(str(tmp_path / "turned.npz"), layout="time-last")[0], torch.from_numpy(X))
    np.savez(tmp_path / "empty.npz", y=X)
    with pytest.raises(ValueError, match=r"must hold X, got none"):
        read(str(tmp_path / "empty.npz"))
    np.savez(tmp_path / "nan.npz", X=np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match=r"^X must be finite"):
        read(str(tmp_path / "nan.npz"))


@pytest.mark.parametrize(
    ("header", "end"),
    [("@classLabel false\n", ""), ("@classLabel true a b\n", ":?"), ("@targetLabel true\n", ":0.5")],
)
def test_a_ts_file_gives_the_same_sequences_with_and_without_labels(header: str, end: str, tmp_path: Path) -> None:
    text = f"# comment\n@univariate false\n{header}@data\n1,2.5:3,4{end}\n5,6:7,8{end}\n"
    inputs, lengths = read(write(tmp_path, text, "new.ts"))
    assert inputs.tolist() == [[[1, 3], [2.5, 4]], [[5, 7], [6, 8]]]
    assert lengths is None


def test_options_of_another_format_and_unknown_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "1,2\n")
    with pytest.raises(ValueError, match=r"^layout must be None"):
        read(path, layout="time-last")
    with pytest.raises(ValueError, match=r"^data must be a file ending in"):
        read("digits")
    with pytest.raises(FileNotFoundError, match=r"^data must be an existing file"):
        read(str(tmp_path / "absent.csv"))
