import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.analysis_files import quantity, write_analysis

from noisyrnn.report import read_run
from noisyrnn.report.comparison import Comparison, compare
from noisyrnn.report.table import Row, count_text, group_title, kind_title, number, seeds_text, value_texts
from noisyrnn.report.theory import caption, markdown

Make = Callable[..., Path]
# 97.5 % quantile of Student's t with two degrees of freedom, in closed form.
T_2 = 0.95 / math.sqrt(2 * 0.975 * 0.025)


@pytest.fixture
def compared(make_run: Make) -> Callable[..., Comparison]:
    """A comparison from the quantities of each label's seeds, `None` for a run that was not analysed."""

    def build(**labels: list[list[dict[str, Any]] | None]) -> Comparison:
        runs = []
        for label, seeds in labels.items():
            for seed, quantities in enumerate(seeds, start=1):
                folder = make_run(label=label, seed=seed)
                if quantities is not None:
                    write_analysis(folder, {"quantities": quantities, "verdict": f"verdict {seed}"})
                runs.append(read_run(folder))
        return compare(runs)

    return build


def only_row(comparison: Comparison) -> Row:
    (row,) = comparison.theory.rows
    return row


def texts(row: Row, label: str) -> tuple[str, str]:
    return value_texts(row.cells[label], row.quantity)


def values(*numbers: float | None, **options: Any) -> list[list[dict[str, Any]] | None]:
    return [[quantity("trace", value, **options)] for value in numbers]


def test_means_and_intervals_over_seeds(compared: Callable[..., Comparison]) -> None:
    row = only_row(compared(a=values(1.0, 2.0, 6.0, interval=[0.0, 9.0])))
    entry = row.cells["a"]
    half = T_2 * math.sqrt(7 / 3)  # variance ((-2)² + (-1)² + 3²) / 2 = 7
    assert entry.seeds == {1: 1.0, 2: 2.0, 3: 6.0}
    assert (entry.mean, entry.low, entry.high) == pytest.approx((3.0, 3 - half, 3 + half), abs=1e-12)
    assert entry.covers == "seeds"
    assert texts(row, "a") == ("3.0", "[-3.6, 9.6]")


def test_one_seed_keeps_its_own_interval(compared: Callable[..., Comparison]) -> None:
    row = only_row(compared(a=values(12.34, interval=[11.0, 14.0])))
    entry = row.cells["a"]
    assert (entry.mean, entry.low, entry.high, entry.covers) == (12.34, 11.0, 14.0, "draws or sequences")
    assert texts(row, "a") == ("12.3", "[11.0, 14.0]")
    assert texts(only_row(compared(a=values(12.34))), "a") == ("12.34", "")
    seeds = [*values(None, interval=[0.0, 1.0]), *values(5.0, interval=[4.0, 6.0])]
    only_finite = only_row(compared(a=seeds)).cells["a"]
    assert (only_finite.low, only_finite.high) == (4.0, 6.0)


def test_an_interval_of_shares_stays_within_their_bounds(compared: Callable[..., Comparison]) -> None:
    shares = values(0.98, 0.99, 1.0, unit="%", bounds=[0.0, 1.0])
    assert texts(only_row(compared(a=shares)), "a") == ("99.0", "[96.5, 100.0]")
    gains = values(-0.02, -0.01, 0.03, unit="%", bounds=[-1.0, 1.0])
    assert texts(only_row(compared(a=gains)), "a") == ("0.0", "[-6.6, 6.6]")
    errors = values(0.1, 0.2, 0.6, bounds=[0.0, None])
    assert texts(only_row(compared(a=errors)), "a")[1].startswith("[0.00, 0.9")


def test_values_that_are_not_finite_are_left_out_and_counted(compared: Callable[..., Comparison]) -> None:
    row = only_row(compared(a=values(1.0, None, 3.0), b=values(None, 5.0, None), c=values(None, None)))
    assert row.cells["a"].mean == 2.0
    assert count_text(row.cells["a"]) == "2 of 3 seeds"
    assert seeds_text(row.cells["a"], row.quantity) == "seed 1: 1.000, seed 2: not finite, seed 3: 3.000"
    assert (row.cells["b"].mean, row.cells["b"].covers) == (5.0, "draws or sequences")
    assert count_text(row.cells["b"]) == "1 of 3 seeds"
    assert texts(row, "c") == ("none finite", "")
    assert count_text(row.cells["c"]) == ""
    assert math.isnan(row.cells["a"].low)  # of two seeds
    assert row.tests == {}  # a and b share no seed with a value


def test_paired_tests_against_the_first_label(compared: Callable[..., Comparison]) -> None:
    row = only_row(compared(a=values(1.0, 2.0, 4.0), b=values(2.0, 4.0, 7.0), c=values(5.0)))
    test = row.tests["b"]  # differences 1, 2, 3: t = 2 / (1 / sqrt(3)), p = 1 - t / sqrt(t² + 2)
    assert test.difference == pytest.approx(2.0, abs=1e-12)
    assert (test.low, test.high) == pytest.approx((2 - T_2 / math.sqrt(3), 2 + T_2 / math.sqrt(3)), abs=1e-9)
    assert test.p_value == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-9)
    assert (test.pairs, test.unit) == (3, "seed")
    assert test.adjusted == test.p_value  # the only one with a p
    assert (row.tests["c"].pairs, row.tests["c"].reason) == (1, "too few seeds")


def test_every_row_counts_in_the_correction(compared: Callable[..., Comparison]) -> None:
    def seeds(*numbers: float) -> list[list[dict[str, Any]] | None]:
        return [[quantity(name, value) for name in ("trace", "largest")] for value in numbers]

    rows = compared(a=seeds(1.0, 2.0, 4.0), b=seeds(2.0, 4.0, 7.0), c=seeds(1.0, 2.5, 4.5)).theory.rows
    p_values = sorted(test.p_value for row in rows for test in row.tests.values())
    adjusted = sorted(test.adjusted for row in rows for test in row.tests.values())
    assert len(p_values) == 4
    assert adjusted[0] == pytest.approx(4 * p_values[0], rel=1e-12)
    assert adjusted == pytest.approx(
        [min(1.0, 4 * p_values[0])] * 2 + [min(1.0, max(4 * p_values[0], 2 * p_values[2]))] * 2
    )


@pytest.mark.parametrize("other", [{"kind": "certificate"}, {"unit": "per time"}, {"kind": "estimate"}])
def test_kinds_and_units_are_never_in_one_cell(compared: Callable[..., Comparison], other: dict[str, Any]) -> None:
    seeds = [*values(1.0), *values(5.0, **other), *values(3.0)]
    first, second = compared(a=seeds, b=values(2.0, 2.5, **other)).theory.rows
    assert (first.quantity.kind, first.cells["a"].seeds) == ("exact", {1: 1.0, 3: 3.0})
    assert (second.cells["a"].seeds, second.cells["b"].seeds) == ({2: 5.0}, {1: 2.0, 2: 2.5})
    assert "b" not in first.cells
    assert first.tests == {}
    assert {label: test.reason for label, test in second.tests.items()} in ({}, {"b": "too few seeds"})


def test_confidences_are_never_in_one_cell(compared: Callable[..., Comparison]) -> None:
    kind = {"kind": "certificate"}
    rows = compared(a=[*values(1.0, confidence=0.99, **kind), *values(1.0, confidence=0.999, **kind)]).theory.rows
    assert [row.quantity.confidence for row in rows] == [0.99, 0.999]
    assert kind_title("certificate", 0.999) == "certificate, confidence 99.9\N{NO-BREAK SPACE}%"
    assert kind_title("certificate", None) == "certificate"


def test_rows_stay_with_their_diagnostic_and_name(compared: Callable[..., Comparison]) -> None:
    first = [quantity("trace", 1.0), quantity("radius", 1.0, group="margin")]
    second = [
        quantity("radius", 1.0, group="margin"),
        quantity("largest", 2.0),
        quantity("trace", 1.0, kind="estimate"),
    ]
    rows = compared(a=[first, second]).theory.rows
    names = [(row.quantity.group, row.quantity.name, row.quantity.kind) for row in rows]
    assert names == [
        ("curvature", "trace", "exact"),
        ("curvature", "trace", "estimate"),
        ("curvature", "largest", "exact"),
        ("margin", "radius", "exact"),
    ]


def test_notes_are_named_once(compared: Callable[..., Comparison]) -> None:
    row = only_row(compared(a=[*values(1.0, note="x"), *values(1.0, note="y"), *values(1.0, note="x"), *values(1.0)]))
    assert row.notes == ("x", "y")


def test_analyses_of_failed_runs_and_absent_ones_do_not_count(make_run: Make) -> None:
    good = write_analysis(make_run(label="a", seed=1), {"quantities": [quantity("trace", 1.0)]})
    failed = make_run(label="a", seed=2, summary={"status": "failed", "error": "broke"})
    write_analysis(failed, {"quantities": [quantity("trace", 100.0)]})
    comparison = compare([read_run(path) for path in (good, failed, make_run(label="a", seed=3))])
    assert list(comparison.groups[0].analyses) == [1]
    assert only_row(comparison).cells["a"].seeds == {1: 1.0}


@pytest.mark.parametrize(
    ("value", "half", "size", "shown"),
    [
        (12.345, 0.4, None, "12.35"),
        (12.345, 4.2, None, "12.3"),
        (12.345, 42.0, None, "12"),
        (12.345, math.nan, None, "12.35"),
        (0.4, 0.4, 12.345, "0.40"),
        (1.2345e-7, 4e-9, None, "1.235e-7"),
        (4e-9, 4e-9, 1.2345e-7, "0.040e-7"),
        (-4.2e6, 7.3e5, None, "-4.20e+6"),
        (123456.7, 1.0, None, "123456.7"),
        (0.0, math.nan, None, "0.000"),
        (-1e-20, 0.5, None, "0.00"),
        (0.1, 1e-17, None, "0.1000"),
        (1e-17, 1e-17, 0.1, "0.0000"),
        (0.0, 0.0, 0.0, "0.000"),
        (math.nan, 1.0, None, "not finite"),
        (math.inf, 1.0, None, "not finite"),
        (2.0, math.inf, None, "2.000"),
        (5e-324, math.nan, None, "4.941e-324"),
        (1e308, math.inf, None, "1.000e+308"),
    ],
)
def test_numbers_have_the_digits_their_interval_decides(
    value: float, half: float, size: float | None, shown: str
) -> None:
    assert number(value, half, size=size) == shown


def test_an_interval_with_one_end_says_so(compared: Callable[..., Comparison]) -> None:
    row = only_row(compared(a=values(2.0, interval=[1.5, None])))
    assert texts(row, "a") == ("2.000", "[1.500, not finite]")


def test_caption_says_what_is_there(compared: Callable[..., Comparison]) -> None:
    one = caption(compared(a=values(1.0), c=values(None, None)).theory, base="a")
    assert "If only one seed has a value" in one
    assert "Student" not in one
    assert "paired" not in one
    few = caption(compared(a=values(1.0, 2.0), b=values(1.0, 3.0)).theory, base="a")
    assert "there is none for fewer than 3 seeds or equal values" in few and "paired" not in few
    several = caption(compared(a=values(1.0, 2.0, 4.0), b=values(1.0, 3.0, 3.0)).theory, base="a")
    assert "Student t interval" in several
    assert "paired t test of the difference from a over shared seeds, corrected for the 1 comparisons" in several
    assert "own" not in several


def test_markdown_to_the_letter(compared: Callable[..., Comparison]) -> None:
    better = {"title": "Trace |H|", "unit": "1/step"}
    comparison = compared(base=values(1.0, 2.0, 6.0, **better), other=values(2.0, 2.0, None, **better), none=[None])
    lines = markdown(comparison.theory, comparison.groups).splitlines()
    assert lines[:5] == [
        "## Curvature",
        "",
        "| quantity | kind | base | other | none |",
        "|---|---|---:|---:|---:|",
        r"| Trace \|H\| (1/step) | exact | 3.0 [-3.6, 9.6] | 2.000 (2 of 3 seeds, too few seeds) | – |",
    ]
    assert lines[6] == "## Verdicts"
    assert lines[8] == "- base, seed 1: verdict 1"
    assert lines[-1].startswith("Each row has values of one kind")


def test_json_holds_every_number(compared: Callable[..., Comparison]) -> None:
    comparison = compared(a=values(1.0, None, better="lower", note="n"), b=values(2.0, 4.0, better="lower"))
    (content,) = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))["analysis"]
    assert (content["name"], content["kind"], content["better"], content["notes"]) == ("trace", "exact", "lower", ["n"])
    assert content["labels"]["a"] == {
        "seeds": {"1": 1.0, "2": None},
        "mean": 1.0,
        "low": None,
        "high": None,
        "covers": "draws or sequences",
        "versus_base": None,
    }
    assert content["labels"]["b"]["mean"] == 3.0


def test_titles_of_diagnostics() -> None:
    assert [group_title(name) for name in ("curvature", "test-noise")] == ["Curvature", "Test noise"]
