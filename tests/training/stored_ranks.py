"""A small training on stored sequences, as each of several processes runs it; it notes the rows that it reads."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisyrnn.data.stored import StoredSequences
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.train import train_run
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import TrainConfig

SIZE = {"train": 26, "validation": 11}


def write(folder: Path) -> str:
    """Write a folder of arrays; return its path."""
    (folder / "data").mkdir()
    generator = np.random.default_rng(0)
    for part, size in {**SIZE, "test": 9}.items():
        X = generator.normal(size=(size, 6, 2)).astype(np.float32)
        np.save(folder / "data" / f"X_{part}.npy", X)
        np.save(folder / "data" / f"y_{part}.npy", (X.sum((1, 2)) > 0).astype(int))
    return f"{folder / 'data'}/"


def config(folder: Path) -> TrainConfig:
    """Settings of the training; batches of 8 do not divide the 26 sequences."""
    return TrainConfig(
        model="noisy",
        dataset=f"{folder / 'data'}/",
        hidden_size=4,
        epochs=2,
        batch_size=8,
        learning_rate=0.01,
        precision="64-true",
        options={"additive": 0.3},
    )


def train_rank(folder: Path) -> None:
    """Train as one process of those that the environment names, and write what it read and reached."""
    torch.set_num_threads(1)
    read, rows_of = StoredSequences.__getitem__, dict[int, list[list[int]]]()

    def noting(self: StoredSequences, rows: Any) -> torch.Tensor:
        rows_of.setdefault(len(self), []).append(rows.tolist())
        return read(self, rows)

    StoredSequences.__getitem__ = noting  # type: ignore[method-assign]
    world, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    output = folder / f"runs-{world}"
    run: RunFolder = train_run(config(folder), RunContext(output=output))
    found: dict[str, Any] = {part: rows_of[size] for part, size in SIZE.items()}
    torch.save({**found, "run": str(run.path)}, folder / f"{world}-{rank}.pt")
