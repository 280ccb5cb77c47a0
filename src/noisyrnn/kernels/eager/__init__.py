"""The kernel "eager": a backward pass written by hand in tensor operations, for where nothing can be compiled.

The loop over steps runs without autograd and writes into memory made once. What does not depend on the state (input
projections, noise, derivatives of what was saved) is done for many steps at a time, and so are the gradients of the
weights: one large product a block. Any device; float32 and float64.
"""

import torch
from torch import Tensor

from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.eager.backward_pass import backward
from noisyrnn.kernels.eager.forward_pass import forward
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.noise.hidden_noise import HiddenNoise

__all__ = ["backward", "forward", "layout", "supports"]

_KINDS = ("drift", "rate", "oscillator", "modrelu")
_DTYPES = (torch.float32, torch.float64)


def supports(recurrence: Recurrence, inputs: Tensor, noise: HiddenNoise | None = None) -> str | None:
    """As in `Kernel`."""
    if recurrence.kind not in _KINDS:
        return f"kind {recurrence.kind!r} is not fused (only {', '.join(map(repr, _KINDS))})"
    if recurrence.activation.name != "tanh":
        return f"its activation is {recurrence.activation.name}, not tanh"
    if noise is not None and noise.diffusion is not None:
        return "its noise has a diffusion of its own"
    if noise is not None and noise.place == "inside":
        return "its noise is inside the activation"
    if inputs.dtype not in _DTYPES:
        return f"{inputs.dtype} is not float32 or float64"
    if recurrence.W.dtype != inputs.dtype:
        return f"inputs are {inputs.dtype} and weights {recurrence.W.dtype}"
    return None


def layout(call: KernelCall) -> tuple[int, int]:
    """As in `Kernel`."""
    hidden = call.W.shape[1]
    return hidden, call.W.shape[2] + (hidden if call.source else 0)
