"""The command line in a process of its own, with settings that take no time."""

import subprocess
import sys
from pathlib import Path


def noisyrnn(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "noisyrnn", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)


SMALL = ("--hidden-size", 4, "--epochs", 2, "--batch-size", 16)
