from collections.abc import Callable
from pathlib import Path

import pytest
from tests.report.conftest import column, example, write

from noisyrnn.files import file_digest
from noisyrnn.report import read_run
from noisyrnn.report.columns import Column

Make = Callable[..., Path]


def test_reads_all_that_a_run_folder_holds(make_run: Make) -> None:
    columns = [column("clean", None, 0.9, draws=1), column("white_noise", 0.2, 0.6)]
    examples = [example("white_noise", 0.2, index=7, prediction=8, shade=0.5)]
    run = read_run(make_run(label="noisy", seed=3, columns=columns, examples=examples, epochs=2))
    assert (run.label, run.seed, run.status, run.evaluated) == ("noisy", 3, "finished", True)
    assert list(run.scores) == [Column("clean", 0.0), Column("white_noise", 0.2)]
    noisy = run.scores[Column("white_noise", 0.2)]
    assert noisy.value == 0.6
    assert noisy.by_sequence == (1.0,) * 12 + (0.0,) * 8
    assert noisy.settings == "WhiteNoise(strength=0.2)"
    assert run.history["train_loss"] == (2.03, 1.03)
    assert run.examples[0].inputs[63] == (1.5,)
    assert (run.examples[0].prediction, run.examples[0].index) == (8, 7)
    assert (run.evaluation["draws"], run.evaluation["evaluation_seed"]) == (5, 0)


def test_rates_are_shares_of_the_draws(make_run: Make) -> None:
    entry = column("white_noise", 0.1, 0.5, draws=12) | {"correct": "0c6b"}
    rates = read_run(make_run(label="a", seed=1, columns=[entry])).scores[Column("white_noise", 0.1)].by_sequence
    assert rates == (0.0, 1.0, 0.5, 11 / 12)


def test_a_run_without_robustness_or_metrics_is_not_evaluated(make_run: Make) -> None:
    folder = make_run(label="noisy", seed=1)
    (folder / "metrics.csv").unlink()
    run = read_run(folder)
    assert not run.evaluated
    assert set(run.history.values()) == {()}


def test_a_run_without_summary_is_unfinished(make_run: Make) -> None:
    folder = make_run(label="noisy", seed=1, columns=[column("clean", None, 0.9)])
    (folder / "summary.json").unlink()
    run = read_run(folder)
    assert (run.status, run.evaluated) == ("unfinished", False)


def test_accuracies_of_a_failed_run_do_not_count(make_run: Make) -> None:
    summary = {"status": "failed", "error": "It broke."}
    assert not read_run(make_run(label="a", seed=1, columns=[column("clean", None, 0.9)], summary=summary)).evaluated


def test_a_failed_run_without_data_set_is_read(make_run: Make) -> None:
    folder = make_run(label="a", seed=1, summary={"status": "failed", "error": "no data"})
    write(folder / "config.json", {"config": {"label": "a", "seed": 1}})
    assert read_run(folder).dataset == {}


@pytest.mark.parametrize("name", ["config.json", "summary.json", "robustness.json"])
def test_another_format_is_refused(make_run: Make, name: str) -> None:
    folder = make_run(label="a", seed=1, columns=[column("clean", None, 0.9)])
    write(folder / name, {"config": {"label": "a", "seed": 1}}, version=7)
    with pytest.raises(ValueError, match=name + r" must be of format \d, got 7\. Read it with the version"):
        read_run(folder)


def test_a_folder_without_run_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match=f"^RUN must be a run folder, got '{path}' without a config.json"):
            read_run(path)


def test_something_that_is_no_path_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^RUN must be the path of a run folder, got 3\.$"):
        read_run(3)  # type: ignore[arg-type]


def test_broken_json_is_refused(make_run: Make) -> None:
    folder = make_run(label="a", seed=1)
    (folder / "summary.json").write_text('{"format": 1,', encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"summary\.json must be a JSON file, got one that breaks off or is damaged .*line 1 column 14"
    ):
        read_run(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"accuracy": None}, "TypeError"),
        ({"draw_accuracies": []}, "ZeroDivisionError"),
        ({"correct": "5?5"}, r"base 36: '\?'"),
    ],
)
def test_a_damaged_column_is_refused(make_run: Make, change: dict[str, object], reason: str) -> None:
    folder = make_run(label="a", seed=1, columns=[column("clean", None, 0.9) | change])
    with pytest.raises(ValueError, match=f"^robustness.json must hold complete columns and examples, got .*{reason}"):
        read_run(folder)


@pytest.mark.parametrize("inputs", [[], [[]], [[1.0], [1.0, 2.0]]])
def test_a_damaged_example_is_refused(make_run: Make, inputs: list[list[float]]) -> None:
    damaged = example("clean", None, index=0, prediction=1, shade=0.0) | {"inputs": inputs}
    folder = make_run(label="a", seed=1, columns=[column("clean", None, 0.9)], examples=[damaged])
    with pytest.raises(ValueError, match=r"^robustness.json must hold .*inputs are not steps of equal width"):
        read_run(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"dataset": {"classes": "ten"}}),
        ("summary.json", {"status": "finished", "epochs": "4"}),
        ("robustness.json", {"columns": {"a": 1}}),
        ("robustness.json", {"columns": [1]}),
        ("robustness.json", {"examples": 3}),
        ("robustness.json", {"settings": [1]}),
        ("analysis.json", {"quantities": 3}),
    ],
)
def test_a_damaged_file_of_a_run_is_refused(make_run: Make, name: str, content: dict[str, object]) -> None:
    folder = make_run(label="a", seed=1, columns=[column("clean", None, 0.9)])
    if name == "config.json":
        content = {"config": {"label": "a", "seed": 1}, **content}
    write(folder / name, content)
    with pytest.raises(ValueError, match=rf"{name} must hold"):
        read_run(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ValueError, match=rf"{name} must be"):
        read_run(folder)
    (folder / name).rmdir()
    (folder / name).write_text("")
    with pytest.raises(ValueError, match=rf"{name} must be"):
        read_run(folder)


def test_metrics_that_changed_since_the_training_ended_are_refused(make_run: Make) -> None:
    folder = make_run(label="a", seed=1)
    metrics = folder / "metrics.csv"
    write(folder / "summary.json", {"status": "finished", "metrics_sha256": file_digest(metrics)})
    assert read_run(folder).history["epoch"] == (1.0, 2.0, 3.0, 4.0)
    metrics.write_text(metrics.read_text() + "\n")
    with pytest.raises(ValueError, match=r"metrics\.csv"):
        read_run(folder)
