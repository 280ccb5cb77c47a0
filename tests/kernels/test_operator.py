"""Replicas through `torch.func.vmap`, and derivatives of first and second order, of every fused kernel."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap

from noisyrnn.kernels import select
from noisyrnn.kernels.call import Gradients, Kernel, KernelCall
from noisyrnn.models import NoisyRNN, RecurrentLayer, build_layer
from noisyrnn.native import library
from noisyrnn.noise import BrownianPath

BATCH, STEPS, INPUT, HIDDEN, REPLICAS = 3, 6, 2, 5, 3
LENGTHS = torch.tensor([6, 1, 4])
SEEDS = torch.tensor([5, -(2**63), -1])  # bits of unsigned numbers
EAGER = ["noisy", "antisymmetric", "cornn", "exprnn", "rate", "rnn"]
FUSED = [*EAGER, "current", "gru", "lstm"]
WITHOUT_DT = ("exprnn", "rnn", "gru", "lstm")


class Counting:
    """A backend that keeps what it was called with."""

    def __init__(self, backend: Kernel) -> None:
        self.backend = backend
        self.calls: list[KernelCall] = []
        self.backward_calls: list[tuple[KernelCall, dict[str, bool]]] = []
        self.narrow: list[bool] = []
        self.layout, self.supports = backend.layout, backend.supports

    def forward(self, call: KernelCall, **options: bool) -> tuple[Tensor, Tensor, Tensor]:
        self.calls.append(call)
        self.narrow.append(torch.is_autocast_enabled("cpu"))
        return self.backend.forward(call, **options)

    def backward(self, call: KernelCall, *tensors: Any, **wanted: bool) -> Gradients:
        self.backward_calls.append((call, wanted))
        self.narrow.append(torch.is_autocast_enabled("cpu"))
        return self.backend.backward(call, *tensors, **wanted)


def skip_unknown(model: str, kernel: str) -> None:
    if kernel == "eager" and model not in EAGER:
        pytest.skip("the eager kernel does not run it")


@pytest.fixture
def counting(kernel: str, monkeypatch: pytest.MonkeyPatch) -> Counting:
    wrapped = Counting(select.FAST[kernel])
    monkeypatch.setitem(select.FAST, kernel, wrapped)
    return wrapped


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(model: str = "noisy", *, kernel: str, seed: int = 0) -> RecurrentLayer:
    """A layer whose weights, step and noise are large enough to matter within a few steps."""
    options: dict[str, Any] = {"additive": 0.3, "multiplicative": 0.4}
    if model in ("noisy", "antisymmetric"):
        options |= {"step_size": 0.3, "init_std": 3.0}
    if model == "cornn":
        options |= {"step_size": 0.3, "stiffness": 1.3, "friction": 0.7}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if model == "current":
            model, options = "rate", {**options, "form": "current", "activation": "softplus"}
        layer = build_layer(model, INPUT, HIDDEN, options)
        if model == "exprnn":
            torch.nn.init.uniform_(layer.cell.threshold, 0.1, 0.3)
    layer.kernel, layer.noise_mode = kernel, "on"
    return layer


INPUTS, STATE = randn(BATCH, STEPS, INPUT, seed=1), randn(1, BATCH, HIDDEN, seed=2)
DT = 0.5 + torch.rand(BATCH, STEPS, generator=torch.Generator().manual_seed(3))
WEIGHTS = randn(BATCH, STEPS, HIDDEN, seed=4)


def scalar(outputs: Tensor, last: Tensor) -> Tensor:
    """A number in which every output and the last state count differently, and not only linearly."""
    return (outputs * WEIGHTS.to(outputs)).sum() + last.square().sum()


def loss(layer: RecurrentLayer, weights: Any, seed: Tensor, inputs: Tensor, **options: Any) -> Tensor:
    return scalar(*functional_call(layer, weights, (inputs,), {"path": BrownianPath(seed=seed), **options}))


def alone(layers: list[RecurrentLayer], *, inputs: Tensor = INPUTS, **options: Any) -> list[dict[str, Tensor]]:
    """Losses and gradients one model after another; the options are lists, one entry a model."""
    found = []
    for r, layer in enumerate(layers):
        layer.zero_grad()
        value = scalar(*layer(inputs, path=BrownianPath(seed=SEEDS[r]), **{k: v[r] for k, v in options.items()}))
        value.backward()
        grads = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
        found.append({"loss": value.detach(), **grads})
    return found


def assert_alike(found: Tensor, wanted: Tensor, kernel: str) -> None:
    """The compiled kernel treats every replica for itself; batched products of torch may round otherwise."""
    if kernel == "cpp":
        assert torch.equal(found, wanted)
    else:
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=3e-6 * float(wanted.abs().max()))


def test_stacked_models_are_one_call_and_get_what_each_gets_alone(kernel: str, counting: Counting) -> None:
    layers = [build(kernel=kernel, seed=r) for r in range(REPLICAS)]
    wanted = alone(layers)
    counting.calls.clear()
    counting.backward_calls.clear()
    stacked = stack_module_state(layers)

    values = vmap(lambda *weights: loss(layers[0], weights[:2], weights[2], INPUTS))(*stacked, SEEDS)
    values.sum().backward()

    assert len(counting.calls) == len(counting.backward_calls) == 1
    call = counting.calls[0]
    assert counting.backward_calls[0][1] == {"with_inputs": False, "with_weights": True}
    assert call.seed.tolist() == SEEDS.tolist()
    assert call.inputs.shape == (REPLICAS, BATCH, STEPS, INPUT)
    assert call.inputs.stride(0) == call.state.stride(0) == 0  # shared, and not copied
    assert call.inputs.data_ptr() == INPUTS.data_ptr()
    for r in range(REPLICAS):
        assert_alike(values[r].detach(), wanted[r]["loss"], kernel)
        for name, parameter in stacked[0].items():
            assert_alike(parameter.grad[r], wanted[r][name], kernel)


def test_vmap_of_grad_with_an_axis_of_everything(kernel: str, counting: Counting) -> None:
    layers = [build(kernel=kernel, seed=r) for r in range(REPLICAS)]
    inputs = randn(BATCH, STEPS, REPLICAS, INPUT, seed=7)  # the mapped axis need not be the first
    states = randn(REPLICAS, 1, BATCH, HIDDEN, seed=8)
    dts = 0.5 + torch.rand(REPLICAS, STEPS, generator=torch.Generator().manual_seed(9))
    lengths = torch.tensor([[6, 1, 4], [1, 1, 1], [2, 6, 5]])
    wanted = []
    for r in range(REPLICAS):
        given = {"h_0": [states[r]] * REPLICAS, "dt": [dts[r]] * REPLICAS, "lengths": [lengths[r]] * REPLICAS}
        wanted.append(alone(layers, inputs=inputs[:, :, r], **given)[r])
    counting.calls.clear()
    counting.backward_calls.clear()

    def one(parameters: Any, buffers: Any, seed: Tensor, x: Tensor, h_0: Tensor, dt: Tensor, n: Tensor) -> Tensor:
        return loss(layers[0], (parameters, buffers), seed, x, h_0=h_0, dt=dt, lengths=n)

    mapped = vmap(grad(one), in_dims=(0, 0, 0, 2, 0, 0, 0))
    found = mapped(*stack_module_state(layers), SEEDS, inputs, states, dts, lengths)

    assert len(counting.calls) == len(counting.backward_calls) == 1
    assert counting.calls[0].dt.shape == (REPLICAS, 1, STEPS)
    assert counting.calls[0].lengths.tolist() == lengths.tolist()
    for r in range(REPLICAS):
        for name in found:
            assert_alike(found[name][r], wanted[r][name], kernel)


def test_nested_axes_fold_into_one(kernel: str, counting: Counting) -> None:
    layers = [build(kernel=kernel, seed=r) for r in range(REPLICAS)]
    several = torch.stack([INPUTS, 2 * INPUTS])

    def over_seeds(parameters: Any, buffers: Any, x: Tensor) -> Tensor:
        return vmap(lambda seed: loss(layers[0], (parameters, buffers), seed, x))(SEEDS[:2])

    stacked = stack_module_state(layers)
    values = vmap(vmap(over_seeds, in_dims=(None, None, 0)), in_dims=(0, 0, None))(*stacked, several)
    assert values.shape == (REPLICAS, 2, 2)
    assert len(counting.calls) == 1
    assert counting.calls[0].seed.shape == (REPLICAS * 4,)
    with torch.no_grad():
        for r, layer in enumerate(layers):
            for i, x in enumerate(several):
                for s in range(2):
                    wanted = scalar(*layer(x, path=BrownianPath(seed=SEEDS[s])))
                    assert_alike(values[r, i, s].detach(), wanted, kernel)


def test_shared_weights_over_many_seeds_get_the_sum_of_gradients(kernel: str, counting: Counting) -> None:
    layer = build(kernel=kernel)
    weights = dict(layer.named_parameters())
    values = vmap(lambda seed: loss(layer, weights, seed, INPUTS))(SEEDS)
    values.sum().backward()
    assert len(counting.calls) == 1
    assert counting.calls[0].W.stride(0) == 0
    found = {name: p.grad.clone() for name, p in weights.items() if p.grad is not None}
    each = alone([layer] * REPLICAS)
    for name in found:
        torch.testing.assert_close(found[name], sum(e[name] for e in each), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", FUSED)
def test_jacobians_are_the_references(model: str, kernel: str) -> None:
    skip_unknown(model, kernel)

    def jacobian(name: str, dtype: torch.dtype) -> Tensor:
        layer = build(model, kernel=name).to(dtype)
        path = BrownianPath(seed=3)
        return jacrev(lambda x: layer(x, path=path)[0][:, -1])(INPUTS.to(dtype)).double()

    exact = jacobian("reference", torch.float64)
    assert exact.shape == (BATCH, HIDDEN, BATCH, STEPS, INPUT)
    plain = (jacobian("reference", torch.float32) - exact).norm()
    assert (jacobian(kernel, torch.float32) - exact).norm() <= 2 * plain
    assert exact[0, :, 1:].abs().max() == 0
    assert exact[0, :, 0, 0].abs().max() > 1e-3


def test_only_the_inputs_gradient(kernel: str, counting: Counting) -> None:
    layer = build(kernel=kernel)
    expected = build(kernel="reference")
    found = []
    for each in (layer, expected):
        each.requires_grad_(False)
        x = INPUTS.clone().requires_grad_()
        scalar(*each(x, path=BrownianPath(seed=3))).backward()
        found.append(x.grad)
    assert [wanted for _, wanted in counting.backward_calls] == [{"with_inputs": True, "with_weights": False}]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_nothing_is_kept_without_gradients(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = []
    backend = select.FAST[kernel]
    wrapped = Counting(backend)
    wrapped.forward = lambda call, **o: saves.append(o["save"]) or backend.forward(call, **o)  # type: ignore[method-assign]
    monkeypatch.setitem(select.FAST, kernel, wrapped)
    layer = build(kernel=kernel)
    layer(INPUTS)
    with torch.no_grad():
        layer(INPUTS)
        vmap(lambda x: layer(x, path=BrownianPath(seed=1))[1])(INPUTS[None])
    layer.requires_grad_(False)(INPUTS)
    assert saves == [True, False, False, False]


def test_lengths_that_cannot_be_read_before_are_checked_on_arrival(kernel: str) -> None:
    layer = build(kernel=kernel)
    lengths = torch.tensor([[6, 1, 4], [6, 7, 4]])
    with pytest.raises(ValueError, match=r"lengths must lie in \[1, 6\], the number of steps, got 7\."):
        vmap(lambda n: layer(INPUTS, lengths=n, path=BrownianPath(seed=1))[1])(lengths)


def leaves_of(layer: RecurrentLayer, dtype: torch.dtype) -> tuple[list[str], list[Tensor]]:
    """Inputs, initial state and weights that can be differentiated."""
    names, weights = zip(*layer.named_parameters(), strict=True)
    state = randn(1, BATCH, layer.cell.state_size, seed=2)
    return list(names), [t.detach().to(dtype).clone().requires_grad_() for t in (INPUTS, state, *weights)]


def as_function(
    layer: RecurrentLayer, names: list[str], options: dict[str, Any], *, every_step: bool = True
) -> Callable[..., Tensor]:
    """A number as a function of `leaves_of`."""

    def value(inputs: Tensor, state: Tensor, *weights: Tensor) -> Tensor:
        given = dict(zip(names, weights, strict=True))
        outputs, last = functional_call(layer, given, (inputs, state), options)
        return scalar(outputs, last) if every_step else last.square().sum()

    return value


def options_of(model: str, dtype: torch.dtype) -> dict[str, Any]:
    timed = {} if model in WITHOUT_DT else {"dt": DT.to(dtype)}
    return {"path": BrownianPath(seed=11, first_row=1), "lengths": LENGTHS, **timed}


@pytest.mark.parametrize("name", ["eager", "reference"])
@pytest.mark.parametrize("model", FUSED)
def test_first_and_second_derivatives_are_those_of_differences(model: str, name: str) -> None:
    skip_unknown(model, name)
    layer = build(model, kernel=name).double()
    names, leaves = leaves_of(layer, torch.float64)
    function = as_function(layer, names, options_of(model, torch.float64))
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize("model", FUSED)
def test_second_derivatives_in_float32_are_the_references(model: str, kernel: str, every_step: bool) -> None:
    """A product of the Hessian and a vector, against the reference loop in float64."""
    skip_unknown(model, kernel)

    def second(name: str, dtype: torch.dtype) -> list[Tensor]:
        layer = build(model, kernel=name).to(dtype)
        names, leaves = leaves_of(layer, dtype)
        value = as_function(layer, names, options_of(model, dtype), every_step=every_step)(*leaves)
        first = torch.autograd.grad(value, leaves, create_graph=True)
        inner = sum((g * randn(*g.shape, seed=20 + i).to(dtype)).sum() for i, g in enumerate(first))
        return [t.double() for t in torch.autograd.grad(inner, leaves)]

    exact, plain = second("reference", torch.float64), second("reference", torch.float32)
    for one, two, three in zip(second(kernel, torch.float32), plain, exact, strict=True):
        assert three.norm() > 1e-3
        # Two roundings of the largest number, where the plain loop happens to hit a small gradient exactly.
        assert (one - three).norm() <= 2 * (two - three).norm() + 2**-22 * three.norm()


def test_grad_of_grad_in_functional_form(kernel: str) -> None:
    def curvature(name: str) -> Tensor:
        layer, path = build(kernel=name), BrownianPath(seed=4)
        slope = grad(lambda x: scalar(*layer(x, path=path)))
        return grad(lambda x: slope(x).square().sum())(INPUTS)

    torch.testing.assert_close(curvature(kernel), curvature("reference"), rtol=1e-4, atol=1e-5)


def with_and_without_autocast(model: str, kernel: str) -> list[list[Tensor]]:
    """Outputs, last state and gradients of one pass in float32, then under autocast."""
    found = []
    for narrow in (False, True):
        layer = build(model, kernel=kernel)
        layer.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            # What autocast made of earlier layers arrives narrower; these numbers are the same in both types.
            inputs = (INPUTS.bfloat16() if narrow else INPUTS.bfloat16().float()).requires_grad_()
            outputs, last = layer(inputs, path=BrownianPath(seed=3))
        # Backward passes belong outside, and the kernels' are right inside too; a matrix exponential's is not.
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow and model == "noisy"):
            scalar(outputs, last).backward()
        found.append([outputs, last, *(p.grad for p in layer.parameters())])
        found[-1].append(inputs.grad if narrow else inputs.grad.bfloat16())
    return found


@pytest.mark.parametrize("model", ["noisy", "exprnn"])
def test_autocast_leaves_the_kernels_in_float32(model: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", "portable")  # an instruction set without products of bf16
    found = with_and_without_autocast(model, kernel)
    for plain, mixed in zip(*found, strict=True):
        assert mixed.dtype == plain.dtype
        assert torch.equal(mixed, plain)
    assert found[1][0].dtype == torch.float32


@pytest.mark.parametrize("model", FUSED)
def test_autocast_on_a_processor_with_products_of_bf16(model: str) -> None:
    """State and gradients stay float32; products round their factors to 8 bits, a relative 2⁻⁹ each."""
    reason = library.unavailable()
    if reason is not None or not library.native().terms:
        pytest.skip(reason or "this processor has no products of bf16")
    plain, mixed = with_and_without_autocast(model, "cpp")
    assert mixed[0].dtype == torch.float32
    assert not torch.equal(mixed[0], plain[0])
    for one, other in zip(mixed, plain, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= 0.02 * other.norm()


def test_the_precision_of_products_reaches_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU kernel's choice is made once, in the forward pass: a backward pass runs outside of autocast."""
    wrapped = Counting(select.FAST["eager"])
    monkeypatch.setitem(select.FAST, "triton", wrapped)
    layer = NoisyRNN(INPUT, HIDDEN)
    layer.kernel = "triton"
    for narrow in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            outputs, _ = layer(INPUTS)
        outputs.sum().backward()
    assert wrapped.narrow == [False] * 4
    assert [call.precision for call in wrapped.calls] == ["bf16", "bf16x6"]
    assert [call.precision for call, _ in wrapped.backward_calls] == ["bf16", "bf16x6"]


def test_the_last_state_may_be_changed_in_place(kernel: str) -> None:
    layer = build(kernel=kernel)
    path = BrownianPath(seed=1)
    expected = torch.autograd.grad(2 * layer(INPUTS, path=path)[1].sum(), list(layer.parameters()))
    changed = layer(INPUTS, path=path)[1].mul_(2).sum()
    for one, other in zip(torch.autograd.grad(changed, list(layer.parameters())), expected, strict=True):
        torch.testing.assert_close(one, other)
