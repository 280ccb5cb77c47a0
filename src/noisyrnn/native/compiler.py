"""Compiles the CPU kernel with the system's compiler at its first use, and keeps the result for the next process."""

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch

from noisyrnn.files import write_atomically

_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma")
LEVELS: dict[str, tuple[str, ...]] = {
    "amx": (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
    "avx512bf16": (*_AVX512, "-mavx512bf16"),
    "avx512": _AVX512,
    "avx2": ("-mavx2", "-mfma"),
    "portable": (),
}
"""Instruction sets, widest first, and the compiler's flags for them."""

_FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-ffp-contract=fast", "-fno-math-errno")
_COMPILERS = ("c++", "g++", "clang++")
LEVEL = "NOISYRNN_CPU_LEVEL"
"""Environment variable that names one of `LEVELS`."""
_SOURCES = Path(__file__).parent
_CPUINFO = Path("/proc/cpuinfo")
_ARCH_PRCTL, _REQUEST_FEATURE, _TILE_DATA = 158, 0x1023, 18
"""The system call arch_prctl with ARCH_REQ_XCOMP_PERM, and the number of the tiles."""
_SECONDS = 120


class CompilerError(RuntimeError):
    """The kernel could not be compiled or loaded; the message says why."""


def level() -> str:
    """The widest instruction set of this processor, or what the environment variable NOISYRNN_CPU_LEVEL names.

    Raises:
        CompilerError: If the variable names none of `LEVELS`, or one that this processor lacks.
    """
    widest = {"AVX512": _widest_avx512(), "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "portable")
    named = os.environ.get(LEVEL)
    if not named:
        return widest
    if named not in LEVELS:
        raise CompilerError(f"{LEVEL} must be one of {', '.join(LEVELS)}, got {named!r}")
    order = list(LEVELS)
    if order.index(named) < order.index(widest):
        usable = ", ".join(order[order.index(widest) :])
        raise CompilerError(f"{LEVEL} must be one of {usable} on this processor, got {named!r}")
    return named


def _widest_avx512() -> str:
    """The widest of the sets that contain AVX-512, as Linux lists and allows them."""
    try:
        listed = re.search(r"^flags\s*:(.*)$", _CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        listed = None
    flags = set() if listed is None else set(listed[1].split())
    if "avx512_bf16" not in flags:
        return "avx512"
    return "amx" if {"amx_tile", "amx_bf16"} <= flags and _may_use_tiles() else "avx512bf16"


def _may_use_tiles() -> bool:
    """Whether Linux lets this process use the tiles of AMX, which it has to ask for."""
    return platform.machine() == "x86_64" and ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_FEATURE, _TILE_DATA) == 0


def cache_folder() -> Path:
    """Where compiled kernels are kept: NOISYRNN_CACHE, or `noisyrnn` in the user's cache folder."""
    named = os.environ.get("NOISYRNN_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "noisyrnn"


@functools.cache
def library(instructions: str) -> ctypes.CDLL:
    """The kernel for one of `LEVELS`, compiled if no earlier process did it.

    Raises:
        CompilerError: If there is no compiler, it fails, or its result does not load.
    """
    compiler = _compiler()
    sources = sorted(path for path in _SOURCES.iterdir() if path.suffix in (".h", ".cpp"))
    flags = (*_FLAGS, *(LEVELS[instructions] if platform.machine() in ("x86_64", "AMD64") else ()))
    digest = hashlib.sha256(repr((compiler, flags, platform.machine(), platform.system())).encode())
    for source in sources:
        digest.update(source.read_bytes())
    stem = f"cpu-{instructions}-{digest.hexdigest()[:16]}"
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = folder.resolve()
        reason = exposed(folder)
        if reason is None:
            return _kept(folder, stem) or _loaded(_compile(compiler, flags, folder, stem))
    except (OSError, RuntimeError) as error:
        if isinstance(error, CompilerError):
            raise
        reason = str(error)
    warnings.warn(
        f"the compiled CPU kernel cannot be kept ({reason}), so every process compiles it again. "
        "Set NOISYRNN_CACHE to a folder that can be written, by you only.",
        stacklevel=2,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="noisyrnn-") as private:
            # Stays mapped after the file is gone.
            return _loaded(_compile(compiler, flags, Path(private), stem))
    except OSError as error:
        raise CompilerError(f"there is no folder to compile in: {error}") from error


def exposed(folder: Path) -> str | None:
    """Why others could put a library into a folder, which this process would then run; `None` if they cannot.

    Args:
        folder: Without symbolic links.
    """
    for place in (folder, *folder.parents):
        if not _ours(place.lstat(), sticky=place != folder):
            return f"{place} belongs to another user or can be written by others"
    return None


def _ours(state: os.stat_result, *, sticky: bool = False) -> bool:
    """Whether a file or folder is no link and belongs to this user or the system, and others cannot write it.

    Args:
        state: Of the file or folder.
        sticky: Whether others may write a folder in which nobody can move what belongs to somebody else.
    """
    if not hasattr(os, "getuid"):  # Windows keeps a user's folders to himself
        return True
    closed = not state.st_mode & 0o022 or (sticky and state.st_mode & stat.S_ISVTX)
    return state.st_uid in (os.getuid(), 0) and bool(closed) and not stat.S_ISLNK(state.st_mode)


def _compiler() -> tuple[str, ...]:
    """The compiler and, where CXX has more than one word ("ccache g++"), what follows it."""
    named = os.environ.get("CXX", "").split()
    for candidate in named[:1] or _COMPILERS:
        found = shutil.which(candidate)
        if found:
            return found, *named[1:]
    raise CompilerError(f"no C++ compiler was found (looked for {', '.join(named[:1] or _COMPILERS)})")


def _kept(folder: Path, stem: str) -> ctypes.CDLL | None:
    """What an earlier process compiled, if all of it is there: to load half a file can end the process."""
    for path in folder.glob(f"{stem}-*.so"):
        if _ours(path.lstat()) and path.name == _full_name(stem, path.read_bytes()):
            try:
                return ctypes.CDLL(str(path))
            except OSError:  # another system's
                continue
    return None


def _full_name(stem: str, content: bytes) -> str:
    """A library's name, which holds a digest of its bytes."""
    return f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}.so"


def _compile(compiler: tuple[str, ...], flags: tuple[str, ...], folder: Path, stem: str) -> Path:
    """Compile in a temporary folder, then write the file to `folder` in one step: others see all of it or nothing.

    What writers that died have left in `folder` is removed. A linker may replace its output file, and with it a lock
    that would show that the writer lives, so it writes elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix="noisyrnn-") as elsewhere:
        output = Path(elsewhere) / "loop.so"
        command = [*compiler, *flags, "-o", str(output), str(_SOURCES / "loop.cpp")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            raise CompilerError(f"the compiler {compiler[0]} could not run: {error}") from error
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise CompilerError(f"the compiler {compiler[0]} failed: {lines[0] if lines else 'without a word'}")
        content = output.read_bytes() if output.is_file() else b""
    path = folder / _full_name(stem, content)
    write_atomically(path, content, mode=0o700)
    return path


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CompilerError(f"the compiled kernel does not load: {error}") from error
