"""The search of a gradient attack on a batch: what it knows of each sequence, and the best iterate so far."""

import torch
from torch import Tensor

from noisyrnn.robustness.ball import BallAttack, movable
from noisyrnn.robustness.gradient import Losses, input_gradient, sequence_losses, wrong_answers
from noisyrnn.robustness.logits import Model, predict, take_rows


class Search:
    """Calls the model for an attack and keeps the best iterate of each sequence: most wrong answers, then largest loss.

    Args:
        attack: Its ball, and whether a misclassified sequence is searched further (`until_wrong`).
        model: See `predict`; deterministic, and treats its rows separately.
        inputs: `(batch, steps, channels)`.
        labels: As a `Split` holds them.
        lengths: Valid steps of each sequence, or `None`.
        losses: What is differentiated, from logits and labels to the loss of each sequence.

    Attributes:
        inputs: Detached, as given.
        valid: What may be moved, as `movable` returns it.
        best: The best iterates so far, at first the inputs themselves, cut to the attack's range.
    """

    def __init__(
        self,
        attack: BallAttack,
        model: Model,
        inputs: Tensor,
        labels: Tensor,
        lengths: Tensor | None,
        *,
        losses: Losses = sequence_losses,
    ) -> None:
        self.attack, self.inputs, self.valid = attack, inputs.detach(), movable(model, inputs, lengths)
        self._model, self._labels, self._lengths, self._losses = model, labels, lengths, losses
        self.best = attack.restrict(self.inputs, self.inputs, lengths)
        with torch.no_grad():
            self._wrong, self._loss = _score(predict(model, self.best, labels, lengths), labels)

    @property
    def ended(self) -> bool:
        """Whether no sequence is searched further."""
        return self.attack.until_wrong and bool((self._wrong == 1).all())

    def visit(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Offer points as the best, `(batch, steps, channels)`, and differentiate there.

        Returns:
            Gradient, shape of `points`, zero where nothing may be moved; and the loss of each sequence, float64
            `(batch,)`. Both are zero for sequences that are not searched further.
        """
        rows, model, labels, lengths = self._searched()
        found, logits = input_gradient(model, _take(points, rows), labels, lengths, losses=self._losses)
        self._keep(rows, points, logits)
        losses = self._losses(logits, labels)
        if rows is None:
            return found * self.valid, losses
        zeros = losses.new_zeros(len(points))
        return torch.zeros_like(points).index_copy(0, rows, found) * self.valid, zeros.index_copy(0, rows, losses)

    @torch.no_grad()
    def offer(self, points: Tensor) -> None:
        """Offer points as the best, `(batch, steps, channels)`."""
        rows, model, labels, lengths = self._searched()
        self._keep(rows, points, predict(model, _take(points, rows), labels, lengths))

    def _searched(self) -> tuple[Tensor | None, Model, Tensor, Tensor | None]:
        """Return the numbers of the sequences that are searched further, `None` for all, and what belongs to them."""
        if not self.attack.until_wrong or not bool((self._wrong == 1).any()):
            return None, self._model, self._labels, self._lengths
        rows = (self._wrong != 1).nonzero()[:, 0]
        lengths = None if self._lengths is None else self._lengths[rows.to(self._lengths.device)]
        return rows, take_rows(self._model, rows), self._labels[rows], lengths

    def _keep(self, rows: Tensor | None, points: Tensor, logits: Tensor) -> None:
        """Keep each point that is better than the best so far; `logits` are those of `rows`."""
        wrong, loss = _score(logits, _take(self._labels, rows))
        if rows is not None:
            wrong, loss = self._wrong.index_copy(0, rows, wrong), self._loss.index_copy(0, rows, loss)
        better = (wrong > self._wrong) | ((wrong == self._wrong) & (loss > self._loss))
        self.best = torch.where(better[:, None, None], points, self.best)
        self._wrong = torch.where(better, wrong, self._wrong)
        self._loss = torch.where(better, loss, self._loss)


def _take(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values[rows]


def _score(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return wrong_answers(logits, labels), sequence_losses(logits, labels)
