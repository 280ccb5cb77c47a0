"""The first screen: columns that the settings choose, and the verdict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.conftest import column

from noisyrnn.report import read_run
from noisyrnn.report.comparison import Comparison, compare
from noisyrnn.report.headline import headline_rows, verdict

Make = Callable[..., Path]


def comparison(make_run: Make, accuracies: dict[str, list[dict[tuple[str, float | None], float]]]) -> Comparison:
    """Runs by label: for each seed the accuracy in each column."""
    runs = []
    for label, seeds in accuracies.items():
        for seed, found in enumerate(seeds, start=1):
            columns: list[dict[str, Any]] = [column(*place, accuracy, draws=1) for place, accuracy in found.items()]
            runs.append(read_run(make_run(label=label, seed=seed, columns=columns)))
    return compare(runs)


CLEAN = ("clean", None)


def titles(found: Comparison) -> list[str]:
    return [row.quantity.title for row in headline_rows(found.main)]


def test_each_perturbation_has_the_middle_of_its_strengths_whatever_the_results(make_run: Make) -> None:
    places: list[tuple[str, float | None]] = [
        CLEAN,
        *(("white_noise", s) for s in (0.1, 0.2, 0.3)),
        *(("salt_and_pepper", s) for s in (0.03, 0.05)),
        ("multiplicative_noise", 0.4),
        ("fgsm", 0.02),
        *(("worst_linf", s) for s in (0.02, 0.05)),
        ("worst_l2", 0.5),
    ]
    wanted = [
        "Clean",
        "White noise σ 0.2",
        "Multiplicative noise σ 0.4",
        "Salt and pepper α 0.05",
        "Worst case over attacks ℓ∞ ϵ 0.05",
    ]
    for rising in (1, -1):
        accuracies = {place: 0.05 * (rank if rising > 0 else len(places) - rank) for rank, place in enumerate(places)}
        assert titles(comparison(make_run, {"a": [accuracies]})) == wanted


def test_other_perturbations_take_the_place_of_those_that_were_not_measured(make_run: Make) -> None:
    found = comparison(make_run, {"a": [{CLEAN: 0.9, ("fgsm", 0.1): 0.5, ("fgsm", 0.2): 0.4, ("pgd_l2", 1.0): 0.3}]})
    assert titles(found) == ["Clean", "FGSM ϵ 0.2", "PGD ℓ2 ϵ 1"]


def say(found: Comparison) -> str:
    return verdict(found.main, "accuracy", min(len(group.evaluated) for group in found.groups))


def test_the_verdict_names_the_best_by_column_and_what_is_certain(make_run: Make) -> None:
    white = ("white_noise", 0.2)
    found = comparison(
        make_run,
        {
            "noisy": [{CLEAN: 0.9, white: 0.95}] * 3,
            "lstm": [{CLEAN: 0.95, white: 0.05}] * 3,
        },
    )
    assert say(found) == (
        "Of 2 models, lstm has the highest mean accuracy on clean inputs (95.0 %, 5.0 points before noisy); noisy "
        "under white noise σ 0.2 (95.0 %, 90.0 points before lstm). Significant (over 3 seeds, corrected for 2 "
        "comparisons) is the lead of noisy under white noise σ 0.2; every other lead may be chance."
    )


def test_equal_values_are_no_lead(make_run: Make) -> None:
    found = comparison(make_run, {"a": [{CLEAN: 0.95}] * 3, "b": [{CLEAN: 0.95}] * 3})
    assert "on clean inputs (95.0 %, as b has)" in say(found)


def test_a_lead_must_be_significant_over_every_other_model(make_run: Make) -> None:
    found = comparison(make_run, {"a": [{CLEAN: 0.95}] * 3, "b": [{CLEAN: 0.9}] * 3, "c": [{CLEAN: 0.05}] * 3})
    assert say(found).endswith(
        "None of these leads over all other models is significant (over 3 seeds, corrected for 3 comparisons), so each "
        "may be chance."
    )


def test_few_seeds_say_nothing_of_other_trainings(make_run: Make) -> None:
    found = comparison(make_run, {"a": [{CLEAN: 0.95}] * 2, "b": [{CLEAN: 0.05}] * 2})
    assert say(found).endswith(
        "With 2 seeds of each, none of this can be said of other trainings: that needs at least 3."
    )


def test_one_model_has_nothing_to_be_compared_with(make_run: Make) -> None:
    found = comparison(make_run, {"a": [{CLEAN: 0.95, ("white_noise", 0.1): 0.5, ("salt_and_pepper", 0.1): 0.25}]})
    assert say(found) == (
        "a has a mean accuracy of 95.0 % on clean inputs and 25.0 % under salt and pepper α 0.1, the worst of those "
        "shown. 1 seed; there is no other model to compare it with."
    )


@pytest.mark.usefixtures("no_figures")
def test_nothing_measured_gives_no_verdict(make_run: Make) -> None:
    assert say(compare([read_run(make_run(label="a", seed=1))])) == ""


def test_models_measured_on_other_sequences_are_not_ranked(make_run: Make) -> None:
    runs = []
    for label, accuracy, count in (("gru", 0.5, 20), ("lstm", 0.75, 8)):
        entry = column(*CLEAN, accuracy, draws=1)
        entry |= {"correct": entry["correct"][:count], "sequences": count}
        runs.append(read_run(make_run(label=label, seed=1, columns=[entry])))
    found = compare(runs).main
    assert not found.rows[0].alike and not any(found.rows[0].marks.values())
    assert verdict(found, "accuracy", 1) == ""
