"""A training step reads its values from the device once: each reading waits for all the work before it."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.models import SequenceClassifier, build_layer
from noisyrnn.training import TrainConfig
from noisyrnn.training.fit_seeds import _Group
from noisyrnn.training.trainer import Trainer, read_values

CONFIG = TrainConfig(hidden_size=5, epochs=1, batch_size=16, clip_norm=0.5)


class Reads(TorchDispatchMode):
    """Counts the values that Python reads from tensors one by one."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def reads(run: Callable[[], object]) -> int:
    with Reads() as mode:
        run()
    return mode.count


def trainer(dataset: Dataset) -> Trainer:
    return Trainer(SequenceClassifier(build_layer("noisy", 1, 5, {"additive": 0.1}), 2), dataset, CONFIG)


def test_values_are_exact() -> None:
    value = torch.tensor(1 / 3)
    assert read_values(value, torch.tensor(7), torch.tensor(2.0, requires_grad=True)) == [float(value), 7.0, 2.0]


def test_reading_a_value_is_seen() -> None:
    assert reads(lambda: float(torch.ones(()))) == 1


@pytest.mark.parametrize("unequal", [False, True], ids=["whole", "padded"])
def test_a_step_reads_no_value_alone(
    dataset: Dataset, waves: Callable[..., Split], monkeypatch: pytest.MonkeyPatch, unequal: bool
) -> None:
    dataset = replace(dataset, train=waves(40, 1, unequal=unequal))
    one = trainer(dataset)
    part = next(one.batches(len(dataset.train)))
    monkeypatch.setattr(one._wrapped_optimizer, "step", lambda: None)  # Adam counts its steps on the CPU
    # The longest sequence of a batch is read where the data were given, which is not on a GPU.
    assert reads(lambda: one.take_step(dataset.train, part)) == int(unequal)


def test_a_step_of_trainings_side_by_side_reads_no_value_alone(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = _Group([trainer(dataset), trainer(dataset)])
    assert group.fused
    parts = {one: next(one.batches(len(dataset.train))) for one in group.trainers}
    for one in group.trainers:
        monkeypatch.setattr(one._wrapped_optimizer, "step", lambda: None)
    assert reads(lambda: group.step_at_once(parts)()) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["noisy", "gru", "cornn"])
@pytest.mark.parametrize("unequal", [False, True], ids=["whole", "padded"])
def test_a_step_on_a_gpu_waits_once(dataset: Dataset, waves: Callable[..., Split], model: str, unequal: bool) -> None:
    from lightning_fabric import Fabric

    dataset = replace(dataset, train=waves(40, 1, unequal=unequal))
    classifier = SequenceClassifier(build_layer(model, 1, 5, {"additive": 0.1}), 2)
    one = Trainer(classifier, dataset, CONFIG, fabric=Fabric(accelerator="cuda", devices=1))
    train = one.to_device(dataset.train)
    parts = list(one.batches(len(train)))
    one.take_step(train, parts[0])  # compiles
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            one.take_step(train, parts[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in caught if "synchroniz" in str(w.message)]) <= 1
