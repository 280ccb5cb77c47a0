"""The page of the transfer matrix: tables with intervals over seeds, paired tests, and what they say in words.

Nothing here opens a model: `trainings.py` trains and measures. All differences of one model, in accuracies and
in dynamics, are corrected together by Holm's method, and every statement of the page follows from the corrected p.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.transfer.plan import BASE, ROWS, SEARCH_SEEDS, TWO, Plan
from benchmarks.transfer.trainings import Training
from noisyrnn.display import markdown_table
from noisyrnn.report.columns import Column
from noisyrnn.report.results import read_run
from noisyrnn.report.table import number
from noisyrnn.robustness import WORST
from noisyrnn.robustness.statistics import (
    Interval,
    PairedTest,
    adjust,
    mean_interval,
    paired_test,
    seeds_interval,
    seeds_test,
)

HIDDEN = tuple(row for row in ROWS if row.startswith("hidden-"))
NOISE_COMPARISONS = (
    *((row, BASE) for row in HIDDEN),
    ("input", BASE),
    *((row, "input") for row in HIDDEN),
    ("input-hidden", "input"),
)
OTHER_COMPARISONS = (
    ("adversarial", BASE),
    ("weight-decay", BASE),
    ("ema", BASE),
    ("dropout", TWO),
)
COMPARISONS = NOISE_COMPARISONS + OTHER_COMPARISONS
"""Pairs of rows that are tested, first minus second."""

TITLES = {"noisy": "Noisy RNN", "gru": "GRU"}
DYNAMICS = {
    "output_margin": "output margin",
    "linearised_margin": "linearised input margin",
    "input_jacobian": "Jacobian of logits to inputs",
    "lyapunov": "largest Lyapunov exponent",
}
"""Titles of what `trainings.dynamics` measures."""

Pair = tuple[str, str]
Quantity = Column | str
"""A perturbation, or a key of `DYNAMICS`."""
Tests = Mapping[tuple[Pair, Quantity], PairedTest]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The results of one model.

    Args:
        model: Its name.
        seeds: Seeds of which every row is complete.
        accuracies: By row and column, for each seed the share of right draws of each test sequence,
            `(seeds, sequences)`.
        dynamics: By row and key of `DYNAMICS`, one value for each seed.
    """

    model: str
    seeds: Sequence[int]
    accuracies: Mapping[tuple[str, Column], np.ndarray]
    dynamics: Mapping[tuple[str, str], list[float]]

    @property
    def rows(self) -> list[str]:
        """Keys of `ROWS`, in order."""
        return list(dict.fromkeys(row for row, _ in self.accuracies))

    @property
    def columns(self) -> list[Column]:
        """Perturbations, in the order of a report."""
        return sorted(dict.fromkeys(column for _, column in self.accuracies), key=lambda column: column.place)

    @property
    def quantities(self) -> list[Quantity]:
        """All that is tested: the columns, then margins and dynamics."""
        return [*self.columns, *DYNAMICS]

    def interval(self, row: str, quantity: Quantity) -> Interval | None:
        """Return the mean over seeds with its interval; `None` if the row has no such quantity."""
        if isinstance(quantity, Column):
            return seeds_interval(self.accuracies[row, quantity])
        values = self.dynamics.get((row, quantity))
        return None if values is None else mean_interval(values)

    def test(self, pair: Pair, quantity: Quantity) -> PairedTest | None:
        """Return the paired test of two rows, first minus second."""
        first, second = pair
        if isinstance(quantity, Column):
            return seeds_test(self.accuracies[first, quantity], self.accuracies[second, quantity])
        one, two = self.dynamics.get((first, quantity)), self.dynamics.get((second, quantity))
        return None if one is None or two is None else paired_test(one, two)

    def tests(self) -> dict[tuple[Pair, Quantity], PairedTest]:
        """Return all tests of `COMPARISONS` whose rows there are, corrected together."""
        found = {}
        for pair in COMPARISONS:
            if pair[0] in self.rows and pair[1] in self.rows:
                for quantity in self.quantities:
                    test = self.test(pair, quantity)
                    if test is not None:
                        found[pair, quantity] = test
        return adjust(found)


def gather(trainings: Sequence[Training], model: str) -> Matrix:
    """Read the results of a model, of the seeds of which every row is complete.

    Of the worst cases over attacks only that over all attacks of the ℓ∞ norm is taken: the others are those of one kind
    of attack.

    Raises:
        ValueError: If there is no such seed.
    """
    own = [training for training in trainings if training.model == model]
    unfinished = {training.seed for training in own if not training.complete}
    seeds = sorted({training.seed for training in own} - unfinished)
    if not seeds:
        raise ValueError(f"{model} must have a seed of which every row is complete, got none. Run `run` first.")
    accuracies: dict[tuple[str, Column], list[np.ndarray]] = {}
    dynamics: dict[tuple[str, str], list[float]] = {}
    for training in own:
        if training.seed not in seeds:
            continue
        scores = read_run(training.folder.path).scores
        worst = max((c for c in scores if c.perturbation == f"{WORST}linf"), key=lambda c: c.strength, default=None)
        for column, score in scores.items():
            if not column.perturbation.startswith(WORST) or column == worst:
                accuracies.setdefault((training.row, column), []).append(np.array(score.by_sequence))
        for name, value in (training.dynamics or {}).items():
            dynamics.setdefault((training.row, name), []).append(value)
    stacked = {key: np.stack(values) for key, values in accuracies.items()}
    return Matrix(model=model, seeds=seeds, accuracies=stacked, dynamics=dynamics)


def title_of(quantity: Quantity) -> str:
    """Return the title of a column."""
    if isinstance(quantity, str):
        return DYNAMICS[quantity]
    return quantity.title.removesuffix(" ").replace("Worst case over attacks", "Worst case")


def accuracy_table(matrix: Matrix) -> str:
    """Return the matrix, trained with × tested with, in per cent."""
    rows = []
    for row in matrix.rows:
        cells = [ROWS[row].title]
        for column in matrix.columns:
            found = matrix.interval(row, column)
            assert found is not None
            cells.append(f"{100 * found.mean:.1f} ± {50 * (found.high - found.low):.1f}")
        rows.append(cells)
    return markdown_table(["trained with", *map(title_of, matrix.columns)], rows, left=1)


def dynamics_table(matrix: Matrix) -> str:
    """Return margins and dynamics of each row."""
    rows = []
    for row in matrix.rows:
        cells = [ROWS[row].title]
        for name in DYNAMICS:
            found = matrix.interval(row, name)
            if found is None:
                cells.append("–")
                continue
            half = (found.high - found.low) / 2
            spread = "" if math.isnan(half) else f" ± {number(half, half, size=found.mean)}"
            cells.append(number(found.mean, half) + spread)
        rows.append(cells)
    return markdown_table(["trained with", *DYNAMICS.values()], rows, left=1)


def difference(test: PairedTest, quantity: Quantity) -> str:
    """Return a difference with its interval, in points for an accuracy; bold if it is significant."""
    half = (test.high - test.low) / 2

    def text(value: float) -> str:
        if isinstance(quantity, Column):
            return f"{100 * value:+.1f}"
        return f"{'+' if value > 0 else ''}{number(value, half, size=max(abs(test.low), abs(test.high)))}"

    shown = f"**{text(test.difference)}**" if test.significant else text(test.difference)
    return shown if math.isnan(half) else f"{shown} [{text(test.low)}, {text(test.high)}]"


def differences_table(matrix: Matrix, tests: Tests, comparisons: Sequence[Pair]) -> str:
    """Return the differences of some comparisons, one column for each."""
    kept = [pair for pair in comparisons if any(known == pair for known, _ in tests)]
    head = ["tested with", *(f"{ROWS[first].title} − {ROWS[second].title}" for first, second in kept)]
    rows = [
        [
            title_of(quantity),
            *(difference(tests[pair, quantity], quantity) if (pair, quantity) in tests else "–" for pair in kept),
        ]
        for quantity in matrix.quantities
    ]
    return markdown_table(head, rows, left=1)


def sentence(pair: Pair, tests: Tests) -> str:
    """Return what the corrected tests of one comparison say."""
    own = {quantity: test for (known, quantity), test in tests.items() if known == pair}
    first, second = (ROWS[row].title for row in pair)
    head = f"- {first} against {second}: "
    if all(math.isnan(test.p_value) for test in own.values()):
        return f"{head}no tests, {next(iter(own.values())).reason}."
    parts = []
    for what, sign in (("higher", 1), ("lower", -1)):
        found = {quantity: test for quantity, test in own.items() if test.significant and sign * test.difference > 0}
        accuracies = [f"{short(q)} ({100 * t.difference:+.1f})" for q, t in found.items() if isinstance(q, Column)]
        others = [DYNAMICS[q] for q in found if isinstance(q, str)]
        if accuracies:
            parts.append(f"accuracy {what} under {', '.join(accuracies)}")
        if others:
            parts.append(f"{what}: {', '.join(others)}")
    count = sum(not test.significant for test in own.values())
    if not parts:
        return f"{head}no significant difference in any of the {len(own)} quantities."
    rest = f"; no significant difference in the other {count}" if count else ""
    return f"{head}{'; '.join(parts)}{rest}."


def short(column: Column) -> str:
    """Return the title of a column within a sentence."""
    title = title_of(column)
    return title if title.startswith(("FGSM", "PGD")) else title[0].lower() + title[1:]


def beyond_input_noise(tests: Tests) -> list[str]:
    """Return where hidden noise differs significantly from input noise, or adds to it: what the page asks."""
    lines = []
    for pair in (("input-hidden", "input"), *((row, "input") for row in HIDDEN)):
        of_pair = {q: test for (known, q), test in tests.items() if known == pair}
        own = {q: test for q, test in of_pair.items() if isinstance(q, Column)}
        if not own:
            continue
        name = "Added to input noise, hidden noise 0.05" if pair[0] == "input-hidden" else ROWS[pair[0]].title
        name = name[0].upper() + name[1:]
        if all(math.isnan(test.p_value) for test in own.values()):
            lines.append(f"- {name}: {next(iter(own.values())).reason}.")
            continue
        gains = [
            f"{short(q)} ({100 * t.difference:+.1f})" for q, t in own.items() if t.significant and t.difference > 0
        ]
        losses = [
            f"{short(q)} ({100 * t.difference:+.1f})" for q, t in own.items() if t.significant and t.difference < 0
        ]
        gain = f"gains under {', '.join(gains)}" if gains else "gains significantly under none of the perturbations"
        loss = f"loses under {', '.join(losses)}" if losses else "loses significantly under none"
        others = [
            f"{'higher' if test.difference > 0 else 'lower'} {DYNAMICS[q]}"
            for q, test in of_pair.items()
            if isinstance(q, str) and test.significant
        ]
        state = f" The model has a {' and a '.join(others)}." if others else ""
        lines.append(f"- {name} {gain}, and {loss}.{state}")
    return lines


def chosen_table(chosen: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> str:
    """Return what `search` chose, next to its candidates."""
    rows = []
    for row, entry in ROWS.items():
        if entry.candidates:
            (name,) = entry.candidates[0]
            values = [chosen[model].get(row, {}).get(name, "–") for model in models]
            tried = ", ".join(f"{one[name]:g}" for one in entry.candidates)
            title = {BASE: "one layer, all", TWO: "two layers, all"}.get(row, entry.title)
            rows.append([title, name.replace("_", " "), tried, *(str(value) for value in values)])
    return markdown_table(["row", "setting", "candidates", *(TITLES[model] for model in models)], rows, left=3)


def page(plan: Plan, chosen: Mapping[str, Mapping[str, Any]], matrices: Sequence[Matrix]) -> str:
    """Return the whole page in Markdown."""
    tests = {matrix.model: matrix.tests() for matrix in matrices}
    models = [matrix.model for matrix in matrices]
    shared, evaluation = plan.shared, plan.evaluation
    low, high = ROWS["input"].settings["input_noise"]
    counts = ", ".join(dict.fromkeys(str(len(matrix.seeds)) for matrix in matrices))
    seeds = "1 seed" if counts == "1" else f"{counts} seeds"
    lines = [
        "# Transfer matrix: trained with × tested with",
        "",
        "For readers who want to know what hidden noise gives that other ways to train do not: this page tests models "
        "trained in each of several ways under noises and attacks, most of which no training has seen. "
        f"Models: {' and '.join(TITLES[model] for model in models)}, {shared['hidden_size']} units; data: "
        f"{shared['dataset']}, {shared.get('values_per_step', 1)} values per step; {seeds}.",
        "",
        "## What hidden noise gives that input noise does not",
        "",
        "Differences from the model trained with input noise that are significant after correction, those in accuracy "
        "in points:",
    ]
    for matrix in matrices:
        lines += ["", f"{TITLES[matrix.model]}:", "", *beyond_input_noise(tests[matrix.model])]
    lines += [
        "",
        "## How to read the tables",
        "",
        "Accuracy on the test data in %, mean over seeds ± half-width of the 95 % interval over trainings and test "
        f"sequences. Noise: {evaluation.draws} draws, all test sequences. Attacks: the worst of "
        f"{evaluation.attack_draws} starts, the first {evaluation.attack_sequences} sequences; *worst case*: a "
        "sequence counts if it is right under every ℓ∞ attack of the table. Hidden noise is off in all tests.",
        "",
        f"Training with input noise draws σ of white noise uniformly from [{low:g}, {high:g}] for each sequence, so "
        "that it has seen white noise up to that level, and no other perturbation of the tables; hidden noise has seen "
        "none of them, and adversarial training has seen PGD ℓ∞.",
        "",
        f"Margins and dynamics are those of the first {plan.dynamics_sequences} test sequences: the mean output margin "
        "in logits; the median ℓ2 input margin of the linearised model; the mean spectral norm of the Jacobian of the "
        "logits with respect to the inputs; the largest Lyapunov exponent of the state, per step, for one layer.",
        "",
        "Differences have their 95 % interval, uncorrected. They are **bold** where p of the paired test over seeds, "
        "corrected by Holm's method for all differences of that model, is below 0.05; all others are ties.",
    ]
    for matrix in matrices:
        lines += model_section(matrix, tests[matrix.model])
    decays = ", ".join(map(str, shared["decay_epochs"]))
    steps = ROWS["adversarial"].settings["adversarial_steps"]
    lines += [
        "",
        "## Settings",
        "",
        f"{shared['epochs']} epochs, batch {shared['batch_size']}, Adam (weight decay: AdamW), the learning rate times "
        f"0.1 after epoch {decays}, gradients clipped at norm {shared['clip_norm']:g}, weights of the last epoch, "
        f"precision `{shared['precision']}`; tests in float32. The step of the noisy RNN starts at "
        f"{plan.models['noisy']['step_size']:g} (two layers: {plan.two_layers['noisy']['step_size']:g}, since with a "
        "larger one they do not learn reliably) and is learned; its hidden noise is 0 where the row does not name it. "
        f"Annealed noise falls with the learning rate. Adversarial training takes {steps} gradient steps. Dropout acts "
        "between layers, so that its row has two layers and is compared with two layers without dropout.",
        "",
        f"On validation data, with the seeds {' and '.join(map(str, SEARCH_SEEDS))} and {plan.search_epochs} epochs, "
        "the learning rate was chosen by clean accuracy without any of these ways to train, and each level by the mean "
        f"of the accuracies that are clean, under white noise σ {plan.search_white_noise:g} and under FGSM ϵ "
        f"{plan.search_radius:g}:",
        "",
        chosen_table(chosen, models),
        "",
        "## Repeat the measurement",
        "",
        "```bash",
        "python -m benchmarks.transfer search --workers 2",
        "python -m benchmarks.transfer run --workers 2",
        "python -m benchmarks.transfer table --page docs/results/transfer-matrix.md",
        "```",
        "",
        "With two workers, on two cores of a CPU with AMX, the 220 trainings and their evaluation take two hours.",
    ]
    return "\n".join(lines) + "\n"


def model_section(matrix: Matrix, tests: Tests) -> list[str]:
    """Return the tables of one model, and what its tests say."""
    title = TITLES[matrix.model]
    done = [pair for pair in COMPARISONS if any(known == pair for known, _ in tests)]
    significant = sum(test.significant for test in tests.values())
    lines = ["", f"## {title}", "", accuracy_table(matrix), "", dynamics_table(matrix)]
    parts = {"hidden noise and input noise": NOISE_COMPARISONS, "other ways to train": OTHER_COMPARISONS}
    for what, comparisons in parts.items():
        if set(comparisons) & set(done):
            lines += ["", f"### {title}: {what}", "", differences_table(matrix, tests, comparisons)]
    lines += ["", f"### {title}, in words: {significant} of {len(tests)} differences are significant", ""]
    return [*lines, *(sentence(pair, tests) for pair in done)]
