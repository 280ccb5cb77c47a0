"""Refusal of files whose content would not fit into memory, before any of it is allocated."""

import os
from pathlib import Path

_CONTROL_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNKNOWN = 2**34


def memory() -> int:
    """Bytes of memory that this process can have: of the machine, its control group or its own limit."""
    found = [_UNKNOWN]
    if hasattr(os, "sysconf"):
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, _CONTROL_GROUPS):
        if path.is_file() and (text := path.read_text().strip()).isdecimal():
            found.append(int(text))
    try:
        import resource
    except ImportError:  # not on Windows
        return min(found)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min(found if limit == resource.RLIM_INFINITY else [*found, limit])


def largest_array() -> int:
    """Bytes of the largest array that is read: what is made of it takes a few times as much."""
    return memory() // 4


def largest_text() -> int:
    """Bytes of the longest text that is read: the numbers parsed from it take several times as much."""
    return memory() // 8


def check_size(what: str, size: int, largest: int) -> None:
    """Raise `ValueError` if `what`, of so many bytes, is larger than `largest`."""
    if size > largest:
        raise ValueError(
            f"{what} must take at most {largest / 1e9:.3g} GB, to fit into memory, got at least {size / 1e9:.3g} GB. "
            "Is the file damaged? Else use fewer sequences or a machine with more memory."
        )
