"""A terminal of a given width, and what a command shows in it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading


def in_a_terminal(*words: object, width: int) -> tuple[int, list[str], str]:
    """A command in a pseudo-terminal: its exit status, the lines of its stdout, and its stderr without styles."""
    streams, texts = {name: pty.openpty() for name in ("stdout", "stderr")}, dict.fromkeys(("stdout", "stderr"), b"")
    for _, end in streams.values():
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "noisyrnn", *map(str, words)],
        stdin=subprocess.DEVNULL,
        env=environment | {"TERM": "xterm-256color"},
        **{name: end for name, (_, end) in streams.items()},
    )

    def read(name: str) -> None:
        while True:
            try:
                found = os.read(streams[name][0], 65536)
            except OSError:  # the end, on Linux
                return
            if not found:
                return
            texts[name] += found

    readers = [threading.Thread(target=read, args=(name,)) for name in streams]
    for _, end in streams.values():
        os.close(end)
    for reader in readers:
        reader.start()
    status = process.wait(timeout=120)
    for reader in readers:
        reader.join()
    for begin, _ in streams.values():
        os.close(begin)
    plain = {name: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode()) for name, text in texts.items()}
    return status, plain["stdout"].replace("\r\n", "\n").splitlines(), plain["stderr"]
