"""Threads of a run: its numbers must not depend on how many there are."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.Lock()
_LOCAL = threading.local()
_before = 0
_entered = 0


def kernel_threads() -> int:
    """Threads for the loop over time and for the noise, whose results are the same bits for any number of them."""
    return getattr(_LOCAL, "threads", None) or torch.get_num_threads()


@contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def reproducible_threads() -> Iterator[None]:
    """Runs torch's own operations on one thread, so that results do not depend on the number of threads.

    torch splits sums and matrix products among its threads, and each number of threads rounds differently. The kernels
    and the noise, where most of the time goes, keep the number that `torch.get_num_threads()` had before.
    Several Python threads may be inside at once; each leaves with the number that the first one found.
    """
    global _before, _entered
    if getattr(_LOCAL, "threads", None) is not None:
        yield
        return
    found = torch.get_num_threads()  # each Python thread's first call sets its number, so it comes before ours
    with _LOCK:
        if _entered == 0:
            _before = found
        _entered += 1
        before = _LOCAL.threads = _before
    torch.set_num_threads(1)  # of this Python thread
    try:
        yield
    finally:
        _LOCAL.threads = None
        with _LOCK:
            _entered -= 1
            torch.set_num_threads(before)
