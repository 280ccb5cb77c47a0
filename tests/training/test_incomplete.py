"""Training on steps of unequal length and on missing values."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.missing import hold_last
from noisyrnn.models import SequenceClassifier, build_layer
from noisyrnn.models.missing import layer_channels
from noisyrnn.training import RunFolder, TrainConfig, fit, fit_seeds
from noisyrnn.training.batches import select_sequences, step_noise
from noisyrnn.training.divergence import explain_divergence
from noisyrnn.training.trainer import Trainer
from noisyrnn.training.validation import validate

CONFIG = TrainConfig(
    hidden_size=6, epochs=2, batch_size=8, learning_rate=0.01, precision="64-true", options={"step_size": 0.2}
)
METHODS = ["mask", "hold", "skip"]


def sequences(count: int, seed: int, *, missing: str | None, timed: bool, unequal: bool = True) -> Split:
    """Two classes that differ in the integral of the input over time."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 7, 2, generator=generator, dtype=torch.float64) + 3
    dt = 0.2 + 2 * torch.rand(count, 7, generator=generator, dtype=torch.float64)
    labels = ((inputs[..., 0] - 3) * dt).sum(dim=1) > 0
    lengths = torch.randint(3, 8, (count,), generator=generator) if unequal else None
    if lengths is not None:
        lengths[0] = 7
    if missing is not None:
        inputs[torch.rand(inputs.shape, generator=generator) < 0.3] = torch.nan
        inputs[0], inputs[1, :3] = torch.nan, torch.nan
    return Split(
        inputs=inputs, labels=labels.long(), lengths=lengths, dt=dt if timed else None, missing=missing, classes=2
    )


def dataset(missing: str | None = None, *, timed: bool = True, unequal: bool = True) -> Dataset:
    def refuse() -> Split:
        raise AssertionError("training read the test set")

    parts = [sequences(count, count, missing=missing, timed=timed, unequal=unequal) for count in (20, 10)]
    return Dataset(
        name="own",
        train=parts[0],
        validation=parts[1],
        read_test=refuse,
        class_names=("low", "high"),
        value_range=None,
        standardize=True,
    )


def build(config: TrainConfig, data: Dataset) -> SequenceClassifier:
    torch.manual_seed(config.seed)
    layer = build_layer(config.model, layer_channels(2, data.missing), config.hidden_size, config.options)
    mean, std = data.statistics()
    return SequenceClassifier(layer, 2, mean=mean, std=std, missing=data.missing).double()


def test_a_step_of_training_is_that_of_a_loop_with_dt() -> None:
    data, config = dataset(), replace(CONFIG, epochs=1, batch_size=20)
    trained, own = build(config, data), build(config, data)
    fit(trained, data, config)
    optimizer = torch.optim.Adam(own.parameters(), lr=config.learning_rate)
    order = next(Trainer(build(config, data), data, config).batches(20)).rows
    split, path = data.train, step_noise(config, 0)
    assert split.dt is not None and split.lengths is not None
    own.train()
    logits = own(split.inputs[order], lengths=split.lengths[order], dt=split.dt[order], path=path)
    torch.nn.functional.cross_entropy(logits, split.labels[order]).backward()
    optimizer.step()
    for one, other in zip(trained.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_lengths_of_steps_decide_an_answer_that_depends_on_them() -> None:
    """The classes differ in an integral, whose steps without lengths are known in part only (see the tutorial)."""
    config = TrainConfig(hidden_size=16, epochs=20, batch_size=50, learning_rate=0.01, options={"step_size": 0.1})
    parts = []
    for seed, count in ((1, 600), (2, 400)):
        generator = torch.Generator().manual_seed(seed)
        dt = torch.empty(count, 15, dtype=torch.float64).exponential_(1.0, generator=generator)
        inputs = torch.randn(count, 15, 1, generator=generator, dtype=torch.float64)
        labels = ((inputs[..., 0] * dt).sum(dim=1) > 0).long()
        parts.append(Split(inputs=inputs, labels=labels, dt=dt, classes=2))
    found = []
    for known in (True, False):
        train, validation = (part if known else replace(part, dt=None) for part in parts)
        data = replace(dataset(), train=train, validation=validation, standardize=False)
        torch.manual_seed(0)
        model = SequenceClassifier(build_layer("noisy", 1, 16, config.options), 2)
        found.append(fit(model, data, config).best_validation_accuracy)
    # About 0.93 and 0.74; at best 0.75 without the lengths: the correlation of the two sums is 1/√2.
    assert found[0] > 0.87 and found[1] < 0.80, found


@pytest.mark.parametrize("missing", [None, *METHODS])
@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("kernel", ["reference", "eager"])
def test_seeds_side_by_side_end_where_single_runs_do(
    missing: str | None, unequal: bool, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", kernel)
    data = dataset(missing, unequal=unequal)
    configs = [replace(CONFIG, seed=4 + k) for k in range(3)]
    alone, together = ([build(config, data) for config in configs] for _ in range(2))
    expected = [fit(model, data, config) for model, config in zip(alone, configs, strict=True)]
    outcomes = fit_seeds(together, data, configs)
    for one, other, result, outcome in zip(alone, together, expected, outcomes, strict=True):
        assert outcome.best_validation_loss == pytest.approx(result.best_validation_loss, abs=1e-9)  # type: ignore[union-attr]
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-9)


def test_validation_uses_the_lengths_of_steps() -> None:
    data = dataset("skip")
    model = build(CONFIG, data).eval()
    split = data.validation
    outputs = model(split.inputs, lengths=split.lengths, dt=split.dt)
    loss, accuracy = validate(model, split)
    assert loss == pytest.approx(float(model.losses(outputs, split.labels).mean()), abs=1e-6)
    assert accuracy == pytest.approx(float(model.correct(outputs, split.labels).double().mean()))
    plain = replace(split, dt=None)
    assert validate(model, plain)[0] != pytest.approx(loss, abs=1e-4)


def test_sequences_of_any_shape_of_rows_have_their_lengths_of_steps() -> None:
    split = dataset().train
    assert split.dt is not None and split.lengths is not None
    rows = split.lengths.argsort()[:4].reshape(2, 2)
    inputs, _, lengths, _, dt = select_sequences(split, rows)
    assert lengths is not None and dt is not None
    assert torch.equal(dt, split.dt[rows][..., : int(lengths.max())]) and dt.shape == inputs.shape[:3]


@pytest.mark.parametrize("missing", METHODS)
@pytest.mark.parametrize("adversarial", [None, "pgd_l2"])
def test_a_run_with_noise_and_attacks_on_its_inputs_resumes_in_the_same_bits(
    missing: str, adversarial: str | None, tmp_path: object
) -> None:
    data = dataset(missing)
    config = replace(CONFIG, input_noise=0.2, adversarial=adversarial, adversarial_radius=0.1, adversarial_steps=2)
    whole = build(config, data)
    result = fit(whole, data, config)
    folder, steps = RunFolder(tmp_path), []  # type: ignore[arg-type]

    def stop(row: object) -> None:
        steps.append(row)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(build(config, data), data, config, folder=folder, checkpoint_seconds=0.0, on_epoch=stop)
    resumed = build(config, data)
    again = fit(resumed, data, config, folder=folder, resume=True)
    assert len(steps) == 1 and again.best_validation_loss == result.best_validation_loss
    assert all(math.isfinite(row["train_loss"]) for row in result.history)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_training_on_held_values_is_training_with_hold() -> None:
    data = dataset("hold")
    held = replace(data, **{name: _held(getattr(data, name), data) for name in ("train", "validation")})
    model = build(CONFIG, data)
    plain = SequenceClassifier(build_layer("noisy", 2, 6, CONFIG.options), 2, mean=model.mean, std=model.std).double()
    plain.load_state_dict(model.state_dict())
    fit(model, data, CONFIG)
    fit(plain, held, CONFIG)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def _held(split: Split, data: Dataset) -> Split:
    mean, _ = data.statistics()
    values = hold_last(split.inputs, mean)
    return replace(split, inputs=torch.where(split.valid()[..., None], values, 0.0), missing=None)


@pytest.mark.parametrize("kind", ["missing_values", "missing_blocks"])
@pytest.mark.parametrize("missing", [None, "mask"])
def test_values_go_missing_in_training(kind: str, missing: str | None) -> None:
    """A model without a setting trains on held values, and one with it on missing ones."""
    data = dataset(missing, timed=False)
    config = replace(CONFIG, input_noise=0.5, input_noise_kind=kind)
    trainer = Trainer(build(config, data), data, config)
    changed = trainer.perturb(data.train.inputs, data.train.labels, data.train.lengths)
    before = data.train.inputs.isnan()
    assert bool((changed.isnan() & ~before).any()) is (missing is not None)
    assert not torch.equal(changed.nan_to_num(0), data.train.inputs.nan_to_num(0))
    assert len(fit(build(config, data), data, config).history) == 2
    with pytest.raises(ValueError, match=r"^input_noise must be at most 1, got 1\.5"):
        replace(config, input_noise=1.5)


def test_a_model_without_lengths_of_steps_says_so_and_trains_without() -> None:
    data, config = dataset(), replace(CONFIG, model="gru", options={})
    model = build(config, data)
    message = r"^GRU takes all steps as equally long: .* have no length\. The times of the data are not used\.$"
    with pytest.warns(UserWarning, match=message):
        fit(model, data, config)
    plain = build(config, data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(plain, dataset(timed=False), config)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_objective_gets_the_lengths_of_steps_or_is_refused() -> None:
    data, seen = dataset(), []

    def timed(model, inputs, labels, lengths, path, dt=None):  # type: ignore[no-untyped-def]
        seen.append(dt.shape == inputs.shape[:2])
        outputs = model(inputs, lengths=lengths, dt=dt, path=path)
        return model.losses(outputs, labels), outputs

    def plain(model, inputs, labels, lengths, path):  # type: ignore[no-untyped-def]
        outputs = model(inputs, lengths=lengths, path=path)
        return model.losses(outputs, labels), outputs

    own, usual = build(CONFIG, data), build(CONFIG, data)
    fit(own, data, CONFIG, objective=timed)
    fit(usual, data, CONFIG)
    assert seen and all(seen)
    for one, other in zip(own.parameters(), usual.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match=r"^objective must take dt for data whose steps have lengths"):
        fit(build(CONFIG, data), data, CONFIG, objective=plain)
    without = dataset(timed=False)
    fit(build(CONFIG, without), without, CONFIG, objective=plain)


def test_a_model_with_another_setting_is_refused() -> None:
    data = dataset("hold")
    model = build(CONFIG, dataset(None))
    with pytest.raises(ValueError, match=r"^model must have missing='hold', as the data set has, got None\."):
        fit(model, data, CONFIG)


def test_skipping_needs_lengths_of_steps_before_training_begins() -> None:
    message = r"^missing must be 'mask' or 'hold' for model 'gru', whose steps have no length, got 'skip'\."
    with pytest.raises(ValueError, match=message):
        TrainConfig(model="gru", missing="skip")
    assert TrainConfig(missing="skip").identity()["missing"] == "skip"
    assert "missing" not in TrainConfig().identity()


def test_a_divergence_is_explained_with_lengths_of_steps_and_missing_values() -> None:
    data = dataset("skip")
    model = build(CONFIG, data)
    split: Tensor = data.train.inputs
    text = explain_divergence(
        model, split, data.train.lengths, data.train.dt, step_noise(CONFIG, 0), 1, 1, math.nan, 1.0
    )
    assert text.startswith("loss became nan at training step 1")


@pytest.mark.parametrize("adversarial", ["fgsm", "pgd_l2"])
def test_an_attack_in_training_sees_the_lengths_of_steps(adversarial: str) -> None:
    data, seen = dataset("mask"), []
    trainer = Trainer(build(CONFIG, data), data, replace(CONFIG, adversarial=adversarial, adversarial_steps=2))
    trainer.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs.get("dt")), with_kwargs=True)
    split = data.train
    trainer.perturb(split.inputs, split.labels, split.lengths, split.dt)
    assert seen and all(dt is split.dt for dt in seen)
