"""Accuracy under a perturbation, over draws that all models share, and the worst case over attacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisyrnn.checks import check_device, check_integer, check_number
from noisyrnn.data.base import Split, check_split
from noisyrnn.robustness.base import Perturbation, check_perturbation
from noisyrnn.robustness.logits import Model, check_model, check_repeatable, predict
from noisyrnn.robustness.statistics import accuracy_interval

BLOCK = 250
"""Sequences perturbed and classified at once. Each block has its own generator, so a change alters the draws."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MAX_DRAWS = len(_DIGITS) - 1
"""Largest number of draws: their count must fit one digit of the stored results."""

WORST = "worst_"
"""Prefix of the names of worst cases over attacks; the norm follows."""


@dataclass(frozen=True, kw_only=True)
class RobustnessResult:
    """Accuracy of one model under one perturbation.

    Args:
        perturbation: Its name, or `"clean"`.
        strength: Its strength; `None` for clean.
        settings: Its `repr`, enough to rebuild it; `"clean"` for clean.
        accuracy: Share of correct answers in [0, 1]: mean over sequences and, for noise, over draws.
        interval: 95 % interval of the accuracy over test sequences and draws, for this one trained model
            (`accuracy_interval`), not for another training.
        draw_accuracies: Accuracy of each draw; a single one for an attack, whose starts count together.
        correct: For each sequence, how many draws were classified correctly; for an attack 1 if the sequence itself
            and every attack on it was, else 0.
        unit: Unit of the strength in labels; empty: that of the data.
        norm: Norm of an attack's radius, `"linf"` or `"l2"`; `None` for noise.
        moved: Whether the perturbation changed any value of any sequence.
        guess: Accuracy of always answering with the largest class.
    """

    perturbation: str
    strength: float | None
    settings: str
    accuracy: float
    interval: tuple[float, float]
    draw_accuracies: tuple[float, ...]
    correct: tuple[int, ...]
    unit: str = ""
    norm: str | None = None
    moved: bool = True
    guess: float = 0.0

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return len(self.correct)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `correct` is a string with one base-36 digit for each sequence."""
        return {
            "perturbation": self.perturbation,
            "strength": self.strength,
            "settings": self.settings,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "draw_accuracies": list(self.draw_accuracies),
            "correct": "".join(_DIGITS[count] for count in self.correct),
            "sequences": self.sequences,
            "unit": self.unit,
            "norm": self.norm,
            "moved": self.moved,
            "guess": self.guess,
        }


def draw_generator(seed: int, draw: int, block: int) -> torch.Generator:
    """Return the generator of one draw for one block of sequences, a function of these three numbers only."""
    state = np.random.SeedSequence([seed, draw, block]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def evaluate(
    model: Model,
    split: Split,
    perturbation: Perturbation | None = None,
    *,
    draws: int = 5,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> RobustnessResult:
    """Measure the accuracy of a model on perturbed sequences: the mean over draws of noise, the worst case of attacks.

    Draw `k` of block `b` (250 sequences) is a function of (seed, k, b) only: two models meet the same noise, one
    strength differs from another by its scale only, and a paired test between models is meaningful. A
    perturbation without randomness, and `None`, take one draw.

    Under an attack a sequence counts as correct if it is classified correctly without the attack and after every
    draw, which is a start of the attack. A misclassified sequence is not attacked again.

    Args:
        model: Callable from inputs to logits, already on `device`; a module must be in eval mode.
        split: Sequences to classify.
        perturbation: `None` measures the clean accuracy.
        draws: Draws of noise, or random starts of an attack, 1 to 35.
        seed: `>= 0`; the same for all models that are compared.
        device: Device to move the sequences to; `None` leaves them.

    Raises:
        ValueError: If a number is out of range, the model is in training mode or returns another shape.
        RuntimeError: If a logit or a gradient is not finite.

    Example:
        >>> split = Split(inputs=torch.tensor([[[1.0]], [[-1.0]]]), labels=torch.tensor([1, 0]), classes=2)
        >>> evaluate(lambda inputs: torch.cat([-inputs[:, 0], inputs[:, 0]], dim=1), split).accuracy
        1.0
    """
    check_model(model)
    check_split("split", split)
    check_device("device", device)
    check_integer("draws", draws, minimum=1)
    check_number("draws", draws, maximum=MAX_DRAWS)
    check_integer("seed", seed, minimum=0)
    if perturbation is not None:
        check_perturbation("perturbation", perturbation)
    if split.classes == 0:
        raise ValueError(
            "split must have classes, got the targets of a regression, which no share of right answers fits."
        )
    if perturbation is None or not perturbation.random or perturbation.strength == 0:
        draws = 1
    attack = perturbation is not None and perturbation.is_attack
    is_correct = torch.ones(1 if attack else draws, len(split), dtype=torch.bool, device="cpu")
    moved = perturbation is None or perturbation.strength == 0
    for block, start in enumerate(range(0, len(split), BLOCK)):
        rows = torch.arange(start, min(start + BLOCK, len(split)), device="cpu")
        if block == 0 and not attack:  # attacks check it themselves
            inputs, _, lengths = _rows_on(device, split, rows[:2])
            check_repeatable(model, inputs, lengths)
        if attack:
            is_correct[0, rows] = _correct(model, *_rows_on(device, split, rows))
        for draw in range(draws):
            if attack:  # a sequence that is wrong already needs no further start
                rows = rows[is_correct[0, rows]]
                if len(rows) == 0:
                    break
            inputs, labels, lengths = _rows_on(device, split, rows)
            changed = inputs
            if perturbation is not None:
                generator = draw_generator(seed, draw, block)
                changed = perturbation(model, inputs, labels, generator=generator, lengths=lengths)
                moved = moved or not torch.equal(changed, inputs)
            is_correct[0 if attack else draw, rows] = _correct(model, changed, labels, lengths)
    correct = tuple(is_correct.sum(dim=0).tolist())
    interval = accuracy_interval(correct, draws=len(is_correct))
    return RobustnessResult(
        perturbation="clean" if perturbation is None else perturbation.name,
        strength=None if perturbation is None else float(perturbation.strength),
        settings="clean" if perturbation is None else repr(perturbation),
        accuracy=interval.mean,
        interval=(interval.low, interval.high),
        draw_accuracies=tuple(is_correct.double().mean(dim=1).tolist()),
        correct=correct,
        unit="" if perturbation is None else perturbation.unit,
        norm=None if perturbation is None else perturbation.norm,
        moved=moved,
        guess=float(split.labels.bincount().max()) / len(split),
    )


def worst_cases(results: Sequence[RobustnessResult]) -> list[RobustnessResult]:
    """Compute the accuracy under all attacks together: for each norm and radius one result, `worst_linf` or `worst_l2`.

    A sequence counts as correct if it is correct under every attack of that norm with that radius or a smaller one,
    since the smaller ball lies within the larger.

    Args:
        results: Results of one model on the same sequences; those without a norm are ignored.

    Raises:
        ValueError: If two attacks of one norm were evaluated on different numbers of sequences.
    """
    worst = []
    attacked = [r for r in results if r.norm is not None and not r.perturbation.startswith(WORST)]
    for norm, unit in dict.fromkeys((r.norm, r.unit) for r in attacked):
        attacks = [r for r in attacked if (r.norm, r.unit) == (norm, unit)]
        if len({r.sequences for r in attacks}) > 1:
            counts = ", ".join(str(r.sequences) for r in attacks)
            raise ValueError(f"results must be for the same sequences, got {counts} of them.")
        for radius in sorted({r.strength for r in attacks if r.strength is not None}):
            within = [r for r in attacks if r.strength is not None and r.strength <= radius]
            correct = tuple(min(counts) for counts in zip(*(r.correct for r in within), strict=True))
            interval = accuracy_interval(correct, draws=1)
            worst.append(
                RobustnessResult(
                    perturbation=f"{WORST}{norm}",
                    strength=radius,
                    settings="worst case of " + "; ".join(r.settings for r in within),
                    accuracy=interval.mean,
                    interval=(interval.low, interval.high),
                    draw_accuracies=(interval.mean,),
                    correct=correct,
                    unit=unit,
                    norm=norm,
                    moved=any(r.moved for r in within),
                    guess=within[0].guess,
                )
            )
    return worst


def _rows_on(device: torch.device | str | None, split: Split, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return inputs, labels and lengths of some sequences, on the device."""
    lengths = None if split.lengths is None else split.lengths[rows].to(device)
    return split.inputs[rows].to(device), split.labels[rows].to(device), lengths


@torch.no_grad()
def _correct(model: Model, inputs: Tensor, labels: Tensor, lengths: Tensor | None) -> Tensor:
    """Which sequences are classified correctly, bool `(batch,)` on the CPU."""
    return (predict(model, inputs, labels, lengths).argmax(dim=1) == labels).cpu()
