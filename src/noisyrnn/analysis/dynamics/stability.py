"""Stability of a network: bounds on its Lyapunov exponents, a verdict, and the effect of noise."""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from scipy.special import dawsn
from torch import Tensor

from noisyrnn.analysis.dynamics.jacobian import Recurrent
from noisyrnn.analysis.dynamics.lyapunov import ExponentOptions, largest_exponent
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.analysis.trajectory import cell_of
from noisyrnn.checks import check_number
from noisyrnn.kernels.recurrence import DRIFTS
from noisyrnn.kernels.reference import recurrence_of
from noisyrnn.models import RecurrentLayer, SequenceModel
from noisyrnn.noise.hidden_noise import HiddenNoise

Bounds = tuple[Measurement, Measurement]
"""Lower and upper bound, both certificates of shape `()`."""


def continuous_exponent_bounds(model: Recurrent, *, noise: HiddenNoise | None = None) -> Bounds:
    r"""Bound the largest Lyapunov exponent of the stochastic differential equation that a cell discretises.

    With `A`, `W` the drift's matrices, each row times its unit's step, time counted in nominal steps and μ the relative
    noise of one, two solutions with the same inputs and noise differ by `u`, with

    .. math:: d \log\|u\| = \Big[\frac{u^T \Delta f}{\|u\|^2} + \frac{\|\Delta\sigma\|_F^2}{2\|u\|^2}
        - \frac{\|u^T \Delta\sigma\|^2}{\|u\|^4}\Big] dt + \text{martingale}, \quad
        \Delta f = (A + D W) u, \quad \Delta\sigma = \mu\,\mathrm{diag}(\Delta f),

    where `D` is diagonal with entries in [0, 1], the slopes of tanh. Writing `D = (I + E) / 2` with `|E| <= 1`, the
    first term lies within :math:`\sigma_{max}(W) / 2` of the eigenvalues of the symmetric part of `A + W / 2`, and
    :math:`\|\Delta f\| \le L \|u\|` with :math:`L = \sigma_{max}(A + W/2) + \sigma_{max}(W)/2`. With weights
    :math:`p_i = u_i^2 / \|u\|^2` and :math:`q_i = \Delta f_i^2 / \|\Delta f\|^2` the noise adds
    :math:`\mu^2 (\|\Delta f\| / \|u\|)^2 (1/2 - \sum p_i q_i)`, between :math:`\phi = -\mu^2 L^2 / 2` and
    :math:`\psi = \mu^2 L^2 / 2` since the sum lies in [0, 1]. So

    .. math:: \lambda_{min}\big((A + \tfrac{1}{2} W)_{sym}\big) - \tfrac{1}{2} \sigma_{max}(W) + \phi \le \Lambda \le
        \lambda_{max}\big((A + \tfrac{1}{2} W)_{sym}\big) + \tfrac{1}{2} \sigma_{max}(W) + \psi,

    which lies within the published :math:`\lambda(A_{sym}) \pm \sigma_{max}(W)` with the same φ and ψ. Additive noise
    cancels in `Δσ` and changes nothing, and neither does a diffusion that is a constant matrix. Both forms of the noise
    give the same bounds. An activation with slopes in [s, S] has `(s + S) W / 2` and `(S - s) W / 2` in place of
    `W / 2`; currents have `Δf = (-I + W D) u`, with the same bounds as for `A = -I`.

    Args:
        model: Of the noisy family (drift `A h + a(W h + U x + b)`), or a network of currents.
        noise: Gaussian, with the levels of one nominal step; noise-free by default.

    Returns:
        Lower and upper bound, per nominal step: divide by a common step δ for those per unit of time. They hold for
        every input, up to rounding; without noise for every exponent. The discretised network may leave them by
        terms of second order in the step, see `discrete_exponent_bounds`.

    Raises:
        TypeError: If the model is not of the noisy family.
        ValueError: If the noise is not Gaussian, is inside the activation, or has a diffusion that is a function.

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021, on stochastic stability.
    """
    if noise is not None and noise.law != "gaussian":
        raise ValueError(f"noise_law must be 'gaussian' for the differential equation, got {noise.law!r}.")
    if noise is not None and noise.place == "inside":
        raise ValueError(
            "noise_place must be 'outside' for the differential equation, got 'inside', which no diffusion describes. "
            "Use discrete_exponent_bounds."
        )
    _check_diffusion(noise)
    centre, radius = _drift_disc(model)
    strain = 0.0 if noise is None else (noise.multiplicative * (_largest(centre) + radius)) ** 2 / 2
    eigenvalues = torch.linalg.eigvalsh((centre + centre.T) / 2)
    return _certified(float(eigenvalues[0]) - radius - strain, float(eigenvalues[-1]) + radius + strain)


def discrete_exponent_bounds(model: Recurrent, *, noise: HiddenNoise | None = None) -> Bounds:
    r"""Bound the Lyapunov exponents of the discretised network, with steps of nominal length.

    A step multiplies a tangent vector by :math:`J = I + \mathrm{diag}(\mu) K`, :math:`K = A + D W`, in the notation of
    `continuous_exponent_bounds`, with factors μ of mean c and standard deviation s that are independent of the vector.
    With :math:`\|I + c K\| \le S` and :math:`\|K\| \le L`, Jensen's inequality gives

    .. math:: E \log \|J u\| \le \tfrac{1}{2} \log E \|J u\|^2 \le \tfrac{1}{2} \log(S^2 + s^2 L^2), \qquad \|u\| = 1.

    Below, :math:`\|(I + c K) u\| \ge \sigma = \sigma_{min}(I + c(A + W/2)) - c\,\sigma_{max}(W)/2`. Without noise that
    gives :math:`\log \sigma`. With Gaussian noise, projecting `J u` on the direction of `(I + K) u` leaves
    :math:`E \log|\alpha + \tau \xi|` with one normal ξ, :math:`\alpha \ge \sigma` and :math:`\tau \le s L`. It grows
    with α; for given α it falls until :math:`\tau = 0.765 \alpha` and grows thereafter, see `expected_log`. With
    uniform noise a factor strays from c by at most half its width w: :math:`\log(\sigma - w L/2)`. A bound whose
    argument is not positive is -inf.

    Args:
        model: Of the noisy family (drift `A h + a(W h + U x + b)`), or a network of currents.
        noise: With the levels of one nominal step; noise-free by default.

    Returns:
        Lower and upper bound on the largest exponent, per nominal step, for every input, up to rounding. The upper one
        holds for every exponent, and so does the lower without noise; without noise they hold for stretches of any
        length, with noise for the expectation.

    Raises:
        TypeError: If the model is not of the noisy family.
        ValueError: If the noise has a diffusion that depends on the state.
    """
    centre, radius = _drift_disc(model)
    _check_diffusion(noise)
    level = 0.0 if noise is None else noise.multiplicative
    uniform = noise is not None and noise.law == "uniform"
    mean, deviation = (1 - level / 2, level / math.sqrt(12)) if uniform else (1.0, level)
    lipschitz = _largest(centre) + radius
    values = torch.linalg.svdvals(torch.eye(len(centre), dtype=centre.dtype, device=centre.device) + mean * centre)
    upper = math.log(math.hypot(float(values[0]) + mean * radius, deviation * lipschitz))
    smallest = float(values[-1]) - mean * radius - (level / 2 * lipschitz if uniform else 0.0)
    if smallest <= 0:
        return _certified(-math.inf, upper)
    lower = math.log(smallest)
    if level > 0 and not uniform:
        lower += expected_log(min(level * lipschitz / smallest, _WORST))
    return _certified(lower, upper)


def expected_log(ratio: float) -> float:
    r"""Return the expectation of :math:`\log|1 + r \xi|` for a standard normal ξ: the effect of relative noise r.

    .. math:: E \log|1 + r \xi| = \log r - \tfrac{1}{2} (\gamma + \log 2) + 2 \int_0^{1 / (r \sqrt 2)} F(y)\,dy

    with Euler's γ and Dawson's integral F. Its derivative in r is :math:`F'(y) / r` at the upper end y, so it has its
    one minimum, -0.245, where F has its maximum: y = 0.924, r = 0.765. For small r it is :math:`-r^2 / 2`: noise common
    to all units stabilises.

    Args:
        ratio: r, above 0.

    Example:
        >>> round(expected_log(0.1), 5)
        -0.00508
    """
    check_number("ratio", ratio, above=0.0)
    if (
        ratio < 0.03
    ):  # the first terms of the series in r, exact to 1e-13: quadrature would waste its points in the tail
        square = ratio**2
        return -square * (1 / 2 + square * (3 / 4 + square * (15 / 6 + square * 105 / 8)))
    from scipy.integrate import quad  # slow to import, and rarely used

    integral = quad(dawsn, 0.0, 1 / (ratio * math.sqrt(2)), epsabs=1e-13, epsrel=1e-13)[0]
    return math.log(ratio) - (_EULER + math.log(2)) / 2 + 2 * integral


_EULER = 0.5772156649015329
_WORST = 0.7651521  # 1 / (√2 · 0.9241389), where `expected_log` is smallest


def verdict(exponent: Measurement, *, confidence: float = 0.95, unit: str = "per step") -> str:
    """Describe the stability that a largest exponent and its interval imply.

    Args:
        exponent: Result of `largest_exponent`, of shape `()`.
        confidence: Confidence of the interval, in (0, 1).
        unit: Unit of the exponent, for the text.

    Raises:
        ValueError: If `exponent` is not a single estimate.

    Example:
        >>> verdict(Measurement(value=torch.tensor(-0.12), kind="estimate", standard_error=torch.tensor(0.01)))
        'stable: nearby states approach each other, Λ = -0.12 [-0.14, -0.1] per step'
    """
    if exponent.value.ndim != 0 or exponent.kind != "estimate":
        shape = tuple(exponent.value.shape)
        raise ValueError(f"exponent must be an estimate of shape (), got {exponent.kind} of shape {shape}.")
    value = float(exponent.value)
    if value == -math.inf:  # of a state that its past does not reach, as where every unit is saturated
        return f"stable: nearby states become equal, Λ = -inf {unit}"
    if exponent.standard_error is None:
        low, high, text = value, value, f"Λ = {value:.3g} {unit}, from a single path and so without an interval"
    else:
        low, high = (float(end) for end in exponent.interval(confidence))
        text = f"Λ = {value:.3g} [{low:.3g}, {high:.3g}] {unit}"
    if high < 0:
        return f"stable: nearby states approach each other, {text}"
    if low > 0:
        return f"unstable: nearby states move apart, {text}"
    return f"undecided: the interval includes zero, {text}"


def stabilization_scan(
    model: Recurrent,
    inputs: Tensor,
    *,
    levels: Sequence[float],
    noise: HiddenNoise | None = None,
    paths: int = 8,
    **options: Unpack[ExponentOptions],
) -> Measurement:
    """Estimate the largest exponent at several noise levels: where it falls below zero, noise stabilises the network.

    All levels use the same random numbers, so their differences vary less than their values.

    Args:
        model: Model of one cell (one layer, one direction); the computation is in float64 for any dtype.
        inputs: Driving sequences, `(batch, steps, input_size)`.
        levels: Factors of both noise levels, at least 0; at 0 the network is noise-free.
        noise: Noise at level 1 (default: the model's own).
        paths: Number of noise paths per sequence, at least 1.
        options: `seed`, `burn_in`, `step_size`, `lengths`, `dt` and `h_0` of `lyapunov_spectrum`.

    Returns:
        An estimate `(len(levels),)`, in 1/time. The standard error is `None` for a single sequence and path.

    Raises:
        TypeError: If the model has no cell, or several.
        ValueError: If an argument is out of range, an input is NaN or infinite, or there is no noise to scale.
    """
    if len(levels) == 0:
        raise ValueError("levels must hold at least one number, got none. Write [0.0, 1.0, 2.0].")
    for index, level in enumerate(levels):
        check_number(f"levels[{index}]", level, minimum=0.0)
    if noise is None:
        layer = model.layer if isinstance(model, SequenceModel) else model
        layer = getattr(layer, "_orig_mod", layer)
        noise = layer.hidden_noise if isinstance(layer, RecurrentLayer) else HiddenNoise()
    if noise.silent:
        raise ValueError("noise must be above level 0, got none in the model. Pass noise=HiddenNoise(...).")
    scaled = [noise.scaled(level) for level in levels]
    spectra = [largest_exponent(model, inputs, noise=one, paths=paths, **options) for one in scaled]
    errors = [one.standard_error for one in spectra if one.standard_error is not None]
    return Measurement(
        value=torch.stack([one.value for one in spectra]),
        kind="estimate",
        standard_error=torch.stack(errors) if errors else None,
        draws=spectra[0].draws,
    )


def _check_diffusion(noise: HiddenNoise | None) -> None:
    """Raise `ValueError` if the noise has a diffusion whose dependence on the state is not known."""
    if noise is not None and noise.diffusion is not None and not noise.state_free:
        raise ValueError(
            "diffusion must be a matrix for bounds on exponents, got a function of the state. "
            "Measure the exponents with lyapunov_spectrum."
        )


def _drift_disc(model: Recurrent) -> tuple[Tensor, float]:
    """Return centre and radius of all `A + D W`, rows times their unit's step, for the slopes `D` of the activation.

    For tanh these are `A + W / 2` and `σ_max(W) / 2`; float64.

    Raises:
        TypeError: If the cell is not of the noisy family.
    """
    cell = cell_of(model)
    recurrence = recurrence_of(cell)
    if recurrence is None or recurrence.kind not in DRIFTS:
        name = f"{type(cell).__name__} with scheme {cell.scheme!r}" if cell.scheme != "euler-maruyama" else ""
        raise TypeError(
            "model must have the drift A h + a(W h + U x + b) for bounds on its exponents, "
            f"got {name or type(cell).__name__}. Measure them with lyapunov_spectrum."
        )
    smallest, largest = recurrence.activation.slopes
    step = recurrence.step.detach().double()[:, None]
    scaled = step * recurrence.W.detach().double()
    centre = (smallest + largest) / 2 * scaled
    linear = recurrence.linear
    if linear is not None:
        centre = centre + step * linear.detach().double()
    return centre, _largest((largest - smallest) / 2 * scaled)


def _largest(matrix: Tensor) -> float:
    """Return the largest singular value."""
    return float(torch.linalg.matrix_norm(matrix, ord=2))


def _certified(lower: float, upper: float) -> Bounds:
    """Return both bounds as certificates."""
    low, high = (
        Measurement(value=torch.tensor(end, dtype=torch.float64, device="cpu"), kind="certificate")
        for end in (lower, upper)
    )
    return low, high
