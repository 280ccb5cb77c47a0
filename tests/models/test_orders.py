"""Orders of the schemes, measured on layers: a path seen at fewer and fewer points is still the same path."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from noisyrnn import BrownianPath, FunctionDiffusion, LipschitzRNN, NoisyRNN, RateRNN, RecurrentLayer

PATHS, UNITS = 2000, 2
FINEST, LEVELS = 9, (3, 4, 5, 6)
"""Steps of length 2⁻⁹, and the levels compared with them, over unit time."""

MATRIX = [[0.8, 0.3, -0.2], [-0.5, 0.7, 0.4]]


def layer_of(kind: str, scheme: str) -> RecurrentLayer:
    options: dict[str, Any] = {"scheme": scheme, "learn_step": False, "step_size": 2.0**-FINEST, "init_std": 2.0}
    options |= {"noise_units": "per_time", "dtype": torch.float64}
    torch.manual_seed(6)
    if kind == "multiplicative":
        return NoisyRNN(1, UNITS, additive=0.8, multiplicative=0.8, **options)
    if kind == "additive":
        return NoisyRNN(1, UNITS, additive=0.8, multiplicative=0.0, **options)
    if kind == "correlated":
        return NoisyRNN(1, UNITS, diffusion=MATRIX, **options)
    size = {"strong diagonal": 2.0, "diagonal": 1.0, "weak diagonal": 0.4}[kind]  # what makes the leading term lead
    diffusion = FunctionDiffusion(lambda h, x, t: size * (1 + torch.sin(2 * h)), diagonal=True)
    return NoisyRNN(1, UNITS, diffusion=diffusion, **options)


def end(layer: RecurrentLayer, level: int) -> Tensor:
    """The states at time 1 by 2^level steps, `(PATHS, UNITS)`."""
    factor = 2 ** (FINEST - level)
    path = BrownianPath(seed=3).coarsened(factor)
    inputs = torch.full((PATHS, 2**level, 1), 0.7, dtype=torch.float64)
    with torch.no_grad():
        return layer(inputs, path=path, dt=float(factor), last_only=True)[1][0]


CASES = [
    ("multiplicative", "euler-maruyama", 0.5),
    ("additive", "euler-maruyama", 1.0),
    ("correlated", "euler-maruyama", 1.0),
    ("strong diagonal", "euler-maruyama", 0.5),
    ("additive", "milstein", 1.0),
    ("diagonal", "milstein", 1.0),
    ("multiplicative", "stochastic-heun", 0.5),
    ("additive", "stochastic-heun", 1.0),
    ("correlated", "stochastic-heun", 1.0),
    ("weak diagonal", "stochastic-heun", 1.0),
]

QUICK = [("multiplicative", "euler-maruyama"), ("diagonal", "milstein"), ("multiplicative", "stochastic-heun")]


@pytest.mark.parametrize(
    ("kind", "scheme", "order"),
    [pytest.param(*case, marks=[] if case[:2] in QUICK else [pytest.mark.slow]) for case in CASES],
)
def test_strong_order(kind: str, scheme: str, order: float) -> None:
    layer = layer_of(kind, scheme)
    exact = end(layer, FINEST)
    errors = [float((end(layer, level) - exact).abs().mean()) for level in LEVELS]
    slope = -np.polyfit(LEVELS, np.log2(errors), 1)[0]
    assert abs(slope - order) < 0.1, errors


@pytest.mark.parametrize("kind", ["multiplicative", "diagonal", "correlated"])
def test_all_schemes_have_the_same_limit(kind: str) -> None:
    """Heun's scheme solves Itô's equation: without its correction it would be elsewhere by the size of the noise."""
    level = 6
    schemes = ["euler-maruyama", "stochastic-heun", *(["milstein"] if kind != "multiplicative" else [])]
    first, *others = (end(layer_of(kind, scheme), level).mean(0) for scheme in schemes)
    for other in others:
        assert float((other - first).abs().max()) < 0.05


def test_stochastic_heun_without_noise_is_of_second_order() -> None:
    layers = {}
    for scheme in ("stochastic-heun", "euler-maruyama"):
        torch.manual_seed(6)
        step = {"step_size": 2.0**-FINEST, "init_std": 1.0}
        layers[scheme] = LipschitzRNN(1, UNITS, scheme=scheme, dtype=torch.float64, **step)
    exact = end(layers["stochastic-heun"], FINEST)
    for scheme, order in (("stochastic-heun", 2), ("euler-maruyama", 1)):
        errors = [float((end(layers[scheme], level) - exact).abs().mean()) for level in LEVELS]
        assert abs(-np.polyfit(LEVELS, np.log2(errors), 1)[0] - order) < 0.1


@pytest.mark.parametrize("scheme", ["euler-maruyama", "milstein", "stochastic-heun"])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("published", [True, False])
def test_weak_order_by_the_recursion_of_the_moments(
    scheme: str, power: int, published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moments of the linear cell `dh = k h dt + s h dB` grow by a factor per step, taken by Gauss-Hermite points.

    Its rate form with one unit has `k = w - 1`; the published noise of level s / k, or a diffusion `s h`.
    """
    if published and scheme == "milstein":
        pytest.skip("Milstein's scheme refuses the published noise.")
    k, s = 0.6, 0.5
    nodes, weights = np.polynomial.hermite_e.hermegauss(10)
    points = torch.from_numpy(nodes)[None, None, :, None]
    monkeypatch.setattr(BrownianPath, "normals", lambda self, **_: points.expand(2, -1, -1, -1))
    exact = math.exp(power * k + power * (power - 1) / 2 * s**2)
    options: dict[str, Any] = {"noise_units": "per_time", "activation": "identity", "scheme": scheme}
    options |= {"additive": 0.0, "dtype": torch.float64, "tau": 1.0}
    if published:
        options |= {"multiplicative": s / k}
    else:
        options |= {"diffusion": FunctionDiffusion(lambda h, x, t: s * h, diagonal=True)}
    errors = []
    for level in (5, 6, 7, 8):
        layer = RateRNN(1, 1, step_size=2.0**-level, **options)
        with torch.no_grad():
            layer.cell.W.fill_(1 + k)
            layer.cell.input.bias.zero_()
            h = torch.ones(1, len(nodes), 1, dtype=torch.float64)
            factors = layer(torch.zeros(len(nodes), 1, 1).double(), h, path=BrownianPath(seed=0))[1][0, :, 0].numpy()
        moment = float(weights @ factors**power / weights.sum()) ** 2**level
        errors.append(abs(moment - exact))
    assert abs(-np.polyfit((5, 6, 7, 8), np.log2(errors), 1)[0] - 1) < 0.1, errors
