"""Verdicts on cells of a published table."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.conftest import column, write_run

from noisyrnn.published_table import ReproductionRow
from noisyrnn.report.reproduction import Comparison, section_of, summary, verdict_of
from noisyrnn.report.table import Cell
from noisyrnn.robustness.statistics import SEQUENCES, TRAININGS


def cell(mean: float, half: float, covers: str = TRAININGS) -> Cell:
    return Cell(seeds={1: mean}, mean=mean, low=mean - half, high=mean + half, covers=covers)


@pytest.mark.parametrize(
    ("found", "published", "verdict"),
    [
        (cell(0.990, 0.002), 99.1, "reproduced"),
        (cell(0.990, 0.002), 99.2, "reproduced"),
        (cell(0.990, 0.002), 99.24, "reproduced"),  # its rounding
        (cell(0.990, 0.002), 99.3, "lower"),
        (cell(0.990, 0.002), 98.76, "reproduced"),  # likewise
        (cell(0.990, 0.002), 98.7, "higher"),
        (cell(0.970, 0.015), 97.0, "reproduced"),
        (cell(0.970, 0.016), 97.0, "undecided"),
        (cell(0.970, 0.016), 90.0, "higher"),
        (cell(0.990, 0.002, SEQUENCES), 99.0, "undecided"),
        (cell(0.990, 0.002, SEQUENCES), 50.0, "undecided"),
        (cell(0.990, math.nan), 99.0, "undecided"),
    ],
)
def test_verdicts(found: Cell, published: float, verdict: str) -> None:
    assert verdict_of(found, published) == verdict


def test_the_difference_has_our_interval() -> None:
    found = Comparison.of(cell(0.95, 0.01), 90.0)
    assert found.difference == pytest.approx((5.0, 4.0, 6.0))
    assert found.text == "+5.0 [+4.0, +6.0] higher"


@pytest.fixture
def row() -> ReproductionRow:
    train = {"model": "noisy", "dataset": "digits", "label": "noisy"}
    return ReproductionRow(train=train, published={"clean": 99.0, "white_noise 0.1": 50.0})


def write_runs(tmp_path: Path) -> list[Path]:
    paths = []
    for seed in (1, 2, 3):
        columns: list[dict[str, Any]] = [column("clean", None, 0.9, draws=1), column("white_noise", 0.1, 0.8)]
        paths.append(write_run(tmp_path / str(seed), label="noisy", seed=seed, columns=columns))
    return paths


def test_lines_without_values_are_left_out(tmp_path: Path, row: ReproductionRow, undrawn: Callable[[], None]) -> None:
    section = section_of([(row, write_runs(tmp_path))], {"at 0.2": {"white_noise 0.1": "white_noise 0.2"}})
    (block,) = section.blocks
    assert [line.title for line in block.lines] == ["ours, best epoch"]  # no last epoch, and nothing at 0.2
    assert block.lines[0].compared["clean"].mean == pytest.approx(90.0)
    assert summary([section]) == [
        "Ours, best epoch: of 2 published cells, 0 reproduced, 1 higher, 0 lower, 1 undecided."
    ]
