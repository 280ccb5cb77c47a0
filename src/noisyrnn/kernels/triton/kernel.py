"""The kernel named "triton": all steps in one launch of Triton, the products for the weights in torch.

The loops are in `noisyrnn.kernels.triton.loops`. With `TRITON_INTERPRET=1` set before Triton is first imported, they
run on a CPU, slowly; that is how they are tested without a GPU.
"""

import contextlib
import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from noisyrnn.checks import autocasts
from noisyrnn.kernels.call import EndGradients, Gradients, KernelCall
from noisyrnn.kernels.recurrence import GATED, Recurrence
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.padding import valid_steps
from noisyrnn.sde.activation import ACTIVATIONS

MAX_HIDDEN = 256
"""Beyond it a tile's state leaves the registers."""

_PLANES = {"drift": 1, "rate": 1, "current": 1, "oscillator": 2, "modrelu": 1, "gru": 4, "lstm": 5}
"""What a step keeps for the backward pass, in planes of one value a unit: see `loops._update`."""

_STEPLESS = ("modrelu", *GATED)
"""Kinds without a step length."""

_INSIDE = ("drift", "rate", "oscillator", "modrelu")
"""Kinds whose noise may be inside the activation."""

_ROWS = 16
"""`loops.ROWS`, here so that Triton need not be imported."""

_BYTES = {"bf16": 2, "tf32": 4, "bf16x6": 6}
"""Shared memory that one weight takes; "bf16x6" holds float32 as three bf16 parts."""

PRECISIONS = tuple(_BYTES)
"""How a product is made; "bf16x6" is float32."""

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
    if noise is not None and noise.place == "inside" and recurrence.kind not in _INSIDE:
        return f"the recurrence {recurrence.kind!r} has no noise inside"
    hidden = recurrence.hidden_size
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
    """As in `Kernel`; behind what a kind saves lie the normals that a diffusion multiplies, in steps of 16."""
    hidden = call.step.shape[1]
    columns = 0 if call.diffusion is None else -(-call.diffusion.shape[2] // 16) * 16
    return hidden, _PLANES[call.kind] * hidden + columns


def forward(call: KernelCall, *, every_step: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As in `Kernel`."""
    replicas, batch, steps, _ = call.inputs.shape
    hidden, width = layout(call)
    product = call.precision or product_precision(call.state.device.type)
    keep = every_step or save
    with torch.autocast(call.state.device.type, enabled=False):
        active = _drive(call, width).view(replicas, steps, batch, width)
        outputs = active.new_empty((replicas, steps, batch, hidden) if keep else (replicas, 0, 0, 0))
        last = torch.empty_like(call.state, memory_format=torch.contiguous_format)
        D, columns = _packed_diffusion(call)
        _launch(
            "forward",
            call,
            product,
            [m.mT for m in _matrices(call)],  # the states stand on the left
            tensors=[outputs, active, last, call.state.contiguous()],
            diffusion=[D],
            levels=[call.additive],
            columns=[columns, D.stride(0)],
            ADDITIVE=call.additive != 0,
            INSIDE=_is_inside(call),
            COLUMNS=0 if call.diffusion is None else D.shape[1],
            COLUMN_BLOCK=16 if D.shape[1] <= 32 else 32,
            KEEP=keep,
            SAVE=save,
        )
    return outputs.transpose(1, 2), active if save else active.new_empty(replicas, 0, 0, 0), last


def backward(
    call: KernelCall,
    outputs: Tensor,
    saved: Tensor,
    grads: EndGradients,
    *,
    with_inputs: bool,
    with_weights: bool = True,
) -> Gradients:
    """As in `Kernel`."""
    grad_outputs, grad_last = grads
    replicas, batch, steps, _ = call.inputs.shape
    hidden = call.step.shape[1]
    product = call.precision or product_precision(call.state.device.type)
    with torch.autocast(call.state.device.type, enabled=False):
        shifted = call.diffusion is not None and not _is_inside(call)
        groups = 4 if call.kind in GATED else 1 if call.A is None else 2
        flow = saved.new_empty(replicas, steps, batch, (groups + shifted) * hidden)
        grad_state = torch.empty_like(call.state, memory_format=torch.contiguous_format)
        parts = saved.new_empty(replicas, _tiles(call), hidden)
        saved, stored = saved.contiguous(), outputs.transpose(1, 2).contiguous()
        _launch(
            "backward",
            call,
            product,
            _matrices(call),
            tensors=[
                flow,
                grad_state,
                parts,
                saved,
                stored,
                saved if grad_outputs is None else grad_outputs,
                saved if grad_last is None else grad_last.contiguous(),
                call.state.contiguous(),
            ],
            strides=[0] * 4 if grad_outputs is None else grad_outputs.stride(),
            SHIFTED=shifted,
            HAS_OUTPUTS=grad_outputs is not None,
            HAS_LAST=grad_last is not None,
        )
        found = _inputs_of(call, flow) if with_inputs else saved.new_empty(replicas, 0)
        if not with_weights:
            return Gradients(found, grad_state, *(saved.new_empty(replicas, 0) for _ in Gradients._fields[2:]))
        return _gather(call, flow, stored, saved, grad_state, parts, product)._replace(inputs=found)


def _inputs_of(call: KernelCall, flow: Tensor) -> Tensor:
    """The gradient of the inputs from what the loop wrote."""
    steps, batch = flow.shape[1:3]
    sums = flow.flatten(1, 2)[:, :, : call.U.shape[1]]
    return (sums @ call.U).unflatten(1, (steps, batch)).transpose(1, 2).contiguous()


def _gather(
    call: KernelCall,
    flow: Tensor,
    outputs: Tensor,
    saved: Tensor,
    grad_state: Tensor,
    parts: Tensor,
    product: str,
) -> Gradients:
    """The weights' gradients from what the loop wrote: large products, each over all steps."""
    replicas, _, steps, _ = call.inputs.shape
    hidden, rows = call.step.shape[1], call.U.shape[1]
    first = call.state[..., :hidden]
    if call.kind == "current":
        first = ACTIVATIONS[call.activation].function(first)
    sums = flow[..., : (4 if call.kind in GATED else 1 if call.A is None else 2) * hidden]
    product_grads = _product_with_states(sums, first, outputs, product)
    of_units = parts.sum(1)
    grad_W, grad_A = product_grads[:, :hidden], saved.new_empty(replicas, 0)
    if call.A is not None:
        scaled = product_grads[:, hidden:]  # without the step d, which may be zero
        of_units = of_units + (call.A * scaled).sum(2)
        grad_A = call.step[:, :, None] * scaled
    elif call.kind == "oscillator":
        velocities = saved[..., hidden : 2 * hidden]
        second = _product_with_states(sums, call.state[..., hidden:], velocities, product)
        grad_W = torch.cat([grad_W, second], dim=2)
    elif call.kind == "gru":
        grad_W = torch.cat([product_grads[:, : 2 * hidden], product_grads[:, 3 * hidden :]], dim=1)
    elif call.kind == "lstm":
        grad_W = product_grads
    w = flow.flatten(1, 2)[:, :, :rows]
    inputs = call.inputs
    if call.lengths is not None:  # else NaN padding reaches the gradient of U as 0 * NaN
        inputs = inputs.masked_fill(~valid_steps(call.lengths, steps)[..., None], 0.0)
    grad_diffusion = saved.new_empty(replicas, 0)
    if call.diffusion is not None:
        shift = flow[..., :hidden] if _is_inside(call) else flow[..., -hidden:]
        normals = saved[..., _PLANES[call.kind] * hidden :][..., : call.diffusion.shape[2]]
        grad_diffusion = _summed(shift.flatten(1, 2), normals.flatten(1, 2), product)
    return Gradients(
        inputs=saved.new_empty(replicas, 0),
        state=grad_state,
        A=grad_A,
        W=grad_W.contiguous(),
        U=w.mT @ _time_major(inputs),
        b=of_units if call.kind == "modrelu" else flow[..., : call.b.shape[1]].sum((1, 2)),
        step=torch.zeros_like(of_units) if call.kind in _STEPLESS else of_units,
        diffusion=grad_diffusion,
    )


def _product_with_states(sums: Tensor, first: Tensor, states: Tensor, product: str) -> Tensor:
    """Gradients of sums, times the states from which the steps set out: `(R, T, B, n)` and `(R, T, B, hidden_size)`."""
    later = _summed(sums[:, 1:].flatten(1, 2), states[:, :-1].flatten(1, 2), product)
    return later + sums[:, 0].mT @ first


def _summed(left: Tensor, right: Tensor, product: str) -> Tensor:
    """`left.mT @ right`, the sum over all rows in float32; by tensor cores where the loops' products are bf16.

    They take the operands as tf32 then, with three bits more than bf16: rounding them to bf16 would read and write them
    once more, which takes longer than the product.
    """
    settings = torch.backends.cuda.matmul
    name, value = ("fp32_precision", "tf32") if hasattr(settings, "fp32_precision") else ("allow_tf32", True)
    before = getattr(settings, name)
    if product == "bf16":
        setattr(settings, name, value)
    try:
        return torch.bmm(left.mT, right)
    finally:
        if product == "bf16":
            setattr(settings, name, before)


def _matrices(call: KernelCall) -> list[Tensor]:
    """The square matrices of a kind's products, in the order of the loops."""
    hidden = call.step.shape[1]
    if call.kind == "oscillator":
        return list(call.W.split(hidden, dim=2))
    if call.kind in GATED:
        return list(call.W.split(hidden, dim=1))
    return [call.W] if call.A is None else [call.W, call.A]


def _drive(call: KernelCall, width: int) -> Tensor:
    """The inputs' part of every step, `(R, T * B, width)`: zero behind it, where the loop saves more than it reads."""
    missing = width - call.U.shape[1]
    U, b = call.U, call.b[:, : call.U.shape[1]]
    if call.kind == "modrelu":  # its bias is a threshold
        b = torch.zeros_like(b)
    if missing:
        U, b = pad(U, (0, 0, 0, missing)), pad(b, (0, missing))
    return torch.baddbmm(b[:, None], _time_major(call.inputs), U.mT)


def _is_inside(call: KernelCall) -> bool:
    """Whether the noise is inside the activation."""
    return call.noise is not None and call.noise.place == "inside"


def _packed_diffusion(call: KernelCall) -> tuple[Tensor, int]:
    """The transposed diffusion `(R, columns, size)` with zeros in the surplus, and its columns."""
    if call.diffusion is None:
        return call.seed.new_empty(1, 1, 1).expand(len(call.seed), -1, -1), 0
    _, hidden, columns = call.diffusion.shape
    most = max(16, 1 << (columns - 1).bit_length())
    return pad(call.diffusion.mT, (0, _size(hidden) - hidden, 0, most - columns)), columns


def _launch(
    name: str,
    call: KernelCall,
    product: str,
    matrices: list[Tensor],
    *,
    tensors: list[Tensor],
    diffusion: Sequence[Tensor] = (),
    levels: Sequence[float] = (),
    columns: Sequence[int] = (),
    strides: Sequence[int] = (),
    **constants: int,
) -> None:
    """Run one of the loops with the arguments that both have in common."""
    replicas, batch, steps, _ = call.inputs.shape
    hidden, width = layout(call)
    if replicas * batch == 0:
        return
    loop = getattr(_loops(), name)
    size = _size(hidden)
    weights = _packed(matrices, size, product)
    seed = call.seed.to(call.state.device).contiguous()
    first_row, first_step, stream = call.place
    slope, base = call.multiplicative
    stiffness, friction = call.coefficients or (0.0, 0.0)
    # The kinds that have such: thresholds, or the part of n's bias that the reset gate multiplies.
    bias = call.b[:, -hidden:] if call.kind in ("modrelu", "gru") else call.step
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
            bias.contiguous(),
            *diffusion,
            dt,
            lengths,
            seed,
            first_row % 2,  # rows that the first tile lacks in front
            first_row // 2,
            first_step,
            stream,
            *levels,
            base,
            slope,
            stiffness,
            friction,
            steps,
            batch,
            hidden,
            width,
            *columns[:1],
            weights.stride(0),
            *columns[1:],
            *dt_strides,
            *strides,
            KIND=call.kind,
            ACTIVATION=call.activation,
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


def _size(hidden: int) -> int:
    """Width of a tile."""
    return max(16, 1 << (hidden - 1).bit_length())


def _tiles(call: KernelCall) -> int:
    """Programs a replica; each begins with an even row of the path, whatever the first row is."""
    return -(-(call.place[0] % 2 + call.state.shape[1]) // _ROWS)


def _block(size: int, matrices: int, product: str, device: torch.device) -> int:
    """Rows of a matrix that a product takes at once: all where the weights fit into shared memory beside a tile."""
    limit = _HOPPER
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        limit = getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block)
    needed = matrices * size**2 * _BYTES[product] + 16 * _ROWS * size + 1024  # tiles on their way between layouts
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
