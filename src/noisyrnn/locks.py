"""Locks that keep other processes and threads out of a folder."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from noisyrnn.files import LOCK_NAME, WriteError, is_same_file, lock_file

_held: dict[Path, tuple[int, int]] = {}
"""Lock files that this process holds, each with the process and the thread that took it."""


class InUseError(ValueError):
    """Raised when another process, or another thread of this one, holds the lock of a folder."""


@contextmanager
def locked(folder: Path, *, wait: float = 0.5) -> Iterator[None]:
    """Lock `folder` against other processes and threads until the block ends; create it where it is missing.

    The lock ends with its process, even if that is killed. Within the block the same thread may lock the folder again.
    On a file system without locks the folder is not protected.

    Args:
        folder: A run folder, or the output folder of a comparison.
        wait: Seconds to wait for another process to release the lock.

    Raises:
        InUseError: If another process or thread holds the lock.
        WriteError: If the lock file cannot be written.
    """
    path, owner = folder.resolve() / LOCK_NAME, (os.getpid(), threading.get_ident())
    if _held.get(path) == owner:
        yield
        return
    descriptor = _acquire(path, time.monotonic() + wait)
    _held[path] = owner
    try:
        yield
    finally:
        del _held[path]
        with suppress(OSError):
            path.unlink()  # while it is locked: a process that has opened it meanwhile sees that it is gone
        os.close(descriptor)


def _acquire(path: Path, deadline: float) -> int:
    """Open and lock the lock file at `path`; return its descriptor."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise WriteError(error.errno, error.strerror or str(error), str(path)) from error
        try:
            lock_file(descriptor)
        except BlockingIOError:
            user = os.read(descriptor, 300).decode(errors="replace") or "another process"
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise InUseError(
                    f"{path.parent} must not be in use, got {user}, which works in it. Wait until it ends, or end it."
                ) from None
            time.sleep(0.05)
            continue
        except OSError:  # a file system without locks
            return descriptor
        if is_same_file(descriptor, path):
            with suppress(OSError):  # a full disk: the message is poorer
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return descriptor
        os.close(descriptor)
