from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noisyrnn.data import Dataset, load_dataset
from noisyrnn.data.delimited import is_header, read_delimited
from noisyrnn.data.inputs import read_inputs
from noisyrnn.data.labels import text_labels
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.parts import Cases
from noisyrnn.data.table import read_wide
from noisyrnn.data.user_files import read_table


def read_csv(path: Path, label_column: str | int | None = None, **others: Any) -> Cases:
    options = ReadingOptions(label_column=label_column, **others)
    return read_wide(read_delimited(path, options), options)


def everything(dataset: Dataset) -> dict[float, str]:
    """First value of each sequence -> its class, over all three parts."""
    return {
        float(row[0, 0]): dataset.class_names[label]
        for part in (dataset.train, dataset.validation, dataset.test)
        for row, label in zip(part.inputs, part.labels.tolist(), strict=True)
    }


def csv(path: Path, text: str) -> str:
    (path / "own.csv").write_text(text)
    return str(path / "own.csv")


OWN = r"Each line must be its class and then its values; leave columns out with drop \(--drop\), or leave the line out"
FILL = r"Fill the value in, or leave the line out\.$"
ACCEPT = r"Give missing='hold' \(--missing hold\), or 'mask' or 'skip', to accept missing values\. Or fill the value in"
ROWS = "".join(f"{'ab'[i % 2]},{i}.5,2,{'' if i % 2 else 3}\n" for i in range(10))


@pytest.mark.parametrize("header", ["", "class,x1,x2,x3\n", "label,0,1,2\n", "label,1,2,3\n"])
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
            r"^Line 11 of .* must hold finite numbers, got '' in column 3\. " + ACCEPT,
        ),
        (
            ROWS + "a,nan,2\n",
            r"^Line 11 of .* must hold finite numbers, got 'nan' in column 2\. " + ACCEPT,
        ),
        (
            ROWS + "a,,\n",
            r"^Line 11 of .* must hold a class and at least one value, got 'a' and 0 values\. " + OWN,
        ),
        (
            ROWS + ",1,2\n",
            r"^Line 11 of .* must hold a class and at least one value, got '' and 2 values\. " + FILL,
        ),
        (ROWS + "a;1;2\n", r"got 'a;1;2' and 0 values\. Separate values with commas\.$"),
        (ROWS + "a,1;2\n", r"got '1;2' in column 2\. Separate values with commas\.$"),
        (ROWS + 'a,"-0,334",1\n', r"got '-0,334' in column 2\. If the numbers have decimal commas, give decimal=',' "),
        (ROWS + 'a,"1,2\n', r"^Line 11 of .* must be cells between commas, .* Close every quotation mark in its line"),
        ('"a,1\n' + ROWS + 'b",1\n', r"^Line 1 of .* \(a quoted cell continues in the next line\)\."),
        (ROWS + "a,1_5\n", r"got '1_5' in column 2\."),
        (ROWS + "a,\u0661\n", r"got '\u0661' in column 2\."),
        (ROWS + "a,infinity\n", r"got 'infinity' in column 2\. " + FILL),
        (ROWS + "a,0x10\n", r"got '0x10' in column 2\."),
        (ROWS + "a,1e400\n", r"got '1e400' in column 2\."),
        ("a,0,0.5\na,1,2\na,2,2\n", r"^y must hold at least two classes, got 1 \('a'\)\.$"),
    ],
)
def test_a_malformed_csv_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_dataset(csv(tmp_path, text))


@pytest.mark.parametrize(
    ("first", "others", "header"),
    [
        ("class,x,y", "a,1,2", True),
        ("class,0,1", "a,1,2", True),
        (",0,1,class", "7,1,2,a", True),
        ("0,1,2", "3,0.5,2.0", True),
        (",0,1", "3,0.5,2", True),
        ("0,1,2", "3,0.5,2", None),
        ("1,2,3", "3,0.5,2.0", None),
        ("b,0,1", "a,0.5,2.0", None),
        ("0,1,2", "3,5,2", False),
        ("a,x,2", "a,1,2", False),
        ("a,NA,2", "b,1,2", False),
        ("a,NA,NA", "b,1,2", False),
        ("b,x,y", "b,1,2", False),
        ("0,x,y,z", "0,1,2,3", False),
        ("0,x", "0,1", False),
        ("a,1,x", "b,1,2", False),
        ("a;x", "b;1", False),
    ],
)
def test_a_header_is_a_line_that_cannot_be_data(first: str, others: str, header: bool | None):
    rows = [(line, text.split(",")) for line, text in enumerate((first, others, others), start=1)]
    assert is_header(rows) is header


def test_a_bad_cell_in_the_first_line_is_refused_as_in_the_second(tmp_path: Path):
    lines = [f"{'ab'[i % 2]},{i},{i + 1},{i + 2}" for i in range(30)]
    lines[0] = lines[0].replace(",1,", ",NA,")
    for first in (0, 1):
        lines[0], lines[first] = lines[first], lines[0]
        with pytest.raises(
            ValueError, match=rf"^Line {first + 1} of .* must hold finite numbers, got 'NA' in column 3"
        ):
            load_dataset(csv(tmp_path, "\n".join(lines)))


rng = np.random.default_rng(0)
N = 60
Y = np.arange(N) % 3
V = rng.normal(size=(N, 4)).round(1)
NAMES = ["t0", "t1", "t2", "t3"]


def table(*columns: Any, header: list[str] | None = None) -> str:
    cells = np.column_stack([np.asarray(column, dtype=object).reshape(N, -1) for column in columns])
    lines = [",".join(map(str, row)) for row in cells]
    return "\n".join(lines if header is None else [",".join(header), *lines])


@pytest.mark.parametrize(
    ("text", "option"),
    [
        (table(V, Y), -1),
        (table(V, Y), "5"),
        (table(V, Y, header=[*NAMES, "kind"]), "kind"),
        (table(V, Y, header=[*NAMES, "kind"]), 5),
        (table(V, Y, header=[*NAMES, "Class"]), None),
        (table(V, Y, header=["0", "1", "2", "3", "label"]), None),
        (table(V[:, :2], Y, V[:, 2:]), 3),
        (table(Y, V), None),
        (table(Y, V), 1),
    ],
)
def test_the_class_can_be_in_any_column(tmp_path: Path, text: str, option: str | int | None):
    dataset = load_dataset(csv(tmp_path, text), label_column=option)
    parts = (dataset.train, dataset.validation, dataset.test)
    found = {
        tuple(row.flatten().tolist()): int(k) for part in parts for row, k in zip(part.inputs, part.labels, strict=True)
    }
    assert found == {tuple(row): k for row, k in zip(V.tolist(), Y.tolist(), strict=True)}


IMPLAUSIBLE = r".* give label_column \(--label-column NAME or NUMBER, from 1, or -1 for the last\)\."


def test_a_column_that_counts_the_lines_is_noted_where_the_class_column_is_given(tmp_path: Path):
    path = Path(csv(tmp_path, table(np.arange(N), V, Y)))
    with pytest.warns(UserWarning, match=r"in column 1, .* It is read as a value of the sequence\. If it is none: "):
        assert read_csv(path, -1).inputs.shape[1] == V.shape[1] + 1


@pytest.mark.parametrize("label_column", [None, "class", "kind", 2, -1])
@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_the_index_that_pandas_writes_is_never_a_value(tmp_path: Path, name: str, label_column: str | int | None):
    rows = [f"{index},a,0.5,{index}" for index in (7, 2, 5)]  # too few to count, and not in order
    path = Path(csv(tmp_path, "\n".join([f"{name},{'kind' if label_column == 'kind' else 'class'},0,1", *rows])))
    with pytest.raises(ValueError, match=rf"column 1, got one that is called '{name}', .* index=False\)\.$"):
        read_csv(path, label_column)


def test_an_empty_first_name_over_the_class_is_read(tmp_path: Path):
    assert len(read_csv(Path(csv(tmp_path, ",0,1\na,1.5,2\nb,2.5,3\n"))).labels) == 2


def test_a_header_with_two_columns_of_classes_is_refused(tmp_path: Path):
    path = Path(csv(tmp_path, "class,label,t0,t1\n1,7,0.5,0.25\n2,8,0.5,0.75\n"))
    with pytest.raises(ValueError, match=r"one column of classes, got a header with 2: 'class', 'label'\. Remove"):
        read_csv(path)
    with pytest.raises(
        ValueError, match=r"numbers, got a column 'class'\. Leave it out with drop='class' \(--drop class\);"
    ):
        read_csv(path, "label")
    assert read_csv(path, "label", drop="class").inputs[0].flatten().tolist() == [0.5, 0.25]
    path = Path(csv(tmp_path, "x,y,z,class\n1,7,0.5,a\n2,8,0.5,b\n"))  # y is a co-ordinate
    assert [str(label) for label in read_csv(path, layout="one-channel").labels] == ["a", "b"]


@pytest.mark.parametrize("bad", ["#N/A", "#DIV/0!", "-", "--", "<NA>", "NaT", "missing"])
def test_a_first_line_of_bad_values_and_a_new_class_is_no_header(tmp_path: Path, bad: str):
    path = Path(csv(tmp_path, f"c,{bad},{bad},{bad}\na,0.5,1,2\nb,0.5,1,2\n"))
    with pytest.raises(ValueError, match=f"^Line 1 of .* must hold finite numbers, got '{bad}' in column 2"):
        read_csv(path)


@pytest.mark.parametrize("text", ["A;0,5\nA;0,75\nB;1,5\n", "A\t0,5\nB\t0,75\n", "A;0,5;0,75\n"])
def test_a_decimal_comma_is_not_a_separator(tmp_path: Path, text: str):
    with pytest.raises(
        ValueError, match=r"one separator, got lines with commas and .* and decimal=',' \(--decimal ','\), or "
    ):
        read_csv(Path(csv(tmp_path, text)))


@pytest.mark.parametrize("value", ["9007199254740993", "-9007199254740993", "1700000000000000001", "0" * 20 + "9" * 17])
def test_an_integer_that_float64_rounds_is_refused(tmp_path: Path, value: str):
    path = Path(csv(tmp_path, f"a,0.5,1\nb,0.5,{value}\n"))
    with pytest.raises(
        ValueError, match=f"^Line 2 of .* float64 represents exactly, got '{value}' in column 3. Subtract a"
    ):
        read_csv(path)
    assert read_csv(Path(csv(tmp_path, "a,9007199254740994\nb,1e23\n"))).inputs.flatten().tolist() == [2**53 + 2, 1e23]


def test_a_value_beyond_float64_is_refused_with_its_remedy(tmp_path: Path):
    with pytest.raises(ValueError, match=r"got '1e400' in column 3\. Give the values in a larger unit\.$"):
        read_csv(Path(csv(tmp_path, "a,0.5,1e400\n")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (table(rng.permutation(N) + 0.5, V, Y), "must hold the class of each sequence in column 1, got 60 diff"),
        (table(np.arange(N), Y, V), "must hold the class of each sequence in column 1, got 60 different"),
        (table(V, Y), "values of a sequence in its last column, got whole numbers there, only 3 different"),
        (table(Y, np.arange(N), V), "values of a sequence in column 2, got another whole number in each line"),
        (table(Y, np.arange(N) + 0.0, V), "values of a sequence in column 2, got another whole number in each line"),
        (table(Y, rng.permutation(999)[:N], V), "values of a sequence in column 2, got another whole number in"),
        (table(Y, rng.permutation(N), (V * 10).astype(int)), "column 2, got another whole number in each line"),
        (table(Y[np.arange(N) // 10], np.arange(N) % 10, V[:, 0]), "a column 2 that counts up again and again"),
        (table(np.arange(N) // 10, np.arange(N) % 10 / 8, V[:, 0], Y), "last column|a column 2 that counts up again"),
    ],
)
def test_an_implausible_table_is_refused_with_the_option_that_decides(tmp_path: Path, text: str, message: str):
    path = csv(tmp_path, text)
    with pytest.raises(ValueError, match=f"({message}){IMPLAUSIBLE}"):
        load_dataset(path)
    assert len(read_csv(Path(path), 1).labels) == N  # the option decides


def test_a_counting_column_next_to_a_named_class_is_refused(tmp_path: Path):
    path = csv(tmp_path, table(np.arange(N), V, Y, header=["0", *"1234", "class"]))
    with pytest.raises(ValueError, match=f"in column 1, got another whole number .* drop=1 .--drop 1.;{IMPLAUSIBLE}"):
        load_dataset(path)
    assert load_dataset(path, drop=1).steps == 4


@pytest.mark.parametrize(
    "text",
    [
        table(Y, (V * 10).astype(int)),
        table(Y, V, np.zeros(N)),
        table(np.array(list("abc"))[Y], V, rng.integers(3, size=N)),
        table(Y, np.arange(N), np.arange(N) + 1),
    ],
)
def test_what_is_plausible_is_read(tmp_path: Path, text: str):
    assert len(load_dataset(csv(tmp_path, text)).class_names) == 3


def test_a_name_that_is_not_in_the_header_is_refused(tmp_path: Path):
    path = csv(tmp_path, table(V, Y, header=[*NAMES, "kind"]))
    with pytest.raises(ValueError, match=r"^label_column must be the name of one column of .*, got 'kid' and .* 't0'"):
        load_dataset(path, label_column="kid")
    with pytest.raises(
        ValueError, match=r"If it is the class, give label_column='kind' \(--label-column kind\)\. Leave"
    ):
        load_dataset(path)
    with pytest.raises(
        ValueError, match=r"^drop must be a column of .*, which has 5, got 9\. Give a smaller number\.$"
    ):
        load_dataset(path, label_column="kind", drop=9)
    path = csv(tmp_path, table(V, Y))
    with pytest.raises(ValueError, match=r"^Line 1 of .* must hold a class in column 9, got 5 cells\.$"):
        load_dataset(path, label_column=9)
    for wrong in (0, "", "0"):
        with pytest.raises(ValueError, match=r"^label_column must be a name or a number from 1"):
            load_dataset(path, label_column=wrong)
    with pytest.raises(TypeError, match=r"^label_column must be the name or the number of a column, got 1\.5\.$"):
        load_dataset(path, label_column=1.5)  # type: ignore[arg-type]


def test_text_labels_of_one_number_are_noted(tmp_path: Path):
    path = csv(tmp_path, "".join(f"{label},{i}.5\n" for i in range(3) for label in ("1", "1.0", "1_0", "010", "x")))
    with pytest.warns(UserWarning, match=r"^Classes '1' and '1\.0' are equal as numbers but differ as text"):
        dataset = load_dataset(path)
    assert dataset.class_names == ("010", "1", "1.0", "1_0", "x")
    assert read_csv(Path(path)).labels[:2] == text_labels(["1", "1.0"])


def test_numbers_to_predict(tmp_path: Path):
    numbers = np.linspace(-1, 1, N)
    text = table(V, numbers, header=[*NAMES, "target"])
    with pytest.raises(ValueError, match=r"If these are values to predict, give task='regression' "):
        load_dataset(csv(tmp_path, table(numbers, V)))
    dataset = load_dataset(csv(tmp_path, text), task="regression")
    assert dataset.classes == 0 and dataset.outputs == 1 and not dataset.every_step
    found = {
        tuple(row.flatten().tolist()): float(value)
        for part in (dataset.train, dataset.validation, dataset.test)
        for row, value in zip(part.inputs, part.labels, strict=True)
    }
    assert found == {tuple(row): value for row, value in zip(V.tolist(), numbers.tolist(), strict=True)}
    with pytest.raises(ValueError, match=r"^Line 2 of .* must hold a finite number to predict, got 'b'\."):
        load_dataset(csv(tmp_path, "1.5,1,2\nb,2,3\n0.5,1,4\n"), task="regression")


def test_a_misspelt_column_is_answered_with_the_nearest_and_the_last(tmp_path: Path) -> None:
    header = ",".join([*(f"v{k}" for k in range(20)), "Klasse"])
    path = tmp_path / "own.csv"
    path.write_text(f"{header}\n" + "".join(",".join(["1.5"] * 20 + ["ab"[k % 2]]) + "\n" for k in range(8)))
    with pytest.raises(ValueError, match=r"got 'klasse' and .*, 'v19', 'Klasse'\. Did you mean 'Klasse'\? Give the"):
        read_table(read_delimited(path, ReadingOptions()), ReadingOptions(label_column="klasse"))


def test_a_missing_label_is_never_the_last_value(tmp_path: Path):
    rows = [f"{k}.1,0.2,0.3,{k % 2}" for k in range(20)]
    rows[7] = "7.1,0.2,0.3,"
    named = Path(csv(tmp_path, "\n".join(["t0,t1,t2,y", *rows])))
    for column in (-1, 4, "y"):
        for task in ("classification", "regression"):
            with pytest.raises(ValueError, match=r"Line 9 of .* must hold a (class|finite number)"):
                read_csv(named, column, task=task)
    # Unequal lengths, as a spreadsheet pads them, without a header: the last cell that is not empty is the class.
    ragged = read_csv(Path(csv(tmp_path, "0.1,0.2,0.3,1\n0.4,0.5,0,\n0.1,0.2,0.3,0\n")), -1)
    assert (
        ragged.lengths is not None
        and ragged.lengths.tolist() == [3, 2, 3]
        and [label.text for label in ragged.labels] == ["1", "0", "0"]
    )


def test_values_to_predict_stay_whole_where_labels_are_missing(tmp_path: Path):
    rows = [f"{k}.1,0.2,0.3,{'' if k % 2 else 1}" for k in range(6)]
    file = Path(csv(tmp_path, "\n".join(["t0,t1,t2,y", *rows])))
    found = read_inputs(str(file), ReadingOptions(label_column=-1), steps=3)
    assert found.inputs.shape == (6, 3, 1) and found.lengths is None
