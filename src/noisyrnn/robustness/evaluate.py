"""Accuracy or error under a perturbation, over draws that all models share, and the worst case over attacks."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisyrnn.checks import check_device, check_integer, check_number, check_show_progress
from noisyrnn.data.split import Split, check_split
from noisyrnn.display import html_table
from noisyrnn.progress import ProgressBar
from noisyrnn.robustness.ball import BallAttack
from noisyrnn.robustness.base import Perturbation, check_perturbation
from noisyrnn.robustness.logits import Model, adapt, check_model, check_repeatable, check_rows, predict, take_rows
from noisyrnn.robustness.metrics import METRICS, Scorer, worse
from noisyrnn.robustness.statistics import accuracy_interval, seeds_interval

BLOCK = 250
"""Sequences perturbed and classified at once. Each block has its own generator, so a change alters the draws."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MAX_DRAWS = len(_DIGITS) - 1
"""Largest number of draws: their count must fit one digit of the stored results."""

PERCENT = "%"


def shown_value(metric: str, value: float, *, unit: bool = True) -> str:
    """Return the text of a value of a metric: per cent with one decimal, others with three digits."""
    if METRICS[metric].unit != PERCENT:
        return f"{value:.3g}"
    return f"{100 * value:.1f}" + (f" {PERCENT}" if unit else "")


WORST = "worst_"
"""Prefix of the names of worst cases over attacks; the norm follows."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one model under one perturbation.

    Args:
        mean: Its value: mean over sequences and, for noise, over draws.
        interval: 95 % interval over test sequences and draws, for this one trained model, not for another training; NaN
            for a metric without bounds of a single sequence.
        draws: Its value for each draw; a single one for an attack, whose starts count together.
        sequences: Its value for each sequence, mean over draws; the worst case over the starts of an attack.
        guess: Its value for the best answer that ignores the inputs: the largest class, the targets' mean, or their
            commonest signs.
    """

    mean: float
    interval: tuple[float, float]
    draws: tuple[float, ...]
    sequences: tuple[float, ...] = field(repr=False)
    guess: float = 0.0

    @classmethod
    def of(cls, metric: str, values: Tensor, guess: float) -> "Score":
        """Compute the score of values `(draws, sequences)` of a metric."""
        draws, sequences = tuple(values.mean(dim=1).tolist()), tuple(values.mean(dim=0).tolist())
        if metric == "accuracy":
            found = accuracy_interval(values.sum(dim=0).int().tolist(), draws=len(values))
        else:
            found = seeds_interval([sequences], bounds=METRICS[metric].bounds)
        interval = (found.low, found.high)
        return cls(mean=found.mean, interval=interval, draws=draws, sequences=sequences, guess=guess)

    def text(self, metric: str) -> str:
        """The value and its interval in the unit of the metric, such as `91.2 [88.1, 93.6] %`."""
        ends = [shown_value(metric, end, unit=False) for end in self.interval if not math.isnan(end)]
        unit = f" {PERCENT}" if METRICS[metric].unit == PERCENT else ""
        interval = f" [{', '.join(ends)}]" if ends else ""
        return f"{shown_value(metric, self.mean, unit=False)}{interval}{unit}"

    def to_dict(self, *, every_digit: bool = False) -> dict[str, Any]:
        """JSON-ready form, with six digits for each sequence or with all."""
        sequences = [value if every_digit else float(f"{value:.6g}") for value in self.sequences]
        interval = [None if math.isnan(end) else end for end in self.interval]
        return asdict(self) | {"sequences": sequences, "interval": interval}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Score":
        """Return the score of what `to_dict` returned."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        low, high = (math.nan if end is None else end for end in content["interval"])
        return cls(**fields | {"interval": (low, high)})


@dataclass(frozen=True, kw_only=True)
class RobustnessResult:
    """Metrics of one model under one perturbation: its accuracy, or errors and R² of a regression.

    Args:
        perturbation: Its name, or `"clean"`.
        strength: Its strength; `None` for clean.
        settings: Its `repr`, enough to rebuild it; `"clean"` for clean.
        scores: By key of `METRICS`, in that order; the first is the main one. Under an attack a sequence counts with
            the worst of the values that it and every attack on it give, for each metric by itself.
        unit: Unit of the strength in labels; empty: that of the data.
        norm: Norm of an attack's radius, `"linf"` or `"l2"`; `None` for noise.
        moved: Whether the perturbation changed any value of any sequence.
        gradient_free: Whether it is an attack that uses the outputs of the model only.
    """

    perturbation: str
    strength: float | None
    settings: str
    scores: Mapping[str, Score]
    unit: str = ""
    norm: str | None = None
    moved: bool = True
    gradient_free: bool = False

    @property
    def title(self) -> str:
        """The perturbation with its strength and unit, such as `white_noise 0.1`; `clean` for clean."""
        if self.strength is None:
            return self.perturbation
        return f"{self.perturbation} {self.strength:g} {self.unit}".strip()

    def __repr__(self) -> str:
        """Describe the result in one line: the perturbation, each metric with its interval, and what it is over."""
        scores = "; ".join(f"{METRICS[name].title} {score.text(name)}" for name, score in self.scores.items())
        draws = len(self.main.draws)
        over = f"{self.sequences} sequences" + (f" × {draws} draws" if draws > 1 else "")
        return f"RobustnessResult({self.title}: {scores}; {over})"

    def _repr_html_(self) -> str:
        """Show the metrics in a table, for notebooks."""
        rows = [
            (METRICS[name].title, score.text(name), shown_value(name, score.guess))
            for name, score in self.scores.items()
        ]
        head = ("metric", "value [95 % interval]", "best answer that ignores the inputs")
        draws = len(self.main.draws)
        over = f"{self.sequences} sequences, {draws} draw{'s' if draws > 1 else ''}. {self.settings}"
        return html_table(self.title, rows, head=head, notes=[over])

    @property
    def metric(self) -> str:
        """Name of the main metric."""
        return next(iter(self.scores))

    @property
    def main(self) -> Score:
        """The main metric: accuracy, or R² of a regression (the mean squared error of targets that never vary)."""
        return self.scores[self.metric]

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return len(self.main.sequences)

    @property
    def accuracy(self) -> float:
        """Share of correct answers in [0, 1], mean over sequences and draws; of steps, that of each sequence's.

        Raises:
            ValueError: For a regression.
        """
        return self._accuracies.mean

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the main metric, as `Score` describes it."""
        return self.main.interval

    @property
    def guess(self) -> float:
        """Main metric of the best answer that ignores the inputs."""
        return self.main.guess

    @property
    def draw_accuracies(self) -> tuple[float, ...]:
        """Accuracy of each draw."""
        return self._accuracies.draws

    @property
    def correct(self) -> tuple[int, ...]:
        """For each sequence with one label, how many draws were classified correctly; for an attack 1 or 0."""
        if self.metric != "accuracy":
            raise ValueError(f"correct must be of one class for each sequence, got {self.metric}. Use scores.")
        return tuple(round(share * len(self.main.draws)) for share in self.main.sequences)

    @property
    def _accuracies(self) -> Score:
        if self.metric not in ("accuracy", "step_accuracy"):
            known = ", ".join(self.scores)
            raise ValueError(f"accuracy must be of a classification, got a regression. Use scores: {known}.")
        return self.main

    def to_dict(self, *, every_digit: bool = False) -> dict[str, Any]:
        """JSON-ready form.

        With one class for each sequence, `correct` is a string with one base-36 digit for each sequence. Else `scores`
        has one entry for each metric.

        Args:
            every_digit: Whether the values of `scores` for each sequence have all their digits, not six.
        """
        head = {"perturbation": self.perturbation, "strength": self.strength, "settings": self.settings}
        tail = {"sequences": self.sequences, "unit": self.unit, "norm": self.norm, "moved": self.moved}
        if self.metric != "accuracy":
            scores = {name: score.to_dict(every_digit=every_digit) for name, score in self.scores.items()}
            return head | {"scores": scores} | tail
        accuracy = {
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "draw_accuracies": list(self.draw_accuracies),
            "correct": "".join(_DIGITS[count] for count in self.correct),
        }
        return head | accuracy | tail | {"guess": self.guess}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, gradient_free: bool = False) -> "RobustnessResult":
        """Return the result of what `to_dict` returned, which does not say whether an attack is `gradient_free`."""
        fields = {name: content[name] for name in ("perturbation", "strength", "settings", "unit", "norm", "moved")}
        if "scores" in content:
            scores = {name: Score.from_dict(score) for name, score in content["scores"].items()}
        else:
            draws = tuple(content["draw_accuracies"])
            score = Score(
                mean=content["accuracy"],
                interval=tuple(content["interval"]),
                draws=draws,
                sequences=tuple(int(digit, 36) / len(draws) for digit in content["correct"]),
                guess=content["guess"],
            )
            scores = {"accuracy": score}
        return cls(**fields, scores=scores, gradient_free=gradient_free)


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
    show_progress: bool | None = None,
    reference: Split | None = None,
) -> RobustnessResult:
    """Measure a model on perturbed sequences: the mean over draws of noise, the worst case of attacks.

    Classes are measured by the accuracy, values by R², mean squared and mean absolute error and, if all are 1 or -1, by
    their signs. With a label at every step, a sequence counts with the mean over its counted steps. All sequences count
    equally: the `weights` of a split, which are for training, have no effect.

    Draw `k` of noise for block `b` (250 sequences) is a function of (seed, k, b) only: two models meet the same noise,
    one strength differs from another by its scale only, and a paired test between models is meaningful. A
    perturbation without randomness, and `None`, take one draw. The random starts of an attack on classes also depend on
    the model: a sequence that is all wrong is left out before the next start is drawn, so that the others of its block
    get other numbers.

    Under an attack a sequence counts as correct if it is classified correctly without the attack and after every
    draw, which is a start of the attack. The attack ends for a sequence once it is misclassified. With labels at every
    step, and for a regression, a sequence counts with the worst value of each metric over all of these.

    Args:
        model: Callable from inputs to logits, or to values for a regression, already on `device`; a module must be in
            eval mode. Where the steps of the sequences have lengths it gets them as `dt`, if it takes that; missing
            values are held for it if it has no attribute `missing` that states how it meets them.
        split: Sequences and their labels.
        perturbation: `None` measures the clean sequences.
        draws: Draws of noise, or random starts of an attack, 1 to 35.
        seed: `>= 0`; give the same to all models that are compared.
        device: Device to move the sequences to; `None` leaves them.
        show_progress: Whether to show a progress bar if it takes more than a second; `None` shows one on a terminal and
            in a notebook only.
        reference: Sequences whose targets have the variance that R² relates the errors to, such as the whole test part
            where `split` has its first sequences; by default `split`. Without effect on classes.

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
    check_rows(model, len(split))
    check_device("device", device)
    check_integer("draws", draws, minimum=1)
    check_number("draws", draws, maximum=MAX_DRAWS)
    check_integer("seed", seed, minimum=0)
    check_show_progress(show_progress)
    if perturbation is not None:
        check_perturbation("perturbation", perturbation)
    if perturbation is None or not perturbation.random or perturbation.strength == 0:
        draws = 1
    attack = perturbation is not None and perturbation.is_attack
    searching = replace(perturbation, until_wrong=True) if isinstance(perturbation, BallAttack) else perturbation
    missing = split.missing is not None
    if reference is not None:
        check_split("reference", reference)
    scorer = Scorer(split, reference)
    values = torch.zeros(len(scorer.metrics), 1 if attack else draws, len(split), dtype=torch.float64, device="cpu")
    moved = perturbation is None or perturbation.strength == 0
    name = "clean" if perturbation is None else perturbation.name
    starts = range(0, len(split), BLOCK)
    bar = ProgressBar(f"evaluate {name}", len(starts) * draws, shown=show_progress, delay=1.0)
    with closing(bar):
        for block, start in enumerate(starts):
            rows = torch.arange(start, min(start + BLOCK, len(split)), device="cpu")
            if block == 0 and not attack:  # attacks check it themselves
                inputs, _, lengths, dt = rows_on(device, split, rows[:2])
                check_repeatable(adapt(take_rows(model, rows[:2]), dt=dt, missing=missing), inputs, lengths)
            if attack:
                inputs, labels, lengths, dt = rows_on(device, split, rows)
                adapted = adapt(take_rows(model, rows), dt=dt, missing=missing)
                values[:, 0, rows] = _values(scorer, adapted, inputs, labels, lengths)
            for draw in range(draws):
                if attack and split.classes:  # a sequence that is all wrong already needs no further start
                    rows = rows[values[0, 0, rows] > 0]
                    if len(rows) == 0:
                        break
                inputs, labels, lengths, dt = rows_on(device, split, rows)
                adapted, changed = adapt(take_rows(model, rows), dt=dt, missing=missing), inputs
                if searching is not None:
                    generator = draw_generator(seed, draw, block)
                    changed = searching(adapted, inputs, labels, generator=generator, lengths=lengths)
                    moved = moved or not torch.allclose(changed, inputs, rtol=0.0, atol=0.0, equal_nan=True)
                found = _values(scorer, adapted, changed, labels, lengths)
                for metric, metric_name in enumerate(scorer.metrics):
                    before = values[metric, 0, rows]
                    values[metric, 0 if attack else draw, rows] = (
                        worse(metric_name, before, found[metric]) if attack else found[metric]
                    )
                bar.advance()
    return RobustnessResult(
        perturbation=name,
        strength=None if perturbation is None else float(perturbation.strength),
        settings="clean" if perturbation is None else repr(perturbation),
        scores={
            key: Score.of(key, value, scorer.guess[key]) for key, value in zip(scorer.metrics, values, strict=True)
        },
        unit="" if perturbation is None else perturbation.unit,
        norm=None if perturbation is None else perturbation.norm,
        moved=moved,
        gradient_free=perturbation is not None and perturbation.gradient_free,
    )


def worst_cases(results: Sequence[RobustnessResult]) -> list[RobustnessResult]:
    """Compute the metrics under all attacks together: for each norm and radius one result, `worst_linf` or `worst_l2`.

    A sequence counts with the worst value under the attacks of that norm with that radius or a smaller one, since the
    smaller ball lies within the larger: it is correct if it is under every one of them.

    An attack that was evaluated on fewer sequences than another one saw the first of them. The other sequences count
    with the attacks that saw them, as `settings` states. R² is comparable only if `evaluate` had one `reference`.

    Args:
        results: Results of one model on the same sequences, or the first of them; those without a norm are ignored.
    """
    worst = []
    attacked = [r for r in results if r.norm is not None and not r.perturbation.startswith(WORST)]
    for norm, unit in dict.fromkeys((r.norm, r.unit) for r in attacked):
        attacks = [r for r in attacked if (r.norm, r.unit) == (norm, unit)]
        for radius in sorted({r.strength for r in attacks if r.strength is not None}):
            within = [r for r in attacks if r.strength is not None and r.strength <= radius]
            longest = max(within, key=lambda r: r.sequences)
            scores = {
                name: Score.of(name, _worst_values(name, [r.scores[name] for r in within])[None], score.guess)
                for name, score in longest.scores.items()
                if all(name in r.scores for r in within)
            }
            worst.append(
                RobustnessResult(
                    perturbation=f"{WORST}{norm}",
                    strength=radius,
                    settings="worst case of "
                    + "; ".join(
                        r.settings + (f" on the first {r.sequences} sequences" * (r.sequences < longest.sequences))
                        for r in within
                    ),
                    scores=scores,
                    unit=unit,
                    norm=norm,
                    moved=any(r.moved for r in within),
                )
            )
    return worst


def _worst_values(metric: str, scores: Sequence[Score]) -> Tensor:
    """Return the worst value of each sequence; scores of fewer sequences are of the first of them."""
    worst, *others = (
        torch.tensor(score.sequences, dtype=torch.float64, device="cpu")
        for score in sorted(scores, key=lambda score: -len(score.sequences))
    )
    for values in others:
        worst[: len(values)] = worse(metric, worst[: len(values)], values)
    return worst


def rows_on(
    device: torch.device | str | None, split: Split, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return inputs, labels, lengths and step lengths of some sequences, on the device."""
    lengths, dt = (None if each is None else each[rows].to(device) for each in (split.lengths, split.dt))
    return split.inputs[rows].to(device), split.labels[rows].to(device), lengths, dt


@torch.no_grad()
def _values(scorer: Scorer, model: Model, inputs: Tensor, labels: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the value of each metric for each sequence, `(metrics, batch)` on the CPU."""
    return scorer(predict(model, inputs, labels, lengths), labels)
