"""Flatness at equal training loss: small models on the digits, trained with their epochs kept."""

import math
import re
from pathlib import Path

import pytest
import torch
from benchmarks.flatness import (
    FREE,
    NOISY,
    Sizes,
    compare,
    configs,
    draw,
    epoch_of_loss,
    loss_of,
    main,
    measured,
    sentences,
)

from benchmarks import flatness
from noisyrnn.data import load_dataset
from noisyrnn.files import file_digest
from noisyrnn.pipeline import RunContext, train_run
from noisyrnn.pipeline.reproduce import ReproduceConfig
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import load

SHARED = 'dataset = "digits", model = "noisy", hidden_size = 3, epochs = 3, batch_size = 256, min_steps = 1'
TABLE = f"""
title = "Digits"
source = "none"
strengths.digits = {{ white_noise = [0.1] }}
evaluation = {{ draws = 1 }}

[[rows]]
train = {{ {SHARED}, label = "noisy-high" }}

[[rows]]
train = {{ {SHARED}, label = "noise-free", additive = 0.0, multiplicative = 0.0 }}
"""
SIZES = Sizes(sequences=20, probes=6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReproduceConfig, Path]:
    output = tmp_path_factory.mktemp("runs")
    (output / "digits.toml").write_text(TABLE, encoding="utf-8")
    config = ReproduceConfig(table=str(output / "digits.toml"), seeds=2)
    context = RunContext(output=output, accelerator="cpu")
    for settings in configs(config, NOISY):
        train_run(settings, context)
    for settings in configs(config, FREE):
        train_run(settings, context.replace(keep_epochs=True))
    return config, output


def folder_of(output: Path, label: str, seed: int) -> RunFolder:
    (path,) = output.glob(f"digits-{label}-seed{seed}-*")
    return RunFolder.open(path)


def test_the_run_is_that_of_train_and_the_last_epoch_is_kept(
    runs: tuple[ReproduceConfig, Path], tmp_path: Path
) -> None:
    config, output = runs
    folder = folder_of(output, FREE, 1)
    alone = train_run(configs(config, FREE)[0], RunContext(output=tmp_path, accelerator="cpu"))
    assert (alone.path.name, file_digest(alone.model)) == (folder.path.name, file_digest(folder.model))
    assert sorted(file.stem for file in folder.epoch_model(1).parent.iterdir()) == ["1", "2", "3"]
    weights = [load(file).state_dict() for file in (folder.epoch_model(3), folder.last_model, folder.epoch_model(2))]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_the_epoch_of_a_loss_is_the_closest(runs: tuple[ReproduceConfig, Path]) -> None:
    _, output = runs
    folder = folder_of(output, FREE, 1)
    split = draw(load_dataset("digits").train, SIZES.sequences)
    losses = [loss_of(folder.epoch_model(epoch), split) for epoch in (1, 2, 3)]
    assert losses[0] > losses[1] > losses[2]
    model = load(folder.epoch_model(2))
    with torch.no_grad():
        expected = float(model.losses(model(split.inputs), split.labels).mean())
    assert losses[1] == pytest.approx(expected, rel=1e-5)
    for epoch, loss in enumerate(losses, 1):
        assert epoch_of_loss(folder, 1.001 * loss, split) == epoch
    assert epoch_of_loss(folder, 9.0, split) == 1


def test_both_ends_and_the_epoch_of_equal_loss_are_compared(runs: tuple[ReproduceConfig, Path]) -> None:
    _, output = runs
    noisy, free = folder_of(output, NOISY, 1), folder_of(output, FREE, 1)
    split = draw(load_dataset("digits").train, SIZES.sequences)
    found = compare(noisy, free, split, SIZES)
    epoch = epoch_of_loss(free, found[NOISY]["loss"], split)
    assert found["equal loss"] == {"epoch": epoch, **measured(free, free.epoch_model(epoch), split, SIZES)}
    assert found[NOISY] == measured(noisy, noisy.model, split, SIZES)
    assert found[FREE] == measured(free, free.model, split, SIZES)
    assert found[FREE]["largest"] > 0
    assert found[FREE]["trace_low"] < found[FREE]["trace"] < found[FREE]["trace_high"]


def test_a_measurement_is_kept_until_weights_or_data_change(
    runs: tuple[ReproduceConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, output = runs
    folder = folder_of(output, FREE, 2)
    split = draw(load_dataset("digits").train, SIZES.sequences)
    before = measured(folder, folder.model, split, SIZES)
    calls: list[object] = []
    build = flatness.LossHessian
    monkeypatch.setattr(flatness, "LossHessian", lambda *arguments: calls.append(1) or build(*arguments))
    assert measured(folder, folder.model, split, SIZES) == before
    assert not calls
    other = measured(folder, folder.model, draw(load_dataset("digits").train, 10), SIZES)
    assert calls == [1] and other != before


def test_ratios_are_geometric_means_with_intervals() -> None:
    def of_seed(ratio: float) -> dict[str, dict[str, float]]:
        one = {"loss": 1.0, "trace": 2.0, "largest": 4.0}
        more = {name: ratio * value for name, value in one.items()}
        return {NOISY: one, FREE: more, "equal loss": {"epoch": 1, **one}}

    first, *_, last = sentences({1: of_seed(2.0), 2: of_seed(8.0)})
    half = 12.706204736 * math.log(2)  # t with one degree of freedom; the deviation of both logarithms is √2 log 2
    low, high = 4 * math.exp(-half), 4 * math.exp(half)
    assert first == f"training loss, with the kept weights: 4 [{low:.2g}, {high:.2g}] times as large without noise"
    assert last == "largest eigenvalue, at equal training loss: 1 [1, 1] times as large without noise"
    assert sentences({1: of_seed(-2.0)})[1] == (
        "trace of the Hessian, with the kept weights: no ratio, since a value is not above 0"
    )
    assert sentences({1: of_seed(2.0)})[0] == "training loss, with the kept weights: 2 times as large without noise"


def test_the_command_prints_every_seed(
    runs: tuple[ReproduceConfig, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config, output = runs
    words = ["--table", str(config.table), "--seeds", "2", "--precision", "32-true"]
    assert main(["train", "--output", str(output), *words], SIZES) == 0
    assert main(["measure", "--output", str(output), *words], SIZES) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:8]] == [
        [f"| {seed}", label] for seed in (1, 2) for label in (NOISY, FREE, FREE)
    ]
    assert all(re.fullmatch(r"\| .* \| \S+ \[\S+, \S+\] \| \S+ \|", line) for line in lines[2:8])  # trace, eigenvalue
    assert sum("times as large without noise" in line for line in lines) == 6
    with pytest.raises(SystemExit, match=r"^No seed of noisy-high and noise-free is trained in "):
        main(["measure", "--output", str(tmp_path), *words], SIZES)
