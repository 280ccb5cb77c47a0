"""Training on sequences that stay in their files: order, bits, resumption, processes, and what is read at once."""

import csv
import socket
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.forked import Forked
from tests.interrupts import interrupt_at
from tests.training import stored_ranks
from tests.training.stored_ranks import SIZE, train_rank

from noisyrnn.data import Dataset, load_dataset, stored
from noisyrnn.data.stored import Storage, StoredSequences
from noisyrnn.pipeline.train import build_model
from noisyrnn.robustness import WhiteNoise, confusion_matrix, evaluate
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import TrainConfig, fit, fit_seeds
from noisyrnn.training.batches import epoch_batches
from noisyrnn.training.saving import load

CONFIG = TrainConfig(
    model="noisy", hidden_size=4, epochs=3, batch_size=8, learning_rate=0.02, options={"additive": 0.1}
)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two sequences, and windows of three blocks."""
    monkeypatch.setattr(stored, "BLOCK", 2 * 48)
    monkeypatch.setattr(stored, "WINDOW", 6 * 48)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return load_dataset(stored_ranks.write(tmp_path))


def inputs_of(dataset: Dataset) -> StoredSequences:
    assert isinstance(dataset.train.inputs, StoredSequences)
    return dataset.train.inputs


def in_memory(dataset: Dataset) -> Dataset:
    return replace(dataset, train=dataset.train.in_memory(), validation=dataset.validation.in_memory())


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def test_order_depends_on_seed_and_epoch_only(data: Dataset) -> None:
    def order(seed: int, epoch: int, **place: int) -> list[int]:
        parts = epoch_batches(replace(CONFIG, seed=seed), 26, epoch, stored=inputs_of(data), **place)
        return [row for part in parts for row in part.rows.tolist()]

    whole = order(1, 1)
    assert sorted(whole) == list(range(26)) and order(1, 1) == whole
    assert whole != order(2, 1) and whole != order(1, 2)
    assert order(1, 1, first=2) == whole[16:]
    ranks = [list(epoch_batches(CONFIG, 26, 1, stored=inputs_of(data), rank=rank, world=2)) for rank in range(2)]
    assert [row for pair in zip(*ranks, strict=True) for part in pair for row in part.rows.tolist()] == whole


def test_bits_are_those_of_memory_in_the_same_order(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(CONFIG, data)
    result = fit(model, data, CONFIG)
    memory, shuffled = in_memory(data), inputs_of(data).shuffled
    statistics = data.statistics()
    monkeypatch.setattr(Dataset, "statistics", lambda self: statistics)
    other = build_model(CONFIG, memory)
    monkeypatch.setattr(torch, "randperm", lambda count, generator, device: original(count, generator))
    randperm = torch._C._VariableFunctions.randperm

    def original(count: int, generator: torch.Generator) -> torch.Tensor:
        monkeypatch.setattr(torch, "randperm", randperm)
        found = shuffled(generator)
        monkeypatch.setattr(torch, "randperm", lambda count, generator, device: original(count, generator))
        return found

    assert fit(other, memory, CONFIG).history[-1]["validation_loss"] == result.history[-1]["validation_loss"]
    assert torch.equal(weights(model), weights(other))


@pytest.mark.parametrize("call", [2, 6])
def test_a_resumed_training_ends_in_the_same_bits(tmp_path: Path, data: Dataset, call: int) -> None:
    whole = build_model(CONFIG, data)
    fit(whole, data, CONFIG)
    folder, model = RunFolder(tmp_path / "run"), build_model(CONFIG, data)
    interrupt_at(model, call)
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, CONFIG, folder=folder)
    again = load_dataset(f"{tmp_path / 'data'}/")  # as another process reads it
    resumed = build_model(CONFIG, again)
    fit(resumed, again, CONFIG, folder=folder, resume=True)
    assert torch.equal(weights(resumed), weights(whole))


def test_a_checkpoint_is_not_continued_with_other_data(tmp_path: Path, data: Dataset) -> None:
    folder, model = RunFolder(tmp_path / "run"), build_model(CONFIG, data)
    fit(model, data, CONFIG, folder=folder)
    path = tmp_path / "data" / "X_train.npy"
    values = np.load(path)
    values[25, 5, 1] += 1
    np.save(path, values)
    with pytest.raises(ValueError, match="inputs"):
        fit(model, load_dataset(f"{tmp_path / 'data'}/"), CONFIG, folder=folder, resume=True)


def test_seeds_side_by_side(data: Dataset) -> None:
    configs = [replace(CONFIG, seed=seed) for seed in (1, 2)]
    models = [build_model(config, data) for config in configs]
    fit_seeds(models, data, configs)
    for model, config in zip(models, configs, strict=True):
        alone = build_model(config, data)
        fit(alone, data, config)
        torch.testing.assert_close(weights(model), weights(alone), rtol=1e-4, atol=1e-5)


def test_answers_are_those_of_memory(data: Dataset) -> None:
    model = build_model(CONFIG, data).eval()
    memory = data.test.in_memory()
    for perturbation in (None, WhiteNoise(0.5)):
        found, expected = (evaluate(model, split, perturbation, draws=2) for split in (data.test, memory))
        assert found == expected
    assert confusion_matrix(model, data.test) == confusion_matrix(model, memory)


def test_no_more_than_a_batch_is_read_at_once(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, read = [], Storage.read
    monkeypatch.setattr(Storage, "read", lambda self, rows: sizes.append(len(rows)) or read(self, rows))
    monkeypatch.setattr("noisyrnn.training.validation._VALIDATION_BYTES", 3 * 48)
    model = build_model(CONFIG, data)
    fit(model, data, CONFIG)
    assert max(sizes) == CONFIG.batch_size
    assert sum(sizes) == CONFIG.epochs * (SIZE["train"] + SIZE["validation"])  # the first pass was made before


def test_noisy_copies_of_the_validation_data_are_refused(data: Dataset) -> None:
    with pytest.raises(ValueError, match="select must be 'clean' or 'last'"):
        fit(build_model(CONFIG, data), data, replace(CONFIG, select="perturbed"))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    stored_ranks.write(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    processes = [Forked(folder, train_rank, folder)]
    processes += [
        Forked(folder, train_rank, folder, environment={**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    for process in processes:
        _, shown = process.communicate(timeout=180)
        assert process.returncode == 0, shown[-3000:]
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}


def test_two_processes_read_every_row_once_an_epoch(ranks: dict[str, dict[str, Any]]) -> None:
    batches = [ranks[f"2-{rank}"]["train"] for rank in range(2)]
    assert [len(one) for one in batches] == [8, 8]  # four batches in each of two epochs
    for epoch in range(2):
        rows = Counter(chain(*(row for one in batches for row in one[4 * epoch : 4 * epoch + 4])))
        assert rows == dict.fromkeys(range(SIZE["train"]), 1)
    assert [a + b for a, b in zip(*batches, strict=True)] == ranks["1-0"]["train"]  # the batches of one process
    validated = Counter(chain(*ranks["2-0"]["validation"], *ranks["2-1"]["validation"]))
    assert validated == dict.fromkeys(range(SIZE["validation"]), 2)  # once in each epoch


def test_two_processes_reach_what_one_does(ranks: dict[str, dict[str, Any]]) -> None:
    one, two = (Path(ranks[name]["run"]) for name in ("1-0", "2-0"))
    rows = [list(csv.DictReader((run / "metrics.csv").open())) for run in (one, two)]
    for alone, shared in zip(*rows, strict=True):
        for name in ("train_loss", "validation_loss", "validation_accuracy"):
            assert float(shared[name]) == pytest.approx(float(alone[name]), rel=1e-5)
    torch.testing.assert_close(
        weights(load(two / "model.safetensors")), weights(load(one / "model.safetensors")), rtol=1e-6, atol=1e-8
    )
