"""Chooses a kernel for a pass, or says in words why none of the fast ones fits."""

import inspect
import os
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from noisyrnn.checks import autocasts, check_choice
from noisyrnn.kernels import cpp, eager, operator, reference, triton
from noisyrnn.kernels.call import FusedNoise, Recurrence
from noisyrnn.kernels.reference import Dynamics
from noisyrnn.kernels.triton.kernel import product_precision
from noisyrnn.sde.brownian import BrownianPath
from noisyrnn.sde.diffusion import HiddenNoise

FUSED: dict[str, ModuleType] = {"cpp": cpp, "triton": triton, "eager": eager}
KERNELS = ("auto", *FUSED, "reference")
ENVIRONMENT = "NOISYRNN_KERNEL"

operator.BACKENDS.update(FUSED)
_noticed: set[str] = set()
_FLOAT64 = "the fast kernels are for float32, and the inputs are float64"


class KernelNotice(UserWarning):
    """A faster kernel than the one in use was refused; said once for each reason."""


def chosen(kernel: str) -> str:
    """`kernel`, or what the environment variable NOISYRNN_KERNEL says in its place.

    Raises:
        ValueError: If either is not one of `KERNELS`.
    """
    check_choice("kernel", kernel, KERNELS)
    override = os.environ.get(ENVIRONMENT)
    if override:
        check_choice(ENVIRONMENT, override, KERNELS)
        return override
    return kernel


def refusal(
    name: str,
    cell: Dynamics[Any],
    inputs: Tensor,
    *,
    recurrence: Recurrence | None,
    state: Tensor | None = None,
    path: BrownianPath | None = None,
    dt: Tensor | None = None,
) -> str | None:
    """Why kernel `name` cannot run a pass, as the end of a sentence; `None` if it can.

    Args:
        name: One of `KERNELS` but "auto".
        cell: As for `run`.
        inputs: As for `run`.
        recurrence: The cell's own.
        state: As for `run`; `None` if it is like the weights.
        path: As for `run`.
        dt: As for `run`.
    """
    if name == "reference":
        return None
    return _unfused(cell, inputs, recurrence, state, path, dt) or _unsupported(name, recurrence, inputs)


def _unfused(
    cell: Dynamics[Any],
    inputs: Tensor,
    recurrence: Recurrence | None,
    state: Tensor | None,
    path: BrownianPath | None,
    dt: Tensor | None,
) -> str | None:
    """Why no fused kernel at all can run a pass."""
    if recurrence is None:
        kind = getattr(cell, "kind", None)  # torch's own cells share a class
        return f"{kind.upper() if kind else type(cell).__name__} has no fused form"
    if dt is not None and dt.requires_grad:
        return "dt requires a gradient"
    if path is not None and path.factor > 1:
        return "the path is coarsened"
    example = recurrence.W  # compiled code reads memory as the weights have it
    for tensor in (inputs, state, recurrence.A, recurrence.U, recurrence.b, recurrence.step):
        if tensor is not None and tensor.dtype != example.dtype:
            return f"its tensors are partly {_short(example.dtype)} and partly {_short(tensor.dtype)}"
        if tensor is not None and tensor.device != example.device:
            return f"its tensors are partly on {example.device} and partly on {tensor.device}"
    return None


def _short(dtype: torch.dtype) -> str:
    """A dtype's name."""
    return str(dtype).removeprefix("torch.")


def _unsupported(name: str, recurrence: Recurrence | None, inputs: Tensor) -> str | None:
    """Why one fused kernel cannot run a recurrence."""
    assert recurrence is not None
    return FUSED[name].supports(recurrence, inputs)


def run(
    cell: Dynamics[Any],
    inputs: Tensor,
    state: Tensor,
    *,
    noise: HiddenNoise | None = None,
    path: BrownianPath | None = None,
    lengths: Tensor | None = None,
    dt: Tensor | None = None,
    every_step: bool = True,
    kernel: str = "auto",
) -> tuple[Tensor | None, Tensor]:
    """As `reference.run`, by the fastest kernel that can.

    Args:
        cell: As for `reference.run`.
        inputs: As for `reference.run`.
        state: As for `reference.run`.
        noise: As for `reference.run`.
        path: As for `reference.run`.
        lengths: As for `reference.run`.
        dt: As for `reference.run`.
        every_step: As for `reference.run`.
        kernel: One of `KERNELS`; the environment variable NOISYRNN_KERNEL overrides it.

    Raises:
        ValueError: If a kernel other than "auto" is named and cannot run this.
    """
    if noise is not None:
        noise.check_dt(dt)
    if path is not None:
        path.check_place(steps=inputs.shape[1], batch=inputs.shape[0])
    name, recurrence = _resolve(cell, inputs, state, path, dt, kernel)
    if recurrence is None or name == "reference":
        return reference.run(cell, inputs, state, noise=noise, path=path, lengths=lengths, dt=dt, every_step=every_step)
    return _run_fused(name, recurrence, inputs, state, FusedNoise.of(noise, path), path, lengths, dt, every_step)


def resolve(
    cell: Dynamics[Any],
    inputs: Tensor,
    *,
    path: BrownianPath | None = None,
    dt: Tensor | None = None,
    kernel: str = "auto",
) -> str:
    """Name of the kernel that `run` takes for the same arguments.

    Raises:
        ValueError: If a kernel other than "auto" is named and cannot run this.
    """
    return _resolve(cell, inputs, None, path, dt, kernel)[0]


def first(
    cell: Dynamics[Any],
    inputs: Tensor,
    *,
    recurrence: Recurrence | None,
    state: Tensor | None = None,
    path: BrownianPath | None = None,
    dt: Tensor | None = None,
) -> tuple[str, str]:
    """The first kernel that can run a pass, and why the faster ones do not, as a clause; "" if it is the fastest.

    Arguments are those of `refusal`.
    """
    reason = _unfused(cell, inputs, recurrence, state, path, dt)
    if reason is not None:
        return "reference", f"no fast kernel can run this cell: {reason}"
    if inputs.dtype == torch.float64:  # who asks for it wants the definition
        return "reference", _FLOAT64
    reasons = []
    for name in ("cpp" if inputs.device.type == "cpu" else "triton", "eager"):
        reason = _unsupported(name, recurrence, inputs)
        if reason is None:
            break
        reasons.append(f"kernel {name!r} cannot run this cell: {reason}")
    else:
        name = "reference"
    return name, "; ".join(reasons)


def _resolve(
    cell: Dynamics[Any],
    inputs: Tensor,
    state: Tensor | None,
    path: BrownianPath | None,
    dt: Tensor | None,
    kernel: str,
) -> tuple[str, Recurrence | None]:
    """The kernel's name, and what it iterates."""
    name = chosen(kernel)
    if name == "auto" and inputs.dtype == torch.float64:  # known before the weights are made
        name = "reference"
        _notice(f"{_FLOAT64[0].upper()}{_FLOAT64[1:]}. Kernel 'reference' runs, which is slower.")
    if name == "reference":
        return name, None
    if autocasts(inputs.device.type):
        with torch.autocast(inputs.device.type, enabled=False):  # the kernels want weights as they are
            recurrence = reference.fused_form(cell)
        if recurrence is not None:  # `_run_fused` widens what autocast made narrower
            inputs, state = inputs.to(recurrence.W.dtype), None
    else:
        recurrence = reference.fused_form(cell)
    if name == "auto":
        name, reasons = first(cell, inputs, recurrence=recurrence, state=state, path=path, dt=dt)
        if reasons:
            _notice(f"{reasons[0].upper()}{reasons[1:]}. Kernel {name!r} runs, which is slower.")
        return name, recurrence
    reason = refusal(name, cell, inputs, recurrence=recurrence, state=state, path=path, dt=dt)
    if reason is not None:
        advice = f"Unset {ENVIRONMENT}" if os.environ.get(ENVIRONMENT) else "Use kernel='auto'"
        raise ValueError(f"kernel {name!r} cannot run this cell: {reason}. {advice}.")
    return name, recurrence


_INNER = ("noisyrnn", "torch", "lightning_fabric")


def _notice(sentence: str) -> None:
    """Warn, the first time, at the line that called the package."""
    if torch.compiler.is_compiling() or sentence in _noticed:
        return
    _noticed.add(sentence)
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INNER:
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, KernelNotice, stacklevel=level + 1)


def _run_fused(
    backend: str,
    recurrence: Recurrence,
    inputs: Tensor,
    state: Tensor,
    noise: FusedNoise,
    path: BrownianPath | None,
    lengths: Tensor | None,
    dt: Tensor | None,
    every_step: bool,
) -> tuple[Tensor | None, Tensor]:
    """One pass as a single replica; `torch.func.vmap` makes more of it."""
    device = inputs.device
    seed = torch.zeros((), dtype=torch.int64, device=device) if path is None else path.seed_tensor(device)
    # Autocast may have made these narrower. The state is float32 everywhere; of the products' precision only the GPU
    # kernel makes a choice, here, because a backward pass is not run under autocast.
    inputs, state = inputs.to(recurrence.W.dtype), state.to(recurrence.W.dtype)
    precision = product_precision(device.type) if backend == "triton" else ""
    if dt is not None:
        dt = dt.unsqueeze(0) if dt.ndim == 1 else dt
    kind, *weights, coefficients = recurrence
    tensors = [inputs, state, *weights, dt, lengths, seed]
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    single = (save and not torch.compiler.is_compiling()) or torch._C._are_functorch_transforms_active()
    settings = operator.Settings(backend, kind, precision, coefficients, noise, every_step, save, single)
    if single:
        outputs, _, last = operator.Fused.run(*tensors, settings)
        return (outputs if every_step else None), last
    replicated = [None if t is None else t.unsqueeze(0) for t in tensors]
    outputs, _, last = operator.recurrence(*replicated, *settings.flat(), every_step, save)
    return (outputs[0] if every_step else None), last[0]
