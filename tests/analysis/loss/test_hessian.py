import math
from dataclasses import replace

import pytest
import torch
from tests.analysis.loss.curvature_cases import (
    classifier,
    dense_hessian,
    flat_weights,
    loss_at,
    sequences,
    trainable,
)
from torch import nn

from noisyrnn.analysis.loss.hessian import LossHessian, MeanLoss, random_signs, trainable_parameters
from noisyrnn.data.split import Split
from noisyrnn.models import MODELS


class Plain(nn.Module):
    """Not of this library: an LSTM with dropout, a weight used twice, one that is frozen and one that is not used."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.mix = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.tensor([0.7, 1.1, 0.9]), requires_grad=False)
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, inputs, lengths=None):
        outputs, _ = self.lstm(inputs)
        last = outputs[:, -1] if lengths is None else outputs[torch.arange(len(inputs)), lengths - 1]
        return 3 * self.mix(self.scale * torch.tanh(self.mix(self.drop(last))))


def plain():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Plain().double()


def drawn(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("ragged", [False, True], ids=["equal", "ragged"])
@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_the_written_out_hessian(name, ragged):
    model, split = classifier(name), sequences(ragged=ragged)
    hessian, matrix = LossHessian(model, split), dense_hessian(model, split)
    vectors = drawn(hessian.size, 3)
    assert matrix.abs().max() > 0.1
    torch.testing.assert_close(hessian @ vectors, matrix @ vectors, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(hessian.matvec(vectors[:, 0]), matrix @ vectors[:, 0], rtol=1e-10, atol=1e-11)


def test_the_weights_of_a_split_have_no_effect():
    model, split = classifier("noisy"), sequences()
    weighted = replace(split, weights=torch.arange(len(split.labels)).double())
    one, other = (LossHessian(model, each) for each in (split, weighted))
    vector = drawn(one.size)
    assert one.loss == other.loss and torch.equal(one @ vector, other @ vector)


@pytest.mark.parametrize("name", MODELS)
def test_products_are_differences_of_ordinary_gradients(name):
    model, split = classifier(name), sequences()
    hessian, vector = LossHessian(model, split), drawn(flat_weights(model).numel())

    def gradient(shift):
        weights = (flat_weights(model) + shift * vector).requires_grad_()
        return torch.autograd.grad(loss_at(model, split, weights), weights)[0]

    small = 1e-5
    difference = (gradient(small) - gradient(-small)) / (2 * small)
    torch.testing.assert_close(hessian @ vector, difference, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(hessian.gradient(), gradient(0.0), rtol=1e-11, atol=1e-13)
    assert hessian.loss == pytest.approx(float(loss_at(model, split, flat_weights(model))), rel=1e-13)
    hessian.gradient().zero_()  # a copy
    assert hessian.gradient().norm() > 0


def test_softmax_regression_has_its_closed_form():
    inputs, labels = drawn(7, 1, 4), torch.arange(7) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)).double()
    expected = torch.zeros(12, 12, dtype=torch.float64)
    for x in inputs[:, 0]:
        p = torch.softmax(model[1].weight.detach() @ x, 0)
        expected += torch.kron(p.diag() - torch.outer(p, p), torch.outer(x, x)) / 7
    hessian = LossHessian(model, Split(inputs=inputs, labels=labels, classes=3))
    torch.testing.assert_close(hessian @ torch.eye(12), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("ragged", [False, True], ids=["equal", "ragged"])
@pytest.mark.parametrize("batch_size", [1, 3, 6, 7])
def test_batches_change_nothing(batch_size, ragged):
    model, split = classifier("noisy"), sequences(ragged=ragged)
    whole, parted = LossHessian(model, split), LossHessian(model, split, batch_size=batch_size)
    vectors = drawn(whole.size, 2)
    torch.testing.assert_close(parted @ vectors, whole @ vectors, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(parted.gradient(), whole.gradient(), rtol=1e-12, atol=1e-14)
    assert parted.loss == pytest.approx(whole.loss, rel=1e-13)


def test_the_graph_is_kept_for_one_batch_only(monkeypatch):
    model, split = classifier(), sequences()
    passes = []
    share = MeanLoss.share
    monkeypatch.setattr(MeanLoss, "share", lambda self, batch: passes.append(batch) or share(self, batch))
    for batch_size, expected in ((7, [0]), (3, [0, 1, 2] * 3)):
        passes.clear()
        hessian = LossHessian(model, split, batch_size=batch_size)
        for _ in range(2):
            hessian @ drawn(hessian.size)
        assert passes == expected


@pytest.mark.parametrize("ragged", [False, True], ids=["equal", "ragged"])
def test_any_module_will_do(ragged):
    model, split = plain().train(), sequences(ragged=ragged)
    hessian = LossHessian(model, split)
    matrix = dense_hessian(model, split)
    assert hessian.size == len(matrix) == sum(p.numel() for p in trainable(model))
    torch.testing.assert_close(hessian @ torch.eye(hessian.size), matrix, rtol=1e-10, atol=1e-12)
    assert matrix[:2].abs().sum() == 0  # what the loss does not reach: `idle` is the module's first own parameter


def test_what_is_frozen_is_left_out():
    model, split = classifier("noisy"), sequences()
    model.layer.cell.C.requires_grad_(False)
    hessian = LossHessian(model, split)
    assert hessian.size == flat_weights(model).numel() == flat_weights(classifier("noisy")).numel() - 16
    torch.testing.assert_close(hessian @ torch.eye(hessian.size), dense_hessian(model, split), rtol=1e-10, atol=1e-11)


def test_the_callers_model_and_the_global_state_stay_as_they_are():
    model, split = classifier("noisy").train(), sequences()
    model.layer.noise_mode, model.layer.kernel = "on", "auto"
    model(split.inputs).sum().backward()
    before = [(parameter.detach().clone(), parameter.grad.clone()) for parameter in model.parameters()]
    states = torch.get_rng_state(), torch.backends.cudnn.enabled, torch.is_grad_enabled()
    hessian = LossHessian(model, split, batch_size=4)
    hessian @ drawn(hessian.size)
    assert model.training and model.layer.noise_mode == "on" and model.layer.kernel == "auto"
    for parameter, (weights, gradient) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, weights) and torch.equal(parameter.grad, gradient)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (torch.backends.cudnn.enabled, torch.is_grad_enabled()) == states[1:]


def test_the_noise_is_off_and_the_operator_keeps_its_weights():
    model, split = classifier("noisy").train(), sequences()
    model.layer.noise_mode = "on"
    hessian = LossHessian(model, split)
    vector = drawn(hessian.size)
    first = hessian @ vector
    with torch.no_grad():
        model.readout.weight.zero_()
        assert torch.equal(hessian @ vector, first)
        torch.testing.assert_close(LossHessian(classifier("noisy"), split) @ vector, first)


def test_float32_is_close_and_by_the_reference_loop_too(monkeypatch):
    monkeypatch.setattr("noisyrnn.kernels.operator.FAST", {})  # a fast kernel cannot run
    model, split = classifier(), sequences()
    model.layer.kernel = "auto"
    exact, fast = LossHessian(model, split), LossHessian(model.float(), split, dtype=torch.float32)
    vector = drawn(exact.size)
    widened = LossHessian(model, split) @ vector, LossHessian(model.double(), split) @ vector
    torch.testing.assert_close(*widened, rtol=1e-12, atol=1e-13)
    assert (fast @ vector).dtype == torch.float32
    torch.testing.assert_close((fast @ vector).double(), exact @ vector, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["noisy", "exprnn", "lstm"])
def test_products_are_curvlinops(name):
    curvlinops = pytest.importorskip("curvlinops")
    model, split = classifier(name), sequences()
    ours = LossHessian(model, split)
    theirs = curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), trainable(model), [(split.inputs, split.labels)]
    )
    vector = drawn(ours.size)
    torch.testing.assert_close(ours @ vector, theirs @ vector, rtol=1e-9, atol=1e-11)


def test_its_repr_says_what_it_is():
    assert repr(LossHessian(classifier(), sequences())) == "LossHessian(59 parameters, 7 sequences, float64)"


def test_signs_are_signs():
    signs = random_signs(10_000, torch.Generator().manual_seed(0))
    assert signs.dtype == torch.float64 and set(signs.tolist()) == {-1.0, 1.0}
    assert abs(float(signs.sum())) < 4 * math.sqrt(10_000)


def test_wrong_vectors_are_refused():
    hessian = LossHessian(classifier(), sequences())
    with pytest.raises(ValueError, match=r"^vectors must have shape \(59,\) or \(59, k\), got \(58,\)"):
        hessian @ torch.ones(58)
    with pytest.raises(ValueError, match=r"got \(59, 1, 1\)"):
        hessian.matvec(torch.ones(59, 1, 1))


def test_wrong_models_are_refused():
    split = sequences()
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module .*, got function"):
        LossHessian(lambda inputs: inputs, split)
    with pytest.raises(ValueError, match="must have trainable parameters, got none in Flatten"):
        trainable_parameters(nn.Flatten())
    with pytest.raises(ValueError, match=r"logits of shape \(7, 3\), got \(7, 5, 3\)"):
        LossHessian(nn.Linear(2, 3).double(), split)
    with pytest.raises(ValueError, match=r"logits of shape \(7, 3\), got \(7, 2\)"):
        LossHessian(nn.Sequential(nn.Flatten(), nn.Linear(10, 2)), split)
    with pytest.raises(ValueError, match=r"logits of shape \(7, 3\), got \(35, 3\)"):
        LossHessian(nn.Sequential(nn.Flatten(0, 1), nn.Linear(2, 3)), split)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match=r"^batch_size must"):
        LossHessian(classifier(), sequences(), batch_size=0)
    with pytest.raises(ValueError, match=r"^dtype must"):
        LossHessian(classifier(), sequences(), dtype=torch.float16)


class Edge(nn.Module):
    """A weight at 0 under a root: a finite loss with an infinite slope."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, inputs):
        return inputs[:, 0, :1] * torch.tensor([1.0, -1.0, 2.0]) + self.weight.sqrt()


def test_a_slope_that_is_not_finite_is_refused():
    with pytest.raises(RuntimeError, match=r"got 1\.\d+, with 3 of 3 entries of its gradient not finite"):
        LossHessian(Edge(), sequences())


def test_cudnn_is_off_as_its_loops_have_no_second_derivative(monkeypatch):
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 3))
    forward = nn.Linear.forward
    monkeypatch.setattr(
        nn.Linear, "forward", lambda self, x: seen.append(torch.backends.cudnn.enabled) or forward(self, x)
    )
    LossHessian(model, sequences())
    assert seen == [False]


def test_a_loss_that_is_not_finite_is_refused():
    model = classifier()
    with torch.no_grad():
        model.readout.bias[0] = math.inf
    with pytest.raises(RuntimeError, match=r"loss must be finite for a Hessian, got nan, with \d+ of 59 entries"):
        LossHessian(model, sequences())
