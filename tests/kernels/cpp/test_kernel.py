"""The CPU kernel against the reference loop in float64: outputs, last state and every gradient, at awkward sizes."""

from dataclasses import replace

import pytest
import torch
from tests.kernels.cpp.conftest import a_pass, ends_of, fused, plain, worse_than_allowed
from tests.kernels.noise_terms import Terms, terms
from torch import Tensor

from noisyrnn.kernels import cpp
from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.native import compiler, library

PLACE = {"first_row": 5, "first_step": 7, "stream": 3}
NOISES = {
    "silent": terms(),
    "additive": terms(additive=0.3, **PLACE),
    "additive negated": terms(additive=-0.3),
    "uniform": terms(1, 0.0, 0.4, **PLACE),
    "uniform both": terms(1, 0.3, 0.4),
    "uniform negated": terms(1, -0.3, -0.4, first_row=1),
    "multiplicative": terms(2, 0.0, 0.4, first_row=2**31 - 1, first_step=2**32 - 20, stream=2**32 - 1),
    "independent": terms(2, 0.3, 0.4, **PLACE),
    "independent negated": terms(2, -0.3, -0.4, first_row=2),
    "shared": terms(3, 0.3, 0.4, **PLACE),
    "shared alone negated": terms(3, 0.0, -0.4, first_row=4),
}
# Units, batch, steps, inputs: ones, primes, tiles of 4, 8 and 16 units and 4, 6 and 8 rows filled, missed and passed.
SIZES = [
    (1, 1, 1, 1), (1, 7, 2, 3), (5, 1, 11, 1), (5, 2, 2, 20), (17, 17, 2, 1), (17, 1, 2, 3),
    (33, 7, 11, 3), (33, 33, 2, 20), (130, 2, 2, 1), (130, 17, 2, 3), (16, 8, 3, 16), (48, 16, 3, 8),
]  # fmt: skip
SLICED = (6, 71, 3, 2)  # more rows than one slice, with an odd one at the end


def enough(size: tuple[int, ...]) -> range:
    """Seeds for some hundred numbers of the smallest quantity: fewer have errors by luck."""
    hidden, batch, steps, inputs = size
    return range(max(2, min(60, 250 // min(hidden, batch * steps * inputs))))


def size_name(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


@pytest.mark.parametrize("size", [*SIZES, SLICED], ids=size_name)
@pytest.mark.parametrize("with_A", [True, False], ids=["A", "no A"])
def test_sizes(size: tuple[int, ...], with_A: bool) -> None:
    for noise, dt, lengths in (("silent", "", False), ("independent", "row", True), ("uniform both", "", True)):
        seeds = enough(size)
        calls = [a_pass(*size, noise=NOISES[noise], with_A=with_A, dt=dt, lengths=lengths, seed=seed) for seed in seeds]
        assert worse_than_allowed(calls) == {}, (noise, dt, lengths)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("dt", ["", "row", "step"])
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
def test_noise_and_step_lengths(noise: str, dt: str, lengths: bool) -> None:
    if "uniform" in noise and dt:
        pytest.skip("the uniform law takes no dt")
    for with_A, batch, replicas in ((True, 7, 1), (False, 9, 3)):
        kinds = {"noise": NOISES[noise], "dt": dt, "lengths": lengths, "with_A": with_A, "replicas": replicas}
        assert worse_than_allowed([a_pass(13, batch, 6, **kinds, seed=seed) for seed in range(15)]) == {}


@pytest.mark.parametrize("level", compiler.LEVELS)
@pytest.mark.parametrize("with_A", [True, False], ids=["A", "no A"])
def test_every_instruction_set(level: str, with_A: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", level)
    if library.unavailable() is not None:
        pytest.skip(f"this processor has no {level}")
    assert library.native().lanes == {"avx512": 16, "avx2": 8, "portable": 4}[level]
    for size in ((1, 1, 1, 1), (5, 7, 3, 5), (17, 3, 4, 20), (33, 13, 3, 2), (130, 6, 2, 1)):
        for noise in ("silent", "uniform both", "independent", "shared"):
            dt = "" if "uniform" in noise else "row"
            calls = [
                a_pass(*size, noise=NOISES[noise], with_A=with_A, dt=dt, lengths=True, seed=seed)
                for seed in enough(size)
            ]
            assert worse_than_allowed(calls) == {}, (size, noise)


def published(units: int, batch: int, steps: int, noise: Terms, scale: float, seed: int = 0) -> KernelCall:
    """Matrices of the published structure, zero state, one step size."""
    call = a_pass(units, batch, steps, 1, noise=noise, seed=seed)
    identity = torch.eye(units)
    A, W = (0.25 * (M + M.mT) + 0.75 * (M - M.mT) - 0.001 * identity for M in (scale * call.A, scale * call.W))
    return call._replace(A=A, W=W, state=0 * call.state, step=torch.full_like(call.step, 0.03))


@pytest.mark.parametrize("noise", [terms(), terms(2, 0.05, 0.02)], ids=["silent", "noisy"])
def test_long_sequences(noise: Terms) -> None:
    assert worse_than_allowed([published(37, 5, 784, noise, 0.3)], of_last_alone=True) == {}
    short = [published(5, 3, 97, noise, 0.3, seed) for seed in range(20)]  # of 3 rows 42 steps make a block of sums
    assert worse_than_allowed(short) == {}


@pytest.mark.parametrize("replicas", [1, 3])
def test_shared_weights_and_odd_strides(replicas: int) -> None:
    one = a_pass(9, 5, 4, 3, noise=NOISES["independent"], dt="step", lengths=True)
    tensors = {name: value for name, value in one._asdict().items() if isinstance(value, Tensor)}
    wide = {name: value.expand(replicas, *value.shape[1:]) for name, value in tensors.items()}
    call = one._replace(**{**wide, "seed": torch.tensor([4, -5, 6])[:replicas]})
    whole = call._replace(**{n: t.contiguous() for n, t in wide.items() if n != "seed"})
    odd = whole._replace(
        **{n: getattr(whole, n).mT.contiguous().mT for n in ("inputs", "A", "W", "U")},
        state=torch.stack([whole.state] * 2, dim=-1)[..., 0],
    )
    steps_first = call.inputs.transpose(1, 2).contiguous().transpose(1, 2)
    of_outputs, of_last = ends_of(call)
    expected = fused(whole, of_outputs, of_last)
    odd_ends = of_outputs.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0), of_last.mT.contiguous().mT
    for other in (call, odd, call._replace(inputs=steps_first)):
        for ends in ((of_outputs, of_last), odd_ends):
            for name, found in fused(other, *ends).items():
                assert torch.equal(found, expected[name]), name
    assert worse_than_allowed([call]) == {}


def test_replicas_are_what_they_are_alone() -> None:
    call = a_pass(17, 19, 5, noise=NOISES["independent"], dt="row", lengths=True, replicas=3)
    of_outputs, of_last = ends_of(call)
    together = fused(call, of_outputs, of_last)
    for r in range(3):
        alone = call._replace(**{n: t[r : r + 1] for n, t in call._asdict().items() if isinstance(t, Tensor)})
        for name, found in fused(alone, of_outputs[r : r + 1], of_last[r : r + 1]).items():
            assert torch.equal(found[0], together[name][r]), name


@pytest.mark.parametrize("noise", ["silent", "shared"])
def test_rows_do_not_depend_on_their_batch(noise: str) -> None:
    call = a_pass(21, 75, 4, noise=NOISES[noise], dt="row", lengths=True)
    of_outputs, of_last = ends_of(call)
    together = fused(call, of_outputs, of_last)
    for rows in (slice(0, 1), slice(3, 10), slice(37, 75)):
        parts = {n: getattr(call, n)[:, rows] for n in ("inputs", "state", "dt", "lengths")}
        path = None if call.path is None else replace(call.path, first_row=call.path.first_row + rows.start)
        alone = fused(call._replace(**parts, path=path), of_outputs[:, rows], of_last[:, rows])
        for name in ("outputs", "last", "inputs", "state"):
            assert torch.equal(alone[name], together[name][:, rows]), name


def test_a_missing_gradient_is_zero() -> None:
    call = a_pass(7, 5, 4, lengths=True)
    of_outputs, of_last = ends_of(call)
    for ends, zeros in (((of_outputs, None), (of_outputs, 0 * of_last)), ((None, of_last), (0 * of_outputs, of_last))):
        expected = fused(call, *zeros)
        for name, found in fused(call, *ends).items():
            assert torch.equal(found, expected[name]), name
    ones = torch.ones(()).expand(of_outputs.shape)  # what `outputs.sum()` sends back
    expected = fused(call, ones.contiguous(), None)
    assert all(torch.equal(found, expected[name]) for name, found in fused(call, ones, None).items())


def test_what_is_not_asked_for_is_not_made_and_changes_nothing() -> None:
    call = a_pass(13, 18, 5, noise=NOISES["independent"], lengths=True, replicas=2)
    kept, saved, end = cpp.forward(call, every_step=False, save=True)
    assert saved.shape[:3] == (2, 5, 18)
    outputs, nothing, last = cpp.forward(call, every_step=True, save=False)
    assert nothing.shape == (2, 0, 0, 0) and torch.equal(outputs, kept) and torch.equal(last, end)
    none, nothing, last = cpp.forward(call, every_step=False, save=False)
    assert none.numel() == 0 and nothing.numel() == 0 and torch.equal(last, end)
    grads = ends_of(call)
    with_inputs = cpp.backward(call, kept, saved, grads, with_inputs=True)
    without = cpp.backward(call, kept, saved, grads, with_inputs=False)
    assert without.inputs.shape == (2, 0)
    assert all(torch.equal(one, other) for one, other in zip(without[1:], with_inputs[1:], strict=True))
    no_A = call._replace(A=None)
    outputs, saved, _ = cpp.forward(no_A, every_step=True, save=True)
    assert cpp.backward(no_A, outputs, saved, grads, with_inputs=False).A.shape == (2, 0)


def test_copied_outputs_serve_as_well() -> None:
    call = a_pass(13, 5, 3)
    outputs, saved, _ = cpp.forward(call, every_step=True, save=True)
    grads = ends_of(call)
    expected = cpp.backward(call, outputs, saved, grads, with_inputs=True)
    for copy in (outputs.contiguous(), outputs.transpose(1, 2).contiguous().transpose(1, 2)):
        found = cpp.backward(call, copy, saved, grads, with_inputs=True)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_arguments_stay_as_they_are() -> None:
    call = a_pass(13, 5, 3, noise=NOISES["shared"], dt="row")
    before = [t.clone() for t in call if isinstance(t, Tensor)]
    outputs, saved, _ = cpp.forward(call, every_step=True, save=True)
    grads = ends_of(call)
    kept = [t.clone() for t in (outputs, saved, *grads)]
    cpp.backward(call, outputs, saved, grads, with_inputs=True)
    now = [t for t in call if isinstance(t, Tensor)]
    assert all(torch.equal(one, other) for one, other in zip(now, before, strict=True))
    assert all(torch.equal(one, other) for one, other in zip((outputs, saved, *grads), kept, strict=True))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_state_that_is_not_finite_is_seen(value: float) -> None:
    call = a_pass(19, 11, 3)
    call.state[0, 4, 17] = value
    outputs, _, last = cpp.forward(call, every_step=True, save=False)
    reference = plain(call._replace(state=call.state), None, torch.ones_like(call.state), torch.float32)
    sick = torch.zeros(11, dtype=torch.bool)
    sick[4] = True
    assert not outputs[0, sick].isfinite().any(dim=-1).all() or value != value
    assert not last[0, 4].isfinite().all()
    assert torch.allclose(last[0, ~sick], reference["last"][0, ~sick], atol=1e-6)
    if value != value:
        assert last[0, 4].isnan().all()


def test_tanh_saturates_and_keeps_small_numbers() -> None:
    """With no matrices the saved tanh is that of the inputs: at most two units in the last place from the exact one."""
    sizes = torch.cat([torch.logspace(-6, 1.2, 4000), torch.tensor([0.0, 50.0, 1e10, 3e38, torch.inf, torch.nan])])
    x = torch.cat([sizes, -sizes]).reshape(1, -1, 1, 1)
    call = a_pass(1, x.shape[1], 1, 1)
    one = torch.ones(1, 1, 1)
    call = call._replace(inputs=x, A=None, W=0 * one, U=one, b=0 * one[0], state=0 * call.state)
    found = cpp.forward(call, every_step=True, save=True)[1][0, 0, :, 0]
    exact = x.flatten().double().tanh()
    assert torch.equal(found.isnan(), exact.isnan())
    large = x.flatten().abs() >= 10
    assert torch.equal(found[large], exact[large].float())  # exactly 1 or -1
    ulp = torch.finfo(torch.float32).eps * exact.abs()
    known = ~exact.isnan()
    assert ((found - exact).abs() <= 2 * ulp)[known].all()


def test_supports() -> None:
    call = a_pass(3, 2, 2)
    one = Recurrence("drift", call.A[0], call.W[0], call.U[0], call.b[0], call.step[0])
    assert cpp.supports(one, call.inputs[0]) is None
    assert "float64" in cpp.supports(one._replace(W=one.W.double()), call.inputs[0])
    assert "'modrelu'" in cpp.supports(one._replace(kind="modrelu"), call.inputs[0])
    assert "meta" in cpp.supports(one, call.inputs[0].to("meta"))
    assert cpp.supports(one._replace(W=one.W.to("meta")), call.inputs[0]) == "the weights are on meta"


@pytest.mark.parametrize("name", ["inputs", "state", "U", "step"])
def test_other_dtypes_and_devices_are_refused(name: str) -> None:
    call = a_pass(3, 2, 2)
    tensor = getattr(call, name)
    for other, got in ((tensor.half(), "float16 on cpu"), (tensor.to("meta"), "float32 on meta")):
        with pytest.raises(TypeError, match=f"^{name} must be float32 on cpu, as the weights are, got {got}.$"):
            cpp.forward(call._replace(**{name: other}), every_step=True, save=True)
