"""SQLite files that several processes share: named by an address, and made whole or not at all."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from noisyrnn.run_folder import create_part, remove_leftovers


def sqlite_url(path: Path) -> str:
    """The address of a SQLite file, whatever characters its path holds.

    Example:
        >>> sqlite_url(Path("a?b/x%41.db"))
        'sqlite:///a%3Fb/x%2541.db'
    """
    return "sqlite:///" + path.as_posix().replace("%", "%25").replace("?", "%3F")


def sqlite_path(url: str) -> Path | None:
    """The file behind an address; `None` if it is not the address of a SQLite file."""
    from sqlalchemy import make_url

    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or "uri" in parsed.query:
        return None
    return Path(parsed.database)


def create_whole(path: Path, create: Callable[[str], None]) -> None:
    """Make a SQLite file where there is none: killed at any time, or at once with others, it is whole or not there.

    Args:
        path: Of the file; an empty one counts as none.
        create: Makes its tables, given the address of a file beside it, and closes it.
    """
    remove_leftovers(path.parent)
    for journal in path.parent.glob(f".{path.name}.*.part-*"):  # SQLite's own, of a file that was not finished
        if not journal.with_name(journal.name.rpartition("-")[0]).exists():
            journal.unlink(missing_ok=True)
    if path.is_file() and path.stat().st_size:
        return
    descriptor, part = create_part(path)
    try:
        create(sqlite_url(part))
        try:
            os.link(part, path)
        except FileExistsError:  # empty, or another process was faster
            with _locked(path):
                if path.stat().st_size == 0:
                    os.replace(part, path)
        except OSError:  # a file system without links
            os.replace(part, path)
    finally:
        os.close(descriptor)
        for leftover in path.parent.glob(f"{part.name}*"):
            leftover.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of an empty file: one process at a time replaces it."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes that meet the same empty file at once may collide
        yield
        return
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
