"""Anonymous description of the machine, and the memory of a step."""

import ctypes
import gc
import importlib.metadata
import os
import platform
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import noisyrnn

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20


def describe_machine(device: str) -> dict[str, Any]:
    """Processor, cores, memory and versions; no names of hosts or users."""
    packages = ("torch", "numpy", "jax", "torchsde", "triton")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(_memory() / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "compiler": _compiler(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "noisyrnn": noisyrnn.__version__,
        **{package: _version(package) for package in packages},
    }


def shown_command(arguments: Sequence[str]) -> str:
    """The command line, absolute paths cut down to their last part."""
    return shlex.join(["python", "-m", "benchmarks.step", *(without_paths(word) for word in arguments)])


def without_paths(text: str) -> str:
    """`text` with the folders of absolute paths left out."""
    return re.sub(r"(?<![\w.])/(?:[\w.+@-]+/)*", "", text)


class Others:
    """How much of the machine other processes take, from its making on.

    Args:
        processes: Ids of further processes that do not count as others.
    """

    def __init__(self, processes: Sequence[int]) -> None:
        self._processes = [os.getpid(), *processes]
        self._start = self._read()

    def cores(self) -> float | None:
        """Cores that they kept busy on average; `None` where the system does not tell, or a process has ended."""
        now = self._read()
        if now is None or self._start is None:
            return None
        (busy, ours, clock), (busy_then, ours_then, clock_then) = now, self._start
        return max(busy - busy_then - (ours - ours_then), 0.0) / max(clock - clock_then, 1e-9)

    def _read(self) -> tuple[float, float, float] | None:
        """Seconds of all processors' work, of our processes', and of the clock."""
        try:
            system = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
            ours = [Path(f"/proc/{p}/stat").read_text().rpartition(")")[2].split()[11:13] for p in self._processes]
        except OSError:
            return None
        ticks = os.sysconf("SC_CLK_TCK")
        busy = sum(system) - system[3] - system[4]  # all but idle and waiting for files; the host's steal counts
        return busy / ticks, sum(int(word) for pair in ours for word in pair) / ticks, time.monotonic()


def bind(threads: int) -> None:
    """Keep this process, and threads it starts later, to the first `threads` of its cores.

    Raises:
        OSError: If this system cannot.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise OSError("this system cannot bind a process to its cores")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def limit_memory(share: float) -> None:
    """Refuse this process more than a share of the machine's memory, so that it fails and not the machine.

    Only on Linux; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (int(share * _memory()), resource.RLIM_INFINITY))


def give_back_memory() -> None:
    """Return what is free to the system, so that idle processes hold little."""
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except AttributeError:
            return  # another C library, without malloc_trim


def resident_memory() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    return _status("VmRSS") if STATUS.is_file() else 0


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """MiB that `run` needs at its peak above what is in use before: of the process, or of the GPU.

    Raises:
        OSError: If the system does not tell the peak.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    give_back_memory()
    try:
        RESET.write_text("5")  # the peak starts again from what is resident now
        before = _status("VmRSS")
    except OSError:
        raise OSError("this system does not tell a process's peak memory") from None
    run()
    return (_status("VmHWM") - before) / MIB


def _memory() -> int:
    """Bytes of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _status(key: str) -> int:
    """Bytes of one line of the process's status."""
    found = re.search(rf"^{key}:\s+(\d+) kB", STATUS.read_text(), flags=re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _processor() -> str:
    """Name and, where the name says little, family and model."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    parts = {key: re.search(rf"^{key}\s*:\s*(.+)$", text, flags=re.MULTILINE) for key in ("model name", "cpu family")}
    family, model = parts["cpu family"], re.search(r"^model\s*:\s*(.+)$", text, flags=re.MULTILINE)
    name = parts["model name"][1] if parts["model name"] else platform.machine()
    return f"{name} (family {family[1]}, model {model[1]})" if family and model else name


def _compiler() -> str | None:
    path = shutil.which("c++")
    if path is None:
        return None
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()
    return said[0] if said else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
