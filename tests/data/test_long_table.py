from pathlib import Path
from typing import Any

import pytest
import torch

from noisyrnn.data import load_dataset
from noisyrnn.data.delimited import read_delimited
from noisyrnn.data.long_table import read_long
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.parts import Cases


def read(path: Path, text: str, **options: Any) -> Cases:
    (path / "own.csv").write_text(text)
    reading = ReadingOptions(**{"id": "run", **options})
    return read_long(read_delimited(path / "own.csv", reading), reading)


PLAIN = "run,t,x,class\n1,0,5,a\n1,2,7,a\n1,1,6,a\n2,0,8,b\n2,3,9,b\n"
VALUES = "run,t,c,v,class\n1,0,q,1,a\n1,0,p,2,a\n1,1,p,4,a\n1,1,q,3,a\n"


def test_times_order_the_steps_and_become_their_lengths(tmp_path: Path) -> None:
    cases = read(tmp_path, PLAIN, time="t")
    assert cases.inputs.squeeze(2).tolist() == [[5, 6, 7], [8, 9, 0]]
    assert cases.lengths is not None and cases.lengths.tolist() == [3, 2]
    dt = cases.with_step_lengths(1.0).dt
    assert dt is not None and dt.tolist() == [[1, 1, 1], [3, 1, 1]]
    even = read(tmp_path, PLAIN.replace("2,3,9", "2,1.005,9"), time="t")
    assert even.with_step_lengths(1.0).dt is None


def test_dates_are_times(tmp_path: Path) -> None:
    rows = "".join(f"{k % 2},2026-02-28T23:59:{50 + 3 * k}.5,{k},{'ab'[k % 2]}\n" for k in range(3))
    rows += "0,2026-03-01T00:00:08.5,7,a\n1,2026-03-01T00:00:10,8,b\n"
    cases = read(tmp_path, "run,when,x,class\n" + rows, time="when")
    assert [list(times - times[0]) for times in cases.times or ()] == [[0, 6, 18], [0, 16.5]]


def test_one_value_per_line(tmp_path: Path) -> None:
    options = {"time": "t", "channel": "c", "value": "v"}
    assert read(tmp_path, VALUES, **options).inputs.tolist() == [[[2, 1], [4, 3]]]  # channels p, q
    with pytest.raises(ValueError, match=r"^Line 4 of .* at each time .* none of 'q' at '1' in sequence '1'"):
        read(tmp_path, VALUES.replace("1,1,q,3,a\n", ""), **options)
    with pytest.raises(ValueError, match=r"^Line 5 of .* another time or channel .* got '1' and 'p' again\."):
        read(tmp_path, VALUES.replace("1,1,q", "1,1,p"), **options)
    with pytest.raises(ValueError, match=r"channels of the first sequence, p, q, got p in sequence 2"):
        read(tmp_path, VALUES + "2,0,p,1,b\n", **options)
    with pytest.raises(
        ValueError, match=r"got another column 'extra'\. Give drop='extra' \(--drop extra\) to leave it out"
    ):
        read(tmp_path, VALUES.replace("v,class", "v,extra,class").replace(",a\n", ",5,a\n"), **options)


def test_the_format_of_times_is_an_option(tmp_path: Path) -> None:
    text = "run,t,x,class\n" + "".join(f"{i},0{k}/01/2026,{k},{'ab'[i]}\n" for i in range(2) for k in (4, 3, 5))
    with pytest.raises(ValueError, match=r"^Line 2 of .* in one way, .*time_format='%d/%m/%Y' .*'%m/%d/%Y'"):
        read(tmp_path, text, time="t")
    for time_format, days in (("%d/%m/%Y", [1, 1]), ("%m/%d/%Y", [31, 30])):
        cases = read(tmp_path, text, time="t", time_format=time_format)
        assert cases.inputs[0].flatten().tolist() == [3, 4, 5]
        assert [list(times[1:] - times[:-1]) for times in cases.times or ()] == [[86400 * n for n in days]] * 2


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (PLAIN, {}, r"a column 't' that is called so, as the time\. Give time='t' \(--time t\), or drop='t'"),
        (
            PLAIN.replace("2,3,9,b", "2,3,9,a"),
            {"time": "t"},
            r"one class .* 'b' \(line 5\) and 'a' \(line 6\) for sequence",
        ),
        (
            PLAIN.replace("2,3", "2,0"),
            {"time": "t"},
            r"^Line 6 of .* another time .* got '0' again\. .* --value COLUMN\)",
        ),
        (
            PLAIN.replace("2,3", "2,soon"),
            {"time": "t"},
            r"^Line 6 of .* a time in column 2, .* got 'soon'\. .* drop=2 ",
        ),
        (
            PLAIN.replace("1,1,6", "1,1,"),
            {"time": "t"},
            r"^Line 4 of .* got '' in column 3\. Give missing='hold' .* fill the value in; or .* drop=3",
        ),
        (PLAIN.replace("class", "kind"), {"time": "t"}, r"one column with the class, got 0 .* Give label_column"),
        (PLAIN + "1,4,1,a\n", {"drop": "t"}, r"^Line 7 of .* sequence '2' or begin .* '1' again\. Give time"),
        (PLAIN + ",4,1,a\n", {"time": "t"}, r"^Line 7 of .* must name its sequence in column 1, got an empty cell"),
        (PLAIN + "3,4,1\n", {"time": "t"}, r"^Line 7 of .* must hold 4 cells, as the header does, got 3\."),
        (PLAIN, {"time": "run"}, r"id, time, label_column and drop must be different columns"),
        (PLAIN, {"id": "who"}, r"^id must be the name of one column of .*, got 'who' and a first line 'run', 't'"),
    ],
)
def test_an_unclear_file_is_refused(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text, **options)


def test_a_column_that_goes_up_evenly_is_taken_for_the_time(tmp_path: Path) -> None:
    rows = "".join(f"{i},{0.1 * k:.1f},{(i * 7 + k * k) % 5},{'ab'[i]}\n" for i in range(2) for k in range(4))
    with pytest.raises(ValueError, match=r"a column 'n' that goes up evenly in every sequence, as the time"):
        read(tmp_path, "run,n,x,class\n" + rows)


def test_groups_and_numbers_to_predict(tmp_path: Path) -> None:
    text = "run,who,x,y0,target\n" + "".join(
        f"{i},p{i // 2},{k},{i * k % 3},{i}.5\n" for i in range(12) for k in (3, 1)
    )
    cases = read(tmp_path, text, group_column="who", task="regression")
    assert isinstance(cases.labels, torch.Tensor) and cases.labels.flatten().tolist() == [i + 0.5 for i in range(12)]
    assert cases.groups == tuple(f"p{i // 2}" for i in range(12)) and cases.inputs.shape == (12, 2, 2)
    data = load_dataset(str(tmp_path / "own.csv"), id="run", group_column="who", task="regression")
    for part in (data.train, data.validation, data.test):
        numbers = sorted(int(label) for label in part.labels.flatten())
        assert numbers == sorted({k for n in numbers for k in (n // 2 * 2, n // 2 * 2 + 1)})  # both of a group


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "run,when,name,v,class\n1,2026-01-01,p,2,a\n1,2026-01-02,p,3,a\n",
            {},
            r"^Line 2 .* '2026-01-01' in column 'when' and 'p' in column 'name'\. Give time='when' .*channel='name'",
        ),
        (
            "run,t,name,v,class\n1,0,p,2,a\n",
            {"time": "t"},
            r"^Line 2 .* got 'p' in column 'name'\. Give channel='name' ",
        ),
        (
            "run,when,v,class\n1,08:00:00,2,a\n",
            {},
            r"got '08:00:00' in column 'when'\. Give time='when' \(--time when\)\.$",
        ),
    ],
)
def test_a_column_of_times_or_names_is_answered_with_its_option(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text, **options)


@pytest.mark.parametrize("name", ["", "index", "Unnamed: 0"])
def test_an_index_of_pandas_is_no_channel(tmp_path: Path, name: str) -> None:
    lines = PLAIN.splitlines()
    text = "\n".join([f"{name},{lines[0]}", *(f"{k},{line}" for k, line in enumerate(lines[1:]))]) + "\n"
    with pytest.raises(ValueError, match=r"got a column 1 that is called .* Leave it out: drop=1 \(--drop 1\)"):
        read(tmp_path, text, time="t")
    assert read(tmp_path, text, time="t", drop=(1,)).inputs.shape == read(tmp_path, PLAIN, time="t").inputs.shape


def test_sodium_is_not_missing(tmp_path: Path) -> None:
    assert "Na" in read(tmp_path, VALUES.replace("q", "Na"), time="t", channel="c", value="v").channel_names


def test_a_missing_channel_is_no_channel(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Line 2 of .* must name a channel, got '', .* skip_lines='2,5'"):
        read(tmp_path, VALUES.replace("q", ""), time="t", channel="c", value="v")


def test_a_missing_class_or_group_is_refused_with_its_lines(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Line 5 of .* must name a class, got 'NA', .* skip_lines='5-6'"):
        read(tmp_path, PLAIN.replace(",b", ",NA"), time="t")
    grouped = PLAIN.replace("class", "class,who").replace(",a", ",a,p").replace(",b", ",b,none")
    with pytest.raises(ValueError, match=r"^Line 5 of .* must name a group, got 'none', .* skip_lines='5-6'"):
        read(tmp_path, grouped, time="t", group_column="who")
