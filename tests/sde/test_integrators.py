"""Each scheme reaches the order it states, and agrees with an independent implementation."""

import functools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchsde
from torch import Tensor

from noisyrnn.noise import BrownianPath
from noisyrnn.sde import INTEGRATORS, SDE, EulerMaruyama, Integrator, Milstein, StochasticHeun, TimeGrid

FINEST = 9  # steps 2^-4 to 2^-9 of the unit interval
LEVELS = range(4, FINEST + 1)
PATHS = 2000

schemes = pytest.mark.parametrize("name", sorted(INTEGRATORS))


def fit_to(integrator: Integrator, sde: SDE) -> SDE:
    """The Itô equation in the scheme's own interpretation."""
    return sde.stratonovich() if integrator.interpretation == "stratonovich" else sde


@functools.cache
def standard_normals(path: BrownianPath, level: int, batch: int) -> Tensor:
    """Of `2**level` equal steps of the unit interval, `(steps, batch, 1)`; every scheme takes the same."""
    coarse = path.coarsened(2 ** (FINEST - level))
    return coarse.normals(steps=2**level, batch=batch, units=1, motions=1, dtype=torch.float64)[0]


def solve(integrator: Integrator, sde: SDE, h: Tensor, path: BrownianPath, level: int) -> Tensor:
    """The state at time 1 after `2**level` equal steps along `path`, whose own steps are `2**-FINEST`."""
    step_size = 2.0**-level
    for increment in math.sqrt(step_size) * standard_normals(path, level, len(h)):
        h = integrator.step(sde, h, step_size, increment)
    return h


def slope(errors: list[float]) -> float:
    """Of log error against log step."""
    return float(np.polyfit([-level * math.log(2) for level in LEVELS], np.log(errors), 1)[0])


@schemes
def test_strong_order_on_geometric_brownian_motion(name: str) -> None:
    integrator = INTEGRATORS[name]
    mu, sigma = 0.5, 1.0
    sde = fit_to(integrator, SDE(lambda h: mu * h, lambda h: sigma * h))
    path = BrownianPath(seed=1)
    h = torch.ones(PATHS, 1, dtype=torch.float64)
    fine = path.normals(steps=2**FINEST, batch=PATHS, units=1, motions=1, dtype=torch.float64)[0]
    end = fine.sum(0) * 2 ** (-FINEST / 2)
    exact = torch.exp((mu - sigma**2 / 2) + sigma * end)
    errors = [float((solve(integrator, sde, h, path, level) - exact).abs().mean()) for level in LEVELS]
    assert abs(slope(errors) - integrator.strong_order) < 0.1


@schemes
def test_strong_order_with_additive_noise(name: str) -> None:
    """The Ornstein-Uhlenbeck process, whose integral against the path's increments has a known Gaussian law."""
    integrator = INTEGRATORS[name]
    rate, sigma, delta = 1.5, 0.8, 2.0**-FINEST
    sde = fit_to(integrator, SDE(lambda h: -rate * h, lambda h: torch.full_like(h, sigma)))
    path = BrownianPath(seed=2)
    h = torch.ones(PATHS, 1, dtype=torch.float64)
    first, second = path.normals(steps=2**FINEST, batch=PATHS, units=1, dtype=torch.float64)
    # I = ∫ exp(-rate (δ - s)) dB over one step, given its increment ΔB = sqrt(δ) first; `second` is the rest of it.
    covariance, variance = (1 - math.exp(-rate * delta)) / rate, (1 - math.exp(-2 * rate * delta)) / (2 * rate)
    integral = covariance / math.sqrt(delta) * first + math.sqrt(variance - covariance**2 / delta) * second
    remaining = 1 - delta * torch.arange(1, 2**FINEST + 1, dtype=torch.float64)
    exact = math.exp(-rate) * h + sigma * torch.einsum("s,sbu->bu", torch.exp(-rate * remaining), integral)
    errors = [float((solve(integrator, sde, h, path, level) - exact).abs().mean()) for level in LEVELS]
    assert abs(slope(errors) - integrator.additive_order) < 0.1


@schemes
@pytest.mark.parametrize("power", [1, 2])
def test_weak_order(name: str, power: int) -> None:
    """Moments of geometric Brownian motion: the scheme's are exact, by Gauss-Hermite quadrature of one step."""
    integrator = INTEGRATORS[name]
    mu, sigma = 0.6, 0.5
    sde = fit_to(integrator, SDE(lambda h: mu * h, lambda h: sigma * h))
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    xi, probability = torch.from_numpy(nodes)[:, None], torch.from_numpy(weights / weights.sum())
    exact = math.exp(power * mu + power * (power - 1) / 2 * sigma**2)
    errors = []
    for level in LEVELS:
        step_size = 2.0**-level
        factor = integrator.step(sde, torch.ones_like(xi), step_size, math.sqrt(step_size) * xi)[:, 0]
        moment = float((probability * factor**power).sum()) ** 2**level
        errors.append(abs(moment - exact))
    assert abs(slope(errors) - integrator.weak_order) < 0.1


def drift(h: Tensor) -> Tensor:
    return torch.sin(h) - 0.3 * h + 0.2 * h.roll(1, dims=1)


def diffusion(h: Tensor) -> Tensor:
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
    noise_type = "diagonal"

    def __init__(self, sde_type: str) -> None:
        super().__init__()
        self.sde_type = sde_type

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return drift(y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return diffusion(y)


@pytest.mark.parametrize(
    ("integrator", "method"), [(EulerMaruyama(), "euler"), (Milstein(), "milstein"), (StochasticHeun(), "heun")]
)
def test_equals_torchsde_on_a_shared_path(integrator: Integrator, method: str) -> None:
    steps, step_size = 32, 2.0**-5
    normals = BrownianPath(seed=3).normals(steps=steps, batch=6, units=4, motions=1, dtype=torch.float64)[0]
    increments = math.sqrt(step_size) * normals
    times = TimeGrid.uniform(steps, step_size, dtype=torch.float64).times()
    h = 0.3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = torchsde.sdeint(
        Theirs(integrator.interpretation), h, times, bm=OurMotion(increments, times), method=method, dt=step_size
    )
    sde = SDE(drift, diffusion, integrator.interpretation)
    ours = [h]
    for increment in increments:
        ours.append(integrator.step(sde, ours[-1], step_size, increment))
    torch.testing.assert_close(torch.stack(ours), theirs, rtol=0, atol=1e-12)


def test_euler_maruyama_written_out_with_a_step_for_every_row() -> None:
    h, dB = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[0.5], [-0.25]]).double()
    sde = SDE(lambda h: -h, lambda h: h**2)
    result = EulerMaruyama().step(sde, h, torch.tensor([[0.125], [0.5]]).double(), dB)
    expected = torch.tensor([[1 - 0.125 + 0.5], [2 - 1.0 - 1.0]]).double()
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-15)


def test_milstein_is_exact_in_its_correction_for_linear_diffusion() -> None:
    h, dB = torch.tensor([[1.0, 3.0], [2.0, -1.0]]).double(), torch.tensor([[0.5, 0.1], [-0.25, 0.0]]).double()
    sde = SDE(lambda h: 0.0 * h, lambda h: h)
    assert torch.equal(sde.correction(h), h)
    result = Milstein().step(sde, h, 0.04, dB)
    torch.testing.assert_close(result, h * (1 + dB + 0.5 * (dB**2 - 0.04)), rtol=0, atol=1e-15)


def test_correction_is_sigma_times_its_own_derivative() -> None:
    h = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    expected = (0.3 + 0.2 * h.cos()) * (-0.2 * h.sin())
    torch.testing.assert_close(SDE(drift, diffusion).correction(h), expected, rtol=0, atol=1e-15)
    constant = SDE(drift, lambda h: torch.full_like(h, 0.7))
    assert torch.equal(constant.correction(h), torch.zeros_like(h))


def test_stratonovich_form_loses_half_the_correction() -> None:
    h = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    ito = SDE(drift, diffusion)
    form = ito.stratonovich()
    assert form.interpretation == "stratonovich"
    torch.testing.assert_close(form.drift(h), drift(h) - 0.5 * ito.correction(h), rtol=0, atol=1e-15)
    assert torch.equal(form.diffusion(h), diffusion(h))
    assert form.stratonovich() is form


@pytest.mark.parametrize(
    ("integrator", "given", "sentence"),
    [
        (
            EulerMaruyama(),
            "stratonovich",
            r"^interpretation must be 'ito' for EulerMaruyama, got 'stratonovich'\. Use StochasticHeun\.$",
        ),
        (
            Milstein(),
            "stratonovich",
            r"^interpretation must be 'ito' for Milstein, got 'stratonovich'\. Use StochasticHeun\.$",
        ),
        (
            StochasticHeun(),
            "ito",
            r"^interpretation must be 'stratonovich' for StochasticHeun, got 'ito'\. Use sde\.stratonovich\(\)\.$",
        ),
    ],
)
def test_a_scheme_refuses_the_other_integral(integrator: Integrator, given: str, sentence: str) -> None:
    h = torch.ones(1, 1)
    with pytest.raises(ValueError, match=sentence):
        integrator.step(SDE(drift, diffusion, given), h, 0.1, h)


def test_unknown_interpretation() -> None:
    sentence = r"^interpretation must be one of ito, stratonovich, got 'itô'\. Did you mean 'ito'\?$"
    with pytest.raises(ValueError, match=sentence):
        SDE(drift, diffusion, "itô")


def test_stated_orders() -> None:
    stated = {name: (s.strong_order, s.additive_order, s.weak_order) for name, s in INTEGRATORS.items()}
    assert stated == {
        "euler_maruyama": (0.5, 1.0, 1.0),
        "milstein": (1.0, 1.0, 1.0),
        "stochastic_heun": (1.0, 1.0, 1.0),
    }
