"""Numbers of many steps, seeds and threads at once, against those of each alone."""

import math
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from noisyrnn.sde import draws
from noisyrnn.sde.brownian import BrownianPath
from noisyrnn.sde.draws import _Pen, box_muller

SEED = (7 << 32) + 3
PLACE = {"first_row": 3, "first_step": 2, "stream": 1}
SIZE = {"steps": 4, "batch": 5, "units": 6}
SEEDS = (0, SEED, 2**63 - 1, 2**63, 2**64 - 1)


@pytest.mark.parametrize("xp", [torch, np])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_box_muller_is_finite_at_the_extreme_words(xp: ModuleType, dtype: str) -> None:
    words = [0.0, 0.0, 2.0**32 - 2**8, 2.0**32 - 2**8], [0.0, 2.0**32 - 2**8] * 2
    for memory in (None, xp.empty(4, dtype=getattr(xp, dtype))):
        first, second = (xp.asarray(word, dtype=getattr(xp, dtype)) for word in words)
        even, odd, radius = box_muller(xp, first, second, memory)
        assert xp.isfinite(even).all() and xp.isfinite(odd).all() and xp.isfinite(radius).all()
        assert even.dtype == odd.dtype == radius.dtype == getattr(xp, dtype)
        # The smallest uniform number is 2^-25, so no number lies further out than this.
        assert float(even[0] * radius[0]) == pytest.approx(math.sqrt(50 * math.log(2)), rel=1e-6)


def drawn(**options: Any) -> Tensor:
    return draws.draw(SEED, ("first", "second", "uniform"), **PLACE, **{**SIZE, **options})


@pytest.mark.parametrize(
    ("threads", "steps", "workers", "span"),
    [(1, 4, 1, 4), (1, 17, 1, 4), (2, 4, 1, 4), (2, 5, 2, 3), (2, 9, 2, 3), (3, 17, 3, 3), (20, 40, 8, 3)],
)
def test_does_not_depend_on_the_number_of_threads(
    threads: int, steps: int, workers: int, span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = drawn(steps=40)[:, :steps]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(draws, "_CHUNK", 4 * 3 * 6)  # four steps
    spans, memory = [], _Pen.memory
    monkeypatch.setattr(_Pen, "memory", lambda pen, steps: spans.append(steps) or memory(pen, steps))
    assert torch.equal(drawn(steps=steps), expected)
    assert spans == [span] * workers


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(draws, "_CHUNK", 1)
    write, met = _Pen.write, threading.Barrier(2)

    def fail(pen: _Pen, begin: int, *rest: Any) -> None:
        if begin < 2:
            met.wait(10)  # each thread has one of these
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError("no memory in a thread")
        write(pen, begin, *rest)

    monkeypatch.setattr(_Pen, "write", fail)
    with pytest.raises(MemoryError, match="no memory in a thread"):
        drawn(steps=6)


def test_an_interruption_stops_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(draws, "_CHUNK", 1)
    written, met = [], threading.Barrier(2)

    def interrupt(pen: _Pen, begin: int, *rest: Any) -> None:
        written.append(begin)
        if begin < 2:
            met.wait(10)  # each thread has one of these
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.1)

    monkeypatch.setattr(_Pen, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        drawn(steps=40)
    assert len(written) < 10


@pytest.mark.parametrize("threads", [2, 3])
def test_where_no_thread_begins_any_more_one_does_all(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = drawn(steps=9)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(draws, "_CHUNK", 1)

    def refuse(*arguments: Any) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(draws.ThreadPoolExecutor, "submit", refuse)
    assert torch.equal(drawn(steps=9), expected)


@pytest.mark.parametrize("with_memory", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_and_numpy_make_the_same_numbers(dtype: torch.dtype, with_memory: bool) -> None:
    kinds, seeds = ("first", "second", "uniform"), torch.tensor([3, -1])
    expected = draws.draw(seeds, kinds, **PLACE, **SIZE, dtype=dtype)
    found = torch.full_like(expected, torch.nan)
    pen = _Pen(torch, found.unbind(0), seeds, kinds, [(1.0, 0.0)] * 3, **PLACE)
    for begin, end in ((0, 3), (3, 4)):
        pen.write(begin, end, pen.memory(3) if with_memory else None)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 if dtype == torch.float32 else 1e-14)
    assert torch.equal(found[2], expected[2])


def test_no_steps() -> None:
    assert drawn(steps=0).shape == (3, 0, 5, 6)


@pytest.mark.parametrize("first_row", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_filling_tensors_that_lie_apart(first_row: int, dtype: torch.dtype) -> None:
    place = PLACE | {"first_row": first_row}
    kinds = ("uniform", "first", "second")  # the words of the last serve the first too
    seeds = torch.tensor([3, -1])
    whole = draws.draw(seeds, kinds, **place, steps=4, batch=5, units=6, dtype=dtype)
    room = torch.full((2, 4, 3, 5, 6), torch.nan, dtype=dtype)  # steps before kinds
    draws.fill(room.unbind(2), seeds, kinds, **place)
    assert torch.equal(room.movedim(2, 0), whole)
    alone = draws.draw(2**64 - 1, ("second",), **place, steps=4, batch=5, units=6, dtype=dtype)
    assert torch.equal(whole[2, 1], alone[0])


@pytest.mark.parametrize("first_row", [0, 3])
@pytest.mark.parametrize("with_numpy", [True, False])
def test_factors_and_summands(first_row: int, with_numpy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: not with_numpy)
    place, kinds = PLACE | {"first_row": first_row}, ("first", "second", "uniform")
    plain, scaled = torch.empty(2, 3, 4, 5, 6, dtype=torch.float64)
    draws.fill(plain.unbind(0), SEED, kinds, **place)
    for affine in ([(-0.3, 0.0), (1.0, 0.7), (0.4, 1.1)], [(2.0, -0.5), (0.0, 0.0), (-1.0, 0.0)]):
        draws.fill(scaled.unbind(0), SEED, kinds, **place, affine=affine)
        for one, other, (factor, summand) in zip(scaled, plain, affine, strict=True):
            torch.testing.assert_close(one, factor * other + summand, rtol=0, atol=1e-14)


@pytest.mark.parametrize("batch", [1, 4])
def test_drawing_for_many_seeds_at_once(batch: int) -> None:
    seeds, kinds = torch.tensor([0, SEED, 2**63 - 1, -(2**63), -1]), ("uniform", "first", "second")
    found = draws.draw(seeds, kinds, **PLACE, steps=4, batch=batch, units=7)
    assert found.shape == (3, len(SEEDS), 4, batch, 7)
    for r, seed in enumerate(SEEDS):
        path = BrownianPath(seed=seed, **PLACE)
        assert torch.equal(found[0, r], path.uniforms(steps=4, batch=batch, units=7))
        assert torch.equal(found[1:, r], path.normals(steps=4, batch=batch, units=7))


def test_a_compiled_graph_makes_the_same_numbers() -> None:
    expected = drawn()
    found = torch.compile(drawn, fullgraph=True, backend="aot_eager")()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_a_compiled_graph_maps_seeds() -> None:
    def of(seed: Tensor) -> Tensor:
        return BrownianPath(seed=seed, first_row=1).normals(steps=3, batch=2, units=4)

    seeds = torch.tensor([3, -1, 5])
    expected = torch.stack([of(seed) for seed in seeds])
    found = torch.compile(torch.func.vmap(of), fullgraph=True, backend="aot_eager")(seeds)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_a_compiled_graph_is_as_long_for_many_steps() -> None:
    def nodes(steps: int) -> int:
        graphs = []
        torch._dynamo.reset()
        torch.compile(lambda: drawn(steps=steps, batch=64, units=128), backend=lambda g, _: graphs.append(g) or g)()
        (graph,) = graphs
        return len(graph.graph.nodes)

    assert nodes(2) == nodes(200)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacfwd, torch.func.hessian])
def test_other_transforms_leave_the_numbers_alone(transform: Callable[..., Callable[[Tensor], Tensor]]) -> None:
    expected = drawn()
    found = transform(lambda x: (drawn() * x**2).sum())(torch.tensor(3.0))
    factor = 2.0 if transform is torch.func.hessian else 6.0
    assert float(found) == pytest.approx(factor * float(expected.sum()), rel=1e-4)
