"""The compiled library of this process: its functions with their types, its threads, and what its statuses mean."""

import ctypes
import itertools
import os
import warnings
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from noisyrnn.native import compiler
from noisyrnn.threads import kernel_threads

_POINTERS = ctypes.c_void_p
_LONG = ctypes.c_int64
_GRADIENTS = ("x", "initial", "A", "W", "U", "b", "step", "diffusion")


class Call(ctypes.Structure):
    """`struct Call` of call.h, field by field; `Native` compares them."""

    _fields_: ClassVar[Any] = (
        [(name, _LONG) for name in ("kind", "activation", "terms", "replicas", "rows", "steps", "inputs", "units")]
        + [("x", _POINTERS), ("x_bytes", _LONG), ("x_replica", _LONG), ("x_row", _LONG), ("x_step", _LONG)]
        + [("initial", _POINTERS), ("initial_bytes", _LONG), ("initial_replica", _LONG), ("initial_row", _LONG)]
        + [("dt", _POINTERS), ("dt_bytes", _LONG), ("dt_replica", _LONG), ("dt_row", _LONG), ("dt_step", _LONG)]
        + [("lengths", _POINTERS), ("lengths_bytes", _LONG), ("seeds", _POINTERS), ("seeds_bytes", _LONG)]
        + [
            field
            for name in ("A", "W", "U", "b", "step", "diffusion")
            for field in ((name, _POINTERS), (f"{name}_bytes", _LONG), (f"{name}_replica", _LONG))
        ]
        + [("columns", _LONG), ("packed", _POINTERS), ("packed_bytes", _LONG), ("packed_replica", _LONG)]
        + [(name, _LONG) for name in ("source", "inside", "first_row", "first_step", "stream")]
        + [(name, ctypes.c_float) for name in ("additive", "base", "slope", "first_coefficient", "second_coefficient")]
        + [("states", _POINTERS), ("states_bytes", _LONG), ("saved", _POINTERS), ("saved_bytes", _LONG)]
        + [("last", _POINTERS), ("last_bytes", _LONG)]
        + [("grad_states", _POINTERS), ("grad_states_bytes", _LONG)]
        + [(name, _LONG) for name in ("grad_replica", "grad_row", "grad_step")]
        + [("grad_last", _POINTERS), ("grad_last_bytes", _LONG), ("grad_last_replica", _LONG), ("grad_last_row", _LONG)]
        + [(f"d_{name}", _POINTERS) for name in _GRADIENTS]
        + [(f"d_{name}_bytes", _LONG) for name in _GRADIENTS]
        + [("threads", _LONG), ("parallel", _POINTERS)]
    )


class Field(ctypes.Structure):
    """`struct Field` of check.h."""

    _fields_: ClassVar[Any] = [("name", ctypes.c_char_p), ("offset", _LONG), ("size", _LONG)]


CHANGED = -3
"""Status of `Native.step` for weights that are not those that were packed; as below."""

_WRONG_MATRIX, _WRONG_DRAW, _NO_MEMORY, _WRONG_FIELD = -1, -2, 1, 2
"""Of `Status` in check.h."""


class Native:
    """The compiled library with its functions typed, and the thread pool it shares with torch.

    Attributes:
        lanes: Floats of one vector.
        terms: The most bf16 numbers that may stand for a float in products: 0, 1 or 3.

    Raises:
        AssertionError: If the library's `struct Call` is not `Call`.
    """

    def __init__(self, instructions: str) -> None:
        library = compiler.library(instructions)
        self.lanes: int = library.noisyrnn_lanes()
        self.terms: int = library.noisyrnn_terms()
        library.noisyrnn_call_size.restype = library.noisyrnn_fields.restype = _LONG
        library.noisyrnn_field.restype = ctypes.POINTER(Field)
        library.noisyrnn_field.argtypes = [_LONG]
        fields = [library.noisyrnn_field(n).contents for n in range(library.noisyrnn_fields())]
        theirs = [(field.name.decode(), field.offset, field.size) for field in fields]
        ours = [(name, getattr(Call, name).offset, getattr(Call, name).size) for name, _ in Call._fields_]
        unlike = [pair for pair in itertools.zip_longest(theirs, ours) if pair[0] != pair[1]]
        assert not unlike, f"struct Call and its mirror differ: {unlike[0]}"
        assert library.noisyrnn_call_size() == ctypes.sizeof(Call)
        self.packed_size = library.noisyrnn_packed_size
        self.packed_size.restype = _LONG
        self.release, self.after_fork = library.noisyrnn_release, library.noisyrnn_after_fork
        self.kept_bytes = library.noisyrnn_kept_bytes
        self.release.restype = self.after_fork.restype = None
        self.kept_bytes.restype = _LONG
        self.same = library.noisyrnn_same
        self.same.argtypes = [_LONG, _POINTERS, _POINTERS, _POINTERS]
        self.step = library.noisyrnn_step
        self.step.argtypes = [ctypes.POINTER(Call), _LONG, _POINTERS, _POINTERS, _POINTERS, *self.same.argtypes]
        self.structure, self.structure_backward = library.noisyrnn_structure, library.noisyrnn_structure_backward
        for function, numbers in ((self.structure, 2), (self.structure_backward, 1)):
            function.argtypes = [_POINTERS, _LONG, _POINTERS, _LONG, _LONG, *[ctypes.c_float] * numbers]
        self.pack, self.forward, self.backward = (
            library.noisyrnn_pack,
            library.noisyrnn_forward,
            library.noisyrnn_backward,
        )
        for function in (self.packed_size, self.pack, self.forward, self.backward):
            function.argtypes = [ctypes.POINTER(Call)]
        self.draw_float, self.draw_double = library.noisyrnn_draw_float, library.noisyrnn_draw_double
        for function in (self.draw_float, self.draw_double):
            target: list[Any] = [_POINTERS, _LONG, _LONG, _LONG]
            function.argtypes = [_POINTERS, *target, *target, *[_LONG] * 9, _POINTERS]


_natives: dict[str | None, Native | str] = {}
"""The library for each value of the environment variable that names an instruction set, or why there is none."""


def native() -> Native:
    """The library for this processor.

    Raises:
        CompilerError: If there is none.
    """
    named = os.environ.get(compiler.LEVEL)
    found = _natives.get(named)
    if found is None:
        try:
            found = Native(compiler.level())
        except compiler.CompilerError as error:
            found = str(error)
        _natives[named] = found  # asked once a process
    if isinstance(found, str):
        raise compiler.CompilerError(found)
    return found


_OPENMP = ("libgomp.so.1", "libiomp5.so", "libomp.so")
_forked = False
_pool: int | str | None = "unknown"


def _mark_fork() -> None:
    global _forked
    _forked = True
    for found in _natives.values():
        if not isinstance(found, str):
            found.after_fork()


os.register_at_fork(after_in_child=_mark_fork)


def thread_pool() -> int | None:
    """Address of `GOMP_parallel` in the OpenMP library that torch has loaded; `None` for threads of our own.

    A second pool of spinning threads beside torch's would take its cores. After a fork OpenMP's pool is gone for good.
    """
    global _pool
    if _forked:
        return None
    if _pool == "unknown":
        _pool = None
        for name in _OPENMP:
            try:
                library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)  # only what is there already
                _pool = ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value
                break
            except (OSError, AttributeError):
                continue
        if _pool is None:
            warnings.warn(
                "torch's OpenMP library was not found, so the CPU kernel starts threads of its own for every pass.",
                stacklevel=2,
            )
    assert not isinstance(_pool, str)
    return _pool


def unavailable() -> str | None:
    """Why there is no library for this processor; `None` if there is."""
    try:
        native()
    except compiler.CompilerError as error:
        return str(error)
    return None


def most_terms() -> int:
    """`Native.terms` of the library for this processor; 0 if there is none."""
    try:
        return native().terms
    except compiler.CompilerError:
        return 0


# What `torch.compiler.assume_constant_result` sets. That function imports torch._dynamo, which takes seconds.
unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]
most_terms._dynamo_marked_constant = True  # type: ignore[attr-defined]


def loaded() -> Native | None:
    """The library for this processor, if a pass has loaded it before."""
    found = _natives.get(os.environ.get(compiler.LEVEL))
    return None if isinstance(found, str) else found


def room(tensor: Tensor) -> int:
    """Bytes from a tensor's first number to the end of its memory, or of its last number: that is cheaper to ask."""
    if tensor.is_contiguous():
        return int(tensor.nbytes)
    return int(tensor.untyped_storage().nbytes()) - int(tensor.storage_offset()) * tensor.itemsize


def check(status: int) -> None:
    """Raise what a status of the library stands for.

    Raises:
        MemoryError: If it ran out of memory.
        RuntimeError: If an array does not have the size that the pass needs; nothing was written then.
    """
    if status == _NO_MEMORY:
        raise MemoryError("the CPU kernel ran out of memory.")
    if status != 0:
        names = {_WRONG_MATRIX: "matrix", _WRONG_DRAW: "noise"}
        name = names.get(status) or Call._fields_[status - _WRONG_FIELD][0]
        raise RuntimeError(
            f"the CPU kernel was given a wrong size for {name!r} and did not run. Use kernel='eager', and report this."
        )


def release() -> None:
    """Give all memory that the library keeps for later passes back to the system."""
    for found in _natives.values():
        if not isinstance(found, str):
            found.release()


class Place(NamedTuple):
    """Where a pass begins in its path; `noise.brownian.BrownianPath` gives the ranges.

    Args:
        first_row: Number of the first sequence.
        first_step: Number of the first step.
        stream: Stream of the path.
    """

    first_row: int = 0
    first_step: int = 0
    stream: int = 0


def draw(seeds: Tensor, first: Tensor | None, second: Tensor | None, place: Place, *, uniform: bool) -> None:
    """Write random values of a path's words; `noise.draws.fill` describes them.

    Args:
        seeds: int64 `(replicas,)` on the CPU, with the bits of the seeds.
        first: Gets the normals of the first motion: float32 or float64 `(replicas, steps, batch, units)` on the CPU, of
            which the last two axes are contiguous; `None` where they are not wanted.
        second: Likewise the values of the second motion.
        place: Where the values begin in the path.
        uniform: Whether those are uniform, not normal.
    """
    targets = [target for target in (first, second) if target is not None]
    shape, dtype = targets[0].shape, targets[0].dtype
    for target in targets:
        assert target.is_cpu and target.dtype == dtype and target.shape == shape
        assert target[0, :1].is_contiguous()
    assert seeds.is_cpu and seeds.dtype == torch.int64 and seeds.shape == shape[:1]
    compiled, seeds = native(), seeds.contiguous()
    function = compiled.draw_float if dtype == torch.float32 else compiled.draw_double
    targets_in_memory = [
        (None, 0, 0, 0) if target is None else (target.data_ptr(), room(target), *target.stride()[:2])
        for target in (first, second)
    ]
    threads = kernel_threads()
    pool = thread_pool() if threads > 1 else None
    replicas, steps, batch, units = shape
    status = function(
        seeds.data_ptr(),
        *targets_in_memory[0],
        *targets_in_memory[1],
        int(uniform),
        replicas,
        steps,
        batch,
        units,
        *place,
        threads,
        pool,
    )
    check(status)
