"""Missing values in files of every format, and what a data set says of them."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from noisyrnn.data import Dataset, Scale, Split, load_dataset
from noisyrnn.data.inputs import read_inputs
from noisyrnn.data.options import ReadingOptions

NAN = float("nan")
STEPS, COUNT = 5, 20


def wanted() -> np.ndarray:
    """Sequences `(n, steps, 2)`; the first value of each is its number, and some others are missing."""
    values = np.random.default_rng(0).normal(size=(COUNT, STEPS, 2)).round(3)
    values[::3, 1, 0] = np.nan
    values[::4, 2:4] = np.nan
    values[5, :, 1] = np.nan
    values[:, 0, 0] = np.arange(COUNT) + 0.5
    values[:, STEPS - 1, :] = 1.25
    return values


CLASSES = ["ab"[k % 2] for k in range(COUNT)]


def text(value: float, mark: str = "") -> str:
    return mark if np.isnan(value) else repr(float(value))


def csv(folder: Path, mark: str) -> str:
    rows = [
        ",".join([label, *(text(v, mark) for v in row[:, 0])]) for label, row in zip(CLASSES, wanted(), strict=True)
    ]
    (folder / "own.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "own.csv")


def wide_channels(folder: Path) -> str:
    head = ",".join(["class", *(f"x_{k}" for k in range(STEPS)), *(f"y_{k}" for k in range(STEPS))])
    rows = [
        ",".join([label, *(text(v, "NA") for v in row.T.flatten())])
        for label, row in zip(CLASSES, wanted(), strict=True)
    ]
    (folder / "own.csv").write_text("\n".join([head, *rows]) + "\n")
    return str(folder / "own.csv")


def long(folder: Path) -> str:
    rows = ["run,t,x,y,class"]
    for k, sequence in enumerate(wanted()):
        rows += [f"{k},{t},{text(x, '?')},{text(y)},{CLASSES[k]}" for t, (x, y) in enumerate(sequence)]
    (folder / "own.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "own.csv")


def melted(folder: Path) -> str:
    """A line for each value that there is, and one without a value for a time without any."""
    rows = ["run,t,what,v,class"]
    for k, sequence in enumerate(wanted()):
        for t, pair in enumerate(sequence):
            rows += [f"{k},{t},{'xy'[c]},{v},{CLASSES[k]}" for c, v in enumerate(pair) if not np.isnan(v)]
            rows += [f"{k},{t},x,,{CLASSES[k]}"] if np.isnan(pair).all() else []
    (folder / "own.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "own.csv")


def npz(folder: Path) -> str:
    np.savez(folder / "own.npz", X=wanted(), y=CLASSES)
    return str(folder / "own.npz")


def npy(folder: Path) -> str:
    np.save(folder / "X.npy", wanted())
    np.save(folder / "y.npy", np.array(CLASSES))
    return str(folder / "X.npy")


def ts(folder: Path) -> str:
    lines = [
        "@problemName own",
        "@timeStamps false",
        "@univariate false",
        "@dimensions 2",
        "@classLabel true a b",
        "@data",
    ]
    for label, row in zip(CLASSES, wanted(), strict=True):
        lines.append(":".join([*(",".join(text(v, "?") for v in channel) for channel in row.T), label]))
    with gzip.open(folder / "own.ts.gz", "wt") as file:
        file.write("\n".join(lines))
    return str(folder / "own.ts.gz")


def arff(folder: Path) -> str:
    lines = ["@relation own", *(f"@attribute t{k} numeric" for k in range(STEPS)), "@attribute class {a,b}", "@data"]
    for label, row in zip(CLASSES, wanted(), strict=True):
        lines.append(",".join([*(text(v, "?") for v in row[:, 0]), label]))
    (folder / "own.arff").write_text("\n".join(lines) + "\n")
    return str(folder / "own.arff")


def relational(folder: Path) -> str:
    lines = ["@relation own", "@attribute bag relational"]
    lines += [*(f"@attribute t{k} numeric" for k in range(STEPS)), "@end bag", "@attribute class {a,b}", "@data"]
    for label, row in zip(CLASSES, wanted(), strict=True):
        channels = "\\n".join(",".join(text(v, "?") for v in channel) for channel in row.T)
        lines.append(f'"{channels}",{label}')
    (folder / "own.arff").write_text("\n".join(lines) + "\n")
    return str(folder / "own.arff")


def recordings(folder: Path) -> str:
    for k, sequence in enumerate(wanted()):
        (folder / "own" / CLASSES[k]).mkdir(parents=True, exist_ok=True)
        rows = ["x,y", *(f"{text(x, 'NaN')},{text(y, 'NaN')}" for x, y in sequence)]
        (folder / "own" / CLASSES[k] / f"{k}.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "own")


def parquet(folder: Path) -> str:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(wanted()[..., 0], columns=[f"t{k}" for k in range(STEPS)])
    frame.assign(label=CLASSES).to_parquet(folder / "own.parquet")
    return str(folder / "own.parquet")


def excel(folder: Path) -> str:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("openpyxl")
    frame = pandas.DataFrame(wanted()[..., 0], columns=[f"t{k}" for k in range(STEPS)])
    frame.assign(label=CLASSES).to_excel(folder / "own.xlsx", index=False)
    return str(folder / "own.xlsx")


LONG = {"id": "run", "time": "t"}
FILES: dict[str, tuple[Any, dict[str, Any], int]] = {
    "csv, empty": (lambda folder: csv(folder, ""), {}, 1),
    "csv, NA": (lambda folder: csv(folder, "NA"), {}, 1),
    "csv, -": (lambda folder: csv(folder, "-"), {}, 1),
    "csv, channels": (wide_channels, {"layout": "time-last"}, 2),
    "long": (long, LONG, 2),
    "melted": (melted, {**LONG, "channel": "what", "value": "v"}, 2),
    "npz": (npz, {}, 2),
    "npy": (npy, {}, 2),
    "ts": (ts, {}, 2),
    "arff": (arff, {}, 1),
    "arff, relational": (relational, {}, 2),
    "folder": (recordings, {}, 2),
    "parquet": (parquet, {}, 1),
    "excel": (excel, {}, 1),
}


def everything(dataset: Dataset) -> dict[float, Tensor]:
    parts = (dataset.train, dataset.validation, dataset.test)
    return {float(row[0, 0]): row for part in parts for row in part.inputs}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_read_with_the_setting_and_refused_without(kind: str, tmp_path: Path) -> None:
    write, options, channels = FILES[kind]
    name = write(tmp_path)
    if kind == "folder":
        options = {"time": None}
    found = everything(load_dataset(name, missing="mask", **options))
    assert len(found) == COUNT
    for k, expected in enumerate(wanted()[..., :channels]):
        assert np.array_equal(found[k + 0.5].numpy(), expected, equal_nan=True), k
    with pytest.raises(ValueError, match=r"[Gg]ive missing='hold' \(--missing hold\), or 'mask' or 'skip'"):
        load_dataset(name, **options)


def test_infinity_is_not_missing(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("a,1,2,3\nb,4,inf,6\n" * 4)
    with pytest.raises(ValueError, match=r"^Line 2 of .* must hold finite numbers, got 'inf' in column 3\. Fill the"):
        load_dataset(str(tmp_path / "own.csv"), missing="hold")
    np.savez(tmp_path / "own.npz", X=[[1.0, NAN], [np.inf, 2.0]] * 5, y=[0, 1] * 5)
    with pytest.raises(ValueError, match=r"^X must be finite, got 5 NaN or infinite values"):
        load_dataset(str(tmp_path / "own.npz"), missing="hold")


def test_the_end_of_a_sequence_is_not_missing(tmp_path: Path) -> None:
    """UCR's trailing NaN, and a table's trailing empty cells, are the length; NaN before a value is missing."""
    rows = [f"{k % 2 + 1}\t{k}.5\tNaN\t3\t{'NaN' if k % 3 else '4'}\tNaN" for k in range(10)]
    (tmp_path / "own.tsv").write_text("\n".join(rows) + "\n")
    table = [f"{k % 2 + 1},{k}.5,,3,{'' if k % 3 else '4'}," for k in range(10)]
    (tmp_path / "own.csv").write_text("\n".join([*table, "1,1,1,1,1,1"]) + "\n")
    for name in ("own.tsv", "own.csv"):
        dataset = load_dataset(str(tmp_path / name), missing="hold")
        for part in (dataset.train, dataset.validation, dataset.test):
            assert part.lengths is not None
            for row, length in zip(part.inputs.squeeze(2), part.lengths.tolist(), strict=True):
                if float(row[0]) == 1.0:
                    continue
                assert length == (3 if round(float(row[0]) - 0.5) % 3 else 4)
                assert row.isnan().tolist() == [k == 1 for k in range(part.inputs.shape[1])]


def test_a_sequence_without_any_value_has_one_step(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("a,1,2,3\nb,4,5,6\n" * 5 + "a,,,\n")
    dataset = load_dataset(str(tmp_path / "own.csv"), missing="hold")
    found = [
        (row.flatten().tolist(), length)
        for part in (dataset.train, dataset.validation, dataset.test)
        for row, length in zip(part.inputs, part.lengths.tolist() if part.lengths is not None else [], strict=True)
        if bool(row.isnan().any())
    ]
    assert len(found) == 1 and found[0][1] == 1 and found[0][0][1:] == [0.0, 0.0]


def test_the_summary_counts_what_is_missing(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", X=wanted(), y=CLASSES)
    dataset = load_dataset(str(tmp_path / "own.npz"), missing="skip")
    count = int(dataset.train.inputs.isnan().sum())
    first, *table = dataset.summary().splitlines()
    assert first.endswith(f"missing {count} of 120 ({100 * count / 120:.2g} %, skipped)") and count > 0
    assert table[-3].split() == ["channel", "min", "mean", "max", "missing"]
    missing = dataset.train.inputs.isnan().sum(dim=(0, 1)).tolist()
    assert [int(line.split()[-1]) for line in table[-2:]] == missing
    low, high = np.nanmin(dataset.train.inputs), np.nanmax(dataset.train.inputs)
    assert f"values {low:.6g}…{high:.6g}, " in first and "nan" not in first
    assert "missing: " in repr(dataset.train)


def test_a_complete_file_counts_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", X=wanted()[:, ::4, 0], y=CLASSES)
    assert load_dataset(str(tmp_path / "own.npz")).summary().splitlines()[0].endswith("missing 0")


@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_are_of_measured_values_in_float64(weighted: bool) -> None:
    """A channel far from zero keeps its spread; one without any value has mean 0 and standard deviation 1."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 6, 3, generator=generator, dtype=torch.float64)
    inputs[..., 0] += 1e9
    inputs[torch.rand(12, 6, 3, generator=generator) < 0.3] = NAN
    inputs[..., 2] = NAN
    lengths = torch.tensor([6, 2, 3] * 4)
    weights = torch.arange(12.0).double() if weighted else None
    split = Split(
        inputs=inputs, labels=torch.zeros(12).long(), lengths=lengths, weights=weights, missing="hold", classes=2
    )
    dataset = Dataset(
        name="own",
        train=split,
        validation=split,
        read_test=lambda: split,
        class_names=("a", "b"),
        value_range=None,
        standardize=True,
    )
    mean, std = dataset.statistics()
    scale = Scale.of(split)
    for channel in range(2):
        values, shares = [], []
        for row, length in enumerate(lengths.tolist()):
            for step in range(length):
                if not bool(inputs[row, step, channel].isnan()):
                    values.append(float(inputs[row, step, channel]))
                    shares.append(row if weighted else 1)
        right = np.average(values, weights=shares)
        spread = np.sqrt(np.average((np.array(values) - right) ** 2, weights=shares))
        for found in (float(mean[channel]), scale.mean[channel]):
            assert found == pytest.approx(right, rel=1e-12)
        for found in (float(std[channel]), scale.std[channel]):
            assert found == pytest.approx(spread, rel=1e-6)
        assert min(values) <= scale.low[channel] <= right <= scale.high[channel] <= max(values)
    assert (float(mean[2]), float(std[2])) == (0.0, 1.0)
    assert (scale.mean[2], scale.std[2], scale.low[2], scale.high[2]) == (0.0, 0.0, 0.0, 0.0)


def test_padding_is_not_missing_and_a_subset_keeps_the_setting() -> None:
    inputs = torch.tensor([[[1.0], [NAN], [NAN]], [[NAN], [2.0], [3.0]]])
    split = Split(inputs=inputs, labels=torch.tensor([0, 1]), lengths=torch.tensor([2, 3]), missing="mask", classes=2)
    assert split.is_missing().tolist() == [[[False], [True], [False]], [[True], [False], [False]]]
    assert split.inputs[0, 2] == 0 and bool(inputs[0, 2].isnan()), "the user's tensor is left unchanged"
    part = split.subset(torch.tensor([1]))
    assert part.missing == "mask" and torch.equal(part.is_missing(), split.is_missing()[1:])
    arrays = Split.from_arrays([[1.0, NAN], [2.0]], [0, 1], missing="hold")
    assert arrays.missing == "hold" and arrays.is_missing().sum() == 1
    items = [([[1.0], [NAN]], 0), ([[2.0], [3.0]], 1)]
    loaded = Split.from_loader([(torch.tensor(x), torch.tensor(y)) for x, y in items], missing="mask")
    assert loaded.missing == "mask" and loaded.is_missing().sum() == 1


def test_settings_that_a_split_cannot_have() -> None:
    inputs = torch.tensor([[[1.0], [NAN]]])
    with pytest.raises(ValueError, match=r"^missing must be one of hold, mask, skip, got 'drop'\.$"):
        Split(inputs=inputs, labels=torch.tensor([0]), missing="drop", classes=2)
    with pytest.raises(ValueError, match=r"^missing must be 'mask' or 'hold' for labels at every step, got 'skip'\."):
        Split(inputs=inputs, labels=torch.tensor([[0, 1]]), missing="skip", classes=2)
    with pytest.raises(ValueError, match=r"^missing must be one of hold, mask, skip, got 'x'\.$"):
        ReadingOptions(missing="x")


def test_a_data_set_with_a_name_can_have_the_setting() -> None:
    """For its missing values, if it had some, and for a model that is to meet them as a perturbation."""
    plain, dataset = load_dataset("digits"), load_dataset("digits", missing="mask")
    assert (plain.missing, dataset.missing, dataset.test.missing) == (None, "mask", "mask")
    assert torch.equal(plain.train.inputs, dataset.train.inputs)
    assert dataset.fingerprint() == {**plain.fingerprint(), "missing": "mask"}


def test_an_archive_set_with_missing_values(tmp_path: Path) -> None:
    for part in ("TRAIN", "TEST"):
        Path(ts(tmp_path)).rename(tmp_path / f"OwnSet_{part}.ts.gz")
    with pytest.raises(ValueError, match=r"got '\?'\. Give missing='hold'"):
        load_dataset("OwnSet", data_dir=tmp_path)
    dataset = load_dataset("OwnSet", data_dir=tmp_path, missing="hold")
    assert (
        int(dataset.train.is_missing().sum()) > 0 and int(dataset.test.is_missing().sum()) == np.isnan(wanted()).sum()
    )


def test_predictions_read_the_same_sequences(tmp_path: Path) -> None:
    for name, options in (
        (csv(tmp_path, "NA"), {"labelled": True}),
        (npz(tmp_path), {}),
        (ts(tmp_path), {}),
    ):
        found = read_inputs(name, ReadingOptions(missing="hold"), **options)
        expected = wanted()[..., : found.inputs.shape[2]]
        assert np.array_equal(found.inputs[:], expected, equal_nan=True)
        assert found.lengths is None and found.dt is None
        with pytest.raises(ValueError, match=r"Train the model with missing='hold'"):
            read_inputs(name, ReadingOptions(), **options)


def test_predictions_read_times_in_the_unit_of_training(tmp_path: Path) -> None:
    lines = ["@problemName own", "@timeStamps true", "@univariate true", "@classLabel false", "@data"]
    (tmp_path / "new.ts").write_text("\n".join([*lines, "(0,1),(2,2),(8,3)", "(1,4),(3,5)"]) + "\n")
    found = read_inputs(str(tmp_path / "new.ts"), nominal=4.0)
    assert found.inputs[:].squeeze(2).tolist() == [[1, 2, 3], [4, 5, 0]]
    assert found.lengths is not None and found.dt is not None
    assert (found.lengths.tolist(), found.dt.tolist()) == ([3, 2], [[0.5, 1.5, 1.0], [0.5, 1.0, 1.0]])
    with pytest.raises(ValueError, match=r"must hold no times for a model that was trained without, got times\."):
        read_inputs(str(tmp_path / "new.ts"))
    (tmp_path / "plain.ts").write_text("\n".join([*lines, "1,2,3"]).replace("true\n@u", "false\n@u") + "\n")
    with pytest.warns(UserWarning, match=r"plain\.ts holds no times: its steps are read as equally long\.$"):
        assert read_inputs(str(tmp_path / "plain.ts"), nominal=4.0).dt is None


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("melt", [True, False])
def test_predictions_read_long_tables(labelled: bool, melt: bool, tmp_path: Path) -> None:
    options = {**LONG, "channel": "what", "value": "v"} if melt else LONG
    name = melted(tmp_path) if melt else long(tmp_path)
    if not labelled:
        lines = Path(name).read_text().splitlines()
        Path(name).write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    reading = ReadingOptions(missing="hold", **options)
    found = read_inputs(name, reading, labelled=labelled or None if melt else labelled, nominal=0.5)
    assert np.array_equal(found.inputs[:], wanted(), equal_nan=True) and found.lengths is None
    assert found.dt is not None and found.dt[:, :-1].unique().tolist() == [2.0]
