"""Rejects files whose content would not fit into memory, before any of it is allocated."""

import os
from pathlib import Path

_CONTROL_GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNKNOWN = 2**34


def memory() -> int:
    """Return the bytes of memory available to this process: limit of the machine, its control group or the process."""
    limits = [_UNKNOWN]
    if hasattr(os, "sysconf"):
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, _CONTROL_GROUPS):
        if path.is_file() and (text := path.read_text().strip()).isdecimal():
            limits.append(int(text))
    try:
        import resource
    except ImportError:  # not on Windows
        return min(limits)
    own_limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min(limits if own_limit == resource.RLIM_INFINITY else [*limits, own_limit])


def largest_array() -> int:
    """Return the bytes of the largest array that is read: processing takes a few times as much."""
    return memory() // 4


def largest_text() -> int:
    """Return the bytes of the longest text that is read: its parsed numbers take several times as much."""
    return memory() // 8


def check_size(what: str, size: int, largest: float) -> None:
    """Raise `ValueError` if `what` takes more than `largest` bytes."""
    if size > largest:
        raise ValueError(
            f"{what} must take at most {largest / 1e9:.3g} GB, to fit into memory, got at least {size / 1e9:.3g} GB. "
            "Is the file damaged? Else use fewer sequences, or give a folder of .npy, .npz or .parquet files, which is "
            "read while it is used."
        )
