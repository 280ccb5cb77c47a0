"""Bounds and exponents for other activations, diffusions, schemes and forms than the published ones."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn import Activation, FunctionDiffusion, HiddenNoise, LipschitzRNN, RateRNN, RecurrentLayer
from noisyrnn.analysis.dynamics.lyapunov import largest_exponent, lyapunov_spectrum
from noisyrnn.analysis.dynamics.stability import continuous_exponent_bounds, discrete_exponent_bounds, expected_log

UNITS = 4
SINE = Activation(torch.sin, lipschitz=1.0)
SLOPES = {"relu": (0.0, 1.0), "sigmoid": (0.0, 0.25), "retanh": (0.0, 1.0), "identity": (1.0, 1.0), "sine": (-1.0, 1.0)}


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(form: str, activation: str, *, seed: int = 0, small: float = 1.0, **options: Any) -> RecurrentLayer:
    torch.manual_seed(seed)
    options |= {"activation": SINE if activation == "sine" else activation, "dtype": torch.float64}
    if form == "lipschitz":
        return LipschitzRNN(2, UNITS, step_size=0.2 * small, init_std=3.0, damping=0.3, **options)
    return RateRNN(2, UNITS, alpha=0.3 * small, init_gain=1.5, form=form, **options)


def matrices(layer: Any) -> tuple[Tensor, Tensor]:
    """A and W, rows times their unit's step, from the parameters."""
    cell, eye = layer.cell, torch.eye(UNITS, dtype=torch.float64)
    if isinstance(layer, RateRNN):
        return -cell.alpha * eye, cell.alpha * cell.W.detach()
    A, W = (M.detach() - 0.5 * M.detach().T - 0.3 * eye for M in (cell.B, cell.C))
    return cell.step_size[:, None] * A, cell.step_size[:, None] * W


def ends(bounds: Any) -> tuple[float, float]:
    assert all(bound.kind == "certificate" for bound in bounds)
    return float(bounds[0].value), float(bounds[1].value)


forms = pytest.mark.parametrize("form", ["lipschitz", "rate", "current"])
activations = pytest.mark.parametrize("activation", sorted(SLOPES))


@forms
@activations
@pytest.mark.parametrize("seed", range(2))
def test_measured_exponents_lie_within_the_bounds(form: str, activation: str, seed: int) -> None:
    layer = built(form, activation, seed=seed)
    spectrum = lyapunov_spectrum(layer, 3 * drawn(2, 15, 2, seed=seed)).value
    low, high = ends(discrete_exponent_bounds(layer))
    assert low - 1e-10 <= float(spectrum.min()) and float(spectrum.max()) <= high + 1e-10
    layer = built(form, activation, seed=seed, small=0.02)
    spectrum = lyapunov_spectrum(layer, 3 * drawn(2, 15, 2, seed=seed)).value
    low, high = ends(continuous_exponent_bounds(layer))
    A, W = matrices(layer)
    L = float(torch.linalg.matrix_norm(A, 2) + torch.linalg.matrix_norm(W, 2))  # steps differ by second order in it
    assert low - (2 * L + L**2) ** 2 / 2 <= float(spectrum.min()) and float(spectrum.max()) <= high + L**2 / 2


@forms
@activations
def test_the_bounds_contain_every_slope(form: str, activation: str) -> None:
    layer = built(form, activation)
    A, W = matrices(layer)
    eye = torch.eye(UNITS, dtype=torch.float64)
    low, high = ends(continuous_exponent_bounds(layer))
    lowest, highest = ends(discrete_exponent_bounds(layer))
    found = []
    for slopes in itertools.product(SLOPES[activation], repeat=UNITS):
        D = torch.diag(torch.tensor(slopes, dtype=torch.float64))
        K = A + (W @ D if form == "current" else D @ W)
        rates, values = torch.linalg.eigvalsh((K + K.T) / 2), torch.linalg.svdvals(eye + K).log()
        assert low <= float(rates[0]) + 1e-12 and float(rates[-1]) <= high + 1e-12
        assert lowest <= float(values[-1]) + 1e-12 and float(values[0]) <= highest + 1e-12
        found.append([float(end) for end in (rates[0], rates[-1], values[-1], values[0])])
    if activation == "identity":  # one matrix: the bounds are its own
        assert found[0] == pytest.approx([low, high, lowest, highest], abs=1e-12)


@forms
def test_measured_noisy_exponents_lie_within_their_bounds(form: str) -> None:
    layer, noise = built(form, "relu"), HiddenNoise(additive=0.2, multiplicative=0.5)
    measured = largest_exponent(layer, drawn(1, 25, 2), noise=noise, paths=300)
    low, high = ends(discrete_exponent_bounds(layer, noise=noise))
    error = 4 * float(measured.standard_error)
    assert low - error < float(measured.value) < high + error


def test_a_matrix_is_additive_noise_and_noise_inside_is_an_input() -> None:
    for bounds in (continuous_exponent_bounds, discrete_exponent_bounds):
        layer = built("current", "relu")
        matrix = HiddenNoise(diffusion=drawn(UNITS, 2))  # type: ignore[arg-type]
        assert ends(bounds(layer, noise=matrix)) == ends(bounds(layer))
    layer = built("rate", "relu", noise_place="inside", additive=0.5)
    measured = largest_exponent(layer, drawn(1, 25, 2), noise=layer.hidden_noise, paths=100)
    low, high = ends(discrete_exponent_bounds(layer, noise=layer.hidden_noise))
    assert low < float(measured.value) < high


def test_what_is_refused() -> None:
    layer = built("rate", "relu")
    function = HiddenNoise(diffusion=FunctionDiffusion(lambda h, x, t: h))
    for bounds in (continuous_exponent_bounds, discrete_exponent_bounds):
        with pytest.raises(ValueError, match=r"^diffusion must be a matrix for bounds .* Measure the exponents with"):
            bounds(layer, noise=function)
        with pytest.raises(TypeError, match=r"^model must have the drift .*got RateCell with scheme 'stochastic-heun'"):
            bounds(built("rate", "relu", scheme="stochastic-heun"))
    inside = HiddenNoise(additive=0.1, place="inside")
    with pytest.raises(ValueError, match=r"^noise_place must be 'outside' for the differential equation, got 'inside'"):
        continuous_exponent_bounds(layer, noise=inside)


@pytest.mark.parametrize(("strength", "stable"), [(0.5, False), (1.6, True)])
def test_one_motion_common_to_all_units_stabilises(strength: float, stable: bool) -> None:
    """For `dh = g h dt + s h dB` Λ is g - s²/2, and E log|1 + gδ + s√δ ξ| / δ in steps of δ."""
    g, step_size = 0.5, 0.02
    layer = RateRNN(
        1,
        3,
        tau=1.0,
        step_size=step_size,
        activation="identity",
        noise_units="per_time",
        diffusion=lambda h, x, t: strength * h[..., None],
        dtype=torch.float64,
    )
    with torch.no_grad():
        layer.cell.W.copy_((1 + g) * torch.eye(3))
    zeros = torch.zeros(1, 60, 1, dtype=torch.float64)
    measured = largest_exponent(layer, zeros, noise=layer.hidden_noise, paths=4000, step_size=step_size)
    growth = 1 + g * step_size
    exact = (math.log(growth) + expected_log(strength * math.sqrt(step_size) / growth)) / step_size
    error = float(measured.standard_error)
    assert abs(float(measured.value) - exact) < 4 * error
    gap = 0.75 * strength**4 * step_size  # between the step and the equation, to first order
    assert abs(float(measured.value) - (g - strength**2 / 2)) < 4 * error + 2 * gap
    assert (float(measured.value) < 0) is stable
    spectrum = lyapunov_spectrum(layer, zeros, noise=layer.hidden_noise, paths=2).value
    torch.testing.assert_close(spectrum, spectrum[:1].expand(3))  # every unit has the same factor
