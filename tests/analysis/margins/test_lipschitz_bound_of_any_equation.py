"""The certificate for other activations and forms than the published ones."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn import Activation, LipschitzRNN, RateRNN, SequenceClassifier
from noisyrnn.analysis.margins.attack_radius import attack_radius
from noisyrnn.analysis.margins.lipschitz_bound import margin_certificate

STEPS, CHANNELS, UNITS, CLASSES = 4, 2, 4, 3
SINE = Activation(torch.sin, lipschitz=1.0)
STEEP = Activation(lambda z: 2 * torch.sin(z), lipschitz=2.0)
CASES: dict[str, tuple[str, Any]] = {
    **{name: ("lipschitz", name) for name in ("relu", "sigmoid", "softplus", "retanh", "identity")},
    "sine": ("lipschitz", SINE),
    "rate": ("rate", "relu"),
    **{f"current {name}": ("current", name) for name in ("relu", "sigmoid", "identity")},
    "current steep": ("current", STEEP),
}


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classifier(
    case: str, *, channels: int = CHANNELS, units: int = UNITS, classes: int = CLASSES
) -> SequenceClassifier:
    form, activation = CASES[case]
    torch.manual_seed(0)
    options: dict[str, Any] = {"activation": activation, "dtype": torch.float64}
    layer = (
        LipschitzRNN(channels, units, step_size=0.2, init_std=2.0, damping=0.1, **options)
        if form == "lipschitz"
        else RateRNN(channels, units, alpha=0.4, form=form, **options)
    )
    std = torch.arange(channels) + 0.5
    return SequenceClassifier(layer, classes, std=std).double().eval()


@pytest.mark.parametrize("case", CASES)
def test_no_attack_is_smaller_than_the_certificate(case: str) -> None:
    model, inputs = classifier(case), 2 * drawn(6, STEPS, CHANNELS)
    labels = model(inputs).argmax(dim=1)
    below = margin_certificate(model, inputs, labels).value
    above = attack_radius(model, inputs, labels, upper=100.0, steps=10, rounds=3).value
    assert bool((below > 0).all()) and bool((below <= above).all())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_no_other_class_within_the_certificate(case: str, size: float) -> None:
    """And logits move by no more than the constant times the distance, across every kink."""
    model, inputs = classifier(case), size * drawn(40, STEPS, CHANNELS)
    labels = model(inputs).argmax(dim=1)
    radius = margin_certificate(model, inputs, labels).value
    with torch.no_grad():
        logits = model(inputs).double()
    V = model.readout.weight.detach()
    apart = (V[labels][:, None] - V).norm(dim=2)
    lead = logits.gather(1, labels[:, None]) - logits
    gain = torch.where(apart > 0, lead / (apart.clamp(min=1e-9) * radius[:, None]), math.inf).amin(1)  # K of each
    for seed in range(20):
        other = inputs + size * 10.0 ** (seed % 4 - 2) * drawn(40, STEPS, CHANNELS, seed=seed + 2)
        with torch.no_grad():
            moved = (model(other) - logits) - (model(other) - logits).gather(1, labels[:, None])
        distance = (other - inputs).flatten(1).norm(dim=1)
        assert bool((moved.abs() <= apart * (gain * distance)[:, None] + 1e-9).all())


@pytest.mark.parametrize("case", ["identity", "current identity"])
def test_for_one_linear_unit_it_is_the_distance(case: str) -> None:
    model, inputs = classifier(case, channels=1, units=1, classes=2), drawn(8, STEPS, 1)
    with torch.no_grad():
        logits = model(inputs)
    labels = logits.argmax(dim=1)
    variable = inputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad((model(variable)[:, 1] - model(variable)[:, 0]).sum(), variable)
    expected = (logits[:, 1] - logits[:, 0]).abs() / slope.flatten(1).norm(dim=1)
    torch.testing.assert_close(margin_certificate(model, inputs, labels).value, expected)


def test_rates_move_by_the_slope_of_the_activation() -> None:
    """In one step from zero, currents move by α U x and rates by twice that: the certificate is the distance."""
    torch.manual_seed(0)
    twice = Activation(lambda z: 2 * z, lipschitz=2.0)
    layer = RateRNN(1, 1, alpha=0.4, form="current", activation=twice)
    model, inputs = SequenceClassifier(layer, 2, std=torch.tensor([0.5])).double().eval(), drawn(8, 1, 1)
    with torch.no_grad():
        logits, V = model(inputs), model.readout.weight
        slope = float((V[1] - V[0]) * 2 * 0.4 * layer.cell.input.weight[0, 0] / 0.5)
    expected = (logits[:, 1] - logits[:, 0]).abs() / abs(slope)
    torch.testing.assert_close(margin_certificate(model, inputs, logits.argmax(dim=1)).value, expected)


def test_a_constant_of_the_users_counts() -> None:
    """A certificate relies on it: twice the constant, a smaller radius."""
    radii = []
    for lipschitz in (1.0, 2.0):
        torch.manual_seed(0)
        layer = LipschitzRNN(CHANNELS, UNITS, step_size=0.2, activation=Activation(torch.sin, lipschitz=lipschitz))
        model, inputs = SequenceClassifier(layer, CLASSES).double().eval(), drawn(6, STEPS, CHANNELS)
        radii.append(margin_certificate(model, inputs, model(inputs).argmax(dim=1)).value)
    assert bool((radii[1] < radii[0]).all())


def test_the_noise_of_a_model_does_not_count_and_heun_is_refused() -> None:
    inputs = drawn(2, STEPS, CHANNELS)
    for diffusion in (drawn(UNITS, 1), lambda h, x, t: h):
        model = SequenceClassifier(LipschitzRNN(CHANNELS, UNITS, diffusion=diffusion), 2).double().eval()
        assert bool((margin_certificate(model, inputs, model(inputs).argmax(dim=1)).value > 0).all())
    model = SequenceClassifier(LipschitzRNN(CHANNELS, UNITS, scheme="stochastic-heun"), 2).double().eval()
    with pytest.raises(TypeError, match=r"^model must be Lipschitz: no .* LipschitzRNN with scheme 'stochastic-heun'"):
        margin_certificate(model, inputs, model(inputs).argmax(dim=1))


@pytest.mark.parametrize(("activation", "gain"), [("sigmoid", 0.25), (Activation(lambda z: 3 * z.tanh(), 3.0), 3.0)])
def test_one_step_has_a_closed_form(activation: Any, gain: float) -> None:
    """From rest `h = d a(U x + b)`, so that the radius is the lead over `gain · d · σ_max(U) · ‖V_y - V_j‖`."""
    torch.manual_seed(0)
    layer = LipschitzRNN(2, 4, step_size=0.5, activation=activation)
    model = SequenceClassifier(layer, classes=2).double().eval()
    inputs = torch.randn(5, 1, 2, dtype=torch.float64)
    with torch.no_grad():
        logits = model(inputs)
        found = margin_certificate(model, inputs, logits.argmax(1)).value
        norm = torch.linalg.matrix_norm(layer.cell.input.weight, ord=2)
        apart = (model.readout.weight[0] - model.readout.weight[1]).norm()
        expected = (logits[:, 0] - logits[:, 1]).abs() / (gain * 0.5 * norm * apart)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
