"""What the doctor says of kernels, on sound and on broken installations."""

from pathlib import Path

import pytest

from noisyrnn import doctor
from noisyrnn.kernels import select
from noisyrnn.native import compiler, library


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOISYRNN_KERNEL", "NOISYRNN_CPU_LEVEL", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)


def lines() -> list[str]:
    return doctor.report_health().splitlines()


def kernel_lines() -> list[str]:
    shown = lines()
    start = next(i for i, line in enumerate(shown) if line.startswith("Kernels on the CPU"))
    end = next(i for i, line in enumerate(shown) if line.startswith("Data folders"))
    return shown[start:end]


FUSED = "noisy, lipschitz, antisymmetric, rate, cornn, exprnn"
GATED = ("gru", "lstm")
NOT_EAGER = "is not fused (only 'drift', 'rate', 'oscillator', 'modrelu')"


def test_each_model_has_its_kernel_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "unavailable", lambda: None)
    assert kernel_lines() == [
        "Kernels on the CPU:",
        f"  {FUSED}, rnn, gru, lstm: cpp",
    ]


def test_the_library_in_a_line() -> None:
    reason = library.unavailable()
    if reason is not None:
        pytest.skip(reason)
    line = next(line for line in lines() if line.startswith("CPU kernel: "))
    command = " ".join(compiler._compiler())
    assert line.startswith(f"CPU kernel: {compiler.level()}, compiled by {command}, ")
    assert f"in {compiler.cache_folder()}, threads: " in line
    assert line.endswith(("threads: torch's OpenMP", "threads: its own"))


def test_threads_of_its_own_and_a_cache_that_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if library.unavailable() is not None:
        pytest.skip("no compiled kernel")
    monkeypatch.setenv("NOISYRNN_CACHE", f"{tmp_path}/nothing")
    monkeypatch.setattr(library, "thread_pool", lambda: None)
    assert any(line.endswith(f"cannot be kept in {tmp_path}/nothing, threads: its own") for line in lines())


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise compiler.CompilerError("no C++ compiler was found")

    monkeypatch.setattr(library, "native", missing)
    assert "CPU kernel: none: no C++ compiler was found" in lines()
    none = "kernel 'cpp' cannot run this cell: no C++ compiler was found"
    assert kernel_lines()[1:] == [
        f"  {FUSED}: eager ({none})",
        f"  rnn: torch's own; with noise eager ({none})",
        *(
            f"  {name}: torch's own; with noise reference ({none}; kernel 'eager' cannot run this cell: kind {name!r} "
            f"{NOT_EAGER})"
            for name in GATED
        ),
    ]


def test_the_environment_is_shown_and_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "eager")
    assert kernel_lines() == [
        "Kernels on the CPU (NOISYRNN_KERNEL=eager):",
        f"  {FUSED}: eager",
        "  rnn: torch's own; with noise eager",
        *(
            f"  {name}: torch's own; with noise none (kernel 'eager' cannot run this cell: kind {name!r} {NOT_EAGER})"
            for name in GATED
        ),
    ]
    monkeypatch.setenv("NOISYRNN_KERNEL", "eagre")
    assert kernel_lines()[1:] == [
        f"  {FUSED}, rnn, gru, lstm: ValueError: NOISYRNN_KERNEL must be "
        "one of auto, cpp, eager, reference, triton, got 'eagre'. Did you mean 'eager'?"
    ]


def test_nothing_that_breaks_stops_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(library, "native", broken)
    shown = lines()
    assert "CPU kernel: OSError: no space left on device" in shown
    assert f"  {FUSED}, rnn, gru, lstm: OSError: no space left on device" in shown
    assert "  digits     found" in shown


def test_a_gpu_gets_lines_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(doctor.torch.cuda, "get_device_name", lambda: "NVIDIA Test")
    seen = []
    monkeypatch.setattr(doctor, "_kernel", lambda model, device: seen.append((model, device)) or f"{device} kernel")
    shown = lines()
    assert "GPU: NVIDIA Test" in shown
    names = ", ".join(doctor.MODELS)
    start = shown.index("Kernels on the CPU:")
    assert shown[start : start + 4] == [
        "Kernels on the CPU:",
        f"  {names}: cpu kernel",
        "Kernels on a GPU:",
        f"  {names}: cuda kernel",
    ]
    assert set(seen) == {(model, device) for model in doctor.MODELS for device in ("cpu", "cuda")}


def test_asking_changes_no_random_numbers_and_says_no_notice(recwarn: pytest.WarningsRecorder) -> None:
    before = doctor.torch.random.get_rng_state()
    lines()
    assert doctor.torch.equal(before, doctor.torch.random.get_rng_state())
    assert not [w for w in recwarn if issubclass(w.category, select.KernelNotice)]
