"""torch's own networks: our step-by-step loop is what their fused pass computes, and it can wear noise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from noisyrnn.kernels import reference
from noisyrnn.models import GRU, LSTM, RecurrentLayer, TanhRNN, build_layer
from noisyrnn.noise import BrownianPath

Make = Callable[..., Any]

names = pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])


def gradients(layer: RecurrentLayer, outputs: torch.Tensor, state: torch.Tensor) -> list[torch.Tensor]:
    layer.zero_grad()
    weight = torch.arange(outputs.numel(), dtype=outputs.dtype).reshape(outputs.shape).cos()
    ((outputs * weight).sum() + state.square().sum()).backward()
    return [parameter.grad.clone() for parameter in layer.parameters()]


@names
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 6, 1, 3])])
def test_the_loop_equals_the_fused_pass(
    name: str, lengths: torch.Tensor | None, make_layer: Make, make_inputs: Make
) -> None:
    layer, inputs = make_layer(name), make_inputs()
    generator = torch.Generator().manual_seed(3)
    h_0 = torch.randn(1, 4, layer.cell.state_size, generator=generator, dtype=torch.float64)
    outputs, h_n = layer(inputs, h_0, lengths=lengths)
    looped, state = reference.run(layer.cell, inputs, h_0[0], lengths=lengths)
    torch.testing.assert_close(outputs, looped, rtol=0, atol=1e-12)
    torch.testing.assert_close(h_n[0], state, rtol=0, atol=1e-12)
    for ours, theirs in zip(gradients(layer, looped, state), gradients(layer, outputs, h_n[0]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@names
def test_equals_torch_with_copied_weights(name: str, make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer(name), make_inputs()
    theirs = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[name](2, 5, batch_first=True).double()
    theirs.load_state_dict({key.removeprefix("cells.l0.rnn."): value for key, value in layer.state_dict().items()})
    expected, end = theirs(inputs)
    outputs, h_n = layer(inputs)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-14)
    end = torch.cat(end, dim=2) if name == "lstm" else end
    torch.testing.assert_close(h_n, end, rtol=0, atol=1e-14)


@names
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types_that_no_kernel_knows_run_by_torchs_own_loop(
    name: str, dtype: torch.dtype, make_layer: Make, make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(name).to(dtype)
    monkeypatch.setattr(reference, "run", lambda *_, **__: pytest.fail("the slow loop ran"))
    assert layer(make_inputs().to(dtype))[0].dtype == dtype


@names
def test_the_noise_free_pass_is_the_fused_one(
    name: str, make_layer: Make, make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(name, additive=0.1).eval()
    monkeypatch.setattr(reference, "run", lambda *_, **__: pytest.fail("the slow loop ran"))
    layer(make_inputs(), lengths=torch.tensor([2, 6, 1, 3]))


@names
def test_hidden_noise(name: str, make_layer: Make, make_inputs: Make) -> None:
    """The published formula on the output, written out with torch's own cells; an LSTM's memory keeps none."""
    layer, inputs, path = make_layer(name, additive=0.1, multiplicative=0.2), make_inputs(), BrownianPath(seed=4)
    first, second = path.normals(steps=6, batch=4, units=5, dtype=torch.float64)
    cell = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}[name](2, 5).double()
    weights = layer.cell.rnn.state_dict()
    cell.load_state_dict({key.removesuffix("_l0"): value for key, value in weights.items()})
    h = c = torch.zeros(4, 5, dtype=torch.float64)
    outputs, h_n = layer(inputs, path=path)
    for m in range(6):
        if name == "lstm":
            new, c = cell(inputs[:, m], (h, c))
        else:
            new = cell(inputs[:, m], h)
        h = h + (1 + 0.2 * second[m]) * (new - h) + 0.1 * first[m]
        torch.testing.assert_close(outputs[:, m], h, rtol=0, atol=1e-12)
    torch.testing.assert_close(h_n[0], torch.cat([h, c], dim=1) if name == "lstm" else h, rtol=0, atol=1e-12)


@names
def test_silent_by_default(name: str) -> None:
    assert build_layer(name, 1, 2, {}).hidden_noise.silent


@pytest.mark.parametrize(("layer", "theirs"), [(TanhRNN, nn.RNN), (GRU, nn.GRU), (LSTM, nn.LSTM)])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"num_layers": 2, "bidirectional": True, "dropout": 0.3},
        {"num_layers": 3, "bias": False, "batch_first": True, "dtype": torch.float64},
    ],
)
def test_from_torch_computes_the_same_and_adds_noise_in_training(layer: Any, theirs: Any, options: Any) -> None:
    torch.manual_seed(3)
    rnn = theirs(2, 5, **options).eval()
    state = torch.random.get_rng_state()
    ours = layer.from_torch(rnn, additive=0.1)
    assert torch.equal(state, torch.random.get_rng_state())
    inputs = torch.randn(4, 6, 2, dtype=options.get("dtype", torch.float32))
    if not options.get("batch_first"):
        inputs = inputs.transpose(0, 1)
    assert not ours.training
    assert ours.batch_first is rnn.batch_first
    assert ours.dropout == rnn.dropout
    outputs, end = ours(inputs)
    expected, expected_end = rnn(inputs)
    assert torch.allclose(outputs, expected, rtol=0, atol=1e-6)
    if layer is LSTM:
        expected_end = torch.cat(expected_end, dim=2)
    assert torch.allclose(end, expected_end, rtol=0, atol=1e-6)
    assert not torch.allclose(ours.train()(inputs)[0], rnn(inputs)[0], atol=1e-3)
    with torch.no_grad():
        rnn.weight_hh_l0.zero_()
    assert torch.equal(ours.eval()(inputs)[0], outputs)  # the weights are copies


def test_from_torch_keeps_frozen_weights_and_the_mode() -> None:
    rnn = nn.GRU(2, 5)
    rnn.weight_hh_l0.requires_grad_(False)
    ours = GRU.from_torch(rnn)
    assert ours.training
    assert not ours.cell.rnn.weight_hh_l0.requires_grad
    assert ours.cell.rnn.weight_ih_l0.requires_grad


def test_from_torch_refuses_what_it_cannot_rebuild() -> None:
    with pytest.raises(TypeError, match=r"^rnn must be an nn.GRU, got LSTM"):
        GRU.from_torch(nn.LSTM(2, 3))
    with pytest.raises(ValueError, match=r"^rnn must have nonlinearity 'tanh', got 'relu'"):
        TanhRNN.from_torch(nn.RNN(2, 3, nonlinearity="relu"))
    with pytest.raises(ValueError, match=r"^rnn must have no projections, got proj_size 2"):
        LSTM.from_torch(nn.LSTM(2, 3, proj_size=2))
    pruned = prune.random_unstructured(nn.GRU(2, 3), "weight_hh_l0", amount=0.5)
    with pytest.raises(ValueError, match=r"^rnn must have no forward hooks"):
        GRU.from_torch(pruned)
    with pytest.raises(TypeError, match=r"^rnn must be an nn.GRU"):
        GRU.from_torch(parametrizations.orthogonal(nn.GRU(2, 3), "weight_hh_l0"))
    with pytest.raises(TypeError, match="num_layers"):
        GRU.from_torch(nn.GRU(2, 3), num_layers=2)  # type: ignore[call-arg]
