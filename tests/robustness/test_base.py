from dataclasses import dataclass
from typing import final

import numpy as np
import pytest
import torch

from noisyrnn.data.scale import Scale
from noisyrnn.robustness import (
    FGSM,
    PERTURBATIONS,
    Noise,
    Perturbation,
    build_perturbation,
    check_strengths,
    default_strengths,
    strong_attacks,
)
from noisyrnn.robustness.base import check_perturbation
from noisyrnn.robustness.default_strengths import WITHOUT_UNIT


@final
@dataclass(frozen=True)
class Drift(Perturbation):
    """A user's own perturbation: one class with one method."""

    name = "drift"

    def perturb(self, inputs, **unused):
        return inputs + self.strength * torch.linspace(0, 1, inputs.shape[1])[:, None]


def test_one_method_is_a_perturbation():
    inputs, lengths = torch.full((2, 5, 1), 3.0), torch.tensor([5, 2])
    drift, valid = torch.tensor([0, 0.5, 1, 1.5, 2]), torch.arange(5) < lengths[:, None]
    result = Drift(2.0)(None, inputs, lengths, generator=torch.Generator(), lengths=lengths)
    torch.testing.assert_close(result[..., 0], 3 + drift * valid)
    assert torch.equal(Drift(0)(None, inputs, lengths, generator=torch.Generator()), inputs)
    clipped = Drift(2.0, clip=(0.0, 4.0))(None, inputs, lengths, generator=torch.Generator())
    torch.testing.assert_close(clipped[0, :, 0], (3 + drift).clamp(max=4))
    volts = Scale(mean=(3.0,), std=(10.0,), low=(0.0,), high=(9.0,))
    scaled = Drift(2.0, scale=volts)(None, inputs, lengths, generator=torch.Generator())
    torch.testing.assert_close(scaled[0, :, 0], 3 + 10 * drift)
    assert (Drift(2.0).unit, Drift(2.0, scale=volts).unit, Drift(2.0).random, Drift(2.0).is_attack) == (
        "",
        "s",
        True,
        False,
    )


def test_a_perturbation_needs_a_name_and_the_method():
    with pytest.raises(TypeError, match=r"abstract .*name.*perturb"):
        Perturbation(0.1)


@pytest.mark.parametrize("name", ["fgsm", "pgd_linf", "pgd_l2", "apgd_linf", "square_linf"])
@pytest.mark.parametrize("given", [None, "a model"])
def test_an_attack_without_a_model_is_refused(name, given):
    attack, inputs, labels = build_perturbation(name, 0.1, value_range=(0.0, 1.0)), torch.ones(2, 5, 1), torch.zeros(2)
    with pytest.raises(TypeError, match=rf"^model must be callable for {name}, got {given!r}\. Give"):
        attack(given, inputs, labels, generator=torch.Generator())


@pytest.mark.parametrize("name", [name for name in PERTURBATIONS if "linf" in name or name == "fgsm"])
def test_an_attack_on_labels_that_are_no_tensor_is_refused(name):
    attack, inputs = build_perturbation(name, 0.1, value_range=(0.0, 1.0)), torch.ones(2, 5, 1)
    for labels in ([0, 1], np.array([0, 1]), None):
        with pytest.raises(TypeError, match=rf"^labels must be a tensor, got {type(labels).__name__}\."):
            attack(lambda x: x[:, :2, 0], inputs, labels, generator=torch.Generator())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :1], r"the shape and type of its inputs, \(4, 5, 2\) in torch\.float\d\d, got \(4, 1, 2\)"),
        (lambda x: x.mean(), r"the shape and type of its inputs, .*, got \(\) in"),
        (lambda x: x.half(), r"the shape and type of its inputs, .* in torch\.float16\."),
        (lambda x: None, r"a tensor, got NoneType\."),
    ],
)
@pytest.mark.parametrize("scale", [None, Scale(mean=(0.0, 1.0), std=(1.0, 2.0), low=(-3.0,) * 2, high=(3.0,) * 2)])
def test_what_a_perturbation_of_ones_own_returns_is_checked(change, message, scale):
    """The first two would be broadcast."""

    @final
    @dataclass(frozen=True)
    class Mine(Noise):
        @property
        def name(self):
            return "mine"

        def change(self, inputs, strength, generator):
            return change(inputs)

    with pytest.raises((TypeError, ValueError), match=rf"^perturb of mine must return {message}"):
        Mine(0.1, scale=scale)(None, torch.ones(4, 5, 2), torch.zeros(4), generator=torch.Generator())


def test_a_scale_that_is_a_number_is_refused():
    with pytest.raises(TypeError, match=r"^scale must be a Scale or None, got 2\.0\. Take that of the data: Scale\.of"):
        FGSM(0.1, scale=2.0)


def test_what_is_not_a_perturbation():
    with pytest.raises(TypeError, match=r"^noise must be a Perturbation, got the class FGSM\. Call it with a strength"):
        check_perturbation("noise", FGSM)
    with pytest.raises(TypeError, match=r"^noise must be a Perturbation, got 0\.1\. Use one of noisyrnn"):
        check_perturbation("noise", 0.1)


def test_default_strengths_follow_the_range_of_the_data():
    images, bytes_, volts = default_strengths((0.0, 1.0)), default_strengths((-100.0, 100.0)), default_strengths(None)
    assert set(images) == set(bytes_) == set(volts) < set(PERTURBATIONS)  # others run only where they are named
    for name, strengths in images.items():
        factor = 1 if name in WITHOUT_UNIT else 200
        assert bytes_[name] == pytest.approx([factor * strength for strength in strengths])
    assert volts == images | {"pgd_l2": (0.02, 0.05), "square_l2": (0.05,)}  # times √n


def test_lists_and_tuples_pass():
    check_strengths("strengths", [0, 0.1])
    check_strengths("strengths", (0.3,))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0.1, TypeError, r"^strengths must be a list of numbers, got 0\.1\. Write \[0\.1\]\.$"),
        ("0.1", TypeError, r"^strengths must be a list of numbers, got '0\.1'\. Write \[0\.1, 0\.2\]\.$"),
        (None, TypeError, r"^strengths must be a list of numbers, got None\. Write \[0\.1, 0\.2\]\.$"),
        ([], ValueError, r"^strengths must hold at least one number, got \[\]\. Write \[0\.1, 0\.2\]\.$"),
        ([0.1, -0.2], ValueError, r"^strengths\[1\] must be at least 0, got -0\.2\.$"),
        ([0.1, "0.2"], TypeError, r"^strengths\[1\] must be a number, got '0\.2'\.$"),
        ([True], TypeError, r"^strengths\[0\] must be a number, got True\.$"),
    ],
)
def test_messages(value, error, message):
    with pytest.raises(error, match=message):
        check_strengths("strengths", value)


def test_strong_attacks_replace_the_others_at_their_radii():
    strengths = {"salt_and_pepper": [0.1], "fgsm": [0.3, 0.1], "square_linf": [0.2], "apgd_l2": [0.5]}
    strong = strong_attacks(strengths)
    linf, l2 = (0.1, 0.2, 0.3), (0.5,)
    assert strong == {
        "salt_and_pepper": [0.1],
        **{"pgd_linf": linf, "apgd_linf": linf, "apgd_ratio_linf": linf, "square_linf": linf},
        **{"pgd_l2": l2, "apgd_l2": l2, "apgd_ratio_l2": l2, "square_l2": l2},
    }
    assert strong_attacks(strong) == strong and strong.keys() <= PERTURBATIONS.keys()
    assert strong_attacks({"white_noise": [0.1]}) == {"white_noise": [0.1]}
    of_values = strong_attacks({"pgd_l2": [0.5]}, classification=False)
    assert of_values == {"pgd_l2": l2, "apgd_l2": l2, "square_l2": l2}
    every = strong_attacks(default_strengths((0.0, 1.0)))
    norms = {name: build_perturbation(name, 0.1, value_range=(0.0, 1.0)).norm for name in every}
    assert {norm for name, norm in norms.items() if name.startswith(("pgd", "apgd", "square"))} == {"linf", "l2"}
    assert [name for name, norm in norms.items() if norm is None] == [
        *("white_noise", "multiplicative_noise", "salt_and_pepper")
    ]
