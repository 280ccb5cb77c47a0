"""What a long run shows of its progress."""

import sys
import time
from contextlib import suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def tell(text: str) -> None:
    """Print a line on stderr; where nobody reads it any more, work goes on without."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # a broken pipe, a terminal that is gone, a closed file
            print(text, file=sys.stderr, flush=True)


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
        shown = shown and sys.stderr is not None
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
            tell(f"{self._name}: {self._done}/{self._total}, ETA {left:.0f} s")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            with suppress(OSError):  # a terminal that is gone
                self._bar.stop()
