"""The CPU kernel among threads, processes and autograd: the same bits everywhere."""

import concurrent.futures
import copy
import multiprocessing
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.kernels.cpp.conftest import a_pass, ends_of, fused
from tests.kernels.noise_terms import terms
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from noisyrnn import NoisyRNN
from noisyrnn.kernels.recurrence import KINDS
from noisyrnn.native import library
from noisyrnn.noise.brownian import BrownianPath

NOISE = terms(2, 0.3, 0.4, first_row=1)
SECONDS = 30  # a pass takes milliseconds: past this it hangs
PATH = BrownianPath(seed=5)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def a_layer() -> NoisyRNN:
    torch.manual_seed(0)
    layer = NoisyRNN(input_size=2, hidden_size=19, step_size=0.2, init_std=3.0)
    layer.kernel = "cpp"
    return layer


def gradients(layer: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Of a pass that depends on nothing but the arguments."""
    outputs, _ = layer(inputs, path=PATH)
    return [outputs.detach(), *torch.autograd.grad(outputs.square().sum(), list(layer.parameters()))]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("columns", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_by_any_threads(kind: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = terms(additive=0.3, first_row=1) if columns else NOISE
    call = a_pass(19, 75, 4, noise=noise, lengths=True, replicas=2, kind=kind, columns=columns)
    ends = ends_of(call)
    torch.set_num_threads(1)
    expected = list(fused(call, *ends).values())
    for own in (False, True):
        if own:
            monkeypatch.setattr(library, "thread_pool", lambda: None)
        for threads in (1, 2, 3, 16, 2):
            torch.set_num_threads(threads)
            assert equal(list(fused(call, *ends).values()), expected), (own, threads)


def test_several_forwards_before_one_backward() -> None:
    layer, inputs = a_layer(), torch.randn(3, 5, 2)
    parameters = list(layer.parameters())
    alone = [gradients(layer, part * inputs)[1:] for part in (1, 2, 3)]
    losses = [layer(part * inputs, path=PATH)[0].square().sum() for part in (1, 2, 3)]
    found = [torch.autograd.grad(losses[i], parameters) for i in (1, 0, 2)]
    assert all(equal(list(found[k]), alone[i]) for k, i in enumerate((1, 0, 2)))
    both = torch.autograd.grad(sum(layer(part * inputs, path=PATH)[0].square().sum() for part in (1, 2, 3)), parameters)
    for name, whole, *parts in zip((n for n, _ in layer.named_parameters()), both, *alone, strict=True):
        torch.testing.assert_close(whole, sum(parts), rtol=1e-5, atol=1e-6, msg=name)


def test_retained_graphs_give_the_same_twice() -> None:
    layer, inputs = a_layer(), torch.randn(3, 5, 2)
    parameters = list(layer.parameters())
    loss = layer(inputs, path=PATH)[0].square().sum()
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    fused(a_pass(19, 3, 5), *ends_of(a_pass(19, 3, 5)))
    assert equal(list(first), list(torch.autograd.grad(loss, parameters)))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, parameters)


def test_backward_from_another_thread() -> None:
    layer, inputs = a_layer(), torch.randn(40, 5, 2)
    expected = gradients(layer, inputs)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        loss = layer(inputs, path=PATH)[0].square().sum()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            found = pool.submit(torch.autograd.grad, loss, list(layer.parameters())).result(timeout=SECONDS)
        assert equal(list(found), expected[1:])


def test_threads_run_passes_at_once() -> None:
    layers = [a_layer() for _ in range(2)]
    work = [torch.randn(20 + i, 9, 2) for i in range(4)]
    expected = [gradients(layers[0], inputs) for inputs in work]
    torch.set_num_threads(2)
    start = threading.Barrier(2)

    def run(layer: NoisyRNN) -> bool:
        torch.set_num_threads(2)  # each thread has its own number
        start.wait(timeout=SECONDS)
        return all(equal(gradients(layer, work[i % 4]), expected[i % 4]) for i in range(40))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert all(pool.map(run, layers, timeout=SECONDS))


def test_outputs_changed_in_place_are_noticed() -> None:
    layer = a_layer()
    outputs, _ = layer(torch.randn(3, 5, 2))
    loss = outputs.sum()  # needs no outputs; the kernel's backward pass does
    with torch.no_grad():
        outputs.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_copies_and_pickles_of_a_used_layer() -> None:
    layer, inputs = a_layer(), torch.randn(3, 5, 2)
    expected = gradients(layer, inputs)
    layer.step(inputs[:, 0])
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert equal(gradients(other, inputs), expected)
        assert equal([other.step(inputs[:, 0])], [layer.step(inputs[:, 0])])


def after_fork(layer: NoisyRNN, inputs: Tensor, pipe: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(2)
    found = gradients(layer, inputs)
    with torch.no_grad():
        pipe.send([t.tolist() for t in (*found, layer.step(inputs[:, 0]))])


def test_a_fork_after_use() -> None:
    """OpenMP's threads do not come along into the child: whoever waits for them waits for ever."""
    layer, inputs = a_layer(), torch.randn(40, 5, 2)
    torch.set_num_threads(2)
    expected = [t.tolist() for t in (*gradients(layer, inputs), layer.step(inputs[:, 0]))]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks beside threads
        child = context.Process(target=after_fork, args=(layer, inputs, theirs), daemon=True)
        child.start()
    try:
        assert ours.poll(SECONDS), "the child hangs"
        assert ours.recv() == expected
        child.join(SECONDS)
        assert child.exitcode == 0
    finally:
        child.kill()
    assert [t.tolist() for t in gradients(layer, inputs)] == expected[:-1]  # and the parent is as it was


class Encoded(Dataset[Tensor]):
    """Items that a layer makes of random sequences, in whichever process asks."""

    def __init__(self, layer: NoisyRNN) -> None:
        self.layer = layer

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        inputs = torch.randn(40, 5, 2, generator=torch.Generator().manual_seed(index))
        return torch.cat([t.flatten() for t in gradients(self.layer, inputs)]).detach()


def test_workers_of_a_data_loader() -> None:
    torch.set_num_threads(2)
    data = Encoded(a_layer())
    expected = torch.stack([data[i] for i in range(6)])
    loader = DataLoader(data, batch_size=6, num_workers=2, multiprocessing_context="fork", timeout=SECONDS)
    for _ in range(2):
        (found,) = loader
        assert torch.equal(found, expected)


CALLS = """
import resource, sys, torch
from noisyrnn.kernels import cpp
from noisyrnn.kernels.cpp import buffers
from tests.kernels.cpp.conftest import a_pass, ends_of

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

torch.set_num_threads(1)
small = [a_pass(1 + 3 * (k % 7), 1 + k, 1 + k % 3, replicas=1 + k % 2) for k in range(24)]
large = [a_pass(16, 9000 + 1000 * k, 2, 1) for k in range(8)]  # 1.1 to 1.9 MiB a buffer
small, large = ([(call, ends_of(call)) for call in calls] for calls in (small, large))
held = []
for i in range(10000):
    call, ends = large[i // 50 % 8] if i % 50 == 0 else small[i % 24]
    outputs, saved, _ = cpp.forward(call, every_step=True, save=True)
    cpp.backward(call, outputs, saved, ends, with_inputs=i % 2 == 0)
    held = [*held[-2:], outputs]  # some outlive their call
    if i == 2000:
        early = resident()
print(resident() - early, buffers.kept_bytes() / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_thousand_calls_leave_nothing_behind() -> None:
    """Of the last 8,000 calls 160 take two large buffers each, some 480 MiB in all: to keep one in ten would show."""
    code = f"import sys; sys.path[:0] = {sys.path!r}\n{CALLS}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    growth, free = (float(word) for word in done.stdout.split())
    assert growth < 24
    assert free < 32  # at most twelve blocks


def test_a_backward_pass_copies_no_states(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = NoisyRNN(1, 5)
    layer.kernel = "cpp"
    outputs, _ = layer(torch.randn(3, 4, 1))
    compiled, states = library.native(), []
    backward = compiled.backward

    def spy(call: Any) -> int:
        states.append(call._obj.states)
        return int(backward(call))

    monkeypatch.setattr(compiled, "backward", spy)
    outputs.sum().backward()
    assert states == [outputs.data_ptr()]
