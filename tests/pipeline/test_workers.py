"""Messages of worker processes."""

from noisyrnn.pipeline.workers import run_tasks
from noisyrnn.progress import announce_epoch


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
