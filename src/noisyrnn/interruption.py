"""Signals that ask a command to stop, and processes that end together."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


class Interruption(KeyboardInterrupt):
    """A signal asked this process to stop; a `KeyboardInterrupt`, so that nothing takes it for an error.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def signal_of(error: KeyboardInterrupt) -> int:
    """The signal behind an interruption: the exit status is 128 plus this number."""
    return int(getattr(error, "number", signal.SIGINT))


class StopRequest:
    """Whether a signal has asked to stop, and which one.

    Attributes:
        number: Of the signal; `None` before there is one.
    """

    number: int | None = None

    @property
    def made(self) -> bool:
        """Whether there was a signal."""
        return self.number is not None

    def error(self) -> Interruption:
        """What to raise once everything is saved; without a signal here, another process had one."""
        return Interruption(signal.SIGINT if self.number is None else self.number)


@contextmanager
def graceful_interrupt() -> Iterator[StopRequest]:
    """Turn the first signal of each kind into a request that a loop can honour between two steps.

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
    """Raise `Interruption` in the main thread at the first signal, where the loop within asks for nothing else."""

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


def alive(process: int) -> bool:
    """Whether a process of this machine exists; where there is no harmless way to ask, it is taken to."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
