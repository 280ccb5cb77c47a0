import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from tests.report.conftest import column

from noisyrnn.report import figures, read_run
from noisyrnn.report.comparison import Comparison, compare
from noisyrnn.report.figures import COLOURS, POINTS, Figure, colour, heatmap, trace

Make = Callable[..., Path]


def accuracy_curves(comparison: Comparison, *, chance: float | None) -> Figure | None:
    return figures.score_curves(comparison.main, comparison.labels, chance=chance)


def training_curves(comparison: Comparison) -> Figure | None:
    return figures.training_curves(comparison.groups)


@pytest.fixture(scope="module")
def comparison(runs: list[Path]) -> Comparison:
    return compare([read_run(path) for path in runs])


@pytest.mark.usefixtures("no_pdf")
def test_accuracy_curves_have_a_panel_for_each_perturbation(comparison: Comparison) -> None:
    figure = accuracy_curves(comparison, chance=0.1)
    assert figure is not None
    texts = [element.text for element in ElementTree.fromstring(figure.svg).iter() if element.tag.endswith("text")]
    assert texts.count("White noise") == texts.count("PGD ℓ∞") == 1
    assert {"strength σ", "strength ϵ", "test accuracy (%)", "noisy", "lipschitz", "lstm"} <= set(texts)
    assert "Clean" not in texts
    assert "cornn" not in texts


@pytest.mark.slow
def test_figures_are_the_same_every_time(comparison: Comparison) -> None:
    assert accuracy_curves(comparison, chance=0.1) == accuracy_curves(comparison, chance=0.1)
    assert training_curves(comparison) == training_curves(comparison)


def test_figures_of_the_page_take_its_colours_and_those_for_a_paper_do_not(comparison: Comparison) -> None:
    figure = training_curves(comparison)
    assert figure is not None
    paper = base64.b64decode(figure.files["svg"].split(",")[1]).decode()
    assert "currentColor" in figure.svg
    assert "var(--rule)" in figure.svg
    assert "currentColor" not in paper
    assert "<dc:date>" not in paper
    assert base64.b64decode(figure.files["pdf"].split(",")[1]).startswith(b"%PDF")
    for label in range(3):
        assert COLOURS[label].lower() in figure.svg


@pytest.mark.usefixtures("no_pdf")
def test_curves_run_through_the_means(comparison: Comparison) -> None:
    """Heights of the markers, read back from the figure, are those of the means."""
    figure = accuracy_curves(comparison, chance=None)
    assert figure is not None
    markers = re.findall(r'<use href="#\w+" x="(?!0")([\d.]+)" y="([\d.]+)" style="fill: #0072b2', figure.svg)
    heights = [float(y) for _, y in markers]
    # The panels hold (0.95, 0.85) and (0.95, 0.6) for the first label; the legend's marker comes last.
    assert len(heights) == 5
    clean, white, clean_again, pgd = heights[:4]
    assert clean == clean_again
    assert (pgd - clean) / (white - clean) == pytest.approx(0.35 / 0.1, rel=1e-4)


def test_nothing_but_clean_gives_no_curves(make_run: Make) -> None:
    run = read_run(make_run(label="a", seed=1, columns=[column("clean", None, 0.9)]))
    assert accuracy_curves(compare([run]), chance=None) is None


def test_no_metrics_or_only_failed_runs_give_no_training_curves(make_run: Make) -> None:
    failed = make_run(label="a", seed=1, summary={"status": "failed", "error": "broke"})
    silent = make_run(label="a", seed=2)
    (silent / "metrics.csv").unlink()
    assert training_curves(compare([read_run(failed), read_run(silent)])) is None


@pytest.mark.usefixtures("no_pdf")
@pytest.mark.parametrize("classes", [True, False])
def test_a_training_without_validation_has_its_own_curves(classes: bool, make_run: Make) -> None:
    folder = make_run(label="a", seed=1, epochs=3)
    kept = [0, 1, 2, 5, 6] if classes else [0, 1, 5, 6]
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    text = "\n".join(",".join(line[k] for k in kept) for line in lines)
    (folder / "metrics.csv").write_text(text + "\n", encoding="utf-8")
    figure = training_curves(compare([read_run(folder)]))
    assert figure is not None
    texts = [element.text for element in ElementTree.fromstring(figure.svg).iter() if element.tag.endswith("text")]
    assert ("Training accuracy" in texts) == classes
    assert texts.count("Training loss") == 1 and not any("Validation" in str(text) for text in texts)


@pytest.mark.usefixtures("no_pdf")
def test_long_trainings_keep_few_points(make_run: Make) -> None:
    short = training_curves(compare([read_run(make_run(label="a", seed=1, epochs=POINTS))]))
    long = training_curves(compare([read_run(make_run(label="a", seed=1, epochs=5 * POINTS))]))
    assert short is not None
    assert long is not None
    assert len(long.svg) < 1.2 * len(short.svg)


@pytest.mark.usefixtures("no_pdf")
def test_values_that_are_not_finite_are_left_out(make_run: Make) -> None:
    folder = make_run(label="a", seed=1, epochs=3)
    text = (folder / "metrics.csv").read_text(encoding="utf-8").replace("2.01", "nan").replace("1.01", "inf")
    (folder / "metrics.csv").write_text(text, encoding="utf-8")
    figure = training_curves(compare([read_run(folder)]))
    assert figure is not None
    assert "nan" not in figure.svg.lower()


@pytest.mark.usefixtures("no_pdf")
def test_awkward_labels_are_drawn_literally(make_run: Make) -> None:
    columns, labels = (
        [column("clean", None, 0.9), column("fgsm", 0.1, 0.5)],
        ["_hidden", "$\\frac$", "<b>&", "50 % more"],
    )
    runs = [read_run(make_run(label=label, seed=1, columns=columns)) for label in labels]
    figure = accuracy_curves(compare(runs), chance=None)
    assert figure is not None
    texts = ["".join(element.itertext()) for element in ElementTree.fromstring(figure.svg).iter()]
    assert set(labels) <= {text.strip() for text in texts}


def test_more_labels_than_colours_begin_again() -> None:
    assert colour(len(COLOURS)) == colour(0)
    assert len(set(COLOURS)) == len(COLOURS)


def test_heatmap_shows_the_values() -> None:
    image = np.array([[0.0, 0.5, 1.0], [2.0, -1.0, 0.25]])
    data = heatmap(image, value_range=(0.0, 1.0)).removeprefix("data:image/png;base64,")
    pixels = imread(io.BytesIO(base64.b64decode(data)))[:, :, 0]
    assert pixels == pytest.approx(np.array([[0.0, 0.5, 1.0], [1.0, 0.0, 0.25]]), abs=1 / 255)


def test_trace_spans_its_box() -> None:
    lines = trace(np.array([[0.0, 1.0], [0.5, 1.0], [1.0, 0.0]]), value_range=(0.0, 1.0))
    assert lines == ["1.0,57.0 50.0,30.0 99.0,3.0", "1.0,3.0 50.0,3.0 99.0,57.0"]


def test_trace_of_a_constant_and_of_long_wide_inputs() -> None:
    assert trace(np.ones((2, 1)), value_range=(1.0, 1.0)) == ["1.0,57.0 99.0,57.0"]
    lines = trace(np.zeros((5000, 9)), value_range=(0.0, 1.0))
    assert [len(line.split()) for line in lines] == [POINTS] * 4
