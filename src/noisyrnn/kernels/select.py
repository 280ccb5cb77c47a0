"""Selects a kernel for a pass and explains why faster ones were rejected."""

import inspect
import os
import warnings
from types import ModuleType
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from noisyrnn.checks import autocasts, check_choice
from noisyrnn.kernels import cpp, eager, triton
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.kernels.reference import Dynamics, recurrence_of
from noisyrnn.native import library
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.sde.diffusion import MatrixDiffusion

FAST: dict[str, ModuleType] = {"cpp": cpp, "triton": triton, "eager": eager}
"""The fast kernels, each a `noisyrnn.kernels.call.Kernel`."""

KERNELS = ("auto", *FAST, "reference")
ENVIRONMENT = "NOISYRNN_KERNEL"

_issued: set[str] = set()
_FLOAT64 = "the fast kernels are for float32, and the inputs are float64"


class KernelNotice(UserWarning):
    """Warning that a faster kernel was rejected; issued once per reason."""


def requested(kernel: str) -> str:
    """The value of the environment variable NOISYRNN_KERNEL, or `kernel` where it is not set.

    Raises:
        ValueError: If either is not one of `KERNELS`.
    """
    check_choice("kernel", kernel, KERNELS)
    override = os.environ.get(ENVIRONMENT)
    if override:
        check_choice(ENVIRONMENT, override, KERNELS)
        return override
    return kernel


def uses_cpp(kernel: str) -> bool:
    """Whether a pass that needs no gradients may go to the kernel "cpp"."""
    return requested(kernel) in ("auto", "cpp") and not torch.compiler.is_compiling()


def compiled_for(inputs: Tensor, kernel: str) -> bool:
    """Whether the kernel "cpp" may run a pass over inputs, given that it knows the cell."""
    if requested(kernel) not in ("auto", "cpp") or inputs.device.type != "cpu":
        return False
    if inputs.dtype != torch.float32 and not autocasts("cpu"):  # what autocast made narrower is widened
        return False
    return library.unavailable() is None


class PassTensors(TypedDict, total=False):
    """What a pass may have besides a cell and its inputs, as far as a kernel may refuse it; each `None` by default.

    Args:
        state: Initial state, `(batch, state_size)`; `None` for one of the weights' dtype and device.
        noise: The noise; `None` for none.
        path: The noise's path; `None` without noise.
        dt: Step lengths; `None` for 1.
    """

    state: Tensor | None
    noise: HiddenNoise | None
    path: BrownianPath | None
    dt: Tensor | None


def choose(
    cell: Dynamics, inputs: Tensor, *, kernel: str = "auto", **options: Unpack[PassTensors]
) -> tuple[str, Recurrence | None]:
    """The name of the kernel that runs a pass, and the recurrence it runs (`None` for the reference loop).

    Args:
        cell: As for `operator.run`.
        inputs: `(batch, steps, input_size)`.
        kernel: One of `KERNELS`; the environment variable NOISYRNN_KERNEL overrides it.
        options: Keyword arguments of `PassTensors`.

    Raises:
        ValueError: If a kernel other than "auto" is named and cannot run this.
    """
    name = requested(kernel)
    if name == "auto" and inputs.dtype == torch.float64:  # known before the weights are made
        name = "reference"
        _warn(f"{_FLOAT64[0].upper()}{_FLOAT64[1:]}. Kernel 'reference' runs, which is slower.")
    if name == "reference":
        return name, None
    if autocasts(inputs.device.type):
        with torch.autocast(inputs.device.type, enabled=False):  # the kernels need the weights in their own precision
            recurrence = recurrence_of(cell)
        if recurrence is not None:  # `operator.run` widens what autocast made narrower
            inputs, options["state"] = inputs.to(recurrence.W.dtype), None
    else:
        recurrence = recurrence_of(cell)
    if name == "auto":
        name, reasons = fastest(cell, inputs, recurrence=recurrence, **options)
        if reasons:
            _warn(f"{reasons[0].upper()}{reasons[1:]}. Kernel {name!r} runs, which is slower.")
        return name, recurrence
    reason = refusal(name, cell, inputs, recurrence=recurrence, **options)
    if reason is not None:
        advice = f"Unset {ENVIRONMENT}" if os.environ.get(ENVIRONMENT) else "Use kernel='auto'"
        raise ValueError(f"kernel {name!r} cannot run this cell: {reason}. {advice}.")
    return name, recurrence


def fastest(
    cell: Dynamics, inputs: Tensor, *, recurrence: Recurrence | None, **options: Unpack[PassTensors]
) -> tuple[str, str]:
    """The fastest kernel that can run a pass, and why faster ones cannot, as a clause; "" if there is none faster.

    Arguments as for `refusal`.
    """
    reason = _no_fast_kernel(cell, inputs, recurrence, **options)
    if reason is not None:
        return "reference", f"no fast kernel can run this cell: {reason}"
    if inputs.dtype == torch.float64:  # float64 is chosen for its exactness: run the definition
        return "reference", _FLOAT64
    assert recurrence is not None
    reasons = []
    for name in ("cpp" if inputs.device.type == "cpu" else "triton", "eager"):
        reason = FAST[name].supports(recurrence, inputs, options.get("noise"))
        if reason is None:
            break
        reasons.append(f"kernel {name!r} cannot run this cell: {reason}")
    else:
        name = "reference"
    return name, "; ".join(reasons)


def refusal(
    name: str, cell: Dynamics, inputs: Tensor, *, recurrence: Recurrence | None, **options: Unpack[PassTensors]
) -> str | None:
    """Return the reason why kernel `name` cannot run a pass, as a clause; `None` if it can.

    Args:
        name: One of `KERNELS` except "auto".
        cell: As for `operator.run`.
        inputs: `(batch, steps, input_size)`.
        recurrence: `recurrence_of(cell)`.
        options: Keyword arguments of `PassTensors`.
    """
    if name == "reference":
        return None
    reason = _no_fast_kernel(cell, inputs, recurrence, **options)
    if reason is not None or recurrence is None:
        return reason
    return FAST[name].supports(recurrence, inputs, options.get("noise"))


def _no_fast_kernel(
    cell: Dynamics,
    inputs: Tensor,
    recurrence: Recurrence | None,
    *,
    state: Tensor | None = None,
    noise: HiddenNoise | None = None,
    path: BrownianPath | None = None,
    dt: Tensor | None = None,
) -> str | None:
    """Why no fast kernel at all can run a pass."""
    if getattr(cell, "scheme", "") == "stochastic-heun":
        return "its scheme is 'stochastic-heun'"
    if recurrence is None:
        return f"{type(cell).__name__} has no fused form"
    if dt is not None and dt.requires_grad:
        return "dt requires a gradient"
    if noise is not None and noise.diffusion is not None and not noise.diffusion.constant:
        return "its noise has a diffusion that is a function"
    if not recurrence.activation.name:
        return "its activation is a function, not one of those with a name"
    if path is not None and path.factor > 1:
        return "the path is coarsened"
    weight = recurrence.W  # compiled code reads memory in the weights' format
    matrix = noise.diffusion.matrix if noise is not None and isinstance(noise.diffusion, MatrixDiffusion) else None
    for tensor in (inputs, state, recurrence.A, recurrence.U, recurrence.b, recurrence.step, matrix):
        if tensor is not None and tensor.dtype != weight.dtype:
            return f"its tensors are partly {_name(weight.dtype)} and partly {_name(tensor.dtype)}"
        if tensor is not None and tensor.device != weight.device:
            return f"its tensors are partly on {weight.device} and partly on {tensor.device}"
    return None


def _name(dtype: torch.dtype) -> str:
    """A dtype's name."""
    return str(dtype).removeprefix("torch.")


_INNER = ("noisyrnn", "torch", "lightning_fabric")


def _warn(message: str) -> None:
    """Issue a `KernelNotice`, the first time, at the line that called the package."""
    if torch.compiler.is_compiling() or message in _issued:
        return
    _issued.add(message)
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _INNER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, KernelNotice, stacklevel=level + 1)
