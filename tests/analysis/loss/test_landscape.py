import json

import pytest
import torch
from tests.analysis.loss.curvature_cases import classifier, flat_weights, loss_at, sequences
from torch import nn

from noisyrnn.analysis.loss.hessian import LossHessian
from noisyrnn.analysis.loss.landscape import (
    Directions,
    eigen_directions,
    filter_normalized_directions,
    loss_landscape,
)
from noisyrnn.analysis.loss.spectrum import hessian_eigenvalues
from noisyrnn.models import MODELS


def random_plane(model, seed=0):
    size = flat_weights(model).numel()
    first, second = torch.randn(2, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Directions(first=first, second=second, kind="random", seed=seed)


@pytest.mark.parametrize("ragged", [False, True], ids=["equal", "ragged"])
@pytest.mark.parametrize("name", MODELS)
def test_each_entry_is_the_loss_there(name, ragged):
    model, split = classifier(name), sequences(ragged=ragged)
    plane = random_plane(model)
    found = loss_landscape(model, split, plane, extent=0.3, points=3)
    assert found.alphas.tolist() == found.betas.tolist() == [-0.3, 0.0, 0.3]
    for i, alpha in enumerate(found.alphas):
        for j, beta in enumerate(found.betas):
            expected = loss_at(model, split, flat_weights(model) + alpha * plane.first + beta * plane.second)
            assert float(found.loss[i, j]) == pytest.approx(float(expected), rel=1e-11)


def test_along_eigenvectors_the_loss_bends_by_the_eigenvalues():
    model, split = classifier("noisy"), sequences()
    hessian = LossHessian(model, split)
    pairs = hessian_eigenvalues(hessian, leading=2, trailing=1, tolerance=1e-10)
    step = 1e-3
    found = loss_landscape(model, split, eigen_directions(pairs), extent=step, points=3)
    loss = found.loss
    assert float(loss[1, 1]) == pytest.approx(hessian.loss, rel=1e-14)
    first = (loss[2, 1] + loss[0, 1] - 2 * loss[1, 1]) / step**2
    second = (loss[1, 2] + loss[1, 0] - 2 * loss[1, 1]) / step**2
    mixed = (loss[2, 2] - loss[2, 0] - loss[0, 2] + loss[0, 0]) / (4 * step**2)
    assert float(first) == pytest.approx(float(pairs.values[-1]), rel=1e-5)
    assert float(second) == pytest.approx(float(pairs.values[-2]), rel=1e-5)
    assert abs(float(mixed)) < 1e-4 * float(first)  # fourth derivatives times the squared step
    assert found.directions == "eigenvectors" and found.seed is None


def test_filters_have_the_norms_of_the_weights():
    model = classifier("noisy")
    found = filter_normalized_directions(model, seed=4)
    assert (found.kind, found.seed) == ("filter-normalised", 4)
    for direction in (found.first, found.second):
        parts = direction.split([parameter.numel() for parameter in model.parameters()])
        for parameter, part in zip(model.parameters(), parts, strict=True):
            if parameter.ndim < 2:
                assert part.abs().sum() == 0
                continue
            for row, drawn in zip(parameter.detach(), part.view_as(parameter), strict=True):
                assert float(drawn.norm()) == pytest.approx(float(row.norm()), rel=1e-12)
                assert float(drawn @ row) != pytest.approx(float(row.norm()) ** 2)
    assert not torch.equal(found.first, found.second)


def test_a_filter_of_many_axes_is_one_row_and_a_zero_filter_stays():
    model = nn.Conv1d(2, 3, 4, bias=False).double()
    with torch.no_grad():
        model.weight[1] = 0.0
    direction = filter_normalized_directions(model).first.view(3, 2, 4)
    torch.testing.assert_close(direction.flatten(1).norm(dim=1), model.weight.detach().flatten(1).norm(dim=1))
    assert direction[1].abs().sum() == 0


def test_seeds_reproduce_to_the_bit_and_float32_draws_the_same():
    first, again, other = (filter_normalized_directions(classifier(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.first, again.first) and torch.equal(first.second, again.second)
    assert not torch.equal(first.first, other.first)
    single = filter_normalized_directions(classifier().float(), seed=0)
    torch.testing.assert_close(single.first, first.first, rtol=1e-5, atol=1e-6)


def test_batches_change_nothing_and_the_fast_kernel_little():
    model, split = classifier(), sequences()
    plane = filter_normalized_directions(model)
    whole = loss_landscape(model, split, plane, points=5).loss
    parted = loss_landscape(model, split, plane, points=5, batch_size=3).loss
    torch.testing.assert_close(parted, whole, rtol=1e-12, atol=0)
    model.layer.kernel = "auto"
    fast = loss_landscape(model.float(), split, plane, points=5).loss
    torch.testing.assert_close(fast, whole, rtol=1e-4, atol=1e-6)


def test_the_callers_model_stays_as_it_is():
    model, split = classifier("noisy").train(), sequences()
    model.layer.noise_mode = "on"
    model(split.inputs).sum().backward()
    before = [(parameter.detach().clone(), parameter.grad.clone()) for parameter in model.parameters()]
    state = torch.get_rng_state()
    found = loss_landscape(model, split, random_plane(model), points=3)
    assert model.training and model.layer.noise_mode == "on" and torch.is_grad_enabled()
    for parameter, (weights, gradient) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, weights) and torch.equal(parameter.grad, gradient)
    assert torch.equal(torch.get_rng_state(), state)
    assert not found.loss.requires_grad
    assert (found.directions, found.seed) == ("random", 0)
    expected = loss_at(classifier("noisy"), split, flat_weights(model))
    assert float(found.loss[1, 1]) == pytest.approx(float(expected), rel=1e-12)


def test_what_is_not_finite_is_counted():
    split = sequences()
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 3)).double()
    far = torch.zeros(33, dtype=torch.float64)
    far[0] = 1e308
    still = torch.zeros(33, dtype=torch.float64)
    found = loss_landscape(model, split, Directions(first=far, second=still, kind="random"), extent=10.0, points=3)
    assert found.non_finite == 6
    assert found.loss[0].isnan().all() and found.loss[1].isfinite().all() and found.loss[2].isnan().all()
    saved = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert saved["loss"][0] == saved["loss"][2] == [None] * 3 and saved["non_finite"] == 6
    assert saved["loss"][1] == found.loss[1].tolist()
    assert saved["alphas"] == saved["betas"] == [-10.0, 0.0, 10.0]
    assert saved["directions"] == "random" and saved["seed"] is None
    far[0], far[10] = 1e308, -1e308  # finite logits, an infinite loss
    found = loss_landscape(model, split, Directions(first=far, second=still, kind="random"), points=3)
    assert found.non_finite == 6 and found.loss[0].isnan().all()


def test_wrong_arguments_are_refused():
    model, split = classifier(), sequences()
    plane = random_plane(model)
    with pytest.raises(ValueError, match=r"^extent must"):
        loss_landscape(model, split, plane, extent=0)
    with pytest.raises(ValueError, match=r"^points must"):
        loss_landscape(model, split, plane, points=1)
    with pytest.raises(ValueError, match=r"points must be odd, got 4\. Take 5: the model is the point in the middle"):
        loss_landscape(model, split, plane, points=4)
    short = Directions(first=plane.first, second=plane.second[:-1], kind="random")
    with pytest.raises(ValueError, match=r"shape \(59,\), one entry for each trainable parameter, got \(58,\)"):
        loss_landscape(model, split, short)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module .*, got int"):
        loss_landscape(3, split, plane)
    with pytest.raises(ValueError, match="must have a trainable weight with rows, got none in PReLU"):
        filter_normalized_directions(nn.PReLU())
    pairs = hessian_eigenvalues(LossHessian(model, split), leading=1, trailing=1)
    one = type(pairs)(values=pairs.values[:1], vectors=pairs.vectors[:, :1], residuals=pairs.residuals[:1], products=1)
    with pytest.raises(ValueError, match="pairs must hold two eigenvectors, got 1"):
        eigen_directions(one)


def test_the_middle_is_the_model_itself():
    found = loss_landscape(classifier(), sequences(count=1), random_plane(classifier()), extent=0.7, points=15)
    assert float(found.alphas[7]) == 0.0 and float(found.alphas[-1]) == -float(found.alphas[0]) == 0.7
