"""An upper bound on the distance to the decision boundary: the size of the smallest successful attack."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from noisyrnn.analysis.arguments import check_class_labels, check_classifier, check_complete
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.checks import check_integer, check_number
from noisyrnn.robustness.gradient import recording
from noisyrnn.robustness.logits import Model, predict
from noisyrnn.robustness.pgd import PGD

_SHRINKINGS = 12  # a successful attack is shortened to within 2^-12 of where its segment crosses the boundary


@recording
def attack_radius(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    upper: float,
    norm: Literal["l2", "linf"] = "l2",
    steps: int = 20,
    restarts: int = 2,
    rounds: int = 10,
    seed: int = 0,
    lengths: Tensor | None = None,
) -> Measurement:
    """Search for the smallest perturbation that changes the class of each sequence, and return its size.

    Projected gradient descent on the margin, first within `upper`, then within the size of the smallest attack so far,
    with a separate radius per sequence. A successful attack is shortened by bisection of the segment to the sequence,
    as long as the class stays wrong. The model misclassifies the perturbed sequence, so the distance to the boundary is
    at most the size of the perturbation: a certificate. A search without success proves nothing.

    Args:
        model: Deterministic and differentiable, treating its rows separately; a module must be in eval mode.
        inputs: `(batch, steps, input_size)`.
        labels: True classes, `(batch,)`.
        upper: Largest radius tried, in units of the inputs, above 0.
        norm: `"l2"`, over the valid steps and channels of a sequence together, or `"linf"`.
        steps: Gradient steps per start, as in `PGD`.
        restarts: Random starts per round.
        rounds: Number of successive attacks, at least 1.
        seed: Seed of the random starts, `>= 0`.
        lengths: Valid steps of each sequence, `(batch,)`; padding is not perturbed.

    Returns:
        A certificate (an upper bound), float64 `(batch,)`, in units of the inputs: 0 if misclassified already,
        infinite if no attack succeeded.

    Raises:
        TypeError: If the model predicts values or classes of steps.
        ValueError: If a number is out of range, a shape does not fit, an input is NaN or infinite, or the model is in
            training mode or its noise on.
        RuntimeError: If a logit or a gradient is not finite.

    Example:
        >>> model = lambda x: torch.stack([-x.sum(dim=(1, 2)), x.sum(dim=(1, 2))], dim=1)    # true distance: 2
        >>> radius = attack_radius(model, torch.ones(1, 4, 1), torch.tensor([1]), upper=10.0)
        >>> round(float(radius.value), 2)
        2.0
    """
    check_number("upper", upper, above=0)
    check_integer("rounds", rounds, minimum=1)
    check_integer("seed", seed, minimum=0)
    attack = PGD(1.0, norm=norm, steps=steps, restarts=restarts)  # checks these three
    check_classifier(model)
    check_complete(inputs, lengths)
    labels = check_class_labels(labels, count=len(inputs))
    size, _ = _nearest_attacks(model, inputs.detach(), labels, attack, upper, rounds, seed, lengths)
    return Measurement(value=size, kind="certificate")


def _nearest_attacks(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    attack: PGD,
    upper: float,
    rounds: int,
    seed: int,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the size of the smallest attack on each sequence, `(batch,)`, and the attacked inputs."""
    generator = torch.Generator().manual_seed(seed)
    nearest = inputs.clone()
    reach = torch.where(_wrong(model, inputs, labels, lengths), 0.0, torch.inf).double()
    for _ in range(rounds):
        scale = reach.clamp(max=upper).to(inputs.dtype)[:, None, None]
        # In this view of the model, the unit ball around zero is the ball around each sequence, with its radius.
        view = partial(_rivals, model, inputs, labels, scale)
        unit = attack(view, torch.zeros_like(inputs), torch.zeros_like(labels), generator=generator, lengths=lengths)
        found = _shortened(model, inputs, scale * unit, labels, lengths)
        size = _size(found.double() - inputs.double(), attack.norm)
        smaller = _wrong(model, found, labels, lengths) & (size < reach)
        nearest = torch.where(smaller[:, None, None], found, nearest)
        reach = torch.where(smaller, size, reach)
    return reach, nearest


def _rivals(
    model: Model, inputs: Tensor, labels: Tensor, scale: Tensor, unit: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """Return the label's logit and the largest other one at `inputs + scale * unit`, `(batch, 2)`.

    Ascent on the cross-entropy of these two reduces the margin; that of all logits would lead to a mixture of classes.
    """
    logits = predict(model, inputs + scale * unit, labels, lengths)
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return torch.stack([logits[own], logits.masked_fill(own, -torch.inf).amax(dim=1)], dim=1)


def _shortened(model: Model, inputs: Tensor, offset: Tensor, labels: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the nearest misclassified input on the segment from each sequence to `inputs + offset`, by bisection."""
    low, high = torch.zeros_like(offset[:, :1, :1]), torch.ones_like(offset[:, :1, :1])
    for _ in range(_SHRINKINGS):
        middle = (low + high) / 2
        wrong = _wrong(model, inputs + middle * offset, labels, lengths)[:, None, None]
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    return inputs + high * offset


@torch.no_grad()
def _wrong(model: Model, inputs: Tensor, labels: Tensor, lengths: Tensor | None) -> Tensor:
    """Return which sequences are misclassified, bool `(batch,)`."""
    return predict(model, inputs, labels, lengths).argmax(dim=1) != labels


def _size(offset: Tensor, norm: str) -> Tensor:
    """Return the norm of each sequence's offset, float64 `(batch,)`."""
    return torch.linalg.vector_norm(offset, ord=2 if norm == "l2" else torch.inf, dim=(1, 2))
