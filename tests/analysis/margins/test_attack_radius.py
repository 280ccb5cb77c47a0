import itertools
import math

import pytest
import torch

from noisyrnn.analysis.margins.attack_radius import _nearest_attacks, attack_radius
from noisyrnn.models import SequenceClassifier, build_layer
from noisyrnn.robustness import PGD

STEPS, CHANNELS = 5, 2


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHT = drawn(3, STEPS, CHANNELS, seed=3)


def linear(inputs, lengths=None):
    if lengths is not None:
        inputs = inputs * (torch.arange(inputs.shape[1]) < lengths[:, None])[..., None]
    return torch.einsum("bsc,ksc->bk", inputs, WEIGHT)


def distances(inputs, norm, lengths=None):
    """From each sequence to the nearest of the other classes."""
    logits, found = linear(inputs, lengths), []
    for b, label in enumerate(logits.argmax(dim=1)):
        last = STEPS if lengths is None else int(lengths[b])
        to = []
        for j in range(3):
            if j != label:
                normal = (WEIGHT[label] - WEIGHT[j])[:last]
                dual = normal.norm() if norm == "l2" else normal.abs().sum()
                to.append(float((logits[b, label] - logits[b, j]) / dual))
        found.append(min(to))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("lengths", [None, torch.tensor([5, 1, 3, 4, 5, 2])])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_meets_the_distance_of_a_linear_model(norm, lengths):
    inputs = drawn(6, STEPS, CHANNELS)
    labels = linear(inputs, lengths).argmax(dim=1)
    expected = distances(inputs, norm, lengths)
    attacked = attack_radius(
        linear, inputs, labels, upper=20.0, norm=norm, steps=40, restarts=1, rounds=5, lengths=lengths
    )
    assert attacked.kind == "certificate" and attacked.confidence is None
    assert bool((attacked.value >= expected * (1 - 1e-9)).all())  # an example exists, so never below
    # 2.5 radii of ascent from a random start leave a small angle to the normal, and the length grows by its square.
    assert bool((attacked.value <= expected * 1.02).all())
    assert float(expected.max() / expected.min()) > 2  # each has a radius of its own


def classifier(dtype=torch.float64):
    torch.manual_seed(0)
    layer = build_layer("noisy", CHANNELS, 8, {"step_size": 0.5, "init_std": 5.0})
    return SequenceClassifier(layer, 3).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_value_is_the_size_of_an_input_that_is_misclassified(norm, dtype):
    model, inputs = classifier(dtype), drawn(8, STEPS, CHANNELS).to(dtype)
    lengths = torch.tensor([5, 1, 3, 4, 5, 2, 5, 5])
    labels = model(inputs, lengths=lengths).argmax(dim=1)
    before = inputs.clone()
    size, found = _nearest_attacks(model, inputs, labels, PGD(1.0, norm=norm), 30.0, 5, 0, lengths)
    reached = size.isfinite()
    assert int(reached.sum()) >= 5
    assert bool((model(found, lengths=lengths).argmax(dim=1) != labels)[reached].all())
    assert torch.equal(found[~reached], inputs[~reached]) and torch.equal(inputs, before)
    offset = (found.double() - inputs.double()).flatten(1)
    expected = offset.norm(dim=1) if norm == "l2" else offset.abs().amax(dim=1)
    torch.testing.assert_close(size[reached], expected[reached], rtol=1e-12, atol=0)
    padding = torch.arange(STEPS) >= lengths[:, None]
    assert torch.equal(found[padding], inputs[padding])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_more_rounds_never_lengthen_and_the_seed_decides():
    model, inputs = classifier(), drawn(8, STEPS, CHANNELS)
    labels = model(inputs).argmax(dim=1)
    run = [attack_radius(model, inputs, labels, upper=30.0, rounds=n, steps=6).value for n in (1, 2, 4, 7)]
    for fewer, more in itertools.pairwise(run):
        assert bool((more <= fewer).all())
    assert float((run[-1] / run[0]).nan_to_num(1).mean()) < 0.9
    assert torch.equal(attack_radius(model, inputs, labels, upper=30.0, rounds=4, steps=6).value, run[2])
    other = attack_radius(model, inputs, labels, upper=30.0, rounds=4, steps=6, seed=1).value
    assert not torch.equal(other, run[2])


def ring(inputs, lengths=None):
    """Class 1 between the distances 1 and 2 from the origin, class 0 elsewhere."""
    distance = inputs.flatten(1).norm(dim=1)
    inside = (distance - 1) * (2 - distance)
    return torch.stack([-inside, inside], dim=1)


def test_what_is_found_far_away_is_shortened_to_the_boundary():
    inputs = torch.full((1, 4, 1), 0.01, dtype=torch.float64)
    # In one round only shortening leads from somewhere in the ring to its inner border.
    found = attack_radius(ring, inputs, torch.tensor([0]), upper=1.9, rounds=1, steps=30).value
    assert 0.98 <= float(found) < 1.03


class Scripted:
    """An attack that answers with given offsets of the unit ball, and keeps what it was asked."""

    norm = "l2"

    def __init__(self, offsets):
        self.offsets, self.views = offsets, []

    def __call__(self, view, inputs, labels, *, generator, lengths):
        offset = torch.tensor(self.offsets[len(self.views)], dtype=torch.float64)
        self.views.append([view(offset + 0 * inputs), float(inputs.abs().max()), labels])
        return offset + 0 * inputs


def corner(inputs, lengths=None):
    """Class 0 where x < 1 and y < 0.25, else class 1 or 2."""
    x, y = inputs[:, 0].unbind(1)
    return torch.stack([torch.zeros_like(x), x - 1, y - 0.25], dim=1)


def test_each_round_attacks_within_the_smallest_attack_so_far():
    inputs, label = torch.zeros(1, 1, 2, dtype=torch.float64), torch.tensor([0])
    # Nothing found; found at x = 4 and shortened to 1; nothing; found at y = 1 and shortened to 0.25; and, by an
    # attack that left its ball, again at x = 1, which is no better.
    attack = Scripted([[0.0, 0.0], [1.0, 0.0], [0.9, 0.2], [0.0, 1.0], [4.5, 0.0]])
    sizes = []
    for rounds in range(1, 6):
        attack.views.clear()
        size, found = _nearest_attacks(corner, inputs, label, attack, 4.0, rounds, 0, None)
        sizes.append(float(size))
    fine = 4 * 2**-12
    assert math.isinf(sizes[0]) and sizes[1] == sizes[2] and sizes[3] == sizes[4]
    assert 1 <= sizes[1] <= 1 + 2 * fine and 0.25 <= sizes[3] <= 0.25 + 2 * fine
    assert found[0, 0, 0] == 0 and float(found[0, 0, 1]) == sizes[3]
    for radius, offset, (logits, centre, labels) in zip(
        [4.0, 4.0, sizes[1], sizes[1], sizes[3]], attack.offsets, attack.views, strict=False
    ):
        # The attack sees the unit ball around zero, the label's logit and then the largest of the others.
        expected = [0.0, max(radius * offset[0] - 1, radius * offset[1] - 0.25)]
        torch.testing.assert_close(logits, torch.tensor([expected], dtype=torch.float64))
        assert centre == 0 and labels.tolist() == [0]


def test_misclassified_is_at_zero_and_out_of_reach_at_infinity():
    inputs = drawn(6, STEPS, CHANNELS)
    labels = linear(inputs).argmax(dim=1)
    labels[2] = (labels[2] + 1) % 3
    expected = distances(inputs, "l2")
    upper = float(expected.sort().values[3])
    attacked = attack_radius(linear, inputs, labels, upper=0.9 * upper, rounds=3).value
    assert float(attacked[2]) == 0
    for b in (0, 1, 3, 4, 5):
        assert math.isinf(float(attacked[b])) == (float(expected[b]) > 0.9 * upper)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"upper": 0.0}, r"^upper must be greater than 0, got 0\.$"),
        ({"norm": "l1"}, r"^norm must be one of l2, linf, got 'l1'\."),
        ({"steps": 0}, r"^steps must be at least 1, got 0\.$"),
        ({"restarts": 0}, r"^restarts must be at least 1, got 0\.$"),
        ({"rounds": 0}, r"^rounds must be at least 1, got 0\.$"),
        ({"seed": -1}, r"^seed must be at least 0, got -1\.$"),
        ({"lengths": torch.tensor([0])}, r"^lengths must lie in \[1, 5\], the number of steps, got 0\.$"),
    ],
)
def test_messages(settings, message):
    with pytest.raises(ValueError, match=message):
        attack_radius(linear, drawn(1, STEPS, CHANNELS), torch.tensor([0]), **{"upper": 1.0, **settings})


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"^model must be in eval mode, got training mode"):
        attack_radius(classifier().train(), drawn(1, STEPS, CHANNELS), torch.tensor([0]), upper=1.0)
