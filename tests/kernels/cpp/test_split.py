"""Float products made of six products of bf16 parts: as exact as those of floats, and what selects them."""

from dataclasses import replace

import pytest
import torch
from tests.kernels.cpp.conftest import a_pass, ends_of, fused, worse_than_allowed
from tests.kernels.cpp.test_kernel import CELLS, SOME, enough, long_pass, options_of, runs
from tests.kernels.noise_terms import terms
from tests.processor import needs_split
from tests.products import sampled

from noisyrnn import GRU, CoRNN, ExpRNN, NoisyRNN, RateRNN
from noisyrnn.kernels import cpp
from noisyrnn.kernels.call import KernelCall
from noisyrnn.models import RecurrentLayer

pytestmark = needs_split

UNITS, BATCHES, INPUTS = (32, 97, 130), (3, 16, 35), (1, 5, 6, 40)
"""A block of 32 entries filled and passed, a tile of 16 rows missed, filled and passed; 6 inputs pass a block."""


def split(call: KernelCall) -> KernelCall:
    return call._replace(precision="bf16x6")


@pytest.mark.parametrize(
    ("cell", "units", "batch", "inputs", "noise"),
    sampled(tuple(CELLS), UNITS, BATCHES, INPUTS, ("silent", "independent", "18 columns", "inside, 3 columns")),
)
def test_errors_are_those_of_float_products(cell: str, units: int, batch: int, inputs: int, noise: str) -> None:
    if not runs(cell, noise):
        pytest.skip("its noise is outside")
    size = (units, batch, 3, inputs)
    options = {**options_of(cell, noise, "" if noise == "silent" else "row"), "lengths": noise != "silent"}
    calls = [split(a_pass(*size, **options, seed=seed)) for seed in enough(size)]
    assert worse_than_allowed(calls) == {}


@pytest.mark.parametrize("cell", CELLS)
def test_long_sequences(cell: str) -> None:
    assert worse_than_allowed([split(long_pass(cell, 49, 18))]) == {}


def test_three_parts_hold_every_bit() -> None:
    """Products with the identity, forwards and backwards, give back each number, and none reaches into another."""
    generator = torch.Generator().manual_seed(0)
    size = (1, 40, 64)
    state = torch.randn(size, generator=generator) * 2.0 ** torch.randint(-90, 90, size, generator=generator)
    call = a_pass(64, 40, 1, 1, kind="rate", activation="identity", noise=(None, None))
    one = torch.ones(1, 64)
    call = call._replace(W=torch.eye(64)[None], U=0 * call.U, b=0 * call.b, step=one, state=state)  # h - h + W h
    outputs, saved, last = cpp.forward(split(call), every_step=True, save=True)
    assert torch.equal(last, state) and torch.equal(outputs[:, :, 0], state)
    gradients = cpp.backward(split(call), outputs, saved, (None, state), with_inputs=True)
    assert torch.equal(gradients.state, state)


def test_rows_do_not_depend_on_their_batch() -> None:
    call = split(a_pass(75, 75, 4, 3, noise=terms(2, 0.3, 0.4)))
    of_outputs, of_last = ends_of(call)
    together = fused(call, of_outputs, of_last)
    assert call.path is not None
    for rows in (slice(0, 1), slice(3, 20), slice(37, 75)):
        path = replace(call.path, first_row=rows.start)
        part = call._replace(inputs=call.inputs[:, rows], state=call.state[:, rows], path=path)
        alone = fused(part, of_outputs[:, rows], of_last[:, rows])
        for name in ("outputs", "last", "inputs", "state"):
            assert torch.equal(alone[name], together[name][:, rows]), name


@pytest.mark.parametrize("cell", SOME)
def test_threads_and_replicas_give_the_same_bits(cell: str) -> None:
    call, before = split(a_pass(40, 37, 6, **options_of(cell, "independent"), replicas=2)), torch.get_num_threads()
    of_outputs, of_last = ends_of(call)
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(fused(call, of_outputs, of_last))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(t, other[n]) for other in found[1:] for n, t in found[0].items())
    for r in range(2):
        alone = call._replace(**{n: t[r : r + 1] for n, t in call._asdict().items() if isinstance(t, torch.Tensor)})
        for name, t in fused(alone, of_outputs[r : r + 1], of_last[r : r + 1]).items():
            assert torch.equal(t[0], found[0][name][r]), name


@pytest.mark.parametrize("cell", SOME)
def test_gradients_of_the_inputs_alone_are_the_same(cell: str) -> None:
    call = split(a_pass(40, 37, 5, **CELLS[cell], lengths=True))
    outputs, saved, _ = cpp.forward(call, every_step=True, save=True)
    grads = ends_of(call)
    whole = cpp.backward(call, outputs, saved, grads, with_inputs=True)
    bare = cpp.backward(call, outputs, saved, grads, with_inputs=True, with_weights=False)
    without = cpp.backward(call, outputs, saved, grads, with_inputs=False)
    assert torch.equal(bare.inputs, whole.inputs) and torch.equal(bare.state, whole.state)
    assert all(torch.equal(one, other) for one, other in zip(without[1:], whole[1:], strict=True))


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF])
def test_a_state_that_is_not_finite_is_seen(bits: int) -> None:
    """Infinity and every kind of NaN make NaN of their own row, and of no other."""
    call = split(a_pass(40, 20, 1, 3))
    call.state[0, 4, 17] = torch.tensor([bits], dtype=torch.int64).to(torch.int32).view(torch.float32)[0]
    last = cpp.forward(call, every_step=False, save=False)[2]
    assert last[0, 4].isnan().all()
    assert last[0, torch.arange(20) != 4].isfinite().all()


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("inputs", [1, 20])
@pytest.mark.parametrize("cell", ["drift", "oscillator", "gru"])
def test_an_input_that_is_not_finite_reaches_no_more_than_with_float_products(
    cell: str, inputs: int, value: float
) -> None:
    """tanh of infinity is 1, and does not make the weights' gradients NaN."""
    call = a_pass(40, 37, 3, inputs, **CELLS[cell])
    call.inputs[0, 34, 1, inputs - 1] = value
    expected, found = fused(call, *ends_of(call)), fused(split(call), *ends_of(call))
    for name in expected:
        assert torch.equal(found[name].isfinite(), expected[name].isfinite()), name
    for name in ("outputs", "last"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("kind", [NoisyRNN, CoRNN, ExpRNN, RateRNN, GRU])
def test_many_rows_and_units_select_it(kind: type[RecurrentLayer], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, inputs = kind(3, 128).eval(), torch.randn(33, 5, 3)
    few, narrow = inputs[:31], kind(3, 127).eval()

    def outputs() -> list[torch.Tensor]:
        found = [layer(inputs)[0].detach(), layer(few)[0].detach(), narrow(inputs)[0].detach()]
        with torch.no_grad():  # with packed weights, those of many rows and of few in turn
            for _ in range(2):
                found += [layer(inputs)[0], layer(few)[0], narrow(inputs)[0]]
        return found

    wide = outputs()
    for i in range(3):
        assert torch.equal(wide[i], wide[3 + i]) and torch.equal(wide[i], wide[6 + i])
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", "avx512")
    float_products = outputs()
    for i, (one, other) in enumerate(zip(wide, float_products, strict=True)):
        assert torch.equal(one, other) == (i % 3 > 0)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
