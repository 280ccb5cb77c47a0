"""Randomised smoothing: a certified ℓ2 radius for the majority vote of any classifier under white noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy import special
from torch import Tensor

from noisyrnn.analysis.arguments import check_class_logits, check_measured
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.checks import check_integer, check_number, check_tensor
from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.padding import valid_values
from noisyrnn.robustness.base import check_strengths
from noisyrnn.robustness.logits import Model, check_rows, predict, take_rows
from noisyrnn.robustness.statistics import Interval, accuracy_interval

ABSTAIN = -1
"""The class of a sequence on which the vote was not clear enough."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Smoothed:
    """Predictions of the smoothed classifier, and the radius within which each one holds.

    Args:
        predictions: Classes, int64 `(n,)`; `ABSTAIN`, which is -1, where undecided.
        probability: Lower bound on the probability of the most voted class under the noise, certificate `(n,)`.
        radius: ℓ2 radius within which the prediction does not change, certificate `(n,)`; 0 where undecided.
        sigma: Standard deviation of the noise, which defines the smoothed classifier.
    """

    predictions: Tensor
    probability: Measurement
    radius: Measurement
    sigma: float


def certify(
    model: Model,
    inputs: Tensor,
    *,
    sigma: float,
    selection_draws: int = 100,
    draws: int = 1000,
    confidence: float = 0.999,
    seed: int = 0,
    lengths: Tensor | None = None,
    batch_size: int = 1000,
) -> Smoothed:
    r"""Certify radii for the smoothed classifier :math:`\hat c(x) = \argmax_k P(\argmax_j f_j(x + \sigma \xi) = k)`.

    A first set of draws selects a class, a second one bounds its probability from below by :math:`\underline p`
    (Clopper and Pearson). If :math:`\underline p > 1/2`, that class is the smoothed classifier's within

    .. math:: R = \sigma \, \Phi^{-1}(\underline p),

    and otherwise it abstains. The certificates are for the smoothed classifier, not for `model`. For any model, each
    certificate holds with probability at least `confidence` over the draws. The ℓ2 norm is over the valid steps; only
    these get noise, and the noisy inputs are not clipped. The largest possible radius is
    :math:`\sigma \Phi^{-1}((1 - \mathrm{confidence})^{1/\mathrm{draws}})`. The model must be deterministic or draw
    noise that is independent of this noise.

    Args:
        model: Callable from inputs to logits; a module must be in eval mode. For steps that last `dt`, `(n, steps)`:
            `functools.partial(model, dt=dt)`.
        inputs: `(n, steps, input_size)`. NaN where a value is missing, for a model with `missing`: noise and radius are
            over the values that are there.
        sigma: Standard deviation of the noise, in units of the inputs, above 0.
        selection_draws: Number of draws that select the class, at least 1.
        draws: Number of draws that bound its probability, at least 1.
        confidence: Confidence of each certificate, in (0, 1).
        seed: `>= 0`; the noise of sequence `k` is a function of (seed, k, draw, step, channel) only.
        lengths: Valid steps of each sequence, `(n,)`; `None` where all are.
        batch_size: Noisy copies of one sequence classified at once, at least 1; it affects only memory and time.

    Raises:
        TypeError: If the model predicts values or classes of steps.
        ValueError: If a number is out of range, a shape does not fit, or the model is in training mode.
        RuntimeError: If a logit is not finite.

    Example:
        >>> model = lambda x: torch.cat([-x[:, 0], x[:, 0]], dim=1)    # the sign; its distance to the boundary is |x|
        >>> smoothed = certify(model, torch.tensor([[[0.5]], [[0.0]]]), sigma=0.5)
        >>> smoothed.predictions
        tensor([ 1, -1])
        >>> [round(float(radius), 2) for radius in smoothed.radius.value]
        [0.36, 0.0]

    Reference:
        Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, ICML 2019.
    """
    check_integer("selection_draws", selection_draws, minimum=1)
    check_integer("draws", draws, minimum=1)
    _check(model, inputs, sigma, confidence, seed, lengths, batch_size)
    classes, bounds = [], []
    for index in range(len(inputs)):
        votes = _votes(model, inputs, index, selection_draws + draws, sigma, seed, lengths, batch_size)
        chosen = int(votes[:selection_draws].bincount().argmax())
        hits = int((votes[selection_draws:] == chosen).sum())
        classes.append(chosen)
        bounds.append(float(special.betaincinv(hits, draws - hits + 1, 1 - confidence)) if hits else 0.0)
    probability = torch.tensor(bounds, dtype=torch.float64, device="cpu")
    decided = probability > 0.5
    radius = torch.where(decided, sigma * torch.special.ndtri(probability), 0.0)
    return Smoothed(
        predictions=torch.where(decided, torch.tensor(classes, dtype=torch.int64, device="cpu"), ABSTAIN),
        probability=Measurement(value=probability, kind="certificate", confidence=confidence),
        radius=Measurement(value=radius, kind="certificate", confidence=confidence),
        sigma=sigma,
    )


def smoothed_predictions(
    model: Model,
    inputs: Tensor,
    *,
    sigma: float,
    draws: int = 1000,
    confidence: float = 0.999,
    seed: int = 0,
    lengths: Tensor | None = None,
    batch_size: int = 1000,
) -> Tensor:
    """Predict the classes of the smoothed classifier, int64 `(n,)`: the class with most votes, or `ABSTAIN` if unclear.

    It abstains unless a two-sided binomial test finds a significant difference between the first two classes. With
    probability at least `confidence`, each sequence gets the class of the smoothed classifier or none. Arguments as for
    `certify`, which needs more draws for the same decision, and also returns a radius.

    Raises:
        TypeError: If the model predicts values or classes of steps.
        ValueError: If a number is out of range, a shape does not fit, or the model is in training mode.
        RuntimeError: If a logit is not finite.

    Example:
        >>> model = lambda x: torch.cat([-x[:, 0], x[:, 0]], dim=1)
        >>> smoothed_predictions(model, torch.tensor([[[0.5]], [[0.0]]]), sigma=0.5)
        tensor([ 1, -1])

    Reference:
        Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, ICML 2019.
    """
    check_integer("draws", draws, minimum=1)
    _check(model, inputs, sigma, confidence, seed, lengths, batch_size)
    classes = []
    for index in range(len(inputs)):
        votes = _votes(model, inputs, index, draws, sigma, seed, lengths, batch_size)
        counts, order = votes.bincount(minlength=2).topk(2)
        first, second = counts.tolist()
        p_value = min(1.0, 2 * float(special.bdtr(second, first + second, 0.5)))  # of the two-sided binomial test
        clear = p_value <= 1 - confidence
        classes.append(int(order[0]) if clear else ABSTAIN)
    return torch.tensor(classes, dtype=torch.int64, device="cpu")


def certified_accuracy(
    smoothed: Smoothed, labels: Tensor, radii: Sequence[float], *, confidence: float = 0.95
) -> tuple[Interval, ...]:
    """Compute the share of sequences classified correctly with a radius of at least r, for each r of `radii`.

    Args:
        smoothed: Result of `certify` for the sequences.
        labels: True classes, `(n,)`.
        radii: Radii, at least 0, in units of the inputs.
        confidence: Confidence of the intervals over sequences, in (0, 1).

    Returns:
        For each radius the share and its interval, which covers other samples of sequences for the same model. Each
        certificate holds with the probability stated in `smoothed`.

    Raises:
        ValueError: If there is not one label for each sequence, or a number is out of range.

    Example:
        >>> model = lambda x: torch.cat([-x[:, 0], x[:, 0]], dim=1)
        >>> smoothed = certify(model, torch.tensor([[[0.5]], [[0.3]]]), sigma=0.5)
        >>> [interval.mean for interval in certified_accuracy(smoothed, torch.tensor([1, 1]), [0.0, 0.3, 0.8])]
        [1.0, 0.5, 0.0]
    """
    check_strengths("radii", radii)
    check_tensor("labels", labels)
    if labels.shape != smoothed.predictions.shape:
        raise ValueError(
            f"labels must have shape {tuple(smoothed.predictions.shape)}, one for each sequence, "
            f"got {tuple(labels.shape)}."
        )
    right = smoothed.predictions == labels.cpu()
    certainty = f"each certificate holds with probability at least {smoothed.radius.confidence:g}"
    curve = []
    for radius in radii:
        held = (right & (smoothed.radius.value >= radius)).int().tolist()
        interval = accuracy_interval(held, draws=1, confidence=confidence)
        covers = f"{100 * confidence:g} % interval over {len(held)} sequences, for one trained model; {certainty}"
        curve.append(replace(interval, covers=covers))
    return tuple(curve)


def _check(
    model: Model,
    inputs: Tensor,
    sigma: float,
    confidence: float,
    seed: int,
    lengths: Tensor | None,
    batch_size: int,
) -> None:
    """Raise unless the arguments that `certify` and `smoothed_predictions` share are in range."""
    check_class_logits(model)
    check_measured(model, inputs, lengths)
    check_rows(model, len(inputs))
    check_number("sigma", sigma, above=0)
    check_number("confidence", confidence, above=0)
    if confidence >= 1:
        raise ValueError(f"confidence must be less than 1, got {confidence:g}.")
    check_integer("seed", seed, minimum=0)
    check_integer("batch_size", batch_size, minimum=1)


@torch.no_grad()
def _votes(
    model: Model,
    inputs: Tensor,
    index: int,
    draws: int,
    sigma: float,
    seed: int,
    lengths: Tensor | None,
    batch_size: int,
) -> Tensor:
    """Return the class of each noisy copy of one sequence, int64 `(draws,)`."""
    rows = slice(index, index + 1)
    sequence, length = inputs[rows], None if lengths is None else lengths[rows]
    _, steps, channels = sequence.shape
    valid = valid_values(sequence, length)
    path = BrownianPath(seed=derive_seed(seed, "smoothing", index))  # not what a model seeded alike would draw
    votes = []
    for first in range(0, draws, batch_size):
        count = min(batch_size, draws - first)
        noise = replace(path, first_row=first).normals(
            steps=steps, batch=count, units=channels, motions=1, dtype=inputs.dtype, device=inputs.device
        )
        noisy = torch.where(valid, sequence + sigma * noise[0].transpose(0, 1), sequence)
        any_class = torch.zeros(count, dtype=torch.long, device=inputs.device)  # there is no label to check
        copies = take_rows(model, torch.full((count,), index, dtype=torch.int64, device="cpu"))
        logits = predict(copies, noisy, any_class, None if length is None else length.expand(count))
        votes.append(logits.argmax(dim=1).cpu())
    return torch.cat(votes)
