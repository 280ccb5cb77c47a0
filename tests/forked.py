"""Processes of their own that start at once: forked from a server that has loaded what a training needs."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["lightning_fabric", "noisyrnn.cli.train", "tests.forked", "torch._dynamo"])


class Forked:
    """A call in a process of its own, with the attributes of `subprocess.Popen` and its output in files.

    Args:
        folder: Where the files for the output are made.
        function: Called with `arguments`; what it returns is the exit status, None for 0. Processes find it by its
            name, so it must be one of a module.
        environment: Variables of the environment beside those of this process.
    """

    def __init__(
        self, folder: Path, function: Callable[..., object], *arguments: Any, environment: Mapping[str, str] = {}
    ) -> None:
        number = len(list(folder.glob("forked-*")))
        self.output = [folder / f"forked-{number}-{name}" for name in ("out", "err")]
        for path in self.output:
            path.touch()
        variables = {**os.environ, **environment}
        self._process = _CONTEXT.Process(target=_call, args=(self.output, variables, function, arguments))
        self._process.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, minus the number of the signal that killed it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to it."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """What it wrote until its end."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise TimeoutError(f"still running after {timeout} s: {self.read()}")
        return self.read()

    def read(self) -> tuple[str, str]:
        """What it has written so far."""
        out, err = (path.read_text(errors="replace") for path in self.output)
        return out, err


def command(words: Sequence[object], prepare: Callable[[], None] | None = None) -> int:
    """The command line in such a process, after a change of that process."""
    from noisyrnn.cli import main

    if prepare is not None:
        prepare()
    return main(list(map(str, words)))


def _call(
    output: Sequence[Path], environment: Mapping[str, str], function: Callable[..., object], arguments: Sequence[Any]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(output, start=1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    # Lines arrive at once, as a reader of the files expects.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(function(*arguments))  # type: ignore[arg-type]


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)
