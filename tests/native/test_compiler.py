"""Compiling at first use: the cache, its accidents, and what happens where nothing can be compiled.

Small sources and compilers that are scripts stand in for the real ones, which take seconds.
"""

import concurrent.futures
import multiprocessing
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from noisyrnn import NoisyRNN
from noisyrnn.files import create_part
from noisyrnn.kernels import select
from noisyrnn.native import compiler, library

SMALL = 'extern "C" int noisyrnn_lanes() { return %d; }\n'


@pytest.fixture(autouse=True)
def _afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, and no memory of libraries, failures and warnings."""
    monkeypatch.setenv("NOISYRNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", "portable")
    for name in ("CXX", "NOISYRNN_KERNEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(library, "_natives", {})
    monkeypatch.setattr(select, "_issued", set())
    compiler.library.cache_clear()
    yield
    compiler.library.cache_clear()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources that compiles at once."""
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "loop.cpp").write_text(SMALL % 4)
    monkeypatch.setattr(compiler, "_SOURCES", folder)
    return folder


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*"))


def lanes() -> int:
    compiler.library.cache_clear()
    return compiler.library("portable").noisyrnn_lanes()


def workers(count: int) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("fork"))


def trains(expected: str) -> None:
    """A model trains all the same, with one notice that says why and what runs; a named kernel is refused."""
    layer = NoisyRNN(input_size=2, hidden_size=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            layer(torch.randn(2, 4, 2))[0].sum().backward()
        layer.step(torch.randn(2, 2))
    assert layer.cell.C.grad.abs().sum() > 0
    sentences = [str(one.message) for one in caught if issubclass(one.category, select.KernelNotice)]
    assert len(sentences) == len(caught) == 1
    assert expected in sentences[0] and "eager" in sentences[0]
    layer.kernel = "cpp"
    with pytest.raises(ValueError, match="cannot run this") as refused:
        layer(torch.randn(2, 4, 2))
    assert expected in str(refused.value)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    trains("no C++ compiler was found (looked for c++, g++, clang++)")


def test_a_named_compiler_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    trains("no C++ compiler was found (looked for no-such-compiler)")


def test_a_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = script(tmp_path / "silent", "exit 1")
    monkeypatch.setenv("CXX", silent)
    trains(f"the compiler {silent} failed: without a word")
    assert kept(tmp_path) == []


def test_a_compiler_that_complains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = script(
        tmp_path / "broken", "echo 'In file loop.cpp' >&2; echo 'loop.cpp:1: error: no such thing' >&2; exit 1"
    )
    monkeypatch.setenv("CXX", broken)
    trains(f"the compiler {broken} failed: loop.cpp:1: error: no such thing")


def test_a_compiler_that_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "odd"
    odd.write_text("#!/no/such/interpreter\n")
    odd.chmod(0o755)
    monkeypatch.setenv("CXX", str(odd))
    trains(f"the compiler {odd} could not run: ")


def test_a_compiler_that_makes_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "empty", "exit 0"))
    trains("the compiled kernel does not load: ")


def test_an_unknown_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", "avx9")
    trains("NOISYRNN_CPU_LEVEL must be one of amx, avx512bf16, avx512, avx2, portable, got 'avx9'")


def test_an_instruction_set_that_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", "avx512")
    trains("NOISYRNN_CPU_LEVEL must be one of avx2, portable on this processor, got 'avx512'")


@pytest.mark.parametrize(
    ("capability", "flags", "allowed", "expected"),
    [
        ("AVX512", "avx512f avx512_bf16 amx_tile amx_bf16 amx_int8", True, "amx"),
        ("AVX512", "avx512f avx512_bf16 amx_tile amx_bf16", False, "avx512bf16"),
        ("AVX512", "avx512f avx512_bf16 amx_tile", True, "avx512bf16"),
        ("AVX512", "avx512f avx512_bf16", True, "avx512bf16"),
        ("AVX512", "avx512f avx512_bf16x amx_tile amx_bf16", True, "avx512"),
        ("AVX512", None, True, "avx512"),
        ("AVX2", "avx512_bf16 amx_tile amx_bf16", True, "avx2"),
        ("DEFAULT", "", True, "portable"),
    ],
)
def test_the_widest_instruction_set(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    flags: str | None,
    allowed: bool,
    expected: str,
) -> None:
    listed = tmp_path / "cpuinfo"
    if flags is not None:
        listed.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\nbugs\t\t: none\n")
    monkeypatch.setattr(compiler, "_CPUINFO", listed)
    monkeypatch.setattr(compiler, "_may_use_tiles", lambda: allowed)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.delenv("NOISYRNN_CPU_LEVEL")
    assert compiler.level() == expected


def test_the_compiler_may_have_arguments(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper = script(tmp_path / "wrapper", 'exec "$@"')
    monkeypatch.setenv("CXX", f"{wrapper} {compiler._compiler()[0]}")
    assert lanes() == 4


def test_the_cache_is_used(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lanes() == 4
    (only,) = kept(tmp_path)
    assert only.name.startswith("cpu-portable-") and only.suffix == ".so"
    monkeypatch.setattr(compiler, "_compile", None)  # not called again
    assert lanes() == 4


@pytest.mark.parametrize("size", [0, 100, -100], ids=["empty", "a head", "without its tail"])
def test_half_a_file_is_made_again(tmp_path: Path, sources: Path, size: int) -> None:
    """By a process of its own, since to load half a library may end it."""
    with workers(1) as pool:
        assert pool.submit(lanes).result(timeout=60) == 4
        (only,) = kept(tmp_path)
        whole = only.read_bytes()
        only.unlink()  # a new file: the worker has the old one mapped
        only.write_bytes(whole[:size])
    with workers(1) as pool:
        assert pool.submit(lanes).result(timeout=60) == 4
    assert [path.read_bytes() for path in kept(tmp_path)] == [whole]


def test_the_key_knows_sources_and_flags(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lanes() == 4
    (sources / "loop.cpp").write_text(SMALL % 8)
    assert lanes() == 8
    (sources / "more.h").write_text("// read by loop.cpp")
    assert lanes() == 8
    monkeypatch.setattr(compiler, "_FLAGS", (*compiler._FLAGS, "-g"))
    assert lanes() == 8
    assert len(kept(tmp_path)) == 4
    (sources / "loop.cpp").write_text(SMALL % 4)
    (sources / "more.h").unlink()
    monkeypatch.setattr(compiler, "_FLAGS", compiler._FLAGS[:-1])
    assert lanes() == 4
    assert len(kept(tmp_path)) == 4  # the first again


def test_the_key_knows_the_instruction_set(tmp_path: Path, sources: Path) -> None:
    compiler.library("portable")
    compiler.library("avx2")
    names = [path.name for path in kept(tmp_path)]
    assert [name.split("-")[1] for name in names] == ["avx2", "portable"]


@pytest.mark.parametrize("place", ["a file", "under a file"])
def test_a_cache_that_cannot_be_written(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("NOISYRNN_CACHE", str(blocked if place == "a file" else blocked / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with pytest.warns(
        UserWarning, match=r"cannot be kept .* Set NOISYRNN_CACHE to a folder that can be written, by you only\.$"
    ):
        assert lanes() == 4


def test_nowhere_to_write(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    monkeypatch.setenv("NOISYRNN_CACHE", str(blocked))
    monkeypatch.setattr(compiler.tempfile, "tempdir", str(blocked / "none"))
    with pytest.warns(UserWarning, match="cannot be kept"), pytest.raises(compiler.CompilerError, match="no folder"):
        compiler.library("portable")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_CACHE", "here")
    assert compiler.cache_folder() == Path("here")
    monkeypatch.delenv("NOISYRNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "there")
    assert compiler.cache_folder() == Path("there/noisyrnn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "home")
    assert compiler.cache_folder() == Path("home/.cache/noisyrnn")


def test_processes_that_start_at_once(tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = script(tmp_path / "slow", f'sleep 0.2; exec {compiler._compiler()[0]} "$@"')
    monkeypatch.setenv("CXX", slow)
    with workers(3) as pool:
        assert [one.result(timeout=60) for one in [pool.submit(lanes) for _ in range(3)]] == [4, 4, 4]
    assert len(kept(tmp_path)) == 1  # and nothing half done beside it
    assert kept(tmp_path)[0].suffix == ".so"


def test_a_failed_compilation_leaves_nothing(tmp_path: Path, sources: Path) -> None:
    (sources / "loop.cpp").write_text("this is not C++\n")
    with pytest.raises(compiler.CompilerError, match=r"failed: .*error"):
        compiler.library("portable")
    assert kept(tmp_path) == []


def test_what_a_dead_writer_left_is_removed_and_a_living_one_is_left_alone(tmp_path: Path, sources: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    descriptor, living = create_part(tmp_path / "cache" / "cpu-portable-one.so")
    dead = living.with_name(f".cpu-portable-two.so.{'0' * 16}.part")
    dead.write_bytes(b"half")
    other = living.with_name("notes.tmp")  # not ours
    other.touch()
    try:
        assert lanes() == 4
        assert sorted(path for path in kept(tmp_path) if path.suffix != ".so") == sorted([living, other])
    finally:
        os.close(descriptor)


def test_a_killed_compilation_leaves_nothing_in_the_cache(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = script(tmp_path / "killed", 'touch "$0.runs"; kill -9 $PPID; sleep 5')
    monkeypatch.setenv("CXX", program)
    monkeypatch.setattr(compiler.tempfile, "tempdir", str(tmp_path))
    with workers(1) as pool, pytest.raises(concurrent.futures.process.BrokenProcessPool):
        pool.submit(lanes).result(timeout=60)
    assert (tmp_path / "killed.runs").exists()
    assert kept(tmp_path) == []


def test_without_torchs_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of our own, and one warning."""
    monkeypatch.setattr(library, "_OPENMP", ("libnothing.so", "libm.so.6"))
    monkeypatch.setattr(library, "_pool", "unknown")
    with pytest.warns(UserWarning, match="torch's OpenMP library was not found") as caught:
        assert library.thread_pool() is None
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library.thread_pool() is None


def test_torchs_openmp_is_found() -> None:
    if not os.path.exists("/proc/self/maps") or "libgomp" not in Path("/proc/self/maps").read_text():
        pytest.skip("torch has another OpenMP library here")
    assert library.thread_pool() is not None


def refused(expected: str) -> None:
    """The library of the cache is not loaded: it is compiled again, elsewhere, with one warning."""
    with pytest.warns(UserWarning, match="cannot be kept") as caught:
        assert lanes() == 4
    assert expected in str(caught[0].message)


@pytest.fixture
def planted(tmp_path: Path, sources: Path) -> Path:
    """A library of another's making, which says 99, under the name that ours would have."""
    assert lanes() == 4
    (ours,) = kept(tmp_path)
    (sources / "loop.cpp").write_text(SMALL % 99)
    assert lanes() == 99
    (theirs,) = [path for path in kept(tmp_path) if path != ours]
    (sources / "loop.cpp").write_text(SMALL % 4)
    stem, _ = ours.stem.rsplit("-", 1)
    ours.unlink()
    return theirs.rename(compiler._full_name(str(ours.with_name(stem)), theirs.read_bytes()))


def test_a_planted_library_would_be_loaded_from_a_folder_of_ones_own(planted: Path) -> None:
    """Or the tests below show nothing."""
    assert lanes() == 99


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_a_folder_that_others_can_write(planted: Path, mode: int) -> None:
    planted.parent.chmod(mode)
    refused(f"{planted.parent} belongs to another user or can be written by others")


def test_a_parent_that_others_can_write(planted: Path) -> None:
    planted.parent.parent.chmod(0o777)
    refused(f"{planted.parent.parent} belongs to another user or can be written by others")
    planted.parent.parent.chmod(0o1777)  # as /tmp: what is ours stays in its place
    assert lanes() == 99


def test_a_library_that_others_can_write_is_compiled_again(planted: Path) -> None:
    planted.chmod(0o722)
    assert lanes() == 4


def test_a_link_to_a_library_is_compiled_again(planted: Path, tmp_path: Path) -> None:
    planted.rename(tmp_path / "elsewhere.so")
    planted.symlink_to(tmp_path / "elsewhere.so")
    assert lanes() == 4


def test_a_link_to_a_folder_is_judged_by_the_folder(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = planted.parent.with_name("link")
    link.symlink_to(planted.parent)
    monkeypatch.setenv("NOISYRNN_CACHE", str(link))
    assert lanes() == 99
    planted.parent.chmod(0o777)
    refused(f"{planted.parent} belongs to another user")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["folder", "library"])
def test_what_belongs_to_another_user(planted: Path, what: str) -> None:
    os.chown(planted.parent if what == "folder" else planted, 12345, -1)
    if what == "folder":
        refused(f"{planted.parent} belongs to another user or can be written by others")
    else:
        assert lanes() == 4


def test_what_is_kept_is_closed_to_others_whatever_the_umask(tmp_path: Path, sources: Path) -> None:
    before = os.umask(0)
    try:
        assert lanes() == 4
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache", *kept(tmp_path))] == [0o700, 0o700]
