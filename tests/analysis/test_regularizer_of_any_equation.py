"""The explicit regulariser for other activations, diffusions, schemes and forms than the published ones."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from noisyrnn import (
    Activation,
    BrownianPath,
    FunctionDiffusion,
    HiddenNoise,
    LipschitzRNN,
    RateRNN,
    RecurrentLayer,
    SequenceClassifier,
)
from noisyrnn.analysis.regularizer import antithetic_regularizer, explicit_regularizer, penalty, tangent_regularizer
from noisyrnn.kernels import reference

BATCH, STEPS, CHANNELS, UNITS, CLASSES = 3, 5, 2, 3, 4
DT = torch.tensor([1.0, 0.5, 2.0, 1.5, 0.7], dtype=torch.float64)
LENGTHS = torch.tensor([5, 2, 4])
MATRIX = [[0.3], [0.2], [-0.4]]


def diagonal(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return 0.2 + 0.1 * torch.sin(h + 0.3 * t) + 0.05 * x[..., :1]


def columns(h: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return torch.stack([0.2 * h.cos(), 0.1 * h.roll(1, -1)], dim=-1)


LEVELS: dict[str, Any] = {"additive": 0.2, "multiplicative": 0.3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("lipschitz", {"activation": "relu", **LEVELS}),
    "softplus": ("lipschitz", {"activation": "softplus", "noise_form": "shared", **LEVELS}),
    "sigmoid": ("lipschitz", {"activation": "sigmoid", **LEVELS}),
    "retanh": ("lipschitz", {"activation": "retanh", **LEVELS}),
    "identity": ("lipschitz", {"activation": "identity", **LEVELS}),
    "sine": ("lipschitz", {"activation": Activation(torch.sin, lipschitz=1.0), **LEVELS}),
    "correlated": ("lipschitz", {"diffusion": MATRIX}),
    "diagonal": ("lipschitz", {"diffusion": diagonal}),
    "milstein": ("lipschitz", {"diffusion": FunctionDiffusion(diagonal, diagonal=True), "scheme": "milstein"}),
    "columns": ("lipschitz", {"diffusion": columns}),
    "rate": ("rate", {"activation": "softplus", "additive": 0.2}),
    "current": ("rate", {"activation": "sigmoid", "form": "current", "additive": 0.2}),
    "current with columns": ("rate", {"form": "current", "diffusion": columns}),
    "inside": ("rate", {"noise_place": "inside", "additive": 0.2}),
    "correlated inside": ("rate", {"noise_place": "inside", "diffusion": MATRIX}),
}


@dataclass(frozen=True, kw_only=True)
class Given(BrownianPath):
    """A path with given normals, `(motions, steps, batch, columns)`."""

    seed: int = 0
    values: Any = field(default=None)

    def normals(self, *, motions: int = 2, **_: Any) -> Tensor:
        return self.values[:motions]


def classifier(case: str) -> SequenceClassifier:
    name, options = CASES[case]
    torch.manual_seed(3)
    layer: RecurrentLayer = (
        LipschitzRNN(CHANNELS, UNITS, step_size=0.4, init_std=2.0, **options)
        if name == "lipschitz"
        else RateRNN(CHANNELS, UNITS, alpha=0.4, init_gain=1.5, **options)
    )
    model = SequenceClassifier(layer, CLASSES).double()
    with torch.no_grad():
        model.readout.weight.mul_(3.0)
    return model


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(BATCH, STEPS, CHANNELS, generator=generator, dtype=torch.float64), torch.tensor([2, 0, 1])


def losses(model: SequenceClassifier, x: Tensor, label: Tensor, noise: HiddenNoise, normals: Tensor) -> Tensor:
    """Loss of one sequence for each row of given normals, `(motions, steps, rows, columns)`."""
    rows, steps, cell = normals.shape[2], normals.shape[1], model.layer.cell
    inputs = x[:steps].expand(rows, -1, -1)
    path = Given(values=normals)
    start = cell.initial_state(rows)
    _, end = reference.run(cell, inputs, start, noise=noise, path=path, dt=DT[:steps], every_step=False)
    return functional.cross_entropy(model.readout(cell.output(end)), label.expand(rows), reduction="none")


def shape_of(model: SequenceClassifier) -> tuple[int, int]:
    """Motions and columns of the noise."""
    noise = model.layer.hidden_noise
    if noise.diffusion is None:
        return (2 if noise.multiplicative > 0 and noise.form == "independent" else 1), UNITS
    h = torch.zeros(1, UNITS, dtype=torch.float64)
    return 1, noise.diffusion.columns(h, torch.zeros(1, CHANNELS).double(), torch.zeros(1, 1).double())


@pytest.mark.parametrize("case", sorted(set(CASES) - {"milstein"}))  # whose map without normals is not noise-free
def test_it_is_half_the_trace_in_the_noise(case: str) -> None:
    model, (inputs, labels) = classifier(case), data()
    noise, (motions, width) = model.layer.hidden_noise, shape_of(model)
    found = explicit_regularizer(model, inputs, labels, lengths=LENGTHS, dt=DT).total
    for b, length in enumerate(LENGTHS.tolist()):
        size = (motions, length, 1, width)

        def loss(flat: Tensor, b: int = b, size: tuple[int, ...] = size) -> Tensor:
            return losses(model, inputs[b], labels[b], noise, flat.view(size))[0]

        hessian = torch.func.hessian(loss)(torch.zeros(math.prod(size), dtype=torch.float64))
        torch.testing.assert_close(found[b], hessian.trace() / 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", ["relu", "softplus", "correlated", "current", "inside", "columns", "milstein"])
def test_the_error_falls_four_fold_as_the_noise_halves(case: str) -> None:
    model, (inputs, labels) = classifier(case), data()
    noise, (motions, width) = model.layer.hidden_noise, shape_of(model)
    steps = 2 if motions * width > 1 else 4
    count = motions * steps * width
    points, weights = cubature(count)
    normals = points.T.reshape(motions, steps, width, -1).permute(0, 1, 3, 2)
    b = 0
    with torch.no_grad():
        total = float(explicit_regularizer(model, inputs[:1, :steps], labels[:1], dt=DT[:steps]).total)
        clean = float(losses(model, inputs[b], labels[b], noise.scaled(0.0), normals[:, :, :1])[0])
        scales = [2.0**-k for k in range(3, 7)]
        errors = []
        for scale in scales:
            mean = float(weights @ losses(model, inputs[b], labels[b], noise.scaled(scale), normals))
            errors.append(abs((mean - clean) / scale**2 - total))
    slope = np.polyfit(np.log(scales), np.log(errors), 1)[0]
    assert abs(slope - 2) < 0.1
    assert errors[-1] < 0.01 * abs(total)


def cubature(count: int) -> tuple[Tensor, Tensor]:
    """Points `(points, count)` and weights exact for polynomials of degree five under the standard normal (Stroud)."""
    far, near = math.sqrt(count + 2), math.sqrt((count + 2) / 2)
    single = far * torch.cat([torch.eye(count), -torch.eye(count)]).double()
    pairs = [
        near * torch.eye(count).double()[[i, j]].mul(torch.tensor([[a], [b]]).double()).sum(0)
        for i in range(count)
        for j in range(i)
        for a in (1.0, -1.0)
        for b in (1.0, -1.0)
    ]
    points = torch.cat([torch.zeros(1, count).double(), single, *([torch.stack(pairs)] if pairs else [])])
    weights = torch.full((len(points),), 1 / (count + 2) ** 2, dtype=torch.float64)
    weights[0] = 2 / (count + 2)
    weights[1 : 1 + 2 * count] = (4 - count) / (2 * (count + 2) ** 2)
    assert abs(float(weights.sum()) - 1) < 1e-12
    return points, weights


@pytest.mark.parametrize("case", ["relu", "softplus", "correlated", "columns", "current", "inside"])
def test_the_estimators_agree_with_it(case: str) -> None:
    model, (inputs, labels) = classifier(case), data()
    exact = explicit_regularizer(model, inputs, labels, lengths=LENGTHS, dt=DT).total.detach()
    options: dict[str, Any] = {"lengths": LENGTHS, "dt": DT, "seed": 1}
    tangent = tangent_regularizer(model, inputs, labels, draws=4000, **options).measurement()
    scale = 1e-5 if case == "relu" else 0.01  # stronger noise takes one pre-activation across the kink
    simulated = antithetic_regularizer(model, inputs, labels, scale=scale, pairs=4000, **options)
    for estimate in (tangent, simulated):
        assert ((estimate.value - exact).abs() <= 4 * estimate.standard_error).all()
        assert (estimate.standard_error < 0.15 * exact.abs().max()).all()


@pytest.mark.parametrize("case", ["softplus", "correlated", "columns", "current", "inside"])
def test_gradients(case: str) -> None:
    model, (inputs, labels) = classifier(case), data()
    inputs.requires_grad_()
    leaves = (inputs, *model.parameters())
    assert torch.autograd.gradcheck(
        lambda *_: penalty(model, inputs, labels, lengths=LENGTHS, dt=DT), leaves, fast_mode=True
    )


def test_a_learned_matrix_has_a_gradient() -> None:
    torch.manual_seed(0)
    layer = LipschitzRNN(CHANNELS, UNITS, diffusion=MATRIX, learn_diffusion=True)
    model, (inputs, labels) = SequenceClassifier(layer, CLASSES).double(), data()
    penalty(model, inputs, labels).sum().backward()
    assert layer.diffusion.matrix.grad.abs().sum() > 0


def test_heun_is_refused_with_a_reason() -> None:
    model = SequenceClassifier(LipschitzRNN(CHANNELS, UNITS, scheme="stochastic-heun", additive=0.1), CLASSES).double()
    for function in (explicit_regularizer, tangent_regularizer):
        with pytest.raises(ValueError, match=r"^scheme must be 'euler-maruyama' or 'milstein'.*antithetic_regularizer"):
            function(model, *data())
    assert antithetic_regularizer(model, *data(), pairs=2).value.isfinite().all()
