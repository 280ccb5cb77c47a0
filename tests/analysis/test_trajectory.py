import pytest
import torch
from torch import nn

from noisyrnn.analysis.trajectory import Trajectory, cell_of, standardized_inputs
from noisyrnn.models import MODELS, SequenceClassifier, build_layer
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.hidden_noise import HiddenNoise

BATCH, STEPS, CHANNELS, UNITS = 3, 5, 2, 4


def built(name, **options):
    torch.manual_seed(0)
    if name in ("noisy", "lipschitz", "antisymmetric"):
        options = {"step_size": 0.3, "init_std": 3.0, "damping": 0.1, **options}
    return build_layer(name, CHANNELS, UNITS, options).double()


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def settings(name, variant):
    chosen = {}
    if variant == "lengths":
        chosen["lengths"] = torch.tensor([5, 1, 3])
    if variant == "dt" and build_layer(name, 1, 1, {}).cell.supports_dt:
        chosen["dt"] = drawn(BATCH, STEPS).abs() + 0.2
    if variant in ("shared", "independent"):
        chosen["noise"] = HiddenNoise(additive=0.2, multiplicative=0.4, form=variant)
        chosen["path"] = BrownianPath(seed=3)
    return chosen


def whole(name, variant):
    layer = built(name)
    trajectory = Trajectory.of(layer.cell, drawn(BATCH, STEPS, CHANNELS), **settings(name, variant))
    return layer, trajectory


VARIANTS = ("plain", "lengths", "dt", "shared", "independent")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_states_are_those_of_the_layer(name, variant):
    layer, trajectory = whole(name, variant)
    chosen = settings(name, variant)
    noise = chosen.pop("noise", None)
    if noise is not None:
        layer.additive, layer.multiplicative, layer.noise_form = noise.additive, noise.multiplicative, noise.form
        layer.noise_mode = "on"
        if name == "rate":
            layer.noise_units = "per_step"
    layer.kernel = "reference"
    _, h_n = layer.eval()(drawn(BATCH, STEPS, CHANNELS), **chosen)
    torch.testing.assert_close(trajectory.end, h_n[0], rtol=1e-12, atol=1e-12)
    assert len(trajectory.states) == trajectory.steps + 1 == STEPS + 1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", MODELS)
def test_jacobians_are_autograds(name, variant):
    _, trajectory = whole(name, variant)
    vectors = drawn(2, BATCH, trajectory.end.shape[1])
    for m in (0, 2, STEPS - 1):
        full = torch.autograd.functional.jacobian(
            lambda h, m=m: trajectory.maps(m, h), trajectory.states[m].detach(), vectorize=True
        )
        rows = torch.stack([full[b, :, b] for b in range(BATCH)])
        torch.testing.assert_close(trajectory.jacobian(m), rows, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            trajectory.tangent(m, vectors), torch.einsum("bij,kbj->kbi", rows, vectors), rtol=1e-10, atol=1e-12
        )
        torch.testing.assert_close(
            trajectory.cotangent(m, vectors), torch.einsum("bji,kbj->kbi", rows, vectors), rtol=1e-10, atol=1e-12
        )
        torch.testing.assert_close(trajectory.tangent(m, vectors[0]), trajectory.tangent(m, vectors)[0])


def test_a_finished_sequence_keeps_its_state():
    _, trajectory = whole("noisy", "lengths")
    assert torch.equal(trajectory.jacobian(4)[1], torch.eye(UNITS, dtype=torch.float64))
    assert torch.equal(trajectory.states[1][1], trajectory.end[1])
    assert trajectory.valid(2).squeeze().tolist() == [True, False, True]


def test_jacobians_can_be_differentiated_in_the_weights():
    layer, trajectory = whole("noisy", "plain")
    trajectory.jacobian(2).square().sum().backward()
    assert layer.cell.C.grad.abs().sum() > 0


def test_what_has_no_cell_is_refused():
    with pytest.raises(TypeError, match="got Linear"):
        cell_of(nn.Linear(1, 1))
    layer = built("noisy")
    model = SequenceClassifier(layer, 3)
    assert cell_of(model) is cell_of(layer) is cell_of(layer.cell) is layer.cell


def test_noise_needs_a_path():
    with pytest.raises(ValueError, match="given together"):
        Trajectory.of(built("noisy").cell, drawn(1, 1, CHANNELS), noise=HiddenNoise(additive=1.0))


def test_inputs_are_standardised_as_the_classifier_does():
    model = SequenceClassifier(built("noisy"), 3, mean=torch.tensor([1.0, 2.0]), std=torch.tensor([2.0, 4.0])).double()
    assert standardized_inputs(model, torch.full((1, 1, 2), 6.0).double()).flatten().tolist() == [2.5, 1.0]


def test_a_step_lasts_longer_than_nothing():
    with pytest.raises(ValueError, match="dt must be positive, got -1 as the smallest"):
        Trajectory.of(built("noisy").cell, drawn(1, 2, CHANNELS), dt=torch.tensor([1.0, -1.0]))
