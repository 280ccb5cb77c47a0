"""Turns signals that ask a command to stop into requests or exceptions."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


class Interruption(KeyboardInterrupt):
    """Raised when a signal asked this process to stop; a `KeyboardInterrupt`, so that it is not caught as an error.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def signal_of(error: KeyboardInterrupt) -> int:
    """Return the number of the signal behind an interruption; the exit status is 128 plus this number."""
    return int(getattr(error, "number", signal.SIGINT))


class StopRequest:
    """Records whether a signal has asked to stop, and which one.

    Attributes:
        number: Of the signal; `None` before there is one.
    """

    number: int | None = None

    @property
    def made(self) -> bool:
        """Whether there was a signal."""
        return self.number is not None

    def error(self) -> Interruption:
        """Return the exception to raise once everything is saved; without a signal here, another process had one."""
        return Interruption(signal.SIGINT if self.number is None else self.number)


@contextmanager
def graceful_interrupt() -> Iterator[StopRequest]:
    """Turn the first signal of each kind into a request that a loop checks between two steps.

    A second one of the same kind interrupts at once; a launcher may follow Ctrl-C with SIGTERM. Outside the main
    thread signals cannot be caught and nothing changes. A signal that this process was started to ignore, as nohup
    does with SIGHUP, stays ignored.
    """
    request = StopRequest()
    seen: set[int] = set()

    def ask(number: int, frame: FrameType | None) -> None:
        if number in seen:
            raise Interruption(number)
        seen.add(number)
        request.number = number

    with _handled_by(ask):
        yield request


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interruption` in the main thread at the first signal, unless `graceful_interrupt` is active within."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interruption(number)

    with _handled_by(stop):
        yield


@contextmanager
def _handled_by(handler: "signal._HANDLER") -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, handler) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
