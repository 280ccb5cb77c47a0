"""The CPU kernel: the loop over time in compiled code, one slice of the batch a thread."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from noisyrnn.checks import autocasts
from noisyrnn.kernels.call import EndGradients, Gradients, KernelCall, NoiseSource
from noisyrnn.kernels.cpp import buffers
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.native import library
from noisyrnn.native.library import Call, Native, check, native, room
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.sde.activation import ACTIVATIONS
from noisyrnn.threads import kernel_threads

_WEIGHTS = ("A", "W", "U", "b", "step", "diffusion")
"""Fields of `KernelCall` and of `Gradients`."""

_AXES = {"b": 2, "step": 2}
_WEIGHT_FIELDS = tuple((name, f"{name}_bytes", f"{name}_replica", _AXES.get(name, 3)) for name in _WEIGHTS)
"""For each of them the fields of `Call` with its address, its size and its stride between replicas; its axes."""

_SAVED = {"drift": 1, "rate": 1, "current": 2, "oscillator": 2, "modrelu": 1, "gru": 4, "lstm": 5}
"""What a step keeps for the backward pass, in values a unit, beside the noise's multiplier; as `SHAPES` of call.h."""

_KINDS = ("drift", "plain", "rate", "current", "oscillator", "modrelu", "gru", "lstm")
"""`Kind` of native/call.h; "plain" is a drift without A."""

_INSIDE = ("drift", "rate", "oscillator", "modrelu")
"""Kinds whose noise may be inside the activation."""

_ACTIVATIONS = tuple(ACTIVATIONS)
"""`ActivationName` of native/call.h."""

_TERMS = {"": 0, "bf16": 1, "bf16x6": 3}
"""bf16 numbers that stand for a float in products, by the precision."""

_SPLIT_ROWS, _SPLIT_UNITS = 32, 128
"""From these sizes of a pass on "bf16x6" is faster than "" (measured: every kind of recurrence, without noise)."""


def supports(recurrence: Recurrence, inputs: Tensor, noise: HiddenNoise | None = None) -> str | None:
    """As in `Kernel`."""
    if inputs.device.type != "cpu":
        return f"the inputs are on {inputs.device.type}"
    if recurrence.W.device.type != "cpu":
        return f"the weights are on {recurrence.W.device.type}"
    if noise is not None and noise.place == "inside" and recurrence.kind not in _INSIDE:
        return f"the recurrence {recurrence.kind!r} has no noise inside"
    dtype = recurrence.W.dtype
    if dtype != torch.float32:
        return f"{str(dtype).removeprefix('torch.')} is not compiled (only float32)"
    return library.unavailable()


def product_precision(rows: int, units: int) -> str:
    """How the products of a pass are made, one of `_TERMS`.

    "bf16" under autocast to bfloat16, where the processor has such products; "bf16x6", which is float32, where that is
    faster: with AMX, for a pass of many rows and units; else "".
    """
    if autocasts("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16 and library.most_terms():
        return "bf16"
    large = rows >= _SPLIT_ROWS and units >= _SPLIT_UNITS
    return "bf16x6" if large and library.most_terms() == 3 else ""


def no_bf16() -> str | None:
    """Return the reason why this machine's processor makes no products of bf16, as a clause; `None` if it does."""
    reason = library.unavailable()
    if reason is None and not library.most_terms():
        reason = "the processor has neither AVX512-BF16 nor AMX, or NOISYRNN_CPU_LEVEL excludes them"
    return reason


def release() -> None:
    """Give all memory that is kept for later passes, at most 1 GiB and 64 MiB, back to the system."""
    buffers.release()
    library.release()


def layout(call: KernelCall) -> tuple[int, int]:
    """As in `Kernel`."""
    units = call.step.shape[-1]
    return units, (_SAVED[call.kind] + (call.source != NoiseSource.NONE)) * units


def forward(call: KernelCall, *, every_step: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As in `Kernel`. One replica may come without its axis."""
    compiled = native()
    c, keep = arguments(call)
    *replicas, batch, steps, _ = call.inputs.shape
    none, (width, kept) = (*replicas, 0, 0, 0), layout(call)
    states = buffers.empty(*((*replicas, steps, batch, width) if every_step or save else none))
    saved = buffers.empty(*((*replicas, steps, batch, kept) if save else none))
    last = buffers.empty(*replicas, batch, call.state.shape[-1])
    packed = call.packed
    if packed is None:
        packed = pack(compiled, c, call)
    else:
        c.packed, c.packed_bytes, c.packed_replica = packed.data_ptr(), room(packed), 0
    if every_step or save:
        c.states, c.states_bytes = states.data_ptr(), room(states)
    if save:
        c.saved, c.saved_bytes = saved.data_ptr(), room(saved)
    c.last, c.last_bytes = last.data_ptr(), room(last)
    check(compiled.forward(ctypes.byref(c)))
    del keep
    return states.transpose(-3, -2), saved, last


def backward(
    call: KernelCall,
    outputs: Tensor,
    saved: Tensor,
    grads: EndGradients,
    *,
    with_inputs: bool,
    with_weights: bool = True,
) -> Gradients:
    """As in `Kernel`. One replica may come without its axis."""
    grad_outputs, grad_last = grads
    compiled = native()
    c, keep = arguments(call)
    # `vmap` may have expanded the replicas, or a copy come between.
    states, saved = outputs.transpose(-3, -2).contiguous(), saved.contiguous()
    c.states, c.states_bytes = states.data_ptr(), room(states)
    c.saved, c.saved_bytes = saved.data_ptr(), room(saved)
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
    weights = _weights(call) if with_weights else (None,) * len(_WEIGHTS)
    like = (call.inputs if with_inputs else None, call.state, *weights)
    found = Gradients._make([buffers.empty(*none) if t is None else buffers.empty_like(t) for t in like])
    if with_inputs:
        c.d_x, c.d_x_bytes = found.inputs.data_ptr(), room(found.inputs)
    c.d_initial, c.d_initial_bytes = found.state.data_ptr(), room(found.state)
    for name, tensor in zip(_WEIGHTS, found[2:], strict=True):
        if tensor.numel():  # an absent gradient is not wanted
            setattr(c, f"d_{name}", tensor.data_ptr())
            setattr(c, f"d_{name}_bytes", room(tensor))
    check(compiled.backward(ctypes.byref(c)))
    del keep
    return found


def _weights(call: KernelCall) -> tuple[Tensor | None, ...]:
    """The tensors of `_WEIGHTS`."""
    return call.A, call.W, call.U, call.b, call.step, call.diffusion


def give_weights(c: Call, call: KernelCall) -> list[Tensor]:
    """Let `c` have the weights; the tensors must outlive it."""
    keep = []
    for (address, size, replica, axes), tensor in zip(_WEIGHT_FIELDS, _weights(call), strict=True):
        if tensor is not None:
            tensor = _blocks(tensor, axes)
            keep.append(tensor)
            setattr(c, address, tensor.data_ptr())
            setattr(c, size, room(tensor))
            setattr(c, replica, _strides(tensor, axes)[0])
    return keep


def pack(compiled: Native, c: Call, call: KernelCall) -> Tensor:
    """Weights as the forward pass reads them, `(R, packed size)`; one row if all replicas share them."""
    keep = give_weights(c, call)
    apart = any(getattr(c, f"{name}_replica") for name in _WEIGHTS)
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
    for k, tensor in enumerate((call.inputs, call.state, *_weights(call))):  # the library sees addresses alone
        if tensor is not None and (tensor.dtype != torch.float32 or not tensor.is_cpu):
            name, got = ("inputs", "state", *_WEIGHTS)[k], f"{str(tensor.dtype).removeprefix('torch.')}"
            raise TypeError(f"{name} must be float32 on cpu, as the weights are, got {got} on {tensor.device}.")
    c = Call()
    c.replicas = call.inputs.shape[0] if call.inputs.ndim == 4 else 1
    c.rows, c.steps, c.inputs = call.inputs.shape[-3:]
    c.units = call.step.shape[-1]
    c.kind = _KINDS.index("plain" if call.kind == "drift" and call.A is None else call.kind)
    c.activation = _ACTIVATIONS.index(call.activation)
    c.terms = _TERMS[call.precision]
    if call.coefficients:
        c.first_coefficient, c.second_coefficient = call.coefficients
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
    c.inside = call.noise is not None and call.noise.place == "inside"
    c.columns = 0 if call.diffusion is None else call.diffusion.shape[-1]
    c.threads = kernel_threads()
    c.parallel = library.thread_pool() if c.threads > 1 else None
    return c, keep


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
