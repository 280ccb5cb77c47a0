"""Figures of the diagnostics: curves with bands over seeds, loss landscapes of all models on one scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from noisyrnn.report.analysis import Curve, Landscape
from noisyrnn.report.figures import INK, STYLE, Figure, colour, grid, legend, line_style, literal, render
from noisyrnn.report.results import Group
from noisyrnn.report.table import group_title, kind_title

# A log axis shows this many decades below the highest value; lower values are drawn at its lower end.
DECADES = 6
LEVELS = 12
COLOURS = "viridis"


@dataclass(frozen=True, kw_only=True)
class FigureBlock:
    """A figure with its heading and the caption that explains how to read it."""

    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class Design:
    """Design of a figure of curves.

    Args:
        title: Heading.
        curves: Names of its curves, with their names in the legend; the second curve is dashed.
        log: Whether the vertical axis is logarithmic.
        zero: Whether to draw a line at zero.
        mark: Position on the horizontal axis with a vertical line; `None` for none.
        remark: First part of the caption.
    """

    title: str
    curves: Mapping[str, str]
    log: bool = False
    zero: bool = False
    mark: float | None = None
    remark: str = ""


# By the name of the file. A curve in none of them gets a default design under its own name.
DESIGNS = {
    "jacobian_norms": Design(title="State-to-state Jacobians over time", curves={"jacobian_norms": ""}),
    "gradient_norms": Design(title="Gradients over time", curves={"gradient_norms": ""}),
    "spectral_density": Design(title="Spectrum of the Hessian", curves={"spectral_density": ""}, log=True),
    "certified_accuracy": Design(
        title="Certified accuracy and attacks",
        curves={"certified_accuracy": "certified", "attack_accuracy": "attacked"},
        remark=(
            "Solid: the share of sequences certified at a radius, a lower bound on the accuracy of the smoothed "
            "classifier. Dashed: the share still classified correctly after an attack within the radius, an upper "
            "bound on the accuracy of the attacked classifier."
        ),
    ),
    "stabilization": Design(
        title="Largest Lyapunov exponent against noise level",
        curves={"stabilization": ""},
        zero=True,
        remark="Below the dotted line at zero, nearby states converge.",
    ),
    "test_noise": Design(
        title="Hidden noise at test time",
        curves={"test_noise": ""},
        mark=1.0,
        remark="Each model with its own hidden noise left on. The dotted line marks the level of training.",
    ),
}


def curve_blocks(groups: Sequence[Group]) -> list[FigureBlock]:
    """Return a figure for each kind of curve with a finite value in at least one run."""
    found = dict.fromkeys(name for group in groups for analysis in group.analyses.values() for name in analysis.curves)
    known = {name for design in DESIGNS.values() for name in design.curves}
    plain = {name: Design(title=group_title(name), curves={name: ""}) for name in found if name not in known}
    blocks = []
    for name, design in (DESIGNS | plain).items():
        curves = {curve_name: _curves(groups, curve_name) for curve_name in design.curves}
        if any(curves.values()):
            blocks.append(_curve_block(name, design, curves))
    return blocks


def _curves(groups: Sequence[Group], name: str) -> dict[tuple[int, str], list[Curve]]:
    """Return the curves with a finite value by position and label, one per seed."""
    by_label = {}
    for position, group in enumerate(groups):
        curves = [analysis.curves[name] for analysis in group.analyses.values() if name in analysis.curves]
        curves = [curve for curve in curves if any(map(math.isfinite, curve.y))]
        if curves:
            by_label[position, group.label] = curves
    return by_label


@dataclass
class _Caption:
    """Facts about a figure of curves, collected while drawing, and their text."""

    over_seeds: bool = False
    own_bands: dict[str, None] = field(default_factory=dict)
    apart: bool = False
    kinds: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    def text(self, remark: str) -> str:
        sentences = [remark] if remark else []
        if self.over_seeds:
            sentences.append("Lines are means over the seeds with a value; bands range from the lowest to the highest.")
        if self.own_bands:
            sentences.append(f"For a model with one seed the band is {' and '.join(self.own_bands)}.")
        if self.apart:
            sentences.append(
                "Seeds with values at different positions or of different kinds are drawn as separate lines."
            )
        sentences.append(f"Kind of the values: {'; '.join(self.kinds)}.")
        return " ".join([*sentences, *map(_sentence, self.notes)])


def _curve_block(name: str, design: Design, curves: Mapping[str, Mapping[tuple[int, str], list[Curve]]]) -> FigureBlock:
    caption = _Caption()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure, (axis,) = grid(1, across=1)
        highest = 0.0
        for style, (curve_name, role) in zip(("-", "--"), design.curves.items(), strict=False):
            for (position, label), seeds in curves[curve_name].items():
                look = line_style(position, markers=bool(role))
                if role:
                    look |= {"linestyle": style, "markevery": (0.05 + 0.06 * position, 0.3)}
                highest = max(highest, _draw(axis, seeds, literal(label), look, caption))
                axis.set(xlabel=literal(seeds[0].xlabel), ylabel=literal(seeds[0].ylabel))
                for curve in seeds:
                    kind = kind_title(curve.kind, curve.confidence)
                    caption.kinds[f"{role}: {kind}" if role else kind] = None
            if role and curves[curve_name]:
                axis.plot([], [], color=INK, linestyle=style, label=role)
        if design.zero:
            axis.axhline(0, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        if design.mark is not None:
            axis.axvline(design.mark, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        if design.log and highest > 0:
            axis.set_yscale("log", nonpositive="mask")
            axis.set_ylim(highest / 10**DECADES, 2 * highest)
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        legend(figure, [axis])
        rendered = render(lambda _: figure, name, f"{design.title}, one line per model")
    return FigureBlock(title=design.title, caption=caption.text(design.remark), figure=rendered)


def _draw(axis: Axes, curves: Sequence[Curve], label: str, look: dict[str, Any], caption: _Caption) -> float:
    """Draw the curves of one label, one per seed, and return the highest value."""
    caption.notes |= dict.fromkeys(curve.note for curve in curves if curve.note)
    if len({(curve.x, curve.kind, curve.confidence) for curve in curves}) > 1:
        caption.apart = True
        for curve in curves:
            axis.plot(curve.x, curve.y, label=label, **look | {"linewidth": 0.9})
        return max(y for curve in curves for y in curve.y if math.isfinite(y))
    x, y = curves[0].x, np.ma.masked_invalid([curve.y for curve in curves])
    low, high = y.min(axis=0), y.max(axis=0)
    if len(curves) > 1:
        caption.over_seeds = True
    elif curves[0].low is not None and curves[0].high is not None:
        caption.own_bands[curves[0].band or "the 95 % interval of that run"] = None
        low, high = np.ma.masked_invalid(curves[0].low), np.ma.masked_invalid(curves[0].high)
    axis.fill_between(x, low, high, color=look["color"], alpha=0.16, linewidth=0)
    axis.plot(x, y.mean(axis=0), label=label, **look)
    return float(y.max())


@dataclass(frozen=True, kw_only=True)
class _Panel:
    position: int
    label: str
    seed: int
    landscape: Landscape

    @property
    def title(self) -> str:
        """The label, wrapped to a third of the page's width."""
        return literal("\n".join(wrap(self.label, 22)))

    @property
    def loss(self) -> np.ndarray:
        """Loss as `(betas, alphas)`, the order that matplotlib expects."""
        return np.array(self.landscape.loss).T


@dataclass(frozen=True)
class _Scale:
    """Scale of the loss that all panels share, linear or logarithmic; `low` and `high` are in drawn units."""

    log: bool
    low: float
    high: float

    @classmethod
    def of(cls, panels: Sequence[_Panel]) -> "_Scale":
        finite = np.concatenate([panel.loss[np.isfinite(panel.loss)] for panel in panels])
        low, high = float(finite.min()), float(finite.max())
        log = high > 0 and high > 10 * low >= 0
        if log:
            high = math.log10(high)
            low = max(math.log10(low) if low > 0 else -math.inf, high - DECADES)
        return cls(log, low, high if high > low else low + 1.0)

    def heights(self, loss: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            heights = np.log10(loss) if self.log else loss
        return np.where(np.isnan(heights), np.nan, np.maximum(heights, self.low))

    @property
    def norm(self) -> Normalize:
        return Normalize(self.low, self.high)

    def show_on(self, axis: Axis) -> None:
        """Put the ticks of `axis` at round losses."""
        axis.set_major_locator(MaxNLocator(5))
        if self.log:
            powers = range(math.floor(self.low), math.ceil(self.high) + 1)
            for digits in ((1, 2, 5), (1,)):
                ticks = [power + math.log10(digit) for power in powers for digit in digits]
                ticks = [tick for tick in ticks if self.low <= tick <= self.high]
                if len(ticks) <= 6:
                    break
            axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda height, _: f"{10**height if self.log else height:.4g}"))


def landscape_blocks(groups: Sequence[Group]) -> list[FigureBlock]:
    """Return contours and surfaces of each landscape, for all models side by side on one scale."""
    blocks = []
    analyses = [analysis for group in groups for analysis in group.analyses.values()]
    names = dict.fromkeys(name for analysis in analyses for name in analysis.landscapes)
    for name in names:
        panels = []
        for position, group in enumerate(groups):
            for seed, analysis in group.analyses.items():
                landscape = analysis.landscapes.get(name)
                if landscape is not None and any(math.isfinite(loss) for row in landscape.loss for loss in row):
                    panels.append(_Panel(position=position, label=group.label, seed=seed, landscape=landscape))
                    break
        if panels:
            blocks += _landscape_blocks(name, panels)
    return blocks


def _landscape_blocks(name: str, panels: Sequence[_Panel]) -> list[FigureBlock]:
    scale = _Scale.of(panels)
    plane = "; ".join(dict.fromkeys(panel.landscape.directions for panel in panels))
    caption = _landscape_caption(panels, scale)
    title = f"Loss landscape, {plane}"
    contours, surfaces = f"landscape_{name}_contours", f"landscape_{name}_surfaces"
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name, "savefig.dpi": 200, "axes.grid": False}):
        described = "of the loss of each model, on one scale"
        across = min(3, len(panels))
        flat = render(partial(_contours, panels, scale), contours, f"{title}: contours {described}", across=across)
        raised = render(partial(_surfaces, panels, scale), surfaces, f"{title}: surface {described}", across=across)
    return [
        FigureBlock(title=f"{title}: contours", caption=caption, figure=flat),
        FigureBlock(
            title=f"{title}: surfaces", caption="The same losses as surfaces, on the same scale.", figure=raised
        ),
    ]


def _landscape_caption(panels: Sequence[_Panel], scale: _Scale) -> str:
    sentences = [
        "Training loss on a plane through the trained weights, which are at (0, 0). All panels share one scale: the "
        "same axes, levels, colours and heights."
    ]
    if scale.log:
        sentences.append(
            "Levels are evenly spaced in the logarithm of the loss, since it spans more than a factor of ten."
        )
        if any(np.nanmin(panel.loss) < 10**scale.low * (1 - 1e-9) for panel in panels):
            sentences.append(f"Losses more than {DECADES} decades below the highest are drawn at that limit.")
    seeds = ", ".join(f"{panel.label} seed {panel.seed}" for panel in panels)
    sentences.append(f"Each model is shown with its lowest seed that has a finite loss: {seeds}.")
    for panel in panels:
        holes = int((~np.isfinite(panel.loss)).sum())
        if holes:
            sentences.append(f"{holes} of {panel.loss.size} losses of {panel.label} are not finite and are left blank.")
    notes = dict.fromkeys(panel.landscape.note for panel in panels if panel.landscape.note)
    return " ".join([*sentences, *map(_sentence, notes)])


def _sentence(note: str) -> str:
    return note if note.endswith(".") else f"{note}."


def _plane(panels: Sequence[_Panel]) -> dict[str, Any]:
    """Return limits and ticks of α and β, without ticks at the ends, where labels of two axes would overlap."""
    found: dict[str, Any] = {}
    for name in ("x", "y"):
        ends = [panel.landscape.alphas if name == "x" else panel.landscape.betas for panel in panels]
        limits = min(map(min, ends)), max(map(max, ends))
        found |= {f"{name}lim": limits, f"{name}ticks": np.linspace(*limits, 5)[1:-1]}
    return found


def _contours(panels: Sequence[_Panel], scale: _Scale, across: int) -> Canvas:
    figure, axes = grid(len(panels), across=across)
    levels = np.linspace(scale.low, scale.high, LEVELS + 1)
    for axis, panel in zip(axes, panels, strict=True):
        heights, plane = scale.heights(panel.loss), (panel.landscape.alphas, panel.landscape.betas)
        # Both ends extended: a rounding error leaves no hole at the lowest or highest loss.
        axis.contourf(*plane, heights, levels=levels, norm=scale.norm, cmap=COLOURS, extend="both")
        # Solid: matplotlib dashes negative levels, and the logarithm of a loss below 1 is one.
        lines: dict[str, Any] = {"colors": "white", "linewidths": 0.4, "linestyles": "solid", "alpha": 0.6}
        axis.contour(*plane, heights, levels=levels[1:-1], **lines)
        axis.plot(0, 0, marker="+", color="white", markersize=7, markeredgewidth=1.2)
        axis.set(xlabel="α", ylabel="β" if axis in axes[::across] else "", box_aspect=1, **_plane(panels))
        axis.tick_params(labelleft=axis in axes[::across])
        axis.set_title(panel.title, color=colour(panel.position))
    _colour_bar(figure, axes, scale, length=0.65)
    return figure


def _surfaces(panels: Sequence[_Panel], scale: _Scale, across: int) -> Canvas:
    figure, axes = grid(len(panels), across=across, projection="3d")
    for axis, panel in zip(axes, panels, strict=True):
        alphas, betas = np.meshgrid(panel.landscape.alphas, panel.landscape.betas)
        surface: Any = axis
        # Many small polygons: drawn as an image, which keeps the page small.
        surface.plot_surface(
            alphas,
            betas,
            scale.heights(panel.loss),
            norm=scale.norm,
            cmap=COLOURS,
            rcount=200,
            ccount=200,
            linewidth=0,
            antialiased=False,
            rasterized=True,
        )
        surface.set(xlabel="α", ylabel="β", zlim=(scale.low, scale.high), **_plane(panels))
        for side in (surface.xaxis, surface.yaxis, surface.zaxis):
            side.set_pane_color((0, 0, 0, 0))
            side.set_tick_params(labelsize=7, pad=-2)
            side.labelpad = -6
        scale.show_on(surface.zaxis)
        surface.zaxis.set_tick_params(pad=0)
        surface.set_title(panel.title, color=colour(panel.position))
    _colour_bar(figure, axes, scale, length=0.9)
    return figure


def _colour_bar(figure: Canvas, axes: Sequence[Axes], scale: _Scale, *, length: float) -> None:
    bar = figure.colorbar(ScalarMappable(scale.norm, COLOURS), ax=list(axes), shrink=length)
    bar.set_label("training loss")
    scale.show_on(bar.ax.yaxis)
