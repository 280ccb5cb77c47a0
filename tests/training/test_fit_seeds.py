"""Runs side by side: each ends where it would have ended alone."""

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interrupts import interrupt_at
from tests.processor import needs_bf16
from torch import Tensor

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.kernels import select
from noisyrnn.models import SequenceClassifier
from noisyrnn.training import FitResult, RunFolder, TrainConfig, fit, fit_seeds
from noisyrnn.training.divergence import DivergenceError
from noisyrnn.training.fit_seeds import seed_range

Build = Callable[[TrainConfig], SequenceClassifier]
Waves = Callable[..., Split]

TOLERANCE = 1e-12
"""In float64 after some steps: sums come in another order, which changes the last bits (1e-16 was seen)."""


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")


@pytest.fixture(params=["reference", "eager"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NOISYRNN_KERNEL", request.param)
    return request.param


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "eager")


@pytest.fixture
def unequal(dataset: Dataset, waves: Waves) -> Dataset:
    return dataclasses.replace(
        dataset, train=waves(40, 1, unequal=True), validation=waves(20, 2, unequal=True), read_test=dataset.read_test
    )


def seeds(config: TrainConfig, count: int = 3) -> list[TrainConfig]:
    return [dataclasses.replace(config, seed=4 + k) for k in range(count)]


def places(parent: Path, count: int) -> list[RunFolder]:
    folders = [RunFolder(parent / str(k)) for k in range(count)]
    for folder in folders:
        folder.path.mkdir(parents=True, exist_ok=True)
    return folders


@pytest.fixture
def folders(tmp_path: Path) -> list[RunFolder]:
    """The folders of three runs that train together."""
    return places(tmp_path / "batch_seeds", 3)


def end_of(folder: RunFolder) -> dict[str, Tensor]:
    """The best weights, the last ones, what the optimiser remembers, and the history."""
    content = torch.load(folder.checkpoint, weights_only=True)
    moments = content["optimizer"]["state"]
    found = {f"last {name}": value for name, value in content["model"].items()}
    found |= {f"best {name}": value for name, value in content["best"].items()}
    found |= {f"moment {k} {name}": value for k, entry in moments.items() for name, value in entry.items()}
    for row in content["progress"]["history"]:
        found[f"epoch {row['epoch']}"] = torch.tensor([v for k, v in row.items() if k != "seconds"]).double()
    return found


def alone(configs: list[TrainConfig], dataset: Dataset, build: Build, parent: Path) -> list[dict[str, Tensor]]:
    folders = places(parent / "alone", len(configs))
    for config, folder in zip(configs, folders, strict=True):
        fit(build(config), dataset, config, folder=folder)
    return [end_of(folder) for folder in folders]


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("model", ["noisy", "lstm"])
@pytest.mark.parametrize("lengths", ["equal", "unequal"])
def test_reference_gives_the_same_bits(
    model: str, lengths: str, dataset: Dataset, unequal: Dataset, build: Build, tmp_path: Path, folders: list[RunFolder]
) -> None:
    options: dict[str, Any] = {"step_size": 0.2} if model == "noisy" else {}
    config = TrainConfig(model=model, hidden_size=6, epochs=3, batch_size=16, learning_rate=0.01, options=options)
    config = dataclasses.replace(config, clip_norm=0.5, decay_epochs=(1,))
    data = dataset if lengths == "equal" else unequal
    expected = alone(seeds(config), data, build, tmp_path)
    models = [build(c) for c in seeds(config)]
    results = fit_seeds(models, data, seeds(config), folders=folders)
    for folder, wanted, result, trained in zip(folders, expected, results, models, strict=True):
        assert_same(end_of(folder), wanted)
        assert isinstance(result, FitResult)
        assert len(result.history) == 3
        assert len(folder.metrics.read_text().splitlines()) == 4
        assert folder.model.is_file()
        assert not trained.training
        assert torch.equal(trained.readout.weight, wanted["best readout.weight"])
    assert not torch.equal(expected[0]["last readout.weight"], expected[1]["last readout.weight"])


@pytest.mark.usefixtures("reference")
def test_learned_matrices_end_in_the_same_bits(
    dataset: Dataset, build: Build, tmp_path: Path, folders: list[RunFolder]
) -> None:
    matrix = torch.linspace(-0.3, 0.4, 12).view(6, 2).tolist()
    options: dict[str, Any] = {"step_size": 0.2, "diffusion": matrix, "learn_diffusion": True}
    config = TrainConfig(hidden_size=6, epochs=2, batch_size=16, learning_rate=0.01, options=options)
    expected = alone(seeds(config), dataset, build, tmp_path)
    fit_seeds([build(c) for c in seeds(config)], dataset, seeds(config), folders=folders)
    for folder, wanted in zip(folders, expected, strict=True):
        assert_same(end_of(folder), wanted)
        assert not torch.allclose(wanted["last layer.diffusion.matrix"], torch.tensor(matrix), atol=1e-3)


@pytest.mark.usefixtures("reference")
def test_a_run_that_stops_early_drops_out(
    dataset: Dataset, config: TrainConfig, build: Build, tmp_path: Path, folders: list[RunFolder]
) -> None:
    patient = dataclasses.replace(config, epochs=12, patience=1, learning_rate=0.02)
    expected = alone(seeds(patient), dataset, build, tmp_path)
    results = fit_seeds([build(c) for c in seeds(patient)], dataset, seeds(patient), folders=folders)
    assert len({len(result.history) for result in results if isinstance(result, FitResult)}) > 1
    for folder, wanted in zip(folders, expected, strict=True):
        assert_same(end_of(folder), wanted)


def test_a_run_that_diverges_stops_no_other(
    kernel: str, dataset: Dataset, config: TrainConfig, build: Build, tmp_path: Path, folders: list[RunFolder]
) -> None:
    config = dataclasses.replace(config, precision="64-true")
    expected = alone(seeds(config), dataset, build, tmp_path)
    models = [build(c) for c in seeds(config)]
    with torch.no_grad():
        models[1].readout.weight.mul_(math.inf)
    results = fit_seeds(models, dataset, seeds(config), folders=folders)
    assert [type(result) is FitResult for result in results] == [True, False, True]
    assert "loss became nan at training step 1 (epoch 1)" in str(results[1])
    assert not folders[1].checkpoint.exists()
    for k in (0, 2):
        assert_same(end_of(folders[k]), expected[k], 0.0 if kernel == "reference" else TOLERANCE)


@pytest.mark.usefixtures("fused")
def test_a_run_that_diverges_says_what_it_would_say_alone(unequal: Dataset, config: TrainConfig, build: Build) -> None:
    config = dataclasses.replace(config, options={"step_size": 1.0, "damping": 0.0}, hidden_size=6)
    models = [build(c) for c in seeds(config)]
    for model in models:
        with torch.no_grad():
            model.readout.weight.mul_(math.inf)
    results = fit_seeds([copy.deepcopy(model) for model in models], unequal, seeds(config))
    for model, one, result in zip(models, seeds(config), results, strict=True):
        with pytest.raises(DivergenceError) as alone:
            fit(model, unequal, one)
        assert str(result) == str(alone.value)  # the largest norm of a state is that of a step within a sequence


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("call", [2, 3, 9])  # within an epoch of three batches, at its end, and at the end of all
def test_interrupted_and_resumed_runs_end_in_the_same_bits(
    call: int, dataset: Dataset, config: TrainConfig, build: Build, tmp_path: Path, folders: list[RunFolder]
) -> None:
    expected = alone(seeds(config), dataset, build, tmp_path)
    models = [build(c) for c in seeds(config)]
    interrupt_at(models[1], call)
    with pytest.raises(KeyboardInterrupt):
        fit_seeds(models, dataset, seeds(config), folders=folders)
    steps = [torch.load(folder.checkpoint, weights_only=True)["progress"]["step"] for folder in folders]
    assert steps == [call] * 3
    others = [
        build(dataclasses.replace(config, seed=99)) for _ in folders
    ]  # their weights must come from the checkpoint
    results = fit_seeds(others, dataset, seeds(config), folders=folders, resume=True)
    for folder, wanted, result in zip(folders, expected, results, strict=True):
        assert_same(end_of(folder), wanted)
        assert isinstance(result, FitResult)


def test_runs_go_on_from_different_steps(
    kernel: str, dataset: Dataset, config: TrainConfig, build: Build, tmp_path: Path, folders: list[RunFolder]
) -> None:
    """One has not begun, one is within an epoch, one at the end: their batches differ in size now and then."""
    config = dataclasses.replace(config, precision="64-true")
    expected = alone(seeds(config), dataset, build, tmp_path)
    half = build(seeds(config)[1])
    interrupt_at(half, 4)
    with pytest.raises(KeyboardInterrupt):
        fit(half, dataset, seeds(config)[1], folder=folders[1])
    fit(build(seeds(config)[2]), dataset, seeds(config)[2], folder=folders[2])
    fit_seeds([build(c) for c in seeds(config)], dataset, seeds(config), folders=folders, resume=True)
    for folder, wanted in zip(folders, expected, strict=True):
        assert_same(end_of(folder), wanted, 0.0 if kernel == "reference" else TOLERANCE)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize(
    "model",
    ["noisy", "cornn", *(pytest.param(m, marks=pytest.mark.slow) for m in ("lipschitz", "antisymmetric", "exprnn"))],
)
def test_a_fused_kernel_takes_all_runs_in_one_call(
    model: str, unequal: Dataset, build: Build, tmp_path: Path, folders: list[RunFolder]
) -> None:
    config = TrainConfig(
        model=model, hidden_size=6, epochs=3, batch_size=3, learning_rate=0.01, clip_norm=0.5, precision="64-true"
    )
    # Batches of three: their longest sequences differ between the runs.
    if model != "noisy":
        config = dataclasses.replace(config, options={**config.options, "additive": 0.1, "multiplicative": 0.1})
    expected = alone(seeds(config), unequal, build, tmp_path)
    models = [build(c) for c in seeds(config)]
    calls = [0, 0, 0]
    for k, one in enumerate(models):

        def count(module: torch.nn.Module, inputs: object, k: int = k) -> None:
            calls[k] += module.training

        one.register_forward_pre_hook(count)
    fit_seeds(models, unequal, seeds(config), folders=folders)
    assert calls == [42, 0, 0]
    for folder, wanted in zip(folders, expected, strict=True):
        assert_same(end_of(folder), wanted, TOLERANCE)


def test_the_compiled_kernel_ends_where_each_run_would_alone(
    unequal: Dataset,
    config: TrainConfig,
    build: Build,
    tmp_path: Path,
    folders: list[RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = dataclasses.replace(
        config, hidden_size=41, learning_rate=0.001, options={**config.options, "step_size": 0.1}
    )  # past one tile, and tame
    cell = build(config).layer.cell
    reason = select.refusal("cpp", cell, unequal.train.inputs, recurrence=cell.recurrence())
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setenv("NOISYRNN_KERNEL", "cpp")
    expected = alone(seeds(config), unequal, build, tmp_path)
    fit_seeds([build(c) for c in seeds(config)], unequal, seeds(config), folders=folders)
    for folder, wanted in zip(folders, expected, strict=True):
        assert_same(end_of(folder), wanted, 1e-5)  # float32: a hundred times the 6e-8 that was seen


@needs_bf16
@pytest.mark.usefixtures("fused")
def test_bf16_mixed_on_a_fused_kernel(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    mixed = dataclasses.replace(config, precision="bf16-mixed", epochs=20, batch_size=8, learning_rate=0.02)
    models = [build(c) for c in seeds(mixed)]
    results = fit_seeds(models, dataset, seeds(mixed))
    assert all(model.readout.weight.dtype == torch.float32 for model in models)
    assert all(isinstance(result, FitResult) and result.best_validation_accuracy > 0.8 for result in results)


@pytest.mark.usefixtures("reference")
def test_the_time_is_shared_out(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    began = time.monotonic()
    results = fit_seeds([build(c) for c in seeds(config)], dataset, seeds(config))
    assert 0 < sum(result.seconds for result in results if isinstance(result, FitResult)) <= time.monotonic() - began


@pytest.mark.usefixtures("reference")
def test_one_bar_shows_all(
    dataset: Dataset,
    config: TrainConfig,
    build: Build,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from noisyrnn import progress

    monkeypatch.setitem(progress.ProgressBar.__init__.__kwdefaults__, "every", 0.0)
    fit_seeds([build(c) for c in seeds(config)], dataset, seeds(config), show_progress=True)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("noisy seeds 4-6: 1/9, ETA ")
    assert lines[-1].startswith("noisy seeds 4-6: 9/9, ETA 0 s")


def test_seeds_in_words() -> None:
    assert [seed_range(s) for s in ([7], [1, 2, 3], [1, 3])] == ["seed 7", "seeds 1-3", "seeds 1, 3"]


def test_settings_that_cannot_be_trained_together(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    twice, other = [config, config], [config, dataclasses.replace(config, precision="64-true")]
    with pytest.raises(ValueError, match=r"configs must hold the settings of at least one run, got none\."):
        fit_seeds([], dataset, [])
    with pytest.raises(ValueError, match=r"configs must hold each run once, got noisy seed 1 twice\."):
        fit_seeds([build(c) for c in twice], dataset, twice)
    with pytest.raises(ValueError, match=r"configs must have one precision .*, got '32-true' and '64-true'\."):
        fit_seeds([build(c) for c in other], dataset, other)
    with pytest.raises(ValueError, match=r"checkpoint_seconds must be at least 0, got -1\."):
        fit_seeds([build(config)], dataset, [config], checkpoint_seconds=-1)


def test_several_processes_are_refused(dataset: Dataset, config: TrainConfig, build: Build) -> None:
    class Two:
        world_size = 2

    with pytest.raises(ValueError, match=r"runs can only be trained together in one process, got 2\. Start one\."):
        fit_seeds([build(config)], dataset, [config], fabric=Two())  # type: ignore[arg-type]


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("change", [{"additive": 2.0}, {"noise_scale": 3.0}, {"noise_mode": "on"}, {"frozen": True}])
def test_models_that_differ_are_trained_each_as_alone(
    change: dict[str, Any], dataset: Dataset, config: TrainConfig, build: Build
) -> None:
    def models() -> list[SequenceClassifier]:
        found = [build(one) for one in seeds(config, 2)]
        for name, value in change.items():
            if name == "frozen":
                found[1].layer.requires_grad_(False)
            else:
                setattr(found[1].layer, name, value)
        return found

    together, single = models(), models()
    fit_seeds(together, dataset, seeds(config, 2))
    for model, one in zip(single, seeds(config, 2), strict=True):
        fit(model, dataset, one)
    for model, other in zip(together, single, strict=True):
        for own, wanted in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5)
