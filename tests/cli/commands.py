"""The command line, in this process where nothing speaks against it, with settings that take no time."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

from noisyrnn.cli import main


def noisyrnn(*words: object) -> subprocess.CompletedProcess[str]:
    """A command in this process: what it prints and how it ends."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(list(map(str, words)))
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def in_a_process(*words: object) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, which takes seconds to start."""
    command = [sys.executable, "-m", "noisyrnn", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


SMALL = ("--hidden-size", 4, "--epochs", 2, "--batch-size", 16)
