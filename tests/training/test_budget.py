"""What settings become on few sequences, and training on all of them."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from tests.interrupts import interrupt_at

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.models import SequenceClassifier
from noisyrnn.training import RunFolder, TrainConfig, fit, fit_seeds
from noisyrnn.training.budget import Budget, planned_epochs

Build = Callable[[TrainConfig], SequenceClassifier]


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def cut(dataset: Dataset, train: int, validation: int) -> Dataset:
    """The first sequences of each part."""
    return dataclasses.replace(
        dataset,
        train=dataset.train.subset(torch.arange(train)),
        validation=dataset.validation.subset(torch.arange(validation)),
    )


def test_settings_without_a_budget_stay_unchanged(config: TrainConfig, dataset: Dataset) -> None:
    budget = Budget.of(config, dataset)
    assert budget.config == config and budget.dataset is dataset and budget.text == ""


@pytest.mark.parametrize(
    ("sequences", "batch_size", "epochs", "expected"),
    [(23, 64, 100, 1000), (40, 16, 100, 334), (40, 16, 500, 500), (40, 4, 100, 100), (40, 39, 100, 500)],
)
def test_epochs_are_raised_for_the_steps(
    sequences: int, batch_size: int, epochs: int, expected: int, config: TrainConfig, dataset: Dataset
) -> None:
    config = dataclasses.replace(config, epochs=epochs, batch_size=batch_size, min_steps=1000)
    budget = Budget.of(config, cut(dataset, sequences, 20))
    assert budget.config.epochs == expected and budget.config.min_steps is None
    steps = expected * -(-sequences // batch_size)
    assert steps >= 1000
    assert planned_epochs(config, cut(dataset, sequences, 20)) == expected
    text = f"{expected:,} epochs instead of {epochs}, which are {steps:,} optimizer steps of "
    assert (text in budget.text) == (expected > epochs)


def test_the_decay_follows_the_epochs(config: TrainConfig, dataset: Dataset) -> None:
    config = dataclasses.replace(config, epochs=10, batch_size=64, decay_after=0.75)
    assert Budget.of(config, dataset).config.decay_epochs == (8,)
    budget = Budget.of(dataclasses.replace(config, min_steps=200), dataset)
    assert budget.config.decay_epochs == (150,) and budget.config.decay_after is None


@pytest.mark.parametrize(
    ("count", "patience", "select"), [(20, None, "refit"), (29, None, "refit"), (30, None, "clean"), (20, 5, "clean")]
)
def test_few_validation_sequences_choose_no_epoch(
    count: int, patience: int | None, select: str, config: TrainConfig, waves: Callable[..., Split], dataset: Dataset
) -> None:
    dataset = dataclasses.replace(dataset, validation=waves(count, 2))
    budget = Budget.of(dataclasses.replace(config, select="auto", patience=patience), dataset)
    assert budget.config.select == select
    many = dataclasses.replace(config, select="auto", patience=patience, min_steps=90, batch_size=1, epochs=1)
    assert planned_epochs(many, dataset) == Budget.of(many, dataset).config.epochs == (2 if select == "refit" else 3)
    assert len(budget.dataset.train) == (40 + count if select == "refit" else 40)
    if select == "refit":
        why = f"no validation, since it would have {count} sequences, fewer than 30: all {40 + count} sequences"
        assert budget.text.startswith(f"adapted to few sequences: {why} are trained on and the last epoch is kept")


def test_strengths_keep_their_unit_in_a_refit(config: TrainConfig, dataset: Dataset) -> None:
    dataset = dataclasses.replace(dataset, value_range=None)
    budget = Budget.of(dataclasses.replace(config, select="refit"), dataset)
    assert budget.dataset.scale == dataset.scale
    assert budget.dataset.scale != dataclasses.replace(budget.dataset).scale


def test_no_sequence_is_trained_on_twice_in_an_epoch(config: TrainConfig, dataset: Dataset) -> None:
    dataset = dataclasses.replace(dataset, validation=dataset.train)
    budget = Budget.of(dataclasses.replace(config, select="refit"), dataset)
    assert budget.dataset is dataset and "all 40 sequences are trained on" in budget.text


@pytest.mark.parametrize("unequal", [False, True])
def test_a_refit_is_a_training_on_all_sequences(
    unequal: bool, config: TrainConfig, build: Build, dataset: Dataset, waves: Callable[..., Split]
) -> None:
    if unequal:
        parts = {"train": waves(20, 1, unequal=True), "validation": waves(9, 2, steps=10, unequal=True)}
        dataset = dataclasses.replace(dataset, **parts)
    together = dataclasses.replace(dataset, train=dataset.train.joined(dataset.validation))
    ours, theirs = build(config), build(config)
    result = fit(ours, dataset, dataclasses.replace(config, select="refit"))
    fit(theirs, together, dataclasses.replace(config, select="last"))
    assert same(ours, theirs)
    assert result.validation_sequences == 0 and result.best_epoch == config.epochs == len(result.history)
    assert not any(name.startswith("validation") for row in result.history for name in row)
    assert "validation: none" in repr(result) and "are trained on and the last epoch is kept" in repr(result)


def test_seeds_at_once_are_refitted_too(config: TrainConfig, build: Build, dataset: Dataset) -> None:
    configs = [dataclasses.replace(config, select="refit", min_steps=12, batch_size=30, seed=seed) for seed in (1, 2)]
    models = [build(one) for one in configs]
    results = fit_seeds(models, dataset, configs)
    for seed, model in zip(configs, models, strict=True):
        alone = build(seed)
        fit(alone, dataset, seed)
        for one, other in zip(weights(model), weights(alone), strict=True):
            assert torch.allclose(one, other, atol=1e-5)
    assert [len(result.history) for result in results] == [6, 6]  # type: ignore[union-attr]


def test_an_interrupted_refit_ends_in_the_same_bits(
    config: TrainConfig, build: Build, dataset: Dataset, folder: RunFolder
) -> None:
    config = dataclasses.replace(config, select="auto", min_steps=16, epochs=1, decay_after=0.5)
    whole, stopped = build(config), build(config)
    fit(whole, dataset, config)
    interrupt_at(stopped, 7)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, dataset, config, folder=folder)
    kept = folder.checkpoint.read_bytes()
    resumed = build(config)
    result = fit(resumed, dataset, config, folder=folder, resume=True)
    assert same(whole, resumed) and len(result.history) == 4
    assert set(folder.read_metrics()) == {"epoch", "train_loss", "train_accuracy", "learning_rate", "seconds"}
    folder.checkpoint.write_bytes(kept)  # the checkpoint of a training on its own continues among others
    (among,) = fit_seeds([build(config)], dataset, [config], folders=[folder], resume=True)
    assert len(among.history) == 4  # type: ignore[union-attr]
