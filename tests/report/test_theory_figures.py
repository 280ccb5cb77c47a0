import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from mpl_toolkits.mplot3d.axes3d import Axes3D
from tests.report.analysis_files import LABELS, analysis, curve, landscape, write_analysis

from noisyrnn.report import read_run, theory_figures
from noisyrnn.report.comparison import compare
from noisyrnn.report.figures import COLOURS, Figure
from noisyrnn.report.results import Group
from noisyrnn.report.theory_figures import FigureBlock, curve_blocks, landscape_blocks

Make = Callable[..., Path]
Build = Callable[[dict[tuple[str, int], dict[str, Any]]], tuple[Group, ...]]


@pytest.fixture
def build(make_run: Make) -> Build:
    """The groups of a comparison, from the content of each run's `analysis.json`."""

    def make(contents: dict[tuple[str, int], dict[str, Any]]) -> tuple[Group, ...]:
        folders = [
            write_analysis(make_run(label=label, seed=seed), content) for (label, seed), content in contents.items()
        ]
        return compare([read_run(folder) for folder in folders]).groups

    return make


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Canvas]:
    """The figures drawn, by name, as matplotlib has them: nothing is rendered."""
    found: dict[str, Canvas] = {}

    def keep(draw: Callable[[int], Canvas], name: str, description: str, *, across: int = 1) -> Figure:
        found[name] = draw(across)
        return Figure(name=name, svg=Markup(), files={})

    monkeypatch.setattr(theory_figures, "render", keep)
    return found


def only_curve(name: str, *curves: dict[str, Any], label: str = "a") -> dict[tuple[str, int], dict[str, Any]]:
    return {(label, seed): {"curves": {name: entry}} for seed, entry in enumerate(curves, start=1)}


def texts(block: FigureBlock) -> set[str]:
    svg = ElementTree.fromstring(str(block.figure.svg))
    return {"".join(element.itertext()).strip() for element in svg.iter() if element.tag == "text"}


def line_data(figure: Canvas) -> list[tuple[list[float], list[float]]]:
    return [
        (np.ma.filled(np.ma.asarray(line.get_xdata(), float), np.nan).tolist(),
         np.ma.filled(np.ma.asarray(line.get_ydata(), float), np.nan).tolist())
        for line in figure.axes[0].lines
        if len(np.asarray(line.get_xdata()))
    ]  # fmt: skip


def band(figure: Canvas) -> tuple[float, float]:
    """Lowest and highest point of the first band."""
    heights = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]  # type: ignore[union-attr]
    return float(heights.min()), float(heights.max())


@pytest.mark.usefixtures("no_pdf")
def test_every_curve_has_its_figure(build: Build) -> None:
    contents = {(label, seed): analysis(label, seed) for label in LABELS for seed in (1, 2, 3)}
    blocks = curve_blocks(build(contents))
    names = ["jacobian_norms", "gradient_norms", "spectral_density", "certified_accuracy", "stabilization"]
    assert [block.figure.name for block in blocks] == names
    for block in blocks:
        assert all(COLOURS[position].lower() in block.figure.svg for position in range(3))
        assert set(LABELS) <= texts(block)
        assert len(block.figure.svg) < 60_000
    captions = {block.figure.name: block.caption for block in blocks}
    assert captions["jacobian_norms"] == (
        "Lines are means over the seeds with a value; bands range from the lowest to the highest. "
        "Kind of the values: exact. Mean over 20 sequences."
    )
    assert (
        "certified: certificate, confidence 99.9\N{NO-BREAK SPACE}%; attacked: certificate."
        in (captions["certified_accuracy"])
    )
    assert "drawn as separate lines" in captions["spectral_density"]


def test_figures_are_the_same_every_time(build: Build) -> None:
    comparison = build(only_curve("jacobian_norms", curve([0, 1], [1.0, 2.0])))
    assert curve_blocks(comparison) == curve_blocks(comparison)


def test_lines_are_means_over_seeds_and_bands_their_ends(build: Build, figures: dict[str, Canvas]) -> None:
    curve_blocks(build(only_curve("jacobian_norms", curve([0, 1], [1.0, 2.0]), curve([0, 1], [3.0, 7.0]))))
    figure = figures["jacobian_norms"]
    assert line_data(figure) == [([0.0, 1.0], [2.0, 4.5])]
    assert band(figure) == (1.0, 7.0)


def test_a_value_that_is_not_finite_is_left_out_of_the_mean(build: Build, figures: dict[str, Canvas]) -> None:
    curves = curve([0, 1, 2], [1.0, None, None]), curve([0, 1, 2], [3.0, 5.0, None])
    curve_blocks(build(only_curve("gradient_norms", *curves)))
    ((_, y),) = line_data(figures["gradient_norms"])
    assert y[:2] == [2.0, 5.0]
    assert math.isnan(y[2])


def test_curves_without_a_finite_value_are_not_drawn(build: Build, figures: dict[str, Canvas]) -> None:
    empty, full = curve([0.0, 1.0], [None, None]), curve([0.0, 1.0], [1.0, 2.0])
    assert curve_blocks(build(only_curve("spectral_density", empty) | only_curve("other", empty, label="b"))) == []
    (block,) = curve_blocks(build(only_curve("attack_accuracy", empty, full, curve([0.0, 2.0], [None, None]))))
    assert [y for _, y in line_data(figures["certified_accuracy"])] == [[1.0, 2.0]]
    assert "one by one" not in block.caption


def test_one_seed_has_its_own_band(build: Build, figures: dict[str, Canvas]) -> None:
    contents = only_curve(
        "stabilization", curve([0, 1], [1.0, 2.0], low=[0.5, 1.5], high=[1.5, 4.0], band="the middle half")
    )
    (block,) = curve_blocks(build(contents))
    assert band(figures["stabilization"]) == (0.5, 4.0)
    assert "For a model with one seed the band is the middle half." in block.caption
    seeds = [curve([0, 1], [y, 2.0], low=[0, 0], high=[3, 4], band="the middle half") for y in (1.0, 2.0)]
    (block,) = curve_blocks(build(only_curve("stabilization", *seeds)))
    assert block.caption.count("band") == 1 and "from the lowest to the highest" in block.caption
    zero = figures["stabilization"].axes[0].lines[-1]
    assert list(zero.get_ydata()) == [0, 0]
    (block,) = curve_blocks(build(only_curve("jacobian_norms", curve([0, 1], [1.0, 2.0]))))
    assert "band" not in block.caption
    assert all(list(line.get_ydata()) != [0, 0] for line in figures["jacobian_norms"].axes[0].lines)


@pytest.mark.parametrize("other", [{"x": [0.0, 2.0]}, {"kind": "estimate"}, {"confidence": 0.9}])
def test_seeds_that_are_not_alike_are_never_averaged(
    build: Build, figures: dict[str, Canvas], other: dict[str, Any]
) -> None:
    curves = curve([0.0, 1.0], [1.0, 2.0]), curve([0.0, 1.0], [3.0, 7.0]) | other
    (block,) = curve_blocks(build(only_curve("jacobian_norms", *curves)))
    figure = figures["jacobian_norms"]
    assert [y for _, y in line_data(figure)] == [[1.0, 2.0], [3.0, 7.0]]
    assert not figure.axes[0].collections
    assert len(figure.legends[0].get_texts()) == 1
    assert "drawn as separate lines" in block.caption
    assert "means" not in block.caption


def test_certificates_are_solid_and_attacks_dashed(build: Build, figures: dict[str, Canvas]) -> None:
    certified, attacked = curve([0, 1], [0.9, 0.1], kind="certificate"), curve([0, 1], [0.9, 0.5], kind="certificate")
    contents = {("a", 1): {"curves": {"certified_accuracy": certified, "attack_accuracy": attacked}}}
    (block,) = curve_blocks(build(contents | only_curve("attack_accuracy", attacked, label="b")))
    lines = [line for line in figures["certified_accuracy"].axes[0].lines if len(np.asarray(line.get_xdata()))]
    assert [(line.get_linestyle(), to_hex(line.get_color())) for line in lines] == [
        ("-", COLOURS[0].lower()),
        ("--", COLOURS[0].lower()),
        ("--", COLOURS[1].lower()),
    ]
    assert lines[0].get_ydata()[1] == 0.1
    legend = [text.get_text() for text in figures["certified_accuracy"].legends[0].get_texts()]
    assert legend == ["a", "certified", "b", "attacked"]
    assert block.caption.startswith("Solid: ")


def test_the_spectrum_has_a_log_axis_of_six_decades(build: Build, figures: dict[str, Canvas]) -> None:
    curve_blocks(build(only_curve("spectral_density", curve([0, 1, 2], [0.0, 50.0, 1e-30]))))
    axis = figures["spectral_density"].axes[0]
    assert axis.get_yscale() == "log"
    assert axis.get_ylim() == pytest.approx((50e-6, 100.0))


def test_a_curve_of_another_name_is_drawn_plainly(build: Build, figures: dict[str, Canvas]) -> None:
    (block,) = curve_blocks(build(only_curve("new_thing", curve([0, 1], [1.0, 2.0], xlabel="$x", ylabel="y"))))
    assert (block.title, block.figure.name) == ("New thing", "new_thing")
    assert figures["new_thing"].axes[0].get_xlabel() == r"\$x"


def test_no_curves_and_no_landscapes_give_no_figures(build: Build) -> None:
    comparison = build({("a", 1): {}})
    assert curve_blocks(comparison) == []
    assert landscape_blocks(comparison) == []


@pytest.mark.usefixtures("no_pdf")
def test_landscapes_are_drawn(build: Build) -> None:
    contents = {(label, seed): analysis(label, seed) for label in LABELS for seed in (1, 2)}
    for content in contents.values():
        del content["landscapes"]["filter"]
    contours, surfaces = landscape_blocks(build(contents))
    assert contours.title == "Loss landscape, leading eigenvectors: contours"
    assert surfaces.title == "Loss landscape, leading eigenvectors: surfaces"
    assert (contours.figure.name, surfaces.figure.name) == ("landscape_eigen_contours", "landscape_eigen_surfaces")
    for block in (contours, surfaces):
        assert set(LABELS) <= texts(block)
        assert len(block.figure.svg) < 200_000
        assert "#000000" not in block.figure.svg  # black would not show on the dark page
    assert "All panels share one scale: the same axes, levels, colours and heights." in contours.caption
    assert "noisy seed 1, lipschitz seed 1, lstm seed 1." in contours.caption
    assert contours.caption.endswith(" 256 sequences.")


def bowls(*sharpness: float) -> dict[tuple[str, int], dict[str, Any]]:
    return {(f"m{i}", 1): {"landscapes": {"eigen": landscape(value)}} for i, value in enumerate(sharpness)}


def test_all_landscapes_are_on_one_scale(build: Build, figures: dict[str, Canvas]) -> None:
    landscape_blocks(build(bowls(0.1, 100.0, 3.0)))
    highest = math.log10(0.02 + 100 + 50 * (1 + 0.3 * math.sin(3)))
    scale = pytest.approx((math.log10(0.02), highest))
    *panels, bar = figures["landscape_eigen_contours"].axes
    assert len(panels) == 3
    for axis in panels:
        filled = axis.collections[0]
        assert (filled.norm.vmin, filled.norm.vmax) == scale
        levels = [level for level in filled.levels if math.isfinite(level)]  # type: ignore[attr-defined]
        assert (levels[0], levels[-1]) == scale
        assert np.ptp(np.diff(levels)) < 1e-12
        assert filled.extend == "both"  # type: ignore[attr-defined]
        assert (axis.get_xlim(), axis.get_ylim()) == ((-1, 1), (-1, 1))
    assert bar.get_ylim() == scale
    assert [bar.yaxis.get_major_formatter()(tick) for tick in bar.get_yticks()] == ["0.1", "1", "10", "100"]
    *raised, bar = figures["landscape_eigen_surfaces"].axes
    for axis in raised:
        (surface,) = (found for found in axis.collections if isinstance(found, Poly3DCollection))
        assert (surface.norm.vmin, surface.norm.vmax) == scale
        assert axis.get_zlim() == scale  # type: ignore[attr-defined]
        assert surface.get_rasterized()
    assert bar.get_ylim() == scale


@pytest.mark.parametrize(("highest", "drawn", "log"), [(9.0, 9.0, False), (100.0, 2.0, True), (11.0, 1.0414, True)])
def test_losses_within_a_factor_of_ten_keep_a_linear_scale(
    build: Build, figures: dict[str, Canvas], highest: float, drawn: float, log: bool
) -> None:
    content = landscape(0.1) | {"alphas": [0, 1], "betas": [0, 1], "loss": [[1.0, 2.0], [3.0, highest]]}
    contours, _ = landscape_blocks(build({("a", 1): {"landscapes": {"eigen": content}}}))
    norm = figures["landscape_eigen_contours"].axes[0].collections[0].norm
    assert (norm.vmin, norm.vmax) == pytest.approx((0.0 if log else 1.0, drawn), abs=1e-4)
    assert ("logarithm" in contours.caption) == log


def test_planes_of_unequal_extent_share_the_larger_one(build: Build, figures: dict[str, Canvas]) -> None:
    wide = landscape(1.0) | {"alphas": [-3, 4], "betas": [-2, 1], "loss": [[1, 2], [3, 4]]}
    landscape_blocks(build(bowls(1.0) | {("wide", 1): {"landscapes": {"eigen": wide}}}))
    for kind in ("contours", "surfaces"):
        for axis in figures[f"landscape_eigen_{kind}"].axes[:2]:
            assert axis.get_xlim() == pytest.approx((-3, 4))
            assert axis.get_ylim() == pytest.approx((-2, 1))


def test_rows_are_alphas_and_alpha_is_drawn_across(
    build: Build, figures: dict[str, Canvas], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}
    for kind, axes in (("contourf", Axes), ("plot_surface", Axes3D)):
        original = getattr(axes, kind)

        def record(self: Axes, *args: Any, kind: str = kind, original: Any = original, **options: Any) -> Any:
            drawn[kind] = [np.array(values).tolist() for values in args]
            return original(self, *args, **options)

        monkeypatch.setattr(axes, kind, record)
    content = landscape(1.0) | {"alphas": [-1, 0, 1], "betas": [-2, 2], "loss": [[1, 1], [2, 2], [3, 4]]}
    landscape_blocks(build({("a", 1): {"landscapes": {"eigen": content}}}))
    heights = [[1, 2, 3], [1, 2, 4]]
    assert drawn["contourf"] == [[-1, 0, 1], [-2, 2], heights]
    assert drawn["plot_surface"] == [[[-1, 0, 1], [-1, 0, 1]], [[-2, -2, -2], [2, 2, 2]], heights]
    axis = figures["landscape_eigen_contours"].axes[0]
    assert (axis.get_xlim(), axis.get_ylim()) == ((-1, 1), (-2, 2))


def test_losses_that_are_not_finite_are_left_blank_and_counted(build: Build, figures: dict[str, Canvas]) -> None:
    contents = bowls(1.0, 2.0)
    contents["m1", 1]["landscapes"]["eigen"]["loss"][0] = [None] * 21
    contours, _ = landscape_blocks(build(contents))
    assert "21 of 441 losses of m1 are not finite and are left blank." in contours.caption
    assert "of m0" not in contours.caption


def test_a_seed_without_a_finite_loss_is_passed_over(build: Build, figures: dict[str, Canvas]) -> None:
    broken = landscape(1.0) | {"loss": [[None] * 21] * 21}
    contents = {("a", 1): broken, ("a", 2): landscape(1.0), ("b", 1): broken}
    contours, _ = landscape_blocks(build({run: {"landscapes": {"eigen": it}} for run, it in contents.items()}))
    assert "that has a finite loss: a seed 2." in contours.caption
    assert len(figures["landscape_eigen_contours"].axes) == 2  # one panel and the colour bar
    assert landscape_blocks(build({("b", 1): {"landscapes": {"eigen": broken}}})) == []


def test_losses_far_below_the_highest_are_drawn_at_the_foot(build: Build, figures: dict[str, Canvas]) -> None:
    content = landscape(1.0) | {"alphas": [0, 1], "betas": [0, 1], "loss": [[0.0, 1e-9], [1.0, 1000.0]]}
    contours, _ = landscape_blocks(build({("a", 1): {"landscapes": {"eigen": content}}}))
    norm = figures["landscape_eigen_contours"].axes[0].collections[0].norm
    assert (norm.vmin, norm.vmax) == pytest.approx((-3.0, 3.0))
    assert "Losses more than 6 decades below the highest are drawn at that limit." in contours.caption


def test_a_flat_landscape_is_drawn(build: Build, figures: dict[str, Canvas]) -> None:
    content = landscape(1.0) | {"loss": [[2.0] * 21] * 21}
    landscape_blocks(build({("a", 1): {"landscapes": {"eigen": content}}}))
    norm = figures["landscape_eigen_contours"].axes[0].collections[0].norm
    assert (norm.vmin, norm.vmax) == (2.0, 3.0)


def test_awkward_labels_are_drawn_literally(build: Build, figures: dict[str, Canvas]) -> None:
    label = "$\\frac$ and a name that is much longer than a panel"
    content = {"landscapes": {"eigen": landscape(1.0)}, "curves": {"jacobian_norms": curve([0, 1], [1.0, 2.0])}}
    comparison = build({(label, 1): content})
    curve_blocks(comparison)
    landscape_blocks(comparison)
    title = figures["landscape_eigen_contours"].axes[0].get_title(loc="left")
    assert title == "\\$\\frac\\$ and a name\nthat is much longer\nthan a panel"
    assert figures["jacobian_norms"].legends[0].get_texts()[0].get_text().startswith("\\$\\frac\\$")


def test_the_level_of_training_is_marked(build: Build, figures: dict[str, Canvas]) -> None:
    (block,) = curve_blocks(build(only_curve("test_noise", curve([0, 1, 2], [3.0, 2.0, 1.0]))))
    assert list(figures["test_noise"].axes[0].lines[-1].get_xdata()) == [1, 1]
    assert "The dotted line marks the level of training." in block.caption
