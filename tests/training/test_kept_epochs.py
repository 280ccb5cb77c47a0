"""The weights after every epoch: what is written, when some are missing."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from noisyrnn.cli import main
from noisyrnn.data.dataset import Dataset
from noisyrnn.files import file_digest, write_json
from noisyrnn.models import SequenceClassifier
from noisyrnn.pipeline import RunContext, settings_of_run, train_run, train_seeds
from noisyrnn.training import RunFolder, TrainConfig, fit, fit_seeds, load

Build = Callable[[TrainConfig], SequenceClassifier]
DIGITS = TrainConfig(dataset="digits", hidden_size=3, epochs=2, batch_size=512, min_steps=1)


def digests(folder: RunFolder) -> dict[str, str]:
    return {file.stem: file_digest(file) for file in folder.epoch_model(1).parent.iterdir()}


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_last_and_the_best_are_those_of_the_run(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build, ema: float | None
) -> None:
    config = dataclasses.replace(config, ema=ema, learning_rate=0.05)
    result = fit(build(config), dataset, config, folder=folder, keep_epochs=True)
    kept = digests(folder)
    assert sorted(kept) == ["1", "2", "3"] and len(set(kept.values())) == 3
    assert kept["3"] == file_digest(folder.last_model)
    assert kept[str(result.best_epoch)] == file_digest(folder.model)


def test_a_resumed_run_keeps_the_same(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build, tmp_path: Path
) -> None:
    def stop(row: Mapping[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    whole = RunFolder(tmp_path / "whole")
    whole.path.mkdir()
    fit(build(config), dataset, config, folder=whole, keep_epochs=True)
    with pytest.raises(KeyboardInterrupt):
        fit(build(config), dataset, config, folder=folder, checkpoint_seconds=0.0, keep_epochs=True, on_epoch=stop)
    fit(build(config), dataset, config, folder=folder, resume=True, keep_epochs=True)
    assert digests(folder) == digests(whole)


def test_a_run_that_began_without_them_is_refused(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    def stop(row: Mapping[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(build(config), dataset, config, folder=folder, checkpoint_seconds=0.0, on_epoch=stop)
    before = file_digest(folder.checkpoint)
    match = (
        r"^keep_epochs must be given from the first epoch on, but .* is past epoch 1 without the weights of epoch 1\."
    )
    with pytest.raises(ValueError, match=match):
        fit(build(config), dataset, config, folder=folder, resume=True, keep_epochs=True)
    assert file_digest(folder.checkpoint) == before


def test_they_need_a_folder(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    with pytest.raises(ValueError, match=r"^folder must be given with keep_epochs=True, got None\. Pass a RunFolder\."):
        fit(build(config), dataset, config, keep_epochs=True)
    with pytest.raises(TypeError, match="keep_epochs must be True or False, got 'yes'"):
        RunContext(keep_epochs="yes")  # type: ignore[arg-type]


def test_runs_trained_together_keep_theirs(dataset: Dataset, config: TrainConfig, build: Build, tmp_path: Path) -> None:
    configs = [dataclasses.replace(config, seed=seed) for seed in (1, 2)]
    folders = [RunFolder(tmp_path / str(each.seed)) for each in configs]
    for folder in folders:
        folder.path.mkdir()
    fit_seeds([build(each) for each in configs], dataset, configs, folders=folders, keep_epochs=True)
    for folder in folders:
        last, kept = load(folder.last_model).state_dict(), load(folder.epoch_model(3)).state_dict()
        assert all(torch.equal(last[name], kept[name]) for name in last)
        assert len(digests(folder)) == 3


@pytest.mark.parametrize("batch_seeds", [False, True])
def test_the_pipeline_keeps_them_for_each_seed(tmp_path: Path, batch_seeds: bool) -> None:
    context = RunContext(output=tmp_path, accelerator="cpu", keep_epochs=True)
    configs = [dataclasses.replace(DIGITS, seed=seed) for seed in (1, 2)]
    for path in train_seeds(configs, context, batch_seeds=batch_seeds):
        assert sorted(digests(RunFolder(path))) == ["1", "2"]


def test_a_finished_run_without_them_is_refused(tmp_path: Path) -> None:
    words = ["train", "--dataset", "digits", "--hidden-size", "3", "--epochs", "2", "--batch-size", "512"]
    words += ["--output", str(tmp_path), "--accelerator", "cpu"]
    assert main([*words, "--keep-epochs"]) == 0
    (path,) = tmp_path.iterdir()
    folder = RunFolder.open(path)
    assert sorted(digests(folder)) == ["1", "2"]
    assert main([*words, "--keep-epochs"]) == 0  # finished, and nothing is missing
    folder.epoch_model(2).unlink()
    context = RunContext(output=tmp_path, accelerator="cpu")
    config = settings_of_run(folder)
    assert train_run(config, context).path == path
    with pytest.raises(ValueError, match=r"is past epoch 2 without the weights of epoch 2\."):
        train_run(config, context.replace(keep_epochs=True))


def test_an_unfinished_run_without_them_is_refused_before_a_file_changes(tmp_path: Path) -> None:
    context = RunContext(output=tmp_path, accelerator="cpu", resume=True)
    folder = train_run(DIGITS, context)
    write_json(folder.summary, {"status": "failed", "error": "its own"})
    before = {file: file.read_bytes() for file in folder.path.iterdir()}
    with pytest.raises(ValueError, match=r"is past epoch 2 without the weights of epoch 1\."):
        train_run(DIGITS, context.replace(keep_epochs=True))
    assert {file: file.read_bytes() for file in folder.path.iterdir()} == before
