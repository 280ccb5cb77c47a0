"""A small data set of a user's own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_waves(folder: Path, classes: Sequence[str | int]) -> Path:
    """The path of a file of 120 noisy sines of two frequencies, 10 steps, with labels of two classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    X = np.sin((1 + labels[:, None]) * np.linspace(0, 6.28, 10)) + 0.1 * generator.standard_normal((120, 10))
    path = folder / "waves.npz"
    np.savez(path, X=X[..., None], y=np.array(classes)[labels])
    return path
