"""The CPU kernel against the reference loop in float64: outputs, last state and every gradient, at awkward sizes.

A slope with a kink has another value where an argument rounds across it. The chance is about 1e-4 in each case.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.kernels.cpp.conftest import a_pass, ends_of, fused, plain, worse_than_allowed
from tests.kernels.noise_terms import Terms, terms
from tests.products import sampled
from torch import Tensor

from noisyrnn.kernels import cpp
from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.recurrence import DRIFTS, KINDS, Recurrence
from noisyrnn.native import compiler, library
from noisyrnn.noise import HiddenNoise
from noisyrnn.sde.activation import ACTIVATIONS
from noisyrnn.sde.diffusion import MatrixDiffusion


def inside(level: float, **place: int) -> Terms:
    """Noise inside the activation, as `terms` has that outside."""
    noise, path = terms(additive=level, **place)
    assert noise is not None
    return replace(noise, place="inside"), path


PLACE = {"first_row": 5, "first_step": 7, "stream": 3}
NOISES: dict[str, dict[str, Any]] = {
    "silent": {},
    "additive": {"noise": terms(additive=0.3, **PLACE)},
    "additive negated": {"noise": terms(additive=-0.3)},
    "uniform": {"noise": terms(1, 0.0, 0.4, **PLACE)},
    "uniform both": {"noise": terms(1, 0.3, 0.4)},
    "uniform negated": {"noise": terms(1, -0.3, -0.4, first_row=1)},
    "multiplicative": {"noise": terms(2, 0.0, 0.4, first_row=2**31 - 1, first_step=2**32 - 20, stream=2**32 - 1)},
    "independent": {"noise": terms(2, 0.3, 0.4, **PLACE)},
    "independent negated": {"noise": terms(2, -0.3, -0.4, first_row=2)},
    "shared": {"noise": terms(3, 0.3, 0.4, **PLACE)},
    "shared alone negated": {"noise": terms(3, 0.0, -0.4, first_row=4)},
    "1 column": {"noise": terms(additive=0.5, **PLACE), "columns": 1},
    "3 columns negated": {"noise": terms(additive=-0.5, first_row=2), "columns": 3},
    "18 columns": {"noise": terms(additive=0.5, **PLACE), "columns": 18},
    "inside": {"noise": inside(0.5, **PLACE)},
    "inside negated": {"noise": inside(-0.5, first_row=2)},
    "inside, 3 columns": {"noise": inside(0.5, **PLACE), "columns": 3},
    "inside, 18 columns negated": {"noise": inside(-0.5), "columns": 18},
}
CELLS: dict[str, dict[str, Any]] = {
    "drift": {},
    "without A": {"with_A": False},
    **{kind: {"kind": kind} for kind in KINDS if kind != "drift"},
}
"""Every kind that the kernel tells apart."""
SOME = ("drift", "rate", "current", "oscillator", "modrelu", "gru", "lstm")
ACTIVE = ("drift", "without A", "rate", "current")
"""Those with an activation of choice."""
TIMED = (*ACTIVE, "oscillator")
OUTSIDE_ONLY = ("current", "gru", "lstm")
_MATRICES = ("inputs", "A", "W", "U", "diffusion")


def options_of(cell: str, noise: str, dt: str = "") -> dict[str, Any]:
    """Options of `a_pass`, with step lengths where both the cell and the noise know them."""
    knows_dt = cell in TIMED and "uniform" not in noise
    return {**CELLS[cell], **NOISES[noise], "dt": dt if knows_dt else ""}


def runs(cell: str, noise: str) -> bool:
    """Whether the noise goes with the cell."""
    return not ("inside" in noise and cell in OUTSIDE_ONLY)


def enough(size: tuple[int, ...]) -> range:
    """Seeds for some hundred numbers of the smallest quantity: fewer have errors by luck."""
    hidden, batch, steps, inputs = size
    return range(max(2, 250 // min(hidden, batch * steps * inputs)))


UNITS, BATCHES, INPUTS = (1, 5, 16, 17, 33, 130), (1, 7, 8, 17, 71), (1, 3, 20)
"""Ones, primes, and tiles of 4, 8 and 16 units and 4, 6 and 8 rows filled, missed and passed; 71 are several slices."""


@pytest.mark.parametrize(
    ("cell", "units", "batch", "inputs", "noise"),
    sampled(tuple(CELLS), UNITS, BATCHES, INPUTS, ("silent", "independent")),
)
def test_sizes(cell: str, units: int, batch: int, inputs: int, noise: str) -> None:
    size = (units, batch, 11 if batch == 1 and units > 1 else 2, inputs)
    options = {**options_of(cell, noise, "" if noise == "silent" else "row"), "lengths": noise != "silent"}
    assert worse_than_allowed([a_pass(*size, **options, seed=seed) for seed in enough(size)]) == {}


# Units, batch, steps, inputs; lengths, step lengths, replicas.
VARIANTS = {
    "a": ((21, 17, 3, 2), True, "row", 1),
    "b": ((17, 9, 4, 1), False, "step", 2),
    "c": ((33, 1, 7, 3), True, "", 3),
    "d": ((130, 7, 2, 2), False, "", 1),
}
OF_EQUATIONS = [name for name in NOISES if name not in ("additive negated", "uniform negated", "independent negated")]


def check_equation(cell: str, activation: str, noise: str, variant: str) -> None:
    if not runs(cell, noise):
        pytest.skip("its noise is outside")
    size, lengths, dt, replicas = VARIANTS[variant]
    options = {**options_of(cell, noise, dt), "lengths": lengths, "replicas": replicas, "activation": activation}
    seeds = range(-(-len(enough(size)) // replicas))
    assert worse_than_allowed([a_pass(*size, **options, seed=seed) for seed in seeds]) == {}


@pytest.mark.parametrize(
    ("activation", "noise", "cell", "variant"), sampled(tuple(ACTIVATIONS), OF_EQUATIONS, ACTIVE, tuple(VARIANTS))
)
def test_every_activation(activation: str, noise: str, cell: str, variant: str) -> None:
    check_equation(cell, activation, noise, variant)


@pytest.mark.parametrize(
    ("cell", "noise", "variant"), sampled(("oscillator", "modrelu", "gru", "lstm"), OF_EQUATIONS, tuple(VARIANTS))
)
def test_every_other_kind(cell: str, noise: str, variant: str) -> None:
    check_equation(cell, "tanh", noise, variant)


@pytest.mark.parametrize(("noise", "dt", "lengths"), sampled(tuple(NOISES), ("", "row", "step"), (False, True)))
def test_noise_and_step_lengths(noise: str, dt: str, lengths: bool) -> None:
    if "uniform" in noise and dt:
        pytest.skip("the uniform law takes no dt")
    for cell, batch, replicas in (("drift", 7, 1), ("oscillator", 9, 3)):
        options = {**options_of(cell, noise, dt), "lengths": lengths, "replicas": replicas}
        calls = [a_pass(13, batch, 4, **options, seed=seed) for seed in range(15 // replicas)]
        assert worse_than_allowed(calls) == {}


@pytest.mark.parametrize(
    ("level", "cell", "noise", "size"),
    sampled(
        tuple(compiler.LEVELS),
        tuple(CELLS),
        ("silent", "uniform both", "independent", "shared", "3 columns negated", "inside"),
        ((5, 7, 3, 5), (17, 3, 4, 20), (33, 13, 3, 2), (130, 6, 2, 1)),
    ),
)
def test_every_instruction_set(
    level: str, cell: str, noise: str, size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", level)
    if library.unavailable() is not None:
        pytest.skip(f"this processor has no {level}")
    if not runs(cell, noise):
        pytest.skip("its noise is outside")
    assert library.native().lanes == {"avx2": 8, "portable": 4}.get(level, 16)
    activation = "softplus" if cell in ACTIVE and noise == "shared" else "tanh"
    options = {**options_of(cell, noise, "row"), "lengths": True, "activation": activation}
    assert worse_than_allowed([a_pass(*size, **options, seed=seed) for seed in enough(size)]) == {}


def published(units: int, batch: int, steps: int, noise: Terms, scale: float, seed: int = 0) -> KernelCall:
    """Matrices of the published structure, zero state, one step size."""
    call = a_pass(units, batch, steps, 1, noise=noise, seed=seed)
    identity = torch.eye(units)
    A, W = (0.25 * (M + M.mT) + 0.75 * (M - M.mT) - 0.001 * identity for M in (scale * call.A, scale * call.W))
    return call._replace(A=A, W=W, state=0 * call.state, step=torch.full_like(call.step, 0.03))


@pytest.mark.parametrize("noise", [terms(), terms(2, 0.05, 0.02)], ids=["silent", "noisy"])
def test_long_sequences(noise: Terms) -> None:
    assert worse_than_allowed([published(37, 5, 784, noise, 0.3)], of_last_alone=True) == {}
    short = [published(5, 3, 97, noise, 0.3, seed) for seed in range(10)]  # of 3 rows 42 steps make a block of sums
    assert worse_than_allowed(short) == {}


def long_pass(cell: str, units: int, batch: int) -> KernelCall:
    """784 steps. All kinds but the first two forget their past; those have matrices that are nearly skew."""
    noise = terms(2, 0.05, 0.02)
    if cell not in ("drift", "without A"):
        return a_pass(units, batch, 784, 1, noise=noise, **CELLS[cell])
    call = published(units, batch, 784, noise, 0.3)
    return call if cell == "drift" else call._replace(A=None)


@pytest.mark.parametrize("cell", CELLS)
def test_long_sequences_of_every_kind(cell: str) -> None:
    assert worse_than_allowed([long_pass(cell, 37, 5)]) == {}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_and_slopes_of_activations(activation: str) -> None:
    """With no matrices and d = 1 a step from zero is a(x): to four units in the last place, its slope to 2e-7."""
    sizes = torch.cat([torch.logspace(-6, 1.9, 3000), torch.tensor([0.0, 50.0, 87.0, 100.0, 1e10])])
    x = torch.cat([sizes, -sizes])
    call = a_pass(1, len(x), 1, 1, with_A=False, activation=activation)
    one = torch.ones(1, 1, 1)
    call = call._replace(inputs=x.view(1, -1, 1, 1), W=0 * one, U=one, b=0 * one[0], step=one[0], state=0 * call.state)
    outputs, saved, last = cpp.forward(call, every_step=True, save=True)
    gradients = cpp.backward(call, outputs, saved, (None, torch.ones_like(last)), with_inputs=True)
    exact = ACTIVATIONS[activation].derivatives(x.double())
    # Below exp(-87) the kernel's exponential is that of -87.
    assert (
        (last.flatten() - exact.value).abs() <= 4 * torch.finfo(torch.float32).eps * exact.value.abs() + 1e-37
    ).all()
    assert ((gradients.inputs.flatten() - exact.slope).abs() <= 2e-7).all()


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("cell", SOME)
def test_shared_weights_and_odd_strides(cell: str, replicas: int) -> None:
    one = a_pass(9, 5, 4, 3, **options_of(cell, "3 columns negated", "step"), lengths=True)
    tensors = {name: value for name, value in one._asdict().items() if isinstance(value, Tensor)}
    wide = {name: value.expand(replicas, *value.shape[1:]) for name, value in tensors.items()}
    call = one._replace(**{**wide, "seed": torch.tensor([4, -5, 6])[:replicas]})
    whole = call._replace(**{n: t.contiguous() for n, t in wide.items() if n != "seed"})
    odd = whole._replace(
        **{n: t.mT.contiguous().mT for n in _MATRICES if (t := getattr(whole, n)) is not None},
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


@pytest.mark.parametrize("noise", ["independent", "18 columns", "inside, 3 columns"])
@pytest.mark.parametrize("cell", SOME)
def test_replicas_are_what_they_are_alone(cell: str, noise: str) -> None:
    if not runs(cell, noise):
        pytest.skip("its noise is outside")
    call = a_pass(17, 19, 5, **options_of(cell, noise, "row"), lengths=True, replicas=3)
    of_outputs, of_last = ends_of(call)
    together = fused(call, of_outputs, of_last)
    for r in range(3):
        alone = call._replace(**{n: t[r : r + 1] for n, t in call._asdict().items() if isinstance(t, Tensor)})
        for name, found in fused(alone, of_outputs[r : r + 1], of_last[r : r + 1]).items():
            assert torch.equal(found[0], together[name][r]), name


@pytest.mark.parametrize("units", [21, 117])  # 117: the sums of a few rows are made for several vectors of units
@pytest.mark.parametrize("noise", ["silent", "shared", "18 columns", "inside"])
@pytest.mark.parametrize("cell", SOME)
def test_rows_do_not_depend_on_their_batch(cell: str, noise: str, units: int) -> None:
    if not runs(cell, noise):
        pytest.skip("its noise is outside")
    call = a_pass(units, 75, 4, **options_of(cell, noise, "row"), lengths=True)
    of_outputs, of_last = ends_of(call)
    together = fused(call, of_outputs, of_last)
    for rows in (slice(0, 1), slice(1, 3), slice(3, 10), slice(37, 75)):
        parts = {n: t[:, rows] for n in ("inputs", "state", "dt", "lengths") if (t := getattr(call, n)) is not None}
        path = None if call.path is None else replace(call.path, first_row=call.path.first_row + rows.start)
        alone = fused(call._replace(**parts, path=path), of_outputs[:, rows], of_last[:, rows])
        for name in ("outputs", "last", "inputs", "state"):
            assert torch.equal(alone[name], together[name][:, rows]), name


@pytest.mark.parametrize("cell", SOME)
def test_a_missing_gradient_is_zero(cell: str) -> None:
    call = a_pass(7, 5, 4, **options_of(cell, "18 columns", "row"), lengths=True)
    of_outputs, of_last = ends_of(call)
    for ends, zeros in (((of_outputs, None), (of_outputs, 0 * of_last)), ((None, of_last), (0 * of_outputs, of_last))):
        expected = fused(call, *zeros)
        for name, found in fused(call, *ends).items():
            assert torch.equal(found, expected[name]), name
    ones = torch.ones(()).expand(of_outputs.shape)  # what `outputs.sum()` sends back
    expected = fused(call, ones.contiguous(), None)
    assert all(torch.equal(found, expected[name]) for name, found in fused(call, ones, None).items())


# Values a unit, row and step that a backward pass needs beside the outputs, and beside the noise's multiplier.
SAVED = {"drift": 1, "rate": 1, "current": 2, "oscillator": 2, "modrelu": 1, "gru": 4, "lstm": 5}


@pytest.mark.parametrize("noise", ["independent", "3 columns negated"])
@pytest.mark.parametrize("cell", SOME)
def test_what_is_not_asked_for_is_not_made_and_changes_nothing(cell: str, noise: str) -> None:
    call = a_pass(13, 18, 5, **options_of(cell, noise), lengths=True, replicas=2)
    kept, saved, end = cpp.forward(call, every_step=False, save=True)
    assert saved.shape == (2, 5, 18, (SAVED[cell] + (noise == "independent")) * 13)
    outputs, nothing, last = cpp.forward(call, every_step=True, save=False)
    assert nothing.shape == (2, 0, 0, 0) and torch.equal(outputs, kept) and torch.equal(last, end)
    none, nothing, last = cpp.forward(call, every_step=False, save=False)
    assert none.numel() == 0 and nothing.numel() == 0 and torch.equal(last, end)
    grads = ends_of(call)
    with_inputs = cpp.backward(call, kept, saved, grads, with_inputs=True)
    without = cpp.backward(call, kept, saved, grads, with_inputs=False)
    assert without.inputs.shape == (2, 0)
    assert all(torch.equal(one, other) for one, other in zip(without[1:], with_inputs[1:], strict=True))
    for inputs in (True, False):
        bare = cpp.backward(call, kept, saved, grads, with_inputs=inputs, with_weights=False)
        assert torch.equal(bare.state, with_inputs.state)
        assert torch.equal(bare.inputs, with_inputs.inputs if inputs else without.inputs)
        assert all(weight.shape == (2, 0) for weight in bare[2:])
    for name in ("A", "diffusion"):
        assert (getattr(without, name).shape == (2, 0)) == (getattr(call, name) is None)


@pytest.mark.parametrize("cell", SOME)
def test_copied_outputs_serve_as_well(cell: str) -> None:
    call = a_pass(13, 5, 3, **CELLS[cell])
    outputs, saved, _ = cpp.forward(call, every_step=True, save=True)
    grads = ends_of(call)
    expected = cpp.backward(call, outputs, saved, grads, with_inputs=True)
    for copy in (outputs.contiguous(), outputs.transpose(1, 2).contiguous().transpose(1, 2)):
        found = cpp.backward(call, copy, saved, grads, with_inputs=True)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("noise", ["shared", "3 columns negated"])
@pytest.mark.parametrize("cell", SOME)
def test_arguments_stay_as_they_are(cell: str, noise: str) -> None:
    call = a_pass(13, 5, 3, **options_of(cell, noise, "row"))
    before = [t.clone() for t in call if isinstance(t, Tensor)]
    outputs, saved, _ = cpp.forward(call, every_step=True, save=True)
    grads = ends_of(call)
    kept = [t.clone() for t in (outputs, saved, *grads)]
    cpp.backward(call, outputs, saved, grads, with_inputs=True)
    now = [t for t in call if isinstance(t, Tensor)]
    assert all(torch.equal(one, other) for one, other in zip(now, before, strict=True))
    assert all(torch.equal(one, other) for one, other in zip((outputs, saved, *grads), kept, strict=True))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("cell", ["drift", "rate", "current"])
def test_a_state_that_is_not_finite_is_seen(cell: str, activation: str, value: float) -> None:
    call = a_pass(19, 11, 3, **CELLS[cell], activation=activation)
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


@pytest.mark.parametrize("kind", ["modrelu", "drift"])
def test_what_vanishes_is_zero(kind: str) -> None:
    """Numbers below the smallest normal one would take a hundred times as long; none is in states or gradients."""
    call = a_pass(5, 4, 60, 1, kind=kind)
    call = call._replace(inputs=0 * call.inputs, A=None if call.A is None else 0 * call.A, b=0 * call.b)
    if kind == "drift":  # from h to h - tanh(h) / 2 each step
        call = call._replace(W=-torch.eye(5).expand_as(call.W), step=torch.full_like(call.step, 0.9))
    else:
        call = call._replace(W=0.1 * torch.eye(5).expand_as(call.W))
    found = fused(call, None, ends_of(call)[1])
    smallest = torch.finfo(torch.float32).tiny
    for name in ("outputs", "last", "state"):
        assert not ((found[name] != 0) & (found[name].abs() < smallest)).any(), name
    assert (found["last"] == 0).all() and found["outputs"][:, :, 0].all()


def test_supports() -> None:
    call = a_pass(3, 2, 2)
    one = Recurrence("drift", call.A[0], call.W[0], call.U[0], call.b[0], call.step[0])
    assert cpp.supports(one, call.inputs[0]) is None
    assert "float64" in cpp.supports(one._replace(W=one.W.double()), call.inputs[0])
    assert "meta" in cpp.supports(one, call.inputs[0].to("meta"))
    matrix = HiddenNoise(diffusion=MatrixDiffusion.around(torch.ones(3, 2)))
    for kind in KINDS:
        recurrence = one._replace(kind=kind, activation=ACTIVATIONS["relu"] if kind in DRIFTS else one.activation)
        assert cpp.supports(recurrence, call.inputs[0], matrix) is None
        refused = f"the recurrence {kind!r} has no noise inside" if kind in OUTSIDE_ONLY else None
        for noise in (HiddenNoise(additive=0.1, place="inside"), replace(matrix, place="inside")):
            assert cpp.supports(recurrence, call.inputs[0], noise) == refused
    assert cpp.supports(one._replace(W=one.W.to("meta")), call.inputs[0]) == "the weights are on meta"


@pytest.mark.parametrize("name", ["inputs", "state", "U", "step", "diffusion"])
def test_other_dtypes_and_devices_are_refused(name: str) -> None:
    call = a_pass(3, 2, 2, **NOISES["3 columns negated"])
    tensor = getattr(call, name)
    for other, got in ((tensor.half(), "float16 on cpu"), (tensor.to("meta"), "float32 on meta")):
        with pytest.raises(TypeError, match=f"^{name} must be float32 on cpu, as the weights are, got {got}.$"):
            cpp.forward(call._replace(**{name: other}), every_step=True, save=True)
