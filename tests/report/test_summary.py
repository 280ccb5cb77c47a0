"""The tables of test results that commands print."""

import json
from pathlib import Path
from typing import Any

import pytest

from noisyrnn.report import group_by_label, print_comparison, print_scores, read_run
from noisyrnn.report.comparison import compare
from noisyrnn.report.summary import read_tables, worst_rows

from .conftest import column, write_run
from .test_accuracy import with_baselines


def test_one_run_is_shown_with_a_row_for_each_perturbation(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = read_run(runs[0])
    print_scores(group_by_label([run]), "noisy, seed 1")
    title, _, head, rule, *rows = capsys.readouterr().out.splitlines()
    assert title == "noisy, seed 1"
    assert (head, rule) == ("| test inputs | accuracy in % |", "|---|---:|")
    assert rows[0].startswith("| Clean | 90.0 [")
    assert rows[1].startswith("| White noise σ 0.2 | 80.0 [")
    assert rows[2].startswith("| PGD ℓ∞ ϵ 0.1 | 50.0 [")
    assert rows[4] == "In brackets: the 95 % interval over test sequences, for these trained models."


def test_several_models_are_shown_next_to_each_other(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    print_scores(group_by_label([read_run(run) for run in runs]), "digits")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits: Test accuracy in %"
    assert lines[2] == "| test inputs | noisy | lipschitz | lstm | cornn |"
    cells = lines[4].split(" | ")
    assert [cell.split()[0] for cell in cells[1:4]] == ["95.0", "93.3", "51.7"]
    assert cells[4] == "– |"
    assert "trainings and test sequences" in lines[-2]


def test_a_regression_has_a_column_for_each_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = []
    for name, strength, r2, error in (("clean", None, 0.9, 0.25), ("white_noise", 0.5, 0.5, 1.5)):
        entry = column(name, strength, 1.0)
        for key in ("accuracy", "interval", "draw_accuracies", "correct"):
            del entry[key]
        values = {"r2": r2, "mean_squared_error": error}
        scores = {
            metric: {"mean": mean, "sequences": [mean - 0.1, mean + 0.1] * 10, "guess": 0.0}
            for metric, mean in values.items()
        }
        columns.append(entry | {"scores": scores, "unit": "s"})
    folder = write_run(tmp_path / "rnn-1", label="rnn", seed=1, columns=columns)
    print_scores(group_by_label([read_run(folder)]), "rnn, seed 1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| test inputs | R² | mean squared error |"
    assert [cell.split()[0] for cell in lines[5].split(" | ")[1:]] == ["0.500", "1.500"]
    assert not any("only the first" in line for line in lines)
    assert "Strengths are in units of each channel's scale in the training data" in lines[-2]


def test_columns_of_fewer_sequences_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def of_first(name: str, count: int) -> dict[str, Any]:
        entry = column(name, 0.1, 0.5)
        return entry | {"correct": entry["correct"][:count], "sequences": count}

    for number, (names, note) in enumerate(
        {
            ("pgd_linf",): "PGD ℓ∞ on the first 8",
            ("fgsm", "pgd_linf"): "PGD ℓ∞ on the first 8",  # FGSM saw all
            ("pgd_linf", "square_linf"): "PGD ℓ∞ on the first 8; Square ℓ∞ on the first 4",
        }.items()
    ):
        counts = {"fgsm": 20, "pgd_linf": 8, "square_linf": 4}
        columns = [column("clean", None, 0.9), *(of_first(name, counts[name]) for name in names)]
        folder = write_run(tmp_path / f"rnn-{number}", label="rnn", seed=1, columns=columns)
        print_scores(group_by_label([read_run(folder)]), "rnn, seed 1")
        assert f"Of the 20 test sequences, some columns have only the first: {note}." in capsys.readouterr().out


def test_the_summary_has_the_worst_strength_and_the_worst_case_in_place_of_attacks(tmp_path: Path) -> None:
    accuracies = {
        ("clean", None): 0.9,
        ("white_noise", 0.1): 0.5,
        ("white_noise", 0.2): 0.6,
        ("fgsm", 0.05): 0.4,
        ("pgd_linf", 0.05): 0.4,
        ("pgd_l2", 0.5): 0.3,
        ("worst_linf", 0.02): 0.5,
        ("worst_linf", 0.05): 0.3,
    }
    columns = [column(*place, accuracy) for place, accuracy in accuracies.items()]
    folder = write_run(tmp_path / "rnn-1", label="rnn", seed=1, columns=columns)
    rows = worst_rows(compare([read_run(folder)]).main)
    assert [row.quantity.title for row in rows] == [
        "Clean",
        "White noise σ 0.1",
        "PGD ℓ2 ϵ 0.5",
        "Worst case over attacks ℓ∞ ϵ 0.05",
    ]


def test_a_stored_comparison_has_the_tables_of_the_runs(runs: list[Path], written: Path) -> None:
    found = read_tables(json.loads((written.parent / "comparison.json").read_text()))
    computed = compare([read_run(run) for run in runs]).tables
    assert list(found) == list(computed)
    for name, table in computed.items():
        assert [row.quantity for row in found[name].rows] == [row.quantity for row in table.rows]
        assert [row.cells for row in found[name].rows] == [row.cells for row in table.rows]
        assert [row.marks for row in found[name].rows] == [row.marks for row in table.rows]


def test_a_summary_shows_the_verdict_and_few_notes(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((written.parent / "comparison.json").read_text())
    content["notes"] = [f"thing {k}" for k in range(5)]
    print_comparison(content, "Four networks")
    shown = capsys.readouterr().out
    assert shown.startswith("Four networks: Test accuracy in %; each perturbation at its worst strength\n")
    assert content["verdict"] in shown
    assert "thing 2" in shown and "thing 3" not in shown
    assert "Further notes are on the page: 2." in shown


def test_baselines_are_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "rnn-1", label="rnn", seed=1, columns=[column("clean", None, 0.9)])
    with_baselines(folder, {"1-NN": (0.7, 0.95)})
    print_scores(group_by_label([read_run(folder)]), "rnn, seed 1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rnn, seed 1: Test accuracy in %" and lines[2] == "| test inputs | rnn | 1-NN (baseline) |"
    assert [cell.split()[0] for cell in lines[4].split(" | ")[1:]] == ["90.0", "70.0"]
    assert any(line.startswith("Baselines are fitted to the training and validation sequences") for line in lines)


def test_the_summary_of_a_comparison_has_columns_of_baselines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = [column("clean", None, 0.9), column("white_noise", 0.2, 0.5), column("pgd_linf", 0.1, 0.4)]
    folder = write_run(tmp_path / "rnn-1", label="rnn", seed=1, columns=columns)
    computed = compare([read_run(with_baselines(folder, {"1-NN": (0.7, 0.95)}))])
    content = json.loads(json.dumps(computed.to_dict()))
    assert [row.baselines for row in read_tables(content)["accuracy"].rows] == [
        row.baselines for row in computed.main.rows
    ]
    print_comparison(content, "Compared")
    shown = capsys.readouterr().out
    head, _, *rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert head == "| test inputs | rnn | 1-NN (baseline) |"
    cells = [[cell.split()[0] for cell in row.strip("| ").split(" | ")[1:]] for row in rows]
    assert cells == [["90.0", "70.0"], ["50.0", "95.0"], ["40.0", "–"]]
    assert "Baselines are neither marked nor tested" in shown
