"""Noise-free passes that keep the packed weights, as long as those stay the same."""

import ctypes
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from noisyrnn.kernels.call import FusedNoise, Pass
from noisyrnn.kernels.cpp import kernel
from noisyrnn.kernels.reference import fused_form


class _Prepared(NamedTuple):
    """What passes need beside their own data.

    Args:
        settings: The cell's numbers.
        weights: Copies of its parameters and buffers.
        native: The library; `None` where it cannot run the cell.
        call: Its arguments for a single step.
        whole: The cell as a `Pass`; its data are replaced.
        packed: Packed weights.
        keep: Tensors that must live as long.
    """

    settings: tuple[Any, ...]
    weights: tuple[Tensor, ...]
    native: kernel.Native | None = None
    call: kernel.Call | None = None
    whole: Pass | None = None
    packed: Tensor | None = None
    keep: Any = None


class Stream:
    """Noise-free passes of one cell by the CPU kernel, without gradients. Copies and pickles start afresh.

    Before each pass the weights are compared with those that were packed, byte by byte: a change is seen however it was
    made, and comparing costs a fraction of packing. Threads may share a stream. Cells with hooks, with parametrized
    modules or of a user's class are not run: their weights may depend on what is not compared.
    """

    def __init__(self) -> None:
        self._prepared: _Prepared | None = None  # replaced as a whole, since another thread may be using it

    def __reduce__(self) -> tuple[type["Stream"], tuple[()]]:
        """Nothing of a stream outlives its process."""
        return Stream, ()

    def step(self, cell: nn.Module, inputs: Tensor, state: Tensor) -> Tensor | None:
        """The state after one step, or `None` where the kernel cannot.

        Args:
            cell: A cell with a `recurrence`.
            inputs: `(batch, input_size)`.
            state: `(batch, state_size)`.
        """
        prepared = self._ready(cell, inputs, state)
        if prepared is None or prepared.call is None or prepared.native is None:
            return None
        if not (inputs.is_contiguous() and state.is_contiguous()):
            inputs, state = inputs.contiguous(), state.contiguous()
        after = torch.empty_like(state)
        call = kernel.Call.from_buffer_copy(prepared.call)
        call.rows = len(inputs)
        call.x, call.initial, call.last = inputs.data_ptr(), state.data_ptr(), after.data_ptr()
        call.x_bytes, call.initial_bytes, call.last_bytes = inputs.nbytes, state.nbytes, after.nbytes
        kernel.check(prepared.native.forward(ctypes.byref(call)))
        return after

    def run(
        self,
        cell: nn.Module,
        inputs: Tensor,
        state: Tensor,
        *,
        lengths: Tensor | None,
        dt: Tensor | None,
        every_step: bool,
    ) -> tuple[Tensor | None, Tensor] | None:
        """As `kernels.reference.run` without noise, or `None` where the kernel cannot."""
        prepared = self._ready(cell, inputs, state)
        if prepared is None or prepared.whole is None:
            return None
        call = prepared.whole._replace(
            inputs=inputs[None],
            state=state[None],
            lengths=None if lengths is None else lengths[None],
            dt=None if dt is None else dt.view(1, -1, inputs.shape[1]),
        )
        outputs, _, last = kernel.forward(call, every_step=every_step, save=False, packed=prepared.packed)
        return (outputs[0] if every_step else None), last[0]

    def _ready(self, cell: nn.Module, inputs: Tensor, state: Tensor) -> _Prepared | None:
        """The weights as they are now, packed; `None` for data that the kernel does not take."""
        if torch._C._are_functorch_transforms_active():  # their tensors have no address
            return None
        if not (inputs.dtype == state.dtype == torch.float32 and inputs.is_cpu and state.is_cpu):
            return None
        modules = [cell]
        for module in modules:  # it grows
            if not _plain(module):
                return None
            modules += [child for child in module._modules.values() if child is not None]
        parts = [(module._parameters, module._buffers) for module in modules]
        weights = [t for part in parts for tensors in part for t in tensors.values() if t is not None]
        settings = tuple([value for value in vars(cell).values() if type(value) in _SETTINGS])
        prepared = self._prepared
        if prepared is None or prepared.settings != settings or not _same(prepared.weights, weights):
            kept = tuple(t.detach().clone(memory_format=torch.contiguous_format) for t in weights)
            prepared = self._prepared = _prepare(_Prepared(settings, kept), cell, inputs, state)
        return prepared


_SETTINGS = frozenset((int, float, str, bool, type(None), np.float64))
_known: set[type] = set()
"""Classes whose weights depend on their parameters, buffers and settings only."""


def _plain(module: nn.Module) -> bool:
    """Whether nothing but parameters, buffers and settings decides what a module computes."""
    kind, state = type(module), module.__dict__
    if kind not in _known:
        if not kind.__module__.startswith(("noisyrnn.", "torch.nn.modules.")):
            return False
        _known.add(kind)
    hooked = state["_forward_pre_hooks"] or state["_forward_hooks"] or state["_backward_hooks"]
    return not (hooked or state["_backward_pre_hooks"] or "forward" in state)


_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def _same(ours: tuple[Tensor, ...], theirs: list[Tensor]) -> bool:
    """Whether all tensors are equal to the bit."""
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype or not b.is_cpu:
            return False
        if not b.is_contiguous():
            b = b.contiguous()
        if _memcmp(a.data_ptr(), b.data_ptr(), a.nbytes) != 0:
            return False
    return True


def _prepare(new: _Prepared, cell: Any, inputs: Tensor, state: Tensor) -> _Prepared:
    """Pack the weights as they are now."""
    recurrence = fused_form(cell)
    if recurrence is None or kernel.supports(recurrence, inputs) is not None:
        return new
    whole = Pass(
        kind=recurrence.kind,
        inputs=inputs.flatten(0, -2)[None, :, None],
        state=state[None],
        A=None if recurrence.A is None else recurrence.A[None],
        W=recurrence.W[None],
        U=recurrence.U[None],
        b=recurrence.b[None],
        step=recurrence.step[None],
        dt=None,
        lengths=None,
        seed=torch.zeros(1, dtype=torch.int64, device="cpu"),
        coefficients=recurrence.coefficients,
        noise=FusedNoise(),
    )
    native = kernel.native()
    call, keep = kernel.arguments(whole)
    packed = kernel.pack(native, call, whole)
    call.x_row, call.initial_row = inputs.shape[-1], state.shape[1]
    call.threads = 1
    keep = [t for t in keep if t is not whole.inputs and t is not whole.state]
    return new._replace(
        native=native, call=call, whole=whole._replace(inputs=whole.seed, state=whole.seed), packed=packed, keep=keep
    )
