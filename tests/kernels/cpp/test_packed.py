"""Steps one after another equal the pass over the sequence, whatever happens to the weights between them."""

import concurrent.futures
import copy
import pickle
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noisyrnn import GRU, LSTM, AntisymmetricRNN, CoRNN, ExpRNN, LipschitzRNN, NoisyRNN, RateRNN, TanhRNN
from noisyrnn.models import RecurrentLayer

DRIFTS = (NoisyRNN, LipschitzRNN, AntisymmetricRNN)
GATED = (TanhRNN, GRU, LSTM)  # without noise their passes are torch's own loop, and only their steps the kernel's
KINDS = (*DRIFTS, CoRNN, ExpRNN, RateRNN, *GATED)
# float32 numbers of size 1, some roundings apart: the matrices are multiplied in another order.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def steps_of(layer: RecurrentLayer, inputs: Tensor) -> Tensor:
    state, outputs = None, []
    for x in inputs.unbind(1):
        state = layer.step(x, state)
        outputs.append(state[:, : layer.hidden_size])
    return torch.stack(outputs, dim=1)


def a_layer(kind: type[RecurrentLayer] = NoisyRNN, hidden_size: int = 21, **options: object) -> RecurrentLayer:
    torch.manual_seed(3)
    sizes = {"step_size": 0.3, "init_std": 3.0} if kind in DRIFTS else {}
    return kind(input_size=3, hidden_size=hidden_size, **sizes, **options).eval()


@pytest.fixture
def layer() -> RecurrentLayer:
    return a_layer()


def assert_follows(layer: RecurrentLayer, batch: int = 2) -> None:
    """Steps give what the cell's own step gives with the weights of now."""
    x, state = torch.randn(batch, layer.input_size), torch.randn(batch, layer.cell.state_size)
    with torch.no_grad():
        expected = layer.cell.step(x, state)
    torch.testing.assert_close(layer.step(x, state), expected, **TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 2, 9])
def test_steps_are_the_whole_pass(kind: type[RecurrentLayer], batch: int) -> None:
    layer = a_layer(kind)
    inputs = torch.randn(batch, 12, 3)
    torch.testing.assert_close(steps_of(layer, inputs), layer(inputs)[0].detach(), **TOLERANCE)
    packed = layer._packed[0]._packed[""]
    assert packed is not None and packed.step is not None  # the kernel made them, not the cell


def test_rates_of_currents_are_not_their_state() -> None:
    """A step takes and returns the currents v; the outputs of a pass are the rates a(v)."""
    layer = a_layer(RateRNN, form="current", activation="softplus")
    inputs = torch.randn(4, 12, 3)
    currents = steps_of(layer, inputs)
    outputs, last = layer(inputs)
    torch.testing.assert_close(torch.nn.functional.softplus(currents), outputs.detach(), **TOLERANCE)
    torch.testing.assert_close(currents[:, -1], last[0].detach(), **TOLERANCE)
    assert layer._packed[0]._packed[""].step is not None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in GATED])
def test_a_step_is_the_kernels_first_to_the_bit(kind: type[RecurrentLayer]) -> None:
    layer = a_layer(kind)
    inputs = torch.randn(5, 6, 3)
    assert torch.equal(steps_of(layer, inputs), layer(inputs)[0])


def test_weights_are_packed_again_for_another_instruction_set(
    layer: RecurrentLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_follows(layer)
    wide = layer._packed[0]._packed[""].call.packed
    monkeypatch.setenv("NOISYRNN_CPU_LEVEL", "portable")
    assert_follows(layer)
    assert layer._packed[0]._packed[""].step is not None and layer._packed[0]._packed[""].call.packed is not wide


def test_no_noise_in_a_step(layer: RecurrentLayer) -> None:
    layer.train()
    x = torch.randn(2, 3)
    assert torch.equal(layer.step(x), layer.step(x))
    assert not layer.step(x).requires_grad


def test_weights_that_change_are_noticed(layer: RecurrentLayer) -> None:
    assert_follows(layer)
    now = torch.ones(1, 3), torch.ones(1, 21)
    before = layer.step(*now)
    with torch.no_grad():
        layer.cell.C.mul_(1.5)
    assert_follows(layer)
    assert not torch.equal(layer.step(*now), before)
    with torch.no_grad():
        layer.cell.step_size.fill_(0.4)
    assert_follows(layer)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(2):
        layer(torch.randn(2, 4, 3))[0].sum().backward()
        optimiser.step()
        assert_follows(layer)
    layer.load_state_dict(a_layer().state_dict())
    assert_follows(layer)
    assert torch.equal(layer.step(*now), before)


def test_weights_that_are_replaced_are_noticed(layer: RecurrentLayer) -> None:
    assert_follows(layer)
    layer.cell.B.data = torch.randn(21, 21)
    assert_follows(layer)
    layer.cell.input.weight = nn.Parameter(torch.randn(21, 3))
    assert_follows(layer)
    layer.cell.input = nn.Linear(3, 21)
    assert_follows(layer)


def test_a_transposed_matrix_is_noticed(layer: RecurrentLayer) -> None:
    """Its memory is the same."""
    assert_follows(layer)
    layer.cell.B.data = layer.cell.B.data.T
    assert_follows(layer)
    with torch.no_grad():
        layer.cell.B[3, 5] += 1
    assert_follows(layer)


def test_buffers_that_change_are_noticed() -> None:
    layer = a_layer(LipschitzRNN)  # its step is a buffer
    assert_follows(layer)
    layer.cell.step_size.mul_(2)
    assert_follows(layer)


def test_batches_of_changing_size(layer: RecurrentLayer) -> None:
    for batch in (1, 40, 3, 1, 7, 0, 2):
        assert_follows(layer, batch)


def test_tensors_that_are_not_contiguous(layer: RecurrentLayer) -> None:
    x, state = torch.randn(3, 4).T, torch.randn(21, 4).T
    expected = layer.step(x.contiguous(), state.contiguous())
    assert torch.equal(layer.step(x, state), expected)
    assert torch.equal(layer.step(torch.stack([x, x], dim=2)[..., 1], state), expected)
    wide = torch.randn(1, 3)
    assert torch.equal(layer.step(wide.expand(4, 3), state), layer.step(wide.repeat(4, 1), state))
    kept = state.clone()
    layer.step(x, state)
    assert torch.equal(state, kept)


def test_other_dtypes_and_devices(layer: RecurrentLayer) -> None:
    assert_follows(layer)
    with pytest.raises(TypeError, match=r"inputs must be torch\.float32"):
        layer.step(torch.randn(2, 3).double())
    with pytest.raises(TypeError, match=r"state must be torch\.float32"):
        layer.step(torch.randn(2, 3), torch.randn(2, 21).half())
    with pytest.raises(RuntimeError):
        layer.step(torch.randn(2, 3, device="meta"))
    assert_follows(layer)
    double = copy.deepcopy(layer).double()
    inputs = torch.randn(2, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(steps_of(double, inputs), double(inputs)[0].detach(), rtol=1e-12, atol=1e-12)
    layer.to("meta")
    assert layer.step(torch.randn(2, 3, device="meta")).device.type == "meta"


def test_wrong_shapes(layer: RecurrentLayer) -> None:
    with pytest.raises(ValueError, match=r"^inputs must have shape \(batch, 3\), got \(2, 4\)\.$"):
        layer.step(torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"^inputs must have shape \(batch, 3\), got \(1, 2, 3\)\.$"):
        layer.step(torch.randn(1, 2, 3))
    with pytest.raises(TypeError, match=r"^inputs must be a tensor, got ndarray\."):
        layer.step(np.zeros((2, 3), dtype=np.float32), torch.zeros(2, 21))
    for again in (False, True):  # before the weights are packed, and afterwards
        for shape in ((1, 21), (2, 22), (1, 2, 21), (21,), ()):  # the third is that of `h_n`
            sentence = f"state must have shape (2, 21), got {shape}."
            with pytest.raises(ValueError, match=rf"^{re.escape(sentence)}$"):
                layer.step(torch.randn(2, 3), torch.randn(shape))
        for shape in ((2, 4), (3,), ()):
            with pytest.raises(ValueError, match=r"^inputs must have shape \(batch, 3\), got "):
                layer.step(torch.randn(shape), torch.zeros(2, 21))
        if not again:
            layer.step(torch.randn(2, 3), torch.randn(2, 21))


@pytest.mark.parametrize("kernel", ["reference", "eager"])
def test_another_kernel_leaves_it_to_the_cell(layer: RecurrentLayer, kernel: str) -> None:
    layer.kernel = kernel
    assert_follows(layer)
    assert layer._packed[0]._packed == {}


def test_copies_and_pickles(layer: RecurrentLayer) -> None:
    x = torch.randn(2, 3)
    expected = layer.step(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other.step(x), expected)
        with torch.no_grad():
            other.cell.step_size.mul_(2)
        assert not torch.equal(other.step(x), expected)
        assert torch.equal(layer.step(x), expected)


def test_inference_mode(layer: RecurrentLayer) -> None:
    x = torch.randn(2, 3)
    expected = layer.step(x)
    with torch.inference_mode():
        assert torch.equal(layer.step(x), expected)
        born = a_layer()  # its weights do not count their versions
        torch.testing.assert_close(born.step(x), expected, **TOLERANCE)
    torch.testing.assert_close(born.step(x), expected, **TOLERANCE)


def test_vmap(layer: RecurrentLayer) -> None:
    x = torch.randn(4, 2, 3)
    expected = torch.stack([layer.step(one) for one in x])
    torch.testing.assert_close(torch.func.vmap(layer.step)(x), expected, **TOLERANCE)


def test_threads_share_a_layer(layer: RecurrentLayer) -> None:
    """Each thread's steps, of its own batch size, are its own."""
    work = [torch.randn(batch, 300, 3) for batch in (1, 6, 30)]
    expected = [steps_of(layer, inputs) for inputs in work]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            found = list(pool.map(lambda inputs: steps_of(layer, inputs), work))
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", GATED)
def test_weights_of_torchs_networks_that_change_are_noticed(kind: type[RecurrentLayer]) -> None:
    layer = a_layer(kind)
    assert_follows(layer)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        before = layer.step(torch.ones(1, 3), torch.ones(1, layer.cell.state_size))
        with torch.no_grad():
            getattr(layer.cell.rnn, name).mul_(1.5)
        assert_follows(layer)
        assert not torch.equal(layer.step(torch.ones(1, 3), torch.ones(1, layer.cell.state_size)), before)


@pytest.mark.parametrize("kind", DRIFTS)
def test_settings_that_change_are_noticed(kind: type[RecurrentLayer]) -> None:
    layer = a_layer(kind)
    assert_follows(layer)
    layer.cell.damping = 0.5
    assert_follows(layer)
