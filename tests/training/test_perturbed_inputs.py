"""What training does to its inputs: the noise it says, the same at every resumption and split, and real attacks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from noisyrnn.data import dataset_from_splits
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.models import SequenceClassifier, build_layer
from noisyrnn.noise.brownian import derive_seed
from noisyrnn.robustness import MultiplicativeNoise, PathDraws, SaltAndPepper, WhiteNoise
from noisyrnn.training import TrainConfig, fit, fit_seeds
from noisyrnn.training.batches import epoch_batches
from noisyrnn.training.divergence import DivergenceError
from noisyrnn.training.perturbed_inputs import PerturbedInputs, selection_inputs
from noisyrnn.training.trainer import Trainer

Build = Callable[[TrainConfig], SequenceClassifier]
Waves = Callable[..., Split]
PLACE = (5, 0)


def change(
    config: TrainConfig, dataset: Dataset, inputs: Tensor, place: tuple[int, int] = PLACE, **options: Any
) -> Tensor:
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    perturbed = PerturbedInputs(config, dataset)
    return perturbed(torch.nn.Identity(), inputs, labels, options.pop("lengths", None), place=place, **options)


def unscaled(dataset: Dataset) -> Dataset:
    """The same without a range of values: strengths are in standard deviations."""
    return dataclasses.replace(dataset, value_range=None)


def test_draws_depend_on_seed_number_and_row_alone() -> None:
    inputs = torch.empty(7, 5, 3)
    draws, again, part = PathDraws(3), PathDraws(3), PathDraws(3, first_row=2)
    first, second, third = draws.normal(inputs), draws.uniform(inputs), draws.normal(inputs)
    assert torch.equal(again.normal(inputs), first)
    assert torch.equal(part.normal(inputs[2:]), first[2:]) and torch.equal(part.uniform(inputs[2:]), second[2:])
    assert first.shape == inputs.shape and not torch.equal(first, third)
    assert not torch.equal(PathDraws(4).normal(inputs), first)
    assert PathDraws(3).normal(inputs.double()).dtype == torch.float64


@pytest.mark.parametrize(("name", "mean", "variance"), [("normal", 0.0, 1.0), ("uniform", 0.5, 1 / 12)])
def test_draws_have_their_law(name: str, mean: float, variance: float) -> None:
    values = getattr(PathDraws(1), name)(torch.empty(200, 100, 2)).flatten()
    count = len(values)
    assert abs(float(values.mean()) - mean) < 4 * (variance / count) ** 0.5
    assert float(values.var()) == pytest.approx(variance, rel=4 * (2 / count) ** 0.5)


@pytest.mark.parametrize("kind", [WhiteNoise, MultiplicativeNoise, SaltAndPepper])
def test_a_noise_has_the_strength_of_each_sequence(kind: Callable[[float], Any]) -> None:
    inputs = torch.rand(3, 40, 2) + 2
    labels = torch.zeros(3, dtype=torch.int64)
    strengths = torch.tensor([0.0, 0.1, 0.4])
    mixed = kind(0.9).with_strengths(inputs, strengths, generator=PathDraws(1))
    assert torch.equal(mixed[0], inputs[0]) and not torch.equal(mixed[1], inputs[1])
    for row, strength in enumerate(strengths.tolist()):
        alone = kind(strength)(None, inputs, labels, generator=PathDraws(1))
        torch.testing.assert_close(mixed[row], alone[row])


def test_white_noise_is_in_the_units_of_evaluation(dataset: Dataset) -> None:
    inputs = torch.full((200, 300, 1), 0.5)
    config = TrainConfig(input_noise=0.2)
    assert float((change(config, dataset, inputs) - inputs).std()) == pytest.approx(0.2, rel=0.02)
    in_units = float((change(config, unscaled(dataset), inputs) - inputs).std())
    assert in_units == pytest.approx(0.2 * float(dataset.train.inputs.std()), rel=0.03)


def test_salt_and_pepper_takes_the_ends_of_the_range(dataset: Dataset) -> None:
    inputs = torch.zeros(100, 300, 1)
    changed = change(TrainConfig(input_noise=0.3, input_noise_kind="salt_and_pepper"), dataset, inputs)
    assert set(changed.unique().tolist()) == {-1.5, 0.0, 1.5}
    assert float((changed != 0).float().mean()) == pytest.approx(0.3, abs=0.01)


def test_a_range_gives_each_sequence_a_strength_of_its_own(dataset: Dataset) -> None:
    inputs = torch.zeros(400, 500, 1)
    config = TrainConfig(input_noise=(0.1, 0.5))
    spread = (change(config, dataset, inputs)).std(dim=(1, 2))
    assert float(spread.min()) > 0.09 and float(spread.max()) < 0.56
    assert float(spread.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(spread.var()) == pytest.approx(0.4**2 / 12, rel=0.15)
    level = change(TrainConfig(input_noise=0.3), dataset, inputs)
    fixed = change(TrainConfig(input_noise=(0.3, 0.3)), dataset, inputs)
    assert torch.equal(level, fixed)


def test_padding_stays_and_a_factor_scales(dataset: Dataset) -> None:
    inputs, lengths = torch.zeros(3, 10, 1), torch.tensor([10, 4, 1])
    config = TrainConfig(input_noise=0.2)
    changed = change(config, dataset, inputs, lengths=lengths)
    valid = torch.arange(10) < lengths[:, None]
    assert bool((changed[..., 0][valid] != 0).all()) and not bool(changed[..., 0][~valid].any())
    half = change(config, dataset, inputs, lengths=lengths, noise_factor=0.5)
    torch.testing.assert_close(half, changed / 2)


@pytest.mark.parametrize("settings", [{"input_noise": (0.0, 0.4)}, {"adversarial": "pgd_l2"}])
def test_rows_steps_and_seeds_decide(
    settings: dict[str, Any], dataset: Dataset, config: TrainConfig, build: Build
) -> None:
    config = dataclasses.replace(config, adversarial_steps=2, **settings)
    inputs, labels, model = dataset.train.inputs[:8], dataset.train.labels[:8], build(config)

    def made(rows: slice, place: tuple[int, int], seed: int = 1) -> Tensor:
        perturbed = PerturbedInputs(dataclasses.replace(config, seed=seed), dataset)
        return perturbed(model, inputs[rows], labels[rows], None, place=place)

    whole = made(slice(None), PLACE)
    torch.testing.assert_close(made(slice(3, 8), (5, 3)), whole[3:])
    assert torch.equal(made(slice(None), PLACE), whole)
    assert not torch.equal(made(slice(None), (6, 0)), whole)
    assert not torch.equal(made(slice(None), PLACE, seed=2), whole)


@pytest.mark.parametrize(("attack", "norm"), [("fgsm", torch.inf), ("pgd_linf", torch.inf), ("pgd_l2", 2)])
@pytest.mark.parametrize("freeze", [True, False])
def test_an_attack_stays_within_its_radius_and_raises_the_loss(
    attack: str, norm: float, freeze: bool, dataset: Dataset, config: TrainConfig, build: Build
) -> None:
    config = dataclasses.replace(config, adversarial=attack, adversarial_radius=0.3, adversarial_steps=3)
    model = build(config).train()
    inputs, labels = dataset.train.inputs, dataset.train.labels
    model.readout.bias.requires_grad_(False)
    wanted = [p.requires_grad for p in model.parameters()]
    changed = PerturbedInputs(config, dataset)(model, inputs, labels, None, place=PLACE, freeze=freeze)
    sizes = torch.linalg.vector_norm((changed - inputs).flatten(1), ord=norm, dim=1)
    assert float(sizes.max()) < 0.3 * 1.0001 and float(sizes.max()) > 0.15
    model.eval()
    with torch.no_grad():
        before, after = (functional.cross_entropy(model(x), labels, reduction="none") for x in (inputs, changed))
    assert bool((after > before).all())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())


def test_an_attack_leaves_the_mode_as_it_is(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    config = dataclasses.replace(config, adversarial="fgsm")
    for training in (True, False):
        model = build(config).train(training)
        PerturbedInputs(config, dataset)(model, dataset.train.inputs, dataset.train.labels, None, place=PLACE)
        assert model.training is training and all(p.requires_grad for p in model.parameters())


def test_training_sees_these_inputs(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    config = dataclasses.replace(config, epochs=2, input_noise=0.2, noise_schedule="annealed", decay_epochs=(1,))
    seen = []

    def objective(
        model: SequenceClassifier, inputs: Tensor, labels: Tensor, lengths: Tensor | None, path: Any
    ) -> tuple[Tensor, Tensor]:
        seen.append((inputs, model.layer.noise_scale))
        outputs = model(inputs, path=path)
        return model.losses(outputs, labels), outputs

    model = build(config)
    fit(model, dataset, config, objective=objective)
    assert len(seen) == 6 and model.layer.noise_scale == 1.0
    step = 0
    for epoch, factor in ((1, 1.0), (2, 0.1)):
        for part in epoch_batches(config, 40, epoch):
            inputs = dataset.train.inputs[part.rows]
            expected = change(config, dataset, inputs, (step, 0), noise_factor=factor)
            torch.testing.assert_close(seen[step][0], expected)
            assert seen[step][1] == pytest.approx(factor)
            step += 1


def test_noise_of_a_schedule_is_the_models_own_times_the_rate(
    dataset: Dataset, config: TrainConfig, build: Build
) -> None:
    config = dataclasses.replace(config, noise_schedule="annealed", decay_epochs=(1, 2), decay_factor=0.5)
    model = build(config)
    model.layer.noise_scale = 3.0
    trainer = Trainer(model, dataset, config)
    for epoch, scale in ((1, 3.0), (2, 1.5), (3, 0.75)):
        trainer.progress.epoch = epoch
        with trainer.noise_of_epoch():
            assert trainer.model.layer.noise_scale == scale
        assert trainer.model.layer.noise_scale == 3.0


def test_selection_inputs_are_white_noise_that_all_share(dataset: Dataset) -> None:
    splits, again = (selection_inputs(dataset.validation, dataset) for _ in range(2))
    moved = [split.inputs - dataset.validation.inputs for split in splits]
    for change_, strength in zip(moved, (0.3, 0.6, 0.9), strict=True):  # 0.1 to 0.3 of the width of the range
        assert float(change_.std()) == pytest.approx(strength, rel=0.15)
    assert all(torch.equal(one.inputs, other.inputs) for one, other in zip(splits, again, strict=True))
    seed = derive_seed("selection", 0)
    assert torch.allclose(moved[0], 0.3 * PathDraws(seed).normal(dataset.validation.inputs), atol=1e-6)


def test_an_attack_on_a_model_that_diverges_ends_that_run_alone(
    dataset: Dataset, config: TrainConfig, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "eager")
    config = dataclasses.replace(config, epochs=1, adversarial="fgsm")
    configs = [dataclasses.replace(config, seed=seed) for seed in (1, 2, 3)]
    models = [build(each) for each in configs]
    alone = [build(each) for each in configs]
    for broken in (models[1], alone[1]):
        with torch.no_grad():
            broken.readout.weight.fill_(torch.inf)
    ends = fit_seeds(models, dataset, configs)
    assert isinstance(ends[1], DivergenceError) and "the attack on the inputs of step 1" in str(ends[1])
    with pytest.raises(DivergenceError, match="the attack on the inputs of step 1 \\(epoch 1\\) failed: logits became"):
        fit(alone[1], dataset, configs[1])
    for k in (0, 2):
        fit(alone[k], dataset, configs[k])
        for one, other in zip(models[k].parameters(), alone[k].parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"adversarial": "fgsm"}, {"select": "perturbed"}])
def test_noise_that_stays_on_is_repeated(
    settings: dict[str, Any], dataset: Dataset, config: TrainConfig, build: Build
) -> None:
    histories = []
    for seed in (1, 2):
        model = build(config)
        model.layer.noise_mode = "on"
        torch.manual_seed(seed)  # of which nothing depends
        history = fit(model, dataset, dataclasses.replace(config, **settings)).history
        histories.append([{name: value for name, value in row.items() if name != "seconds"} for row in history])
        assert model.layer.noise_mode == "on"
    assert histories[0] == histories[1]


def test_a_loss_that_only_perturbed_sequences_lose_is_told() -> None:
    split = Split(inputs=torch.zeros(60, 50, 1), labels=torch.arange(60) % 2, classes=2)
    data = dataset_from_splits(split, split, split, value_range=(0.0, 1.0), standardize=False)
    torch.manual_seed(0)
    options = {"additive": 0.0, "multiplicative": 0.0, "activation": "identity", "step_size": 1.0, "init_std": 500.0}
    layer = build_layer("noisy", 1, 8, {**options, "bias": False}).requires_grad_(False)
    config = TrainConfig(epochs=2, hidden_size=8, select="perturbed")
    with pytest.raises(DivergenceError, match=r"^validation loss of perturbed sequences is not finite after epoch 1"):
        fit(SequenceClassifier(layer, 2), data, config)
