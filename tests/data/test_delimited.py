import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noisyrnn.data.delimited import Table, read_delimited
from noisyrnn.data.options import ReadingOptions


def cells(path: Path, text: str, **options: str) -> list[list[str]]:
    path.write_text(text)
    return [row for _, row in read_delimited(path, ReadingOptions(**options)).rows]


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("a.csv", "a;0.5;1\nb;1.5;2\n", [["a", "0.5", "1"], ["b", "1.5", "2"]]),
        ("a.csv", "k;x1\na;0,5\nb;1,25\n", [["k", "x1"], ["a", "0.5"], ["b", "1.25"]]),
        ("a.csv", "a|1|2\n\nb|3|4\r\n", [["a", "1", "2"], ["b", "3", "4"]]),
        ("a.csv", 'a,"1,5",2\n', [["a", "1.5", "2"]]),
        ("a.tsv", "a, b\t0,5\nc, d\t1,5\n", [["a, b", "0.5"], ["c, d", "1.5"]]),
        ("a.txt", " 1  2.5e0   3\n 2  1.5\n", [["1", "2.5e0", "3"], ["2", "1.5"]]),
        ("a.csv", "a;1;\nb;2;\n", [["a", "1"], ["b", "2"]]),
        ("a.csv", "a;1;\nb;2;3\n", [["a", "1", ""], ["b", "2", "3"]]),
        ("a.csv", "# x y\n#\n% z\na,1\n", [["a", "1"]]),
        ("a.csv", "#1,2\na,1\n", [["#1", "2"], ["a", "1"]]),
        ("a.csv", "a\vb,1\n", [["a\vb", "1"]]),
        ("a.csv", "sep=|\na|1,5\n", [["a", "1.5"]]),
        ("a.csv", "k;x1\na;0,5\nb;1.5\n", [["k", "x1"], ["a", "0,5"], ["b", "1.5"]]),
    ],
)
def test_the_separator_that_every_line_has(tmp_path: Path, name: str, text: str, rows: list[list[str]]) -> None:
    assert cells(tmp_path / name, text) == rows


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "a;0,5\nb;1,5\n",
            r"commas and semicolons: line 1 is 'a;0,5'\. Give separator=';' .* or separator=','",
        ),
        ("a.csv", "1,5\n2,5\n", r"such as '1,5': two cells, or one number with a decimal comma\. Give separator=',' "),
        ("a.csv", "k;x1\na;1,234\nb;1,500\n", r"^Line 2 of .* got '1,234'\. If the comma is .*decimal=',' "),
        ("a.csv", "made\nby\na;1;2\nb;1;2\n" * 1 + "c;1;2\n", r"semicolons from line 3 only\. .* skip_lines='1-2' "),
        ("a.csv", "made\na,1,2\nb,1,2\n", r"commas from line 2 only\. .* skip_lines='1' \(--skip-lines 1\)"),
        ("a.csv", "a,1\n\0,2\n", r"must be text, got a zero byte\. Give encoding='utf-16' \(--encoding utf-16\)"),
    ],
)
def test_a_file_with_two_readings_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cells(tmp_path / name, text)


def test_decimal_commas_leave_no_point(tmp_path: Path) -> None:
    options = {"separator": ";", "decimal": ","}
    assert cells(tmp_path / "a.csv", "a;-0,5;1e3;,5;x,y\n", **options) == [["a", "-0.5", "1e3", ".5", "x,y"]]
    for cell in ("1.5", "1.234", "1.234.567"):
        with pytest.raises(ValueError, match=rf"^Line 1 of .* with decimal commas, as decimal states, got '{cell}'"):
            cells(tmp_path / "a.csv", f"a;{cell}\n", **options)


def test_lines_that_are_left_out_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x;y\n\na,1\nb,2\n")
    assert read_delimited(tmp_path / "a.csv", ReadingOptions(skip_lines="1")).rows == [(3, ["a", "1"]), (4, ["b", "2"])]


NAMES = [(2, "a"), (3, "NA"), (4, "b"), (5, "?"), (6, "nan")]


def test_a_missing_name_is_refused_with_the_lines_to_leave_out() -> None:
    table = Table(path=Path("own.csv"), rows=[])
    message = r"^Line 3 of own.csv must name a class, got 'NA', .* skip_lines='3,5-6' \(--skip-lines '3,5-6'\)"
    with pytest.raises(ValueError, match=message):
        table.check_names("class", NAMES)
    many = [(line, "NA") for line in range(2, 100, 2)]
    with pytest.raises(ValueError, match=r"skip_lines='2,4,.*,40' .* and so on, 49 lines in all"):
        table.check_names("class", many)
    with pytest.raises(ValueError, match=r"or remove the instances from the file; if it is a name"):
        replace(table, unit="Instance", can_skip=False).check_names("class", NAMES)
    with pytest.raises(ValueError, match=r"^Line 7 of own.csv must name a group, got 'none'"):
        table.check_names("group", [(2, "a"), (7, "none")], sure=True)
    with pytest.warns(UserWarning, match=r"^Groups 'p1' and 'P1' differ only in case, .* different groups\."):
        table.check_names("group", [(2, "p1"), (3, "P1"), (4, "p2")], sure=True)


def test_a_word_that_may_be_a_name_is_a_name_with_a_warning() -> None:
    table = Table(path=Path("own.csv"), rows=[])
    for word in ("none", "null", "-"):
        with pytest.warns(UserWarning, match=rf"^own.csv: '{word}' is read as a class\. .* skip_lines='3'"):
            table.check_names("class", [(2, "a"), (3, word)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table.check_names("class", [(2, "+"), (3, "-"), (4, "+"), (5, "#1"), (6, "inf")])


@pytest.mark.parametrize(
    "cell", ["1.234,5", "12.345.678,9", "1'234.5", "1 234,5", "1\u00a0234", "1\u202f234.5", "1’234"]
)
def test_marks_between_thousands_are_named(tmp_path: Path, cell: str) -> None:
    with pytest.raises(ValueError, match=r"^Line 2 of .* without marks between thousands, got .*\. Remove these"):
        cells(tmp_path / "a.csv", f"k;x1;x2\na;{cell};5\n", separator=";")


def test_points_with_three_digits_next_to_semicolons_are_unclear(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^Line 1 of .* got '7.194'\. If the point is .* give decimal='\.' \(--decimal"
    ):
        cells(tmp_path / "a.csv", "a;7.194;12\nb;3.536;7\n")
    assert cells(tmp_path / "a.csv", "a;7.194;12\nb;3.536;7\n", decimal=".")[0] == ["a", "7.194", "12"]
    assert cells(tmp_path / "a.csv", "a;7.194;1\nb;0.536;7\n")[0] == ["a", "7.194", "1"]
    assert cells(tmp_path / "a.csv", "a,7.194,1\nb,1.536,7\n")[0] == ["a", "7.194", "1"]


def header(path: Path, text: str, **options: Any) -> list[str] | None:
    path.write_text(text)
    return read_delimited(path, ReadingOptions(**options)).split_header()[0]


BODY = "a,0.5,1\nb,1.5,2\n"


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.csv", "# class,x_0,x_1\n" + BODY, ["class", "x_0", "x_1"]),
        ("a.csv", "% made\n% class,x_0,x_1\n" + BODY, ["class", "x_0", "x_1"]),
        ("a.txt", "# class,x_0,x_1\na 0.5 1\nb 1.5 2\n", ["class", "x_0", "x_1"]),  # savetxt(header="class,…")
        ("a.txt", "# class x_0 x_1\na 0.5 1\nb 1.5 2\n", ["class", "x_0", "x_1"]),
        ("a.csv", "#class,x_0,x_1\n" + BODY, ["class", "x_0", "x_1"]),
        ("a.csv", "# class,x_0\n" + BODY, None),
        ("a.csv", "# 0,1,2\n" + BODY, None),
        ("a.csv", "# class,x_0,x_1\n# made\n" + BODY, None),  # not directly above the data
        ("a.csv", "# made,in,May\nclass,x_0,x_1\n" + BODY, ["class", "x_0", "x_1"]),
        ("a.csv", "#1,0.5,1\n" + BODY, None),
        ("a.csv", "# made in May\n" + BODY, None),
        ("a.txt", "# made in May\n7 0.5 1\n8 1.5 2\n", None),
        ("a.txt", "# class x_0 x_1\n7 0.5 1\n8 1.5 2\n", ["class", "x_0", "x_1"]),
        ("a.csv", "class,400,402\n7,0.5,1\n8,1.5,2\n", ["class", "400", "402"]),
        ("a.csv", "0.0,0.1,Label\n0.5,1,7\n1.5,2,8\n", ["0.0", "0.1", "Label"]),
        ("a.csv", "class,0,1\n" + BODY, ["class", "0", "1"]),
        ("a.csv", "kind,0,1\n7,0.5,1\n8,1.5,2\n", ["kind", "0", "1"]),
        ("a.csv", "0,1,2\n7,0.5,1.0\n8,1.5,2e3\n", ["0", "1", "2"]),
        ("a.csv", "0,1,2\n7,5,1\n8,6,2\n", None),
    ],
)
def test_the_line_that_names_the_columns(tmp_path: Path, name: str, text: str, names: list[str] | None) -> None:
    assert header(tmp_path / name, text) == names


@pytest.mark.parametrize("first", ["c,0,1", "c,1,2", "1,2,3", "0,1,2"])
def test_a_line_that_may_be_a_header_or_a_sequence_needs_an_option(tmp_path: Path, first: str) -> None:
    text = f"{first}\n{BODY}"
    with pytest.raises(
        ValueError, match=r"^Line 1 of .* which may be both\. Give header=True \(--header true\) .* false"
    ):
        header(tmp_path / "a.csv", text)
    assert header(tmp_path / "a.csv", text, header=True) == first.split(",")
    assert header(tmp_path / "a.csv", text, header=False) is None
    table = read_delimited(tmp_path / "a.csv", ReadingOptions())
    for training, names in ((None, None), (["class", "x0", "x1"], None), (first.split(","), first.split(","))):
        assert replace(table, header_of_training=lambda _, found=training: found).split_header()[0] == names


def test_numbers_from_zero_above_whole_numbers_need_an_option(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Line 1 of .* which may be both\."):
        header(tmp_path / "a.csv", "0,1,2,3\n7,5,1,9\n8,6,2,9\n")


def test_a_file_with_a_header_only_holds_no_sequence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold at least one sequence, got a header and no other line\.$"):
        header(tmp_path / "a.csv", "class,t0,t1\n")
