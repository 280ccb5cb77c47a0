"""The kernel named "triton": all steps in one launch of Triton, the products for the weights in torch.

The loops are in `noisyrnn.kernels.triton.loops`. With `TRITON_INTERPRET=1` set before Triton is first imported, they
run on a CPU, slowly; that is how they are tested without a GPU.
"""

import contextlib
import importlib.util
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from noisyrnn.checks import autocasts
from noisyrnn.kernels.call import EndGradients, Gradients, KernelCall
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.padding import valid_steps

MAX_HIDDEN = 256
"""Beyond it a tile's state leaves the registers."""

_KINDS = ("drift", "rate")

_ROWS = 16
"""`loops.ROWS`, here so that Triton need not be imported."""

_BYTES = {"bf16": 2, "tf32": 4, "bf16x6": 6}
"""Shared memory that one weight takes; "bf16x6" holds float32 as three bf16 parts."""

_HOPPER = 232448
"""Shared memory of one program on an H100 or H200; the interpreter takes the same way as these."""


def product_precision(device: str = "cuda") -> str:
    """How the matrices' products are made, as torch's settings have it; sums and the state are always float32.

    Args:
        device: Device type whose autocast counts.

    Returns:
        "bf16" under autocast to bfloat16; "tf32" where `torch.backends.cuda.matmul` allows it; else "bf16x6", float32
        products from six of bf16 parts: tensor cores know no other, and weights would not stay resident without them.
    """
    if autocasts(device) and torch.get_autocast_dtype(device) == torch.bfloat16:
        return "bf16"
    settings = torch.backends.cuda.matmul
    precision = getattr(settings, "fp32_precision", None)  # torch 2.8 has only the older name
    if precision is None:
        precision = "tf32" if settings.allow_tf32 else "ieee"
    return "tf32" if precision == "tf32" else "bf16x6"


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
    hidden = recurrence.W.shape[-2]
    if hidden > MAX_HIDDEN:
        return f"hidden_size {hidden} is more than {MAX_HIDDEN}"
    for name, tensor in (("the inputs", inputs), ("the weights", recurrence.W)):
        if tensor.dtype != torch.float32:
            return f"{name} are {tensor.dtype}, not torch.float32".replace("torch.", "")
    if not _interpreted():
        if inputs.device.type != "cuda":
            return f"the inputs are on {inputs.device.type}, not on a GPU"
        major, minor = torch.cuda.get_device_capability(inputs.device)
        if major < 8:
            return f"the GPU's compute capability {major}.{minor} is below 8.0"
    return None if _installed() else "triton is not installed"


def layout(call: KernelCall) -> tuple[int, int]:
    """As in `Kernel`."""
    return call.b.shape[1], call.b.shape[1]


def forward(call: KernelCall, *, every_step: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As in `Kernel`. Beside the outputs, the tanh of every step is saved, `(R, T, B, hidden_size)`."""
    replicas, batch, steps, _ = call.inputs.shape
    hidden = call.b.shape[1]
    product = call.precision or product_precision(call.state.device.type)
    keep = every_step or save
    with torch.autocast(call.state.device.type, enabled=False):
        drive = torch.baddbmm(call.b[:, None], _time_major(call.inputs), call.U.mT)
        active = drive.view(replicas, steps, batch, hidden)
        outputs = active.new_empty((replicas, steps, batch, hidden) if keep else (replicas, 0, 0, 0))
        last = torch.empty_like(call.state, memory_format=torch.contiguous_format)
        _launch(
            "forward",
            call,
            product,
            [call.W.mT, None if call.A is None else call.A.mT],  # the states stand on the left
            tensors=[outputs, active, last, call.state.contiguous()],
            levels=[call.additive],
            ADDITIVE=call.additive != 0,
            KEEP=keep,
            SAVE=save,
        )
    return outputs.transpose(1, 2), active if save else active.new_empty(replicas, 0, 0, 0), last


def backward(call: KernelCall, outputs: Tensor, saved: Tensor, grads: EndGradients, *, with_inputs: bool) -> Gradients:
    """As in `Kernel`."""
    grad_outputs, grad_last = grads
    replicas, batch, steps, _ = call.inputs.shape
    hidden = call.b.shape[1]
    product = call.precision or product_precision(call.state.device.type)
    with torch.autocast(call.state.device.type, enabled=False):
        width = hidden if call.A is None else 2 * hidden
        flow = saved.new_empty(replicas, steps, batch, width)
        grad_state = torch.empty_like(call.state, memory_format=torch.contiguous_format)
        parts = saved.new_empty(replicas, _tiles(call), hidden)
        _launch(
            "backward",
            call,
            product,
            [call.W, call.A],
            tensors=[
                flow,
                grad_state,
                parts,
                saved.contiguous(),
                saved if grad_outputs is None else grad_outputs,
                saved if grad_last is None else grad_last.contiguous(),
            ],
            strides=[0] * 4 if grad_outputs is None else grad_outputs.stride(),
            HAS_OUTPUTS=grad_outputs is not None,
            HAS_LAST=grad_last is not None,
        )
        # Gradients of `[W h | A h]`, times the states from which the steps set out.
        stored = outputs.transpose(1, 2).contiguous()
        product_grads = torch.baddbmm(
            flow[:, 0].mT @ call.state, flow[:, 1:].flatten(1, 2).mT, stored[:, :-1].flatten(1, 2)
        )
        grad_step = parts.sum(1)
        grad_A = saved.new_empty(replicas, 0)
        if call.A is not None:
            scaled = product_grads[:, hidden:]  # without the step d, which may be zero
            grad_step += (call.A * scaled).sum(2)
            grad_A = call.step[:, :, None] * scaled
        w = flow.flatten(1, 2)[:, :, :hidden]
        grad_inputs = saved.new_empty(replicas, 0)
        if with_inputs:
            grad_inputs = (w @ call.U).unflatten(1, (steps, batch)).transpose(1, 2).contiguous()
        inputs = call.inputs
        if call.lengths is not None:  # else NaN padding reaches the gradient of U as 0 * NaN
            inputs = inputs.masked_fill(~valid_steps(call.lengths, steps)[..., None], 0.0)
        return Gradients(
            inputs=grad_inputs,
            state=grad_state,
            A=grad_A,
            W=product_grads[:, :hidden].contiguous(),
            U=w.mT @ _time_major(inputs),
            b=w.sum(1),
            step=grad_step,
            diffusion=saved.new_empty(replicas, 0),
        )


def _launch(
    name: str,
    call: KernelCall,
    product: str,
    matrices: list[Tensor | None],
    *,
    tensors: list[Tensor],
    levels: list[float] | None = None,
    strides: Any = (),
    **constants: bool,
) -> None:
    """Run one of the loops with the arguments that both have in common."""
    replicas, batch, steps, _ = call.inputs.shape
    hidden = call.b.shape[1]
    if replicas * batch == 0:
        return
    loop = getattr(_loops(), name)
    size = max(16, 1 << (hidden - 1).bit_length())
    weights = _packed([m for m in matrices if m is not None], size, product)
    seed = call.seed.to(call.state.device).contiguous()
    first_row, first_step, stream = call.place
    slope, base = call.multiplicative
    # A tensor that is absent has another in its place, which the loop does not look at.
    dt = call.state if call.dt is None else call.dt
    dt_strides = (0, 0, 0) if call.dt is None else (dt.stride(0), dt.stride(1) * (dt.shape[1] > 1), dt.stride(2))
    lengths = seed if call.lengths is None else call.lengths.contiguous()
    device = call.state.device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        loop[_tiles(call), replicas](
            *tensors,
            weights,
            call.step.contiguous(),
            dt,
            lengths,
            seed,
            first_row % 2,  # rows that the first tile lacks in front
            first_row // 2,
            first_step,
            stream,
            *(levels or []),
            base,
            slope,
            steps,
            batch,
            hidden,
            weights.stride(0),
            *dt_strides,
            *strides,
            HP=size,
            BLOCK=_block(size, weights.shape[1], product, device),
            PRODUCT="ieee" if product == "bf16x6" and _interpreted() else product,  # known to compilers alone
            HAS_A=call.A is not None,
            HAS_DT=call.dt is not None,
            HAS_LENGTHS=call.lengths is not None,
            SOURCE=int(call.source),
            **constants,
            num_warps=max(1, size // 16),
        )


def _tiles(call: KernelCall) -> int:
    """Programs a replica; each begins with an even row of the path, whatever the first row is."""
    return -(-(call.place[0] % 2 + call.state.shape[1]) // _ROWS)


def _block(size: int, matrices: int, product: str, device: torch.device) -> int:
    """Rows of a matrix that a product takes at once: all where the weights fit into shared memory beside a tile."""
    limit = _HOPPER
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        limit = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    needed = matrices * size**2 * _BYTES[product] + 12 * _ROWS * size + 1024  # tiles on their way between layouts
    return size if size <= 128 and needed <= limit else min(size, 32)


def _packed(matrices: list[Tensor], size: int, product: str) -> Tensor:
    """Matrices `(R, n, n)` one after another, `(R, matrices, size, size)`, in the type of the products."""
    replicas = len(matrices[0])
    shared = all(m.stride(0) == 0 for m in matrices)
    matrices = [m[:1] if shared else m for m in matrices]
    packed = matrices[0].new_zeros(len(matrices[0]), len(matrices), size, size)
    for place, matrix in zip(packed.unbind(1), matrices, strict=True):
        place[:, : matrix.shape[1], : matrix.shape[2]] = matrix
    if product == "bf16":
        rounded = packed.bfloat16()
        packed = rounded.float() if _interpreted() else rounded  # the interpreter cannot multiply bf16
    return packed.expand(replicas, -1, -1, -1)


def _time_major(inputs: Tensor) -> Tensor:
    """Inputs `(R, B, T, input_size)` as `(R, T * B, input_size)`; replicas that share them still do."""
    shared = inputs[:1] if inputs.stride(0) == 0 else inputs
    return shared.transpose(1, 2).flatten(1, 2).expand(len(inputs), -1, -1)


def _interpreted() -> bool:
    """Whether Triton runs on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


@cache
def _installed() -> bool:
    """Whether there is a Triton to import."""
    return importlib.util.find_spec("triton") is not None


def _loops() -> Any:
    """The module of the loops; it imports Triton."""
    from noisyrnn.kernels.triton import loops

    return loops
