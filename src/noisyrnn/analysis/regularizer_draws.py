"""The regulariser of any cell by random tangents and by simulation, and the penalty to train with instead of noise."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from noisyrnn.analysis.measurement import Measurement, mean_of_draws
from noisyrnn.analysis.regularizer import Expansion, Regularizer, checked_noise
from noisyrnn.analysis.trajectory import cell_of, standardized_inputs
from noisyrnn.checks import check_choice, check_integer, check_number
from noisyrnn.kernels import operator
from noisyrnn.models import SequenceClassifier
from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.robustness.gradient import recording

PENALTIES = ("explicit", "hutchinson")
_ROWS = 1024  # sequences in one simulated pass: enough to fill the products, few enough for their noise to fit


@recording
@torch.no_grad()
def tangent_regularizer(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    noise: HiddenNoise | None = None,
    draws: int = 64,
    seed: int = 0,
    lengths: Tensor | None = None,
    dt: Tensor | None = None,
) -> Regularizer:
    r"""Unbiased draws of the regulariser of any cell, by tangent vectors carried along the noise-free path.

    .. math:: v_{m+1} = J_m v_m + N_m^{1/2} \zeta_m, \quad w_{m+1} = J_m w_m + \tfrac{1}{2} h_m''[v_m, v_m], \quad
        Q = E\, v_M^T \nabla^2 \ell\, v_M, \quad P = 2\, E\, \nabla \ell \cdot w_M .

    Both hold for any independent ζ with unit covariance. Random signs are taken: no other choice varies less. One sign
    a unit stands for both terms of the noise, as `N_m` is diagonal in both of its forms; what the noise's dependence
    on the state adds at second order has mean zero.

    The step must be twice differentiable. That of the exponential RNN is not where a pre-activation crosses its
    threshold: its regulariser holds for noise too weak to do that.

    Args:
        model: As for `explicit_regularizer`.
        inputs: As for `explicit_regularizer`.
        labels: As for `explicit_regularizer`.
        noise: As for `explicit_regularizer`.
        draws: Independent draws, at least 2 for a standard error. Memory grows with it, time does for many.
        seed: Of the draws, at least 0.
        lengths: As for `explicit_regularizer`.
        dt: As for `explicit_regularizer`; for cells whose steps have a length.

    Returns:
        Draws of `P` and `Q`, `(draws, batch)`, without gradients; `penalty` has them.

    Raises:
        TypeError: If the model is not a classifier.
        ValueError: As for `explicit_regularizer`, or if `draws` or `seed` is out of range.
    """
    check_integer("draws", draws, minimum=1)
    check_integer("seed", seed, minimum=0)
    path = BrownianPath(seed=derive_seed(seed, "tangent"))
    return Expansion.of(model, inputs, labels, noise=noise, lengths=lengths, dt=dt).sampled(path, draws)


@recording
@torch.no_grad()
def antithetic_regularizer(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    noise: HiddenNoise | None = None,
    scale: float = 1.0,
    pairs: int = 256,
    seed: int = 0,
    lengths: Tensor | None = None,
    dt: Tensor | None = None,
) -> Measurement:
    r"""The effect of the noise on the loss of any cell, simulated with the noise and its negative.

    With all levels multiplied by `scale` s, each pair gives
    :math:`[\ell(h^{+s}) + \ell(h^{-s}) - 2 \ell(\bar h)] / (2 s^2)`. Its mean is ½ (P + Q) + O(s²); with s = 1 it is
    the whole effect of the noise, all orders together.

    The difference of losses is divided by s²: with a small `scale`, use a model in float64.

    Args:
        model: As for `explicit_regularizer`; its `kernel` runs the passes.
        inputs: As for `explicit_regularizer`.
        labels: As for `explicit_regularizer`.
        noise: As for `explicit_regularizer`.
        scale: s, above 0.
        pairs: Independent pairs, at least 2.
        seed: Of the noise, at least 0; two scales with one seed share their random numbers.
        lengths: As for `explicit_regularizer`.
        dt: As for `explicit_regularizer`; for cells whose steps have a length.

    Returns:
        An estimate for each sequence, `(batch,)`, with its standard error over the pairs, in units of the loss.

    Raises:
        TypeError: If the model is not a classifier.
        ValueError: As for `explicit_regularizer`, or if `scale`, `pairs` or `seed` is out of range.
    """
    check_number("scale", scale, above=0.0)
    check_integer("pairs", pairs, minimum=2)
    check_integer("seed", seed, minimum=0)
    noise = checked_noise(model, inputs, labels, noise=noise, lengths=lengths, dt=dt)
    labels = labels.long()
    noise = replace(noise, additive=scale * noise.additive, multiplicative=scale * noise.multiplicative)
    inputs, batch, cell = standardized_inputs(model, inputs), len(inputs), cell_of(model)

    def losses(copies: int, path: BrownianPath | None) -> Tensor:
        _, end = operator.run(
            cell,
            inputs.repeat(copies, 1, 1),
            cell.initial_state(copies * batch),
            noise=None if path is None else noise,
            path=path,
            lengths=None if lengths is None else lengths.repeat(copies),
            dt=dt.repeat(copies, 1) if dt is not None and dt.ndim == 2 else dt,
            every_step=False,
            kernel=model.layer.kernel,
        )
        logits = model.readout(end[:, : cell.hidden_size])
        return functional.cross_entropy(logits, labels.repeat(copies), reduction="none").unflatten(0, (copies, batch))

    quiet, chunk = losses(1, None), max(1, _ROWS // batch)
    sums = []
    for first in range(0, pairs, chunk):
        copies = min(chunk, pairs - first)
        path = BrownianPath(seed=derive_seed(seed, "antithetic"), first_row=first * batch)
        sums.append(losses(copies, path) + losses(copies, path.negated()) - 2 * quiet)
    return mean_of_draws(torch.cat(sums) / (2 * scale**2))


@recording
def penalty(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    kind: str = "explicit",
    draws: int = 1,
    path: BrownianPath | None = None,
    noise: HiddenNoise | None = None,
    lengths: Tensor | None = None,
    dt: Tensor | None = None,
) -> Tensor:
    """½ (P + Q) of each sequence, differentiable: what training with the noise adds to the loss, without the noise.

    Args:
        model: As for `explicit_regularizer`.
        inputs: As for `explicit_regularizer`.
        labels: As for `explicit_regularizer`.
        kind: "explicit" (see `explicit_regularizer`), or "hutchinson": the mean of a few draws of
            `tangent_regularizer`, unbiased in value and gradient, for any cell and in O(batch · steps · d²).
        draws: Of "hutchinson", at least 1.
        path: Where the draws of "hutchinson" come from: a new one for every training step.
        noise: As for `explicit_regularizer`.
        lengths: As for `explicit_regularizer`.
        dt: As for `explicit_regularizer`.

    Returns:
        `(batch,)`, signed.

    Raises:
        TypeError: If the model is not a classifier, or has no exact regulariser and `kind` asks for it.
        ValueError: As for `explicit_regularizer`, or if `kind` or `draws` is out of range, or `path` is missing.
    """
    return _penalized(model, inputs, labels, kind, draws, path, noise, lengths, dt)[1]


@recording
def penalized_loss(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    kind: str = "explicit",
    draws: int = 1,
    path: BrownianPath | None = None,
    noise: HiddenNoise | None = None,
    lengths: Tensor | None = None,
    dt: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The noise-free loss of each sequence plus its `penalty`, `(batch,)`, and the logits, from one forward pass.

    Arguments and errors are those of `penalty`.
    """
    expansion, effect = _penalized(model, inputs, labels, kind, draws, path, noise, lengths, dt)
    return expansion.loss.value + effect, expansion.loss.logits


def _penalized(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    kind: str,
    draws: int,
    path: BrownianPath | None,
    noise: HiddenNoise | None,
    lengths: Tensor | None,
    dt: Tensor | None,
) -> tuple[Expansion, Tensor]:
    """The expansion, and the penalty `(batch,)`."""
    check_choice("kind", kind, PENALTIES)
    check_integer("draws", draws, minimum=1)
    if kind == "hutchinson" and path is None:
        raise ValueError("path must be given for kind 'hutchinson', got None. Use BrownianPath(seed=...).")
    with torch.autocast(inputs.device.type, enabled=False):  # half precision does not outlast many Jacobians
        expansion = Expansion.of(model, inputs, labels, noise=noise, lengths=lengths, dt=dt)
        if path is None or kind == "explicit":
            return expansion, expansion.exact().total
        return expansion, expansion.sampled(path, draws).total.mean(0)
