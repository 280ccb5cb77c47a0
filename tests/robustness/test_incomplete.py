"""Perturbations and evaluation of sequences with missing values, and with steps of unequal length."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split
from noisyrnn.models import GRU, NoisyRNN, SequenceClassifier
from noisyrnn.models.missing import layer_channels
from noisyrnn.robustness import (
    APGD,
    PERTURBATIONS,
    PGD,
    Perturbation,
    Square,
    build_perturbation,
    compare_models,
    confusion_matrix,
    evaluate,
    examples,
)
from noisyrnn.robustness.logits import adapt

NAN = float("nan")
LENGTHS = torch.tensor([7, 4, 9, 1, 9, 6] * 5)


def split(missing: str | None = "hold", *, timed: bool = False, count: int = 30) -> Split:
    generator = torch.Generator().manual_seed(4)
    inputs = 5 + 2 * torch.randn(count, 9, 2, generator=generator, dtype=torch.float64)
    if missing is not None:
        inputs[torch.rand(inputs.shape, generator=generator) < 0.25] = NAN
    dt = 0.2 + 2 * torch.rand(count, 9, generator=generator, dtype=torch.float64) if timed else None
    labels = torch.randint(3, (count,), generator=generator)
    return Split(inputs=inputs, labels=labels, lengths=LENGTHS[:count], dt=dt, missing=missing, classes=3)


def model(missing: str | None = "hold", kind: type = NoisyRNN) -> SequenceClassifier:
    torch.manual_seed(0)
    layer = kind(layer_channels(2, missing), 6).double()
    found = SequenceClassifier(layer, 3, mean=torch.tensor([5.0, 5.0]), std=torch.tensor([2.0, 2.0]), missing=missing)
    with torch.no_grad():
        found.readout.weight.mul_(10)
    return found.double().eval()


def shorter(perturbation: Perturbation) -> Perturbation:
    """The same with fewer calls of the model."""
    if isinstance(perturbation, Square):
        return replace(perturbation, queries=12)
    return replace(perturbation, steps=5) if isinstance(perturbation, PGD | APGD) else perturbation


@pytest.mark.parametrize(("missing", "scaled"), [("mask", True), ("skip", True), ("hold", False)])
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_missing_values_stay_so_and_measured_ones_are_moved(name: str, missing: str, scaled: bool) -> None:
    data, network = split(missing), model(missing)
    units = {"scale": Scale.of(data)} if scaled else {"value_range": (-10.0, 20.0)}
    perturbation = shorter(build_perturbation(name, 0.3, **units))
    inputs, before = data.inputs, data.inputs.clone()
    result = perturbation(
        network, inputs, data.labels, generator=torch.Generator().manual_seed(1), lengths=data.lengths
    )
    padded = torch.arange(9) >= LENGTHS[:, None]
    assert torch.equal(inputs.nan_to_num(99), before.nan_to_num(99))
    assert bool(result[inputs.isnan()].isnan().all())
    assert torch.equal(result[padded], inputs[padded])
    measured = ~inputs.isnan() & ~padded[..., None]
    assert not torch.equal(result[measured], inputs[measured])
    if not name.startswith("missing"):
        assert bool(torch.isfinite(result[measured]).all())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_radius_counts_measured_values_only(norm: str) -> None:
    """In units of each channel's standard deviation, an ℓ2 radius is ϵ√n for n measured values."""
    data, network = split(), model()
    scale = Scale.of(data)
    attack = PGD(0.3, norm=norm, scale=scale)
    result = attack(network, data.inputs, data.labels, generator=torch.Generator().manual_seed(1), lengths=LENGTHS)
    moved = ((result - data.inputs) / torch.tensor(scale.std, dtype=torch.float64)).nan_to_num(0.0)
    if norm == "linf":
        assert float(moved.abs().max()) <= 0.3 * (1 + 1e-9)
        return
    values = (~data.inputs.isnan() & (torch.arange(9) < LENGTHS[:, None])[..., None]).sum(dim=(1, 2))
    norms, radius = moved.flatten(1).norm(dim=1), 0.3 * values.double().sqrt()
    assert bool((norms <= radius * (1 + 1e-9)).all()) and bool((norms > 0.99 * radius).any())


def test_an_attack_moves_the_held_copies_of_a_value_with_it() -> None:
    """Held values are no inputs: the answer to the perturbed sequence is that to the sequence held afterwards."""
    data, network = split("hold"), model("hold")
    attack = PGD(1.0, scale=Scale.of(data))
    before = evaluate(network, data).accuracy
    assert evaluate(network, data, attack, draws=2).accuracy < before


@pytest.mark.parametrize("missing", ["mask", "hold", "skip"])
def test_evaluation_is_that_of_the_model(missing: str) -> None:
    data, network = split(missing, timed=True), model(missing)
    right = network(data.inputs, lengths=data.lengths, dt=data.dt).argmax(dim=1) == data.labels
    found = evaluate(network, data)
    assert found.correct == tuple(right.long().tolist())
    counts = torch.tensor(confusion_matrix(network, data))
    assert int(counts.trace()) == int(right.sum()) and int(counts.sum()) == 30
    without = network(data.inputs, lengths=data.lengths).argmax(dim=1) == data.labels
    assert not torch.equal(right, without), "the lengths of the steps change answers here"


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturbations_and_attacks_call_the_model_with_lengths_of_steps(name: str) -> None:
    """Every call has the dt of its sequences, those of a part of them too."""
    data, network, calls = split(None, timed=True), model(None), []
    known = {tuple(row.tolist()) for row in data.dt} if data.dt is not None else set()

    def spy(inputs: Tensor, lengths: Tensor, dt: Tensor) -> Tensor:
        calls.append(len(inputs))
        assert {tuple(row.tolist()) for row in dt} <= known and len(dt) == len(inputs)
        return network(inputs, lengths=lengths, dt=dt)

    perturbation = shorter(build_perturbation(name, 0.5, scale=Scale.of(data)))
    evaluate(spy, data, perturbation, draws=2)
    assert calls


def test_an_unchanged_sequence_with_missing_values_has_not_moved() -> None:
    data = split()
    still = evaluate(model(), data, build_perturbation("white_noise", 1e-30, scale=Scale.of(data)), draws=1)
    assert not still.moved
    assert evaluate(model(), data, build_perturbation("white_noise", 0.1, scale=Scale.of(data)), draws=1).moved


def test_models_that_know_neither_are_measured_beside_those_that_do() -> None:
    """A plain module gets held values and no dt; one that takes dt gets it."""
    data, seen = split("mask", timed=True), []

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = torch.nn.GRU(2, 3, batch_first=True, dtype=torch.float64)

        def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
            seen.append(bool(inputs.isnan().any()))
            return self.gru(inputs)[0][torch.arange(len(inputs)), lengths - 1]

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        found = compare_models({"ours": model("mask"), "plain": Plain().eval()}, data, draws=1)
    assert set(seen) <= {True, False} and not any(seen[1:])  # `has_gradients` asks once, for gradients only
    assert all(result is not None for result in found.results["plain"].values())


def test_a_model_whose_steps_have_no_length_is_called_without() -> None:
    data, network = split("hold", timed=True), model("hold", GRU)
    right = network(data.inputs, lengths=data.lengths).argmax(dim=1) == data.labels
    assert evaluate(network, data).correct == tuple(right.long().tolist())


def test_adapted_models_work_with_steps_first() -> None:
    data, network = split("hold", timed=True), model(None)
    expected = evaluate(network, data).correct
    network.layer.batch_first = False
    assert evaluate(network, data).correct == expected


def test_a_model_that_needs_nothing_is_left_unchanged() -> None:
    network = model("hold")
    assert adapt(network, dt=None, missing=True) is network
    assert adapt(model(None, GRU), dt=torch.ones(2, 3), missing=False).__class__ is SequenceClassifier


def test_examples_show_the_held_value() -> None:
    data = split("skip")
    noise = build_perturbation("missing_values", 0.3, scale=Scale.of(data))
    records = examples(model("skip"), data, [noise], indices=[0, 2])
    assert len(records) == 4
    for record in records:
        assert all(value == value for step in record["inputs"] for value in step)
    measured = ~data.inputs[2].isnan()
    shown = torch.tensor(records[1]["inputs"], dtype=torch.float64)
    assert torch.allclose(shown[measured], data.inputs[2][measured], atol=1e-4)
