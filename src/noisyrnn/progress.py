"""Shows the progress of long computations on stderr."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Literal

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


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


EpochListener = Callable[[str, int], None]
"""Called with the folder of a run and the number of its last finished epoch."""

_LISTENERS: list[EpochListener] = []


@contextmanager
def listening(listener: EpochListener) -> Iterator[None]:
    """Have `listener` called whenever an epoch of a run ends in this process."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


def announce_epoch(run: str, epoch: int) -> None:
    """Tell the listeners of this process that an epoch of a run has ended."""
    for listener in _LISTENERS:
        listener(run, epoch)


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

    def advance(self, units: int = 1) -> None:
        """Count more units."""
        self._done += units
        now = time.monotonic()
        if self._bar is not None:
            self._bar.advance(self._task, units)
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


class RunsBar:
    """Shows the progress of many runs in one bar: their epochs, the time left for all, and the last result.

    On a terminal the last result stands below the bar; elsewhere a line is written at intervals.

    Args:
        epochs: Epochs of each run, by its folder.
        done: Epochs that were done before, by folder; none for a run that is not named.
        shown: Whether to show anything; `None`: on a terminal and in a notebook only.
        every: Seconds between two lines if stderr is not a terminal.
    """

    def __init__(
        self,
        epochs: Mapping[str, int],
        *,
        done: Mapping[str, int] | None = None,
        shown: bool | None = True,
        every: float = 15.0,
    ) -> None:
        self._epochs = dict(epochs)
        self._done = dict.fromkeys(epochs, 0) | {run: count for run, count in (done or {}).items() if run in epochs}
        self._ended: set[str] = set()
        self._begin, self._start, self._every = sum(self._done.values()), time.monotonic(), every
        self._last, self._changed = self._start, self._start
        self._result = ""
        self._shown = resolve_shown(shown) and sys.stderr is not None
        self._bar: _BarWithNote | None = None
        if self._shown and sys.stderr.isatty():
            self._bar = _BarWithNote(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("epochs"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                _TimeLeft(self),
                console=Console(stderr=True),
                expand=True,
            )
            self._task = self._bar.add_task(self._title, total=self.total, completed=self.done)
            self._bar.start()

    @property
    def total(self) -> int:
        """Epochs of all runs."""
        return sum(self._epochs.values())

    @property
    def done(self) -> int:
        """Epochs that have ended."""
        return sum(self._done.values())

    @property
    def seconds_left(self) -> float | None:
        """Time left at the rate so far, the time of evaluations included; `None` before the first epoch ends."""
        here = self.done - self._begin
        if here <= 0:
            return None
        spent = self._changed - self._start
        return max(0.0, spent * (self.total - self.done) / here - (time.monotonic() - self._changed))

    @property
    def _title(self) -> str:
        return f"runs {len(self._ended)}/{len(self._epochs)}"

    def epoch(self, run: str, epoch: int) -> None:
        """Count the epochs of a run up to `epoch`."""
        if run in self._done and epoch > self._done[run]:
            self._done[run] = epoch
            self._changed = time.monotonic()
            self._show()

    def end(self, run: str, *, epochs: int | None = None, result: str = "") -> None:
        """Count a run as ended, after fewer epochs than planned if it stopped early or failed.

        Args:
            run: Its folder.
            epochs: Its epochs; `None` for those that were counted.
            result: Shown as the last result, if there is one.
        """
        if run in self._ended or run not in self._epochs:
            return
        self._ended.add(run)
        self._epochs[run] = self._done[run] = self._done[run] if epochs is None else epochs
        self._result = result or self._result
        self._changed = time.monotonic()
        self._show()

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.note = f"Last: {self._result}" if self._result else ""
            self._bar.update(self._task, description=self._title, total=self.total, completed=self.done)
        elif self._shown and time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            left = self.seconds_left
            eta = "" if left is None else f", ETA {left:.0f} s"
            last = f"; last: {self._result}" if self._result else ""
            tell(f"{self._title}: epochs {self.done}/{self.total}{eta}{last}")

    def close(self) -> None:
        """Restore the terminal."""
        if self._bar is not None:
            with suppress(OSError):  # a terminal that is gone
                self._bar.stop()


class _BarWithNote(Progress):
    """A bar with a line of text below it."""

    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the bar, and the note."""
        yield from super().get_renderables()
        if self.note:
            yield Text(self.note, overflow="ellipsis", no_wrap=True)


class _TimeLeft(ProgressColumn):
    """The time left for all runs."""

    def __init__(self, runs: RunsBar) -> None:
        super().__init__()
        self._runs = runs

    def render(self, task: Task) -> Text:
        """Return hours, minutes and seconds."""
        left = self._runs.seconds_left
        if left is None:
            return Text("-:--:--", style="progress.remaining")
        minutes, seconds = divmod(round(left), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}", style="progress.remaining")
