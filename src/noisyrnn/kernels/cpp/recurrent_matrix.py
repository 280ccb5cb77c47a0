"""Compiled `sde.skew_damped`: the same values in one pass over memory."""

from typing import Any

import torch
from torch import Tensor

from noisyrnn.kernels.cpp import buffers
from noisyrnn.native import library
from noisyrnn.sde.recurrent_matrix import skew_damped


def skew_damped_together(
    *matrices: Tensor, skew_symmetry: tuple[float, ...], damping: tuple[float, ...]
) -> tuple[Tensor, ...]:
    """`skew_damped` of each matrix, bit for bit; by compiled code if a pass has loaded it and autograd alone looks on.

    `skew_symmetry` and `damping` hold one value per matrix.

    Of operations written out in torch, one that reads a matrix and its transpose takes longer than a short sequence.
    """
    compiled = None if torch.compiler.is_compiling() else library.loaded()  # a compiled graph must not see it loaded
    fast = (
        compiled is not None
        and not torch._C._are_functorch_transforms_active()
        and all(
            m.dtype == torch.float32 and m.is_cpu and m.is_contiguous() and m.shape[0] == m.shape[1] for m in matrices
        )
    )
    if not fast:
        return tuple(
            skew_damped(m, skew_symmetry=beta, damping=gamma)
            for m, beta, gamma in zip(matrices, skew_symmetry, damping, strict=True)
        )
    turned = tuple(1 - 2 * beta for beta in skew_symmetry)
    return super(torch.autograd.Function, _Structure).apply(compiled, turned, damping, *matrices)


class _Structure(torch.autograd.Function):
    """`m + c mᵀ - damping I` for each matrix `m`."""

    @staticmethod
    def forward(
        ctx: Any, compiled: library.Native, c: tuple[float, ...], damping: tuple[float, ...], *matrices: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.compiled, ctx.c = compiled, c
        found = tuple(buffers.empty_like(m) for m in matrices)
        for m, out, factor, gamma in zip(matrices, found, c, damping, strict=True):
            library.check(
                compiled.structure(m.data_ptr(), m.nbytes, out.data_ptr(), out.nbytes, m.shape[0], factor, gamma)
            )
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        watched = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        if watched or any(g.dtype != torch.float32 or not g.is_contiguous() for g in grads):
            return None, None, None, *(torch.add(g, c * g.T) for g, c in zip(grads, ctx.c, strict=True))
        found = tuple(buffers.empty_like(g) for g in grads)
        for g, out, c in zip(grads, found, ctx.c, strict=True):
            library.check(
                ctx.compiled.structure_backward(g.data_ptr(), g.nbytes, out.data_ptr(), out.nbytes, g.shape[0], c)
            )
        return None, None, None, *found
