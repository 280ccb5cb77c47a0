"""The machine's own speed: fused multiplications and additions in registers, and torch's products of matrices."""

import ctypes
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from subprocess import run

import torch

from benchmarks.speed.cases import Case
from benchmarks.speed.contestants import Contestant, NotAvailable, Step

OPERATIONS = 2 * 1024**3
"""Of a product of two 1024 × 1024 matrices, a multiplication and an addition each one; of all rates."""
SOURCE = Path(__file__).with_name("fma.cpp")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A speed of the machine, whatever the case.

    Args:
        title: Name in tables.
        contestant: Performs `OPERATIONS` in a turn.
    """

    title: str
    contestant: Contestant


def build_fma(case: Case, device: torch.device) -> Step:
    """Float32 vectors multiplied and added in the registers of as many threads as the case has."""
    compiler = which("c++") or which("g++") or which("clang++")
    if compiler is None:
        raise NotAvailable("no C++ compiler was found")
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "fma.so"
        done = run([compiler, "-O3", native, "-shared", "-fPIC", "-o", library, SOURCE], capture_output=True, text=True)
        if done.returncode != 0:
            raise NotAvailable(f"the compiler failed: {done.stderr.strip().splitlines()[0]}")
        work = ctypes.CDLL(str(library)).multiply_and_add
    work.restype, work.argtypes = ctypes.c_float, [ctypes.c_long]
    pool = ThreadPoolExecutor(case.threads)
    shares = [OPERATIONS // case.threads] * case.threads
    return Step(run=lambda: list(pool.map(work, shares)))


def build_product(case: Case, device: torch.device, *, dtype: torch.dtype = torch.float32) -> Step:
    """A product of two 1024 × 1024 matrices."""
    a, b = (torch.rand(1024, 1024, generator=torch.Generator().manual_seed(i)).to(device, dtype) for i in (0, 1))
    out = torch.empty_like(a)
    return Step(run=lambda: torch.mm(a, b, out=out))


def _build_bf16(case: Case, device: torch.device) -> Step:
    return build_product(case, device, dtype=torch.bfloat16)


RATES: dict[str, Rate] = {
    "fma": Rate(title="FMA in registers", contestant=Contestant(title="FMA", build=build_fma, devices=("cpu",))),
    "sgemm": Rate(title="sgemm (1024³)", contestant=Contestant(title="sgemm", build=build_product)),
    "bf16": Rate(title="bf16 product (1024³)", contestant=Contestant(title="bf16 product", build=_build_bf16)),
}
FLOOR = ("fma", "sgemm")
"""Rates that a floor follows from, the first one that is known."""
