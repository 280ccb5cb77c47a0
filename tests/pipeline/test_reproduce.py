"""A published table, repeated."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from noisyrnn.data import load_dataset
from noisyrnn.pipeline import EvaluateConfig, ReproduceConfig, RunContext, evaluate_run, reproduce, train_run
from noisyrnn.pipeline.published_tables import read_reproduction, reproductions
from noisyrnn.pipeline.train import run_path
from noisyrnn.robustness import WhiteNoise, evaluate
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import TrainConfig, load


@pytest.fixture
def table(waves_file: Path, tmp_path: Path) -> Path:
    """A table of two rows, one of them published."""
    shared = f'dataset = "{waves_file}", hidden_size = 4, epochs = 3, batch_size = 16'
    file = tmp_path / "waves-table.toml"
    file.write_text(
        'title = "Waves"\nsource = "A test."\npublished_seeds = 7\nnotes = ["Only a test."]\nlandscapes = ["noisy"]\n'
        "[evaluation]\ndraws = 2\nattack_draws = 1\nattack_sequences = 10\n"
        f'[strengths."{waves_file}"]\nwhite_noise = [0.5, 1.0]\nfgsm = [0.1]\n'
        f'[[rows]]\ntrain = {{ model = "noisy", {shared} }}\npublished = {{ clean = 97.5, "white_noise 0.5" = 20.0 }}\n'
        f'[[rows]]\ntrain = {{ model = "lstm", {shared} }}\n'
        '[[readings]]\ntitle = "at twice σ"\ncolumns = { "white_noise 0.5" = "white_noise 1" }\n'
    )
    return file


def runs(config: ReproduceConfig, output: Path) -> list[RunFolder]:
    return [
        RunFolder(run_path(config.run_config(row, seed), output))
        for row in config.chosen_rows
        for seed in range(1, config.seeds + 1)
    ]


def test_it_trains_measures_and_compares(table: Path, tmp_path: Path) -> None:
    config = ReproduceConfig(table=str(table), seeds=3)
    page, failures = reproduce(config, RunContext(output=tmp_path / "out"), command="noisyrnn reproduce waves")
    assert failures == {}
    assert page == (tmp_path / "out" / "reproduction.html").resolve()
    folders = runs(config, tmp_path / "out")
    assert all(folder.finished and folder.last_robustness.is_file() for folder in folders)
    assert [folder.analysis.is_file() for folder in folders] == [True, False, False, False, False, False]
    content = json.loads((tmp_path / "out" / "reproduction.json").read_text())
    (section,) = content["sections"]
    noisy, lstm = section["rows"]
    assert lstm["published"] == {}
    assert [line["title"] for line in noisy["lines"]] == [
        "ours, best epoch",
        "ours, best epoch, at twice σ",
        "ours, last epoch",
        "ours, last epoch, at twice σ",
    ]
    kept, twice, last, _ = noisy["lines"]

    def accuracies(name: str, strength: float | None) -> list[float]:
        found = [json.loads((folder.path / name).read_text())["columns"] for folder in folders[:3]]
        return [
            next(c["accuracy"] for c in columns if c["strength"] == strength and c["perturbation"] != "fgsm")
            for columns in found
        ]

    for line, name in ((kept, "robustness.json"), (last, "robustness-last.json")):
        assert line["compared"]["clean"]["mean"] == pytest.approx(100 * sum(accuracies(name, None)) / 3)
        assert line["compared"]["white_noise 0.5"]["mean"] == pytest.approx(100 * sum(accuracies(name, 0.5)) / 3)
    read = twice["compared"]["white_noise 0.5"]
    assert read["mean"] == pytest.approx(100 * sum(accuracies("robustness.json", 1.0)) / 3)
    assert read["published"] == 20.0
    assert kept["compared"]["white_noise 0.5"]["verdict"] == "higher"
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| noisy | published | 7 | 97.5 | 20.0 |" in text
    assert "FGSM" in text and "Only a test." in text
    assert "noisyrnn reproduce waves" in page.read_text()


def test_the_last_epoch_has_weights_and_results_of_its_own(table: Path, tmp_path: Path) -> None:
    config = ReproduceConfig(table=str(table), seeds=1, rows=["lstm"])
    reproduce(config, RunContext(output=tmp_path / "out"))
    (folder,) = runs(config, tmp_path / "out")
    run = config.run_config(config.chosen_rows[0], 1)
    dataset = load_dataset(run.dataset)
    model = load(folder.last_model).eval()
    (entry,) = (
        column
        for column in json.loads(folder.last_robustness.read_text())["columns"]
        if (column["perturbation"], column["strength"]) == ("white_noise", 1.0)
    )
    direct = evaluate(model, dataset.test, WhiteNoise(1.0, scale=dataset.scale), draws=2)
    assert entry["draw_accuracies"] == list(direct.draw_accuracies)
    assert not any(c["perturbation"] == "fgsm" for c in json.loads(folder.last_robustness.read_text())["columns"])


def test_an_evaluation_of_the_last_epoch_is_stale_when_its_weights_change(table: Path, tmp_path: Path) -> None:
    config = ReproduceConfig(table=str(table), seeds=1, rows=["lstm"])
    run = config.run_config(config.chosen_rows[0], 1)
    folder = train_run(run, RunContext(output=tmp_path))
    last = EvaluateConfig(strengths={"white_noise": [0.5]}, draws=1, weights="last")
    evaluate_run(folder, last)
    before = folder.last_robustness.stat().st_mtime_ns
    evaluate_run(folder, last)
    assert folder.last_robustness.stat().st_mtime_ns == before
    assert not folder.robustness.exists()
    other = train_run(TrainConfig.from_dict(run.to_dict() | {"seed": 2}), RunContext(output=tmp_path))
    folder.last_model.write_bytes(other.last_model.read_bytes())
    assert folder.read_result(folder.last_robustness).stale == "last.safetensors changed since"
    with pytest.warns(UserWarning, match="last.safetensors"):
        evaluate_run(folder, last)
    assert folder.last_robustness.stat().st_mtime_ns != before
    folder.last_model.unlink()
    with pytest.raises(ValueError, match=r"run must hold last.safetensors, got .* without it"):
        evaluate_run(folder, last)


def test_finished_runs_are_those_of_train_and_are_used_again(table: Path, tmp_path: Path) -> None:
    config = ReproduceConfig(table=str(table), seeds=2, finished_only=True)
    with pytest.raises(ValueError, match=r"finished_only needs a finished run, got none"):
        reproduce(config, RunContext(output=tmp_path / "out"))
    trained = train_run(config.run_config(config.chosen_rows[1], 2), RunContext(output=tmp_path / "out"))
    stamp = trained.model.stat().st_mtime_ns
    _, failures = reproduce(config, RunContext(output=tmp_path / "out"))
    assert failures == {}
    assert trained.model.stat().st_mtime_ns == stamp
    assert [path.parent for path in (tmp_path / "out").glob("*/robustness.json")] == [trained.path]


def test_the_way_of_execution_changes_no_result(table: Path, tmp_path: Path) -> None:
    for name, options in {"one": {}, "batched": {"batch_seeds": True}, "two": {"workers": 2}}.items():
        reproduce(ReproduceConfig(table=str(table), seeds=2, **options), RunContext(output=tmp_path / name))
    one, batched, two = ((tmp_path / name / "reproduction.json").read_text() for name in ("one", "batched", "two"))
    assert one == batched == two


def test_a_failed_row_is_named_and_stops_no_other(table: Path, tmp_path: Path, diverging: Any) -> None:
    diverging(2)
    page, failures = reproduce(ReproduceConfig(table=str(table), seeds=2), RunContext(output=tmp_path / "out"))
    assert sorted(path.name.split("-")[1] for path in failures) == ["lstm", "noisy"]
    assert all("seed2" in path.name for path in failures)
    text = (page.parent / "table.md").read_text()
    assert "1 of 2" in text and "Failed: " in text


@pytest.mark.parametrize("name", ["robustness-last.json", "summary.json"])
def test_a_damaged_run_is_named_and_the_others_are_shown(table: Path, tmp_path: Path, name: str) -> None:
    context = RunContext(output=tmp_path / "out")
    config = ReproduceConfig(table=str(table), seeds=2, rows=["lstm"], finished_only=True)
    first, _ = (train_run(config.run_config(config.chosen_rows[0], seed), context) for seed in (1, 2))
    assert reproduce(config, context)[1] == {}
    (first.path / name).write_text("{")
    page, failures = reproduce(config, context)
    assert list(failures) == [first.path]
    text = (page.parent / "table.md").read_text()
    assert "| lstm | ours, best epoch | 1 |" in text and f"Failed: {first.path.name}: " in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": "ordered-mnits"}, "Did you mean 'ordered-mnist'"),
        ({"table": "missing.toml"}, "table must be a published table or an existing .toml file, got 'missing.toml'"),
        ({"table": "ordered-mnist", "rows": ["noisy-hihg"]}, "Did you mean 'noisy-high'"),
        ({"table": "ordered-mnist", "seeds": 0}, "seeds must be at least 1, got 0"),
        ({"table": "ordered-mnist", "workers": 0}, "workers must be at least 1, got 0"),
        ({"table": "ordered-mnist", "precision": "bf16"}, "precision must be one of"),
    ],
)
def test_wrong_settings(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ReproduceConfig(**options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("draws = 2", "drawz = 2"), "drawz"),
        (('source = "A test."\n', ""), "table must be a file with title, source, rows and strengths"),
        (("title", "heading"), "entry of the table must be one of"),
        (('landscapes = ["noisy"]', 'landscapes = ["gru"]'), "label in landscapes must be one of"),
        (("published = {", "publishd = {"), "entry of a row must be one of"),
        (("white_noise = [0.5", "white_noise = [-0.5"), "strengths"),
        (('model = "lstm"', 'model = "noisy"'), "rows must have different labels, got 'noisy' twice"),
        (("[[readings]]", "[[readings"), "table must be a file with title"),
    ],
)
def test_a_file_that_is_wrong_is_refused_before_any_work(table: Path, change: tuple[str, str], words: str) -> None:
    text = table.read_text()
    assert change[0] in text
    table.write_text(text.replace(*change, 1))
    with pytest.raises((ValueError, TypeError), match=words):
        ReproduceConfig(table=str(table))


@pytest.mark.parametrize("name", sorted(reproductions()))
def test_the_published_tables_are_complete(name: str) -> None:
    config = ReproduceConfig(table=name)
    for row in config.chosen_rows:
        config.run_config(row, 1)
        kept, last = config.evaluations(row.dataset)
        assert kept.draws == last.draws == 5 and not kept.clip
        for column in row.published:  # every published column is measured
            perturbation, _, strength = column.partition(" ")
            if perturbation != "clean":
                assert float(strength) in (last.strengths or {})[perturbation]
    for columns in config.reproduction.readings.values():
        for ours in columns.values():
            perturbation, _, strength = ours.partition(" ")
            for row in config.chosen_rows:
                assert float(strength) in config.reproduction.strengths[row.dataset][perturbation]


def test_the_rows_of_ordered_mnist_are_the_published_experiments() -> None:
    rows = {row.label: row for row in read_reproduction("ordered-mnist").rows if row.published}
    assert list(rows) == ["noisy-high", "noisy-low", "lipschitz", "antisymmetric", "cornn", "exprnn"]
    assert rows["noisy-high"].published["white_noise 0.3"] == 73.5
    assert rows["cornn"].published["salt_and_pepper 0.1"] == 58.9
    assert rows["lipschitz"].train["learning_rate"] == 0.003
    permuted = read_reproduction("permuted-mnist").rows
    assert {row.dataset for row in permuted if row.label.startswith("noisy")} == {"psmnist255", "psmnist"}
    assert [row.published.get("clean") for row in read_reproduction("ecg").rows][:2] == [97.7, 97.7]


@pytest.mark.parametrize("batched", [False, True])
def test_seeds_of_a_row_are_trained_together_where_asked_for(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batched: bool
) -> None:
    groups: list[list[str]] = []

    def stop(chosen: Any, execution: Any, context: Any) -> None:
        groups.extend([f"{config.model} {config.seed}" for config in group.configs] for group in chosen)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["noisyrnn.pipeline.reproduce"], "execute_runs", stop)
    config = ReproduceConfig(table=str(table), seeds=2, batch_seeds=batched)
    with pytest.raises(KeyboardInterrupt):
        reproduce(config, RunContext(output=tmp_path / "out"))
    alone = [["noisy 1"], ["lstm 1"], ["noisy 2"], ["lstm 2"]]  # seed by seed: a page is useful before the last run
    assert groups == ([["noisy 1", "noisy 2"], ["lstm 1", "lstm 2"]] if batched else alone)


def test_finished_only_of_one_of_two_data_sets(table: Path, waves_file: Path, tmp_path: Path) -> None:
    text = table.read_text()
    other = tmp_path / f"other{waves_file.suffix}"
    other.write_bytes(waves_file.read_bytes())
    text = text.replace(f'dataset = "{waves_file}"', f'dataset = "{other}"', 1)
    table.write_text(text.replace("[[rows]]", f'[strengths."{other}"]\nwhite_noise = [0.5]\n[[rows]]', 1))
    config = ReproduceConfig(table=str(table), seeds=1, finished_only=True)
    noisy, lstm = config.chosen_rows
    assert noisy.dataset != lstm.dataset
    train_run(config.run_config(lstm, 1), RunContext(output=tmp_path / "out"))
    _, failures = reproduce(config, RunContext(output=tmp_path / "out"))
    assert failures == {}


def test_the_precision_of_a_row_is_its_own_unless_one_is_given(table: Path) -> None:
    table.write_text(table.read_text().replace('model = "lstm",', 'model = "lstm", precision = "64-true",'))
    found = [
        [config.run_config(row, 1).precision for row in config.chosen_rows]
        for config in (ReproduceConfig(table=str(table)), ReproduceConfig(table=str(table), precision="32-true"))
    ]
    assert found == [["32-true", "64-true"], ["32-true", "32-true"]]
