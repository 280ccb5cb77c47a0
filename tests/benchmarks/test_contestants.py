"""All contestants compute what they should, and a session tells what goes wrong."""

import gc
import sys
from dataclasses import replace

import pytest
import torch
from benchmarks.speed.cases import Case, Size
from benchmarks.speed.contestants import (
    STREAMED,
    NotAvailable,
    PlainLoop,
    build_ours,
    choose_kernel,
    classifier_step,
    plain_step,
)
from benchmarks.speed.machine import MIB, Others, peak_memory, shown_command, without_paths
from benchmarks.speed.networks import NETWORKS
from benchmarks.speed.peers import CONTESTANTS, TorchsdeClassifier, contestant
from benchmarks.speed.rates import OPERATIONS, RATES, build_fma
from benchmarks.speed.worker import Session

from noisyrnn import NoisyRNN, SequenceClassifier

CPU = torch.device("cpu")
SIZE = Size(steps=3, batch=2, hidden=4)
TRAINING = Case(size=SIZE, mode="training", threads=1)
PLAIN_ONES = ["reference", "reference-quiet", "plain", "rnn", "gru", "lstm"]


@pytest.fixture
def no_collection(monkeypatch):
    """A session collects garbage between its steps, in the test's process that of all tests before."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def plain_loop(hidden: int) -> tuple[PlainLoop, SequenceClassifier]:
    """The plain loop and our model with its weights, both without noise."""
    model = SequenceClassifier(NoisyRNN(1, hidden, init_std=3.0, step_size=0.3), 10).eval()
    plain = PlainLoop(hidden, plain_step).eval()
    cell = model.layer.cell
    pairs = ((plain.B, cell.B), (plain.C, cell.C), (plain.step_size, cell.step_size))
    pairs += ((plain.input.weight, cell.input.weight), (plain.input.bias, cell.input.bias))
    pairs += ((plain.readout.weight, model.readout.weight), (plain.readout.bias, model.readout.bias))
    for mine, ours in pairs:
        mine.data.copy_(ours.data)
    return plain, model


def test_the_plain_loop_is_the_noisy_rnn():
    plain, model = plain_loop(5)
    inputs = torch.rand(3, 7, 1)
    torch.testing.assert_close(plain(inputs), model(inputs))


def test_the_plain_loop_has_the_noise_of_the_noisy_rnn():
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    h, drive = torch.rand(1, 2, generator=generator).expand(40_000, 2), torch.rand(1, 2, generator=generator)
    A, W = torch.rand(2, 2, 2, generator=generator)
    moved = plain_step(h, drive, A, W, torch.tensor([2.0, 0.5]), True) - h
    quiet = (plain_step(h, drive, A, W, torch.tensor([2.0, 0.5]), False) - h)[0]
    variance = 0.05**2 + (0.02 * quiet) ** 2
    assert ((moved.mean(0) - quiet).abs() < 4 * (variance / 40_000).sqrt()).all()
    assert ((moved.var(0) / variance - 1).abs() < 4 * (2 / 40_000) ** 0.5).all()


def test_torchsde_solves_the_same_equation():
    torchsde = pytest.importorskip("torchsde")
    plain, _ = plain_loop(5)
    solver = TorchsdeClassifier(5, torchsde.sdeint).eval()
    weights = {"B": plain.B, "C": plain.C, "U": plain.input.weight, "b": plain.input.bias, "step": plain.step_size}
    for name, value in {**weights, "V": plain.readout.weight, "c": plain.readout.bias}.items():
        solver.weights[name].data.copy_(value.data)
    inputs = torch.rand(3, 7, 1)
    torch.testing.assert_close(solver(inputs), plain(inputs))


def test_a_training_step_leaves_gradients_and_clear_removes_them():
    model = PlainLoop(4, plain_step)
    step = classifier_step(model, TRAINING, CPU)
    step.run()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in model.parameters())
    step.clear()
    assert all(p.grad is None for p in model.parameters())


def test_inference_has_no_gradient_and_no_noise():
    model = PlainLoop(4, plain_step)
    step = classifier_step(model, replace(TRAINING, mode="inference"), CPU)
    first, second = step.run(), step.run()
    assert not first.requires_grad
    assert torch.equal(first, second)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("name", PLAIN_ONES)
@pytest.mark.parametrize("mode", ["training", "inference", "stream"])
def test_a_session_measures(name, mode):
    if mode not in contestant(name).modes or (name == "reference" and mode == "stream"):
        pytest.skip("it takes no part")
    session = Session(name, 1, "cpu")
    assert session.answer({"do": "setup", "mode": mode, "steps": 3, "batch": 1, "hidden": 4}) == {}
    assert session.step is not None
    assert session.step.count == (STREAMED if mode == "stream" else 1)
    seconds = session.answer({"do": "turn", "seconds": 0.001})["seconds"]
    assert 0 < min(seconds) < 1
    assert session.last == pytest.approx(seconds[-1] * session.step.count)
    assert session.answer({"do": "release"}) == {}


@pytest.mark.usefixtures("no_collection")
def test_a_session_tells_what_went_wrong(monkeypatch):
    session = Session("plain", 1, "cpu")

    def build(case, device):
        raise NotAvailable("it is on holiday") if case.size.steps == 1 else ValueError("no /ho" + "me/me/x.so\nat all")

    object.__setattr__(session, "contestant", replace(CONTESTANTS["plain"], build=build))
    request = {"do": "setup", "mode": "training", "batch": 1, "hidden": 4}
    assert session.answer({**request, "steps": 1}) == {"error": "it is on holiday"}
    assert session.answer({**request, "steps": 2}) == {"error": "ValueError: no x.so"}


def test_a_kernel_is_chosen_where_there_are_kernels():
    class Layer(torch.nn.Module):
        kernel = "auto"

    layer = Layer()
    choose_kernel(layer, "eager")
    assert layer.kernel == "eager"
    del Layer.kernel, layer.kernel
    choose_kernel(layer, "reference")
    with pytest.raises(NotAvailable, match="only the reference loop"):
        choose_kernel(layer, "eager")


@pytest.mark.parametrize("name", ["sgemm", "bf16"])
def test_a_rate_is_a_product_of_1024(name):
    product = RATES[name].contestant.build(TRAINING, CPU).run()
    assert product.shape == (1024, 1024) and product.dtype == (torch.bfloat16 if name == "bf16" else torch.float32)
    assert 2 * product.numel() * 1024 == OPERATIONS


def test_the_rate_in_registers_is_divided_between_threads():
    one, two = (build_fma(replace(TRAINING, threads=threads), CPU).run() for threads in (1, 2))
    assert len(one) == 1 and len(two) == 2 and two[0] == two[1]


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("name", ["reference", "reference-quiet"])
def test_every_model_takes_part(name, model):
    step = CONTESTANTS[name].build(replace(TRAINING, model=model), CPU)
    step.run()
    assert model in CONTESTANTS[name].models


def test_a_matrix_that_is_given_is_the_models_own():
    answers = []
    for held in (False, True):
        torch.manual_seed(0)
        case = replace(TRAINING, model="exprnn", mode="inference")
        answers.append(build_ours(case, CPU, kernel="reference", noise=False, held=held).run())
    torch.testing.assert_close(*answers)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak")
def test_the_peak_counts_what_was_given_back():
    kept = []

    def run():
        torch.ones(40 * MIB // 4)
        kept.append(torch.ones(10 * MIB // 4))

    torch.ones(200 * MIB // 4)  # an earlier peak does not count
    assert 39 < peak_memory(run, CPU) < 60


def test_paths_do_not_get_into_results():
    folder = "/ho" + "me/someone"
    assert (
        without_paths(f"cannot read {folder}/data/x.gz, a/b stays, 1/2 too") == "cannot read x.gz, a/b stays, 1/2 too"
    )
    command = shown_command(["--output", f"{folder}/runs", "--docs", "docs/performance.md"])
    assert command == "python -m benchmarks.step --output runs --docs docs/performance.md"


def test_the_work_of_others_is_known_while_all_of_ours_are_there():
    assert Others([2**30]).cores() is None
    cores = Others([]).cores()
    assert cores is None or cores >= 0
