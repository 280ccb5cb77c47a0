import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisyrnn.data import Dataset, load_dataset

X = np.arange(10 * 4 * 2, dtype=np.float64).reshape(10, 4, 2)
Y = np.array([0, 1] * 5)


def save(path: Path, **arrays: Any) -> str:
    np.savez(path / "own.npz", **arrays)
    return str(path / "own.npz")


def everything(dataset: Dataset) -> dict[float, str]:
    """First value of each sequence -> its class, over all three parts."""
    return {
        float(row[0, 0]): dataset.class_names[label]
        for part in (dataset.train, dataset.validation, dataset.test)
        for row, label in zip(part.inputs, part.labels.tolist(), strict=True)
    }


def test_npz_is_split_in_three(tmp_path: Path):
    dataset = load_dataset(save(tmp_path, X=X, y=Y))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [6, 2, 2]
    assert everything(dataset) == {8.0 * i: str(i % 2) for i in range(10)}
    assert dataset.standardize and dataset.train.lengths is None and dataset.input_size == 2
    again = load_dataset(save(tmp_path, X=X, y=Y))
    assert (again.validation.inputs == dataset.validation.inputs).all()


def test_one_channel_and_string_labels(tmp_path: Path):
    dataset = load_dataset(save(tmp_path, X=X[:, :, 0].astype(np.int16), y=np.array(["up", "down"] * 5)))
    assert dataset.train.inputs.shape == (6, 4, 1)
    assert dataset.class_names == ("down", "up")
    assert everything(dataset) == {8.0 * i: ["up", "down"][i % 2] for i in range(10)}


def test_padding_is_not_read(tmp_path: Path):
    lengths = np.array([4, 3] * 5)
    padded = X.copy()
    padded[1::2, 3] = np.nan
    dataset = load_dataset(save(tmp_path, X=padded, y=Y, lengths=lengths))
    for part in (dataset.train, dataset.validation, dataset.test):
        assert part.lengths is not None
        assert part.lengths.tolist() == [4 - label for label in part.labels.tolist()]
        assert not part.inputs[~part.valid()].any()


def test_npz_with_a_test_part(tmp_path: Path):
    path = save(tmp_path, X=X, y=Y, X_test=np.zeros((3, 6, 2)), y_test=[1, 1, 0], lengths_test=[6, 5, 1])
    dataset = load_dataset(path)
    assert [len(part) for part in (dataset.train, dataset.validation)] == [8, 2]
    assert dataset.test.labels.tolist() == [1, 1, 0]
    assert dataset.test.lengths is not None and dataset.test.lengths.tolist() == [6, 5, 1]
    dataset = load_dataset(save(tmp_path, X=X, y=Y, X_test=[[[0, np.nan]]], y_test=[1]))
    with pytest.raises(ValueError, match=r"^X_test must be finite, got 1 NaN"):
        _ = dataset.test


NAN = X.copy()
NAN[2, 1, 1] = np.nan
HUGE = X.copy()
HUGE[2, 1, 1] = 1e300


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"X": NAN, "y": Y}, ValueError, r"^X must be finite, got 1 NaN or infinite .* index \(2, 1, 1\)\. Remove"),
        ({"X": HUGE, "y": Y}, ValueError, r"^X must be finite, got 1 NaN or infinite"),
        ({"X": X, "y": Y[:9]}, ValueError, r"^y must hold 10 labels, one for each row of X, got 9\.$"),
        ({"X": X, "y": Y[:, None]}, ValueError, r"^y must have shape \(n,\), .* got \(10, 1\)\.$"),
        ({"X": X, "y": Y * 0}, ValueError, r"^y must hold at least two classes, got 1 \('0'\)\.$"),
        (
            {"X": X, "y": [0] * 9 + [1]},
            ValueError,
            r"^y must hold at least 3 sequences of each class .* got 1 of class '1'",
        ),
        ({"X": X[:0], "y": Y[:0]}, ValueError, r"^X must hold at least one sequence of one step, got \(0, 4, 2\)\.$"),
        ({"X": X, "y": Y, "lengths": [5] * 10}, ValueError, r"^lengths must lie in \[1, 4\], .* got 5\.$"),
        ({"X": X, "y": Y, "lengths": [4] * 9}, ValueError, r"^lengths must have shape \(10,\), got \(9,\)\.$"),
        ({"X": X, "y": Y, "lengths": [4.0] * 10}, TypeError, r"^lengths must hold integers, got float64\.$"),
        ({"X": X, "y": Y / 2}, TypeError, r"^y must hold integers or strings, got float64\.$"),
        ({"X": X.astype(str), "y": Y}, TypeError, r"^X must hold real numbers, got <U32\.$"),
        (
            {"X": X[0, 0], "y": Y},
            ValueError,
            r"^X must have shape \(n, steps, channels\) or \(n, steps\), got \(2,\)\.$",
        ),
        ({"X": X}, ValueError, r"own\.npz must hold X and y, got no y\. Use np\.savez"),
        ({"x": X, "y": Y}, ValueError, r"own\.npz must hold X and y, got no X\."),
        ({"X": X.astype(object), "y": Y}, ValueError, r"^X must be a plain array, got an object array in .* Pad the"),
        ({"X": X, "y": Y.astype(object)}, ValueError, r"^y must be a plain array, got an object array in"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], error: type[Exception], message: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=message):
            load_dataset(save(tmp_path, **arrays))


def test_a_damaged_npz_is_refused(tmp_path: Path):
    path = Path(save(tmp_path, X=X, y=Y))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"own\.npz must be a NumPy archive, got a file that does not open"):
        load_dataset(str(path))
    middle = whole.index(X.tobytes()[64:128])
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    with pytest.raises(ValueError, match=r"own\.npz must be a complete NumPy archive, got damage in X \("):
        load_dataset(str(path))
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(ValueError, match=r"own\.npz must be a NumPy archive of X and y, got one array\."):
        load_dataset(str(path))


def csv(path: Path, text: str) -> str:
    (path / "own.csv").write_text(text)
    return str(path / "own.csv")


OWN = r"A line is its class and then its values, without a number of its own\.$"
FILL = r"Fill the value in, or leave the line out\.$"
ROWS = "".join(f"{'ab'[i % 2]},{i}.5,2,{'' if i % 2 else 3}\n" for i in range(10))


@pytest.mark.parametrize("header", ["", "class,x,y,z\n", "label,0,1,2\n", "label,1,2,3\n"])
def test_csv_with_and_without_a_header(tmp_path: Path, header: str):
    dataset = load_dataset(csv(tmp_path, header + ROWS))
    assert everything(dataset) == {i + 0.5: "ab"[i % 2] for i in range(10)}
    assert dataset.train.inputs.shape == (6, 3, 1)
    assert dataset.train.lengths is not None
    assert dataset.train.lengths.tolist() == [3 - label for label in dataset.train.labels.tolist()]


def test_a_first_csv_line_that_counts_is_no_header_if_its_class_comes_again(tmp_path: Path):
    dataset = load_dataset(csv(tmp_path, "a,0,1,2\n" + ROWS.replace(".5", ".25")))
    assert everything(dataset)[0.0] == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"own\.csv must hold at least one sequence, got none\.$"),
        (
            ROWS + "a,1,x,3\n",
            r"^Line 11 of .*own\.csv must hold finite numbers, got 'x' in column 3\. " + OWN,
        ),
        (
            ROWS + "a,1,,3\n",
            r"^Line 11 of .* must hold finite numbers, got '' in column 3\. " + FILL,
        ),
        (
            ROWS + "a,nan,2\n",
            r"^Line 11 of .* must hold finite numbers, got 'nan' in column 2\. " + FILL,
        ),
        (
            ROWS + "a,,\n",
            r"^Line 11 of .* must hold a class and a value at least, got 'a' and 0 values\. " + OWN,
        ),
        (
            ROWS + ",1,2\n",
            r"^Line 11 of .* must hold a class and a value at least, got '' and 2 values\. " + FILL,
        ),
        (ROWS + "a;1;2\n", r"got 'a;1;2' and 0 values\. Separate values with commas\.$"),
        (ROWS + "a,1;2\n", r"got '1;2' in column 2\. Separate values with commas\.$"),
        (ROWS + 'a,"-0,334",1\n', r"got '-0,334' in column 2\. Write a point in the number, not a comma\.$"),
        ("a,0,0.5\na,1,2\na,2,2\n", r"^y must hold at least two classes, got 1 \('a'\)\.$"),
    ],
)
def test_a_malformed_csv_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_dataset(csv(tmp_path, text))


TS = "@classLabel true a b\n@data\n" + "".join(f"{i},{'1,' * (i % 2)}2:{'ab'[i % 2]}\n" for i in range(10))


def test_ts_is_split_in_three_or_has_a_sibling(tmp_path: Path):
    for name in ("mine.ts", "mine_TRAIN.ts"):
        (tmp_path / name).write_text(TS)
    assert len(load_dataset(str(tmp_path / "mine.ts")).train) == 6
    assert len(load_dataset(str(tmp_path / "mine_TRAIN.ts")).train) == 6
    (tmp_path / "mine_TEST.ts").write_text("@classLabel true a b\n@data\n1:b\n")
    assert len(load_dataset(str(tmp_path / "mine.ts")).train) == 6
    dataset = load_dataset(str(tmp_path / "mine_TRAIN.ts"))
    assert (len(dataset.train), dataset.test.labels.tolist()) == (8, [1])
    assert dataset.name == str(tmp_path / "mine_TRAIN.ts")


def test_a_path_must_be_an_existing_file_of_a_known_kind(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"^dataset must be an existing file, got '.*gone\.csv'\. Correct"):
        load_dataset(str(tmp_path / "gone.csv"))
    message = r"^dataset must be a file ending in \.npz, \.csv, \.ts, \.ts\.gz, got 'mine\.parquet'\.$"
    with pytest.raises(ValueError, match=message):
        load_dataset("mine.parquet")
    with pytest.raises(ValueError, match=r"got 'folder/mine'\.$"):
        load_dataset("folder/mine")
