"""Recalls and confusion matrices."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.report.conftest import column, write

from noisyrnn.report import read_run
from noisyrnn.report.classes import confusion_views, recall_table
from noisyrnn.report.comparison import compare
from noisyrnn.report.results import Group

Make = Callable[..., Path]
NAMES = ["cat", "dog", "eel"]


@pytest.fixture
def groups(make_run: Make) -> tuple[Group, ...]:
    runs = []
    for seed, confusion in enumerate(([[8, 2, 0], [1, 4, 0], [0, 0, 0]], [[10, 0, 0], [3, 1, 1], [0, 0, 0]]), start=1):
        run = make_run(
            label="a",
            seed=seed,
            columns=[column("clean", None, 0.6, draws=1)],
            dataset={"classes": 3, "class_names": NAMES},
        )
        content = json.loads((run / "robustness.json").read_text()) | {"confusion": confusion}
        write(run / "robustness.json", {name: content[name] for name in content if name not in ("format", "sha256")})
        runs.append(read_run(run))
    return compare(runs).groups


def test_recalls_and_their_mean_over_the_classes_that_occur(groups: tuple[Group, ...]) -> None:
    table = {row.quantity.title: row.cells["a"] for row in recall_table(groups).rows}
    assert list(table) == ["balanced accuracy", "recall of cat", "recall of dog", "recall of eel"]
    assert table["recall of cat"].seeds == pytest.approx({1: 0.8, 2: 1.0})
    assert table["recall of dog"].seeds == pytest.approx({1: 0.8, 2: 0.2})
    assert table["balanced accuracy"].seeds == pytest.approx({1: 0.8, 2: 0.6})
    assert table["balanced accuracy"].mean == pytest.approx(0.7)


def test_confusion_counts_are_summed_over_seeds(groups: tuple[Group, ...]) -> None:
    (view,) = confusion_views(groups)
    assert [[cell["count"] for cell in row["cells"]] for row in view["rows"]] == [[18, 2, 0], [4, 5, 1], [0, 0, 0]]
    assert view["rows"][0]["cells"][0]["share"] == 0.9
    assert [cell["right"] for cell in view["rows"][1]["cells"]] == [False, True, False]
    assert view["names"] == NAMES


@pytest.mark.parametrize("confusion", [[[1, 2]], [[-1]], "abc", [[1, 2], [3]]])
def test_a_damaged_matrix_is_refused(make_run: Make, confusion: object) -> None:
    run = make_run(label="a", seed=1, columns=[column("clean", None, 0.6, draws=1)])
    content = json.loads((run / "robustness.json").read_text()) | {"confusion": confusion}
    write(run / "robustness.json", {name: content[name] for name in content if name not in ("format", "sha256")})
    with pytest.raises(ValueError, match=r"robustness.json must hold complete columns and examples"):
        read_run(run)
