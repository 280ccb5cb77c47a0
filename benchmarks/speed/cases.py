"""Cases of the benchmark: sizes, modes, numbers of operations, and the summary of samples."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.speed.networks import NETWORKS

GROWTH: dict[str, tuple[int, ...]] = {
    "steps": (49, 196, 784, 3136),
    "hidden": (32, 64, 128, 256, 512),
    "batch": (1, 16, 128, 512),
}
MODES = ("training", "inference")
PRODUCTS = ("fp32", "tf32", "bf16")
"""Precisions of the products of matrices: torch's own float32, and on a GPU what torch's settings allow instead."""
CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of one pass; the input has one channel.

    Args:
        steps: T, at least 1.
        batch: B, at least 1.
        hidden: d, at least 1.
    """

    steps: int = 784
    batch: int = 128
    hidden: int = 128

    def __str__(self) -> str:
        return f"T {self.steps}, B {self.batch}, d {self.hidden}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task that all contestants perform in turn.

    Args:
        size: Size of a pass.
        mode: "training" (forward, loss, backward, noise on), "inference" (last state, no gradient, no noise) or
            "stream" (one step of one sequence at a time).
        threads: Number of threads of a contestant.
        product: One of `PRODUCTS`.
        replicas: Networks that are trained side by side, at least 1.
        model: Key of `NETWORKS`.
    """

    size: Size
    mode: str
    threads: int
    product: str = "fp32"
    replicas: int = 1
    model: str = "noisy"

    def __str__(self) -> str:
        name = f"d {self.size.hidden}, streamed step" if self.mode == "stream" else f"{self.size}, {self.mode}"
        special = [self.product] * (self.product != "fp32") + [f"{self.replicas} replicas"] * (self.replicas > 1)
        special += [NETWORKS[self.model].title] * (self.model != "noisy")
        return ", ".join([f"{self.threads} thread{'s' if self.threads > 1 else ''}", name, *special])

    def describe(self) -> dict[str, Any]:
        """Return the form of the JSON file."""
        return {"threads": self.threads, "model": self.model, **self.request()}

    def request(self) -> dict[str, Any]:
        """Return what a worker is told; its threads it knows."""
        special = {"product": self.product, "replicas": self.replicas, "model": self.model}
        changed = {name: value for name, value in special.items() if value != getattr(Case, name)}
        return {"mode": self.mode, **asdict(self.size), **changed}

    def operations(self) -> int:
        """Of the products of each step, two a multiplication and addition; the backward pass takes twice as many.

        Input, noise and activation come on top: no implementation can use fewer operations.
        """
        forward = 2 * NETWORKS[self.model].products * self.size.steps * self.size.batch * self.size.hidden**2
        return 3 * forward if self.mode == "training" else forward

    def weight(self) -> float:
        """Estimate the duration in seconds of a typical machine, for the estimate of the remaining time."""
        if self.mode == "stream":
            return 0.1
        size = self.size
        units = size.batch * size.hidden * (NETWORKS[self.model].products * size.hidden / 2 + 64)
        work = size.steps * (1e-4 + units * 6e-11 / self.threads)
        return 0.1 + work * (1.0 if self.mode == "training" else 0.3)


def sizes(main: Size, extent: str) -> list[Size]:
    """Return the sizes to measure, the main one first.

    Args:
        main: Main size; if one axis grows, the others keep this size.
        extent: "main" for this size only, "growth" for one axis at a time, "full" for the whole product.
    """
    grid = [main]
    if extent == "growth":
        grid += [Size(**{**asdict(main), axis: value}) for axis, values in GROWTH.items() for value in values]
    if extent == "full":
        grid += [Size(**dict(zip(GROWTH, values, strict=True))) for values in itertools.product(*GROWTH.values())]
    return list(dict.fromkeys(grid))


def summary(rounds: Sequence[float]) -> dict[str, Any]:
    """Median, smallest and largest of the rounds, in seconds, and the rounds themselves."""
    return {
        "median": statistics.median(rounds),
        "min": min(rounds),
        "max": max(rounds),
        "rounds": list(rounds),
    }
