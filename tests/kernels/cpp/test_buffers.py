"""Memory that is used again, and given back."""

import concurrent.futures
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn.kernels.cpp import buffers

LARGE = buffers._SMALL


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # a collection then looks at what the test makes, and not at all libraries
    buffers.release()
    yield
    buffers.release()


def test_large_buffers_are_used_again() -> None:
    first = buffers.empty(2, LARGE)
    assert first.shape == (2, LARGE) and first.dtype == torch.float32 and first.is_contiguous()
    place = first.data_ptr()
    assert place % 64 == 0
    del first
    assert buffers.kept_bytes() >= 8 * LARGE
    second = buffers.empty(LARGE, 2)
    assert second.data_ptr() == place
    assert buffers.kept_bytes() == 0


def test_small_buffers_are_the_allocators() -> None:
    small = buffers.empty(LARGE - 1)
    assert small.shape == (LARGE - 1,)
    del small
    assert buffers.kept_bytes() == 0
    assert buffers.empty(3, 0, 5).shape == (3, 0, 5)


def test_only_blocks_of_a_similar_size_are_used() -> None:
    large = buffers.empty(5 * LARGE)
    del large
    half = buffers.empty(2 * LARGE)  # more than twice too large a block would be wasted on it
    assert buffers.kept_bytes() >= 20 * LARGE
    more = buffers.empty(6 * LARGE)
    assert buffers.kept_bytes() >= 20 * LARGE
    fits = buffers.empty(3 * LARGE)
    assert buffers.kept_bytes() == 0
    assert len({half.data_ptr(), more.data_ptr(), fits.data_ptr()}) == 3


def test_the_smallest_that_fits_is_taken() -> None:
    kept = [buffers.empty(n * LARGE) for n in (4, 3, 5)]
    place = kept[1].data_ptr()
    del kept
    assert buffers.empty(3 * LARGE).data_ptr() == place


HOLDS: dict[str, Callable[[Tensor], Any]] = {
    "slice": lambda tensor: tensor[1:, 5:9],
    "transposed": lambda tensor: tensor.mT,
    "numpy": lambda tensor: tensor.numpy(),
    "storage": lambda tensor: tensor.untyped_storage(),
}


@pytest.mark.parametrize(
    "hold", [pytest.param(hold, marks=() if hold in ("slice", "storage") else pytest.mark.slow) for hold in HOLDS]
)
def test_what_is_held_is_not_used_again(hold: str) -> None:
    tensor = buffers.empty(2, LARGE).fill_(1.0)
    held = HOLDS[hold](tensor)
    place = tensor.data_ptr()
    del tensor
    gc.collect()
    assert buffers.kept_bytes() == 0
    other = buffers.empty(2, LARGE).fill_(2.0)
    assert other.data_ptr() != place
    if hold != "storage":
        assert (held == 1).all()
    del held
    gc.collect()
    assert buffers.kept_bytes() > 0


def test_at_most_twelve_free_blocks() -> None:
    kept = [buffers.empty(LARGE + i) for i in range(15)]
    del kept
    gc.collect()
    assert len(buffers._free) == 12


def test_at_most_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "_MOST_BYTES", 10 * LARGE)
    kept = [buffers.empty(LARGE) for _ in range(3)]
    del kept
    gc.collect()
    assert len(buffers._free) == 2
    buffers.release()
    giant = buffers.empty(3 * LARGE)
    del giant
    assert buffers._free == []


def test_blocks_that_nobody_wants_are_given_back() -> None:
    large = buffers.empty(8 * LARGE)
    del large
    for count in range(buffers._IDLE):
        assert buffers.kept_bytes() >= 32 * LARGE, count
        buffers.empty(LARGE)
    buffers.empty(LARGE)
    assert buffers.kept_bytes() < 8 * LARGE  # the small one that went round


def test_release() -> None:
    tensor = buffers.empty(LARGE)
    del tensor
    assert buffers.kept_bytes() > 0
    buffers.release()
    assert buffers.kept_bytes() == 0


def test_threads_never_share_a_buffer() -> None:
    def work(number: int) -> bool:
        right = True
        for i in range(150):
            mine = buffers.empty(LARGE + number)
            mine[:: LARGE // 8] = number * 1000 + i
            others = [buffers.empty(LARGE).fill_(-1.0) for _ in range(i % 2)]
            right = right and bool((mine[:: LARGE // 8] == number * 1000 + i).all())
            del others
        return right

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert len(buffers._free) <= 12
