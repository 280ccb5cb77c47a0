from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.models import SequenceClassifier, build_layer
from noisyrnn.training import RunFolder, TrainConfig


def _waves(count: int, seed: int, *, steps: int = 12, unequal: bool = False) -> Split:
    """Two classes of noisy sines that differ in frequency."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    time = torch.linspace(0, 6.28, steps)
    clean = torch.sin((1 + labels[:, None]) * time)
    inputs = (clean + 0.1 * torch.randn(count, steps, generator=generator)).unsqueeze(-1)
    lengths = None
    if unequal:
        lengths = torch.randint(steps // 2, steps + 1, (count,), generator=generator)
        inputs = torch.where((torch.arange(steps) < lengths[:, None])[..., None], inputs, 0.0)
    return Split(inputs=inputs, labels=labels, lengths=lengths, classes=2)


@pytest.fixture
def dataset() -> Dataset:
    def refuse() -> Split:
        raise AssertionError("training read the test set")

    return Dataset(
        name="waves",
        train=_waves(40, 1),
        validation=_waves(20, 2),
        read_test=refuse,
        class_names=("slow", "fast"),
        value_range=(-1.5, 1.5),
        standardize=False,
    )


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(hidden_size=6, epochs=3, batch_size=16, learning_rate=0.01, options={"step_size": 0.2})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def _build(config: TrainConfig) -> SequenceClassifier:
    torch.manual_seed(config.seed)
    return SequenceClassifier(build_layer(config.model, 1, config.hidden_size, config.options), 2)


@pytest.fixture
def waves() -> Callable[..., Split]:
    return _waves


@pytest.fixture
def build() -> Callable[[TrainConfig], SequenceClassifier]:
    return _build
