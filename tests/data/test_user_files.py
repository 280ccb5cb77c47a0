import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noisyrnn.data import Dataset, load_dataset
from noisyrnn.data.user_files import is_path

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


def test_time_last_is_read_if_it_is_said(tmp_path: Path):
    path = save(tmp_path, X=X.transpose(0, 2, 1), y=Y, lengths=[3] * 10, X_test=X[:3].transpose(0, 2, 1), y_test=Y[:3])
    dataset = load_dataset(path, layout="time-last")
    assert dataset.test.inputs.tolist() == X[:3].tolist()
    assert dataset.train.lengths is not None and not dataset.train.inputs[:, 3].any()
    assert load_dataset(save(tmp_path, X=X.transpose(0, 2, 1), y=Y), layout="channels-last").steps == 2
    with pytest.raises(ValueError, match="layout"):
        load_dataset(path, layout="time_last")


@pytest.mark.parametrize("name", ["digits", "own.ts", "own.npz"])
def test_options_of_other_files_are_refused(tmp_path: Path, name: str):
    path = str(tmp_path / name) if "." in name else name
    (tmp_path / name).write_text("")
    tables = r"\.csv, \.tsv, \.txt, \.arff, \.parquet and \.xlsx files"
    for option, value, files in (
        ("sheet", 2, r"\.xlsx files"),
        ("decimal", ",", r"\.csv, \.tsv and \.txt files, and folders of recordings"),
        ("label_column", 2, f"{tables}, and folders of recordings"),
        ("layout", "time-last", f"\\.npz, \\.npy, {tables}"),
    ):
        if (name, option) != ("own.npz", "layout"):
            with pytest.raises(
                ValueError, match=rf"^{option} must be None for .*, got {value!r}\. It is for {files}\.$"
            ):
                load_dataset(path, **{option: value})
    with pytest.raises(
        ValueError, match=r"^option must be one of .*, got 'labl_column'\. Did you mean 'label_column'\?$"
    ):
        load_dataset(path, labl_column="kind")


@pytest.mark.parametrize(
    ("y", "names"),
    [
        ([2**53, 2**53 + 1], ["9007199254740992", "9007199254740993"]),
        (np.array([2**63, 2**64 - 1], np.uint64), ["9223372036854775808", "18446744073709551615"]),
        ([2.0, 10.0], ["2.0", "10.0"]),
        ([False, True], ["False", "True"]),
        (np.array([10, 9], ">i2"), ["9", "10"]),
        (["1_1", "11"], ["11", "1_1"]),
        (["a ", "a"], ["a", "a "]),
    ],
)
def test_labels_of_arrays_are_what_they_are(tmp_path: Path, y: Any, names: list[str]):
    path = save(tmp_path, X=X, y=np.array(list(y) * 5, np.asarray(y).dtype), X_test=X[:1], y_test=np.asarray(y)[:1])
    dataset = load_dataset(path)
    assert list(dataset.class_names) == names
    assert dataset.test.labels.tolist() == [names.index(str(np.asarray(y)[0]))]


def test_equal_numbers_of_other_types_are_one_class(tmp_path: Path):
    dataset = load_dataset(save(tmp_path, X=X, y=Y, X_test=X[:2], y_test=Y[:2].astype(np.float32)))
    assert dataset.test.labels.tolist() == [0, 1]
    dataset = load_dataset(save(tmp_path, X=X, y=Y, X_test=X[:2], y_test=Y[:2].astype(str)))
    with pytest.raises(ValueError, match=r"^y_test must hold only the classes 0, 1 .* got the text '0' at index 0\.$"):
        _ = dataset.test


def test_values_keep_their_precision(tmp_path: Path):
    far = 1.7e9 + X / 8  # float32 has steps of 128 there
    assert sorted(everything(load_dataset(save(tmp_path, X=far, y=Y)))) == sorted(far[:, 0, 0].tolist())
    assert load_dataset(save(tmp_path, X=X.astype(np.uint8), y=Y)).train.inputs.dtype == torch.float32
    assert load_dataset(save(tmp_path, X=X.astype(np.int64), y=Y)).train.inputs.dtype == torch.float64


NAN = X.copy()
NAN[2, 1, 1] = np.nan
HUGE = X.copy()
HUGE[2, 1, 1] = 1e300


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        (
            {"X": NAN, "y": Y},
            ValueError,
            r"^X must be finite, got 1 NaN values, .* index \(2, 1, 1\)\. Give missing='hold' \(--missing hold\)",
        ),
        ({"X": HUGE, "y": Y}, ValueError, r"^X must lie within ±1e\+150, got a size of 1e\+300\. Give the values in a"),
        ({"X": X, "y": Y[:9]}, ValueError, r"^y must hold 10 labels, one for each row of X, got 9\.$"),
        (
            {"X": X, "y": np.eye(3, dtype=int)[Y]},
            ValueError,
            r"^y must have shape \(10,\) .* Save y.argmax\(axis=1\)\.$",
        ),
        (
            {"X": X, "y": np.eye(4)[np.arange(10) % 4]},
            ValueError,
            r"^y must hold a class for each sequence or at every step, got \(10, 4\) .*argmax\(axis=1\); or .* mask=np",
        ),
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
        ({"X": X.astype(str), "y": Y}, TypeError, r"^X must hold real numbers, got <U32\.$"),
        (
            {"X": X[0, 0], "y": Y},
            ValueError,
            r"^X must have shape \(n, steps, channels\) or \(n, steps\), got \(2,\)\.$",
        ),
        ({"X": X}, ValueError, r"own\.npz must hold X and y, got no y among X\. Known names are X, data"),
        (
            {"z": X, "y": Y},
            ValueError,
            r"own\.npz must hold X and y, got no X among y, z\. Known names are X, data, .*; y, labels",
        ),
        ({"X": X.astype(object), "y": Y}, ValueError, r"^X must be a plain array, got an object array in .* Pad the"),
        ({"X": X, "y": Y.astype(object)}, ValueError, r"^y must be a plain array, .* Save it as y=y\.astype\(str\)\.$"),
        (
            {"X": X.transpose(0, 2, 1), "y": Y},
            ValueError,
            r"^X must have shape \(n, steps, channels\), got \(10, 2, 4\), fewer .* layout='time-last' \(--layout time",
        ),
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
    message = r"^dataset must be a folder or a file ending in \.npz, .*, \.csv\.gz, .*, got 'mine\.feather'\.$"
    with pytest.raises(ValueError, match=message):
        load_dataset("mine.feather")
    with pytest.raises(ValueError, match=r"got 'folder/mine'\.$"):
        load_dataset("folder/mine")


@pytest.mark.parametrize("have", ["X_test", "y_test", "lengths_test"])
def test_half_a_test_part_is_refused_before_anything_is_read(tmp_path: Path, have: str):
    lacks = "y_test" if have == "X_test" else "X_test"
    with pytest.raises(ValueError, match=rf"X_test and y_test, got no {lacks}\. Add it, or leave {have} out\.$"):
        load_dataset(save(tmp_path, X=X, y=Y, **{have: X[:3]}))


def test_arrays_that_are_not_read_are_named(tmp_path: Path):
    with pytest.warns(UserWarning, match=r"^Arrays length, weights of own\.npz are not read, only X, y, lengths, mask"):
        load_dataset(save(tmp_path, X=X, y=Y, weights=X, length=Y))
    with pytest.warns(UserWarning, match=r"^own\.npz holds lengths and no lengths_test: all steps of X_test are read"):
        load_dataset(save(tmp_path, X=X, y=Y, lengths=[3] * 10, X_test=X[:3], y_test=Y[:3]))


def test_no_channel_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^X must hold at least one channel, got \(10, 4, 0\)\.$"):
        load_dataset(save(tmp_path, X=X[:, :, :0], y=Y))


@pytest.mark.parametrize(
    ("base", "kind"), [(2**53 + 1, np.int64), (-(2**53) - 1, ">i8"), (2**63 + 1, np.uint64), (2**62 + 1, np.int64)]
)
def test_integers_that_float64_rounds_are_refused(tmp_path: Path, base: int, kind: Any):
    values = np.array([[base] * 4] * 10, dtype=kind)
    with pytest.raises(ValueError, match=f"^X must .*{base}"):
        load_dataset(save(tmp_path, X=values, y=Y))
    nanoseconds = 1_700_000_000 * 10**9 + 10**9 * np.arange(40).reshape(10, 4)  # multiples of 512
    assert load_dataset(save(tmp_path, X=nanoseconds, y=Y)).train.inputs.double().max() > 1.7e18


def test_the_line_on_what_was_read_has_one_length_where_all_are_equal(tmp_path: Path):
    assert " 3 steps × 2 channels, " in load_dataset(save(tmp_path, X=X, y=Y, lengths=[3] * 10)).summary()


@pytest.mark.parametrize(
    ("train", "test", "count"),
    [
        ("", "b,0,1,2\n", 9),  # a sequence, as the training part has no header
        ("kind,0,1,2\n", "kind,0,1,2\n", 8),
        ("class,x0,x1,x2\n", "b,0,1,2\n", 9),
        ("class,x0,x1,x2\n", "class,x0,x1,x2\n", 8),
        ("class,x0,x1,x2\n", "", 8),
    ],
)
def test_a_test_file_has_a_header_if_its_training_file_has(tmp_path: Path, train: str, test: str, count: int) -> None:
    rows = [f"{'ab'[k % 2]},{k}.5,{k},{k * k}\n" for k in range(8)]
    (tmp_path / "own_TRAIN.csv").write_text(train + "".join(rows))
    (tmp_path / "own_TEST.csv").write_text(test + "".join(rows[::2] * 2))  # class a only
    options = {"label_column": "kind"} if "kind" in train else {}
    assert len(load_dataset(str(tmp_path / "own_TRAIN.csv"), **options).test) == count


@pytest.mark.parametrize(
    ("names", "test"),
    [
        (("XTrain", "YTrain", "XTest", "YTest"), True),
        (("X_Train", "y_Train", "X_Test", "y_Test"), True),
        (("train_data", "train_labels", "test_data", "test_labels"), True),
        (("trainX", "trainY"), False),
        (("signals", "class_labels"), False),
        (("time_series", "label"), False),
        (("data", "labels"), False),
    ],
)
@pytest.mark.parametrize("row", [False, True])
def test_arrays_under_the_names_of_other_tools(tmp_path: Path, names: tuple[str, ...], test: bool, row: bool):
    labels = (Y[None], Y[None, :3]) if row else (Y[:, None], Y[:3, None])  # as MATLAB writes a vector
    content = dict(zip(names, (X, labels[0], X[:3], labels[1]), strict=False))
    dataset = load_dataset(save(tmp_path, **content))
    assert dataset.class_names == ("0", "1")
    assert len(dataset.test) == 3 if test else len(everything(dataset)) == 10
    for path in tmp_path.iterdir():
        path.unlink()
    for name, array in content.items():
        np.save(tmp_path / f"own_{name}.npy", array)
    files = load_dataset(str(tmp_path / f"own_{names[0]}.npy"))
    assert everything(files) == everything(dataset)


def test_usual_names_come_before_others(tmp_path: Path):
    with pytest.warns(UserWarning, match=r"^Arrays class, samples of own\.npz are not read"):
        dataset = load_dataset(save(tmp_path, data=X, labels=Y, samples=-X, **{"class": Y[::-1]}))
    assert everything(dataset) == everything(load_dataset(save(tmp_path, X=X, y=Y)))
    with pytest.raises(ValueError, match=r"must hold one array X, got data, inputs\. Rename the right one to X"):
        load_dataset(save(tmp_path, data=X, inputs=X, y=Y))
    with pytest.raises(ValueError, match=r"^X.* must hold X or XTrain, got both|must hold X or XTrain, got both"):
        load_dataset(save(tmp_path, X=X, XTrain=X, y=Y))


def test_a_mask_states_that_there_is_a_class_at_every_step(tmp_path: Path):
    y = np.eye(4, dtype=int)[np.arange(10) % 4]
    dataset = load_dataset(save(tmp_path, X=X, y=y, mask=np.ones((10, 4), bool)))
    assert dataset.every_step and dataset.classes == 2


def test_a_folder_needs_no_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(9):
        file = tmp_path / "rec" / "ab"[number % 2] / f"{number}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{number}.5,2\n3,1\n")
    monkeypatch.chdir(tmp_path)
    assert everything(load_dataset("rec")) == everything(load_dataset("rec/"))
    (tmp_path / "digits").mkdir()
    assert load_dataset("digits").steps == 64  # the name of a data set comes first
    (tmp_path / "Own").mkdir()
    (tmp_path / "Own" / "Own_TRAIN.ts").write_text("")
    assert not is_path("Own") and is_path("rec")  # a set of the archive
    assert not is_path("")  # would be the current folder
