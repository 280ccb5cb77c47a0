"""A run's numbers do not depend on the number of threads."""

import dataclasses
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.models import MODELS
from noisyrnn.pipeline.train import build_model
from noisyrnn.threads import kernel_threads, reproducible_threads
from noisyrnn.training import TrainConfig, fit, fit_seeds


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 6, 4, generator=generator)
    split = Split(inputs=inputs, labels=torch.randint(0, 10, (200,), generator=generator), classes=10)
    return Dataset(
        name="random",
        train=split,
        validation=split,
        read_test=lambda: split,
        class_names=tuple("abcdefghij"),
        value_range=(-3.0, 3.0),
        standardize=True,
    )


def weights(dataset: Dataset, threads: int, *, batch_seeds: bool = False, **options: object) -> list[Tensor]:
    torch.set_num_threads(threads)
    config = TrainConfig(hidden_size=19, epochs=1, batch_size=100, clip_norm=1.0, **options)
    model = build_model(config, dataset)
    if batch_seeds:
        other = dataclasses.replace(config, seed=2)
        fit_seeds([model, build_model(other, dataset)], dataset, [config, other])
    else:
        fit(model, dataset, config)
    assert torch.get_num_threads() == threads
    return [parameter.detach() for parameter in model.parameters()]


# The numbers of torch's gradients of a readout for 100 sequences and 10 classes differ between 1, 2 and 3 threads.
@pytest.mark.parametrize(
    ("model", "kernel"),
    [
        *[("noisy", "auto"), ("exprnn", "auto"), ("lstm", "auto"), ("cornn", "eager"), ("noisy", "reference")],
        *[pytest.param(m, k, marks=pytest.mark.slow) for m in MODELS for k in ("auto", "eager", "reference")],
    ],
)
def test_the_same_weights_on_any_number_of_threads(
    dataset: Dataset, model: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", kernel)
    expected = weights(dataset, 1, model=model)
    for threads in (2, 3):
        assert all(map(torch.equal, weights(dataset, threads, model=model), expected))


@pytest.mark.parametrize("model", ["noisy", "lstm"])
def test_seeds_trained_together_too(dataset: Dataset, model: str) -> None:
    expected = weights(dataset, 1, model=model, batch_seeds=True)
    assert all(map(torch.equal, weights(dataset, 3, model=model, batch_seeds=True), expected))


def test_kernels_keep_the_threads_that_torch_had() -> None:
    torch.set_num_threads(3)
    assert kernel_threads() == 3
    with reproducible_threads():
        assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
        with reproducible_threads():
            assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
        assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
    assert (torch.get_num_threads(), kernel_threads()) == (3, 3)


def test_runs_on_several_python_threads_leave_the_number_as_it_was() -> None:
    torch.set_num_threads(3)
    inside, leave = threading.Barrier(3), threading.Event()
    seen = []

    def run() -> None:
        with reproducible_threads():
            inside.wait()
            seen.append((torch.get_num_threads(), kernel_threads()))
            leave.wait()
        seen.append(torch.get_num_threads())

    others = [threading.Thread(target=run) for _ in range(2)]
    for other in others:
        other.start()
    inside.wait()
    leave.set()
    for other in others:
        other.join()
    assert sorted(map(str, seen)) == ["(1, 3)", "(1, 3)", "3", "3"]
    fresh: list[int] = []
    after = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    after.start()
    after.join()
    assert fresh == [3]
