"""What a long run shows while it goes on, and how it is asked to stop."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar:
    """A bar with an estimate of the time left on a terminal; elsewhere a line on stderr now and then.

    Args:
        name: What is going on.
        total: Units of work in all.
        done: Units done before.
        shown: Whether to show anything.
        every: Seconds between two lines where stderr is no terminal.
    """

    def __init__(self, name: str, total: int, *, done: int = 0, shown: bool = True, every: float = 15.0) -> None:
        self._name, self._total, self._done, self._every = name, total, done, every
        self._start, self._begin, self._last = time.monotonic(), done, time.monotonic()
        self._bar: Progress | None = None
        self._lines = shown and not sys.stderr.isatty()
        if shown and not self._lines:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(name, total=total, completed=done)
            self._bar.start()

    def advance(self) -> None:
        """One unit more is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        elif self._lines and time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            rate = (self._done - self._begin) / (self._last - self._start)
            left = (self._total - self._done) / rate
            print(f"{self._name}: {self._done}/{self._total}, ETA {left:.0f} s", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


class StopRequest:
    """Whether the user has asked the run to stop."""

    made = False


@contextmanager
def graceful_interrupt() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C (or SIGTERM) into a request that the loop can honour between two steps.

    A second one of the same kind interrupts at once; a launcher may follow Ctrl-C with SIGTERM. Outside the main
    thread signals cannot be caught and nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    seen: set[int] = set()

    def ask(number: int, frame: FrameType | None) -> None:
        if number in seen:
            raise KeyboardInterrupt
        seen.add(number)
        request.made = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
