"""Projected gradient ascent whose step size adapts to its progress."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from noisyrnn.checks import check_choice, check_integer
from noisyrnn.robustness.ball import BallAttack
from noisyrnn.robustness.draws import Draws
from noisyrnn.robustness.gradient import Losses, logit_ratios, sequence_losses
from noisyrnn.robustness.logits import Model
from noisyrnn.robustness.search import Search

MOMENTUM, LEAST_INCREASES = 0.75, 0.75
"""α and ρ of the paper."""
LOSSES: dict[str, Losses] = {"cross_entropy": sequence_losses, "logit_ratio": logit_ratios}


@final
@dataclass(frozen=True)
class APGD(BallAttack):
    r"""Auto-PGD: projected gradient ascent with momentum, which halves its step where it no longer rises.

    .. math:: z_{k+1} = \Pi\big(x_k + \eta \, u(\nabla \ell(x_k))\big), \quad
        x_{k+1} = \Pi\big(x_k + \alpha (z_{k+1} - x_k) + (1 - \alpha)(x_k - x_{k-1})\big)

    with α = 0.75, a random start, and η = 2ϵ at first. At each of some checkpoints η is halved, and the search goes on
    from the best point so far, for each sequence whose loss rose in fewer than 75 % of the steps since the last one, or
    whose best loss did not rise although η was not halved there. Nothing is to be tuned but the number of steps.

    Of all iterates, the input itself included, the best is returned, as for `PGD`. It assumes a deterministic model.

    Args:
        strength: Radius ϵ, `>= 0`.
        clip: Range that the iterates are cut to; `None` lets them leave the range of the data.
        norm: `"linf"` or `"l2"`.
        loss: `"cross_entropy"`, of which the log-odds are differentiated (`sequence_losses`); or `"logit_ratio"`, which
            does not depend on the scale of the logits. A regression has the squared error alone.
        steps: Gradient steps from one start.
        restarts: Number of random starts.
        scale: Scale of the channels, in whose units the radius is; an ℓ2 radius is then ϵ√n for a sequence of n values.
            `None`: the units of the data.
        until_wrong: Whether to leave a sequence once it is misclassified, with labels at every step once all of its
            answers are wrong. The wrong answers are those of the whole search, in less time; the points where it ends
            have smaller losses. `evaluate` does so.

    Raises:
        ValueError: If a number is out of its range, or `norm` or `loss` is unknown.

    Reference:
        Croce, Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks,
        ICML 2020.
    """

    loss: Literal["cross_entropy", "logit_ratio"] = "cross_entropy"
    steps: int = 100
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss", self.loss, LOSSES)
        check_integer("steps", self.steps, minimum=1)
        check_integer("restarts", self.restarts, minimum=1)

    @property
    def name(self) -> str:
        """`apgd_linf`, `apgd_l2`, and with the other loss `apgd_ratio_linf`, `apgd_ratio_l2`."""
        return f"apgd_{self.norm}" if self.loss == "cross_entropy" else f"apgd_ratio_{self.norm}"

    def perturb(
        self, inputs: Tensor, *, model: Model, labels: Tensor, lengths: Tensor | None, generator: Draws
    ) -> Tensor:
        """Return the best iterate of all starts."""
        if labels.is_floating_point() and self.loss != "cross_entropy":
            raise ValueError(f"loss must be 'cross_entropy' for a regression, got {self.loss!r}.")
        search = Search(self, model, inputs, labels, lengths, losses=LOSSES[self.loss])
        for _ in range(self.restarts):
            offset = self._random_offset(search.inputs, search.valid, generator)
            if not search.ended:
                self._climb(search, search.inputs + offset, lengths)
        return search.best

    def _climb(self, search: Search, start: Tensor, lengths: Tensor | None) -> None:
        """Search from a start, `(batch, steps, channels)`; what follows a sequence has the batch's axis."""

        def projected(point: Tensor) -> Tensor:
            offset = self._project(point - search.inputs, search.valid)
            return self.restrict(search.inputs + offset, search.inputs, lengths)

        halvings = checkpoints(self.steps)
        current = before = self.restrict(start, search.inputs, lengths)
        rate = 2 * self._radius(search.inputs, search.valid)
        gradient, loss = search.visit(current)
        top, top_gradient, top_loss = current, gradient, loss
        rises = torch.zeros_like(loss)
        halved, top_at_last, last = torch.zeros_like(loss, dtype=torch.bool), top_loss, 0
        for k in range(1, self.steps + 1):
            if search.ended:
                return
            ascent = projected(current + rate.to(current.dtype) * self._direction(gradient))
            share = MOMENTUM if k > 1 else 1.0
            moved = projected(current + share * (ascent - current) + (1 - share) * (current - before))
            before, current = current, moved
            if k == self.steps:
                search.offer(current)
                return
            gradient, found = search.visit(current)
            rises += found > loss
            loss, better = found, found > top_loss
            top, top_gradient = _where(better, current, top), _where(better, gradient, top_gradient)
            top_loss = torch.where(better, loss, top_loss)
            if k in halvings:
                few = rises < LEAST_INCREASES * (k - last)
                halve = few | (~halved & (top_loss <= top_at_last))
                rate = torch.where(halve[:, None, None], rate / 2, rate)
                current, gradient = _where(halve, top, current), _where(halve, top_gradient, gradient)
                halved, top_at_last, last = halve, top_loss, k
                rises = torch.zeros_like(rises)


def checkpoints(steps: int) -> list[int]:
    """Numbers of the steps after which the step size may be halved: first after 22 % of all, then after shorter parts.

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    found, last, place = [], 0, 22  # percent: fractions would round upwards past a whole number
    while -(-place * steps // 100) < steps:
        found.append(-(-place * steps // 100))
        last, place = place, place + max(place - last - 3, 6)
    return list(dict.fromkeys(found))


def _where(rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Sequences of `one` where `rows` says so, else of `other`."""
    return torch.where(rows[:, None, None], one, other)
