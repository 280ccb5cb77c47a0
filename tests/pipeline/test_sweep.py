"""A sweep scores trials on perturbed validation data, resumes where it stopped, and never reads the test data."""

import json
import math
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from noisyrnn.cli import main
from noisyrnn.data import Dataset, load_dataset
from noisyrnn.pipeline import RunContext, SweepConfig, sweep
from noisyrnn.pipeline.sweep import open_study
from noisyrnn.report.sweep import write_sweep_page
from noisyrnn.robustness import Perturbation, build_perturbation, evaluate
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import TrainConfig, load

optuna = pytest.importorskip("optuna")
module = sys.modules["noisyrnn.pipeline.sweep"]


@pytest.fixture(autouse=True)
def _one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than these trainings; tests that look at the page ask for it."""
    monkeypatch.setattr("noisyrnn.report.sweep.write_sweep_page", lambda *args, **rest: None)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, _no_page: None) -> None:
    monkeypatch.setattr("noisyrnn.report.sweep.write_sweep_page", write_sweep_page)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that are a function of the settings alone, for what is about the order of the trials."""

    def trained(configs: list[TrainConfig], context: RunContext, **rest: Any) -> dict[Path, None]:
        names = ("learning_rate", "step_size", "additive")
        return {context.output / json.dumps([c.to_dict()[name] for name in names]): None for c in configs}

    def measured(folder: RunFolder, *rest: Any) -> list[dict[str, Any]]:
        values = json.loads(folder.path.name)
        accuracy = 1 / (1 + sum(abs(math.log(value / 0.1)) for value in values))
        cell = {"perturbation": "white_noise", "strength": 0.2, "unit": "s", "interval": [0.0, 1.0], "sequences": 9}
        return [{**cell, "accuracy": accuracy}]

    monkeypatch.setattr(module, "train_seeds", trained)
    monkeypatch.setattr(module, "validation_columns", measured)


def settings(waves_file: Path, **changes: Any) -> SweepConfig:
    train = {"dataset": str(waves_file), "hidden_size": 4, "epochs": 1, "batch_size": 32, **changes.pop("train", {})}
    return SweepConfig(**{"trials": 3, "draws": 2, **changes}, train=train)


def trials_of(folder: Path) -> list[tuple[dict[str, Any], float | None, str | None]]:
    """Values, score and message of each trial, in order; the numbers have gaps where trials were interrupted."""
    content = json.loads((folder / "sweep.json").read_text())
    return [(trial["values"], trial["score"], trial["error"]) for trial in content["trials"]]


def test_a_score_is_the_mean_accuracy_on_perturbed_validation_data(waves_file: Path, tmp_path: Path) -> None:
    strengths = {"white_noise": [0.0, 1.5]}
    learns = {"epochs": 8, "hidden_size": 8, "learning_rate": 0.03, "step_size": 0.5}  # accuracies between ½ and 1
    space = {"additive": [0.05, 0.1]}
    config = settings(waves_file, strengths=strengths, seeds=2, trials=2, sweep_seed=3, space=space, train=learns)
    folder, content = sweep(config, RunContext(output=tmp_path))
    dataset = load_dataset(str(waves_file))

    def noise(strength: float) -> Perturbation:
        return build_perturbation("white_noise", strength, value_range=dataset.value_range, scale=dataset.scale)

    assert [trial["number"] for trial in content["trials"]] == [0, 1]
    for trial in content["trials"]:
        found: list[float] = []
        others: dict[tuple[bool, int, int], list[float]] = {}
        for seed in (101, 102):
            run = next(
                run
                for run in folder.glob(f"*-seed{seed}-*")
                if trial["values"].items() <= json.loads((run / "config.json").read_text())["config"].items()
            )
            model = load(run / "model.safetensors")
            for strength in (0.0, 1.5):
                found.append(evaluate(model, dataset.validation, noise(strength), draws=2, seed=3).accuracy)
            for trained, draws, seed in ((True, 2, 3), (False, 1, 3), (False, 2, 0)):
                part = dataset.train if trained else dataset.validation
                others.setdefault((trained, draws, seed), []).extend(
                    evaluate(model, part, noise(strength), draws=draws, seed=seed).accuracy for strength in (0.0, 1.5)
                )
        assert trial["score"] == pytest.approx(fmean(found), abs=1e-12)
        assert all(fmean(other) != fmean(found) for other in others.values())  # another part, or other draws
        cells = [cell for run in trial["columns"] for cell in run]
        assert [cell["accuracy"] for cell in cells] == found
        assert all(cell["interval"][0] <= cell["accuracy"] <= cell["interval"][1] for cell in cells)
    assert content["best"] == max(content["trials"], key=lambda trial: trial["score"])["number"]


def test_the_best_trial_has_the_highest_score_and_of_equal_ones_is_the_first(waves_file: Path, tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    study.set_user_attr("settings", {})
    for score in (0.5, 0.9, 0.9, 0.7):
        study.add_trial(optuna.trial.create_trial(value=score))
    assert module.write_sweep(study, settings(waves_file), tmp_path, None)["best"] == 1


def test_the_searched_values_are_those_of_the_runs_and_fixed_ones_stay(waves_file: Path, tmp_path: Path) -> None:
    folder, _ = sweep(settings(waves_file, train={"additive": 0.3}), RunContext(output=tmp_path))
    runs = [json.loads(path.read_text())["config"] for path in folder.glob("*/config.json")]
    assert len(runs) == 3
    assert {run["additive"] for run in runs} == {0.3}
    assert len({run["learning_rate"] for run in runs}) == 3
    for values, _, _ in trials_of(folder):
        assert values.keys() == {"learning_rate", "step_size", "multiplicative", "skew_symmetry"}
        assert sum(values.items() <= run.items() for run in runs) == 1


@pytest.mark.parametrize(
    "broken", [*(pytest.param(way, marks=pytest.mark.slow) for way in ("stopped", "killed")), "interrupted"]
)
def test_a_resumed_sweep_chooses_what_it_would_have_chosen(
    waves_file: Path, tmp_path: Path, no_training: None, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    optuna = pytest.importorskip("optuna")
    sampler = partial(optuna.samplers.TPESampler, n_startup_trials=3)
    monkeypatch.setattr("optuna.samplers.TPESampler", sampler)
    config = settings(waves_file, trials=6)  # past those that are drawn at random
    whole, _ = sweep(config, RunContext(output=tmp_path / "whole"))
    train, calls = module.train_seeds, []

    def stop(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) in (2, 7):
            raise KeyboardInterrupt if broken == "interrupted" else SystemExit  # Optuna lets the latter through
        return train(*args, **kwargs)

    if broken == "stopped":
        for trials in (2, 5):
            sweep(settings(waves_file, trials=trials), RunContext(output=tmp_path / "parts"))
    else:
        monkeypatch.setattr(module, "train_seeds", stop)
        for made in (1, 5):
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                sweep(config, RunContext(output=tmp_path / "parts"))
            assert len(trials_of(next((tmp_path / "parts").glob("sweep-*")))) == made  # the results so far
    parts, _ = sweep(config, RunContext(output=tmp_path / "parts"))
    assert trials_of(parts) == trials_of(whole)
    _, content = sweep(config, RunContext(output=tmp_path / "parts"))
    assert len(content["trials"]) == 6
    other, _ = sweep(settings(waves_file, trials=2, sweep_seed=1), RunContext(output=tmp_path / "other"))
    assert trials_of(other) != trials_of(whole)[:2]


@pytest.mark.slow
def test_later_trials_are_better(waves_file: Path, tmp_path: Path, no_training: None) -> None:
    folder, _ = sweep(settings(waves_file, trials=40), RunContext(output=tmp_path))
    scores = [score for _, score, _ in trials_of(folder) if score is not None]
    assert fmean(scores[-10:]) > fmean(scores[:10]) + 0.05


def test_the_test_data_are_not_read(waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Dataset) -> None:
        raise AssertionError("the test data were read")

    monkeypatch.setattr(Dataset, "test", property(read))
    with pytest.raises(AssertionError, match="the test data were read"):
        print(load_dataset(str(waves_file)).test)
    assert len(sweep(settings(waves_file, trials=1), RunContext(output=tmp_path))[1]["trials"]) == 1


WILD = {"step_size": [0.1, 1e30]}


def test_a_failed_trial_is_kept_with_its_message(waves_file: Path, tmp_path: Path) -> None:
    config = settings(waves_file, space=WILD, train={"learn_step": False, "damping": 1.0}, trials=6)
    folder, content = sweep(config, RunContext(output=tmp_path))
    trials = trials_of(folder)
    assert len(trials) == 6
    assert 0 < sum(score is None for _, score, _ in trials) < 6
    for values, score, error in trials:
        assert (score is None) == (values["step_size"] == 1e30)
        assert (error is None) == (score is not None)
        assert error is None or "hidden state became non-finite" in error
    assert {trial["number"]: trial["values"] for trial in content["trials"]}[content["best"]] == {"step_size": 0.1}


def test_if_every_trial_fails_there_is_an_error_and_a_page(waves_file: Path, tmp_path: Path, page: None) -> None:
    wild = {"step_size": [1e29, 1e30]}
    config = settings(waves_file, space=wild, train={"learn_step": False, "damping": 1.0}, trials=2)
    with pytest.raises(RuntimeError, match=r"Every trial failed. The first says: .*non-finite"):
        sweep(config, RunContext(output=tmp_path))
    folder = next(tmp_path.glob("sweep-*"))
    assert len(trials_of(folder)) == 2
    assert not (folder / "best.yaml").exists()
    assert "No trial was scored." in (folder / "sweep.html").read_text()


@pytest.mark.slow
def test_two_workers_make_as_many_trials_and_no_two_alike(waves_file: Path, tmp_path: Path) -> None:
    folder, _ = sweep(settings(waves_file, trials=5, workers=2), RunContext(output=tmp_path))
    trials = trials_of(folder)
    assert len(trials) == 5
    assert len({json.dumps(values) for values, _, _ in trials}) == 5
    assert all(score is not None for _, score, _ in trials)


def test_a_second_machine_shares_the_database(waves_file: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    first, _ = sweep(settings(waves_file, trials=2, storage=url), RunContext(output=tmp_path / "first"))
    second, _ = sweep(settings(waves_file, trials=3, storage=url), RunContext(output=tmp_path / "second"))
    assert trials_of(second)[:2] == trials_of(first)
    assert len(trials_of(second)) == 3
    assert len(list(second.glob("*/model.safetensors"))) == 1
    assert not (tmp_path / "second" / "sweeps.db").exists()


def test_a_trial_elsewhere_is_queued_again_once_it_is_silent(
    waves_file: Path, tmp_path: Path, no_training: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(waves_file, trials=1, storage=f"sqlite:///{tmp_path / 'shared.db'}")
    monkeypatch.setattr(module, "validation_columns", lambda *_: sys.exit())  # killed
    with pytest.raises(SystemExit):
        sweep(config, RunContext(output=tmp_path))
    storage = optuna.storages.RDBStorage(config.storage)
    (study,) = storage.get_all_studies()
    (lost,) = storage.get_all_trials(study._study_id)
    monkeypatch.undo()
    monkeypatch.setattr(optuna.storages.RDBStorage, "_get_stale_trial_ids", lambda *_: [lost._trial_id])
    folder, _ = sweep(config, RunContext(output=tmp_path))
    assert [values for values, _, _ in trials_of(folder)] == [lost.params]


@pytest.mark.slow
def test_kill_minus_9_then_the_same_command_ends_the_same(waves_file: Path, tmp_path: Path) -> None:
    words = ["sweep", "--dataset", str(waves_file), "--hidden-size", "8", "--epochs", "12", "--trials", "2"]
    command = [sys.executable, "-m", "noisyrnn", *words, "--output", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("killed/sweep-*/*/metrics.csv")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert main([*words, "--output", str(tmp_path / "killed")]) == 0
    assert main([*words, "--output", str(tmp_path / "whole")]) == 0
    killed, whole = (next((tmp_path / name).glob("sweep-*")) for name in ("killed", "whole"))
    assert trials_of(killed) == trials_of(whole)
    assert len(trials_of(whole)) == 2
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_other_settings_are_another_sweep(waves_file: Path, tmp_path: Path, no_training: None) -> None:
    one, _ = sweep(settings(waves_file, trials=1), RunContext(output=tmp_path))
    more, _ = sweep(settings(waves_file, trials=2), RunContext(output=tmp_path))
    assert one == more
    folders = {one}
    for changes in (
        {"draws": 3},
        {"seeds": 2},
        {"sweep_seed": 1},
        {"strengths": {"white_noise": [0.3]}},
        {"train": {"hidden_size": 5}},
        {"space": {"additive": [0.1, 0.2]}},
    ):
        folders.add(sweep(settings(waves_file, trials=1, **changes), RunContext(output=tmp_path))[0])
    assert len(folders) == 7


def test_a_folder_with_another_sweep_at_work_is_refused(waves_file: Path, tmp_path: Path, no_training: None) -> None:
    folder, _ = sweep(settings(waves_file, trials=1), RunContext(output=tmp_path))
    program = f"from noisyrnn.locks import locked\nfrom pathlib import Path\nwith locked(Path({str(folder)!r})):"
    program += " print(flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(ValueError, match="must not be in use"):
        sweep(settings(waves_file, trials=2), RunContext(output=tmp_path))
    holder.communicate(b"\n")


def test_the_best_settings_train_the_same_run(
    waves_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strengths = {"white_noise": [0.5]}
    config = settings(waves_file, strengths=strengths, train={"decay_epochs": (), "clip_norm": None})
    folder, content = sweep(config, RunContext(output=tmp_path))
    best = yaml.safe_load((folder / "best.yaml").read_text())
    values = {trial["number"]: trial["values"] for trial in content["trials"]}[content["best"]]
    assert values.items() <= best.items()
    words = ["train", "--config", str(folder / "best.yaml"), "--seed", "101", "--output", str(folder)]
    before = sorted(path.name for path in folder.iterdir())
    assert main(words) == 0  # the same settings name the same folder, whose run is finished
    assert sorted(path.name for path in folder.iterdir()) == before
    run = Path(capsys.readouterr().out.strip().removeprefix("Trained: "))
    found = TrainConfig.from_dict({**json.loads((run / "config.json").read_text())["config"], "label": None})
    assert found == config.run_config(values)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model": "noisi"}, ValueError, "model must be one of"),
        ({"trials": 0}, ValueError, "trials must be at least 1, got 0"),
        ({"draws": 36}, ValueError, "draws must be at most 35, got 36"),
        ({"seeds": 0}, ValueError, "seeds must be at least 1, got 0"),
        ({"workers": 0}, ValueError, "workers must be at least 1, got 0"),
        ({"sweep_seed": -1}, ValueError, "sweep_seed must be at least 0, got -1"),
        ({"strengths": {}}, ValueError, "strengths must name at least one perturbation"),
        ({"strengths": {"white": [1]}}, ValueError, "perturbation must be one of"),
        ({"strengths": {"white_noise": 1}}, TypeError, "strengths must be a list of numbers, got 1"),
        ({"space": {"additive": [-1, 1]}}, ValueError, "additive must be at least 0, got -1"),
        ({"space": {"stiffness": [1, 2]}}, ValueError, "option of model .noisy. must be one of .* got .stiffness."),
        ({"space": {"additive": [1, 2]}, "train": {"additive": 1}}, ValueError, "additive must be fixed or searched"),
        ({"train": {"seed": 3}}, ValueError, "train must not hold seed, got 3"),
        ({"train": {"model": "gru"}}, ValueError, "train must not hold model"),
        ({"train": {"epochs": 0}}, ValueError, "epochs must be at least 1"),
        (
            {"model": "exprnn", "train": {"learning_rate": 0.1, "recurrent_init": "cayley"}},
            ValueError,
            "train must leave something to search, got ",
        ),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    waves_file: Path, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        settings(waves_file, **changes)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sweeps.db", "storage must be the URL of a database"),
        ("sqlite://", "storage must be the URL of a database that outlives a process"),
        ("sqlite:///file:x?mode=memory&uri=true", "storage must be the URL of a database that outlives a process"),
        ("nothing://here/db", "storage must be a database that can be opened, got 'nothing://here/db'"),
        ("sqlite:///{folder}/missing/s.db", "storage must be a database that can be opened"),
        ("sqlite:///{folder}/damaged.db", "storage must be a database that can be opened, .* move it away"),
    ],
)
def test_a_database_that_cannot_be_opened(waves_file: Path, tmp_path: Path, url: str, message: str) -> None:
    (tmp_path / "damaged.db").write_bytes(b"no database" * 1000)
    config = settings(waves_file, storage=url.format(folder=tmp_path))
    with pytest.raises(ValueError, match=message):
        sweep(config, RunContext(output=tmp_path / "out"))


def test_without_optuna(waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"^`noisyrnn sweep` needs Optuna: pip install 'noisyrnn\[sweep\]'$"):
        sweep(settings(waves_file), RunContext(output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_number_of_threads_is_left_as_it_was(waves_file: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        sweep(settings(waves_file, trials=1, workers=1), RunContext(output=tmp_path))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("page", "no_training")
def test_the_files_of_a_sweep_hold_no_password(
    waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def open_here(url: str, name: str) -> Any:
        """A server with passwords is not there: a file in its place."""
        asked.append(url)
        return open_study(f"sqlite:///{tmp_path / 'study.db'}", name)

    monkeypatch.setattr(module, "open_study", open_here)
    url = "postgresql://me:hunt er'2@host/db?password=hunt er'2"
    words = ["sweep", "--dataset", str(waves_file), "--trials", "2", "--output", str(tmp_path), "--storage", url]
    assert main(words) == 0
    assert set(asked) == {url}
    (page,) = tmp_path.glob("sweep-*/sweep.html")
    assert "--storage" in page.read_text() and "postgresql://***@host/db" in page.read_text()
    texts = [path.read_text() for path in page.parent.iterdir()] + list(capsys.readouterr())
    assert len(texts) >= 4
    assert not any(secret in text for text in texts for secret in ("hunt er", "hunt%20er", "hunt+er", "er&#39;2"))


def test_the_command(waves_file: Path, tmp_path: Path, page: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "--dataset", str(waves_file), "--hidden-size", "4", "--epochs", "1", "--trials", "2"]
    words += ["--space", "{additive: {low: 0.1, high: 0.5}}", "--strengths.white_noise", "[0.1]"]
    assert main([*words, "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    folder = next(tmp_path.glob("sweep-waves-noisy-*"))
    assert "Trials: 2\n" in shown
    assert f"Page: {folder / 'sweep.html'}\n" in shown
    assert f"noisyrnn train --config {folder / 'best.yaml'}\n" in shown
    page = (folder / "sweep.html").read_text()
    assert "noisyrnn sweep --dataset" in page
    assert all(0.1 <= values["additive"] <= 0.5 for values, _, _ in trials_of(folder))
    (tmp_path / "c.yaml").write_text("trials: 2\nspace:\n  additiv: [1, 2]\n")
    assert main(["sweep", "--config", str(tmp_path / "c.yaml")]) == 2
    assert "Did you mean 'additive'?" in capsys.readouterr().err


@pytest.mark.parametrize("select", ["refit", "auto"])
def test_a_sweep_keeps_the_validation_data(select: str) -> None:
    train = {"dataset": "own.csv"}
    assert SweepConfig(train=train).run_config({}).select == "clean"
    assert SweepConfig(train=train, space={"epochs": [5, 6]}).run_config({"epochs": 5}).min_steps is None
    with pytest.raises(ValueError, match=f"^select must leave the validation data to the sweep, got '{select}'"):
        SweepConfig(train={**train, "select": select})


def test_values_that_do_not_go_together_fail_their_trial_alone(waves_file: Path, tmp_path: Path) -> None:
    space = {"input_noise": {"low": 0.5, "high": 1.5}, "input_noise_kind": ["salt_and_pepper", "white_noise"]}
    train = {"dataset": str(waves_file), "epochs": 1, "hidden_size": 4}
    config = SweepConfig(model="lstm", train=train, trials=6, space=space, strengths={"white_noise": [0.1]})
    _, content = sweep(config, RunContext(output=tmp_path))
    failed = [trial for trial in content["trials"] if trial["error"]]
    assert 0 < len(failed) < 6 and all("input_noise must be at most 1" in trial["error"] for trial in failed)
    assert content["best"] is not None


def test_equal_validation_targets_are_refused(tmp_path: Path) -> None:
    X, file = torch.randn(40, 5, 1, generator=torch.Generator().manual_seed(0)).numpy(), tmp_path / "values.npz"
    train = {"dataset": str(file), "task": "regression", "epochs": 1, "hidden_size": 4}
    config = SweepConfig(model="gru", train=train, trials=2)
    y = np.arange(40) + 0.5
    np.savez(file, X=X, y=y)
    held_out = load_dataset(str(file)).validation.labels[:, 0].numpy()
    np.savez(file, X=X, y=np.where(np.isin(y, held_out), 0.5, y))
    with pytest.raises(ValueError, match=r"^dataset must have validation targets that vary"):
        sweep(config, RunContext(output=tmp_path / "out"))
