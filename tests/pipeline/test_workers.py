"""Messages of worker processes, and what a bar shows of a run that has ended."""

from pathlib import Path

import numpy as np

from noisyrnn.pipeline import EvaluateConfig, RunContext, evaluate_run, train_run
from noisyrnn.pipeline.execution import last_result
from noisyrnn.pipeline.workers import run_tasks
from noisyrnn.progress import announce_epoch
from noisyrnn.training.config import TrainConfig


def announce(task: str) -> str:
    for epoch in (1, 2):
        announce_epoch(task, epoch)
    return task.upper()


def test_epochs_of_workers_are_heard_here() -> None:
    heard: dict[str, list[int]] = {}
    results = {}
    run_tasks(
        announce,
        ["a", "b"],
        results.__setitem__,
        workers=2,
        threads=1,
        on_epoch=lambda run, epoch: heard.setdefault(run, []).append(epoch),
    )
    assert heard == {"a": [1, 2], "b": [1, 2]}
    assert results == {"a": "A", "b": "B"}
    run_tasks(announce, ["a"] * 2, results.__setitem__, workers=2, threads=1)  # nobody listens


def test_the_last_result_of_a_regression_is_its_error(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(30, 4, 1))
    np.savez(tmp_path / "sums.npz", X=X, y=X.sum(axis=1))
    context = RunContext(output=tmp_path, show_progress=False)
    config = TrainConfig(dataset=str(tmp_path / "sums.npz"), epochs=2, hidden_size=4)
    folder = evaluate_run(train_run(config, context), EvaluateConfig(strengths={}), context)
    epochs, text = last_result(folder.path)
    assert epochs == 2
    assert text.startswith("noisy seed 1: validation loss ") and ", test R² " in text
    assert last_result(tmp_path / "absent") == (None, "")
