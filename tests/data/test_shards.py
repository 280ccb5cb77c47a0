import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noisyrnn.data import Dataset, ReadingOptions, load_dataset
from noisyrnn.data.inputs import read_inputs
from noisyrnn.data.stored import StoredSequences

X = np.arange(30 * 4 * 2, dtype=np.float32).reshape(30, 4, 2)
Y = np.array(["up", "down", "up"] * 10)


def write_pair(folder: Path, x: np.ndarray = X, y: np.ndarray = Y) -> None:
    np.save(folder / "X.npy", x)
    np.save(folder / "y.npy", y)


def write_npz(folder: Path, x: np.ndarray = X, y: np.ndarray = Y) -> None:
    for k, rows in enumerate(np.array_split(np.arange(len(x)), 3)):
        np.savez(folder / f"shard-{k}.npz", y=y[rows], X=x[rows])


def write_compressed(folder: Path, x: np.ndarray = X, y: np.ndarray = Y) -> None:
    for k, rows in enumerate(np.array_split(np.arange(len(x)), 3)):
        np.savez_compressed(folder / f"shard-{k}.npz", X=x[rows], y=y[rows])


def write_lists(folder: Path, x: np.ndarray = X, y: np.ndarray = Y) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    for k, rows in enumerate(np.array_split(np.arange(len(x)), 3)):
        table = pa.table({"values": pa.array(x[rows].tolist(), type=_list_of(pa, x)), "label": y[rows].tolist()})
        parquet.write_table(table, folder / f"part-{k}.parquet", row_group_size=4)


def _list_of(pa: Any, x: np.ndarray) -> Any:
    kind = pa.from_numpy_dtype(x.dtype)
    for _ in range(x.ndim - 1):
        kind = pa.list_(kind)
    return kind


def write_columns(folder: Path, x: np.ndarray = X[..., 0], y: np.ndarray = Y) -> None:
    import pandas

    for k, rows in enumerate(np.array_split(np.arange(len(x)), 3)):
        frame = pandas.DataFrame(x[rows], columns=[f"t{step}" for step in range(x.shape[1])])
        frame.insert(0, "class", y[rows])
        frame.to_parquet(folder / f"part-{k}.parquet", row_group_size=4)


WRITERS = [write_pair, write_npz, write_compressed, write_lists]


def everything(dataset: Dataset) -> dict[float, tuple[str, list[float]]]:
    """First value of each sequence -> its class and its values, over all three parts."""
    return {
        float(row[0, 0]): (dataset.class_names[label], row.flatten().tolist())
        for part in (dataset.train, dataset.validation, dataset.test)
        for row, label in zip(part.inputs[:], part.labels.tolist(), strict=True)
    }


@pytest.mark.parametrize("write", [*WRITERS, write_columns])
def test_every_sequence_of_a_folder_is_read_with_its_label(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path)
    dataset = load_dataset(f"{tmp_path}/")
    assert all(isinstance(part.inputs, StoredSequences) for part in (dataset.train, dataset.validation, dataset.test))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [18, 6, 6]
    values = X[..., :1] if write is write_columns else X
    found = everything(dataset)
    assert found == {float(x[0, 0]): (str(y), x.flatten().tolist()) for x, y in zip(values, Y, strict=True)}
    assert dataset.train.inputs.dtype == torch.float32 and dataset.standardize
    for part in (dataset.train, dataset.validation, dataset.test):  # stratified
        assert int(part.labels.sum()) * 3 == 2 * len(part)
    again = load_dataset(f"{tmp_path}/")
    assert torch.equal(again.test.inputs[:], dataset.test.inputs[:])
    mean, std = dataset.statistics()
    flat = dataset.train.inputs[:].double().flatten(0, 1)
    torch.testing.assert_close(mean, flat.mean(0))
    torch.testing.assert_close(std, flat.std(0, correction=0))


def test_a_folder_is_summed_up_as_a_file_is(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    write_pair(folder)
    np.savez(tmp_path / "own.npz", X=X, y=Y)
    stored, memory = load_dataset(f"{folder}/"), load_dataset(str(tmp_path / "own.npz"))
    first = stored.summary().splitlines()[0]
    assert first.startswith("own: 30 sequences (18 / 6 / 6), 4 steps × 2 channels, 2 classes (largest 66.7 %), values")
    assert first.endswith("missing 0") and len(stored.summary().splitlines()) == len(memory.summary().splitlines())
    assert stored.scale is not None and len(stored.scale.low) == 2
    flat = stored.train.inputs[:].double().flatten(0, 1).numpy()
    np.testing.assert_allclose(stored.scale.low, np.quantile(flat, 0.001, axis=0))
    np.testing.assert_allclose(stored.scale.std, flat.std(0))


@pytest.mark.parametrize("validation", ["val", "validation", None])
def test_parts_are_recognized_by_the_names_of_arrays(tmp_path: Path, validation: str | None) -> None:
    parts = {"train": X[:20], "test": X[20:24], **({} if validation is None else {validation: X[24:]})}
    for name, rows in parts.items():
        np.save(tmp_path / f"X_{name}.npy", rows)
        np.save(tmp_path / f"y_{name}.npy", np.arange(len(rows)) % 2)
    dataset = load_dataset(f"{tmp_path}/")
    assert np.array_equal(dataset.test.inputs[:], X[20:24])  # as given, in that order
    if validation is None:
        assert [len(dataset.train), len(dataset.validation)] == [16, 4]
    else:
        assert np.array_equal(dataset.validation.inputs[:], X[24:]) and np.array_equal(dataset.train.inputs[:], X[:20])


@pytest.mark.parametrize("subfolders", [True, False])
@pytest.mark.parametrize("write", [write_npz, write_lists])
def test_parts_are_recognized_by_folders_and_by_names_of_shards(
    tmp_path: Path, subfolders: bool, write: Callable[..., None]
) -> None:
    for name, rows in {"train": slice(0, 18), "valid": slice(18, 24), "test": slice(24, 30)}.items():
        folder = tmp_path / name
        folder.mkdir()
        write(folder, X[rows], Y[rows])
        if not subfolders:
            for path in folder.iterdir():
                path.rename(tmp_path / f"{name}-{path.name}")
            folder.rmdir()
    dataset = load_dataset(f"{tmp_path}/")
    found = [part.inputs[:].numpy() for part in (dataset.train, dataset.validation, dataset.test)]
    assert np.array_equal(np.concatenate(found), X) and [len(part) for part in found] == [18, 6, 6]


@pytest.mark.parametrize("name", ["own_{}.npz", "{}0.npz", "data-{}-00000-of-00001.npz", "{}.npz"])
def test_test_data_are_never_taken_for_training_data(tmp_path: Path, name: str) -> None:
    for part, rows in {"train": slice(0, 24), "test": slice(24, 30)}.items():
        np.savez(tmp_path / name.format(part), X=X[rows], y=Y[rows])
    dataset = load_dataset(f"{tmp_path}/")
    assert np.array_equal(dataset.test.inputs[:], X[24:])
    assert len(dataset.train) + len(dataset.validation) == 24


def test_values_to_predict_lengths_and_layout(tmp_path: Path) -> None:
    turned = np.ascontiguousarray(X.transpose(0, 2, 1)).astype(float)
    lengths = np.arange(30) % 4 + 1
    turned[lengths == 2, :, 2:] = np.nan  # padding may be anything
    np.save(tmp_path / "X.npy", turned)
    np.save(tmp_path / "y.npy", np.linspace(0, 1, 30))
    np.save(tmp_path / "lengths.npy", lengths)
    dataset = load_dataset(f"{tmp_path}/", layout="time-last")
    assert dataset.classes == 0 and dataset.outputs == 1 and dataset.train.inputs.dtype == torch.float64
    expected = {
        round(29 * float(y)): (x, length) for x, length, y in zip(X, lengths, np.linspace(0, 1, 30), strict=True)
    }
    for part in (dataset.train, dataset.validation, dataset.test):
        for row, length, label in zip(part.inputs[:], part.lengths, part.labels, strict=True):
            x, own = expected[round(29 * float(label))]
            assert own == length and np.array_equal(row[:own], x[:own]) and not row[own:].any()
    two = np.stack([np.linspace(0, 1, 30), np.linspace(1, 2, 30), np.linspace(1, 3, 30)], axis=1)
    np.save(tmp_path / "y.npy", two)
    assert load_dataset(f"{tmp_path}/", layout="time-last").outputs == 3


def test_columns_are_chosen_by_options(tmp_path: Path) -> None:
    import pandas

    frame = pandas.DataFrame({"kind": Y, "note": "x", "t0": X[:, 0, 0], "t1": X[:, 1, 0]})
    frame.to_parquet(tmp_path / "all.parquet")
    with pytest.raises(ValueError, match="label_column"):
        load_dataset(f"{tmp_path}/")
    dataset = load_dataset(f"{tmp_path}/", label_column="kind", drop="note")
    assert dataset.steps == 2 and dataset.class_names == ("down", "up")
    with pytest.raises(TypeError, match=r"'note'.* must hold numbers"):
        load_dataset(f"{tmp_path}/", label_column="kind")


def nan_in(folder: Path) -> None:
    values = X.copy()
    values[17, 2, 1] = np.nan
    write_npz(folder, values)


def nan_in_row_group(folder: Path) -> None:
    values = X.copy()
    values[17, 2, 1] = np.nan
    write_lists(folder, values)


def mixed_types(folder: Path) -> None:
    write_npz(folder)
    np.savez(folder / "shard-3.npz", X=X.astype(float), y=Y)


def mixed_shapes(folder: Path) -> None:
    write_npz(folder)
    np.savez(folder / "shard-3.npz", X=X[:, :3], y=Y)


def unequal_counts(folder: Path) -> None:
    write_pair(folder, X, Y[:29])


def objects(folder: Path) -> None:
    np.save(folder / "X.npy", np.array([X[0], X[1, :3]], dtype=object), allow_pickle=True)
    np.save(folder / "y.npy", Y[:2])


def cut_short(folder: Path) -> None:
    write_pair(folder)
    (folder / "X.npy").write_bytes((folder / "X.npy").read_bytes()[:-4])


def fortran(folder: Path) -> None:
    write_pair(folder, np.asfortranarray(X))


def step_labels(folder: Path) -> None:
    write_pair(folder, X, np.zeros((30, 4), dtype=int))


def two_kinds(folder: Path) -> None:
    write_pair(folder)
    write_npz(folder)


def no_labels(folder: Path) -> None:
    np.save(folder / "X.npy", X)


def unnamed_part(folder: Path) -> None:
    np.savez(folder / "test-0.npz", X=X, y=Y)
    np.savez(folder / "more.npz", X=X, y=Y)


def two_parts(folder: Path) -> None:
    np.savez(folder / "train-and-test.npz", X=X, y=Y)


def large_integers(folder: Path) -> None:
    write_pair(folder, np.where(X == 77, 2**53 + 1, X).astype(np.int64))


def lists_of_two_lengths(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    values = [row.tolist() for row in X[..., 0]]
    values[13] = values[13][:2]
    parquet.write_table(pa.table({"values": values, "label": Y.tolist()}), folder / "all.parquet", row_group_size=10)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (nan_in, r"X must be finite, got nan in row 7 of .*shard-1\.npz, at step 2, channel 1"),
        (nan_in_row_group, r"X must be finite, got nan in row 7 of .*part-1\.parquet, at step 2, channel 1"),
        (mixed_types, r"X of .*shard-3\.npz must hold float32, as shard-0\.npz does, got float64"),
        (mixed_shapes, r"X of .*shard-3\.npz must have sequences of shape \(4, 2\)"),
        (unequal_counts, r"X\.npy must have 30 labels, one for each row of X, got 29"),
        (objects, r"X must be a plain array, got an object array in .*X\.npy"),
        (cut_short, r"X\.npy must be a complete NumPy file"),
        (fortran, r"X\.npy must be in C order"),
        (step_labels, r"y must have shape \(n,\) or \(n, targets\)"),
        (two_kinds, r"must hold files of one kind, got \.npy and \.npz"),
        (no_labels, r"must hold X\.npy and y\.npy, got no y\.npy"),
        (unnamed_part, r"got 'more\.npz' next to 'test-0\.npz'"),
        (two_parts, r"must be of one part of the data, got train and test"),
        (large_integers, r"X must be within .* of .*X\.npy"),
        (lists_of_two_lengths, r"lists of one length, got another one or none in row 13"),
    ],
)
def test_faults_are_named_before_any_work(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_dataset(f"{tmp_path}/")


def test_an_object_array_is_not_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "opened",)  # type: ignore[return-value]

    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", np.array([Trap()] * 30, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="y must be a plain array"):
        load_dataset(f"{tmp_path}/")
    assert not (tmp_path / "opened").exists()


def test_options_that_do_not_apply_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path)
    with pytest.raises(ValueError, match="label_column"):
        load_dataset(f"{tmp_path}/", label_column=1)


def test_large_row_groups_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisyrnn.data.shards.WINDOW", 20)
    write_compressed(tmp_path)
    with pytest.raises(ValueError, match=r"shard-0\.npz must hold at most .* MiB that are decoded together"):
        load_dataset(f"{tmp_path}/")


@pytest.mark.parametrize("write", WRITERS)
def test_sequences_for_predictions_need_no_labels(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path)
    found = read_inputs(f"{tmp_path}/")
    assert isinstance(found.inputs, StoredSequences) and found.lengths is None and found.names is None
    assert np.array_equal(found.inputs[:], X)
    if write is write_pair:
        (tmp_path / "y.npy").unlink()
        assert np.array_equal(read_inputs(f"{tmp_path}/", ReadingOptions()).inputs[:], X)
        np.save(tmp_path / "X_test.npy", X)
        with pytest.raises(ValueError, match=re.escape("data must hold the sequences to label")):
            read_inputs(f"{tmp_path}/")


def frames(folder: Path, *tables: dict[str, Any], names: tuple[str, ...] = ("a", "b", "c")) -> str:
    import pandas

    for name, table in zip(names, tables, strict=False):
        pandas.DataFrame(table).to_parquet(folder / f"{name}.parquet", row_group_size=4)
    return f"{folder}/"


NOISE = np.random.default_rng(0).normal(size=X.shape)
STEPS = {f"t{k}": NOISE[:, k, 0] for k in range(4)}
"""Columns of one channel."""
SERIES = {f"{name}_{step}": NOISE[:, step, channel] for channel, name in enumerate("uv") for step in range(4)}
"""Columns of two channels."""


def rows(table: dict[str, np.ndarray], part: slice, *, turned: bool = False) -> dict[str, Any]:
    """Some rows of a table with labels, its columns turned round or not."""
    columns = {**{name: values[part] for name, values in table.items()}, "label": Y[part]}
    return dict(reversed(columns.items())) if turned else columns


@pytest.mark.parametrize("options", [{}, {"label_column": -1}])
@pytest.mark.parametrize("names", [("a", "b"), ("train", "test")])
def test_columns_of_shards_are_matched_by_name(names: tuple[str, str], options: dict[str, Any], tmp_path: Path) -> None:
    first, second = slice(0, 15), slice(15, 30)
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, turned in ((one, False), (other, True)):
        folder.mkdir()
        frames(folder, rows(STEPS, first), rows(STEPS, second, turned=turned), names=names)
    assert everything(load_dataset(f"{one}/", **options)) == everything(load_dataset(f"{other}/", **options))
    foreign = {"u" if name == "t0" else name: values for name, values in rows(STEPS, second).items()}
    frames(other, rows(STEPS, first), foreign, names=names)
    with pytest.raises(
        ValueError, match=rf"{names[1]}\.parquet must have the columns of {names[0]}\.parquet, got none"
    ):
        load_dataset(f"{other}/", **options)
    frames(other, rows(STEPS, first), {**rows(STEPS, second), "t4": 0.5}, names=names)
    with pytest.raises(ValueError, match=r"got unknown 't4'\. Write the same columns to all files"):
        load_dataset(f"{other}/", label_column="label")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({name: STEPS[name] for name in ("t3", "t1", "t0", "t2")}, r"must name the steps of a sequence by increasing"),
        (SERIES, r"got 2 numbered series, .*If they are channels, give layout='time-last'"),
        ({**STEPS, "time": X[:, 0, 0]}, r"by numbers, got a column 'time'\. Leave it out with drop='time'"),
        ({"index": np.arange(30), **STEPS}, r"one that is called 'index', as pandas calls its index"),
        ({**STEPS, "patient_id": np.arange(30)}, r"got a column 'patient_id'"),
        ({**STEPS, "t4": np.arange(30)}, r"column 5, got another whole number in each line.*drop=5"),
    ],
    ids=["order", "series", "time", "index", "id", "line number"],
)
def test_shards_follow_the_rules_of_tables(table: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    """The same rule and the same message as for one file."""
    folder = frames(tmp_path, rows(table, slice(0, 30)))
    with pytest.raises(ValueError, match=message) as of_folder:
        load_dataset(folder)
    with pytest.raises(ValueError, match=message) as of_file:
        load_dataset(str(tmp_path / "a.parquet"))
    assert str(of_folder.value) == str(of_file.value)


@pytest.mark.parametrize("layout", ["time-last", "channels-last"])
def test_numbered_series_of_shards_are_channels(layout: str, tmp_path: Path) -> None:
    folder = frames(tmp_path, rows(SERIES, slice(0, 15)), rows(SERIES, slice(15, 30), turned=True))
    dataset = load_dataset(folder, layout=layout)
    assert dataset.channel_names == ("u", "v") and dataset.steps == 4
    found = read_inputs(folder, ReadingOptions(layout=layout))
    assert np.array_equal(found.inputs[:], NOISE)
    turned = read_inputs(folder, ReadingOptions(layout=layout), channels=("v", "u"))
    assert np.array_equal(turned.inputs[:], NOISE[..., ::-1])
    with pytest.raises(ValueError, match=r"got none called 'w' and unknown 'v'\."):
        read_inputs(folder, ReadingOptions(layout=layout), channels=("u", "w"))
    assert load_dataset(folder, layout="one-channel").train.inputs.shape[1:] == (8, 1)


def test_a_file_with_a_line_number_is_predicted_with_a_warning(tmp_path: Path) -> None:
    folder = frames(tmp_path, {**STEPS, "t4": np.arange(30)})
    with pytest.warns(UserWarning, match=r"another whole number in each line"):
        assert read_inputs(folder).inputs.shape == (30, 5, 1)


def test_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    for name, part in (("a.NPZ", slice(0, 15)), ("b.npz", slice(15, 30))):
        with (tmp_path / name).open("wb") as file:
            np.savez(file, X=X[part], y=Y[part])
    assert np.array_equal(read_inputs(f"{tmp_path}/").inputs[:], X)
    assert len(everything(load_dataset(f"{tmp_path}/"))) == 30


def test_a_folder_knows_the_names_of_arrays_that_a_file_does(tmp_path: Path) -> None:
    np.save(tmp_path / "signals.npy", X)
    np.save(tmp_path / "classlabels.npy", Y)
    plain = tmp_path / "plain"
    plain.mkdir()
    write_pair(plain)
    assert everything(load_dataset(f"{tmp_path}/")) == everything(load_dataset(f"{plain}/"))


def test_arrays_that_are_not_read_are_named(tmp_path: Path) -> None:
    pair, shards, full = (tmp_path / name for name in ("pair", "shards", "full"))
    for folder in (pair, shards, full):
        folder.mkdir()
    write_pair(pair)
    np.save(pair / "ids.npy", Y)
    np.savez(shards / "a.npz", X=X, y=Y, mask=np.ones((30, 4)), ids=Y)
    for folder, names in ((pair, "ids.npy"), (shards, "ids, mask")):
        with pytest.warns(UserWarning, match=rf"^Arrays {names} of {folder.name} are not read, only X, y and lengths"):
            load_dataset(f"{folder}/")
    write_npz(full)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(f"{full}/")
        read_inputs(f"{pair}/")


def test_lengths_of_one_part_only_are_named(tmp_path: Path) -> None:
    for part in ("train", "test"):
        np.save(tmp_path / f"X_{part}.npy", X)
        np.save(tmp_path / f"y_{part}.npy", Y)
    np.save(tmp_path / "lengths_train.npy", np.full(30, 3))
    with pytest.warns(UserWarning, match=r"holds lengths of the training data and none of the test data"):
        load_dataset(f"{tmp_path}/")


def test_labels_with_and_without_a_sign_are_joined_exactly(tmp_path: Path) -> None:
    large = np.array([2**53, 2**53 + 1])[np.arange(30) % 2]
    np.savez(tmp_path / "a.npz", X=X[:15], y=large[:15])
    np.savez(tmp_path / "b.npz", X=X[15:], y=large[15:].astype(np.uint64))
    dataset = load_dataset(f"{tmp_path}/")
    assert dataset.class_names == (f"{2**53}", f"{2**53 + 1}")
    assert {first: int(name) for first, (name, _) in everything(dataset).items()} == dict(
        zip(X[:, 0, 0].tolist(), large.tolist(), strict=True)
    )
    np.savez(tmp_path / "a.npz", X=X[:15], y=np.where(Y[:15] == "up", -1, 1))
    np.savez(tmp_path / "b.npz", X=X[15:], y=np.full(15, 2**63, dtype=np.uint64))
    with pytest.raises(ValueError, match=r"^y must hold integers of one type, got some below 0 and some of 2⁶³"):
        load_dataset(f"{tmp_path}/")
