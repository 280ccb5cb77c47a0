import math
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from tests.report.analysis_files import analysis, write_analysis
from tests.report.conftest import write

from noisyrnn.report import read_run

Make = Callable[..., Path]


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """An analysis with the entry at `path` replaced; deleted where `value` is `...`."""
    content = deepcopy(analysis("noisy", 1))
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def test_reads_all_that_an_analysis_holds(make_run: Make) -> None:
    folder = write_analysis(make_run(label="noisy", seed=1), analysis("noisy", 1))
    found = read_run(folder).analysis
    assert found is not None
    (trace, measured), _, _, (smoothed, radius) = list(found.quantities.items())[:4]
    value = 12.34 * 0.93
    assert (trace.name, trace.title, trace.group) == ("hessian_trace", "Hessian trace", "curvature")
    assert (measured.value, measured.interval) == (pytest.approx(value), pytest.approx((value - 1, value + 1)))
    assert (trace.kind, trace.confidence, trace.better) == ("estimate", None, "lower")
    assert (trace.unit, measured.note) == ("", "256 training sequences")
    assert (smoothed.kind, smoothed.confidence, radius.interval, smoothed.unit) == ("certificate", 0.999, None, "ℓ2")
    curve = found.curves["certified_accuracy"]
    assert (curve.x[1], curve.y[0], curve.low[0], curve.high[0]) == (0.05, 0.95 * 0.93, 0.9, 1.0)  # type: ignore[index]
    assert (curve.xlabel, curve.ylabel, curve.confidence) == ("ℓ2 radius", "share of sequences", 0.999)
    assert (curve.kind, curve.note) == ("certificate", "Smoothed with σ 0.1.")
    eigen = found.landscapes["eigen"]
    assert (len(eigen.alphas), eigen.directions, eigen.note) == (21, "leading eigenvectors", "256 sequences.")
    assert eigen.loss[10][10] == 0.02
    assert eigen.loss[20][10] == pytest.approx(0.02 + 0.8 * 0.93)  # alpha 1, beta 0
    assert found.verdict.startswith("stable: ")
    assert (found.diagnostics["curvature"].seconds, found.diagnostics["curvature"].status) == (12.0, "done")
    assert found.settings["budget"] == 30.0
    assert found.data["margin"] == "100 test sequences"


def test_a_run_without_analysis_has_none(make_run: Make) -> None:
    assert read_run(make_run(label="a", seed=1)).analysis is None


def test_an_analysis_without_results_is_empty(make_run: Make) -> None:
    folder = make_run(label="a", seed=1)
    for content in ({}, {"quantities": None, "curves": None, "landscapes": None, "verdict": None, "diagnostics": None}):
        found = read_run(write_analysis(folder, content)).analysis
        assert found is not None
        assert (found.quantities, found.curves, found.landscapes, found.verdict) == ({}, {}, {}, "")
        assert (found.diagnostics, found.data, found.settings) == ({}, {}, {})


def test_null_is_a_number_that_is_not_finite(make_run: Make) -> None:
    content = analysis("noisy", 1)
    content["quantities"][0] |= {"value": None, "interval": [1.0, None]}
    content["curves"]["jacobian_norms"]["y"][3] = None
    content["landscapes"]["eigen"]["loss"][0][2] = None
    found = read_run(write_analysis(make_run(label="a", seed=1), content)).analysis
    assert found is not None
    quantity = next(iter(found.quantities.values()))
    assert math.isnan(quantity.value)
    assert quantity.interval is not None
    assert quantity.interval[0] == 1.0
    assert math.isnan(quantity.interval[1])
    assert math.isnan(found.curves["jacobian_norms"].y[3])
    assert math.isnan(found.landscapes["eigen"].loss[0][2])


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("quantities", 0, "name"), ..., "KeyError: 'name'"),
        (("quantities", 0, "title"), ..., "KeyError: 'title'"),
        (("quantities", 0, "group"), ..., "KeyError: 'group'"),
        (("quantities", 0, "value"), ..., "KeyError: 'value'"),
        (("quantities", 0, "value"), "much", "could not convert string to float: 'much'"),
        (("quantities", 0, "kind"), "guess", "kind must be one of certificate, estimate, exact, got 'guess'"),
        (("quantities", 0, "better"), "bigger", "better must be one of higher, lower, got 'bigger'"),
        (("quantities", 0, "interval"), [1.0], "not enough values"),
        (("quantities", 0, "name"), "largest_eigenvalue", "two quantities of curvature are named 'largest_eigenvalue'"),
        (("quantities", 0), "trace", "AttributeError: "),
        (("curves", "jacobian_norms", "y"), [1.0], "x, y, low and high do not have the same length"),
        (("curves", "stabilization", "low"), [1.0], "x, y, low and high do not have the same length"),
        (("curves", "stabilization", "high"), [1.0], "x, y, low and high do not have the same length"),
        (("curves", "jacobian_norms", "kind"), None, "kind must be one of certificate, estimate, exact, got None"),
        (("curves", "jacobian_norms", "ylabel"), ..., "KeyError: 'ylabel'"),
        (("curves",), [1], "AttributeError: 'list' object has no attribute 'items'"),
        (("landscapes", "eigen", "loss"), [[1.0]], "loss is not a row for each alpha with a value for each beta"),
        (("landscapes", "eigen", "betas"), [0.0], "loss is not a row for each alpha with a value for each beta"),
        (
            ("landscapes", "eigen"),
            {"directions": "", "alphas": [0], "betas": [0], "loss": [[1]]},
            "at least two alphas",
        ),
        (("diagnostics", "margin", "status"), ..., "KeyError: 'status'"),
    ],
)
def test_a_damaged_analysis_is_refused(make_run: Make, path: tuple[str | int, ...], value: Any, reason: str) -> None:
    folder = write_analysis(make_run(label="a", seed=1), changed(path, value))
    start = f"analysis.json must hold complete quantities, curves and landscapes, got a damaged entry in '{folder}' ("
    message = f"^{re.escape(start)}.*{re.escape(reason)}.*\\)\\. Analyze the run again\\.$"
    with pytest.raises(ValueError, match=message):
        read_run(folder)


def test_another_format_and_broken_json_are_refused(make_run: Make) -> None:
    folder = make_run(label="a", seed=1)
    write(folder / "analysis.json", {}, version=7)
    with pytest.raises(ValueError, match=r"analysis\.json must be of format \d, got 7\. Read it with the version"):
        read_run(folder)
    (folder / "analysis.json").write_text('{"format": 1,', encoding="utf-8")
    with pytest.raises(ValueError, match=r"analysis\.json must be a JSON file, got one that breaks off .*column 14"):
        read_run(folder)


def test_a_landscape_has_a_row_for_each_alpha(make_run: Make) -> None:
    entry = {"directions": "d", "alphas": [0, 1], "betas": [0, 1, 2], "loss": [[1, 2, 3], [4, 5, 6]]}
    found = read_run(write_analysis(make_run(label="a", seed=1), {"landscapes": {"eigen": entry}})).analysis
    assert found is not None
    assert found.landscapes["eigen"].loss == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
