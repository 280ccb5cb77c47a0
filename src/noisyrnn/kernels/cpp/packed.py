"""Weights packed for noise-free passes, kept as long as they do not change."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.cpp import kernel
from noisyrnn.kernels.reference import recurrence_of
from noisyrnn.native import library
from noisyrnn.native.compiler import CompilerError


class _Origin:
    """What was packed, to find out whether a cell is still the same to the bit.

    Args:
        settings: The library, and the cell's numbers, texts and flags.
        weights: Its parameters and buffers, each contiguous; they are copied.
    """

    def __init__(self, settings: tuple[Any, ...], weights: Sequence[Tensor]) -> None:
        self._settings = settings
        self._tensors = [t.detach().clone(memory_format=torch.contiguous_format) for t in weights]
        self._forms = [(t.shape, t.dtype, True) for t in self._tensors]
        self._addresses = ctypes.c_void_p * len(weights)
        self._copies = self._addresses(*[t.data_ptr() for t in self._tensors])
        self._bytes = (ctypes.c_int64 * len(weights))(*[t.nbytes for t in self._tensors])

    def comparison(self, settings: tuple[Any, ...], weights: Sequence[Tensor]) -> tuple[Any, ...] | None:
        """Arguments of `Native.same`, the last of `Native.step`; `None` where more than the weights' values differs."""
        if self._settings != settings or [(t.shape, t.dtype, t.is_cpu) for t in weights] != self._forms:
            return None
        pieces = self._addresses(*[t.data_ptr() for t in weights])
        return len(weights), self._copies, pieces, self._bytes


class _Packed(NamedTuple):
    """A cell as the kernel takes it, with what that depends on.

    Args:
        origin: What was packed.
        call: The cell with its packed weights, without inputs and state; `None` where the kernel cannot run it.
        step: The library's arguments for a single step.
        keep: Tensors whose memory `step` points to.
    """

    origin: _Origin
    call: KernelCall | None = None
    step: library.Call | None = None
    keep: Any = None


_Now = tuple[library.Native, str, tuple[Any, ...], list[Tensor]]
"""The library, the precision of products, and the arguments of `_Origin`."""


class PackedWeights:
    """The weights of one cell in the order of the C++ kernel, for passes without noise and gradients.

    Each use compares the weights with those that were packed, byte by byte, so that a change is seen however it was
    made; comparing costs a fraction of packing. Several threads may share an object; copies and pickles are empty.
    Cells with hooks, with parametrized modules or of a user's class are not packed: their weights may depend on what is
    not compared.
    """

    def __init__(self) -> None:
        self._packed: dict[str, _Packed] = {}  # by precision; never changed, since another thread may be using one

    def __reduce__(self) -> tuple[type["PackedWeights"], tuple[()]]:
        """Packed weights do not outlive their process."""
        return PackedWeights, ()

    def call(
        self, cell: Any, inputs: Tensor, state: Tensor, *, lengths: Tensor | None, dt: Tensor | None
    ) -> KernelCall | None:
        """A pass over `inputs`, `(batch, steps, input_size)`, from `state`; `None` where the kernel cannot run it."""
        now = _now(cell, inputs, state)
        packed = None if now is None else self._up_to_date(now, cell, inputs, state)
        if packed is None or packed.call is None:
            return None
        return packed.call._replace(
            inputs=inputs[None],
            state=state[None],
            lengths=None if lengths is None else lengths[None],
            dt=None if dt is None else dt.view(1, -1, inputs.shape[1]),
        )

    def step(self, cell: Any, inputs: Tensor, state: Tensor) -> Tensor | None:
        """The state after one step from `state` with `inputs`, both matrices of one row for each sequence.

        `None` where the kernel cannot run it, and where a shape is wrong.
        """
        rows = inputs.shape[0] if inputs.ndim else 0
        if inputs.shape != (rows, cell.input_size) or state.shape != (rows, cell.state_size):
            return None
        now = _now(cell, inputs, state)
        if now is None:
            return None
        if not (inputs.is_contiguous() and state.is_contiguous()):
            inputs, state = inputs.contiguous(), state.contiguous()
        after = torch.empty_like(state)
        arrays = rows, inputs.data_ptr(), state.data_ptr(), after.data_ptr()
        native, precision, settings, weights = now
        packed, status = self._packed.get(precision), library.CHANGED
        if packed is not None and packed.step is not None:
            comparison = packed.origin.comparison(settings, weights)
            if comparison is not None:
                status = native.step(packed.step, *arrays, *comparison)
        if status == library.CHANGED:
            packed = self._up_to_date(now, cell, inputs, state)
            if packed.step is None:
                return None
            status = native.step(packed.step, *arrays, 0, None, None, None)
        library.check(status)
        return after

    def _up_to_date(self, now: _Now, cell: Any, inputs: Tensor, state: Tensor) -> _Packed:
        """The weights of now, packed."""
        native, precision, settings, weights = now
        packed = self._packed.get(precision)
        if packed is not None:
            comparison = packed.origin.comparison(settings, weights)
            if comparison is not None and native.same(*comparison):
                return packed
        packed = _pack(_Packed(_Origin(settings, weights)), cell, inputs, state, precision)
        self._packed[precision] = packed
        return packed


def _now(cell: Any, inputs: Tensor, state: Tensor) -> _Now | None:
    """What a pass depends on; `None` for what the kernel does not take."""
    if torch._C._are_functorch_transforms_active():  # their tensors have no address
        return None
    if not (inputs.dtype == state.dtype == torch.float32 and inputs.is_cpu and state.is_cpu):
        return None
    modules = [cell]
    for module in modules:  # it grows
        if not _is_plain(module):
            return None
        modules += [child for child in module._modules.values() if child is not None]
    parts = [(module._parameters, module._buffers) for module in modules]
    weights = [t for part in parts for tensors in part for t in tensors.values() if t is not None]
    try:
        native = library.native()
    except CompilerError:
        return None
    precision = kernel.product_precision(inputs.shape[0], cell.hidden_size)
    settings = (native, *[value for value in vars(cell).values() if type(value) in _SETTINGS])
    return native, precision, settings, [t if t.is_contiguous() else t.contiguous() for t in weights]


_SETTINGS = frozenset((int, float, str, bool, type(None), np.float64))
_known: set[type] = set()
"""Classes whose weights depend on their parameters, buffers and settings only."""


def _is_plain(module: Any) -> bool:
    """Whether nothing but parameters, buffers and settings decides what a module computes."""
    kind, state = type(module), module.__dict__
    if kind not in _known:
        if not kind.__module__.startswith(("noisyrnn.", "torch.nn.modules.")):
            return False
        _known.add(kind)
    hooked = state["_forward_pre_hooks"] or state["_forward_hooks"] or state["_backward_hooks"]
    return not (hooked or state["_backward_pre_hooks"] or "forward" in state)


def _pack(packed: _Packed, cell: Any, inputs: Tensor, state: Tensor, precision: str) -> _Packed:
    """`packed` with the cell's weights, where the kernel can run it."""
    recurrence = recurrence_of(cell)
    if recurrence is None or not recurrence.activation.name or kernel.supports(recurrence, inputs) is not None:
        return packed
    kind, *tensors, coefficients, activation = recurrence
    weights = [None if t is None else t[None] for t in tensors]
    seed = torch.zeros(1, dtype=torch.int64, device="cpu")
    sample = inputs.flatten(0, -2)[None, :, None]
    constants = (coefficients, activation.name, None, None, precision, None)
    call = KernelCall._make((kind, sample, state[None], *weights, None, None, None, seed, *constants))
    step, keep = kernel.arguments(call)
    call = call._replace(packed=kernel.pack(library.native(), step, call))
    step.x_row, step.initial_row = inputs.shape[-1], state.shape[1]
    step.threads = 1
    keep = [t for t in keep if t is not call.inputs and t is not call.state]
    return packed._replace(call=call._replace(inputs=seed, state=seed), step=step, keep=(keep, call.packed))
