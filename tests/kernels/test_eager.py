"""The hand-written backward pass in tensor operations against the reference loop: outputs and every gradient."""

from dataclasses import replace

import pytest
import torch
from tests.kernels.noise_terms import Terms, terms
from torch import Tensor

from noisyrnn.kernels import eager
from noisyrnn.kernels.call import Gradients, KernelCall
from noisyrnn.kernels.cpp import buffers
from noisyrnn.kernels.eager import blocks
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.kernels.reference import run_call
from noisyrnn.noise.brownian import BrownianPath

BATCH, INPUT, HIDDEN = 3, 2, 5
PLACE = {"first_row": 3, "first_step": 7, "stream": 2}
NOISES = {
    "silent": terms(),
    "additive": terms(additive=0.3, **PLACE),
    "uniform": terms(source=1, level=0.4, **PLACE),
    "uniform both": terms(source=1, additive=0.3, level=0.4, **PLACE),
    "multiplicative": terms(source=2, level=0.4, **PLACE),
    "independent": terms(source=2, additive=0.3, level=0.4, **PLACE),
    "shared": terms(source=3, additive=-0.3, level=-0.4, **PLACE),
    "shared multiplicative": terms(source=3, level=0.4, **PLACE),
}
KINDS = ("drift", "without A", "oscillator", "modrelu")
STEPS = 2 * 3 + 1  # not a multiple of the block, and longer than two


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 3)


def a_pass(
    kind: str,
    noise: Terms = NOISES["independent"],
    *,
    replicas: int = 1,
    lengths: bool = False,
    dt: str | None = None,
    steps: int = STEPS,
    batch: int = BATCH,
    hidden: int = HIDDEN,
    gain: float = 1.0,
    step: float = 0.3,
) -> KernelCall:
    """One with every number drawn from a fixed generator, in float64."""
    generator = torch.Generator().manual_seed(5)

    def randn(*shape: int) -> Tensor:
        return torch.randn(replicas, *shape, generator=generator, dtype=torch.float64)

    width = 2 * hidden if kind == "oscillator" else hidden
    durations = {
        "shared": 0.5 + torch.rand(replicas, 1, steps, generator=generator, dtype=torch.float64),
        "per row": 0.5 + torch.rand(replicas, batch, steps, generator=generator, dtype=torch.float64),
    }
    ends = torch.randint(1, steps + 1, (replicas, batch), generator=generator)
    ends[0, 0] = 1
    return KernelCall(
        kind="drift" if kind == "without A" else kind,
        inputs=randn(batch, steps, INPUT),
        state=randn(batch, width),
        A=gain * randn(hidden, hidden) / hidden**0.5 if kind == "drift" else None,
        W=gain * randn(hidden, width) / width**0.5,
        U=randn(hidden, INPUT),
        b=0.3 * randn(hidden),
        step=step * (1 + 0.5 * torch.rand(replicas, hidden, generator=generator, dtype=torch.float64)),
        diffusion=None,
        dt=None if dt is None else durations[dt],
        lengths=ends if lengths else None,
        seed=torch.tensor([-(2**63), 12345678901234567, -1])[:replicas],
        coefficients=(1.3, 0.7) if kind == "oscillator" else (),
        noise=noise[0],
        path=noise[1],
    )


def weighted(call: KernelCall, grad_outputs: Tensor, grad_last: Tensor) -> tuple[Tensor, Tensor, Gradients]:
    """Outputs, last state and gradients of the reference loop by autograd."""
    names = [n for n in Gradients._fields if getattr(call, n) is not None]
    leaves = [getattr(call, name).detach().clone().requires_grad_() for name in names]
    outputs, last = run_call(call._replace(**dict(zip(names, leaves, strict=True))), every_step=True)
    loss = (outputs * grad_outputs).sum() + (last * grad_last).sum()
    grads = dict(zip(names, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True))
    filled = {n: torch.zeros_like(leaf) for n, leaf in zip(names, leaves, strict=True) if grads[n] is None}
    empty = {n: call.state.new_empty(len(call.state), 0) for n in Gradients._fields if getattr(call, n) is None}
    return outputs.detach(), last.detach(), Gradients(**{**grads, **filled, **empty})


def given(call: KernelCall) -> tuple[Tensor, Tensor]:
    """Gradients of the outputs and of the last state."""
    generator = torch.Generator().manual_seed(6)
    batch, steps = call.inputs.shape[1:3]
    shape = (len(call.state), batch, steps, call.W.shape[1])
    grads = torch.randn(shape, generator=generator, dtype=torch.float64)
    return grads, torch.randn(call.state.shape, generator=generator, dtype=torch.float64)


def kernel(call: KernelCall, grad_outputs: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor, Tensor, Gradients]:
    outputs, saved, last = eager.forward(call, every_step=True, save=True)
    return outputs, last, eager.backward(call, outputs, saved, (grad_outputs, grad_last), with_inputs=True)


def assert_equal(found: tuple[Tensor, Tensor, Gradients], expected: tuple[Tensor, Tensor, Gradients]) -> None:
    names = ("outputs", "last", *Gradients._fields)
    for name, one, other in zip(names, (*found[:2], *found[2]), (*expected[:2], *expected[2]), strict=True):
        assert one.shape == other.shape, name
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


VARIANTS = [(1, False, None), (3, True, None), (1, True, "per row"), (3, False, "shared")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("replicas", "lengths", "dt"), VARIANTS)
def test_equals_the_reference_loop(kind: str, noise: str, replicas: int, lengths: bool, dt: str | None) -> None:
    timed = "uniform" not in noise  # the uniform law takes no dt
    call = a_pass(kind, NOISES[noise], replicas=replicas, lengths=lengths, dt=dt if timed else None)
    assert_equal(kernel(call, *given(call)), weighted(call, *given(call)))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu(kind: str) -> None:
    call = a_pass(kind, replicas=3, lengths=True)
    grads = given(call)
    there = KernelCall(*[part.cuda() if isinstance(part, Tensor) else part for part in call])
    outputs, last, gradients = kernel(there, *(grad.cuda() for grad in grads))
    found = outputs.cpu(), last.cpu(), Gradients(*[gradient.cpu() for gradient in gradients])
    assert_equal(found, weighted(call, *grads))


@pytest.mark.parametrize(("steps", "batch", "hidden"), [(1, 1, 1), (3, 1, 3), (4, 2, 1), (6, 5, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_sizes(kind: str, steps: int, batch: int, hidden: int) -> None:
    call = a_pass(kind, steps=steps, batch=batch, hidden=hidden)
    assert_equal(kernel(call, *given(call)), weighted(call, *given(call)))


@pytest.mark.parametrize("inputs", [1, 3, 4, 5])
@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_inputs(kind: str, replicas: int, inputs: int) -> None:
    call = a_pass(kind, replicas=replicas, lengths=True)
    some = [part[..., :1].expand(*part.shape[:-1], inputs).cumsum(-1) for part in (call.inputs, call.U)]
    call = call._replace(inputs=some[0], U=some[1])
    assert_equal(kernel(call, *given(call)), weighted(call, *given(call)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_gradient_is_zero(kind: str) -> None:
    call = a_pass(kind, lengths=True)
    grad_outputs, grad_last = given(call)
    outputs, last, expected = weighted(call, grad_outputs, 0 * grad_last)
    assert_equal(kernel(call, grad_outputs, None), (outputs, last, expected))
    outputs, last, expected = weighted(call, 0 * grad_outputs, grad_last)
    assert_equal(kernel(call, None, grad_last), (outputs, last, expected))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", ["silent", "uniform both", "independent"])
@pytest.mark.parametrize("lengths", [False, True])
def test_without_saving_the_numbers_are_the_same(kind: str, noise: str, lengths: bool) -> None:
    call = a_pass(kind, NOISES[noise], replicas=2, lengths=lengths)
    outputs, saved, last = eager.forward(call, every_step=False, save=True)
    assert len(saved) == 2
    every, none, same = eager.forward(call, every_step=True, save=False)
    assert none.shape == (2, 0, 0, 0)
    assert torch.equal(every, outputs) and torch.equal(same, last)
    empty, none, same = eager.forward(call, every_step=False, save=False)
    assert empty.shape == none.shape == (2, 0, 0, 0)
    assert torch.equal(same, last)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_reaches_nothing(kind: str) -> None:
    call = a_pass(kind, replicas=2, lengths=True, dt="per row")
    past = torch.arange(STEPS) >= call.lengths[..., None]
    grad_outputs, grad_last = given(call)
    clean = kernel(call, grad_outputs, grad_last)
    inputs, dt = call.inputs.masked_fill(past[..., None], torch.nan), call.dt.masked_fill(past, torch.nan)
    found = kernel(call._replace(inputs=inputs, dt=dt), grad_outputs.masked_fill(past[..., None], torch.nan), grad_last)
    assert (found[0][past] == 0).all() and (found[2].inputs[past] == 0).all()
    assert_equal(found, clean)


@pytest.mark.parametrize("kind", KINDS)
def test_shared_and_transposed_tensors(kind: str) -> None:
    one = a_pass(kind, lengths=True, dt="shared")
    fields = {name: value for name, value in one._asdict().items() if isinstance(value, Tensor) and name != "seed"}
    expanded = {name: value.expand(3, *value.shape[1:]) for name, value in fields.items()}
    call = one._replace(**expanded, seed=torch.tensor([4, 5, 6]))
    whole = call._replace(**{name: value.contiguous() for name, value in expanded.items()})
    odd = call._replace(inputs=call.inputs.mT.contiguous().mT, W=call.W.mT.contiguous().mT)
    grad_outputs, grad_last = given(call)
    expected = kernel(whole, grad_outputs, grad_last)
    for other in (call, odd):
        assert_equal(
            kernel(other, grad_outputs.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0), grad_last), expected
        )
    unit = torch.ones(()).double()
    assert_equal(
        kernel(call, unit.expand_as(grad_outputs), None),
        kernel(call, unit.expand_as(grad_outputs).contiguous(), None),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_stay_as_they_are(kind: str) -> None:
    call = a_pass(kind, lengths=True, dt="per row")
    tensors = [value for value in call if isinstance(value, Tensor)]
    before = [tensor.clone() for tensor in tensors]
    grads = given(call)
    outputs, saved, _ = eager.forward(call, every_step=True, save=True)
    kept = outputs.clone(), saved.clone(), *(grad.clone() for grad in grads)
    first = eager.backward(call, outputs, saved, grads, with_inputs=False)
    assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))
    assert all(torch.equal(one, other) for one, other in zip((outputs, saved, *grads), kept, strict=True))
    again = eager.backward(call, outputs, saved, grads, with_inputs=True)
    assert first.inputs.shape == (1, 0)
    assert first.inputs is not first.A  # an operator's results are tensors of their own
    assert all(torch.equal(one, other) for one, other in zip(first[1:], again[1:], strict=True))
    bare = eager.backward(call, outputs, saved, grads, with_inputs=True, with_weights=False)
    assert torch.equal(bare.inputs, again.inputs) and torch.equal(bare.state, again.state)
    assert all(weight.shape == (1, 0) for weight in bare[2:]) and bare.A is not bare.W


def test_modrelu_has_no_slope_at_zero() -> None:
    call = a_pass("modrelu", NOISES["silent"], steps=1, batch=1, hidden=2)
    b = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
    call = call._replace(W=0 * call.W, U=torch.eye(2).double()[None], b=b, inputs=0 * call.inputs)
    found = kernel(call, *given(call))
    assert (found[0] == 0).all() and (found[2].W == 0).all() and (found[2].b == 0).all()
    assert_equal(found, weighted(call, *given(call)))
    edge = call._replace(inputs=torch.full_like(call.inputs, 0.5))  # the second unit's argument is as large as its bias
    found = kernel(edge, *given(edge))
    assert (found[2].U[0, 0] != 0).all() and (found[2].U[0, 1] == 0).all()
    assert_equal(found, weighted(edge, *given(edge)))


def single(call: KernelCall) -> KernelCall:
    """The same pass in float32."""
    floats = {
        name: value.float()
        for name, value in call._asdict().items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    return call._replace(**floats)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", ["silent", "independent", "uniform both"])
def test_single_precision_is_as_good_as_the_plain_loop(kind: str, noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    laws, path = NOISES[noise]
    call = a_pass(
        kind,
        (laws and replace(laws, additive=0.05), path),
        replicas=3,
        steps=131,
        batch=13,
        hidden=37,
        gain=0.3,
        step=0.05,
    )
    grad_outputs, grad_last = given(call)
    exact = weighted(call, grad_outputs, grad_last)
    short = single(call)
    plain = weighted(short, grad_outputs.float(), grad_last.float())
    ours = kernel(short, grad_outputs.float(), grad_last.float())
    names = ("outputs", "last", *Gradients._fields)
    pairs = zip(names, *((*case[:2], *case[2]) for case in (exact, plain, ours)), strict=True)
    for name, truth, loop, found in pairs:
        assert found.dtype == torch.float32
        if truth.numel():
            # In the mean square: the largest of some thousand errors is one number's luck.
            assert (found - truth).norm() <= 2 * (loop - truth).norm(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", ["silent", "independent", "shared"])
def test_memory_in_use_is_left_alone(kind: str, noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "_SMALL", 0)  # memory is used again however little it is
    buffers.release()  # that of other tests
    call = single(a_pass(kind, NOISES[noise], lengths=True))
    other = single(a_pass(kind, NOISES[noise], gain=0.5, step=0.1))
    grads = tuple(grad.float() for grad in given(call))
    outputs, last, expected = kernel(call, *grads)
    held, saved, end = eager.forward(call, every_step=True, save=True)
    taken = [outputs, last, *expected, held, saved, end]
    before = [tensor.clone() for tensor in taken]
    for _ in range(3):
        kernel(other, *grads)
        assert buffers.kept_bytes() > 0  # the next pass finds some
    assert all(torch.equal(one, two) for one, two in zip(taken, before, strict=True))
    again = eager.backward(call, held, saved, grads, with_inputs=True)
    assert all(torch.equal(one, two) for one, two in zip(again, expected, strict=True))


@pytest.mark.parametrize("kind", ["drift", "oscillator"])
def test_tanh_at_its_ends(kind: str) -> None:
    call = single(a_pass(kind, NOISES["silent"], steps=1, batch=4))
    state = torch.zeros_like(call.state)
    ends = torch.tensor([1e30, -1e30, torch.nan, 0.0]).expand(HIDDEN, 4).T
    call = call._replace(state=state, inputs=ends[None, :, :1, None].expand(1, 4, 1, INPUT), U=torch.ones_like(call.U))
    _, saved, last = eager.forward(call, every_step=True, save=True)
    values = saved.view(1, -1, 1, 4, HIDDEN)[0, 0, 0]
    assert torch.equal(values[:2], torch.tensor([[1.0], [-1.0]]).expand(2, HIDDEN))
    assert values[2].isnan().all() and last[0, 2].isnan().all()
    torch.testing.assert_close(values[3:], call.b.tanh(), rtol=1e-6, atol=1e-7)


def test_in_inference_mode() -> None:
    call = single(a_pass("drift"))
    outside = eager.forward(call, every_step=True, save=False)
    with torch.inference_mode():
        inside = eager.forward(call._replace(inputs=call.inputs.clone()), every_step=True, save=False)
        assert all(torch.equal(one, two) for one, two in zip(inside, outside, strict=True))


def test_uniform_noise_does_not_depend_on_the_step_length() -> None:
    call = a_pass("drift", NOISES["uniform"], steps=1, dt="per row")
    silent = call._replace(noise=None)
    words = BrownianPath(seed=2**63, **PLACE).uniforms(steps=1, batch=BATCH, units=HIDDEN, dtype=torch.float64)
    moved = kernel(silent, *given(call))[1] - call.state
    expected = call.state + (0.6 + 0.4 * words) * moved
    torch.testing.assert_close(kernel(call, *given(call))[1], expected, rtol=0, atol=1e-12)


def test_supports() -> None:
    call = a_pass("drift")
    one = Recurrence("drift", call.A[0], call.W[0], call.U[0], call.b[0], call.step[0])
    assert eager.supports(one, call.inputs[0]) is None
    assert eager.supports(one._replace(W=one.W.float()), call.inputs[0].float()) is None
    assert eager.supports(one, call.inputs[0].half()) == "torch.float16 is not float32 or float64"
    assert eager.supports(one, call.inputs[0].bfloat16()) == "torch.bfloat16 is not float32 or float64"
    assert eager.supports(one, call.inputs[0].float()) == "inputs are torch.float32 and weights torch.float64"
