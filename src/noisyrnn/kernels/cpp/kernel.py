"""The CPU kernel: the loop over time in compiled code, one slice of the batch a thread."""

import ctypes
import itertools
import os
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from noisyrnn.kernels.call import Gradients, KernelCall
from noisyrnn.kernels.cpp import buffers, compiler
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.threads import kernel_threads

_POINTERS = ctypes.c_void_p
_LONG = ctypes.c_int64


class Call(ctypes.Structure):
    """`struct Call` of native/call.h, field by field; `Native` compares them."""

    _fields_: ClassVar[Any] = (
        [(name, _LONG) for name in ("replicas", "rows", "steps", "inputs", "units", "groups")]
        + [("x", _POINTERS), ("x_bytes", _LONG), ("x_replica", _LONG), ("x_row", _LONG), ("x_step", _LONG)]
        + [("initial", _POINTERS), ("initial_bytes", _LONG), ("initial_replica", _LONG), ("initial_row", _LONG)]
        + [("dt", _POINTERS), ("dt_bytes", _LONG), ("dt_replica", _LONG), ("dt_row", _LONG), ("dt_step", _LONG)]
        + [("lengths", _POINTERS), ("lengths_bytes", _LONG), ("seeds", _POINTERS), ("seeds_bytes", _LONG)]
        + [
            field
            for name in ("A", "W", "U", "b", "step", "packed")
            for field in ((name, _POINTERS), (f"{name}_bytes", _LONG), (f"{name}_replica", _LONG))
        ]
        + [(name, _LONG) for name in ("source", "first_row", "first_step", "stream")]
        + [(name, ctypes.c_float) for name in ("additive", "base", "slope")]
        + [("states", _POINTERS), ("states_bytes", _LONG), ("tanhs", _POINTERS), ("tanhs_bytes", _LONG)]
        + [("last", _POINTERS), ("last_bytes", _LONG)]
        + [("grad_states", _POINTERS), ("grad_states_bytes", _LONG)]
        + [(name, _LONG) for name in ("grad_replica", "grad_row", "grad_step")]
        + [("grad_last", _POINTERS), ("grad_last_bytes", _LONG), ("grad_last_replica", _LONG), ("grad_last_row", _LONG)]
        + [(f"d_{name}", _POINTERS) for name in ("x", "initial", "A", "W", "U", "b", "step")]
        + [(f"d_{name}_bytes", _LONG) for name in ("x", "initial", "A", "W", "U", "b", "step")]
        + [("threads", _LONG), ("parallel", _POINTERS)]
    )


class Field(ctypes.Structure):
    """`struct Field` of native/check.h."""

    _fields_: ClassVar[Any] = [("name", ctypes.c_char_p), ("offset", _LONG), ("size", _LONG)]


_WRONG_MATRIX, _NO_MEMORY, _WRONG_FIELD = -1, 1, 2
"""Of `Status` in native/check.h."""


class Native:
    """The compiled library with its functions typed, and the thread pool it shares with torch.

    Raises:
        AssertionError: If the library's `struct Call` is not `Call`.
    """

    def __init__(self, instructions: str) -> None:
        library = compiler.library(instructions)
        self.lanes: int = library.noisyrnn_lanes()
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


def _parallel() -> int | None:
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


def supports(recurrence: Recurrence, inputs: Tensor) -> str | None:
    """As in `Kernel`."""
    if inputs.device.type != "cpu":
        return f"the inputs are on {inputs.device.type}"
    if recurrence.W.device.type != "cpu":
        return f"the weights are on {recurrence.W.device.type}"
    if recurrence.kind != "drift":
        return f"the recurrence {recurrence.kind!r} is not compiled (only 'drift')"
    dtype = recurrence.W.dtype
    if dtype != torch.float32:
        return f"{str(dtype).removeprefix('torch.')} is not compiled (only float32)"
    return unavailable()


def unavailable() -> str | None:
    """Why there is no library for this processor; `None` if there is."""
    try:
        native()
    except compiler.CompilerError as error:
        return str(error)
    return None


# What `torch.compiler.assume_constant_result` sets. That function imports torch._dynamo, which takes seconds.
unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def loaded() -> Native | None:
    """The library for this processor, if a pass has loaded it before."""
    found = _natives.get(os.environ.get(compiler.LEVEL))
    return None if isinstance(found, str) else found


def release() -> None:
    """Give all memory that is kept for later passes, at most 1 GiB and 64 MiB, back to the system."""
    buffers.release()
    for found in _natives.values():
        if not isinstance(found, str):
            found.release()


def layout(call: KernelCall) -> tuple[int, int]:
    """As in `Kernel`."""
    units = call.b.shape[-1]
    return units, units


def forward(call: KernelCall, *, every_step: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As in `Kernel`. One replica may come without its axis."""
    compiled = native()
    c, keep = arguments(call)
    *replicas, batch, steps, _ = call.inputs.shape
    none, stored = (*replicas, 0, 0, 0), (*replicas, steps, batch, c.units)
    states = buffers.empty(*stored if every_step or save else none)
    tanhs = buffers.empty(*stored if save else none)
    last = buffers.empty(*replicas, batch, c.units)
    packed = call.packed
    if packed is None:
        packed = pack(compiled, c, call)
    else:
        c.packed, c.packed_bytes, c.packed_replica = packed.data_ptr(), room(packed), 0
    if every_step or save:
        c.states, c.states_bytes = states.data_ptr(), room(states)
    if save:
        c.tanhs, c.tanhs_bytes = tanhs.data_ptr(), room(tanhs)
    c.last, c.last_bytes = last.data_ptr(), room(last)
    check(compiled.forward(ctypes.byref(c)))
    del keep
    return states.transpose(-3, -2), tanhs, last


def backward(
    call: KernelCall,
    outputs: Tensor,
    saved: Tensor,
    grad_outputs: Tensor | None,
    grad_last: Tensor | None,
    *,
    with_inputs: bool,
) -> Gradients:
    """As in `Kernel`. One replica may come without its axis."""
    compiled = native()
    c, keep = arguments(call)
    # `vmap` may have expanded the replicas, or a copy come between.
    states, saved = outputs.transpose(-3, -2).contiguous(), saved.contiguous()
    c.states, c.states_bytes = states.data_ptr(), room(states)
    c.tanhs, c.tanhs_bytes = saved.data_ptr(), room(saved)
    if grad_outputs is not None:
        grad_outputs = _rows(grad_outputs)
        c.grad_states, c.grad_states_bytes = grad_outputs.data_ptr(), room(grad_outputs)
        c.grad_replica, c.grad_row, c.grad_step, _ = _strides(grad_outputs, 4)
    if grad_last is not None:
        grad_last = _rows(grad_last)
        c.grad_last, c.grad_last_bytes = grad_last.data_ptr(), room(grad_last)
        c.grad_last_replica, c.grad_last_row, _ = _strides(grad_last, 3)
    keep += give_weights(c, call)
    none = (*call.b.shape[:-1], 0)
    shapes = (
        call.inputs.shape if with_inputs else none,
        call.state.shape,
        none if call.A is None else call.A.shape,
        *(t.shape for t in (call.W, call.U, call.b, call.step)),
    )
    found = Gradients._make(buffers.empty(*shape) for shape in shapes)
    if with_inputs:
        c.d_x, c.d_x_bytes = found.inputs.data_ptr(), room(found.inputs)
    c.d_initial, c.d_initial_bytes = found.state.data_ptr(), room(found.state)
    for name in ("A", "W", "U", "b", "step"):
        tensor = getattr(found, name)
        setattr(c, f"d_{name}", tensor.data_ptr())
        setattr(c, f"d_{name}_bytes", room(tensor))
    check(compiled.backward(ctypes.byref(c)))
    del keep
    return found


def give_weights(c: Call, call: KernelCall) -> list[Tensor]:
    """Let `c` have the weights; the tensors must outlive it."""
    keep = []
    for name, tensor, axes in (
        ("A", call.A, 3),
        ("W", call.W, 3),
        ("U", call.U, 3),
        ("b", call.b, 2),
        ("step", call.step, 2),
    ):
        if tensor is not None:
            tensor = _blocks(tensor, axes)
            keep.append(tensor)
            setattr(c, name, tensor.data_ptr())
            setattr(c, f"{name}_bytes", room(tensor))
            setattr(c, f"{name}_replica", _strides(tensor, axes)[0])
    return keep


def pack(compiled: Native, c: Call, call: KernelCall) -> Tensor:
    """Weights as the forward pass reads them, `(R, packed size)`; one row if all replicas share them."""
    keep = give_weights(c, call)
    apart = c.A_replica or c.W_replica or c.U_replica or c.b_replica or c.step_replica
    packed = buffers.empty(c.replicas if apart else 1, compiled.packed_size(ctypes.byref(c)))
    c.packed, c.packed_bytes, c.packed_replica = packed.data_ptr(), room(packed), packed.shape[1] if apart else 0
    check(compiled.pack(ctypes.byref(c)))
    del keep
    return packed


def arguments(call: KernelCall) -> tuple[Call, list[Any]]:
    """What both passes are told, and the tensors that must outlive the call.

    Raises:
        TypeError: If a tensor has another dtype than the weights, or is not on the CPU.
    """
    for name in ("inputs", "state", "A", "W", "U", "b", "step"):
        tensor = getattr(call, name)  # the library sees addresses alone
        if tensor is not None and (tensor.dtype != torch.float32 or not tensor.is_cpu):
            got = f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"
            raise TypeError(f"{name} must be float32 on cpu, as the weights are, got {got}.")
    c = Call()
    c.replicas = call.inputs.shape[0] if call.inputs.ndim == 4 else 1
    c.rows, c.steps, c.inputs = call.inputs.shape[-3:]
    c.units = call.b.shape[-1]
    c.groups = 1 if call.A is None else 2
    x, initial = _rows(call.inputs), _rows(call.state)
    c.x, c.x_bytes, c.initial, c.initial_bytes = x.data_ptr(), room(x), initial.data_ptr(), room(initial)
    c.x_replica, c.x_row, c.x_step, _ = _strides(x, 4)
    c.initial_replica, c.initial_row, _ = _strides(initial, 3)
    keep = [x, initial]
    if call.dt is not None:
        dt = call.dt.to(device="cpu", dtype=torch.float32)
        c.dt, c.dt_bytes = dt.data_ptr(), room(dt)
        c.dt_replica, c.dt_row, c.dt_step = _strides(dt, 3)
        if dt.shape[-2] == 1:
            c.dt_row = 0
        keep.append(dt)
    if call.lengths is not None:
        lengths = call.lengths.to(device="cpu", dtype=torch.int64).contiguous()
        c.lengths, c.lengths_bytes = lengths.data_ptr(), room(lengths)
        keep.append(lengths)
    seeds = call.seed.to(device="cpu", dtype=torch.int64).contiguous()
    c.seeds, c.seeds_bytes = seeds.data_ptr(), room(seeds)
    keep.append(seeds)
    c.source, c.additive = call.source, call.additive
    c.slope, c.base = call.multiplicative
    c.first_row, c.first_step, c.stream = call.place
    c.threads = kernel_threads()
    c.parallel = _parallel() if c.threads > 1 else None
    return c, keep


def room(tensor: Tensor) -> int:
    """Bytes from a tensor's first number to the end of its memory, or of its last number: that is cheaper to ask."""
    if tensor.is_contiguous():
        return int(tensor.nbytes)
    return int(tensor.untyped_storage().nbytes()) - int(tensor.storage_offset()) * tensor.itemsize


def _strides(tensor: Tensor, axes: int) -> tuple[int, ...]:
    """Strides of all `axes` axes, of which that of the replicas, the first, may be missing."""
    strides = tensor.stride()
    return strides if len(strides) == axes else (0, *strides)


def _rows(tensor: Tensor) -> Tensor:
    """The tensor itself if its last axis is contiguous, else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _blocks(tensor: Tensor, axes: int) -> Tensor:
    """The tensor itself if each replica's part is contiguous, else a copy."""
    if tensor.is_contiguous() or (tensor.ndim == axes and tensor[0].is_contiguous()):
        return tensor
    return tensor.contiguous()


def check(status: int) -> None:
    """Raise what a status of the library stands for.

    Raises:
        MemoryError: If it ran out of memory.
        RuntimeError: If an array does not have the size that the pass needs; nothing was written then.
    """
    if status == _NO_MEMORY:
        raise MemoryError("the CPU kernel ran out of memory.")
    if status != 0:
        name = "matrix" if status == _WRONG_MATRIX else Call._fields_[status - _WRONG_FIELD][0]
        raise RuntimeError(
            f"the CPU kernel was given a wrong size for {name!r} and did not run. Use kernel='eager', and report this."
        )
