"""Products of bf16 on a CPU: against a float64 loop that rounds the operands of its products, and what selects them."""

from typing import Any

import pytest
import torch
from tests.kernels.cpp.conftest import a_pass, ends_of, fused, plain
from tests.kernels.noise_terms import terms
from tests.processor import needs_bf16
from tests.products import sampled
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from noisyrnn import GRU, LSTM, CoRNN, NoisyRNN
from noisyrnn.kernels import cpp
from noisyrnn.kernels.call import KernelCall
from noisyrnn.native import library
from noisyrnn.training import TrainConfig
from noisyrnn.training.config import check_precision

pytestmark = needs_bf16

KINDS = ("drift", "without A", "rate", "current", "oscillator", "modrelu", "gru", "lstm")
NOISES = {"silent": terms(), "levels": terms(2, 0.3, 0.4)}


class RoundedProduct(torch.autograd.Function):
    """A product whose operands are rounded to bf16, in both directions."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        left, right = rounded(left), rounded(right)
        ctx.save_for_backward(left, right)
        return left @ right

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        grad = rounded(grad)
        found = left.flatten(0, -2).T @ grad.flatten(0, -2)
        return grad @ right.T, found


def rounded(t: Tensor) -> Tensor:
    return t.float().bfloat16().to(t.dtype)


class RoundsOperands(TorchFunctionMode):
    """Rounds the operands of the reference loop's products, except those of a diffusion with its numbers."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.addmm:
            return args[0] + RoundedProduct.apply(*args[1:3])
        if function is functional.linear:
            x, weight, bias = args
            product = RoundedProduct.apply(x, weight.T)
            return product if bias is None else product + bias
        if function in (Tensor.__matmul__, Tensor.matmul):
            return RoundedProduct.apply(*args)
        return function(*args, **(kwargs or {}))


def errors(calls: list[KernelCall]) -> dict[str, tuple[float, ...]]:
    """Of each quantity: the kernel's distance from the rounding loop, and from the exact one, and the loops' own."""
    sums: dict[str, list[float]] = {}
    for call in calls:
        ends = ends_of(call)
        exact = plain(call, *ends, torch.float64)
        with RoundsOperands():
            loop = plain(call, *ends, torch.float64)
        for name, t in fused(call._replace(precision="bf16"), *ends).items():
            parts = (t - loop[name], t - exact[name], loop[name] - exact[name], exact[name])
            squares = [float(part.square().sum()) for part in parts]
            sums[name] = [one + other for one, other in zip(sums.get(name, [0.0] * 4), squares, strict=True)]
    return {n: tuple((part / size) ** 0.5 for part in parts) for n, (*parts, size) in sums.items() if size}


SIZES = ((1, 1, 2, 1), (17, 7, 5, 3), (33, 18, 3, 40), (130, 16, 2, 1))


@pytest.mark.parametrize(
    ("kind", "noise", "size", "lengths", "level"),
    sampled(KINDS, ("silent", "levels"), SIZES, (False, True), ("amx", "avx512bf16")),
)
def test_errors_are_those_of_the_operands(
    kind: str, noise: str, size: tuple[int, ...], lengths: bool, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", level)
    if cpp.no_bf16() is not None:
        pytest.skip(f"this processor has no {level}")
    options = {"kind": kind.replace("without A", "drift"), "with_A": kind == "drift", "lengths": lengths}
    calls = [a_pass(*size, noise=NOISES[noise], **options, seed=seed) for seed in range(max(2, 60 // size[0]))]
    for name, (off, kernel, loop) in errors(calls).items():
        if name in ("outputs", "last"):  # to the rounding of float32, and where that makes an operand round otherwise
            assert off <= max(0.2 * loop, 1e-6), (name, off, loop)
        assert kernel <= max(2 * loop, 4e-3), (name, kernel, loop)


def test_a_diffusion_is_not_rounded() -> None:
    call = a_pass(17, 8, 1, noise=terms(additive=0.5), columns=3)
    call = call._replace(W=0 * call.W, A=None, U=0 * call.U, b=0 * call.b)
    short = cpp.forward(call._replace(precision="bf16"), every_step=True, save=True)[0]
    assert torch.equal(short, cpp.forward(call, every_step=True, save=True)[0])
    call = a_pass(17, 8, 5, noise=terms(additive=0.5), columns=3, kind="rate")
    for name, (_, kernel, loop) in errors([call]).items():
        assert kernel <= max(2 * loop, 4e-3), name


def test_any_number_of_threads_gives_the_same_bits() -> None:
    call, before = a_pass(33, 75, 6, noise=terms(2, 0.3, 0.4))._replace(precision="bf16"), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(fused(call, *ends_of(call)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(t, other[n]) for other in found[1:] for n, t in found[0].items())


@pytest.mark.parametrize("kind", [NoisyRNN, CoRNN, GRU, LSTM])
def test_autocast_selects_it(kind: type) -> None:
    torch.manual_seed(0)
    layer, inputs = kind(3, 40), torch.randn(4, 9, 3)
    exact = layer.eval()(inputs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        short = layer(inputs)[0]
        with torch.no_grad():
            assert torch.equal(layer(inputs)[0], short)  # with packed weights
    assert short.dtype == torch.float32
    assert 1e-6 < float((short - exact).detach().abs().max()) < 0.05
    assert torch.equal(layer(inputs)[0], exact)
    with torch.no_grad():
        assert torch.equal(layer(inputs)[0], exact)


def test_a_run_without_such_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_precision("bf16-mixed", "cpu")
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", "avx2")
    assert not library.native().terms
    check_precision("bf16-mixed", "cuda")
    check_precision(TrainConfig(model="noisy", dataset="digits").precision, "cpu")
    with pytest.raises(ValueError, match="precision must be '32-true' on this processor, got 'bf16-mixed': the proc"):
        check_precision("bf16-mixed", "cpu")
