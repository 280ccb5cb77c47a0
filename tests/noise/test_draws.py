"""Values by the compiled library and by tensor operations, against one another and against those of each alone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn.native import library
from noisyrnn.native.library import Place
from noisyrnn.noise import draws
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.draws import box_muller

SEED = (7 << 32) + 3
PLACE = Place(first_row=3, first_step=2, stream=1)
SIZE = {"steps": 4, "batch": 5, "units": 6}
SEEDS = (0, SEED, 2**63 - 1, 2**63, 2**64 - 1)
KINDS = ("first", "second", "uniform")
DTYPES = [torch.float32, torch.float64]


@pytest.fixture
def compiled() -> None:
    """The compiled library, or a skip."""
    reason = library.unavailable()
    if reason is not None:
        pytest.skip(reason)


def by_tensor_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "unavailable", lambda: "not in this test")


@pytest.mark.parametrize("dtype", DTYPES)
def test_box_muller_is_finite_at_the_extreme_words(dtype: torch.dtype) -> None:
    last = 1 - 2.0**-24
    first, second = torch.tensor([0.0, 0.0, last, last], dtype=dtype), torch.tensor([0.0, last] * 2, dtype=dtype)
    even, odd = box_muller(first, second)
    assert torch.isfinite(even).all() and torch.isfinite(odd).all() and even.dtype == odd.dtype == dtype
    # The smallest uniform number is 2^-25, so no value lies further out than this.
    assert float(even[0]) == pytest.approx(math.sqrt(50 * math.log(2)), rel=1e-6)


def drawn(**options: Any) -> Tensor:
    return draws.draw(SEED, KINDS, PLACE, **{**SIZE, **options})


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("fork", [False, True])
def test_the_library_draws_the_same_with_any_number_of_threads(
    threads: int, fork: bool, compiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"steps": 40, "batch": 7, "units": 19}  # more than two blocks of steps
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    expected = drawn(**size)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    if fork:  # then it starts threads of its own
        monkeypatch.setattr(library, "_forked", True)
    assert torch.equal(drawn(**size), expected)


@pytest.mark.parametrize("level", library.compiler.LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first_row", [0, 3])
@pytest.mark.parametrize(("batch", "units"), [(1, 1), (2, 16), (5, 6), (9, 37)])
def test_the_library_draws_the_values_of_the_tensor_operations(
    level: str,
    dtype: torch.dtype,
    first_row: int,
    batch: int,
    units: int,
    compiled: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(library.compiler.LEVEL, level)
    if library.unavailable() is not None:
        pytest.skip(f"this processor has no {level}")
    place = Place(first_row, first_step=2**32 - 9, stream=2**32 - 1)
    seeds = torch.tensor([3, -1])
    size = {"steps": 4, "batch": batch, "units": units, "dtype": dtype}
    found = draws.draw(seeds, KINDS, place, **size)
    by_tensor_operations(monkeypatch)
    expected = draws.draw(seeds, KINDS, place, **size)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 if dtype == torch.float32 else 1e-14)
    assert torch.equal(found[2], expected[2])


@pytest.mark.parametrize("kinds", [("first",), ("second",), ("uniform",), ("uniform", "first"), ("second", "first")])
@pytest.mark.parametrize("with_library", [True, False])
def test_a_value_does_not_depend_on_the_others_asked_for(
    kinds: tuple[str, ...], with_library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_library:
        by_tensor_operations(monkeypatch)
    whole, part = drawn(), draws.draw(SEED, kinds, PLACE, **SIZE)
    for kind, values in zip(kinds, part, strict=True):
        assert torch.equal(values, whole[KINDS.index(kind)])


@pytest.mark.parametrize("chunk", [1, 4 * 3 * 6])
def test_chunks_of_steps_do_not_change_the_values(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    by_tensor_operations(monkeypatch)
    expected = drawn(steps=17)
    monkeypatch.setattr(draws, "_CHUNK", chunk)
    assert torch.equal(drawn(steps=17), expected)


@pytest.mark.parametrize(
    "options",
    [{"steps": 5}, {"rows": 6}, {"units": 7}, {"replicas": 3}],
)
def test_the_library_refuses_memory_that_is_too_small(options: dict[str, int], compiled: None) -> None:
    size = {"replicas": 2, "steps": 4, "rows": 5, "units": 6, **options}
    target, seeds = torch.zeros(2, 4, 5, 6), torch.zeros(3, dtype=torch.int64)
    place = (target.data_ptr(), target.nbytes, *target.stride()[:2])
    status = library.native().draw_float(seeds.data_ptr(), *place, None, 0, 0, 0, 0, *size.values(), 0, 0, 0, 1, None)
    with pytest.raises(RuntimeError, match="wrong size for 'noise'"):
        library.check(status)
    assert not target.any()


def test_no_steps() -> None:
    assert drawn(steps=0).shape == (3, 0, 5, 6)


@pytest.mark.parametrize("with_library", [True, False])
@pytest.mark.parametrize("first_row", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_filling_tensors_that_lie_apart(
    first_row: int, dtype: torch.dtype, with_library: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_library:
        by_tensor_operations(monkeypatch)
    place = PLACE._replace(first_row=first_row)
    kinds = ("uniform", "first", "second")
    seeds = torch.tensor([3, -1])
    whole = draws.draw(seeds, kinds, place, steps=4, batch=5, units=6, dtype=dtype)
    room = torch.full((2, 4, 3, 5, 6), torch.nan, dtype=dtype)  # steps before kinds
    draws.fill(room.unbind(2), seeds, kinds, place)
    assert torch.equal(room.movedim(2, 0), whole)
    alone = draws.draw(2**64 - 1, ("second",), place, steps=4, batch=5, units=6, dtype=dtype)
    assert torch.equal(whole[2, 1], alone[0])


@pytest.mark.parametrize("batch", [1, 4])
def test_drawing_for_many_seeds_at_once(batch: int) -> None:
    seeds, kinds = torch.tensor([0, SEED, 2**63 - 1, -(2**63), -1]), ("uniform", "first", "second")
    found = draws.draw(seeds, kinds, PLACE, steps=4, batch=batch, units=7)
    assert found.shape == (3, len(SEEDS), 4, batch, 7)
    for r, seed in enumerate(SEEDS):
        path = BrownianPath(seed=seed, **PLACE._asdict())
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
