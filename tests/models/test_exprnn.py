import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from noisyrnn.kernels.recurrence import modrelu
from noisyrnn.models import ExpRNN
from noisyrnn.models.exprnn import BASES, Rotation, skew_blocks

Make = Callable[..., Any]


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("start", ["cayley", "henaff"])
def test_skew_blocks(size: int, start: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        K = skew_blocks(size, start)
    assert K.shape == (size, size)
    assert torch.equal(K, -K.T)
    angles = K.diagonal(1)[::2] if size > 1 else K[:0, 0]
    assert len(angles) == size // 2
    rest = K.clone()
    for block in range(size // 2):
        rest[2 * block, 2 * block + 1] = rest[2 * block + 1, 2 * block] = 0
    assert (rest == 0).all()
    if start == "henaff":
        assert (angles.abs() <= math.pi).all()
    else:
        assert ((angles <= 0) & (angles >= -1)).all()  # -tan(t / 2) with t up to π/2


def test_spread_of_the_initial_angles() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        henaff = skew_blocks(2000, "henaff").diagonal(1)[::2]
        cayley = skew_blocks(2000, "cayley").diagonal(1)[::2]
    # Uniform on [-π, π]: mean 0 and variance π²/3, within four standard errors.
    assert abs(float(henaff.mean())) < 4 * math.pi / math.sqrt(3 * 1000)
    assert abs(float(henaff.square().mean()) - math.pi**2 / 3) < 4 * math.pi**2 * math.sqrt(4 / 45 / 1000)
    # The t behind the angle, 2 arctan, is uniform on [0, π/2].
    t = 2 * torch.atan(-cayley)
    assert abs(float(t.mean()) - math.pi / 4) < 4 * (math.pi / 2) / math.sqrt(12 * 1000)
    assert abs(float(t.square().mean()) - math.pi**2 / 12) < 4 * (math.pi / 2) ** 2 * math.sqrt(4 / 45 / 1000)


def test_modrelu_by_hand() -> None:
    z = torch.tensor([-2.0, -0.3, 0.0, 0.3, 2.0])
    torch.testing.assert_close(modrelu(z, torch.tensor(-0.5)), torch.tensor([-1.5, 0.0, 0.0, 0.0, 1.5]))
    torch.testing.assert_close(modrelu(z, torch.tensor(0.5)), torch.tensor([-2.5, -0.8, 0.0, 0.8, 2.5]))


@pytest.mark.parametrize("start", ["cayley", "henaff"])
@pytest.mark.parametrize("hidden_size", [1, 4, 7])
def test_both_bases_start_at_the_exponential_of_the_blocks(start: str, hidden_size: int) -> None:
    for base in BASES:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            blocks = skew_blocks(hidden_size, start)
            torch.manual_seed(1)
            rotation = Rotation(skew_blocks(hidden_size, start), base=base, dtype=torch.float64)
        torch.testing.assert_close(rotation.weight, torch.linalg.matrix_exp(blocks), rtol=0, atol=1e-14)


def test_the_published_base_is_the_default() -> None:
    layer = ExpRNN(2, 6)
    assert layer.recurrent_base == "identity"
    K = layer.cell.recurrent.free.detach().double().tril(-1)
    expected = torch.matrix_exp(K - K.T)
    torch.testing.assert_close(layer.cell.recurrent.weight.double(), expected, rtol=0, atol=1e-7)


def test_weights_of_the_other_base_load(make_layer: Make, make_inputs: Make) -> None:
    """A file holds both factors, so that the option decides only where training starts."""
    old, new = make_layer("exprnn", recurrent_base="initial", seed=3), make_layer("exprnn", seed=4)
    with torch.no_grad():
        old.cell.recurrent.free.normal_()
    new.load_state_dict(old.state_dict())
    assert torch.equal(new(make_inputs())[0], old(make_inputs())[0])


@pytest.mark.parametrize(
    ("hidden_size", "base"),
    [
        *itertools.product((4, 7), BASES),
        (170, BASES[0]),
        *(pytest.param(170, base, marks=pytest.mark.slow) for base in BASES[1:]),
    ],
)
def test_stays_orthogonal_while_it_trains(hidden_size: int, base: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layer = ExpRNN(2, hidden_size, recurrent_base=base)
        inputs, target = torch.randn(8, 10, 2), torch.randn(8, hidden_size)
    before = layer.cell.recurrent.weight.detach().clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (layer.last_output(inputs) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    Q = layer.cell.recurrent.weight.detach()
    assert losses[-1] < losses[0]
    assert float((Q - before).abs().max()) > 0.1  # it did move
    error = (Q.T @ Q - torch.eye(hidden_size)).abs().max()
    assert float(error) < 1e-5


def test_orthogonal_where_the_exponent_is_large() -> None:
    """In float32 the exponential of this one is off by 1e-5 or more, and under autocast by 4e-3."""
    rotation = Rotation(skew_blocks(256, "henaff"), base="identity")
    with torch.no_grad():
        rotation.free.copy_(torch.randn(256, 256, generator=torch.Generator().manual_seed(0)) * 3)
    for automatic in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=automatic):
            Q = rotation.weight.detach()
        assert Q.dtype == torch.float32
        assert float((Q.double().T @ Q.double() - torch.eye(256)).abs().max()) < 1e-6


def test_the_exponential_is_taken_once_a_forward(
    make_layer: Make, make_inputs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, calls = make_layer("exprnn", additive=0.1), []
    exponential = torch.matrix_exp
    monkeypatch.setattr(torch, "matrix_exp", lambda matrix: calls.append(matrix.shape) or exponential(matrix))
    layer(make_inputs(steps=6))
    assert calls == [(5, 5)]
    layer.eval().last_output(make_inputs(steps=3), lengths=torch.tensor([1, 2, 3, 3]))
    assert len(calls) == 2


def test_equals_a_written_out_loop(make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer("exprnn", recurrent_init="henaff"), make_inputs()
    outputs, _ = layer(inputs)
    Q, U, b = (p.detach() for p in (layer.cell.recurrent.weight, layer.cell.input.weight, layer.cell.threshold))
    for n in range(4):
        h = torch.zeros(5).double()
        for m in range(6):
            z = [float(Q[i] @ h + U[i] @ inputs[n, m]) for i in range(5)]
            h = torch.tensor(
                [math.copysign(max(abs(z[i]) + float(b[i]), 0.0), z[i]) for i in range(5)], dtype=torch.float64
            )
            torch.testing.assert_close(outputs[n, m], h, rtol=0, atol=1e-12)


def test_unknown_start() -> None:
    sentence = r"^recurrent_init must be one of cayley, henaff, got 'cayly'\. Did you mean 'cayley'\?$"
    with pytest.raises(ValueError, match=sentence):
        ExpRNN(1, 2, recurrent_init="cayly")
    with pytest.raises(ValueError, match=r"^recurrent_base must be one of identity, initial, got 'start'\."):
        ExpRNN(1, 2, recurrent_base="start")


def test_the_rotation_by_hand() -> None:
    rotation = Rotation(torch.zeros(2, 2), base="initial")
    rotation.start.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    with torch.no_grad():
        rotation.free.copy_(torch.tensor([[7.0, 5.0], [0.3, 2.0]]))  # what is not below the diagonal does not count
    c, s = math.cos(0.3), math.sin(0.3)
    torch.testing.assert_close(rotation.weight, torch.tensor([[s, c], [c, -s]]))
    rotation.weight.sum().backward()
    assert (rotation.free.grad != 0).nonzero().tolist() == [[1, 0]]
