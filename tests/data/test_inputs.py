"""Sequences read for predictions, with and without labels."""

import gzip
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noisyrnn.data.delimited import read_delimited
from noisyrnn.data.inputs import UnlabelledSequences, read_inputs
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.parts import Cases
from noisyrnn.data.recordings import read_folder
from noisyrnn.data.user_files import read_table


def read(name: str, *, labelled: bool | None = None, steps: int | None = None, **options: Any) -> Any:
    nominal = 1.0 if "time" in options else None
    found = read_inputs(name, ReadingOptions(**options), labelled=labelled, steps=steps, nominal=nominal)
    return found.inputs, found.lengths


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
    path = write(tmp_path, "@classLabel false\n@data\n1,2\n", "new.ts")
    with pytest.raises(ValueError, match=r"^layout must be None"):
        read(path, layout="time-last")
    with pytest.raises(ValueError, match=r"^data must be a folder or a file ending in"):
        read("digits")
    with pytest.raises(FileNotFoundError, match=r"^data must be an existing file"):
        read(str(tmp_path / "absent.csv"))


def same(found: UnlabelledSequences, cases: Cases) -> bool:
    """Whether sequences are those that training reads."""
    assert (found.lengths is None) == (cases.lengths is None)
    alike = found.lengths is None or torch.equal(found.lengths, torch.as_tensor(cases.lengths))
    return alike and np.array_equal(found.inputs[:], cases.inputs[:], equal_nan=True)


WIDE = "class,t0,t1,t2\nup,1,2.5,3\ndown,4,5,6.5\nup,7,8.5,\n"
CHANNELS = "x_0,x_1,y_0,y_1,class\n1,2,3.5,4,up\n5,6,7,8,down\n"
LONG = "id,t,a,b,class\nr1,0,1,2,up\nr1,1,3,4,up\nr2,0,5,6.5,down\nr3,0,5,6,up\nr3,1,7,8,up\nr3,2,9,9,up\n"


def without(text: str, column: int) -> str:
    """A table without one of its columns."""
    rows = [line.split(",") for line in text.splitlines()]
    return "".join(",".join(row[:column] + row[column + 1 :]) + "\n" for row in rows)


def frame(text: str) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.read_csv(io.StringIO(text))


@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".tsv", ".txt", ".parquet", ".xlsx"])
@pytest.mark.parametrize(
    ("text", "label", "options"),
    [
        (WIDE, 0, {}),
        (CHANNELS, 4, {"layout": "time-last", "label_column": "class"}),
        (LONG, 4, {"id": "id", "time": "t"}),
    ],
    ids=["wide", "channels", "long"],
)
def test_a_table_of_any_format_gives_the_sequences_of_training_with_and_without_labels(
    text: str, label: int, options: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    file = tmp_path / f"labelled{kind}"
    store(text, file)
    plain = tmp_path / "plain.csv"
    plain.write_text(text)
    cases = read_table(read_delimited(plain, ReadingOptions(**options)), ReadingOptions(**options))
    nominal = 1.0 if "time" in options else None
    assert same(read_inputs(str(file), ReadingOptions(**options), nominal=nominal), cases)
    bare = tmp_path / f"bare{kind}"
    store(without(text, label), bare)
    labelled = False if kind == ".txt" else None
    found = read_inputs(str(bare), ReadingOptions(**options), labelled=labelled, steps=3, nominal=nominal)
    assert same(found, cases)
    assert found.names == (("r1", "r2", "r3") if "id" in options else None)


def store(text: str, file: Path) -> None:
    """Write a table in the format that the name of the file states."""
    if file.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        frame(text).to_parquet(file)
    elif file.suffix == ".xlsx":
        pytest.importorskip("openpyxl")
        frame(text).to_excel(file, index=False)
    elif file.suffix == ".gz":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text.replace(",", "," if file.suffix == ".csv" else "\t"))


def test_a_label_column_by_its_number_in_the_long_format_needs_labelled(tmp_path: Path) -> None:
    path = write(tmp_path, LONG)
    options = {"id": "id", "time": "t", "label_column": 5}
    with pytest.raises(ValueError, match=r"^labelled must be given"):
        read(path, **options)
    assert read(path, labelled=True, **options)[0].shape == (3, 3, 2)
    assert read(write(tmp_path, without(LONG, 4), "bare.csv"), labelled=False, **options)[0].shape == (3, 3, 2)


def test_a_folder_of_recordings_needs_no_classes(tmp_path: Path) -> None:
    for number, name in enumerate(("b/2.csv", "a/1.csv", "a/3.csv")):
        file = tmp_path / "rec" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"x,y\n{number}.5,2\n3,{number}\n")
    found = read_inputs(str(tmp_path / "rec"))
    assert found.names == ("a/1.csv", "a/3.csv", "b/2.csv")
    assert found.inputs[:, 0, 0].tolist() == [1.5, 2.5, 0.5]
    assert same(found, read_folder(tmp_path / "rec", ReadingOptions()))
    (tmp_path / "rec" / "labels.csv").write_text("file,class\n")  # is not read
    assert read_inputs(str(tmp_path / "rec")).names == found.names


def test_npy_files_of_any_name(tmp_path: Path) -> None:
    X = np.arange(24.0).reshape(2, 3, 4)
    for name in ("X.npy", "new.npy"):
        np.save(tmp_path / name, X)
        assert torch.equal(read(str(tmp_path / name))[0], torch.from_numpy(X))
    np.save(tmp_path / "lengths.npy", np.array([3, 1]))
    assert read(str(tmp_path / "X.npy"))[1].tolist() == [3, 1]
    assert read(str(tmp_path / "new.npy"))[1] is None


ARFF = "@relation r\n@attribute t0 numeric\n@attribute t1 numeric\n{label}@data\n1,2.5{0}\n4,5{1}\n"


def test_an_arff_file_with_a_class_without_one_and_with_unknown_ones(tmp_path: Path) -> None:
    label = "@attribute class {up,down}\n"
    for cells in ((",up", ",down"), (",?", ",?"), ("", "")):
        text = ARFF.format(*cells, label=label if cells[0] else "")
        assert read(write(tmp_path, text, "new.arff"))[0].squeeze(-1).tolist() == [[1, 2.5], [4, 5]]


def test_times_of_recordings_become_step_lengths(tmp_path: Path) -> None:
    for name, times in (("1.csv", (0, 1, 3)), ("2.csv", (4, 6))):
        (tmp_path / name).write_text("t,x\n" + "".join(f"{time},{time + 0.5}\n" for time in times))
    options = ReadingOptions(time="t")
    found = read_inputs(str(tmp_path), options, nominal=2.0)
    assert found.dt is not None and found.dt.tolist() == [[0.5, 1.0, 1.0], [1.0, 1.0, 1.0]]
    assert found.inputs[:].squeeze(-1).tolist() == [[0.5, 1.5, 3.5], [4.5, 6.5, 0]] and found.names == (
        "1.csv",
        "2.csv",
    )
    with pytest.raises(ValueError, match=r"must hold no times for a model that was trained without"):
        read_inputs(str(tmp_path), options)


GAPS = "class,t0,t1,t2\nup,1,,3\ndown,NA,5,6.5\nup,7,8.5,\n"
CHANNEL_GAPS = "x_0,x_1,y_0,y_1,class\n1,,3.5,4,up\n5,6,7,,down\n"
LONG_GAPS = "id,t,a,b,class\nr1,0,1,,up\nr1,1,3,4,up\nr2,0,NA,6.5,down\nr2,1,5,6,down\n"


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet", ".xlsx"])
@pytest.mark.parametrize(
    ("text", "label", "options"),
    [
        (GAPS, 0, {}),
        (CHANNEL_GAPS, 4, {"layout": "time-last", "label_column": "class"}),
        (LONG_GAPS, 4, {"id": "id", "time": "t"}),
    ],
    ids=["wide", "channels", "long"],
)
def test_missing_values_of_a_table_are_those_of_training(
    text: str, label: int, options: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.csv"
    plain.write_text(text)
    reading = ReadingOptions(missing="hold", **options)
    cases = read_table(read_delimited(plain, reading), reading)
    assert torch.as_tensor(cases.inputs[:]).isnan().sum() == 2
    for name, content in (("labelled", text), ("bare", without(text, label))):
        store(content, tmp_path / f"{name}{kind}")
        found = read_inputs(
            str(tmp_path / f"{name}{kind}"), reading, steps=3, nominal=1.0 if "time" in options else None
        )
        assert same(found, cases)
        with pytest.raises(ValueError, match=r"Train the model with missing='hold'"):
            read_inputs(str(tmp_path / f"{name}{kind}"), ReadingOptions(**options), steps=3)


def test_missing_values_in_arrays_recordings_and_instances(tmp_path: Path) -> None:
    wanted = np.array([[[1.0], [np.nan], [3.0]], [[4.0], [5.0], [np.nan]]])
    np.save(tmp_path / "new.npy", wanted)
    attributes = "".join(f"@attribute t{k} numeric\n" for k in range(3))
    write(tmp_path, f"@relation r\n{attributes}@data\n1,?,3\n4,5,?\n", "new.arff")  # ends in the second one
    (tmp_path / "recordings").mkdir()
    for name, values in (("1.csv", "1,1\nNA,2\n3,4\n"), ("2.csv", "4,1\n5,0\nNA,0\n")):
        write(tmp_path / "recordings", values, name)
    for name, expected in (("new.npy", wanted), ("new.arff", np.nan_to_num(wanted[1:])), ("recordings", wanted)):
        found = read_inputs(str(tmp_path / name), ReadingOptions(missing="hold"))
        assert np.array_equal(found.inputs[-len(expected) :][..., :1], expected, equal_nan=True)
        with pytest.raises(ValueError, match=r"Train the model with missing='hold'"):
            read_inputs(str(tmp_path / name), ReadingOptions())


@pytest.mark.parametrize("label_column", [1, -1])
def test_a_line_without_any_value_has_one_step_if_values_may_be_missing(label_column: int, tmp_path: Path) -> None:
    path = write(tmp_path, "7,1,2\n8,,\n" if label_column == 1 else "1,2,7\n,,8\n")
    inputs, lengths = read(path, missing="hold", labelled=True, label_column=label_column)
    assert lengths is not None and lengths.tolist() == [2, 1]
    assert bool(inputs[1, 0].isnan().all()) and inputs[0].flatten().tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"^Line 2 of .* must hold at least one value, got none"):
        read(path, labelled=True, label_column=label_column)


@pytest.mark.parametrize("names", ["t0,t1,t2,t3", "time,t0,t1,t2"])
def test_a_header_that_names_no_label_is_asked_about(names: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"{names}\n1,2,3,4\n5,6,7,8\n")
    with pytest.raises(
        ValueError, match=r"^labelled must be given for .*, got lines of 4 numbers and training .* of 3"
    ):
        read_inputs(path, ReadingOptions(), steps=3)


def test_times_in_another_unit_than_those_of_training_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, LONG)
    options = ReadingOptions(id="id", time="t")
    for nominal in (0.01, 1000.0):
        with pytest.warns(UserWarning, match=r"^new\.csv: the median distance of its times is 1, and that of the tr"):
            read_inputs(path, options, nominal=nominal)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_inputs(path, options, nominal=20.0)
