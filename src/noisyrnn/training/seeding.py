"""Random initial weights from a seed, without touching the global random state for good."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch's default generator of the CPU at `seed`, then restore its state; threads take turns.

    Tensors are made on the CPU whatever torch's default device is, and the generators of other devices stay as they
    are: passes without a path draw their noise from them.
    """
    with _LOCK, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield
