"""Memory that compiled code keeps from call to call: bounded, given back on demand, and never seen in a result."""

import multiprocessing
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from noisyrnn.kernels.cpp import buffers, kernel
from noisyrnn.models import NoisyRNN
from noisyrnn.native import library
from noisyrnn.noise import BrownianPath


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    reason = library.unavailable()
    if reason is not None:
        pytest.skip(reason)
    kernel.release()
    yield
    kernel.release()


def gradients(units: int, rows: int = 3) -> list[Tensor]:
    torch.manual_seed(units)
    layer = NoisyRNN(2, units, step_size=0.1)
    layer.kernel = "cpp"
    outputs, _ = layer(torch.randn(rows, 4, 2), path=BrownianPath(seed=1))
    outputs.square().sum().backward()
    return [p.grad.clone() for p in layer.parameters()]


def test_wide_layers_leave_memory_that_is_given_back_on_demand() -> None:
    gradients(64)
    assert library.native().kept_bytes() == 0
    gradients(300)
    assert library.native().kept_bytes() >= 2 * 4 * 2 * 300 * 300  # sums, and weights transposed
    kernel.release()
    assert library.native().kept_bytes() == 0
    assert buffers.kept_bytes() == 0


def test_what_is_kept_is_bounded_and_the_oldest_goes_first() -> None:
    seen = []
    for units in (700, 900, 1100, 1300, 1500, 1700):
        gradients(units, rows=1)
        seen.append(library.native().kept_bytes())
    assert max(seen) <= 2**26
    assert seen[1] > seen[0]
    assert seen[-1] >= 4 * 2 * 1700 * 1700
    assert seen[-1] != seen[-2]  # the latest has taken the place of older ones


def test_used_memory_shows_in_no_result() -> None:
    sizes = (300, 260, 300, 257, 299)  # each smaller one gets what a larger one has filled
    fresh = []
    for units in sizes:
        kernel.release()
        fresh.append(gradients(units))
    kernel.release()
    for units, expected in zip(sizes, fresh, strict=True):
        for one, other in zip(gradients(units), expected, strict=True):
            assert torch.equal(one, other)


def child(results: "multiprocessing.Queue[bool]", expected: list[Tensor]) -> None:
    torch.set_num_threads(1)  # torch's own operations would wait for threads that did not come along
    found = gradients(300)
    results.put(all(torch.equal(one, other) for one, other in zip(found, expected, strict=True)))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_process_starts_afresh() -> None:
    expected = gradients(300)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=child, args=(results, [g.clone() for g in expected]), daemon=True)
    process.start()
    try:
        assert results.get(timeout=60)
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()
