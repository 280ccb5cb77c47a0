"""Shows the progress of long computations on stderr."""

import sys
import time
from contextlib import suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def tell(text: str) -> None:
    """Print a line on stderr; ignore errors if nobody reads it any more."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # a broken pipe, a terminal that is gone, a closed file
            print(text, file=sys.stderr, flush=True)


class ProgressBar:
    """Shows a bar with an estimate of the time left on a terminal, elsewhere a line on stderr at intervals.

    Args:
        name: What is computed.
        total: Units of work.
        done: Units done before.
        shown: Whether to show anything.
        every: Seconds between two lines if stderr is not a terminal.
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
        """Count one more unit."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        elif self._lines and time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            rate = (self._done - self._begin) / (self._last - self._start)
            left = (self._total - self._done) / rate
            tell(f"{self._name}: {self._done}/{self._total}, ETA {left:.0f} s")

    def close(self) -> None:
        """Restore the terminal."""
        if self._bar is not None:
            with suppress(OSError):  # a terminal that is gone
                self._bar.stop()
