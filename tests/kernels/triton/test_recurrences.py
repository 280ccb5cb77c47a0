"""The GPU kernel's recurrences, activations and noises against the reference loop in float64.

The interpreted tests run in the process that `test_kernel.test_interpreted` starts.
"""

import itertools
import os
from dataclasses import replace

import pytest
import torch
from tests.kernels.cpp.conftest import a_pass, ends_of, plain
from tests.kernels.noise_terms import Terms, terms
from torch import Tensor

import noisyrnn
from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.recurrence import DRIFTS, KINDS
from noisyrnn.kernels.triton import kernel
from noisyrnn.noise import BrownianPath, HiddenNoise
from noisyrnn.sde.activation import ACTIVATIONS

interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run by test_interpreted")

PLACE = {"first_row": 3, "first_step": 7, "stream": 2}
INSIDE = HiddenNoise(additive=0.4, place="inside")
NOISES: dict[str, tuple[Terms, int, str]] = {
    "silent": (terms(), 0, "row"),
    "uniform": (terms(1, 0.3, 0.4, **PLACE), 0, ""),
    "independent": (terms(2, -0.3, -0.4, **PLACE), 0, "row"),
    "shared": (terms(3, 0.3, 0.4, first_row=2), 0, "step"),
    "diffusion": (terms(additive=0.6, **PLACE), 3, "row"),
    "wide diffusion": (terms(additive=-0.6, **PLACE), 33, ""),
    "inside": ((INSIDE, BrownianPath(seed=0, sign=-1, **PLACE)), 0, "row"),
    "diffusion inside": ((INSIDE, BrownianPath(seed=0, **PLACE)), 3, "step"),
}
"""Noise, columns of its diffusion and the step lengths."""

EVERY = [
    (kind, activation, noise)
    for kind, activation, noise in itertools.product(KINDS, ACTIVATIONS, NOISES)
    if (kind in DRIFTS or activation == "tanh") and (kind in kernel._INSIDE or "inside" not in noise)
]
SHORT = [
    ("drift", "softplus", "diffusion"), ("drift", "relu", "inside"), ("rate", "sigmoid", "independent"),
    ("current", "retanh", "shared"), ("current", "identity", "wide diffusion"), ("oscillator", "tanh", "inside"),
    ("modrelu", "tanh", "diffusion inside"), ("gru", "tanh", "uniform"), ("lstm", "tanh", "silent"),
]  # fmt: skip
CASES = [pytest.param(*case, marks=[] if case in SHORT else pytest.mark.slow, id="-".join(case)) for case in EVERY]


def by_kernel(call: KernelCall, ends: tuple[Tensor | None, Tensor | None]) -> dict[str, Tensor]:
    """The kernel forwards and backwards."""
    outputs, saved, last = kernel.forward(call, every_step=True, save=True)
    assert (outputs.shape[-1], saved.shape[-1]) == kernel.layout(call)
    kept = saved.clone()  # a graph may be kept for another backward pass
    gradients = kernel.backward(call, outputs, saved, ends, with_inputs=True)._asdict()
    assert torch.equal(saved, kept)
    return {"outputs": outputs, "last": last, **{n: g for n, g in gradients.items() if getattr(call, n) is not None}}


def check_parity(call: KernelCall, ends: tuple[Tensor | None, Tensor | None]) -> dict[str, Tensor]:
    """The norm of each error is at most 3 times that of the plain float32 loop; 3 roundings are always allowed."""
    exact, short = plain(call, *ends, torch.float64), plain(call, *ends, torch.float32)
    results = by_kernel(call, ends)
    assert results.keys() == exact.keys()
    for name, result in results.items():
        assert result.shape == exact[name].shape, name
        rounding = torch.finfo(torch.float32).eps * exact[name].norm()
        allowed = 3 * max((short[name] - exact[name]).norm(), rounding)
        assert (result - exact[name]).norm() <= allowed, name
    return results


@interpreted
@pytest.mark.parametrize(("kind", "activation", "noise"), CASES)
def test_interpreter_parity_of(kind: str, activation: str, noise: str) -> None:
    law, columns, dt = NOISES[noise]
    lengths = noise != "silent"
    kinds = {"kind": kind, "activation": activation, "columns": columns, "with_A": noise != "inside"}
    call = a_pass(5, 4, 3, noise=law, dt=dt, lengths=lengths, replicas=2, **kinds)
    results = check_parity(call, ends_of(call))
    assert torch.equal(kernel.forward(call, every_step=False, save=False)[2], results["last"])


@interpreted
@pytest.mark.parametrize("kind", [k if k == "lstm" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS[1:]])
def test_interpreter_parity_of_weights_from_the_cache(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_HOPPER", 0)
    assert kernel._block(64, 1, "bf16x6", torch.device("cpu")) == 32
    call = a_pass(33, 3, 3, noise=NOISES["diffusion"][0], columns=2, kind=kind)
    check_parity(call, ends_of(call))


@interpreted
@pytest.mark.parametrize("kind", ["current", "lstm", pytest.param("oscillator", marks=pytest.mark.slow)])
def test_interpreter_ends_of_states_of_two_parts(kind: str) -> None:
    for steps in (1, 3):
        call = a_pass(7, 3, steps, kind=kind, lengths=True, replicas=2)
        of_outputs, of_last = ends_of(call)
        check_parity(call, (of_outputs, None))
        check_parity(call, (None, of_last))


@interpreted
@pytest.mark.parametrize("kind", ["gru", pytest.param("lstm", marks=pytest.mark.slow)])
def test_interpreter_bf16_of_gates(kind: str) -> None:
    call = a_pass(9, 3, 4, kind=kind, replicas=2)
    exact, results = (
        plain(call, *ends_of(call), torch.float64),
        by_kernel(call._replace(precision="bf16"), ends_of(call)),
    )
    for name, result in results.items():
        if name != "step":  # not used: zero
            error = float((result - exact[name]).norm() / exact[name].norm())
            assert 2**-16 < error < 2**-6, name


@interpreted
@pytest.mark.parametrize("kind", ["lstm", pytest.param("oscillator", marks=pytest.mark.slow)])
def test_interpreter_padding_may_be_nan(kind: str) -> None:
    noise, columns, _ = NOISES["diffusion"]
    call = a_pass(5, 3, 3, kind=kind, noise=noise, columns=columns, dt="row", lengths=True)
    clean = call._replace(inputs=call.inputs.nan_to_num(3.0), dt=call.dt.nan_to_num(2.0))
    ends = ends_of(call)
    others = by_kernel(clean, (ends[0].nan_to_num(5.0), ends[1]))
    for name, result in by_kernel(call, ends).items():
        assert torch.isfinite(result).all() and torch.equal(result, others[name]), name


@interpreted
@pytest.mark.parametrize("kind", ["diffusion", "inside", "gru"])
def test_interpreter_layer_and_its_derivatives(kind: str) -> None:
    torch.manual_seed(0)
    diffusion = torch.tensor([[0.3, 0.0], [0.1, 0.2], [0.0, 0.4]])
    layer = {
        "diffusion": lambda: noisyrnn.NoisyRNN(2, 3, activation="relu", diffusion=diffusion, learn_diffusion=True),
        "inside": lambda: noisyrnn.RateRNN(2, 3, activation="softplus", additive=0.1, noise_place="inside"),
        "gru": lambda: noisyrnn.GRU(2, 3, additive=0.1),
    }[kind]()
    inputs, path = torch.randn(4, 5, 2), BrownianPath(seed=3)
    results = []
    for name in ("triton", "reference"):
        layer.kernel = name
        outputs, last = layer(inputs, path=path)
        first = torch.autograd.grad(outputs.square().sum() + last.sum(), list(layer.parameters()), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), list(layer.parameters()))
        results.append([outputs, last, *first, *second])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


ON_GPU = [case for case in EVERY if case[1] == "tanh" or case[2] == "independent"]


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "activation", "noise"), ON_GPU, ids=["-".join(case) for case in ON_GPU])
def test_parity_on_a_gpu_of(kind: str, activation: str, noise: str) -> None:
    law, columns, dt = NOISES[noise]
    kinds = {"kind": kind, "activation": activation, "columns": columns, "with_A": noise != "inside"}
    call = a_pass(33, 17, 20, noise=law, dt=dt, lengths=noise != "silent", replicas=8, **kinds)
    # A state that grows makes the error's norm one number, and its ratio luck.
    call = call._replace(A=None if call.A is None else call.A / 2, W=call.W / 2)
    check_parity(on_gpu(call), tuple(end.cuda() for end in ends_of(call)))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("kind", "product"),
    [*((kind, "bf16x6") for kind in KINDS), *itertools.product(("drift", "gru", "lstm"), ("tf32", "bf16"))],
)
def test_full_size_of_every_kind_on_a_gpu(kind: str, product: str) -> None:
    noise, path = terms(2, 0.05, 0.02)
    call = a_pass(128, 128, 200, 1, noise=(noise, path), kind=kind)
    call = on_gpu(call._replace(W=call.W / 2, A=None if call.A is None else call.A / 2, step=0.1 * call.step))
    ends = tuple(end.cuda() for end in ends_of(call))
    exact, results = plain(call, *ends, torch.float64), by_kernel(call._replace(precision=product), ends)
    most = {"bf16x6": 1e-4, "tf32": 1e-2, "bf16": 6e-2}[product]
    if kind == "modrelu":  # it jumps: of millions of values some lie on the other side, by rounding
        most = 1e-2
    for name, result in results.items():
        assert (result - exact[name]).norm() <= most * exact[name].norm(), name


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["drift", "lstm"])
def test_wide_diffusion_on_a_gpu(kind: str) -> None:
    for columns in (16, 32, 128):
        call = a_pass(128, 33, 20, noise=terms(additive=0.1), columns=columns, kind=kind)
        call = on_gpu(call._replace(W=call.W / 2, A=None if call.A is None else call.A / 2))
        check_parity(call, tuple(end.cuda() for end in ends_of(call)))
        path = replace(call.path, sign=-1)
        assert not torch.equal(
            by_kernel(call, (None, None))["last"], by_kernel(call._replace(path=path), (None, None))["last"]
        )


def on_gpu(call: KernelCall) -> KernelCall:
    """A pass with its tensors on the GPU."""
    return KernelCall(*[t.cuda() if isinstance(t, Tensor) else t for t in call])
