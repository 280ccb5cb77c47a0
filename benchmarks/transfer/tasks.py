"""Runs a function on many tasks in worker processes, and prints the progress."""

from collections.abc import Sequence
from time import monotonic
from typing import Any

from noisyrnn.pipeline.workers import WorkerDiedError, run_tasks


def run_all(function: Any, tasks: Sequence[Any], *, workers: int) -> list[tuple[Any, Any]]:
    """Call a function with each task in worker processes, and print the progress."""
    ended: list[tuple[Any, Any]] = []
    start = monotonic()

    def done(task: Any, result: Any) -> None:
        ended.append((task, str(result) if isinstance(result, WorkerDiedError) else result))
        spent = monotonic() - start
        name = f"{task.config.shown_label} seed {task.config.seed}"
        left = spent / len(ended) * (len(tasks) - len(ended)) / 60
        print(f"{len(ended)} of {len(tasks)}, {spent / 60:.1f} min, {left:.0f} min left: {name}", flush=True)

    if tasks:
        run_tasks(function, tasks, done, workers=workers, threads=1)
    return ended
