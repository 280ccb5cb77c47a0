import warnings
from collections.abc import Sequence
from typing import Any

import pytest

from noisyrnn.data.time_cells import parse_times


def read(*sequences: Sequence[str], **options: Any) -> list[list[float]]:
    options = {"column": 2, **options}
    return [
        times.tolist()
        for times in parse_times(sequences, lambda sequence, cell: f"Cell {cell} of {sequence}", **options)
    ]


@pytest.mark.parametrize(
    ("cells", "since_first"),
    [
        (["3", "1.5", "2e0"], [0, -1.5, -1]),
        (["1767225600000000000", "1767225600000000100"], [0, 100]),  # float64 rounds both to one value
        (["1767225600.000001", "1767225600.000003"], [0, 2e-6]),
        (["2026-01-01T00:00:00.000000100", "2026-01-01T00:00:00.000000300"], [0, 200e-9]),
        (["2026-03-29T00:30:00+01:00", "2026-03-29T03:30:00+02:00"], [0, 7200]),
        (["2026-03-29T00:30Z", "2026-03-29 00:30:01+00"], [0, 1]),
        (["2026-W01", "2026-W02"], [0, 7 * 86400]),
        (["20260131", "20260201"], [0, 86400]),
        (["202601312359", "202602010000"], [0, 60]),
        (["20260131235959", "20260201000001"], [0, 2]),
        (["10260131", "10260201"], [0, 70]),  # a counter
        (["01.03.2026 08:00:02", "1.4.2026 08:00:02,5"], [0, 31 * 86400 + 0.5]),
        (["01.03.2026 08:00:00+01:00", "01.03.2026 08:00:00Z"], [0, 3600]),
        (["31.12.68", "31.12.69"], [0, -3124224000]),  # 2068 and 1969, as strptime reads them
        (["28.02.99", "31.12.99"], [0, 306 * 86400]),
        (["2026/02/28 08:00", "2026/03/01 08:00"], [0, 86400]),
        (["12/31/2025 11:59:59 PM", "01/01/2026 12:00:00 AM"], [0, 1]),
        (["31/12/2025, 23:59:59", "01/01/2026, 00:00:00"], [0, 1]),
        (["03/01/2026 08:00:02", "03/01/2026 08:00:04"], [0, 2]),  # the same distances in both orders
        (["08:00:02.25", "08:00:03", "08:00:01"], [0, 0.75, -1.25]),
        (["8:00:02 AM", "1:00:02 pm"], [0, 5 * 3600]),
        (["59:59.5", "60:00.25"], [0, 0.75]),
        (["99:00:00", "100:00:01"], [0, 3601]),
        (["0001", "0061"], [0, 60]),
        (["800", "959"], [0, 159]),
    ],
)
def test_times_that_have_one_reading(cells: list[str], since_first: list[float]) -> None:
    assert read(cells) == [pytest.approx(since_first, abs=1e-12)]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([["1", "soon"]], r"^Cell 1 of 0 must hold a time in column 2, a number or .* got 'soon'\. .* time_format='%d"),
        ([["1", "2"], ["3", "1e999"]], r"^Cell 1 of 1 must hold a finite time in column 2, got '1e999'"),
        ([["1", ""]], r"^Cell 1 of 0 must hold a time in column 2, .* got ''"),
        ([["2026-01-01", "1"]], r"^Cell 1 of 0 must hold a time"),
        ([["2026-01-01T00:00", "2026-01-01T01:00Z"]], r"^Cell 1 of 0 .* a time zone in every line or in none, got"),
        ([["2026-02-30"]], r"^Cell 0 of 0 must hold a time"),
        ([["13/01/2026", "01/13/2026"]], r"^Cell 1 of 0 .* in the order of the lines before, got '01/13/2026'"),
        (
            [["03/01/2026 8:00:02.5 PM", "04/01/2026 8:00:02.5 PM"]],
            r"in one way, .* Give time_format='%d/%m/%Y %I:%M:%S.%f %p' .* or time_format='%m/%d/%Y %I:%M:%S.%f %p'",
        ),
        ([["28.02.26", "01.03.26"]], r"Give time_format='%y.%m.%d' .* or time_format='%d.%m.%y'"),
        ([["01-02-26", "02-03-26"]], r"time_format='%y-%m-%d' .* or time_format='%d-%m-%y' .* or .*'%m-%d-%y'"),
        ([["010226", "280226"]], r"time_format='%d%m%y' .* or time_format='%y%m%d' .* or time_format='number'"),
        ([["01022026", "02022026"]], r"time_format='%d%m%Y' .* or time_format='%m%d%Y' .* or time_format='number'"),
        ([["5959", "10000", "10001"]], r"time_format='%H%M%S' \(--time-format '%H%M%S'\) or time_format='number'"),
        ([["08:00", "08:01"]], r"time_format='%H:%M' .* or time_format='%M:%S'"),
        ([["08:00", "08:00:01"]], r"^Cell 0 of 0 .* Write all as hh:mm:ss"),
        ([["08:00:00", "soon"]], r"^Cell 1 of 0 must hold a time"),
        ([["08:60:00"]], r"must hold a time"),
        ([["23:00:00", "22:00:00", "01:00:00"]], r"^Cell 1 of 0 .* that does not fall, .* Add the dates"),
    ],
)
def test_times_with_several_readings_or_none_are_refused(sequences: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(*sequences)


def test_another_sequence_may_decide_the_order_of_day_and_month() -> None:
    assert read(["03/01/2026", "04/01/2026"], ["01/13/2026"])[0] == [0, 31 * 86400]
    assert read(["03/01/2026", "04/01/2026"], ["13/01/2026"])[0] == [0, 86400]


@pytest.mark.parametrize(
    ("cells", "format", "since_first"),
    [
        (["03/01/2026", "04/01/2026"], "%m/%d/%Y", [0, 31 * 86400]),
        (["03/01/2026", "04/01/2026"], "%d/%m/%Y", [0, 86400]),
        (["10226", "010326"], "%d%m%y", [0, 28 * 86400]),  # a spreadsheet has dropped a zero
        (["5959", "10000"], "%H%M%S", [0, 1]),
        (["5959", "10000"], "number", [0, 4041]),
        (["20260131", "20260201"], "number", [0, 70]),
        (["1 Mar 2026 00:00:00.5", "1 Mar 2026 00:00:01"], "%d %b %Y %H:%M:%S.%f", [0, 0.5]),
        (["08:00", "08:01"], "%M:%S", [0, 1]),
    ],
)
def test_a_given_format(cells: list[str], format: str, since_first: list[float]) -> None:
    assert read(cells, format=format) == [since_first]
    with pytest.raises(ValueError, match=r"^Cell 0 of 0 must hold a (finite )?time"):
        read(["x"], format=format)


def test_a_time_of_day_that_falls_by_half_a_day_has_passed_midnight() -> None:
    with pytest.warns(UserWarning, match=r"read as passing midnight"):
        assert read(["23:59:59", "00:00:01", "00:00:02"]) == [[0, 2, 3]]
    with pytest.warns(UserWarning, match=r"read as passing midnight"):
        assert read(["235959", "000001"], format="%H%M%S") == [[0, 2]]
    with pytest.raises(ValueError, match=r"does not fall"):  # lines are ordered by channel
        read(["23:59:59", "00:00:01", "23:59:59"], in_order=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(["25:59:59", "00:00:01"]) == [[0, -93598]]  # hours since a start, as a shuffled file has them


def test_times_without_an_hour_must_not_fall() -> None:
    assert read(["59:58.0", "59:59.5"]) == [[0, 1.5]]
    for cells, format in ((["59:59.0", "00:00.0"], None), (["59:59", "00:00"], "%M:%S"), (["59.5", "0.5"], "%S.%f")):
        with pytest.raises(ValueError, match=r"^Cell 1 of 0 must hold a time .* not before the one above"):
            read(cells, format=format)


def test_a_fraction_changes_no_form() -> None:
    assert read(["10059.00", "10100.50"], format="%H%M%S.%f") == [[0, 1.5]]
    assert read(["20260131.0", "20260201.0"]) == [[0, 86400]]
    with pytest.raises(ValueError, match=r"can be read in one way.*%H%M%S"):
        read(["120058.00", "120059.00", "120100.00"])


def test_a_format_without_options_names_none() -> None:
    assert read(["5959", "10000"], column=None) == [[0, 4041]]
    with pytest.raises(
        ValueError, match=r"^Cell 0 of 0 must hold a time, .* Write times as numbers, or as YYYY"
    ) as error:
        read(["soon"], column=None)
    assert "time_format" not in str(error.value)
