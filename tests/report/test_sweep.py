"""The page of a sweep."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from noisyrnn.report.figures import grid
from noisyrnn.report.sweep import build_sweep_page, history, importance, log_axis, shown, slices, write_sweep_page


def trial(number: int, score: float | None, **values: Any) -> dict[str, Any]:
    cell = {"perturbation": "white_noise", "strength": 0.2, "accuracy": score, "interval": [0.25, 0.875]}
    cell["sequences"] = 5
    return {
        "number": number,
        "values": values,
        "score": score,
        "columns": None if score is None else [[cell], [cell]],
        "error": "It became <non-finite>." if score is None else None,
        "seconds": 1.25,
    }


@pytest.fixture
def content() -> dict[str, Any]:
    return {
        "version": "1.2.3",
        "model": "noisy",
        "dataset": "somewhere/waves.npz",
        "wanted": 5,
        "fixed": {"epochs": 7, "penalty": None},
        "space": {
            "additive": {"low": 0.01, "high": 1.0, "log": True},
            "damping": {"low": 0.0, "high": 1.0, "log": False},
            "noise_law": ["gaussian", "uniform"],
        },
        "strengths": {"white_noise": [0.2]},
        "draws": 3,
        "seeds": 2,
        "sweep_seed": 4,
        "trials": [
            trial(0, 0.5, additive=0.1, damping=0.25, noise_law="uniform"),
            trial(2, None, additive=0.2, damping=0.5, noise_law="uniform"),
            trial(3, 0.75, additive=0.0123456, damping=0.75, noise_law="gaussian"),
        ],
        "best": 3,
        "importances": {"additive": 0.7, "damping": 0.3, "noise_law": 0.0},
    }


def words(page: str) -> str:
    return " ".join(page.split())


def test_the_page_says_what_was_searched_and_found(content: dict[str, Any], tmp_path: Path) -> None:
    path = write_sweep_page(content, tmp_path / "s.html", command="noisyrnn sweep --model 'a & b'")
    page = words(path.read_text())
    for text in (
        "<h1>Sweep of noisy on waves</h1>",
        "<pre>noisyrnn sweep --model &#39;a &amp; b&#39;</pre>",
        "<dd>3 of 5, of which 1 failed</dd>",
        "mean accuracy on the validation data: White noise σ 0.2; 3 draws",
        "<dt><code>additive</code></dt><dd>0.01 to 1, by factors</dd>",
        "<dt><code>damping</code></dt><dd>0 to 1</dd>",
        "<dt><code>noise_law</code></dt><dd>gaussian, uniform</dd>",
        "<dt>Trial</dt><dd>3, score 75.00 % on 5 validation sequences</dd>",
        "<dt><code>additive</code></dt><dd>0.01235</dd>",
        "<dd>75.0 [25.0, 87.5], 75.0 [25.0, 87.5] %</dd>",
        "It became &lt;non-finite&gt;.",
        "<dt><code>epochs</code></dt><dd><code>7</code></dd>",
        "chosen as the best of all trials",
    ):
        assert text in page
    assert "penalty" not in page
    assert page.count('<svg role="img"') + page.count("<svg ") >= 3
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_table_goes_from_the_best_to_the_failed(content: dict[str, Any]) -> None:
    page = build_sweep_page(content, command=None)
    rows = [line for line in page.splitlines() if line.startswith('<tr><th class="row" scope="row">')]
    assert [row.split('scope="row">')[1].split("<")[0] for row in rows] == ["3", "0", "2"]
    assert "<td>failed</td><td>0.2</td><td>0.5</td><td>uniform</td>" in rows[2]
    assert "To repeat it" not in page


def test_without_a_scored_trial(content: dict[str, Any]) -> None:
    content |= {"trials": [content["trials"][1]], "best": None, "importances": {}}
    page = build_sweep_page(content, command=None)
    assert "No trial was scored." in page
    assert "<svg" not in page
    assert (history(content["trials"]), slices(content), importance({})) == (None, None, None)


def drawn_points(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[list[Any], list[float]]]:
    """What is handed to a method of the axes from now on."""
    seen: list[tuple[list[Any], list[float]]] = []
    really = getattr(Axes, name)

    def spy(self: Axes, x: Any, y: Any, *args: Any, **rest: Any) -> Any:
        seen.append((list(x), list(y)))
        return really(self, x, y, *args, **rest)

    monkeypatch.setattr(Axes, name, spy)
    return seen


def test_history_shows_scores_failures_and_the_best_so_far(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    points, steps = drawn_points(monkeypatch, "plot"), drawn_points(monkeypatch, "step")
    trials = [*content["trials"], trial(4, 0.25)]
    assert history(trials) is not None
    assert ([0, 3, 4], [50.0, 75.0, 25.0]) in points
    assert ([2], [25.0 - 0.05 * 50]) in points
    assert steps == [([0, 3, 4], [50.0, 75.0, 75.0])]


def test_slices_show_each_setting_against_the_score(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    points, crosses = drawn_points(monkeypatch, "scatter"), drawn_points(monkeypatch, "plot")
    assert slices(content) is not None
    assert points == [([0.1, 0.0123456], [50.0, 75.0]), ([0.25, 0.75], [50.0, 75.0]), ([1, 0], [50.0, 75.0])]
    assert [x for x, _ in crosses] == [[0.2], [0.5], [1]]


def test_importance_is_a_bar_each_the_largest_on_top(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    bars = drawn_points(monkeypatch, "barh")
    assert importance(content["importances"]) is not None
    assert bars == [(["noise_law", "damping", "additive"], [0.0, 30.0, 70.0])]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123456, "0.01235"), (3, "3"), (True, "True"), ("a", "a"), (1e-9, "1e-09")]
)
def test_values_are_short(value: Any, text: str) -> None:
    assert shown(value) == text


def test_the_score_names_its_number_of_sequences(content: dict[str, Any]) -> None:
    assert "score 75.00 % on 5 validation sequences" in words(build_sweep_page(content, command=None))
    for one in content["trials"]:
        for run in one["columns"] or []:
            run[0].pop("sequences", None)  # a sweep of an earlier version
    assert "score 75.00 %</dd>" in words(build_sweep_page(content, command=None))


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.01, 1.0), (1e-5, 0.1), (0.003, 0.03), (0.0005, 0.002), (16, 512), (1e-8, 1e6), (0.11, 0.19), (1, 1.02)],
)
def test_tick_labels_of_log_axes_do_not_overlap(low: float, high: float) -> None:
    figure, axes = grid(3, across=3)
    for axis in axes:
        log_axis(axis, low, high)
    figure.draw_without_rendering()
    for axis in axes:
        labels = [label for label in axis.get_xticklabels(which="both") if label.get_text()]
        boxes = [label.get_window_extent() for label in labels]
        assert 2 <= len(boxes) <= 4
        assert all(low <= float(label.get_text()) <= high for label in labels)
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
