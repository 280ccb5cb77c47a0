from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _undrawn(undrawn: None) -> None:
    """What figures show is tested where they are made."""


@pytest.fixture
def waves_file(tmp_path: Path) -> Path:
    """A data set of the user's own: 120 noisy sines of two frequencies, 10 steps."""
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    time = np.linspace(0, 6.28, 10)
    X = np.sin((1 + labels[:, None]) * time) + 0.1 * generator.standard_normal((120, 10))
    path = tmp_path / "waves.npz"
    np.savez(path, X=X[..., None], y=np.array(["slow", "fast"])[labels])
    return path
