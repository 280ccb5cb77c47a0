import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.report.conftest import column, write

from noisyrnn.files import file_digest, read_json
from noisyrnn.report import accuracy, read_run, split_readable
from noisyrnn.report.accuracy import area_table, caption, columns_of, score_tables
from noisyrnn.report.columns import Column
from noisyrnn.report.comparison import Comparison, compare
from noisyrnn.report.table import Cell, Row, value_texts
from noisyrnn.robustness import PERTURBATIONS, accuracy_interval, seeds_interval, seeds_test
from noisyrnn.robustness.statistics import PairedTest
from noisyrnn.run_folder import RunFolder

Make = Callable[..., Path]
CLEAN, WHITE, PGD = Column("clean", 0.0), Column("white_noise", 0.2), Column("pgd_linf", 0.1)


def answers(*accuracies: float) -> list[list[float]]:
    """For each seed, which of the twenty sequences are right in the made runs."""
    return [[float(i < round(20 * accuracy)) for i in range(20)] for accuracy in accuracies]


def row_of(comparison: Comparison, column: Column) -> Row:
    (row,) = (row for row in comparison.main.rows if row.quantity.column == column)
    return row


def cell_of(comparison: Comparison, label: str, column: Column) -> Cell:
    return row_of(comparison, column).cells[label]


def mark_of(comparison: Comparison, label: str, column: Column) -> str:
    return row_of(comparison, column).marks[label]


def paired_of(comparison: Comparison, label: str, column: Column) -> PairedTest:
    return row_of(comparison, column).tests[label]


def percent(comparison: Comparison, label: str, column: Column) -> tuple[str, str]:
    row = row_of(comparison, column)
    return value_texts(row.cells[label], row.quantity)


def markdown(comparison: Comparison) -> str:
    return accuracy.markdown(comparison.tables, comparison.groups, comparison.notes)


@pytest.fixture(scope="module")
def comparison(runs: list[Path]) -> Comparison:
    return compare([read_run(path) for path in runs])


def test_order_of_labels_and_columns(comparison: Comparison) -> None:
    assert [group.label for group in comparison.groups] == ["noisy", "lipschitz", "lstm", "cornn"]
    assert columns_of(comparison.main) == [CLEAN, WHITE, PGD]


def test_means_and_intervals_over_seeds(comparison: Comparison) -> None:
    cell = cell_of(comparison, "noisy", CLEAN)
    expected = seeds_interval(answers(0.9, 0.95, 1.0))
    assert cell.seeds == {1: 0.9, 2: 0.95, 3: 1.0}
    assert cell.mean == pytest.approx(0.95, abs=1e-12)
    assert (cell.low, cell.high, cell.covers) == (expected.low, expected.high, "trainings and test sequences")
    assert percent(comparison, "noisy", CLEAN) == ("95.0", "[76.3, 100.0]")


def test_best_and_indistinguishable_are_marked(comparison: Comparison) -> None:
    labels = ("noisy", "lipschitz", "lstm")
    marks = {label: [mark_of(comparison, label, column) for column in (CLEAN, WHITE, PGD)] for label in labels}
    # Five or six of twenty sequences decide lipschitz against the best under noise and PGD: too few for nine tests.
    expected = {"noisy": ["best", "best", "close"], "lipschitz": ["close"] * 3, "lstm": ["", "", "best"]}
    assert marks == expected
    assert comparison.main.comparisons == 9


def test_marks_are_corrected_for_all_pairs_and_columns(comparison: Comparison) -> None:
    # noisy against lstm under noise has the smallest p of all nine.
    alone = seeds_test(answers(0.4, 0.45, 0.45), answers(0.8, 0.85, 0.9))
    assert alone.p_value < 0.05 / 9
    white = seeds_test(answers(0.6, 0.65, 0.75), answers(0.8, 0.85, 0.9))
    assert 0.05 / 9 < white.p_value < 0.05  # a mark alone, none among nine
    assert mark_of(comparison, "lipschitz", WHITE) == "close"


def test_paired_tests_against_the_first_label(comparison: Comparison) -> None:
    test = paired_of(comparison, "lipschitz", WHITE)
    expected = seeds_test(answers(0.6, 0.65, 0.75), answers(0.8, 0.85, 0.9))
    assert (test.difference, test.low, test.high, test.p_value) == pytest.approx(
        (-0.55 / 3, expected.low, expected.high, expected.p_value), abs=1e-12
    )
    p_values = sorted(test.p_value for row in comparison.main.rows for test in row.tests.values())
    assert test.adjusted == pytest.approx(4 * p_values[2], abs=1e-12)  # the third of six
    assert (test.pairs, test.unit) == (3, "seed")
    assert not any("noisy" in row.tests for row in comparison.main.rows)


def test_pairs_follow_the_seed_not_the_order(runs: list[Path]) -> None:
    forward = compare([read_run(path) for path in runs])
    backward = compare([read_run(path) for path in (*runs[2::-1], *runs[4:6], runs[3], *runs[6:])])
    assert [row.tests for row in backward.main.rows] == [row.tests for row in forward.main.rows]
    assert markdown(backward) == markdown(forward)


def test_a_failed_label_stays_in_the_table_without_numbers(comparison: Comparison) -> None:
    assert "cornn" not in row_of(comparison, CLEAN).cells
    assert "| cornn | 0 of 1 | – | – | – |" in markdown(comparison)


def test_markdown_to_the_letter(comparison: Comparison) -> None:
    lines = markdown(comparison).splitlines()
    assert lines[0] == "| model | seeds | Clean | White noise σ 0.2 | PGD ℓ∞ ϵ 0.1 |"
    assert lines[1] == "|---|---:|---:|---:|---:|"
    assert lines[2] == "| noisy | 3 | **95.0** [76.3, 100.0] | **85.0** [64.1, 97.1] | *60.0* [35.1, 82.4] |"
    assert lines[3] == "| lipschitz | 3 | *93.3* [73.3, 100.0] | *66.7* [43.4, 85.8] | *40.0* [17.6, 64.9] |"
    assert lines[7] == (
        "Test accuracy in %, mean over seeds. [low, high] is the 95 % interval of the mean over other trainings and "
        "other test sequences. **Bold**: highest mean of the column. *Italics*: not significantly different from it "
        "(paired test over seeds, p ≥ 0.05, corrected for the 9 comparisons of all pairs and columns by Holm's method)."
    )


def test_markdown_escapes_labels(make_run: Make) -> None:
    run = read_run(make_run(label="a|b*<i>", seed=1, columns=[column("clean", None, 0.5)]))
    assert r"| a\|b\*\<i\> | 1 |" in markdown(compare([run]))


def test_one_seed_takes_the_interval_over_sequences(make_run: Make) -> None:
    first = make_run(label="a", seed=1, columns=[column("clean", None, 0.75)])
    second = make_run(label="b", seed=1, columns=[column("clean", None, 0.5)])
    comparison = compare([read_run(first), read_run(second)])
    cell = cell_of(comparison, "a", CLEAN)
    interval = accuracy_interval([5] * 15 + [0] * 5, draws=5)
    assert (cell.low, cell.high) == (interval.low, interval.high)
    assert cell.covers == "test sequences, for these trained models"
    assert percent(comparison, "a", CLEAN) == ("75.0", "[53.4, 90.3]")
    assert "for these trained models only" in caption(comparison.main)
    assert "trainings and" not in caption(comparison.main)
    test = paired_of(comparison, "b", CLEAN)
    expected = seeds_test([[1] * 15 + [0] * 5], [[1] * 10 + [0] * 10])
    assert (test.pairs, test.unit, test.reason) == (1, "seed", "too few seeds")
    assert (test.difference, test.low, test.high) == pytest.approx((-0.25, -expected.high, -expected.low), abs=1e-12)
    assert (mark_of(comparison, "a", CLEAN), mark_of(comparison, "b", CLEAN)) == ("best", "")
    table = markdown(comparison)
    assert (
        "Fewer than 3 shared seeds are too few for a test" in table and "Italics" not in table and "Holm" not in table
    )


def test_a_single_label_is_not_called_best(make_run: Make) -> None:
    comparison = compare([read_run(make_run(label="a", seed=1, columns=[column("clean", None, 0.75)]))])
    assert mark_of(comparison, "a", CLEAN) == ""


def test_equal_means_are_both_best(make_run: Make) -> None:
    runs = [read_run(make_run(label=label, seed=1, columns=[column("clean", None, 0.75)])) for label in "ab"]
    assert row_of(compare(runs), CLEAN).marks == {"a": "best", "b": "best"}


def test_unequal_columns(make_run: Make) -> None:
    first = make_run(label="a", seed=1, columns=[column("clean", None, 0.75), column("white_noise", 0.1, 0.5)])
    second = make_run(label="b", seed=1, columns=[column("clean", None, 0.5), column("mystery", 3.0, 0.25)])
    comparison = compare([read_run(first), read_run(second)])
    assert columns_of(comparison.main) == [CLEAN, Column("white_noise", 0.1), Column("mystery", 3.0)]
    mystery = row_of(comparison, Column("mystery", 3.0))
    assert (list(mystery.cells), mystery.tests, mystery.marks) == (["b"], {}, {"b": ""})
    assert "| a | 1 | **75.0** [53.4, 90.3] | 50.0 [29.5, 70.5] | – |" in markdown(comparison)


def test_unequal_seeds_pair_what_they_share_and_say_so(make_run: Make) -> None:
    accuracies = {("a", 1): 0.5, ("a", 2): 0.6, ("a", 3): 0.7, ("b", 2): 0.7, ("b", 3): 0.9, ("b", 9): 0.1}
    runs = [
        read_run(make_run(label=label, seed=seed, columns=[column("clean", None, value)]))
        for (label, seed), value in accuracies.items()
    ]
    comparison = compare(runs)
    test = paired_of(comparison, "b", CLEAN)
    assert (test.pairs, test.difference) == (2, pytest.approx(0.15, abs=1e-12))
    assert comparison.notes == (
        "The models were not evaluated with the same seeds (a: 1, 2, 3; b: 2, 3, 9); tests use the shared seeds only.",
    )


def test_no_shared_seed_gives_no_test(make_run: Make) -> None:
    runs = [read_run(make_run(label=str(s), seed=s, columns=[column("clean", None, 0.5 + s / 10)])) for s in (1, 2)]
    comparison = compare(runs)
    assert not any(row.tests for row in comparison.main.rows)
    assert mark_of(comparison, "1", CLEAN) == ""
    assert comparison.to_dict()["labels"]["2"]["columns"][0]["versus_base"] is None


def test_what_makes_runs_less_comparable_is_noted(make_run: Make) -> None:
    first = column("white_noise", 0.1, 0.75)
    second = first | {"settings": "WhiteNoise(strength=0.1, clip=(0, 1))", "correct": "5" * 10}
    runs = [make_run(label="a", seed=1, columns=[first]), make_run(label="b", seed=1, columns=[second])]
    write(runs[1] / "robustness.json", {"settings": {"evaluation_seed": 7, "draws": 5}, "columns": [second]})
    comparison = compare([read_run(path) for path in runs])
    different, draws, counts = comparison.notes
    assert different == (
        "White noise σ 0.1 was not the same perturbation in all runs: "
        "WhiteNoise(strength=0.1) and WhiteNoise(strength=0.1, clip=(0, 1))."
    )
    assert "different seeds of the draws" in draws
    assert "same number of test sequences" in counts
    assert "b" not in row_of(comparison, Column("white_noise", 0.1)).tests
    assert "Note: White noise" in markdown(comparison)


def test_columns_of_fewer_sequences_are_named(make_run: Make) -> None:
    columns = [
        column("clean", None, 0.75),
        column("white_noise", 0.1, 0.75),
        *({**column(name, 0.1, 0.5, draws=1), "correct": "1" * 12} for name in ("pgd_linf", "worst_linf")),
        {**column("square_linf", 0.1, 0.5, draws=1), "correct": "10" * 3},
    ]
    runs = [make_run(label=label, seed=1, columns=columns) for label in "ab"]
    comparison = compare([read_run(path) for path in runs])
    assert comparison.notes[0] == (
        "Of the 20 test sequences, some columns have only the first: PGD ℓ∞, Worst case over attacks ℓ∞ on the first "
        "12; Square ℓ∞ on the first 6."
    )
    assert "that was run on the sequence" in markdown(comparison)


def test_masked_gradients_are_noted_for_each_run(make_run: Make) -> None:
    runs = [make_run(label=label, seed=1, columns=[column("clean", None, 0.75)]) for label in "ab"]
    stored = json.loads((runs[1] / "robustness.json").read_text())
    stored = {name: stored[name] for name in ("settings", "columns", "examples")}
    checks = [{"masked": True, "note": "Gradients may be masked."}, {"masked": False, "note": ""}]
    write(runs[1] / "robustness.json", {**stored, "gradient_checks": checks})
    comparison = compare([read_run(path) for path in runs])
    assert comparison.notes == ("b, seed 1: Gradients may be masked.",)
    assert "Note: b, seed 1: Gradients may be masked." in markdown(comparison)


def test_json_holds_every_number(comparison: Comparison) -> None:
    content = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert content["base"] == "noisy"
    white = content["labels"]["lipschitz"]["columns"][1]
    assert (white["perturbation"], white["strength"]) == ("white_noise", 0.2)
    assert white["seeds"] == {"1": 0.6, "2": 0.65, "3": 0.75}
    assert white["mean"] == pytest.approx(2 / 3, abs=1e-12)
    assert white["covers"] == "trainings and test sequences"
    assert white["versus_base"]["p_value"] == paired_of(comparison, "lipschitz", WHITE).p_value
    assert white["versus_base"]["adjusted"] == paired_of(comparison, "lipschitz", WHITE).adjusted
    assert content["labels"]["cornn"] == {"runs": [{"seed": 1, "status": "failed", "evaluated": False}], "columns": []}


def test_json_has_no_nan(make_run: Make) -> None:
    entries = [column("clean", None, 0.5), column("clean", None, 0.5) | {"correct": "5555500000"}]
    runs = [make_run(label="a", seed=seed, columns=[entry]) for seed, entry in enumerate(entries)]
    comparison = compare([read_run(run) for run in runs])  # not the same test sequences: no interval
    assert comparison.to_dict()["labels"]["a"]["columns"][0]["low"] is None
    assert "NaN" not in json.dumps(comparison.to_dict(), allow_nan=False)
    assert percent(comparison, "a", CLEAN) == ("50.0", "")


def test_titles_of_every_perturbation() -> None:
    assert [Column(name, 0.05).title for name in PERTURBATIONS][:3] == [
        "White noise σ 0.05",
        "Multiplicative noise σ 0.05",
        "Salt and pepper α 0.05",
    ]
    assert Column("fgsm", 0.1).title == "FGSM ϵ 0.1"
    assert Column("pgd_l2", 1.0).title == "PGD ℓ2 ϵ 1"
    assert Column("my_own", 2.5).title == "My own 2.5"
    assert Column("clean", 0.0).title == "Clean"


def test_no_runs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^runs must hold at least one run folder, got none\. Train a model first\.$"):
        compare([])


def test_several_data_sets_are_refused(make_run: Make) -> None:
    runs = [make_run(label="a", seed=1, dataset={"name": name}) for name in ("smnist", "digits")]
    with pytest.raises(ValueError, match=r"^runs must all be of one data set, got digits, smnist\. Write one report"):
        compare([read_run(path) for path in runs])


def test_a_label_and_seed_twice_is_refused(make_run: Make) -> None:
    runs = [read_run(make_run(label="a", seed=4)) for _ in range(2)]
    match = f"^runs must hold each label and seed once, got 'a' with seed 4 in '{runs[0].path}' and '{runs[1].path}'"
    with pytest.raises(ValueError, match=match):
        compare(runs)


def test_results_on_different_test_data_are_never_in_one_table(make_run: Make) -> None:
    runs = []
    for seed, labels in ((1, "a"), (2, "b")):
        path = make_run(label="a", seed=seed, columns=[column("clean", None, 0.5)])
        content = read_json(path / "robustness.json")
        depends_on = {"test": {"inputs": "x", "labels": labels}, "config": RunFolder(path).config_digest()}
        write(path / "robustness.json", content | {"depends_on": depends_on})
        runs.append(path)
    first, second = (re.escape(str(path / "robustness.json")) for path in runs)
    with pytest.raises(ValueError, match=rf"got {first} and {second}, which differ in the labels of the test part\."):
        compare([read_run(path) for path in runs])
    compare([read_run(runs[0])])


def test_a_result_of_other_weights_is_left_out_and_named(make_run: Make) -> None:
    path = make_run(label="a", seed=1, columns=[column("clean", None, 0.5)])
    (path / "model.safetensors").write_bytes(b"weights")
    digests = {"model": file_digest(path / "model.safetensors"), "config": RunFolder(path).config_digest()}
    content = read_json(path / "robustness.json")
    write(path / "robustness.json", content | {"depends_on": {"test": {}, **digests}})
    assert read_run(path).evaluated and split_readable([path]) == ([path], {})
    (path / "model.safetensors").write_bytes(b"others")
    run = read_run(path)
    assert not run.evaluated
    reason = "robustness.json is out of date: model.safetensors changed since. Evaluate the run again: "
    reason += f"noisyrnn evaluate {path}."
    assert split_readable([path]) == ([path], {path: reason})
    assert f"a, seed 1: {reason}" in compare([run]).notes
    (path / "model.safetensors").unlink()  # to save space
    assert read_run(path).evaluated


def test_a_column_that_repeats_another_is_counted_once(make_run: Make) -> None:
    # One attack of the norm: its worst case over attacks has the same answers.
    def runs(names: tuple[str, ...]) -> Comparison:
        return compare(
            [
                read_run(make_run(label=label, seed=seed, columns=[column(name, 0.1, value) for name in names]))
                for label, values in (("a", (0.9, 0.95, 1.0)), ("b", (0.4, 0.45, 0.5)))
                for seed, value in enumerate(values)
            ]
        )

    one, two = runs(("pgd_l2",)), runs(("pgd_l2", "worst_l2"))
    assert (one.main.comparisons, two.main.comparisons) == (1, 1)
    expected = paired_of(one, "b", Column("pgd_l2", 0.1))
    for name in ("pgd_l2", "worst_l2"):
        assert paired_of(two, "b", Column(name, 0.1)) == expected
        assert mark_of(two, "b", Column(name, 0.1)) == ""


def test_areas_are_means_over_the_strengths_from_clean_on(make_run: Make) -> None:
    columns = [column("clean", None, 1.0, draws=1), column("white_noise", 0.1, 0.8), column("white_noise", 0.4, 0.2)]
    columns += [column("pgd_linf", 0.1, 0.5, draws=1)]
    groups = compare([read_run(make_run(label="a", seed=1, columns=columns))]).groups
    areas = area_table(groups, score_tables(groups)["accuracy"])
    cells = {row.quantity.title: row.cells["a"].mean for row in areas.rows}
    assert cells == {
        "White noise, σ from 0 to 0.4": pytest.approx((0.1 * (1.0 + 0.8) / 2 + 0.3 * (0.8 + 0.2) / 2) / 0.4),
        "PGD ℓ∞, ϵ from 0 to 0.1": pytest.approx(0.75),
    }


def test_areas_of_attacks_are_those_of_the_sequences_that_were_attacked(make_run: Make) -> None:
    attacked = column("fgsm", 0.1, 1.0, draws=1)
    attacked |= {"correct": "1010", "sequences": 4, "accuracy": 0.5}
    clean = column("clean", None, 0.5, draws=1)  # the first ten of twenty are right
    groups = compare([read_run(make_run(label="a", seed=1, columns=[clean, attacked]))]).groups
    (row,) = area_table(groups, score_tables(groups)["accuracy"]).rows
    assert row.cells["a"].mean == pytest.approx((1.0 + 0.5) / 2)


def with_baselines(folder: Path, accuracies: dict[str, tuple[float, float]]) -> Path:
    """Add baselines to a run that was evaluated: their accuracy on clean inputs and under white noise."""
    depends_on = {"test": {"inputs": "digest"}, **RunFolder(folder).dependencies()}
    robustness = read_json(folder / "robustness.json")
    write(folder / "robustness.json", {**robustness, "depends_on": depends_on})
    measured = [
        {"name": name, "columns": [column("clean", None, clean), column("white_noise", 0.2, noisy)]}
        for name, (clean, noisy) in accuracies.items()
    ]
    settings = {"draws": 5, "evaluation_seed": 0, "test_limit": None, "noise": []}
    content = {"settings": settings, "depends_on": depends_on, "baselines": measured}
    write(folder / "baselines.json", {**content, "skipped": {"ROCKET": "aeon is not installed"}})
    return folder


def test_baselines_are_rows_without_marks_and_tests(make_run: Make) -> None:
    def columns(clean: float, noisy: float) -> list[dict[str, object]]:
        return [column("clean", None, clean), column("white_noise", 0.2, noisy), column("pgd_linf", 0.1, 0.5)]

    runs = [
        make_run(label=label, seed=seed, columns=columns(clean, noisy))
        for label, clean, noisy in (("noisy", 0.9, 0.8), ("gru", 0.6, 0.9))
        for seed in (1, 2, 3)
    ]
    plain = compare([read_run(run) for run in runs])
    for run in runs:
        with_baselines(run, {"majority class": (0.1, 0.1), "1-NN": (0.7, 0.95)})
    found = compare([read_run(run) for run in runs])
    lines = markdown(found).splitlines()
    interval = accuracy_interval([1] * 14 + [0] * 6, draws=1)
    shown = f"70.0 [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    assert lines[5].startswith(f"| 1-NN (baseline) | – | {shown} | 95.0 [") and lines[5].endswith("| – |")
    assert lines[4].startswith("| majority class (baseline) | – | 10.0 [")
    assert "Note: On clean sequences gru (60.0 %) is not better than 1-NN (baseline), 70.0 %." in lines
    assert not any("noisy (90.0 %)" in line for line in lines)
    for run in runs:
        with_baselines(run, {"1-NN": (0.95, 0.95)})
    both = "On clean sequences noisy (90.0 %) and gru (60.0 %) are not better than 1-NN (baseline), 95.0 %."
    assert both in compare([read_run(run) for run in runs]).notes
    for run in runs:
        with_baselines(run, {"majority class": (0.1, 0.1), "1-NN": (0.7, 0.95)})
    assert "ROCKET is left out: aeon is not installed." in markdown(found)
    for one, two in zip(plain.main.rows, found.main.rows, strict=True):
        assert (one.marks, one.tests, one.cells, one.ordered()) == (two.marks, two.tests, two.cells, two.ordered())
    assert plain.main.comparisons == found.main.comparisons
    content = found.to_dict()["baselines"]["1-NN (baseline)"]["columns"]
    assert [entry["mean"] for entry in content] == [0.7, 0.95]
    assert "versus_base" in content[0] and content[0]["versus_base"] is None and "mark" not in content[0]
    assert "baselines" not in plain.to_dict()


def test_what_was_adapted_is_noted_once(make_run: Make) -> None:
    summary = {"status": "finished", "adapted": "adapted to few sequences: 130 epochs instead of 100."}
    runs = [
        make_run(label=label, seed=seed, columns=[column("clean", None, 0.9)], summary=summary)
        for label in ("noisy", "gru")
        for seed in (1, 2)
    ]
    notes = compare([read_run(run) for run in runs]).notes
    assert notes.count("noisy, gru: adapted to few sequences: 130 epochs instead of 100.") == 1
