import re
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
