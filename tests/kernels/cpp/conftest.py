"""What the tests of the CPU kernel share: a pass of random numbers, and the kernel's and the plain loop's results."""

import torch
from tests.kernels.noise_terms import Terms
from torch import Tensor

from noisyrnn.kernels import cpp
from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.reference import run_call

_FLOATS = ("inputs", "state", "A", "W", "U", "b", "step", "diffusion", "dt")
GATES = {"gru": 3, "lstm": 4}
WITHOUT_STEP = ("modrelu", "gru", "lstm")


def a_pass(
    units: int,
    batch: int,
    steps: int,
    inputs: int = 2,
    *,
    noise: Terms = (None, None),
    with_A: bool = True,
    dt: str = "",
    lengths: bool = False,
    replicas: int = 1,
    kind: str = "drift",
    activation: str = "tanh",
    columns: int = 0,
    seed: int = 0,
) -> KernelCall:
    """A float32 pass; `dt` is "", "row" or "step". Where a sequence has ended, inputs and `dt` are NaN."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(replicas, *shape, generator=generator)

    gates, parts = GATES.get(kind, 1), 2 if kind in ("oscillator", "lstm") else 1
    A = randn(units, units) * 0.7 / units**0.5
    W = randn(gates * units, 2 * units if kind == "oscillator" else units) * 0.7 / units**0.5
    x = randn(batch, steps, inputs)
    spans = 0.5 + torch.rand(replicas, 1 if dt == "step" else batch, steps, generator=generator)
    ends = torch.randint(1, steps + 1, (replicas, batch), generator=generator)
    spread = 0.05 + 0.2 * torch.rand(replicas, units, generator=generator)
    if lengths:
        past = torch.arange(steps) >= ends[..., None]
        x = x.masked_fill(past[..., None], torch.nan)
        spans = spans if dt == "step" else spans.masked_fill(past, torch.nan)
    return KernelCall(
        kind,
        inputs=x,
        state=randn(batch, parts * units) * 0.5,
        A=A if with_A and kind == "drift" else None,
        W=W,
        U=randn(gates * units, inputs),
        b=randn((4 if kind == "gru" else gates) * units) * 0.1,
        step=torch.ones(replicas, units) if kind in WITHOUT_STEP else spread,
        diffusion=randn(units, columns) * 0.3 if columns else None,
        dt=spans if dt else None,
        lengths=ends if lengths else None,
        seed=torch.randint(-(2**63), 2**63 - 1, (replicas,), generator=generator),
        coefficients=(2.7, 4.7) if kind == "oscillator" else (),
        activation=activation,
        noise=noise[0],
        path=noise[1],
    )


def ends_of(call: KernelCall, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Gradients of the outputs, NaN where a sequence has ended, and of the last state."""
    generator = torch.Generator().manual_seed(seed)
    replicas, batch, steps, _ = call.inputs.shape
    of_outputs = torch.randn(replicas, batch, steps, call.step.shape[1], generator=generator)
    of_last = torch.randn(call.state.shape, generator=generator)
    if call.lengths is not None:
        of_outputs.masked_fill_((torch.arange(steps) >= call.lengths[..., None])[..., None], torch.nan)
    return of_outputs, of_last


def plain(call: KernelCall, of_outputs: Tensor | None, of_last: Tensor | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs, last state and gradients by autograd through the reference loop."""
    cast = {n: t.nan_to_num(1.0).to(dtype) for n in _FLOATS if (t := getattr(call, n)) is not None}
    leaves = {n: t.requires_grad_() for n, t in cast.items() if n != "dt"}
    outputs, last = run_call(call._replace(**cast), every_step=True)
    ends = [(outputs, of_outputs), (last, of_last)]
    given = [(end, grad.nan_to_num().to(dtype)) for end, grad in ends if grad is not None]
    found = torch.autograd.grad(
        [end for end, _ in given], list(leaves.values()), [grad for _, grad in given], materialize_grads=True
    )
    return {"outputs": outputs.detach(), "last": last.detach(), **dict(zip(leaves, found, strict=True))}


def fused(call: KernelCall, of_outputs: Tensor | None, of_last: Tensor | None) -> dict[str, Tensor]:
    """The same by the CPU kernel."""
    outputs, saved, last = cpp.forward(call, every_step=True, save=True)
    found = cpp.backward(call, outputs, saved, (of_outputs, of_last), with_inputs=True)
    given = {n: t for n, t in found._asdict().items() if getattr(call, n) is not None}
    return {"outputs": outputs, "last": last, **given}


def worse_than_allowed(calls: list[KernelCall], *, of_last_alone: bool = False) -> dict[str, tuple[float, float]]:
    """Quantities in which the kernel breaks the rule, with its error and the plain loop's; empty if there is none.

    The rule: the error's norm, over the norm, is at most twice that of the plain loop in float32, or one unit of
    float32 (where the plain loop is lucky, and right to the bit). Squares are summed over the calls: a few numbers'
    errors are luck.
    """
    sums: dict[str, list[float]] = {}
    for call in calls:
        of_outputs, of_last = ends_of(call)
        of_outputs = None if of_last_alone else of_outputs
        exact = plain(call, of_outputs, of_last, torch.float64)
        short = plain(call, of_outputs, of_last, torch.float32)
        for name, found in fused(call, of_outputs, of_last).items():
            truth = exact[name]
            assert found.shape == truth.shape and found.dtype == torch.float32, name
            parts = (found - truth, short[name] - truth, truth)
            squares = [float(part.square().sum()) for part in parts]
            sums[name] = [one + other for one, other in zip(sums.get(name, [0.0] * 3), squares, strict=True)]
    floor = torch.finfo(torch.float32).eps
    errors = {n: ((ours / size) ** 0.5, (loops / size) ** 0.5) for n, (ours, loops, size) in sums.items() if size}
    assert all(size > 0 or ours == 0 for ours, _, size in sums.values())
    return {n: pair for n, pair in errors.items() if not pair[0] <= max(2 * pair[1], floor)}
