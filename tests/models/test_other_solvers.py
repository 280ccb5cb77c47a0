"""Layers against torchsde on one Brownian path, and against the exact solution of geometric Brownian motion."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from noisyrnn import BrownianPath, FunctionDiffusion, RateRNN

torchsde = pytest.importorskip("torchsde")

STEPS, ALPHA, ROWS, UNITS = 32, 2.0**-5, 6, 4
PATH = BrownianPath(seed=3)


def level(h: Tensor) -> Tensor:
    return 0.3 + 0.2 * torch.cos(h)


class OurMotion(torchsde.BaseBrownian):
    """Our increments in the form torchsde asks for."""

    def __init__(self, increments: Tensor, times: Tensor) -> None:
        super().__init__()
        self.at = {(float(a), float(b)): dB for (a, b), dB in zip(pairwise(times), increments, strict=True)}
        self.increments = increments

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Tensor:
        return self.at[float(ta), float(tb)]

    def __repr__(self) -> str:
        return "OurMotion()"

    dtype = property(lambda self: self.increments.dtype)
    device = property(lambda self: self.increments.device)
    shape = property(lambda self: self.increments.shape[1:])
    levy_area_approximation = "none"


class Theirs(torch.nn.Module):
    """The same equation; in Stratonovich's form the drift is less by half of `σ σ'`."""

    noise_type = "diagonal"

    def __init__(self, layer: RateRNN, sde_type: str) -> None:
        super().__init__()
        self.layer, self.sde_type = layer, sde_type

    def f(self, t: Tensor, h: Tensor) -> Tensor:
        cell = self.layer.cell
        drift = torch.tanh(h @ cell.W.T + cell.input.bias) - h
        return drift if self.sde_type == "ito" else drift - 0.5 * level(h) * (-0.2 * torch.sin(h))

    def g(self, t: Tensor, h: Tensor) -> Tensor:
        return level(h)


@pytest.mark.parametrize(
    ("scheme", "method", "kind"),
    [("euler-maruyama", "euler", "ito"), ("milstein", "milstein", "ito"), ("stochastic-heun", "heun", "stratonovich")],
)
def test_equals_torchsde(scheme: str, method: str, kind: str) -> None:
    torch.manual_seed(0)
    diffusion = FunctionDiffusion(lambda h, x, t: level(h), diagonal=True)
    options = {"diffusion": diffusion, "scheme": scheme, "noise_units": "per_time", "dtype": torch.float64}
    layer = RateRNN(1, UNITS, alpha=ALPHA, **options)
    start = 0.3 * torch.randn(ROWS, UNITS, dtype=torch.float64)
    with torch.no_grad():
        ours, _ = layer(torch.zeros(ROWS, STEPS, 1, dtype=torch.float64), start[None], path=PATH)
        normals = PATH.normals(steps=STEPS, batch=ROWS, units=UNITS, motions=1, dtype=torch.float64)[0]
        times = torch.arange(STEPS + 1, dtype=torch.float64) * ALPHA
        motion = OurMotion(math.sqrt(ALPHA) * normals, times)
        theirs = torchsde.sdeint(Theirs(layer, kind), start, times, bm=motion, method=method, dt=ALPHA)
    torch.testing.assert_close(ours, theirs[1:].transpose(0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scheme", "order"), [("euler-maruyama", 0.5), ("milstein", 1.0), ("stochastic-heun", 1.0)])
def test_strong_order_against_the_exact_solution(scheme: str, order: float) -> None:
    """Geometric Brownian motion `dh = k h dt + s h dB`, which a linear rate unit with weight 1 + k follows."""
    k, s, finest, levels, paths = 0.5, 1.0, 8, (3, 4, 5, 6, 7, 8), 2000
    diffusion = FunctionDiffusion(lambda h, x, t: s * h, diagonal=True)
    options = {"activation": "identity", "scheme": scheme, "noise_units": "per_time", "dtype": torch.float64}
    layer = RateRNN(1, 1, tau=1.0, step_size=2.0**-finest, diffusion=diffusion, **options)
    path = BrownianPath(seed=1)
    with torch.no_grad():
        layer.cell.W.fill_(1 + k)
        layer.cell.input.bias.zero_()
        normals = path.normals(steps=2**finest, batch=paths, units=1, motions=1, dtype=torch.float64)[0]
        exact = torch.exp((k - s**2 / 2) + s * normals.sum(0) * 2 ** (-finest / 2))
        errors = []
        for level in levels:
            factor = 2 ** (finest - level)
            zeros = torch.zeros(paths, 2**level, 1, dtype=torch.float64)
            ones = torch.ones(1, paths, 1, dtype=torch.float64)
            end = layer(zeros, ones, path=path.coarsened(factor), dt=float(factor))[1][0]
            errors.append(float((end - exact).abs().mean()))
    assert abs(-np.polyfit(levels, np.log2(errors), 1)[0] - order) < 0.1, errors
