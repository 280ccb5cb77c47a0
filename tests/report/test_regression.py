"""Reports of regressions and of targets at every step, with numbers known by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.conftest import write, write_run

from noisyrnn.files import read_json
from noisyrnn.report import read_run
from noisyrnn.report.accuracy import caption, markdown
from noisyrnn.report.columns import Column
from noisyrnn.report.comparison import Comparison, compare
from noisyrnn.report.figures import score_curves, training_curves
from noisyrnn.report.page import build_page
from noisyrnn.robustness import METRICS, seeds_interval, seeds_test

SEQUENCES = 20
DATA = {"classes": 0, "class_names": [], "targets": 2, "value_range": None, "image_shape": None}


def scores(error: float, *, draws: int = 2) -> dict[str, Any]:
    """Scores of sequences whose squared errors are 0.5 to 1.5 times `error`, with targets of variance 4."""
    errors = [error * (0.5 + i / (SEQUENCES - 1)) for i in range(SEQUENCES)]
    each = {"r2": [1 - value / 4 for value in errors], "mean_squared_error": errors}
    return {
        name: {
            "mean": sum(values) / SEQUENCES,
            "interval": [0.0, 1.0],
            "draws": [sum(values) / SEQUENCES] * draws,
            "sequences": values,
            "guess": {"r2": 0.0, "mean_squared_error": 4.0}[name],
        }
        for name, values in each.items()
    }


def column(name: str, strength: float | None, error: float) -> dict[str, Any]:
    return {
        "perturbation": name,
        "strength": strength,
        "settings": name,
        "scores": scores(error),
        "sequences": SEQUENCES,
        "unit": "",
        "norm": "linf" if name == "fgsm" else None,
        "moved": True,
    }


Make = Callable[..., Comparison]


@pytest.fixture
def comparison(tmp_path: Path) -> Make:
    def make(**errors: tuple[float, float]) -> Comparison:
        runs = []
        for label, (clean, noisy) in errors.items():
            for seed in (1, 2, 3):
                folder = tmp_path / f"{label}-{seed}"
                columns = [
                    column("clean", None, clean * (1 + seed / 100)),
                    column("white_noise", 0.2, noisy * (1 + seed / 100)),
                ]
                write_run(folder, label=label, seed=seed, columns=columns, dataset=DATA)
                lines = ["epoch,train_loss,validation_loss,learning_rate,seconds"]
                lines += [f"{epoch},{2.0 / epoch},{1.0 / epoch},0.002,1.5" for epoch in (1, 2, 3, 4)]
                (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
                summary = read_json(folder / "summary.json")
                summary |= {"best_validation_accuracy": None, "best_validation_loss": 0.25}
                write(folder / "summary.json", summary)
                runs.append(read_run(folder))
        return compare(runs)

    return make


def test_each_metric_has_a_table_with_its_own_sense(comparison: Make) -> None:
    found = comparison(good=(0.1, 0.4), bad=(2.0, 3.0))
    assert list(found.tables) == ["r2", "mean_squared_error"] and found.main is found.tables["r2"]
    for metric, table in found.tables.items():
        assert [row.quantity.column for row in table.rows] == [
            Column("clean", 0.0, metric=metric),
            Column("white_noise", 0.2, metric=metric),
        ]
        for row in table.rows:
            assert row.marks == {"good": "best", "bad": ""}
            assert row.quantity.better == METRICS[metric].better
            assert row.test_texts("bad")["sign"] == "below"  # significantly worse, whichever the sense
    errors = found.tables["mean_squared_error"].rows[0]
    values = {
        label: [scores(base * (1 + seed / 100))["mean_squared_error"]["sequences"] for seed in (1, 2, 3)]
        for label, base in (("good", 0.1), ("bad", 2.0))
    }
    bounds = (0.0, math.inf)
    interval = seeds_interval(values["bad"], bounds=bounds)
    cell = errors.cells["bad"]
    assert (cell.mean, cell.low, cell.high) == pytest.approx((interval.mean, interval.low, interval.high))
    assert cell.mean == pytest.approx(2.0 * 1.02)
    expected = seeds_test(values["bad"], values["good"], bounds=bounds)
    assert errors.tests["bad"].difference == pytest.approx(expected.difference)
    assert errors.tests["bad"].p_value == pytest.approx(expected.p_value)


def test_the_texts_name_metric_unit_and_sense(comparison: Make) -> None:
    found = comparison(good=(0.1, 0.4), bad=(2.0, 3.0))
    text = markdown(found.tables, found.groups, found.notes)
    first, second = text.split("## Mean squared error")
    assert first.startswith("## R²\n\n| model | seeds | Clean |") and "**Bold**: highest mean" in first
    assert "**Bold**: lowest mean" in second and "in their squared units, lower is better" in second
    assert "| good | 3 | **0.9745** [" in first
    assert "counts with its worst value" not in text
    assert caption(found.tables["r2"], "r2").startswith(
        "R² of the test targets, higher is better, mean over seeds. It is"
    )


def test_a_model_that_is_no_better_than_the_mean_is_noted(comparison: Make) -> None:
    found = comparison(good=(0.1, 4.1), bad=(4.0, 5.0))
    assert found.notes == (
        "good is not significantly better than always predicting the mean of the targets (R² 0) under "
        "White noise σ 0.2.",
        "bad is not significantly better than always predicting the mean of the targets (R² 0) even on clean "
        "sequences.",
    )
    assert comparison(one=(4.0, 5.0), two=(4.0, 5.0)).notes == (
        "one and two are not significantly better than always predicting the mean of the targets (R² 0) even on clean "
        "sequences.",
    )


@pytest.mark.usefixtures("no_figures")
def test_page_and_json_hold_every_metric(comparison: Make) -> None:
    found = comparison(good=(0.1, 0.4), bad=(2.0, 3.0))
    content = found.to_dict()
    columns = content["labels"]["good"]["columns"]
    assert [(entry["metric"], entry["perturbation"]) for entry in columns] == [
        (metric, name) for metric in ("r2", "mean_squared_error") for name in ("clean", "white_noise")
    ]
    assert content["comparisons"] == 4
    page = build_page(found, title="A title", command=None)
    for text in (
        *("R² on clean and perturbed inputs", "Mean squared error on clean and perturbed inputs"),
        *("Mean squared error of each model minus that of good, with", "significantly lower, <span", "2 targets"),
        *("<td>0.25</td>", "Best validation loss is the lowest of all epochs"),
    ):
        assert text in page
    assert "percentage points" not in page and "0 classes" not in page


@pytest.mark.usefixtures("no_pdf")
def test_figures_of_a_regression(comparison: Make) -> None:
    found = comparison(good=(0.1, 0.4), bad=(2.0, 3.0))
    curves = score_curves(found.tables["mean_squared_error"], found.labels, metric="mean_squared_error")
    assert curves is not None and curves.name == "mean_squared_error" and "test mean squared error" in curves.svg
    training = training_curves(found.groups)
    assert training is not None and "Validation loss" in training.svg and "cross-entropy" not in training.svg


def test_damaged_scores_are_refused(tmp_path: Path) -> None:
    for number, change in enumerate(
        ({"r2": {"mean": 1.0}}, {"r2": scores(0.1)["r2"] | {"sequences": [2.0]}}, {"speed": scores(0.1)["r2"]})
    ):
        entry = column("clean", None, 0.1) | {"scores": change}
        folder = write_run(tmp_path / str(number), label="a", seed=1, columns=[entry], dataset=DATA)
        with pytest.raises(ValueError, match=r"^robustness\.json must hold complete columns and examples, got a dam"):
            read_run(folder)


@pytest.mark.usefixtures("no_figures")
def test_the_accuracy_of_steps_is_shown_in_per_cent(tmp_path: Path) -> None:
    shares = [i / (SEQUENCES - 1) for i in range(SEQUENCES)]
    score = {"mean": 0.5, "interval": [0.4, 0.6], "draws": [0.5], "sequences": shares, "guess": 0.55}
    entry = column("clean", None, 1.0) | {"scores": {"step_accuracy": score}}
    attack = column("fgsm", 0.1, 1.0) | {"scores": {"step_accuracy": score}}
    data = {"every_step": True, "value_range": None, "image_shape": None}
    found = compare([read_run(write_run(tmp_path / "a", label="a", seed=1, columns=[entry, attack], dataset=data))])
    text = markdown(found.tables, found.groups, found.notes)
    assert text.startswith("| model | seeds | Clean | FGSM ϵ 0.1 |\n") and "| a | 1 | 50.0 [" in text
    assert "Test accuracy of the steps in %, mean over seeds." in text and "counts with its worst value" not in text
    assert found.notes == (
        "a is not significantly better than always predicting the largest class (55.0 %) even on clean sequences.",
    )
    assert "10 classes at every step" in build_page(found, title="A", command=None)
