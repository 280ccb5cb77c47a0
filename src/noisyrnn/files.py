"""Files written whole or not at all, and JSON files that show whether they were changed since."""

import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

try:
    import fcntl
except ImportError:  # Windows: no locks, so leftovers stay
    fcntl = None  # type: ignore[assignment]

FORMAT = 3
"""Format number of the JSON files and checkpoints of a run folder; version 0.1 wrote format 2."""
LARGEST_JSON = 1 << 29
"""Size limit of a JSON file in bytes, far above any that noisyrnn writes."""
LOCK_NAME = ".lock"
"""Name of the file that locks its folder."""

_PART = re.compile(r"\..+\.[0-9a-f]{16}\.part", re.DOTALL)


class WriteError(OSError):
    """Raised when a file cannot be written; the message names the file and the cause."""

    def __str__(self) -> str:
        return f"{self.filename} could not be written ({self.strerror}). Files that were saved before are unchanged."


def write_atomically(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Replace the file at `path` in one step, so that a reader, or a crash, sees the old file or the new one whole.

    Half-written files that killed processes left in the same folder are removed.

    Args:
        path: The file to write.
        content: All its bytes.
        mode: Permissions, whatever the umask is (default: those of a new file).

    Raises:
        WriteError: If the file cannot be written, for example because the disk is full.
    """
    path = Path(path)
    remove_leftovers(path.parent)
    part = None
    try:
        descriptor, part = create_part(path)
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)  # while it is locked: without a lock it could be removed as a leftover
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def create_part(path: Path) -> tuple[int, Path]:
    """Create, open and lock a new file next to `path`, under an unpredictable name and never through a link."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
        with suppress(OSError):  # a file system without locks: nothing is removed there either
            lock_file(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return descriptor, part
        os.close(descriptor)  # removed as a leftover before it was locked


def lock_file(descriptor: int, *, wait: bool = False) -> None:
    """Lock an open file until it is closed or its process ends.

    Raises:
        BlockingIOError: If another process holds the lock and `wait` is false.
        OSError: If the system or the file system has no locks.
    """
    if fcntl is None:
        raise OSError("no file locks on this system")
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def remove_leftovers(folder: Path) -> None:
    """Delete the half-written files and the folder lock of processes that have ended; a live one locks its files."""
    with suppress(OSError):
        for file in (*folder.glob(".*.part"), *folder.glob(LOCK_NAME)):
            if file.name == LOCK_NAME or _PART.fullmatch(file.name):
                with suppress(OSError):
                    _remove_if_unlocked(file)


def _remove_if_unlocked(file: Path) -> None:
    if not stat.S_ISREG(file.lstat().st_mode):
        return
    descriptor = os.open(file, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        lock_file(descriptor)
        if is_same_file(descriptor, file):
            file.unlink()
    finally:
        os.close(descriptor)


def is_same_file(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def json_ready(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` as it comes back from a JSON file, for instance with lists in place of tuples.

    Raises:
        ValueError: If it holds NaN or infinity.
    """
    ready: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    return ready


def to_json(content: Mapping[str, Any]) -> str:
    """Return `content` as JSON that ends with its digest, by which `read_json` detects damage."""
    ready = json_ready(content)
    return json.dumps({**ready, "sha256": content_digest(ready)}, indent=1) + "\n"


def content_digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the content, independent of its layout; NaN and infinity raise `ValueError`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` atomically as JSON, with the format number first and the digest last."""
    write_atomically(path, to_json({"format": FORMAT, **content}).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file that `write_json` wrote, without its digest.

    Raises:
        ValueError: If it cannot be read, is not JSON, was changed since it was written, or has another format number.
    """
    try:
        text = _read_regular(path)
        content = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(content, dict):
            raise ValueError(f"it holds {type(content).__name__}, not an object")
    except OSError as error:
        raise ValueError(f"{path} must be a file that can be read, got an error ({error.strerror}).") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} must be a JSON file, got one that breaks off or is damaged ({error}).") from error
    version = content.get("format")
    if version != FORMAT:
        older = "noisyrnn 0.1, or train the run again in another output folder; its model.safetensors still loads"
        writer = older if version in (1, 2) else "the version of noisyrnn that wrote it"
        raise ValueError(f"{path} must be of format {FORMAT}, got {version}. Read it with {writer}.")
    digest = content.pop("sha256", None)
    try:
        unchanged = digest == content_digest(content)
    except (ValueError, RecursionError):
        unchanged = False
    if not unchanged:
        raise ValueError(
            f"{path} must be as noisyrnn wrote it, got a file that was changed or damaged since (its sha256 differs)."
        )
    return content


def _read_regular(path: Path) -> str:
    """Return the text of a regular file up to `LARGEST_JSON`; a directory or a pipe raises `OSError`."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file")
    if status.st_size > LARGEST_JSON:
        raise ValueError(f"{status.st_size} bytes are too many")
    return path.read_text(encoding="utf-8")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        ValueError: If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path} must be a file that can be read, got an error ({error.strerror}).") from error


def check_writable(folder: Path) -> None:
    """Create `folder` where it is missing and check that files can be written in it.

    Raises:
        ValueError: If it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"output must be a folder that can be written to, got {folder} ({error.strerror}).") from error
