"""The Square Attack: a random search on the model's outputs, without gradients."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from noisyrnn.checks import check_integer, check_number
from noisyrnn.padding import valid_values
from noisyrnn.robustness.ball import BallAttack, movable
from noisyrnn.robustness.bumps import propose_bumps, random_signs, start_bumps
from noisyrnn.robustness.draws import Draws, draw_uniform
from noisyrnn.robustness.gradient import sequence_losses, wrong_answers
from noisyrnn.robustness.logits import Model, predict, take_rows

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Proposals, of `SCHEDULE_LENGTH`, after which the windows become half as long."""
SCHEDULE_LENGTH = 10_000


@final
@dataclass(frozen=True)
class Square(BallAttack):
    r"""The Square Attack for sequences: a random search in the ball of radius ϵ.

    It needs the outputs of the model only, so it also attacks models whose gradient is zero, wrong or missing, where
    FGSM and PGD find nothing. In the ℓ∞ ball every value of a sequence is at a corner:

    .. math:: x' = x + \epsilon \, s, \quad s \in \{-1, 1\}^{M \times d_x} .

    The search starts at independent random signs. A proposal draws a window of consecutive steps, the square of an
    image, and one sign for each channel, which all steps of the window take; if that changes nothing, it takes the
    opposite signs. In the ℓ2 ball it starts at bumps with the norm ϵ, and a proposal moves the norm of one window into
    another, where it adds two bumps of random signs in each channel (`propose_bumps`).

    A window lies within the valid steps and has `max(1, round(p · valid steps))` of them, where the share p falls with
    the proposals by the schedule of the paper, scaled to `queries`. For each sequence a proposal is kept if more
    answers are wrong, or as many with a larger loss: that of `sequence_losses`, so the log-odds against the label, or
    the squared error of a regression.

    The result is the last kept proposal, or the input itself where that one is better. A misclassified sequence, with
    labels at every step one whose answers are all wrong, is not queried again; if it is so from the start it is
    returned unchanged. The draws depend neither on the model nor on the lengths. It assumes a deterministic model that
    treats its rows separately. With a `clip`, proposals are cut to it, and an input outside of it is moved into it,
    even out of the ball.

    Args:
        strength: Radius ϵ, `>= 0`.
        clip: Range that the proposals are cut to; `None` lets them leave the range of the data.
        norm: `"linf"` or `"l2"`.
        queries: Largest number of model calls for each sequence, `>= 2`: the input itself, the start and the proposals.
        initial_share: Share p of the valid steps that the first windows cover, in (0, 1].
        scale: Scale of the channels, in whose units the radius is; an ℓ2 radius is then ϵ√n for a sequence of n values.
            `None`: the units of the data.
        until_wrong: Without effect: the search always leaves a sequence once all of its answers are wrong.

    Raises:
        ValueError: If a number is out of its range or `norm` is unknown.

    Example:
        >>> def steps_up(inputs):    # a model whose gradient is zero
        ...     score = inputs.sum(dim=(1, 2)).round()
        ...     return torch.stack((score, -score), dim=1)
        >>> inputs, labels = torch.full((1, 4, 1), 0.3), torch.tensor([0])
        >>> attack, generator = Square(0.5, queries=100), torch.Generator().manual_seed(1)
        >>> attack(steps_up, inputs, labels, generator=generator).flatten()
        tensor([-0.2000, -0.2000, -0.2000, -0.2000])

    Reference:
        Andriushchenko, Croce, Flammarion, Hein, Square Attack: a query-efficient black-box adversarial attack via
        random search, ECCV 2020; with windows of steps in place of squares of pixels, at ℓ∞ with random signs in place
        of stripes at the start, and at ℓ2 with bumps of independent signs in place of opposite ones.
    """

    queries: int = 1000
    initial_share: float = 0.3

    gradient_free = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("queries", self.queries, minimum=2)
        check_number("initial_share", self.initial_share, above=0, maximum=1)

    @property
    def name(self) -> str:
        """`square_linf` or `square_l2`."""
        return f"square_{self.norm}"

    @torch.no_grad()
    def perturb(
        self, inputs: Tensor, *, model: Model, labels: Tensor, lengths: Tensor | None, generator: Draws
    ) -> Tensor:
        """Return the result of the random search."""
        first = self.restrict(inputs, inputs, lengths)
        first_wrong, first_loss = _score(model, first, labels, lengths)
        radius = self._radius(inputs, movable(model, inputs, lengths))
        # The start is always kept, even if it is worse than the input: the search needs a point to move from.
        wrong = torch.where(first_wrong == 1, 1.0, -1.0).to(first_wrong)
        loss = first_loss.clone()
        changed, proposal = first, self._start(inputs, lengths, generator)
        offset = proposal
        for k in range(self.queries - 1):
            rows = (wrong < 1).nonzero()[:, 0]
            if len(rows) == 0:
                break
            if k > 0:
                proposal = self._propose(offset, inputs, lengths, self._share(k - 1), generator)
            here = None if lengths is None else lengths.to(inputs.device)[rows]
            moved = inputs[rows] + (radius[rows] * proposal[rows]).to(inputs.dtype)
            candidates = self.restrict(moved, inputs[rows], here)
            new_wrong, new_loss = _score(take_rows(model, rows), candidates, labels[rows], here)
            kept = _is_better(new_wrong, new_loss, wrong[rows], loss[rows])
            rows = rows[kept]
            changed = changed.index_copy(0, rows, candidates[kept])
            offset = offset.index_copy(0, rows, proposal[rows])
            wrong[rows], loss[rows] = new_wrong[kept], new_loss[kept]
        better = _is_better(wrong, loss, first_wrong, first_loss)
        return torch.where(better[:, None, None], changed, first)

    def _share(self, k: int) -> float:
        """Return the share of the valid steps that the window of proposal `k` covers."""
        return self.initial_share / 2 ** bisect_left(HALVINGS, k * SCHEDULE_LENGTH // self.queries)

    def _start(self, inputs: Tensor, lengths: Tensor | None, generator: Draws) -> Tensor:
        """Return the offset of the start in units of the radius, `(batch, steps, channels)`."""
        if self.norm == "l2":
            return start_bumps(inputs, lengths, generator)
        return random_signs(draw_uniform(inputs, generator)).to(inputs.dtype)

    def _propose(
        self, offset: Tensor, inputs: Tensor, lengths: Tensor | None, share: float, generator: Draws
    ) -> Tensor:
        """Return a changed copy of the offset."""
        if self.norm == "l2":
            return propose_bumps(offset, inputs, lengths, share, generator)
        return propose_signs(offset, lengths, share, generator)


def _score(model: Model, inputs: Tensor, labels: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the share of wrong answers and the loss of each sequence, float64 `(batch,)` each."""
    logits = predict(model, inputs, labels, lengths)
    return wrong_answers(logits, labels).double(), sequence_losses(logits, labels)


def _is_better(wrong: Tensor, loss: Tensor, than_wrong: Tensor, than_loss: Tensor) -> Tensor:
    """Whether more answers are wrong, or as many with a larger loss, bool `(batch,)`."""
    return (wrong > than_wrong) | ((wrong == than_wrong) & (loss > than_loss))


def propose_signs(signs: Tensor, lengths: Tensor | None, share: float, generator: Draws) -> Tensor:
    """Return a copy of `signs` with new ones in one window for each sequence.

    Args:
        signs: -1 or 1, `(batch, steps, channels)`.
        lengths: Valid steps of each sequence, `(batch,)`; `None` where all are.
        share: Share of the valid steps that the window covers, in (0, 1].
        generator: Source of the draws: for each sequence one position, and one sign for each channel.
    """
    batch, steps, channels = signs.shape
    drawn = draw_uniform(signs.new_empty(batch, 1, channels + 1, dtype=torch.float64), generator)
    valid = valid_values(signs, lengths).sum(dim=1, keepdim=True)  # (batch, 1, 1)
    window = (share * valid.double()).round().long().clamp_min(1)
    start = (drawn[..., :1] * (valid - window + 1)).long()
    step = torch.arange(steps, device=signs.device)[:, None]
    inside = (start <= step) & (step < start + window)
    chosen = random_signs(drawn[..., 1:]).to(signs.dtype)
    changes = (inside & (signs != chosen)).any(dim=(1, 2), keepdim=True)
    return torch.where(inside, torch.where(changes, chosen, -chosen), signs)
