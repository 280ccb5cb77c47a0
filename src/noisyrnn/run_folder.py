"""The folder of one run: which files it holds, and how they are written, checked and locked."""

import csv
import hashlib
import io
import json
import os
import re
import secrets
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

try:
    import fcntl
except ImportError:  # Windows: no locks, so leftovers stay
    fcntl = None  # type: ignore[assignment]

FORMAT = 3
"""Of the JSON files and checkpoints of a run folder; version 0.1 wrote format 2."""
LARGEST_JSON = 1 << 29
"""Bytes: a larger file is not read, since none of ours comes near."""

_PART = re.compile(r"\..+\.[0-9a-f]{16}\.part", re.DOTALL)
_LOCK = ".lock"
_held: dict[Path, tuple[int, int]] = {}
"""Lock files that this process holds, with the process and the thread that took each."""

_WORDS = {
    "train": "the training part",
    "validation": "the validation part",
    "test": "the test part",
    "config": "config.json",
    "model": "model.safetensors",
    "results": "the way noisyrnn computes it",
}


def failure_message(error: BaseException) -> str:
    """What the command line prints of an error that ends a run, and what `summary.json` keeps."""
    if isinstance(error, MemoryError):
        reason = f" ({str(error).rstrip('.')})" if str(error) else ""
        return f"Memory ran out{reason}. Use smaller sizes, fewer workers or a larger machine."
    return str(error) or type(error).__name__


class WriteError(OSError):
    """A file could not be written. Its message names the file and the cause."""

    def __str__(self) -> str:
        return f"{self.filename} could not be written ({self.strerror}). Files that were saved before are unchanged."


def write_atomically(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Replace `path` by `content` at once: a reader, or a crash, sees the old file or the new one whole.

    What a process that was killed while it wrote has left in the same folder is removed.

    Args:
        path: Of the file.
        content: All of it.
        mode: Permissions, whatever the umask is; those of a new file by default.

    Raises:
        WriteError: If it cannot be written, for example because the disk is full.
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
            os.replace(part, path)  # before its lock is gone, else it could be taken for a leftover
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def create_part(path: Path) -> tuple[int, Path]:
    """A new file next to `path`, open and locked: by a name that nobody can foresee, never through a link."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
        with suppress(OSError):  # a file system without locks: nothing is removed there either
            _flock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return descriptor, part
        os.close(descriptor)  # removed as a leftover before it was locked


def _flock(descriptor: int, *, wait: bool = False) -> None:
    """Lock an open file until it is closed, or its process ends in whatever way.

    Raises:
        BlockingIOError: If another process holds it and `wait` is false.
        OSError: If there are no locks.
    """
    if fcntl is None:
        raise OSError("no file locks on this system")
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def remove_leftovers(folder: Path) -> None:
    """Delete half-written files and the lock of processes that have ended: a living one holds a lock on its own."""
    with suppress(OSError):
        for file in (*folder.glob(".*.part"), *folder.glob(_LOCK)):
            if file.name == _LOCK or _PART.fullmatch(file.name):
                with suppress(OSError):
                    _remove_if_unlocked(file)


def _remove_if_unlocked(file: Path) -> None:
    if not stat.S_ISREG(file.lstat().st_mode):
        return
    descriptor = os.open(file, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        _flock(descriptor)
        if _is_at(descriptor, file):
            file.unlink()
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


class InUseError(ValueError):
    """Another process, or another thread of this one, works in a folder."""


@contextmanager
def locked(folder: Path, *, wait: float = 0.5) -> Iterator[None]:
    """Keep every other process out of `folder`, which is made where it is missing, until the block ends.

    The lock belongs to the process: if it ends, in whatever way, the folder is free. Within the block the same thread
    may lock the folder again. Where a file system has no locks, nothing is kept out.

    Args:
        folder: A run folder, or the output folder of a comparison.
        wait: Seconds to wait for another process.

    Raises:
        InUseError: If another process works in it.
        WriteError: If it cannot be written.
    """
    path, owner = folder.resolve() / _LOCK, (os.getpid(), threading.get_ident())
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
            path.unlink()  # while it is locked: whoever has opened it meanwhile sees that it is gone
        os.close(descriptor)


def _acquire(path: Path, deadline: float) -> int:
    """The lock file at `path`, open and locked."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise WriteError(error.errno, error.strerror or str(error), str(path)) from error
        try:
            _flock(descriptor)
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
        if _is_at(descriptor, path):
            with suppress(OSError):  # a full disk: the message is poorer
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return descriptor
        os.close(descriptor)


def to_json(content: Mapping[str, Any]) -> str:
    """`content` as JSON, with a digest of it at the end by which `read_json` notices damage."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    return json.dumps({**plain, "sha256": content_digest(plain)}, indent=1) + "\n"


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content whatever its layout; a number that JSON has not raises `ValueError`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` atomically, with the format number first and its digest last."""
    write_atomically(path, to_json({"format": FORMAT, **content}).encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of this format, without its digest.

    Raises:
        ValueError: If it cannot be read, is not JSON, was changed since it was written, or another version wrote it.
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
    found = content.get("format")
    if found != FORMAT:
        older = "noisyrnn 0.1, or train the run again in another output folder; its model.safetensors still loads"
        writer = older if found in (1, 2) else "the version of noisyrnn that wrote it"
        raise ValueError(f"{path} must be of format {FORMAT}, got {found}. Read it with {writer}.")
    digest = content.pop("sha256", None)
    try:
        whole = digest == content_digest(content)
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(
            f"{path} must be as noisyrnn wrote it, got a file that was changed or damaged since (its sha256 differs)."
        )
    return content


def _read_regular(path: Path) -> str:
    """The text of a regular file of a size that can be ours; a directory or a pipe raises `OSError`."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file")
    if status.st_size > LARGEST_JSON:
        raise ValueError(f"{status.st_size} bytes are too many")
    return path.read_text(encoding="utf-8")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def json_object(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The object under `name` in what `read_json` gave.

    Raises:
        ValueError: If there is none.
    """
    found = content.get(name)
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold an object {name!r}, got {found!r}. Train the run again.")
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path} must be a file that can be read, got an error ({error.strerror}).") from error


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records of what a result depends on, in words such as "the labels of the test part".

    A record maps a name ("test") to a value, or to one value for each of its fields ("labels").
    """
    found = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        words = _WORDS.get(name, f"the {name.replace('_', ' ')}")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            fields = [field for field in dict.fromkeys((*old, *new)) if old.get(field) != new.get(field)]
            found.append(f"the {listed(fields)} of {words}")
        else:
            found.append(words)
    return found


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), *names[-1:]])


def folder_name(name: str, identity: Mapping[str, Any], *, suffix: str = "") -> str:
    """Name of a run's or a sweep's folder: `name-suffix-digest`, such as `digits-noisy-seed1-0a1b2c3d`.

    Args:
        name: Data set and label; characters that a file name should not have become underscores.
        identity: What the digest is of: everything that the results depend on and that is not at its default, so
            that no two runs share a folder and a new setting with a default renames none.
        suffix: What else to show, such as the seed.
    """
    plain = re.sub(r"[^\w.-]+", "_", name)
    return "-".join([plain, *([suffix] if suffix else []), content_digest(identity)[:8]])


def check_writable(folder: Path) -> None:
    """Make `folder` and raise unless files can be written in it.

    Raises:
        ValueError: If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"output must be a folder that can be written to, got {folder} ({error.strerror}).") from error


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Args:
        path: Where it is.
    """

    path: Path

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run of this format.

        Raises:
            ValueError: If there is none, or another version wrote it.
        """
        folder = cls(path)
        if not os.path.lexists(folder.config):
            inside = any(path.glob("*/config.json"))
            advice = f"It holds runs; name them: {path}/*-seed*" if inside else "Train one: noisyrnn train."
            raise ValueError(f"run must be a folder that holds a config.json, got {path}. {advice}")
        remove_leftovers(path)
        folder.read_config()
        return folder

    @property
    def config(self) -> Path:
        """Settings, data set and environment."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One row for each epoch."""
        return self.path / "metrics.csv"

    @property
    def model(self) -> Path:
        """Weights of the best epoch on validation data."""
        return self.path / "model.safetensors"

    @property
    def last_model(self) -> Path:
        """Weights of the last epoch."""
        return self.path / "last.safetensors"

    @property
    def checkpoint(self) -> Path:
        """Everything needed to go on."""
        return self.path / "checkpoint.pt"

    @property
    def summary(self) -> Path:
        """How the training ended."""
        return self.path / "summary.json"

    @property
    def robustness(self) -> Path:
        """Accuracy under perturbations."""
        return self.path / "robustness.json"

    @property
    def analysis(self) -> Path:
        """Theory diagnostics."""
        return self.path / "analysis.json"

    @property
    def finished(self) -> bool:
        """Whether training reached its end."""
        return self.read_summary()["status"] == "finished"

    def read_config(self) -> dict[str, Any]:
        """What `config.json` holds: at least the objects `config`, with a label and a seed, and `dataset`.

        Raises:
            ValueError: If it cannot be read, or lacks one of them.
        """
        content = read_json(self.config)
        settings = json_object(content, "config", self.config)
        for name in ("dataset", "environment"):
            if name in content:
                json_object(content, name, self.config)
        label, seed = settings.get("label"), settings.get("seed")
        if not isinstance(label, str) or type(seed) is not int:
            raise ValueError(
                f"{self.config} must hold a label and an integer seed, got {label!r} and {seed!r}. Train the run again."
            )
        return {"dataset": {}, "environment": {}, **content}

    def config_digest(self) -> str:
        """SHA-256 of what `config.json` holds, but for the version and the environment: no result depends on these."""
        content = self.read_config()
        return content_digest({name: content[name] for name in content if name not in ("version", "environment")})

    def foreign_model(self) -> str:
        """Why `model.safetensors` is not the file that the training of this run wrote; empty if it is, or is not known.

        Raises:
            ValueError: If a file cannot be read.
        """
        written = self.read_summary().get("model_sha256")
        if written is None or not os.path.lexists(self.model) or written == file_digest(self.model):
            return ""
        return f"{self.model} is not the file that the training of this run wrote, but one that was put there since."

    def read_summary(self) -> dict[str, Any]:
        """What `summary.json` holds: `status` is "finished" or "failed", and "unfinished" where there is no file.

        Raises:
            ValueError: If it cannot be read, or has no such status.
        """
        if not os.path.lexists(self.summary):
            return {"status": "unfinished"}
        content = read_json(self.summary)
        status = content.get("status")
        if status not in ("finished", "failed"):
            raise ValueError(
                f"{self.summary} must hold the status 'finished' or 'failed', got {status!r}. Train the run again."
            )
        return content

    def write_metrics(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Replace the metrics by `rows`, all with the same keys."""
        rows = list(rows)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.metrics, text.getvalue().encode())
