import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.waves import write_waves

from noisyrnn.data.dataset import Dataset
from noisyrnn.models import SequenceModel
from noisyrnn.pipeline.train import build_model
from noisyrnn.training import TrainConfig


@pytest.fixture(autouse=True)
def _undrawn(undrawn: None) -> None:
    """What figures show is tested where they are made."""


@pytest.fixture
def waves_file(tmp_path: Path) -> Path:
    """A data set of the user's own: 120 noisy sines of two frequencies, 10 steps."""
    return write_waves(tmp_path, ["slow", "fast"])


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function of a seed: trainings with it then diverge in their first step."""

    def diverge(seed: int) -> None:
        def build(config: TrainConfig, dataset: Dataset) -> SequenceModel:
            model = build_model(config, dataset)
            if config.seed == seed:
                with torch.no_grad():
                    model.readout.weight.mul_(math.inf)
            return model

        for module in ("noisyrnn.pipeline.train", "noisyrnn.pipeline.seeds"):
            monkeypatch.setattr(sys.modules[module], "build_model", build)

    return diverge
