"""Shows the progress of long computations on stderr."""

import sys
import time
from contextlib import suppress
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def tell(text: str) -> None:
    """Print a line on stderr; ignore errors if nobody reads it any more."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # a broken pipe, a terminal that is gone, a closed file
            print(text, file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, whose stderr is shown below the cell."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def resolve_shown(shown: bool | None) -> bool:
    """Return `shown`; for `None`, whether somebody watches stderr: it is a terminal or the output of a notebook."""
    if shown is not None:
        return shown
    return sys.stderr is not None and (sys.stderr.isatty() or in_notebook())


class ProgressBar:
    """Shows a bar with an estimate of the time left on a terminal, elsewhere a line on stderr at intervals.

    In a notebook each line replaces the one before.

    Args:
        name: What is computed.
        total: Units of work.
        done: Units done before.
        shown: Whether to show anything; `None`: on a terminal and in a notebook only.
        every: Seconds between two lines if stderr is not a terminal.
        delay: Seconds of work before anything is shown, for work that may take no time.
    """

    def __init__(
        self,
        name: str,
        total: int,
        *,
        done: int = 0,
        shown: bool | None = True,
        every: float = 15.0,
        delay: float = 0.0,
    ) -> None:
        self._name, self._total, self._done, self._every, self._delay = name, total, done, every, delay
        self._start, self._begin, self._last = time.monotonic(), done, time.monotonic()
        self._bar: Progress | None = None
        self._form: Literal["bar", "lines", "notebook", "none"] = "none"
        self._written = False
        if resolve_shown(shown) and sys.stderr is not None:
            self._form = "bar" if sys.stderr.isatty() else "notebook" if in_notebook() else "lines"
        if self._form == "notebook":
            self._every = min(every, 0.5)
        if self._form == "bar" and delay == 0:
            self._open()

    def _open(self) -> None:
        """Draw the bar."""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=self._delay > 0,
        )
        self._task = self._bar.add_task(self._name, total=self._total, completed=self._done)
        self._bar.start()

    def advance(self) -> None:
        """Count one more unit."""
        self._done += 1
        now = time.monotonic()
        if self._bar is not None:
            self._bar.advance(self._task)
        elif self._form == "none" or now - self._start < self._delay:
            return
        elif self._form == "bar":
            self._open()
        elif now - self._last >= self._every:
            self._last = now
            rate = (self._done - self._begin) / (now - self._start)
            left = (self._total - self._done) / rate
            text = f"{self._name}: {self._done}/{self._total}, ETA {left:.0f} s"
            if self._form == "lines":
                tell(text)
            else:
                self._replace(text)

    def _replace(self, text: str) -> None:
        """Write a line over the one before it."""
        with suppress(OSError, ValueError):
            print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)
            self._written = True

    def close(self) -> None:
        """Restore the terminal."""
        if self._bar is not None:
            with suppress(OSError):  # a terminal that is gone
                self._bar.stop()
        if self._written:
            self._replace(f"{self._name}: {self._done}/{self._total}")
            tell("")
