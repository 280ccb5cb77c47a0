"""The page of a sweep."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot, rcParams

from noisyrnn.report.sweep import short, write_sweep_page
from noisyrnn.report.sweep_figures import plots
from noisyrnn.robustness import METRICS

optuna = pytest.importorskip("optuna")


def trial(number: int, score: float | None, **values: Any) -> dict[str, Any]:
    cell = {"perturbation": "white_noise", "strength": 0.2, "unit": "", "accuracy": score, "interval": [0.25, 0.875]}
    return {
        "number": number,
        "values": values,
        "score": score,
        "columns": None if score is None else [[{**cell, "sequences": 5}]] * 2,
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
    }


@pytest.fixture
def study(content: dict[str, Any]) -> Any:
    """The study of the same trials."""
    floats, law = optuna.distributions.FloatDistribution, optuna.distributions.CategoricalDistribution
    places = {"additive": floats(0.01, 1.0, log=True), "damping": floats(0.0, 1.0)}
    places["noise_law"] = law(("gaussian", "uniform"))
    study = optuna.create_study(direction="maximize")
    for one in content["trials"]:
        state = optuna.trial.TrialState.PRUNED if one["score"] is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(
            optuna.create_trial(state=state, value=one["score"], params=one["values"], distributions=places)
        )
    return study


def page_of(content: dict[str, Any], study: Any, folder: Path, command: str | None = None) -> str:
    write_sweep_page(content, study, folder / "s.html", command=command)
    return " ".join((folder / "s.html").read_text().split())


def test_the_page_shows_what_was_searched_and_found(
    content: dict[str, Any], study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_of(content, study, tmp_path, "noisyrnn sweep --model 'a & b'")
    for text in (
        "<h1>Sweep of noisy on waves</h1>",
        "<pre>noisyrnn sweep --model &#39;a &amp; b&#39;</pre>",
        "<dd>3 of 5, of which 1 failed</dd>",
        "mean accuracy on the validation data: White noise σ 0.2; 3 draws",
        "<dt><code>additive</code></dt><dd>0.01 to 1, log scale</dd>",
        "<dt><code>damping</code></dt><dd>0 to 1</dd>",
        "<dt><code>noise_law</code></dt><dd>gaussian, uniform</dd>",
        "<dt>Trial</dt><dd>3, score 75.00 % on 5 validation sequences</dd>",
        "<dt><code>additive</code></dt><dd>0.01235</dd>",
        "<dd>75.0 [25.0, 87.5], 75.0 [25.0, 87.5] %</dd>",
        "It became &lt;non-finite&gt;.",
        "<dt><code>epochs</code></dt><dd><code>7</code></dd>",
        "<h2>Trials in order</h2>",
        "<h2>Score against each setting</h2>",
    ):
        assert text in page
    assert "penalty" not in page
    assert page.count("<svg ") >= 2
    assert ">score: validation accuracy (%)</text>" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    rows = page.split('<tr><th class="row" scope="row">')[1:]
    assert [row.split("<")[0] for row in rows] == ["3", "0", "2"]  # from the best to the failed
    assert "<td>failed</td><td>0.2</td><td>0.5</td><td>uniform</td>" in rows[2]
    monkeypatch.setattr("noisyrnn.report.sweep.plots", lambda study, metric: [])
    assert "also continues an interrupted sweep" not in page_of(content, study, tmp_path)


def test_without_a_scored_trial(content: dict[str, Any], study: Any, tmp_path: Path) -> None:
    content |= {"trials": [content["trials"][1]], "best": None}
    page = page_of(content, study, tmp_path)
    assert "No trial was scored." in page
    assert "<svg" not in page


@pytest.mark.parametrize("settings", [1, 3])
def test_plots_are_whole_and_leave_the_style_and_no_figure_behind(
    study: Any, settings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(draw: Any, name: str, description: str, *, across: int) -> str:
        figure = draw(across)
        figure.draw_without_rendering()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert drawn.x0 > -0.01 and drawn.x1 < width + 0.01 and drawn.y0 > -0.01 and drawn.y1 < height + 0.01, name
        assert not any(label.get_text() for panel in figure.axes for label in panel.get_xticklabels(minor=True)), name
        return name

    monkeypatch.setattr("noisyrnn.report.sweep_figures.render", render)
    names = ["additive", "damping", "noise_law"][:settings]
    places = {name: study.trials[0].distributions[name] for name in names}
    study = optuna.create_study(direction="maximize")
    for number in range(20):
        law = ("gaussian", "uniform")[number % 2]
        values = {"additive": 0.1 + number / 40, "damping": 0.05 * (number % 7), "noise_law": law}
        values = {name: values[name] for name in names}
        study.add_trial(optuna.create_trial(value=number / 20, params=values, distributions=places))
    mine = pyplot.figure()
    before, figures = dict(rcParams), pyplot.get_fignums()
    titles = [title for title, _ in plots(study, METRICS["accuracy"])]
    assert titles == ["Trials in order", "Score against each setting", "Importance of each setting"]
    assert (dict(rcParams), pyplot.get_fignums()) == (before, figures)
    pyplot.close(mine)


def test_scores_stand_at_the_values_of_their_settings(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(
        "noisyrnn.report.sweep_figures.render",
        lambda draw, name, title, *, across: drawn.setdefault(name, draw(across)),
    )
    plots(study, METRICS["accuracy"])
    (in_order,) = drawn["sweep-trials"].axes
    trials, best = in_order.lines
    assert (trials.get_xdata().tolist(), trials.get_ydata().tolist()) == ([0, 2], [50.0, 75.0])
    assert best.get_ydata().tolist() == [50.0, 75.0] and {int(tick) for tick in in_order.get_xticks()} == set(
        in_order.get_xticks()
    )
    panels = {axis.get_title(loc="left"): axis for axis in drawn["sweep-settings"].axes}
    assert list(panels) == ["additive", "damping", "noise_law"]
    assert [axis.get_xscale() for axis in panels.values()] == ["log", "linear", "linear"]
    every, marked = panels["additive"].lines
    assert every.get_xdata().tolist() == [0.1, 0.0123456] and marked.get_xdata().tolist() == [0.0123456]
    law = panels["noise_law"]
    assert [label.get_text() for label in law.get_xticklabels()] == ["gaussian", "uniform"]
    assert law.lines[0].get_xdata().tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123456, "0.01235"), (3, "3"), (True, "True"), ("a", "a"), (1e-9, "1e-09")]
)
def test_values_are_short(value: Any, text: str) -> None:
    assert short(value) == text
