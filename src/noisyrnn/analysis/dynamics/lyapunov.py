"""Lyapunov exponents: the rate at which nearby hidden states with the same inputs and noise diverge or converge."""

import warnings
from dataclasses import replace
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from noisyrnn.analysis.arguments import check_complete, initial_state, step_sizes
from noisyrnn.analysis.dynamics.jacobian import Recurrent, float64_trajectory
from noisyrnn.analysis.measurement import Measurement, mean_of_draws
from noisyrnn.analysis.trajectory import cell_of
from noisyrnn.checks import check_integer, check_number
from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.robustness.gradient import recording


class ExponentOptions(TypedDict, total=False):
    """Options of `lyapunov_spectrum`, which describes them, that all measurements of exponents share."""

    seed: int
    burn_in: int
    step_size: float
    lengths: Tensor | None
    dt: Tensor | float | None
    h_0: Tensor | None


@recording
@torch.no_grad()
def lyapunov_spectrum(
    model: Recurrent,
    inputs: Tensor,
    *,
    exponents: int | None = None,
    noise: HiddenNoise | None = None,
    paths: int = 1,
    seed: int = 0,
    burn_in: int = 0,
    step_size: float = 1.0,
    lengths: Tensor | None = None,
    dt: Tensor | float | None = None,
    h_0: Tensor | None = None,
) -> Measurement:
    r"""Estimate Lyapunov exponents of the hidden state along driven, noisy paths, per nominal step or per unit of time.

    A frame of tangent vectors is multiplied by the Jacobians of the *noisy* map and orthonormalized at every step:

    .. math:: J_m Q_m = Q_{m+1} R_m, \quad
        \Lambda_i \approx \frac{1}{T} \sum_{m=b}^{M-1} \log |(R_m)_{ii}|, \quad T = \delta \sum_{m=b}^{M-1} dt_m .

    The exponents depend on the inputs and on the finite length of the sequences. The frame starts at random and needs a
    burn-in to align with the fastest growing directions. The standard error does not include the error due to short
    sequences. For any burn-in, the sum of all exponents is the mean of `log |det J_m|`.

    Args:
        model: Model of one cell (one layer, one direction); the computation is in float64 for any dtype, and noise-free
            without `noise`, for any `noise_mode`.
        inputs: Driving sequences, `(batch, steps, input_size)`. Zeros, or another constant, for autonomous dynamics,
            which need an `h_0`.
        exponents: Number of exponents, from the largest, in [1, state size]; all by default.
        noise: Laws and levels of the noise, which a path and its neighbours share; noise-free by default.
        paths: Number of noise paths per sequence, at least 1.
        seed: Seed of the noise and of the frames, at least 0.
        burn_in: Number of steps left out of the mean, at least 0 and fewer than the shortest sequence has.
        step_size: Length δ of one nominal step in units of time, above 0. With 1 the result is per nominal step, the
            only unit for a cell whose units have steps of their own.
        lengths: Valid steps of each sequence, int64 `(batch,)`; all by default.
        dt: Length of each step in nominal steps: a number, `(steps,)` or `(batch, steps)`; 1 by default.
        h_0: Initial state of each sequence, `(1, batch, state_size)`; zeros by default. It decides to which attractor
            the path goes. A path that starts at a fixed point stays there, as the state zero often is one.

    Returns:
        An estimate `(exponents,)`, in 1/time, in the order of the frame, which is descending but for short stretches:
        the mean over sequences of the mean over paths. Its standard error is over the sequences, or over the paths of
        a single sequence, and `None` for a single path. Negative: nearby states converge.

    Warns:
        UserWarning: If the state stays at zero without an `h_0`.

    Raises:
        ValueError: If an argument is out of range, an input is NaN or infinite, or there are several paths without
            noise.
        RuntimeError: If the state becomes non-finite.
        TypeError: If the model has no cell, or several.

    Example:
        >>> from noisyrnn.models import LipschitzRNN
        >>> layer = LipschitzRNN(input_size=1, hidden_size=4)
        >>> lyapunov_spectrum(layer, torch.zeros(1, 50, 1), exponents=2, step_size=0.03).value.shape
        torch.Size([2])

    Reference:
        Benettin, Galgani, Giorgilli and Strelcyn, Lyapunov characteristic exponents, Meccanica 1980; Lim et al., Noisy
        Recurrent Neural Networks, NeurIPS 2021.
    """
    cell = cell_of(model)
    size = cell.state_size
    count = size if exponents is None else exponents
    check_integer("exponents", count, minimum=1)
    if count > size:
        raise ValueError(f"exponents must be at most {size}, the size of the state, got {count}.")
    check_integer("paths", paths, minimum=1)
    if noise is None and paths > 1:
        raise ValueError(f"paths must be 1 without noise, got {paths}: they would all be the same.")
    check_integer("seed", seed, minimum=0)
    check_integer("burn_in", burn_in, minimum=0)
    check_number("step_size", step_size, above=0.0)
    check_complete(inputs, lengths, input_size=model.input_size)
    sizes = step_sizes(dt, inputs, lengths, cell=cell, like=inputs[:0].double())
    batch, steps, _ = inputs.shape
    shortest = steps if lengths is None else int(lengths.min())
    if burn_in >= shortest:
        raise ValueError(f"burn_in must be less than {shortest}, the steps of the shortest sequence, got {burn_in}.")

    trajectory = float64_trajectory(
        model,
        inputs.repeat_interleave(paths, dim=0),
        noise=noise,
        path=None if noise is None else BrownianPath(seed=derive_seed(seed, "lyapunov noise")),
        lengths=None if lengths is None else lengths.repeat_interleave(paths),
        dt=sizes.repeat_interleave(paths, dim=0) if sizes is not None and sizes.ndim == 2 else sizes,
        h_0=None if h_0 is None else initial_state(h_0, cell, batch=batch).repeat_interleave(paths, dim=0)[None],
    )
    if h_0 is None and not any(bool(state.any()) for state in trajectory.states):
        warnings.warn(
            "The state stays at zero, so that these are the exponents of that fixed point. Pass h_0, such as "
            f"torch.randn(1, {batch}, {size}), for those of another path.",
            stacklevel=4,  # beyond the two decorators
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "lyapunov frames"))
    frames = torch.randn(batch * paths, size, count, generator=generator, dtype=torch.float64, device="cpu").to(
        inputs.device
    )
    frames, _ = _orthonormal(frames)
    growth = torch.zeros(batch * paths, count, dtype=torch.float64, device=inputs.device)
    for m in range(trajectory.steps):
        frames, log_factors = _orthonormal(trajectory.tangent(m, frames.movedim(2, 0)).movedim(0, 2))
        if m >= burn_in:
            growth += log_factors  # zero after a sequence's end, where the Jacobian is the identity

    counted = torch.ones(batch, steps, dtype=torch.float64, device=inputs.device) if sizes is None else sizes
    step = torch.arange(steps, device=inputs.device)
    inside = (step >= burn_in) if lengths is None else (step >= burn_in) & (step < lengths[:, None])
    time = step_size * (counted * inside).expand(batch, steps).sum(dim=1)
    rates = growth.unflatten(0, (batch, paths)) / time[:, None, None]
    if batch > 1:
        return mean_of_draws(rates.mean(dim=1))  # paths of the same sequence are not independent draws of inputs
    if paths > 1:
        return mean_of_draws(rates[0])
    return Measurement(value=rates[0, 0], kind="estimate")


def largest_exponent(
    model: Recurrent,
    inputs: Tensor,
    *,
    noise: HiddenNoise | None = None,
    paths: int = 1,
    **options: Unpack[ExponentOptions],
) -> Measurement:
    """Estimate the largest Lyapunov exponent, of shape `()`, with one tangent vector; see `lyapunov_spectrum`."""
    first = lyapunov_spectrum(model, inputs, exponents=1, noise=noise, paths=paths, **options)
    error = first.standard_error
    return replace(first, value=first.value[0], standard_error=None if error is None else error[0])


def _orthonormal(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormalize frames, and return the logarithms of the factors `|R_ii|`.

    Args:
        frames: `(batch, state_size, k)`.

    Returns:
        `(batch, state_size, k)` and `(batch, k)`.
    """
    if frames.shape[2] == 1:
        norm = frames.norm(dim=1, keepdim=True)
        return frames / torch.where(norm > 0, norm, torch.ones_like(norm)), norm[:, 0].log()
    Q, R = torch.linalg.qr(frames)
    return Q, R.diagonal(dim1=1, dim2=2).abs().log()
