"""Projected gradient ascent on the loss."""

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from noisyrnn.checks import check_flag, check_integer, check_number
from noisyrnn.robustness.ball import BallAttack
from noisyrnn.robustness.draws import Draws
from noisyrnn.robustness.logits import Model
from noisyrnn.robustness.search import Search


@final
@dataclass(frozen=True)
class PGD(BallAttack):
    r"""Projected gradient ascent on the loss, in the ball of radius ϵ around each sequence.

    The loss is the cross-entropy, or the squared error of a regression:

    .. math:: x_{k+1} = \Pi_{B_\epsilon(x)} \big( x_k + \eta \, u(\nabla \ell(x_k, y)) \big), \quad
        u(g) = \mathrm{sign}(g) \ (\ell_\infty) \ \text{or} \ g / \|g\|_2 \ (\ell_2) .

    A sequence is one point: the ℓ2 norm runs over its valid steps and channels together. Of all iterates, the input
    itself included, the best is returned, for each sequence: a misclassified one before a correct one, then the one
    with the largest loss. With a label at every step it is the one with the most misclassified steps that count, then
    the largest mean loss over them. More steps of the same size, or more restarts, therefore never weaken the attack.
    It assumes a deterministic model. With a `clip`, an input outside of it is moved into it, even out of the ball.

    Args:
        strength: Radius ϵ, `>= 0`.
        clip: Range that the iterates are cut to; `None` lets them leave the range of the data.
        norm: `"linf"` or `"l2"`.
        steps: Gradient steps from one start.
        step_size: Step η, in units of the strength; `None` lets it fall from the radius to 0 along a cosine, so that
            the first steps explore and the last ones refine.
        restarts: Number of starts; more than one needs `random_start`.
        random_start: Whether to start uniformly in the ball rather than at the input.
        scale: Scale of the channels, in whose units the radius is; an ℓ2 radius is then ϵ√n for a sequence of n values.
            `None`: the units of the data.
        until_wrong: Whether to leave a sequence once it is misclassified, with labels at every step once all of its
            answers are wrong. The wrong answers are those of the whole search, in less time; the points where it ends
            have smaller losses. `evaluate` does so.

    Raises:
        ValueError: If a number is out of its range or `norm` is unknown.

    Reference:
        Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.
    """

    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("steps", self.steps, minimum=1)
        check_integer("restarts", self.restarts, minimum=1)
        if self.step_size is not None:
            check_number("step_size", self.step_size, above=0)
        check_flag("random_start", self.random_start)
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts must be 1 without random_start, got {self.restarts}. Set random_start=True.")

    @property
    def name(self) -> str:
        """`pgd_linf` or `pgd_l2`."""
        return f"pgd_{self.norm}"

    @property
    def random(self) -> bool:
        """Whether two draws differ: they do if the start is random."""
        return self.random_start

    def perturb(
        self, inputs: Tensor, *, model: Model, labels: Tensor, lengths: Tensor | None, generator: Draws
    ) -> Tensor:
        """Return the best iterate of all starts."""
        search = Search(self, model, inputs, labels, lengths)
        inputs, valid = search.inputs, search.valid
        unit = self._radius(inputs, valid) / self.strength
        for _ in range(self.restarts):
            start = inputs + self._random_offset(inputs, valid, generator) if self.random_start else inputs
            current = self.restrict(start, inputs, lengths)
            for k in range(self.steps):
                if search.ended:
                    break
                gradient, _ = search.visit(current)
                step = (self._step(k) * unit).to(inputs.dtype)
                ascent = current + step * self._direction(gradient)
                projected = inputs + self._project(ascent - inputs, valid)
                current = self.restrict(projected, inputs, lengths)
            if not search.ended:
                search.offer(current)
        return search.best

    def _step(self, k: int) -> float:
        """Return the size of step `k`, in units of the strength."""
        if self.step_size is not None:
            return self.step_size
        return self.strength * (1 + math.cos(math.pi * k / self.steps)) / 2
