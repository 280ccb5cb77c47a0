"""A user's own data."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _undrawn(undrawn: None) -> None:
    """What figures show is tested where they are made."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    X = np.sin((1 + labels[:, None]) * np.linspace(0, 6.28, 10)) + 0.1 * generator.standard_normal((120, 10))
    path = tmp_path / "waves.npz"
    np.savez(path, X=X[..., None], y=labels)
    return path
