"""The training loop: what it optimises, what it writes, how it stops and goes on."""

import dataclasses
import io
import math
import os
import random
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.defaults import defaults
from tests.interrupts import interrupt_at
from tests.processor import needs_bf16
from torch import Tensor, nn
from torch.nn import functional

from noisyrnn.data.base import Dataset, Split
from noisyrnn.models import NoisyRNN, SequenceClassifier, build_layer
from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.training import FitResult, RunFolder, TrainConfig, fit, fit_seeds, load
from noisyrnn.training import fit as fit_function
from noisyrnn.training.checkpoint import Checkpoint, Progress, _sealed
from noisyrnn.training.trainer import epoch_batches, is_better, select_sequences, validate

Build = Callable[[TrainConfig], SequenceClassifier]


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def test_it_learns_and_keeps_the_best_epoch(dataset: Dataset, folder: RunFolder, build: Build) -> None:
    config = TrainConfig(hidden_size=12, epochs=30, batch_size=8, learning_rate=0.02, options={"step_size": 0.3})
    model = build(config)
    result = fit(model, dataset, config, folder=folder)
    assert result.best_validation_accuracy > 0.9
    best = max(row["validation_accuracy"] for row in result.history)
    assert result.best_validation_accuracy == best
    assert result.history[result.best_epoch - 1]["validation_accuracy"] == best
    assert validate(load(folder.model), dataset.validation)[1] == best
    assert result.validation_sequences == len(dataset.validation)
    assert result.not_fitted is None
    assert not model.training


def test_the_folder_keeps_the_weights_of_the_best_and_of_the_last_epoch(
    dataset: Dataset, folder: RunFolder, build: Build
) -> None:
    config = TrainConfig(hidden_size=12, epochs=8, batch_size=8, learning_rate=0.005)
    model = build(config)

    def turn(row: Mapping[str, float]) -> None:
        if row["epoch"] == 7:
            with torch.no_grad():
                model.readout.weight.neg_()

    result = fit(model, dataset, config, folder=folder, on_epoch=turn)
    assert result.best_epoch < 8  # else the two are the same
    best, last = load(folder.model), load(folder.last_model)
    checkpoint = torch.load(folder.checkpoint, weights_only=True)
    for name, value in last.state_dict().items():
        assert torch.equal(value, checkpoint["model"][name])
        assert torch.equal(best.state_dict()[name], checkpoint["best"][name])
    assert not all(torch.equal(one, other) for one, other in zip(weights(best), weights(last), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(weights(best), weights(model), strict=True))


@pytest.mark.parametrize(("accuracy", "fitted"), [(0.74, False), (0.76, True)])
def test_a_model_that_did_not_learn_is_noted(accuracy: float, fitted: bool) -> None:
    result = FitResult([{"train_accuracy": accuracy}], 1, 1.0, 2.0, validation_sequences=5, largest_class=0.5)
    assert (result.not_fitted is None) is fitted  # halfway between 50 and 100 %
    if not fitted:
        assert str(result.not_fitted).startswith("not fitted: the training accuracy is 74.0 % in the last epoch")
    regression = FitResult([{"train_loss": 1.0}], 1, math.nan, 2.0, validation_sequences=5, largest_class=math.nan)
    assert regression.not_fitted is None


def test_a_result_is_shown_without_its_history() -> None:
    good = FitResult([{"train_accuracy": 1.0}] * 9, 7, 0.75, 2.0, 8, 0.5, best_validation_loss=0.25)
    text = "epochs: 9; best epoch: 7; validation accuracy: 75.0 % of 8 sequences; validation loss: 0.25; seconds: 2.0"
    assert repr(good) == f"FitResult({text})"
    assert "<th>best epoch</th><td>7</td>" in good._repr_html_()
    bad = FitResult([{"train_accuracy": 0.5}], 1, 0.5, 2.0, 8, 0.5)
    assert repr(bad).splitlines()[1] == bad.not_fitted
    assert f"<p>{bad.not_fitted}</p>" in bad._repr_html_()
    regression = FitResult([{"train_loss": 1.0}], 1, math.nan, 2.0, 8, math.nan, best_validation_loss=0.5)
    assert "accuracy" not in repr(regression)


@pytest.mark.parametrize("fit_models", [fit, fit_seeds])
def test_progress_is_true_false_or_none(fit_models: Any, dataset: Dataset, config: TrainConfig, build: Build) -> None:
    both = (build(config), config) if fit_models is fit else ([build(config)], [config])
    with pytest.raises(TypeError, match=r"^show_progress must"):
        fit_models(both[0], dataset, both[1], show_progress="yes")


def test_a_learning_rate_of_almost_zero_is_noted_as_not_fitted(dataset: Dataset, build: Build) -> None:
    config = TrainConfig(hidden_size=12, epochs=1, batch_size=8, learning_rate=1e-9, options={"step_size": 0.3})
    result = fit(build(config), dataset, config)
    largest = torch.bincount(dataset.train.labels).max() / len(dataset.train)
    assert result.largest_class == pytest.approx(float(largest), rel=1e-6)
    assert f"the largest class has {100 * largest:.1f} %" in str(result.not_fitted)


def test_one_epoch_equals_a_written_out_loop(dataset: Dataset, build: Build) -> None:
    config = TrainConfig(
        hidden_size=5, epochs=1, batch_size=16, learning_rate=0.01, clip_norm=0.5, options={"step_size": 0.2}
    )
    model, twin = build(config), build(config)
    fit(model, dataset, config)
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", 1) % 2**63)
    order = torch.randperm(40, generator=generator)
    for step, rows in enumerate(order.split(16)):
        path = BrownianPath(seed=derive_seed(config.seed, "noise", step))
        optimizer.zero_grad()
        loss = functional.cross_entropy(twin(dataset.train.inputs[rows], path=path), dataset.train.labels[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
    for ours, theirs in zip(weights(model), weights(twin), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)  # float32 sums in another order


def test_same_seed_same_bits_and_another_seed_others(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    ends = []
    for seed in (1, 1, 2):
        changed = dataclasses.replace(config, seed=seed)
        model = build(changed)
        torch.manual_seed(seed + 100)  # the global state must not matter
        fit(model, dataset, changed)
        ends.append(torch.cat([w.flatten() for w in weights(model)]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_noise_differs_between_steps_and_is_on(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    quiet = dataclasses.replace(config, options={**config.options, "additive": 0.0, "multiplicative": 0.0})
    model, silent = build(config), build(quiet)
    fit(model, dataset, config)
    fit(silent, dataset, quiet)
    assert not torch.equal(weights(model)[0], weights(silent)[0])


def last_state(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Weights after the last step, and what the optimiser remembers: more than the best epoch shows."""
    content = torch.load(folder.checkpoint, weights_only=True)
    moments = content["optimizer"]["state"]
    return content["model"] | {f"{k}.{name}": value for k, entry in moments.items() for name, value in entry.items()}


def test_resumed_run_ends_in_the_same_bits(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build, tmp_path: Path
) -> None:
    whole = build(config)
    (tmp_path / "whole").mkdir()
    fit(whole, dataset, config, folder=RunFolder(tmp_path / "whole"))
    expected = last_state(RunFolder(tmp_path / "whole"))
    for stop_after in (2, 5):  # in the middle of the first and the second epoch, of three batches each
        folder.checkpoint.unlink(missing_ok=True)
        first = build(config)
        calls = 0

        def interrupt(module: torch.nn.Module, inputs: object, calls_before: int = stop_after) -> None:
            nonlocal calls
            calls += module.training
            if calls == calls_before and module.training:
                os.kill(os.getpid(), signal.SIGINT)

        hook = first.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(first, dataset, config, folder=folder)
        hook.remove()
        second = build(dataclasses.replace(config, seed=9))  # its weights must come from the checkpoint
        result = fit(second, dataset, config, folder=folder, resume=True)
        assert len(result.history) == 3
        for ours, theirs in zip(weights(second), weights(whole), strict=True):
            assert torch.equal(ours, theirs)
        found = last_state(folder)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_resumed_history_equals_the_whole_one(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    whole = fit(build(config), dataset, config).history
    model = build(config)
    interrupt_at(model, 5, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        fit(model, dataset, config, folder=folder)
    again = fit(build(config), dataset, config, folder=folder, resume=True).history
    for one, other in zip(whole, again, strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


@pytest.mark.parametrize("batch_seeds", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_loss_in_float64_does_not_depend_on_the_default_dtype(
    dataset: Dataset,
    config: TrainConfig,
    build: Build,
    batch_seeds: bool,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "eager")  # else float64 runs on the reference, one run after another
    config = dataclasses.replace(config, precision="64-true", batch_size=12)  # its inverse is rounded
    configs = [config, dataclasses.replace(config, seed=2)] if batch_seeds else [config]

    def trained() -> list[dict[str, Tensor]]:
        if batch_seeds:
            fit_seeds(models, dataset, configs)
        else:
            fit(models[0], dataset, config)
        return [model.state_dict() for model in models]

    models = [build(one) for one in configs]
    plain = trained()
    models = [build(one) for one in configs]
    with defaults(dtype):
        other = trained()
    for found, expected in zip(other, plain, strict=True):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert plain[0]["readout.weight"].dtype == torch.float64


def test_checkpoint_of_other_settings_is_refused(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    fit(build(config), dataset, config, folder=folder)
    other = dataclasses.replace(config, learning_rate=0.5)
    with pytest.raises(ValueError, match=r"learning_rate must be 0\.01 to resume .*, got 0\.5\."):
        fit(build(other), dataset, other, folder=folder, resume=True)


@pytest.mark.parametrize("start", [200, 0], ids=["cut short", "something else"])
def test_damaged_checkpoint_is_named(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build, start: int
) -> None:
    fit(build(config), dataset, config, folder=folder)
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:start] or b"broken")
    with pytest.raises(
        ValueError, match=r"checkpoint must be whole and of this version, got .*checkpoint\.pt, which is damaged"
    ):
        fit(build(config), dataset, config, folder=folder, resume=True)


def test_checkpoint_of_another_format_is_refused(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    fit(build(config), dataset, config, folder=folder)
    content = io.BytesIO()
    torch.save({"format": 7}, content)
    folder.checkpoint.write_bytes(_sealed(content.getvalue()))
    with pytest.raises(ValueError, match=r"checkpoint must be of format \d, got 7 in .*checkpoint\.pt"):
        fit(build(config), dataset, config, folder=folder, resume=True)
    torch.save([1, 2], folder.checkpoint)
    with pytest.raises(
        ValueError, match=r"checkpoint must be whole and of this version, got .*checkpoint\.pt, which is damaged"
    ):
        fit(build(config), dataset, config, folder=folder, resume=True)


def test_a_model_that_does_not_fit_the_data(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    five = SequenceClassifier(build_layer("gru", 1, 3, {}), 5)
    with pytest.raises(ValueError, match=r"model must have classes 2, that of the data set, got 5\."):
        fit(five, dataset, config)
    wide = SequenceClassifier(build_layer("gru", 4, 3, {}), 2)
    with pytest.raises(ValueError, match=r"model must have input_size 1, that of the data set, got 4\."):
        fit(wide, dataset, config)
    with pytest.raises(ValueError, match=r"checkpoint_seconds must be at least 0, got -2\."):
        fit(build(config), dataset, config, checkpoint_seconds=-2)


def test_a_request_to_stop_in_the_last_step_is_honoured(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    model = build(config)
    interrupt_at(model, 9)
    with pytest.raises(KeyboardInterrupt):
        fit(model, dataset, config, folder=folder)
    assert torch.load(folder.checkpoint, weights_only=True)["progress"]["epoch"] == 4


def test_hidden_state_that_blows_up_is_explained(dataset: Dataset, folder: RunFolder, build: Build) -> None:
    config = TrainConfig(
        hidden_size=6, epochs=2, batch_size=16, options={"step_size": 1e30, "learn_step": False, "damping": 1.0}
    )
    with pytest.raises(
        RuntimeError,
        match=r"hidden state became non-finite at step \d+ of 12 at training step 1 \(epoch 1\); its norm one step "
        r"earlier was \S+ \(step_size 1e\+30, additive 0\.05, multiplicative 0\.02\)\. Lower step_size",
    ):
        fit(build(config), dataset, config, folder=folder)


def test_loss_that_blows_up_spares_what_was_saved(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    model = build(config)
    saved: list[bytes] = []

    def spoil(module: torch.nn.Module, inputs: object) -> None:
        if folder.checkpoint.exists() and module.training:
            if len(saved) == 1:
                with torch.no_grad():
                    model.readout.weight.mul_(math.inf)
            saved.append(folder.checkpoint.read_bytes())

    model.register_forward_pre_hook(spoil)
    with pytest.raises(RuntimeError, match=r"loss became \S+ at training step 3 \(epoch 1\).*Lower learning_rate"):
        fit(model, dataset, config, folder=folder, checkpoint_seconds=0)
    assert folder.checkpoint.read_bytes() == saved[-1]
    assert torch.isfinite(torch.load(folder.checkpoint, weights_only=True)["model"]["readout.weight"]).all()


def test_patience_stops_early(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    patient = dataclasses.replace(config, epochs=50, patience=2, learning_rate=1e-12)
    result = fit(build(patient), dataset, patient)
    assert len(result.history) == result.best_epoch + 2 < 50


def test_learning_rate_decays_after_the_named_epochs(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    decayed = dataclasses.replace(config, epochs=4, decay_epochs=(1, 3), decay_factor=0.5)
    history = fit(build(decayed), dataset, decayed).history
    assert [row["learning_rate"] for row in history] == [0.01, 0.005, 0.005, 0.0025]


def test_the_optimiser_moves_at_the_decayed_rate(
    dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    states = []
    for epochs in (1, 2):
        stopped = dataclasses.replace(config, epochs=epochs, decay_epochs=(1,), decay_factor=1e-30)
        fit(build(stopped), dataset, stopped, folder=folder)
        states.append(torch.load(folder.checkpoint, weights_only=True)["model"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_batches_of_all_processes_make_up_the_whole(config: TrainConfig) -> None:
    alone = list(epoch_batches(config, 37, 1))
    parts = [list(epoch_batches(config, 37, 1, rank=rank, world=3)) for rank in range(3)]
    for number, batch in enumerate(alone):
        pieces = [part[number] for part in parts]
        assert torch.equal(torch.cat([p.rows for p in pieces if p.share]), batch.rows)
        assert [p.first_row for p in pieces] == [len(batch.rows) * r // 3 for r in range(3)]
        assert {p.count for p in pieces} == {len(batch.rows)}
    assert sorted(torch.cat([b.rows for b in alone]).tolist()) == list(range(37))


def test_each_epoch_and_each_seed_has_an_order_of_its_own(config: TrainConfig) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        parts = epoch_batches(dataclasses.replace(config, seed=seed), 37, epoch)
        return torch.cat([part.rows for part in parts]).tolist()

    orders = [order(1, 1), order(1, 2), order(2, 1)]
    assert all(sorted(rows) == list(range(37)) for rows in orders)
    assert orders[0] != orders[1] and orders[0] != orders[2] and orders[1] != orders[2]
    assert order(1, 2) == orders[1]


@pytest.mark.parametrize(
    ("loss", "accuracy", "better"),
    [
        (0.5, 0.81, True),
        (0.1, 0.79, False),  # accuracy comes first
        (0.39, 0.8, True),  # then the loss
        (0.4, 0.8, False),  # the first of two equal epochs stays
        (0.41, 0.8, False),
        (math.nan, 0.9, False),
        (-math.inf, 0.9, False),
        (0.39, math.nan, True),  # a regression
        (0.4, math.nan, False),
    ],
)
def test_which_epoch_is_kept(loss: float, accuracy: float, better: bool) -> None:
    assert is_better(loss, accuracy, Progress(best_accuracy=0.8, best_loss=0.4)) is better


def test_frozen_weights_are_refused_unless_some_are_trained(
    dataset: Dataset, config: TrainConfig, build: Build
) -> None:
    model = build(config).requires_grad_(False)
    with pytest.raises(
        ValueError, match=r"^model must have trainable parameters, got none in SequenceClassifier\. Call "
    ):
        fit(model, dataset, config)
    model.readout.requires_grad_(True)
    before = weights(model.layer)
    fit(model, dataset, config)
    assert all(torch.equal(one, other) for one, other in zip(before, weights(model.layer), strict=True))


def test_a_gradient_that_is_not_finite_ends_the_training_before_it_reaches_the_weights(
    dataset: Dataset, config: TrainConfig, build: Build
) -> None:
    def vanishing(model: Any, inputs: Any, labels: Any, lengths: Any, path: Any) -> Any:
        outputs = model(inputs, lengths=lengths, path=path)
        return (0 * outputs).abs().sum(1).sqrt(), outputs  # 0, with a derivative that is not finite

    model = build(config)
    before = weights(model)
    with pytest.raises(RuntimeError, match="norm of the gradient became nan"):
        fit(model, dataset, config, objective=vanishing)
    assert all(torch.equal(one, other) for one, other in zip(before, weights(model), strict=True))


def test_a_process_without_sequences_keeps_step(config: TrainConfig) -> None:
    parts = [
        list(epoch_batches(dataclasses.replace(config, batch_size=2), 3, 1, rank=rank, world=2)) for rank in range(2)
    ]
    last = [part[-1] for part in parts]
    assert [p.share for p in last] == [0.0, 1.0]
    assert all(len(p.rows) == 1 for p in last)


def test_sequences_are_cut_after_the_longest(waves: Callable[..., Split]) -> None:
    split = waves(10, 3, unequal=True)
    assert split.lengths is not None
    rows = split.lengths.argsort()[:3]
    inputs, labels, lengths, weights, dt = select_sequences(split, rows)
    assert lengths is not None and weights is None and dt is None
    assert inputs.shape[1] == int(lengths.max()) < 12
    assert torch.equal(labels, split.labels[rows])


def test_unequal_lengths_train(
    dataset: Dataset, config: TrainConfig, build: Build, waves: Callable[..., Split]
) -> None:
    unequal = dataclasses.replace(
        dataset, train=waves(40, 1, unequal=True), validation=waves(20, 2, unequal=True), read_test=dataset.read_test
    )
    result = fit(build(config), unequal, config)
    assert len(result.history) == 3


def test_double_precision(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    double = dataclasses.replace(config, precision="64-true")
    model = build(double)
    fit(model, dataset, double)
    assert model.readout.weight.dtype == torch.float64


@needs_bf16
def test_bf16_mixed_keeps_float32_weights_and_learns(dataset: Dataset, build: Build) -> None:
    config = TrainConfig(
        hidden_size=12, epochs=30, batch_size=8, learning_rate=0.02, precision="bf16-mixed", options={"step_size": 0.3}
    )
    model = build(config)
    result = fit(model, dataset, config)
    assert model.readout.weight.dtype == torch.float32
    assert result.best_validation_accuracy > 0.9


def test_outside_the_main_thread_it_trains_without_signal_handlers(
    dataset: Dataset, config: TrainConfig, build: Build
) -> None:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(fit_function(build(config), dataset, config)))
    thread.start()
    thread.join()
    assert len(results) == 1


def test_progress_lines_show_an_eta(
    dataset: Dataset,
    config: TrainConfig,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    build: Build,
) -> None:
    from noisyrnn import progress

    monkeypatch.setitem(progress.ProgressBar.__init__.__kwdefaults__, "every", 0.0)
    fit(build(config), dataset, config, show_progress=True)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("noisy seed 1: 1/9, ETA ")
    assert lines[-1].startswith("noisy seed 1: 9/9, ETA 0 s")


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path, generator = tmp_path / "checkpoint.pt", random.Random(1)
    weights = {"w": torch.randn(30, 30)}
    Checkpoint({"seed": 1}, {"data": "1"}, Progress(), weights, {"state": {}}, weights).write(path)
    whole = path.read_bytes()
    places = [generator.randrange(8 * len(whole)) for _ in range(400)]
    places += [generator.randrange(8 * (len(whole) - 64), 8 * len(whole)) for _ in range(100)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"^checkpoint must be whole and of this version, got .*, which is damaged"
        ):
            Checkpoint.read(path, TrainConfig(seed=1), {"data": "1"})
    path.write_bytes(whole)
    assert Checkpoint.read(path, TrainConfig(seed=1), {"data": "1"}).model["w"].equal(weights["w"])


def test_a_checkpoint_without_a_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    Checkpoint({"seed": 1}, {}, Progress(), {}, {}, None).write(path)
    torch.save(torch.load(path, weights_only=True), path)
    with pytest.raises(ValueError, match="damaged or older"):
        Checkpoint.read(path, TrainConfig(seed=1), {})


class OwnLayer(NoisyRNN):
    """With options that it passes on."""

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)


@pytest.mark.parametrize("kind", ["own layer", "readout", "parametrized"])
def test_what_cannot_be_saved_is_refused_before_the_first_step(
    kind: str, dataset: Dataset, config: TrainConfig, folder: RunFolder, build: Build
) -> None:
    model = build(config)
    if kind == "own layer":
        model = SequenceClassifier(OwnLayer(dataset.input_size, 4, additive=0.1), dataset.classes)
        assert "additive=0.1" in repr(model)
    elif kind == "readout":
        size = model.layer.output_size
        model.readout = nn.Sequential(nn.Linear(size, size), nn.Linear(size, dataset.classes))
    else:
        nn.utils.parametrizations.weight_norm(model.readout)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises((TypeError, ValueError), match=r"^(model|layer) must "):
        fit(model, dataset, config, folder=folder)
    assert all(one.equal(other) for one, other in zip(before, model.parameters(), strict=True))
    fit(model, dataset, dataclasses.replace(config, epochs=1))  # with no folder nothing is saved
