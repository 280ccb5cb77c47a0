"""Stacks and both directions against loops written out sequence by sequence, with noise, lengths and step lengths."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn.kernels import operator
from noisyrnn.models import MODELS, RecurrentLayer
from noisyrnn.noise import BrownianPath

Make = Callable[..., Any]

LENGTHS = torch.tensor([6, 1, 3, 2])
NOISY = {"additive": 0.1, "multiplicative": 0.2}
PATH = BrownianPath(seed=8, stream=5)
CLOSE = {"rtol": 0, "atol": 1e-12}


def written_out(layer: RecurrentLayer, inputs: Tensor, h_0: Tensor, dt: Tensor, path: BrownianPath | None) -> Any:
    """One sequence after another, one cell after another, one step after another."""
    size, outputs, ends = layer.hidden_size, torch.zeros(4, 6, layer.output_size).double(), h_0.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        xs = list(inputs[row, :length])
        k = 0
        for _ in range(layer.num_layers):
            sides = []
            for backward in (False, True) if layer.bidirectional else (False,):
                cell, h, found = list(layer.cells.values())[k], h_0[k, row][None], [None] * length
                for m in range(length):
                    at = length - 1 - m if backward else m
                    span = dt[row, at] if cell.supports_dt else None
                    move = cell.increment(xs[at][None], h, span)[0]
                    if path is not None:
                        own = BrownianPath(seed=path.seed, stream=path.stream + k, first_row=row, first_step=m)
                        first, second = own.normals(steps=1, batch=1, units=size, dtype=torch.float64)[:, 0, 0]
                        root = 1.0 if span is None else span.sqrt()
                        noisy = (1 + 0.2 / root * second) * move[:size] + 0.1 * root * first
                        move = torch.cat([noisy, move[size:]])
                    h = h + move
                    found[at] = h[0, :size]
                ends[k, row] = h[0]
                sides.append(found)
                k += 1
            xs = [torch.cat(parts) for parts in zip(*sides, strict=True)]
        outputs[row, :length] = torch.stack(xs)
    return outputs, ends


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("noisy", [False, True], ids=["silent", "noisy"])
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, True), (2, False), (2, True)])
def test_equals_written_out_loops(
    name: str, noisy: bool, num_layers: int, bidirectional: bool, make_layer: Make, make_inputs: Make
) -> None:
    units = {"noise_units": "per_step"} if name == "rate" else {}
    layer = make_layer(name, num_layers=num_layers, bidirectional=bidirectional, **NOISY, **units)
    layer.noise_mode = "on" if noisy else "off"
    inputs, generator = make_inputs(), torch.Generator().manual_seed(3)
    h_0 = torch.randn(len(layer.cells), 4, layer.cells["l0"].state_size, generator=generator, dtype=torch.float64)
    dt = torch.rand(4, 6, generator=generator, dtype=torch.float64) + 0.5
    timed = {"dt": dt} if layer.cells["l0"].supports_dt else {}
    wanted = written_out(layer, inputs, h_0, dt, PATH if noisy else None)
    past = torch.arange(6) >= LENGTHS[:, None]
    padded = inputs.masked_fill(past[..., None], torch.nan)  # padding, also of dt, reaches nothing
    if timed:
        timed = {"dt": dt.masked_fill(past, torch.nan)}
    outputs, h_n = layer(padded, h_0, lengths=LENGTHS, path=PATH, **timed)
    torch.testing.assert_close(outputs, wanted[0], **CLOSE)
    torch.testing.assert_close(h_n, wanted[1], **CLOSE)
    again, h_again = layer(padded, h_0, mask=~past, path=PATH, **timed)
    assert torch.equal(again, outputs) and torch.equal(h_again, h_n)
    last = layer.last_output(padded, h_0, lengths=LENGTHS, path=PATH, **timed)
    ends = [h_n[-2, :, :5], h_n[-1, :, :5]] if bidirectional else [h_n[-1, :, :5]]
    torch.testing.assert_close(last, torch.cat(ends, dim=1), **CLOSE)
    outputs.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and (p.grad != 0).any() for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shared_step_lengths_turn_with_their_steps(dtype: torch.dtype, make_layer: Make, make_inputs: Make) -> None:
    layer = make_layer("lipschitz", step_size=0.3, bidirectional=True).to(dtype)
    inputs, dt = make_inputs().to(dtype), torch.linspace(0.5, 1.5, 6, dtype=dtype)
    for lengths in (None, LENGTHS):
        shared, each = (layer(inputs, dt=sizes, lengths=lengths)[0] for sizes in (dt, dt.expand(4, 6)))
        torch.testing.assert_close(shared, each, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-12)
        flipped = layer(inputs, dt=dt.flip(0), lengths=lengths)[0]
        assert not torch.allclose(shared, flipped)


def test_which_outputs_are_asked_for(make_layer: Make, make_inputs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer below another always gives its outputs; those of the last one may be left out."""
    asked: list[bool] = []
    run = operator.run

    def noted(*arguments: Any, every_step: bool, **named: Any) -> tuple[Tensor | None, Tensor]:
        asked.append(every_step)
        return run(*arguments, every_step=every_step, **named)

    monkeypatch.setattr(operator, "run", noted)
    layer = make_layer("lipschitz", num_layers=2, bidirectional=True)
    outputs, last = layer(make_inputs())
    some, end = layer(make_inputs(), last_only=True)
    assert outputs is not None and some is None and torch.equal(last, end)
    assert asked == [True] * 4 + [True, True, False, False]
    fused = make_layer("gru", num_layers=2)  # torch's own loop cannot leave them out
    assert fused(make_inputs(), last_only=True)[0] is None
