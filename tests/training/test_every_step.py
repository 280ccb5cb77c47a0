"""Training on a target at every step: the loss over counted steps, the metrics, resuming, and seeds side by side."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interrupts import interrupt_at
from torch import Tensor

from noisyrnn import load
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.models import NoisyRNN, SequenceClassifier, SequenceModel, SequenceRegressor, SequenceToSequence
from noisyrnn.training import RunFolder, TrainConfig, fit, fit_seeds
from noisyrnn.training.saving import save
from noisyrnn.training.validation import validate

STEPS = 8
both = pytest.mark.parametrize("values", [False, True])


def states(count: int, seed: int, *, values: bool, garbage: int = 0) -> Split:
    """The sign of the running sum of the inputs at every step, as a class or as ±1; unequal lengths and a mask."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, STEPS, 1, generator=generator)
    lengths = torch.randint(3, STEPS + 1, (count,), generator=generator)
    mask = torch.rand(count, STEPS, generator=generator) < 0.7
    mask[:, 1] = True
    up = inputs.cumsum(1) > 0
    labels: Tensor = 2.0 * up - 1 if values else up[..., 0].long()
    outside = ~(mask & (torch.arange(STEPS) < lengths[:, None]))
    if garbage:
        labels = labels.masked_fill(outside[..., None] if values else outside, garbage)
        inputs = inputs.masked_fill((torch.arange(STEPS) >= lengths[:, None])[..., None], garbage)
    else:
        inputs = torch.where((torch.arange(STEPS) < lengths[:, None])[..., None], inputs, 0.0)
    return Split(inputs=inputs, labels=labels, lengths=lengths, mask=mask, classes=0 if values else 2)


def make(values: bool, garbage: int = 0) -> Dataset:
    return Dataset(
        name="states",
        train=states(60, 1, values=values, garbage=garbage),
        validation=states(30, 2, values=values, garbage=garbage),
        read_test=lambda: states(30, 3, values=values),
        class_names=() if values else ("down", "up"),
        value_range=None,
        standardize=False,
    )


def build(values: bool, seed: int = 1) -> SequenceToSequence:
    torch.manual_seed(seed)
    layer = NoisyRNN(1, 6, step_size=0.2)
    return SequenceToSequence(layer, 1) if values else SequenceToSequence(layer, classes=2)


def bits(model: SequenceModel) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in model.state_dict().values()]


def test_losses_and_accuracies_are_those_of_the_counted_steps() -> None:
    logits = torch.tensor([[[1.0, 2.0], [0.5, 0.0], [3.0, 1.0]], [[0.0, 4.0], [1.0, 1.5], [9.0, 9.0]]]).double()
    targets = torch.tensor([[0, -1, 0], [1, 0, -1]])

    def one(row: int, step: int) -> float:
        a, b = logits[row, step].tolist()
        return math.log(math.exp(a) + math.exp(b)) - (a, b)[int(targets[row, step])]

    expected = [(one(0, 0) + one(0, 2)) / 2, (one(1, 0) + one(1, 1)) / 2]
    model = build(False)
    assert model.losses(logits, targets).tolist() == pytest.approx(expected, rel=1e-12)
    assert model.correct(logits, targets).tolist() == [0.5, 0.5]
    numbers = torch.tensor([[[1.0, 2.0], [5.0, 5.0]], [[0.0, 1.0], [2.0, 2.0]]])
    values = torch.tensor([[[0.0, 4.0], [torch.nan, torch.nan]], [[0.0, 0.0], [2.0, 5.0]]])
    model = SequenceToSequence(NoisyRNN(1, 6), 2)
    assert model.losses(numbers, values).tolist() == [2.5, 2.5]


@both
def test_training_learns_every_step_and_keeps_the_best_epoch(values: bool, tmp_path: Path) -> None:
    data, folder = make(values), RunFolder(tmp_path)
    config = TrainConfig(hidden_size=6, epochs=15, batch_size=16, learning_rate=0.03)
    model = build(values)
    result = fit(model, data, config, folder=folder)
    loss, accuracy = validate(model, data.validation)
    rows = result.history
    assert result.best_validation_loss == loss < 0.8 * rows[0]["validation_loss"]
    if values:
        assert loss == min(row["validation_loss"] for row in rows) and math.isnan(accuracy)
        assert "train_accuracy" not in rows[0] and "train_accuracy" not in folder.metrics.read_text()
    else:
        assert accuracy == result.best_validation_accuracy == max(row["validation_accuracy"] for row in rows) > 0.75
        steps = data.train.mask
        assert steps is not None
        shares = [((data.train.labels == k) & steps).sum(1) / steps.sum(1) for k in range(2)]  # as the accuracy counts
        assert result.largest_class == pytest.approx(max(float(share.double().mean()) for share in shares))
    outputs = model(data.validation.inputs, lengths=data.validation.lengths)
    mask = data.validation.mask
    assert mask is not None
    if not values:
        right = (outputs.argmax(2) == data.validation.labels) & mask
        assert accuracy == pytest.approx(float((right.sum(1) / mask.sum(1)).double().mean()), rel=1e-6)
    loaded = load(folder.model, SequenceToSequence)
    assert torch.equal(loaded(data.validation.inputs, lengths=data.validation.lengths), outputs)
    assert loaded.classes == (None if values else 2) and loaded.targets == (1 if values else None)
    assert type(load(folder.model, SequenceModel)) is SequenceToSequence


@both
def test_what_does_not_count_changes_no_bit(values: bool) -> None:
    config = TrainConfig(hidden_size=6, epochs=2, batch_size=16)
    trained = []
    for garbage in (0, 10**6):
        model = build(values)
        result = fit(model, make(values, garbage), config)
        trained.append((bits(model), [{**row, "seconds": 0} for row in result.history]))
    assert trained[0] == trained[1]


@both
def test_a_resumed_training_ends_in_the_same_bits(values: bool, tmp_path: Path) -> None:
    data, config = make(values), TrainConfig(hidden_size=6, epochs=3, batch_size=16, learning_rate=0.02)
    whole = build(values)
    fit(whole, data, config)
    stopped, resumed = build(values), build(values)
    interrupt_at(stopped, 6)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, data, config, folder=RunFolder(tmp_path))
    fit(resumed, data, config, folder=RunFolder(tmp_path), resume=True)
    assert bits(resumed) == bits(whole)


@both
def test_seeds_side_by_side_end_where_they_would_alone(values: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "eager")
    data = make(values)
    config = TrainConfig(hidden_size=6, epochs=2, batch_size=16, precision="64-true")
    configs = [dataclasses.replace(config, seed=4 + k) for k in range(2)]
    models = [build(values, one.seed).double() for one in configs]
    outcomes = fit_seeds(models, data, configs)
    for one, model, outcome in zip(configs, models, outcomes, strict=True):
        alone = build(values, one.seed).double()
        result = fit(alone, data, one)
        assert not isinstance(outcome, Exception)
        for name, tensor in alone.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=1e-12)
        assert outcome.history[-1]["validation_loss"] == pytest.approx(result.history[-1]["validation_loss"], abs=1e-12)


def test_weights_count_sequences() -> None:
    data = make(False)
    twice = torch.cat([torch.arange(30), torch.arange(10)])
    weights = torch.ones(30)
    weights[:10] = 2
    assert validate(build(False), dataclasses.replace(data.validation, weights=weights)) == pytest.approx(
        validate(build(False), data.validation.subset(twice)), rel=1e-6
    )


@pytest.mark.parametrize(
    ("model", "values", "wanted"),
    [
        (
            SequenceClassifier(NoisyRNN(1, 4), 2),
            False,
            r"SequenceToSequence\(layer, classes=2\) for data with 2 classes",
        ),
        (SequenceRegressor(NoisyRNN(1, 4)), True, r"SequenceToSequence\(layer, targets=1\) for data with 1 values"),
        (SequenceToSequence(NoisyRNN(1, 4)), False, r"SequenceToSequence\(layer, classes=2\) for data with 2 classes"),
    ],
)
def test_a_model_of_another_kind_is_refused(model: SequenceModel, values: bool, wanted: str) -> None:
    with pytest.raises(TypeError, match=rf"^model must be a {wanted} at every step, got {type(model).__name__}"):
        fit(model, make(values), TrainConfig(epochs=1))


def test_a_model_of_every_step_is_refused_for_one_label_each(dataset: Any) -> None:
    with pytest.raises(TypeError, match=r"^model must be a SequenceClassifier for data with 2 classes, got SequenceTo"):
        fit(SequenceToSequence(NoisyRNN(1, 4), classes=2), dataset, TrainConfig(epochs=1))


def test_targets_are_learnt_in_their_own_unit(tmp_path: Path) -> None:
    """The same training, for targets in another unit: the answers follow it, and the loss does not."""
    found = []
    for unit, offset in ((1.0, 0.0), (1000.0, 5000.0)):
        plain = make(True)
        train, validation = (
            dataclasses.replace(part, labels=part.labels.double() * unit + offset)
            for part in (plain.train, plain.validation)
        )
        data = dataclasses.replace(plain, train=train, validation=validation, read_test=plain.read_test)
        torch.manual_seed(1)
        mean, std = data.target_statistics()
        model = SequenceToSequence(NoisyRNN(1, 6), 1, target_mean=mean, target_std=std).double()
        config = TrainConfig(hidden_size=6, epochs=2, batch_size=16, precision="64-true")
        result = fit(model, data, config)
        save(model, tmp_path / "model.safetensors")
        outputs = load(tmp_path / "model.safetensors", SequenceToSequence)(validation.inputs)
        assert torch.equal(outputs, model(validation.inputs)) and model.float().target_std.dtype == torch.float64
        found.append(((outputs - offset) / unit, result.best_validation_loss))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-9)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-9)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target_mean": torch.zeros(2)}, r"^target_std must be a tensor"),
        (
            {"target_mean": torch.zeros(3), "target_std": torch.ones(2)},
            r"^target_mean must have shape \(2,\), got \(3,",
        ),
        (
            {"target_mean": torch.zeros(2), "target_std": torch.tensor([1.0, 0.0])},
            r"^target_std must be positive, got 0",
        ),
        (
            {"target_mean": torch.zeros(2), "target_std": torch.ones(2), "classes": 2},
            r"^target_mean must be None with loss 'cross_entropy', got a tensor",
        ),
        ({"classes": 1}, r"^classes must be at least 2, got 1\.$"),
    ],
)
def test_bad_options_of_answers_at_every_step(options: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        SequenceToSequence(NoisyRNN(1, 4), 2, **options)
