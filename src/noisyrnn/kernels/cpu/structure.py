"""Recurrent matrices of prescribed skewness in one pass over memory: the same numbers as `sde.structured`, sooner."""

from typing import Any

import torch
from torch import Tensor

from noisyrnn.kernels.cpu import buffers, kernel
from noisyrnn.sde.structure import structured


def structured_together(*matrices: Tensor, skewness: float, damping: float) -> tuple[Tensor, ...]:
    """`structured` of each matrix, bit for bit; by compiled code if a pass has loaded it and autograd alone looks on.

    Of operations written out in torch, one that reads a matrix and its transpose takes longer than a short sequence.
    """
    compiled = kernel.loaded()
    fast = (
        compiled is not None
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and all(
            m.dtype == torch.float32 and m.is_cpu and m.is_contiguous() and m.shape[0] == m.shape[1] for m in matrices
        )
    )
    if not fast:
        return tuple(structured(m, skewness=skewness, damping=damping) for m in matrices)
    return super(torch.autograd.Function, _Structure).apply(compiled, 1 - 2 * skewness, damping, *matrices)


class _Structure(torch.autograd.Function):
    """`m + c mᵀ - damping I` for each matrix `m`."""

    @staticmethod
    def forward(ctx: Any, compiled: kernel.Native, c: float, damping: float, *matrices: Tensor) -> tuple[Tensor, ...]:
        ctx.compiled, ctx.c = compiled, c
        found = tuple(buffers.empty(*m.shape) for m in matrices)
        for m, out in zip(matrices, found, strict=True):
            kernel.check(
                compiled.structure(m.data_ptr(), kernel.room(m), out.data_ptr(), kernel.room(out), len(m), c, damping)
            )
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        watched = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        if watched or any(g.dtype != torch.float32 or not g.is_contiguous() for g in grads):
            return None, None, None, *(torch.add(g, ctx.c * g.T) for g in grads)
        found = tuple(buffers.empty(*g.shape) for g in grads)
        for g, out in zip(grads, found, strict=True):
            kernel.check(
                ctx.compiled.structure_backward(
                    g.data_ptr(), kernel.room(g), out.data_ptr(), kernel.room(out), len(g), ctx.c
                )
            )
        return None, None, None, *found
