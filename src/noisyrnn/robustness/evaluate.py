"""Accuracy under a perturbation, over draws that all models share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from noisyrnn.checks import check_integer, check_number
from noisyrnn.data.base import Split
from noisyrnn.robustness.base import Model, Perturbation, check_model, predict
from noisyrnn.robustness.statistics import accuracy_interval

BLOCK = 250
"""Sequences perturbed and classified at once. Each block has its own generator, so changing it changes the draws."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MAX_DRAWS = len(_DIGITS) - 1
"""Draws whose count still fits one digit of the stored results."""

_KEYS = "perturbation strength settings accuracy interval draw_accuracies correct sequences".split()


@dataclass(frozen=True, kw_only=True)
class RobustnessResult:
    """Accuracy of one model under one perturbation.

    Args:
        perturbation: Its name, or `"clean"`.
        strength: Its strength; `None` for clean.
        settings: Its `repr`, enough to rebuild it; `"clean"` for clean.
        accuracy: Share of right answers, a mean over sequences and draws, in [0, 1].
        interval: 95 % interval of the accuracy over test sequences and draws, for this one trained model
            (`accuracy_interval`); it says nothing about another training.
        draw_accuracies: Accuracy of each draw.
        correct: For each sequence, how many draws were classified correctly.
    """

    perturbation: str
    strength: float | None
    settings: str
    accuracy: float
    interval: tuple[float, float]
    draw_accuracies: tuple[float, ...]
    correct: tuple[int, ...]

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
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RobustnessResult":
        """The result that `to_dict` wrote.

        Raises:
            ValueError: If a key is missing, or `correct` does not hold one digit for each sequence.
        """
        missing = [key for key in _KEYS if key not in values]
        if missing:
            raise ValueError(f"result must have the keys {', '.join(_KEYS)}, got none for {', '.join(missing)}.")
        digits, sequences = values["correct"], values["sequences"]
        if len(digits) != sequences:
            raise ValueError(f"correct must hold one digit for each of {sequences} sequences, got {len(digits)}.")
        low, high = values["interval"]
        return cls(
            perturbation=values["perturbation"],
            strength=values["strength"],
            settings=values["settings"],
            accuracy=values["accuracy"],
            interval=(low, high),
            draw_accuracies=tuple(values["draw_accuracies"]),
            correct=tuple(int(digit, 36) for digit in digits),
        )


def draw_generator(seed: int, draw: int, block: int) -> torch.Generator:
    """Generator of one draw for one block of sequences, a function of these three numbers alone."""
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
    """Accuracy of a model on perturbed sequences, a mean over draws.

    Draw `k` of block `b` (250 sequences) is a function of (seed, k, b) alone: two models meet the same noise, one
    strength differs from another by its scale only, and a paired test between models is meaningful. A perturbation
    without chance, and none at all, takes one draw.

    Args:
        model: Callable from inputs to logits, already on `device`; a module must be in eval mode.
        split: What to classify.
        perturbation: `None` measures the clean accuracy.
        draws: Draws of a random perturbation, 1 to 35.
        seed: `>= 0`; the same for every model that is to be compared.
        device: Where the sequences are moved; `None` leaves them.

    Raises:
        ValueError: If a number is out of range, the model is in training mode or returns another shape.
        RuntimeError: If a logit or a gradient is not finite.

    Example:
        >>> split = Split(inputs=torch.tensor([[[1.0]], [[-1.0]]]), labels=torch.tensor([1, 0]), classes=2)
        >>> evaluate(lambda inputs: torch.cat([-inputs[:, 0], inputs[:, 0]], dim=1), split).accuracy
        1.0
    """
    check_model(model)
    check_integer("draws", draws, minimum=1)
    check_number("draws", draws, maximum=MAX_DRAWS)
    check_integer("seed", seed, minimum=0)
    if perturbation is None or not perturbation.random or perturbation.strength == 0:
        draws = 1
    right = torch.zeros(draws, len(split), dtype=torch.bool)
    for block, start in enumerate(range(0, len(split), BLOCK)):
        rows = slice(start, start + BLOCK)
        inputs, labels = split.inputs[rows].to(device), split.labels[rows].to(device)
        lengths = None if split.lengths is None else split.lengths[rows].to(device)
        for draw in range(draws):
            changed = inputs
            if perturbation is not None:
                generator = draw_generator(seed, draw, block)
                changed = perturbation(model, inputs, labels, generator=generator, lengths=lengths)
            with torch.no_grad():
                logits = predict(model, changed, labels, lengths)
            right[draw, rows] = (logits.argmax(dim=1) == labels).cpu()
    correct = tuple(right.sum(dim=0).tolist())
    interval = accuracy_interval(correct, draws=draws)
    return RobustnessResult(
        perturbation="clean" if perturbation is None else perturbation.name,
        strength=None if perturbation is None else float(perturbation.strength),
        settings="clean" if perturbation is None else repr(perturbation),
        accuracy=interval.mean,
        interval=(interval.low, interval.high),
        draw_accuracies=tuple(right.double().mean(dim=1).tolist()),
        correct=correct,
    )
