"""Weights under the published code's names, against a loop over its equations with states as rows."""

from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn.models import AntisymmetricRNN, NoisyRNN
from noisyrnn.models.released import from_released_weights

HIDDEN, INPUT, CLASSES, STEPS = 6, 2, 3, 9


def released(seed: int = 0, **changes: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"B": (HIDDEN, HIDDEN), "C": (HIDDEN, HIDDEN), "E.weight": (HIDDEN, INPUT), "E.bias": (HIDDEN,)}
    shapes |= {"D.weight": (CLASSES, HIDDEN), "D.bias": (CLASSES,)}
    weights = {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    weights["d"] = 0.05 + 0.2 * torch.rand(HIDDEN, generator=generator, dtype=torch.float64)
    return {name: value for name, value in (weights | changes).items() if value is not None}


def logits_there(w: dict[str, Tensor], x: Tensor, beta: float, gammas: tuple[float, float], alpha: int = 1) -> Tensor:
    """`h @ A`: states are rows."""
    eye = torch.eye(HIDDEN, dtype=torch.float64)
    A, W = (
        (1 - beta) * (M + M.T) + beta * (M - M.T) - gamma * eye
        for M, gamma in zip((w.get("B", w["C"]), w["C"]), gammas, strict=True)
    )
    h = torch.zeros(len(x), HIDDEN, dtype=torch.float64)
    for m in range(x.shape[1]):
        z = h @ W + x[:, m] @ w["E.weight"].T + w.get("E.bias", 0)
        h = h + w["d"] * (alpha * (h @ A) + torch.tanh(z))
    return h @ w["D.weight"].T + w.get("D.bias", 0)


INPUTS = torch.randn(4, STEPS, INPUT, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("missing", [(), ("E.bias",), ("D.bias",)])
def test_the_logits_are_those_of_the_published_equations(missing: tuple[str, ...]) -> None:
    w = released(**dict.fromkeys(missing))
    model = from_released_weights(w, skew_symmetry=0.8, damping=0.2, damping_w=0.05)
    assert type(model.layer) is NoisyRNN and not model.training
    torch.testing.assert_close(model(INPUTS), logits_there(w, INPUTS, 0.8, (0.2, 0.05)), rtol=0, atol=1e-12)
    turned = released(**dict.fromkeys(missing), B=w["B"].T, C=w["C"].T)
    assert not torch.allclose(logits_there(turned, INPUTS, 0.8, (0.2, 0.05)), model(INPUTS))  # so transposing matters


def test_alpha_zero_is_the_antisymmetric_rnn() -> None:
    w = released(d=torch.full((1, HIDDEN), 0.1, dtype=torch.float64), B=None)
    model = from_released_weights(w, alpha=0, skew_symmetry=1.0, damping=0.3)
    assert type(model.layer) is AntisymmetricRNN
    expected = logits_there({**w, "d": w["d"][0]}, INPUTS, 1.0, (0.3, 0.3), alpha=0)
    torch.testing.assert_close(model(INPUTS), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_step_for_all_units(shape: tuple[int, ...]) -> None:
    one = torch.full(shape, 0.1, dtype=torch.float64)
    w = released(d=None)
    expected = logits_there({**w, "d": one}, INPUTS, 0.75, (0.001, 0.001))
    for model in (from_released_weights({**w, "d": one}), from_released_weights(w, step_size=0.1)):
        torch.testing.assert_close(model(INPUTS), expected, rtol=0, atol=1e-12)


def test_levels_of_the_noise_are_kept_for_training() -> None:
    model = from_released_weights(released(), additive=0.3, multiplicative=0.1, noise_law="uniform")
    assert (model.layer.additive, model.layer.multiplicative, model.layer.noise_law) == (0.3, 0.1, "uniform")
    assert not torch.equal(model.train()(INPUTS), model(INPUTS))


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        (released(B=None), {}, r"^weights must hold B, C, D\.weight, E\.weight, d, got none called B\.$"),
        (released(d=None), {}, r"got none called d\.$"),
        (released(F=torch.ones(1)), {}, r"^name of a weight must be one of .*, got 'F'\."),
        (released(d=torch.ones(2)), {}, r"^d must have shape \(6,\), got \(2,\)\.$"),
        (released(B=torch.ones(2, 2)), {}, r"^B must have shape \(6, 6\), got \(2, 2\)\.$"),
        (
            released(),
            {"alpha": 0},
            r"^skew_symmetry of W must be 1 with alpha 0, got 0\.75\. Pass skew_symmetry=1\.0\.$",
        ),
        (released(), {"alpha": 0, "skew_symmetry": 1.0}, r"^d must be the same for all units with alpha 0, got 0\.1"),
        (released(), {"alpha": 2}, r"^alpha must be one of 0, 1, got '2'\."),
        (released(d=None), {"step_size": -1.0}, r"^step_size must be greater than 0, got -1\.$"),
    ],
)
def test_what_does_not_fit_is_refused(weights: dict[str, Tensor], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_released_weights(weights, **options)
