"""The figures of the mathematics page: `python docs/figures.py [NAME...]` draws them into `docs/figures/`."""

import math
import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import noisyrnn
from noisyrnn import FunctionDiffusion, HiddenNoise, NoisyRNN, RateRNN, SequenceClassifier, TrainConfig, analysis
from noisyrnn.analysis.dynamics.stability import expected_log
from noisyrnn.models import Cell
from noisyrnn.noise import BrownianPath
from noisyrnn.report.figures import COLOURS, DASHES, MARKERS, STYLE
from noisyrnn.robustness import WhiteNoise, evaluate, seeds_interval

FOLDER = Path(__file__).parent / "figures"
DRAWS = 5
"""Draws of each noise on the test data."""


def mark(position: int) -> dict[str, Any]:
    """Colour, marker and dashes of the curve at `position`."""
    return {"color": COLOURS[position], "marker": MARKERS[position], "linestyle": DASHES[position]}


def paths(axes: Axes) -> None:
    """One unit of a noisy RNN along several noise paths, and without noise."""
    torch.manual_seed(1)
    layer = (
        NoisyRNN(1, 16, step_size=0.05, init_std=2.0, damping=0.5, additive=0.03, multiplicative=0.02).double().eval()
    )
    steps = 200
    inputs = torch.sin(torch.arange(steps, dtype=torch.float64) / 15)[None, :, None]
    with torch.no_grad():
        quiet = layer(inputs)[0][0, :, 0]
        layer.noise_mode = "on"
        noisy = layer(inputs.repeat(12, 1, 1), path=BrownianPath(seed=1))[0][:, :, 0]
    axes.plot(noisy.T, color=COLOURS[0], linewidth=0.7, alpha=0.6, label=["with noise"] + ["_"] * 11)
    axes.plot(quiet, color="black", linewidth=1.8, label="without")
    axes.set(xlabel="step m", ylabel="one hidden unit")
    axes.legend()


def strong_order(axes: Axes) -> None:
    """Strong error of the schemes at time 1 against the step."""
    finest, levels, count = 12, range(3, 9), 1000
    path, start = BrownianPath(seed=1), torch.ones(1, count, 1, dtype=torch.float64)
    proportional = FunctionDiffusion(lambda h, x, t: h, diagonal=True)

    def end(level: int, *, rate: float, **options: Any) -> Tensor:
        """States at time 1 of `dh = rate h dt + σ dB` by 2^level steps."""
        factor = 2 ** (finest - level)
        options |= {"activation": "identity", "noise_units": "per_time", "dtype": torch.float64}
        layer = RateRNN(1, 1, tau=1.0, step_size=2.0**-finest, **options)
        with torch.no_grad():
            layer.cell.W.fill_(1 + rate)  # the drift is -h + W h
            layer.cell.input.bias.zero_()
            inputs = torch.zeros(count, 2**level, 1, dtype=torch.float64)
            return layer(inputs, start, path=path.coarsened(factor), dt=float(factor))[1]

    brownian = path.coarsened(2**finest).normals(steps=1, batch=count, units=1, motions=1, dtype=start.dtype)[0]
    geometric = {"rate": 0.5, "diffusion": proportional}
    additive = {"rate": -1.5, "additive": 0.8}
    cases: tuple[tuple[str, dict[str, Any], Tensor], ...] = (
        ("Euler-Maruyama, noise ∝ h: order ½", geometric, torch.exp(brownian)),
        ("Euler-Maruyama, additive noise: order 1", additive, end(finest, **additive)),
        ("Milstein, noise ∝ h: order 1", {**geometric, "scheme": "milstein"}, torch.exp(brownian)),
    )
    for position, (label, options, exact) in enumerate(cases):
        errors = [float((end(level, **options) - exact).abs().mean()) for level in levels]
        axes.loglog([2.0**-level for level in levels], errors, label=label, **mark(position))
    axes.set(xlabel="step δ", ylabel="mean error at time 1")
    axes.legend()


def regularizer(axes: Axes) -> None:
    """The rise of the loss by the noise over the square of its scale: simulated, and to second order."""
    torch.manual_seed(0)
    layer = NoisyRNN(2, 6, step_size=0.3, init_std=2.0, damping=0.3, additive=0.1, multiplicative=0.2)
    model = SequenceClassifier(layer, classes=3).double()
    inputs, labels = torch.randn(1, 15, 2, dtype=torch.float64), torch.tensor([0])
    exact = float(analysis.explicit_regularizer(model, inputs, labels).total.detach())
    scales = [0.125, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0]
    found = [
        analysis.antithetic_regularizer(model, inputs, labels, scale=scale, pairs=40000, seed=1) for scale in scales
    ]
    axes.axhline(exact, color="black", linestyle=DASHES[1], label="½ (P + Q), exact")
    values = [float(one.value) for one in found]
    reach = [float(one.interval()[1] - one.value) for one in found]
    axes.errorbar(scales, values, reach, color=COLOURS[0], marker="o", linestyle="", capsize=2, label="simulated")
    axes.set(xlabel="scale s of the noise", ylabel="(E ℓ − ℓ) / s²")
    axes.legend()


class LinearCell(Cell):
    """A single unit that moves away from zero, Δ = g δ h."""

    def __init__(self, rate: float, step_size: float) -> None:
        super().__init__(1, 1)
        self.growth = torch.nn.Parameter(torch.tensor(rate * step_size, dtype=torch.float64))

    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        """The growth in one step; the inputs have no effect."""
        return self.growth * state


def stabilization(axes: Axes) -> None:
    """The Lyapunov exponent of an unstable unit against the level of its multiplicative noise."""
    rate, step_size = 0.5, 0.01
    cell = LinearCell(rate, step_size)
    levels = [0.0, 0.5, 1.0, 1.5, 2.0]
    # Relative noise m of a step's increment g δ h is the diffusion s h with m = s / (g √δ).
    noise = HiddenNoise(multiplicative=1 / (rate * math.sqrt(step_size)))
    found = analysis.stabilization_scan(
        cell, torch.zeros(1, 2000, 1, dtype=torch.float64), levels=levels, noise=noise, paths=64, step_size=step_size
    )
    fine = torch.linspace(0, 2, 100)
    axes.axhline(0, color="black", linewidth=0.7)
    axes.plot(fine, rate - fine**2 / 2, color="black", linestyle=DASHES[1], label="g − s² / 2")
    growth = 1 + rate * step_size
    in_steps = [
        (math.log(growth) + expected_log(s * math.sqrt(step_size) / growth)) / step_size for s in fine[1:].tolist()
    ]
    axes.plot(fine[1:], in_steps, color=COLOURS[1], label="with steps of 0.01")
    axes.errorbar(
        levels, found.value, found.interval()[1] - found.value, color=COLOURS[0], marker="o", linestyle="", capsize=2,
        label="measured",
    )  # fmt: skip
    axes.set(xlabel="level s of the noise", ylabel="largest Lyapunov exponent")
    axes.legend()


def robustness(axes: Axes) -> None:
    """Accuracy on noisy digits of one network, trained with and without hidden noise."""
    data = noisyrnn.load_dataset("digits")
    strengths, seeds = [0.0, 0.1, 0.2, 0.3, 0.4], (1, 2, 3)
    for position, (label, levels) in enumerate(
        {"trained with noise": (0.05, 0.02), "trained without": (0.0, 0.0)}.items()
    ):
        rates: list[list[list[float]]] = [[] for _ in strengths]
        for seed in seeds:
            torch.manual_seed(seed)
            layer = NoisyRNN(1, 64, step_size=1.0, additive=levels[0], multiplicative=levels[1])
            model = SequenceClassifier(layer, classes=10)
            settings = TrainConfig(
                hidden_size=64, epochs=25, decay_epochs=(20,), batch_size=32, learning_rate=0.01, clip_norm=1.0,
                seed=seed,
            )  # fmt: skip
            noisyrnn.fit(model, data, settings)
            for column, strength in zip(rates, strengths, strict=True):
                draws = DRAWS if strength else 1
                result = evaluate(model, data.test, WhiteNoise(strength), draws=draws)
                column.append([count / draws for count in result.correct])
        intervals = [seeds_interval(column, draws=DRAWS) for column in rates]
        axes.plot(strengths, [100 * one.mean for one in intervals], label=label, **mark(position))
        low, high = [100 * one.low for one in intervals], [100 * one.high for one in intervals]
        axes.fill_between(strengths, low, high, color=COLOURS[position], alpha=0.15)
        print(label, [f"{100 * one.mean:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]" for one in intervals])
    axes.set(xlabel="white noise σ on the test inputs", ylabel="accuracy, %")
    axes.legend()


FIGURES = {
    "paths": paths,
    "strong_order": strong_order,
    "regularizer": regularizer,
    "stabilization": stabilization,
    "robustness": robustness,
}


def main(names: list[str]) -> None:
    """Draw the figures called `names`, all by default; the same bits each time on one machine."""
    FOLDER.mkdir(exist_ok=True)
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "noisyrnn"}):
        for name in names or FIGURES:
            figure = Figure(figsize=(5.6, 3.2), layout="constrained")
            FIGURES[name](figure.add_subplot())
            figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1:])
