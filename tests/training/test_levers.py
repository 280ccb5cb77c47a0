"""Optimizers, averaged weights and the epoch that is kept; and all levers together, resumed and side by side."""

import copy
import dataclasses
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interrupts import interrupt_at

from noisyrnn.data.dataset import Dataset
from noisyrnn.models import SequenceClassifier
from noisyrnn.training import RunFolder, TrainConfig, fit, fit_seeds, load
from noisyrnn.training.batches import epoch_batches
from noisyrnn.training.optimizer import RatedOptimizer, orthogonal_parameters
from noisyrnn.training.perturbed_inputs import selection_inputs
from noisyrnn.training.saving import read_header
from noisyrnn.training.trainer import Trainer
from noisyrnn.training.validation import validate
from noisyrnn.training.weight_average import WeightAverage

Build = Callable[[TrainConfig], SequenceClassifier]
ALL: dict[str, Any] = {
    "ema": 0.9,
    "select": "perturbed",
    "input_noise": (0.0, 0.3),
    "noise_schedule": "annealed",
    "decay_epochs": (1,),
    "adversarial": "pgd_linf",
    "adversarial_steps": 2,
    "optimizer": "rmsprop",
    "weight_decay": 0.01,
}


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("rmsprop", torch.optim.RMSprop)],
)
def test_an_optimizer_is_torchs(name: str, kind: Any, config: TrainConfig, build: Build) -> None:
    config = dataclasses.replace(config, optimizer=name, weight_decay=0.1)
    ours, theirs = build(config), build(config)
    optimizers = [RatedOptimizer(config, ours).torch_optimizer, kind(theirs.parameters(), lr=0.01, weight_decay=0.1)]
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            sum((p * (k + 1)).square().sum() for k, p in enumerate(model.parameters())).backward()
            optimizer.step()
    for one, other in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_an_orthogonal_matrix_has_a_rate_of_its_own(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    config = dataclasses.replace(config, model="exprnn", options={}, orthogonal_rate=0.1, decay_epochs=(1,))
    trainer = Trainer(build(config), dataset, config)
    part = next(epoch_batches(config, 40, 1))
    for epoch, rate in ((1, 0.01), (2, 0.001)):
        trainer.progress.epoch = epoch
        trainer.take_step(dataset.train, part)
        groups = trainer._optimizer.torch_optimizer.param_groups
        own = orthogonal_parameters(trainer.model)
        assert [group["lr"] for group in groups] == pytest.approx([rate, 0.1 * rate])
        assert [id(p) for p in groups[1]["params"]] == [id(p) for p in own] and len(own) == 1
        assert sum(len(group["params"]) for group in groups) == len(list(trainer.model.parameters()))


def test_the_average_is_its_formula(config: TrainConfig, build: Build) -> None:
    model = build(config)
    average, expected = WeightAverage(model, 0.4), weights(model)
    for step in range(1, 12):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        average.update(step)
        decay = min(0.4, (1 + step) / (10 + step))
        expected = [decay * mean + (1 - decay) * p for mean, p in zip(expected, weights(model), strict=True)]
    own = weights(model)
    with average.in_place():
        inside = weights(model)
    for one, other in zip(inside, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert all(torch.equal(one, other) for one, other in zip(weights(model), own, strict=True))
    again = WeightAverage(model, 0.4)
    again.load_state_dict(average.state_dict())
    with again.in_place():
        assert all(torch.equal(one, other) for one, other in zip(weights(model), inside, strict=True))


def test_averaged_weights_are_validated_and_saved(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    config = dataclasses.replace(config, ema=0.8, select="last")
    plain = dataclasses.replace(config, ema=None)
    model, twin = build(config), build(config)
    result = fit(model, dataset, config, folder=folder)
    trainer, averaged = Trainer(twin, dataset, plain), WeightAverage(twin, 0.8)
    for _ in range(3):
        for part in trainer.batches(40):
            loss, correct, _ = trainer.take_step(dataset.train, part)
            trainer.count(loss, correct, part.count, 0.0)
            averaged.update(trainer.progress.step)
        trainer.end_epoch(dataset.validation)
    with averaged.in_place():
        expected, (loss, accuracy) = weights(twin), validate(twin, dataset.validation)
    for found in (model, load(folder.model), load(folder.last_model)):
        assert all(torch.equal(one, other) for one, other in zip(weights(found), expected, strict=True))
    assert (result.best_validation_loss, result.best_validation_accuracy) == (loss, accuracy)
    assert not torch.equal(expected[0], weights(twin)[0])


def test_the_last_epoch_is_kept_where_it_is_asked_for(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    def spoil(row: Mapping[str, float]) -> None:
        if row["epoch"] == 2:
            with torch.no_grad():
                model.readout.weight.neg_()

    config = dataclasses.replace(config, epochs=3, learning_rate=0.02)
    ends = {}
    for select in ("clean", "last"):
        model = build(config)
        ends[select] = fit(model, dataset, dataclasses.replace(config, select=select), folder=folder, on_epoch=spoil)
        folder.checkpoint.unlink()
    assert ends["clean"].best_epoch < 3 and ends["last"].best_epoch == 3
    assert ends["last"].best_validation_accuracy == ends["last"].history[2]["validation_accuracy"]
    assert all(
        torch.equal(a, b) for a, b in zip(weights(load(folder.model)), weights(load(folder.last_model)), strict=True)
    )


def test_perturbed_chooses_by_the_mean_over_noises(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    config = dataclasses.replace(config, epochs=12, learning_rate=0.02, select="perturbed")
    model = build(config)
    result = fit(model, dataset, config)
    scores = [(row["perturbed_accuracy"], -row["perturbed_loss"]) for row in result.history]
    assert scores.index(max(scores)) == result.best_epoch - 1
    splits = [dataset.validation, *selection_inputs(dataset.validation, dataset)]
    losses, accuracies = zip(*(validate(model, split) for split in splits), strict=True)
    row = result.history[result.best_epoch - 1]
    assert row["perturbed_loss"] == pytest.approx(sum(losses) / 4)
    assert row["perturbed_accuracy"] == pytest.approx(sum(accuracies) / 4)
    assert result.best_validation_accuracy == row["validation_accuracy"] == accuracies[0]


@pytest.mark.parametrize("model", ["noisy", "exprnn", "lstm"])
def test_with_all_levers_a_resumed_run_ends_in_the_same_bits(
    model: str, dataset: Dataset, config: TrainConfig, build: Build, tmp_path: Path
) -> None:
    special = {"orthogonal_rate": 0.1} if model == "exprnn" else {}
    options = config.options if model == "noisy" else {"additive": 0.1}
    config = dataclasses.replace(config, **{**ALL, "model": model, "options": dict(options), **special})
    whole = build(config)
    history = fit(whole, dataset, config, folder=RunFolder(tmp_path)).history
    for call in (2, 5):  # in the middle of the first and the second epoch, of three batches each
        folder = RunFolder(tmp_path / str(call))
        folder.path.mkdir()
        first = build(config)
        interrupt_at(first, call, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            fit(first, dataset, config, folder=folder)
        second = build(dataclasses.replace(config, seed=9))  # its weights must come from the checkpoint
        found = fit(second, dataset, config, folder=folder, resume=True).history
        assert [{**row, "seconds": 0} for row in found] == [{**row, "seconds": 0} for row in history]
        assert all(torch.equal(one, other) for one, other in zip(weights(second), weights(whole), strict=True))


@pytest.mark.parametrize("kernel", ["reference", "eager"])
def test_with_all_levers_runs_side_by_side_end_as_alone(
    kernel: str, dataset: Dataset, config: TrainConfig, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", kernel)
    config = dataclasses.replace(config, precision="64-true", **ALL)
    configs = [dataclasses.replace(config, seed=seed) for seed in (3, 5)]
    models = [build(each).double() for each in configs]
    alone = copy.deepcopy(models)
    together = fit_seeds(models, dataset, configs)
    for k, each in enumerate(configs):
        single = fit(alone[k], dataset, each)
        assert together[k].best_epoch == single.best_epoch
        for one, other in zip(weights(models[k]), weights(alone[k]), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_model_file_records_the_settings(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    config = dataclasses.replace(config, epochs=1, dataset="some/where/waves.npz", **{**ALL, "decay_epochs": ()})
    fit(build(config), dataset, config, folder=folder)
    for file in (folder.model, folder.last_model):
        recorded = read_header(file).notes["training"]
        assert recorded == {**config.to_dict(), "dataset": "waves.npz"}
        assert recorded["input_noise"] == [0.0, 0.3]


def test_settings_at_their_defaults_leave_inputs_and_folders_as_they_were(
    dataset: Dataset, config: TrainConfig, build: Build
) -> None:
    assert config.identity().keys() == {"hidden_size", "epochs", "batch_size", "learning_rate", "step_size", "label"}
    inputs, labels = dataset.train.inputs, dataset.train.labels
    assert Trainer(build(config), dataset, config).perturb(inputs, labels, None) is inputs
