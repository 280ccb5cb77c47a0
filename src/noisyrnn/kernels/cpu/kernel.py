"""The CPU kernel: the loop over time in compiled code, one slice of the batch a thread."""

import ctypes
import os
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor

from noisyrnn.kernels.cpu import buffers, compiler
from noisyrnn.kernels.recurrence import Gradients, Pass, Recurrence

_POINTERS = ctypes.c_void_p
_LONG = ctypes.c_int64


class Call(ctypes.Structure):
    """`struct Call` of native/call.h, field by field."""

    _fields_: ClassVar[Any] = (
        [(name, _LONG) for name in ("replicas", "rows", "steps", "inputs", "units", "width", "groups")]
        + [("x", _POINTERS), ("x_replica", _LONG), ("x_row", _LONG), ("x_step", _LONG)]
        + [("initial", _POINTERS), ("initial_replica", _LONG), ("initial_row", _LONG)]
        + [("dt", _POINTERS), ("dt_replica", _LONG), ("dt_row", _LONG), ("dt_step", _LONG)]
        + [("lengths", _POINTERS), ("seeds", _POINTERS), ("packed", _POINTERS), ("packed_replica", _LONG)]
        + [(name, _LONG) for name in ("source", "first_row", "first_step", "stream")]
        + [(name, ctypes.c_float) for name in ("additive", "base", "slope")]
        + [(name, _POINTERS) for name in ("states", "tanhs", "last", "grad_states", "grad_last")]
        + [(name, _LONG) for name in ("grad_replica", "grad_row", "grad_step", "grad_last_replica", "grad_last_row")]
        + [(name, _POINTERS) for name in ("A", "W", "U", "step")]
        + [(name, _LONG) for name in ("A_replica", "W_replica", "U_replica", "step_replica")]
        + [(name, _POINTERS) for name in ("d_x", "d_initial", "d_A", "d_W", "d_U", "d_b", "d_step")]
        + [("threads", _LONG), ("parallel", _POINTERS)]
    )


class Native:
    """The compiled library with its functions typed, and the thread pool it shares with torch."""

    def __init__(self, instructions: str) -> None:
        library = compiler.library(instructions)
        self.lanes: int = library.noisyrnn_lanes()
        library.noisyrnn_call_size.restype = _LONG
        size = library.noisyrnn_call_size()
        assert size == ctypes.sizeof(Call), (size, ctypes.sizeof(Call))
        self.packed_size = library.noisyrnn_packed_size
        self.packed_size.restype = _LONG
        self.packed_size.argtypes = [ctypes.POINTER(Call)]
        self.pack = library.noisyrnn_pack
        self.pack.restype = None
        self.pack.argtypes = [ctypes.POINTER(Call), *[_POINTERS] * 6]
        self.release, self.after_fork = library.noisyrnn_release, library.noisyrnn_after_fork
        self.kept_bytes = library.noisyrnn_kept_bytes
        self.release.restype = self.after_fork.restype = None
        self.kept_bytes.restype = _LONG
        self.structure, self.structure_backward = library.noisyrnn_structure, library.noisyrnn_structure_backward
        for function, numbers in ((self.structure, 2), (self.structure_backward, 1)):
            function.restype = None
            function.argtypes = [_POINTERS, _POINTERS, _LONG, *[ctypes.c_float] * numbers]
        self.forward, self.backward = library.noisyrnn_forward, library.noisyrnn_backward
        for function in (self.forward, self.backward):
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
    """See `Backend`."""
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


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def unavailable() -> str | None:
    """Why there is no library for this processor; `None` if there is."""
    try:
        native()
    except compiler.CompilerError as error:
        return str(error)
    return None


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


def layout(call: Pass) -> tuple[int, int]:
    """See `Backend`."""
    width = _padded(native(), call)
    return width, width


def forward(call: Pass, *, every_step: bool, save: bool, packed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """See `Backend`; `packed` are the weights if they are packed already. One replica may come without its axis."""
    compiled = native()
    c, keep = arguments(compiled, call)
    *replicas, batch, steps, _ = call.inputs.shape
    none = (*replicas, 0, 0, 0)
    stored = (*replicas, steps, batch, c.width)
    states = buffers.empty(*stored) if every_step or save else torch.empty(none)
    tanhs = buffers.empty(*stored) if save else torch.empty(none)
    last = torch.empty(*replicas, batch, c.units)
    packed = pack(compiled, c, call) if packed is None else packed
    c.packed, c.packed_replica = packed.data_ptr(), packed.stride(0) if len(packed) > 1 else 0
    c.states = states.data_ptr() if every_step or save else None
    c.tanhs = tanhs.data_ptr() if save else None
    c.last = last.data_ptr()
    check(compiled.forward(ctypes.byref(c)))
    del keep
    outputs = states[..., : c.units] if every_step or save else states
    return outputs.transpose(-3, -2), tanhs, last


def backward(
    call: Pass,
    outputs: Tensor,
    saved: Tensor,
    grad_outputs: Tensor | None,
    grad_last: Tensor | None,
    *,
    with_inputs: bool,
) -> Gradients:
    """See `Backend`. One replica may come without its axis."""
    compiled = native()
    c, keep = arguments(compiled, call)
    states, saved = outputs.transpose(-3, -2), saved.contiguous()  # `vmap` may have expanded the replicas
    strides = zip(states.stride(), saved.stride(), saved.shape, strict=True)
    if any(ours != theirs for ours, theirs, size in strides if size > 1):  # a copy came between: no padding
        padded = torch.zeros_like(saved)
        padded[..., : c.units] = states
        states = padded
    c.states, c.tanhs = states.data_ptr(), saved.data_ptr()
    if grad_outputs is not None:
        grad_outputs = _rows(grad_outputs)
        c.grad_states = grad_outputs.data_ptr()
        c.grad_replica, c.grad_row, c.grad_step, _ = _strides(grad_outputs, 4)
    if grad_last is not None:
        grad_last = _rows(grad_last)
        c.grad_last = grad_last.data_ptr()
        c.grad_last_replica, c.grad_last_row, _ = _strides(grad_last, 3)
    for name, tensor, axes in (("A", call.A, 3), ("W", call.W, 3), ("U", call.U, 3), ("step", call.step, 2)):
        if tensor is not None:
            tensor = _blocks(tensor, axes)
            keep.append(tensor)
            setattr(c, name, tensor.data_ptr())
            setattr(c, f"{name}_replica", _strides(tensor, axes)[0])
    none = (*call.b.shape[:-1], 0)
    found = Gradients(
        inputs=torch.empty(call.inputs.shape if with_inputs else none),
        state=torch.empty(call.state.shape),
        A=torch.empty(none) if call.A is None else buffers.empty(*call.A.shape),
        W=buffers.empty(*call.W.shape),
        U=torch.empty(call.U.shape),
        b=torch.empty(call.b.shape),
        step=torch.empty(call.step.shape),
    )
    c.d_x = found.inputs.data_ptr() if with_inputs else None
    c.d_initial, c.d_A, c.d_W = found.state.data_ptr(), found.A.data_ptr(), found.W.data_ptr()
    c.d_U, c.d_b, c.d_step = found.U.data_ptr(), found.b.data_ptr(), found.step.data_ptr()
    check(compiled.backward(ctypes.byref(c)))
    del keep
    return found


def pack(compiled: Native, c: Call, call: Pass) -> Tensor:
    """Weights as the forward pass reads them, `(R, packed size)`; one row if all replicas share them."""
    given = ((call.A, 3), (call.W, 3), (call.U, 3), (call.b, 2), (call.step, 2))
    weights = [None if t is None else _blocks(t, axes) for t, axes in given]
    apart = [0 if t is None else _strides(t, axes)[0] for t, (_, axes) in zip(weights, given, strict=True)]
    replicas = c.replicas if any(apart) else 1
    packed = buffers.empty(replicas, compiled.packed_size(ctypes.byref(c)))
    places = [None if t is None else t.data_ptr() for t in weights]
    for r in range(replicas):
        of_replica = [None if p is None else p + 4 * r * stride for p, stride in zip(places, apart, strict=True)]
        compiled.pack(ctypes.byref(c), *of_replica, packed.data_ptr() + 4 * r * packed.stride(0))
    return packed


def arguments(compiled: Native, call: Pass) -> tuple[Call, list[Any]]:
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
    c.width = _padded(compiled, call)
    c.groups = 1 if call.A is None else 2
    x, initial = _rows(call.inputs), _rows(call.state)
    c.x, c.initial = x.data_ptr(), initial.data_ptr()
    c.x_replica, c.x_row, c.x_step, _ = _strides(x, 4)
    c.initial_replica, c.initial_row, _ = _strides(initial, 3)
    keep = [x, initial]
    if call.dt is not None:
        dt = call.dt.to(torch.float32)
        c.dt = dt.data_ptr()
        c.dt_replica, c.dt_row, c.dt_step = _strides(dt, 3)
        if dt.shape[-2] == 1:
            c.dt_row = 0
        keep.append(dt)
    if call.lengths is not None:
        lengths = call.lengths.to(torch.int64).contiguous()
        c.lengths = lengths.data_ptr()
        keep.append(lengths)
    seeds = call.seed.contiguous()
    c.seeds = seeds.data_ptr()
    keep.append(seeds)
    noise = call.noise
    c.source, c.first_row, c.first_step, c.stream = noise.source, noise.first_row, noise.first_step, noise.stream
    c.additive, c.base, c.slope = noise.additive, noise.base, noise.slope
    c.threads = torch.get_num_threads()
    c.parallel = _parallel() if c.threads > 1 else None
    return c, keep


def _strides(tensor: Tensor, axes: int) -> tuple[int, ...]:
    """Strides of all `axes` axes, of which that of the replicas, the first, may be missing."""
    strides = tensor.stride()
    return strides if len(strides) == axes else (0, *strides)


def _padded(compiled: Native, call: Pass) -> int:
    """Units, rounded up to whole vectors."""
    return -(-call.b.shape[-1] // compiled.lanes) * compiled.lanes


def _rows(tensor: Tensor) -> Tensor:
    """The tensor itself if its last axis is contiguous, else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _blocks(tensor: Tensor, axes: int) -> Tensor:
    """The tensor itself if each replica's part is contiguous, else a copy."""
    if tensor.is_contiguous() or (tensor.ndim == axes and tensor[0].is_contiguous()):
        return tensor
    return tensor.contiguous()


def check(status: int) -> None:
    """Raise what a status of the library stands for."""
    if status != 0:
        raise MemoryError("the CPU kernel ran out of memory.")
