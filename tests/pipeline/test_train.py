"""From settings to a run folder."""

import csv
import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noisyrnn.analysis import penalty as analysis_penalty
from noisyrnn.data import load_dataset
from noisyrnn.files import FORMAT, file_digest, write_json
from noisyrnn.models import MODELS
from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.pipeline import EvaluateConfig, RunContext, evaluate_run, train_run, train_seeds
from noisyrnn.pipeline.dependencies import run_config
from noisyrnn.pipeline.train import build_model, run_path
from noisyrnn.training import RunFolder, TrainConfig, load
from noisyrnn.training.checkpoint import Checkpoint, Progress
from noisyrnn.training.saving import read_header
from noisyrnn.training.validation import validate


@pytest.fixture
def config(waves_file: Path) -> TrainConfig:
    return TrainConfig(
        dataset=str(waves_file), hidden_size=4, epochs=2, batch_size=16, clip_norm=1.0, options={"step_size": 0.2}
    )


def test_a_run_folder_holds_all_that_is_promised(config: TrainConfig, tmp_path: Path) -> None:
    folder = train_run(config, RunContext(output=tmp_path / "runs"))
    names = {path.name for path in folder.path.iterdir()}
    weights = {"model.safetensors", "last.safetensors"}
    assert names == {"config.json", "summary.json", "metrics.csv", "checkpoint.pt"} | weights
    written = json.loads(folder.config.read_text())
    assert written["format"] == FORMAT
    assert written["config"]["label"] == "noisy"
    settings = written["config"]
    assert [settings[name] for name in ("additive", "num_layers")] == [0.05, 1]  # the layer's own
    assert settings["step_size"] == 0.2
    assert written["dataset"]["class_names"] == ["fast", "slow"]
    assert written["dataset"]["train"] + written["dataset"]["validation"] == 96
    summary = json.loads(folder.summary.read_text())
    model = load(folder.model)
    assert summary["status"] == "finished"
    assert summary["epochs"] == 2
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    assert len(folder.metrics.read_text().splitlines()) == 3
    dataset = load_dataset(config.dataset)
    assert summary["best_validation_accuracy"] == validate(model, dataset.validation)[1]
    assert summary["validation_sequences"] == len(dataset.validation)
    assert summary["not_fitted"] is None or summary["not_fitted"].startswith("not fitted: ")
    assert run_config(folder) == dataclasses.replace(config, label="noisy")


def test_the_summary_has_the_digests_of_the_best_and_of_the_last_weights(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, epochs=8, learning_rate=1.0)
    folder = train_run(config, RunContext(output=tmp_path / "runs"))
    summary = folder.read_summary()
    assert summary["best_epoch"] < 8  # otherwise the two files are equal
    assert summary["model_sha256"] == file_digest(folder.model) != file_digest(folder.last_model)
    assert summary["last_model_sha256"] == file_digest(folder.last_model)


def test_standardisation_uses_training_data_and_travels(config: TrainConfig, tmp_path: Path) -> None:
    model = load(train_run(config, RunContext(output=tmp_path)).model)
    train = load_dataset(config.dataset).train.inputs.double()
    assert float(model.mean[0]) == pytest.approx(float(train.mean()), abs=1e-6)
    assert float(model.std[0]) == pytest.approx(float(train.std(correction=0)), abs=1e-6)


def test_a_finished_run_is_left_alone(config: TrainConfig, tmp_path: Path) -> None:
    folder = train_run(config, RunContext(output=tmp_path))
    before = {path: path.stat().st_mtime_ns for path in folder.path.iterdir()}
    assert train_run(config, RunContext(output=tmp_path)) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.path.iterdir()} == before


def test_an_unfinished_run_wants_resume(config: TrainConfig, tmp_path: Path) -> None:
    folder = train_run(config, RunContext(output=tmp_path))
    weights = folder.model.read_bytes()
    folder.summary.unlink()
    with pytest.raises(ValueError, match=r"resume must be given to continue the unfinished run .*waves-noisy-seed1"):
        train_run(config, RunContext(output=tmp_path))
    train_run(config, RunContext(output=tmp_path, resume=True))
    assert folder.finished
    assert folder.model.read_bytes() == weights


def test_what_a_killed_process_left_half_written_is_removed(config: TrainConfig, tmp_path: Path) -> None:
    path = run_path(config, tmp_path)
    path.mkdir()
    (path / f".checkpoint.pt.{16 * '0'}.part").write_bytes(b"half")
    train_run(config, RunContext(output=tmp_path))
    assert not list(path.glob(".*.part"))


def test_other_settings_go_to_another_folder(config: TrainConfig, tmp_path: Path) -> None:
    paths = {
        run_path(c, tmp_path)
        for c in (config, dataclasses.replace(config, epochs=3), dataclasses.replace(config, seed=2))
    }
    assert len(paths) == 3


def test_a_run_that_diverges_says_so_in_its_summary(config: TrainConfig, tmp_path: Path) -> None:
    wild = dataclasses.replace(
        config, options={**config.options, "step_size": 1e30, "learn_step": False, "damping": 1.0}
    )
    with pytest.raises(RuntimeError, match="hidden state became non-finite"):
        train_run(wild, RunContext(output=tmp_path))
    summary = json.loads(RunFolder(run_path(wild, tmp_path)).summary.read_text())
    assert summary["status"] == "failed"
    assert "Lower step_size" in summary["error"]


def test_a_run_without_memory_is_a_failed_one(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise MemoryError("the CPU kernel ran out of memory.")

    monkeypatch.setattr(sys.modules["noisyrnn.pipeline.train"], "fit", fail)
    with pytest.raises(MemoryError):
        train_run(config, RunContext(output=tmp_path))
    summary = RunFolder(run_path(config, tmp_path)).read_summary()
    assert (summary["status"], summary["error"]) == (
        "failed",
        "Memory ran out (the CPU kernel ran out of memory). Use smaller sizes, fewer workers or a larger machine.",
    )
    ends = train_seeds([dataclasses.replace(config, seed=seed) for seed in (7, 8)], RunContext(output=tmp_path))
    assert [str(sentence)[:15] for sentence in ends.values()] == ["Memory ran out "] * 2  # the first stops no other


def test_output_that_cannot_be_written(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ValueError, match=r"output must be a folder that can be written to, got .*file.* \(Not a directory\)"
    ):
        train_run(config, RunContext(output=tmp_path / "file"))


def test_output_without_permission(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(
        ValueError, match=r"output must be a folder that can be written to, got .* \(Permission denied\)"
    ):
        train_run(config, RunContext(output=tmp_path / "locked"))


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (7, rf"config\.json must be of format {FORMAT}, got 7\. Read it with the version of noisyrnn"),
        (2, r"got 2\. Read it with noisyrnn 0\.1, or train the run again in another output"),
    ],
)
def test_a_run_folder_of_another_version(config: TrainConfig, tmp_path: Path, version: int, sentence: str) -> None:
    folder = train_run(config, RunContext(output=tmp_path))
    folder.config.write_text(folder.config.read_text().replace(f'"format": {FORMAT}', f'"format": {version}'))
    with pytest.raises(ValueError, match=sentence):
        RunFolder.open(folder.path)


def test_a_folder_without_a_setting_of_a_later_version(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings that it lacks have their defaults, and its name stays."""
    config = dataclasses.replace(config, epochs=1)
    folder = train_run(config, RunContext(output=tmp_path))
    content = folder.read_config()
    for name in ("penalty", "additive", "bias"):  # as if they had come later
        del content["config"][name]
    write_json(folder.config, content)
    assert run_config(folder) == dataclasses.replace(config, label="noisy")
    checkpoint = torch.load(folder.checkpoint, weights_only=True)
    del checkpoint["format"]
    del checkpoint["settings"]["penalty"], checkpoint["settings"]["additive"]
    Checkpoint(**{**checkpoint, "progress": Progress(**checkpoint["progress"])}).write(folder.checkpoint)
    assert train_run(config, RunContext(output=tmp_path, resume=True)).path == folder.path
    folder.summary.unlink()
    assert train_run(config, RunContext(output=tmp_path, resume=True)).finished


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run must be a folder that holds a config\.json, got "):
        RunFolder.open(tmp_path)


def test_a_run_file_that_breaks_off(config: TrainConfig, tmp_path: Path) -> None:
    folder = train_run(config, RunContext(output=tmp_path))
    folder.config.write_text(folder.config.read_text()[:40])
    with pytest.raises(ValueError, match=r"config\.json must be a JSON file, got one that breaks off or is damaged"):
        RunFolder.open(folder.path)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_initial_weights_depend_on_the_seed_alone(model: str, waves_file: Path) -> None:
    dataset = load_dataset(str(waves_file))
    states = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        states.append(build_model(TrainConfig(model=model, hidden_size=4, seed=seed), dataset).state_dict())
        assert torch.equal(torch.get_rng_state(), before), "the global random state was used"
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_initial_weights_are_the_same_in_threads(waves_file: Path) -> None:
    """Workers of a cluster may be threads of one process, which share torch's global generator."""
    dataset = load_dataset(str(waves_file))
    configs = [TrainConfig(hidden_size=40, seed=seed) for seed in range(40)]
    alone = [build_model(config, dataset).readout.weight for config in configs]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda config: build_model(config, dataset).readout.weight, configs))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"accelerator must be 'cpu' where torch finds no GPU, got 'cuda'"):
        train_run(config, RunContext(output=tmp_path / "runs", accelerator="cuda"))


def test_a_label_stays_one_folder(config: TrainConfig, tmp_path: Path) -> None:
    path = run_path(dataclasses.replace(config, label="../a b/c:?"), tmp_path)
    assert path.parent == tmp_path
    assert path.name.startswith("waves-.._a_b_c_-seed1-")


def test_a_run_on_other_data_is_refused(config: TrainConfig, tmp_path: Path, waves_file: Path) -> None:
    folder = train_run(config, RunContext(output=tmp_path / "runs"))
    content = dict(np.load(waves_file))
    np.savez(waves_file, X=content["X"] * 2, y=content["y"])
    changed = "the inputs of the training part and the inputs of the validation part changed since"
    with pytest.raises(ValueError, match=rf"data that .* was trained on, got .*waves\.npz, where {changed}\."):
        train_run(config, RunContext(output=tmp_path / "runs"))
    with pytest.raises(ValueError, match="dataset must hold the data that"):
        evaluate_run(folder, EvaluateConfig())


def write_channels(path: Path, header: str = "id,u,v,class") -> Path:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 4, 2)).round(3)
    lines = [f"{k},{u},{v},{'ab'[k % 2]}" for k, sequence in enumerate(values) for u, v in sequence]
    path.write_text("\n".join([header, *lines]))
    return path


def test_a_run_knows_the_names_of_its_channels(config: TrainConfig, tmp_path: Path) -> None:
    context = RunContext(output=tmp_path / "runs")
    config = dataclasses.replace(config, dataset=str(write_channels(tmp_path / "own.csv")), id="id")
    folder = train_run(config, context)
    stored = folder.read_config()
    assert stored["dataset"]["channel_names"] == ["u", "v"]
    assert read_header(folder.model).notes["training"]["channel_names"] == ["u", "v"]
    assert "channel_names" not in read_header(train_run(waves(config, tmp_path), context).model).notes["training"]
    write_channels(tmp_path / "own.csv", "id,v,u,class")  # the same values, under other names
    with pytest.raises(
        ValueError, match=r"data that .* was trained on, got .*own\.csv, where the channel names changed"
    ):
        evaluate_run(folder, EvaluateConfig())
    del stored["dataset"]["channel_names"]  # as an earlier version wrote it
    write_json(folder.config, stored)
    assert train_run(config, RunContext(output=tmp_path / "runs")).path == folder.path
    evaluate_run(folder, EvaluateConfig(strengths={}, draws=1))


def waves(config: TrainConfig, folder: Path) -> TrainConfig:
    return dataclasses.replace(config, dataset=str(folder / "waves.npz"), id=None)


def test_training_does_not_read_the_test_set(config: TrainConfig, tmp_path: Path, waves_file: Path) -> None:
    content = dict(np.load(waves_file))
    bad = np.full_like(content["X"][:4], np.nan)
    path = tmp_path / "with_test.npz"
    np.savez(path, **content, X_test=bad, y_test=content["y"][:4])
    train_run(dataclasses.replace(config, dataset=str(path)), RunContext(output=tmp_path))
    with pytest.raises(ValueError, match="must be finite"):
        load_dataset(str(path)).test  # noqa: B018 (reading it is the point)


@pytest.mark.parametrize("penalty", ["explicit", "hutchinson"])
def test_the_penalty_takes_the_place_of_the_noise(waves_file: Path, tmp_path: Path, penalty: str) -> None:
    """Its loss is the noise-free one with the regulariser, on the first batch to the bit."""
    config = TrainConfig(dataset=str(waves_file), hidden_size=4, epochs=1, batch_size=200, penalty=penalty)  # type: ignore[arg-type]
    dataset = load_dataset(config.dataset)
    folder = train_run(config, RunContext(output=tmp_path))
    with folder.metrics.open() as file:
        written = float(next(csv.DictReader(file))["train_loss"])
    model = build_model(config, dataset)
    order = torch.randperm(
        len(dataset.train), generator=torch.Generator().manual_seed(derive_seed(config.seed, "order", 1) % 2**63)
    )
    inputs, labels = dataset.train.inputs[order], dataset.train.labels[order]
    quiet = torch.nn.functional.cross_entropy(model.eval()(inputs), labels)
    path = BrownianPath(seed=derive_seed(config.seed, "noise", 0))
    effect = analysis_penalty(model, inputs, labels, kind=penalty, path=path).mean()
    assert abs(float(effect.detach())) > 1e-6
    assert written == pytest.approx(float((quiet + effect).detach()), rel=1e-5)


def test_runs_with_a_penalty_follow_one_another(waves_file: Path, tmp_path: Path) -> None:
    configs = [
        TrainConfig(dataset=str(waves_file), hidden_size=4, epochs=2, penalty="explicit", seed=seed) for seed in (1, 2)
    ]
    together = train_seeds(configs, RunContext(output=tmp_path / "batch_seeds"), batch_seeds=True)
    for config, path in zip(configs, together, strict=True):
        alone = train_run(config, RunContext(output=tmp_path / "alone"))
        assert (path / "model.safetensors").read_bytes() == alone.model.read_bytes()
