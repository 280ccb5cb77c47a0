"""What is called at the end of each epoch: when, with what, on which process."""

import csv
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from noisyrnn.data.dataset import Dataset
from noisyrnn.models import SequenceClassifier
from noisyrnn.training import RunFolder, TrainConfig, fit, fit_seeds

Build = Callable[[TrainConfig], SequenceClassifier]
Row = Mapping[str, float]


def rows_of(folder: RunFolder) -> list[dict[str, float]]:
    with folder.metrics.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def test_it_gets_the_row_that_was_just_written(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    got: list[Row] = []

    def hook(row: Row) -> None:
        assert rows_of(folder)[-1] == row
        got.append(row)

    result = fit(build(config), dataset, config, folder=folder, on_epoch=hook)
    assert got == result.history == rows_of(folder)
    assert [row["epoch"] for row in got] == [1, 2, 3]


def test_it_needs_no_folder_and_changes_neither_bits_nor_history(
    dataset: Dataset, config: TrainConfig, build: Build
) -> None:
    plain, watched = build(config), build(config)
    without = fit(plain, dataset, config)

    def hook(row: Row) -> None:
        assert isinstance(row, dict)
        row.clear()

    result = fit(watched, dataset, config, on_epoch=hook)
    assert [row["train_loss"] for row in result.history] == [row["train_loss"] for row in without.history]
    for ours, theirs in zip(watched.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_it_raises_ends_the_training(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    def hook(row: Row) -> None:
        if row["epoch"] == 2:
            raise OSError("epoch 2 is full")

    with pytest.raises(OSError, match="epoch 2 is full"):
        fit(build(config), dataset, config, folder=folder, on_epoch=hook)
    assert [row["epoch"] for row in rows_of(folder)] == [1, 2]


def test_a_resumed_run_calls_it_for_what_is_left(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    def stop(row: Row) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # the last checkpoint is of epoch 2, after its last step
        fit(build(config), dataset, config, folder=folder, checkpoint_seconds=0.0, on_epoch=stop)
    epochs: list[float] = []
    fit(build(config), dataset, config, folder=folder, resume=True, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert epochs == [2, 3]


def test_the_first_process_alone_calls_it(
    dataset: Dataset, config: TrainConfig, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fabric, "is_global_zero", property(lambda self: False))
    called: list[Row] = []
    assert len(fit(build(config), dataset, config, on_epoch=called.append).history) == 3
    assert called == []


def test_runs_trained_together_have_one_each(
    dataset: Dataset, config: TrainConfig, build: Build, tmp_path: Path
) -> None:
    configs = [dataclasses.replace(config, seed=seed) for seed in (1, 2)]
    got: list[list[Row]] = [[], []]
    hooks = [rows.append for rows in got]
    models = [build(c) for c in configs]
    folders = [RunFolder(tmp_path / str(c.seed)) for c in configs]
    for folder in folders:
        folder.path.mkdir()
    fit_seeds(models, dataset, configs, folders=folders, on_epochs=hooks)
    assert got == [rows_of(folder) for folder in folders]
    assert got[0][0]["train_loss"] != got[1][0]["train_loss"]
    with pytest.raises(ValueError, match="shorter"):
        fit_seeds(models, dataset, configs, on_epochs=hooks[:1])
