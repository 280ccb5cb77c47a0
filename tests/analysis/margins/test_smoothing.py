import math

import pytest
import torch
from scipy.stats import binom, norm
from torch import nn

from noisyrnn.analysis.margins.attack_radius import attack_radius
from noisyrnn.analysis.margins.smoothing import ABSTAIN, Smoothed, certified_accuracy, certify, smoothed_predictions
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.models import SequenceClassifier, build_layer

WEIGHT = torch.tensor([[0.3], [-0.4], [1.2]], dtype=torch.float64)  # of length 1.3


def half_space(inputs, lengths=None):
    """Two classes whose boundary is a plane: smoothing changes neither of them."""
    side = (inputs * WEIGHT).sum(dim=(1, 2))
    return torch.stack([-side, side], dim=1)


def at(distance, count=1):
    """Sequences at a signed distance from the plane."""
    return (distance * WEIGHT / WEIGHT.norm()).expand(count, 3, 1).clone()


def constant(inputs, lengths=None):
    return torch.tensor([0.0, 0.0, 1.0]).expand(len(inputs), 3)


def test_a_constant_classifier_gets_the_largest_radius():
    smoothed = certify(constant, at(0.0, 3), sigma=0.7, draws=50, confidence=0.99)
    p = 0.01 ** (1 / 50)
    assert smoothed.predictions.tolist() == [2, 2, 2] and smoothed.predictions.dtype == torch.int64
    torch.testing.assert_close(smoothed.probability.value, torch.full((3,), p, dtype=torch.float64))
    torch.testing.assert_close(smoothed.radius.value, torch.full((3,), 0.7 * norm.ppf(p), dtype=torch.float64))
    for measured in (smoothed.probability, smoothed.radius):
        assert measured.kind == "certificate" and measured.confidence == 0.99
    assert smoothed.sigma == 0.7


def counted(shares):
    """A model whose k-th call for a sequence answers class 0 in the first so many rows."""
    calls = iter(shares)

    def model(inputs, lengths=None):
        first = torch.arange(len(inputs)) < next(calls)
        return torch.stack([first, ~first], dim=1).double()

    return model


@pytest.mark.parametrize("hits", [1, 60, 93, 100])
def test_the_bound_inverts_the_binomial_tail(hits):
    # Selection in the first call; at the bound, so many hits or more have the probability 1 - confidence.
    smoothed = certify(
        counted([100, hits]), at(0.0), sigma=1.0, selection_draws=100, draws=100, confidence=0.95, batch_size=100
    )
    p = float(smoothed.probability.value)
    assert math.isclose(float(binom.sf(hits - 1, 100, p)), 0.05, rel_tol=1e-9)
    assert int(smoothed.predictions) == (0 if p > 0.5 else ABSTAIN)
    expected = norm.ppf(p) if p > 0.5 else 0.0
    assert math.isclose(float(smoothed.radius.value), expected, rel_tol=1e-12)


def test_the_class_is_selected_by_draws_of_its_own():
    smoothed = certify(counted([10, 100]), at(0.0), sigma=1.0, selection_draws=100, draws=100, batch_size=100)
    assert int(smoothed.predictions) == ABSTAIN  # class 1 was selected and then never seen
    assert float(smoothed.probability.value) == float(smoothed.radius.value) == 0


def test_the_certificate_fails_as_rarely_as_it_says_on_a_half_space():
    # The true radius is the distance. The bound errs exactly when the count exceeds what its level allows.
    n, draws, confidence, sigma, distance = 2000, 60, 0.9, 0.8, 0.5
    smoothed = certify(
        half_space, at(distance, n), sigma=sigma, selection_draws=5, draws=draws, confidence=confidence, batch_size=65
    )
    decided = smoothed.predictions == 1
    failed = ((smoothed.radius.value > distance) & decided) | (smoothed.predictions == 0)
    share = float(failed.double().mean())
    p = float(norm.cdf(distance / sigma))
    exact = 0.0
    for hits in range(draws + 1):
        lower = 0.0 if hits == 0 else _bound(hits, draws, confidence)
        if lower > p:
            exact += float(binom.pmf(hits, draws, p))
    chosen = float(binom.sf(2, 5, p))  # that the selection takes the right class
    error = math.sqrt(exact * (1 - exact) / n)
    assert exact < 1 - confidence
    assert share <= 1 - confidence + 4 * error
    assert abs(share - chosen * exact) < 4 * error


def _bound(hits, draws, confidence):
    """Where the tail of the binomial is 1 - confidence, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if binom.sf(hits - 1, draws, middle) < 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def test_the_radius_tends_to_the_distance():
    distances = torch.tensor([-0.6, 0.2, 0.9], dtype=torch.float64)
    inputs = torch.cat([at(d) for d in distances])
    smoothed = certify(half_space, inputs, sigma=0.5, draws=20_000, confidence=0.999)
    assert smoothed.predictions.tolist() == [0, 1, 1]
    assert bool((smoothed.radius.value <= distances.abs()).all())
    # The bound lies 3.1 standard errors of a share below it, and the share at most four below the probability.
    p = torch.from_numpy(norm.cdf(distances.abs() / 0.5)) - 7.1 * math.sqrt(0.25 / 20_000)
    assert bool((smoothed.radius.value >= 0.5 * torch.from_numpy(norm.ppf(p))).all())


def test_no_attack_on_the_smoothed_classifier_is_smaller_than_its_radius():
    # A half-space is its own smoothed classifier.
    inputs = torch.cat([at(d) for d in torch.linspace(-1, 1, 10, dtype=torch.float64)])
    smoothed = certify(half_space, inputs, sigma=0.5, draws=500)
    attacked = attack_radius(half_space, inputs, half_space(inputs).argmax(dim=1), upper=5.0, rounds=5, restarts=1)
    assert bool((smoothed.radius.value <= attacked.value).all())


def classifier(name="noisy"):
    torch.manual_seed(0)
    layer = build_layer(name, 1, 8, {"step_size": 0.5, "init_std": 5.0})
    return SequenceClassifier(layer, 3).double().eval()


@pytest.mark.parametrize("decide", ["certify", "predict"])
def test_neither_batch_size_nor_the_other_sequences_change_a_result(decide):
    model = classifier()
    inputs = torch.randn(4, 6, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lengths = torch.tensor([6, 2, 1, 4])

    def run(count, batch_size, seed=0):
        options = {"sigma": 1.0, "draws": 30, "confidence": 0.9, "batch_size": batch_size, "seed": seed}
        if decide == "predict":
            return smoothed_predictions(model, inputs[:count], lengths=lengths[:count], **options)
        return certify(model, inputs[:count], lengths=lengths[:count], selection_draws=20, **options).probability.value

    whole = run(4, 1000)
    for batch_size in (1, 7, 30):
        assert torch.equal(run(4, batch_size), whole)
    assert torch.equal(run(2, 1000), whole[:2])
    if decide == "certify":
        assert not torch.equal(run(4, 1000, seed=1), whole)


def test_the_noise_is_white_on_valid_steps_and_differs_between_sequences():
    seen = []

    def watch(inputs, lengths=None):
        seen.append((inputs.clone(), lengths))
        return constant(inputs)

    inputs = torch.full((2, 4, 2), 3.0, dtype=torch.float64)
    certify(watch, inputs, sigma=0.5, selection_draws=1000, draws=4000, lengths=torch.tensor([4, 2]), batch_size=5000)
    (first, all_four), (second, two) = seen
    assert all_four.tolist() == [4] * 5000 and two.tolist() == [2] * 5000
    assert torch.equal(second[:, 2:], inputs[1:, 2:].expand(5000, 2, 2))
    noise = (first - 3) / 0.5
    count = noise.numel()
    assert abs(float(noise.mean())) < 4 / math.sqrt(count)
    assert abs(float(noise.square().mean()) - 1) < 4 * math.sqrt(2 / count)
    flat = noise.flatten(1)
    correlation = (flat.T @ flat / 5000 - torch.eye(8, dtype=torch.float64)).abs()
    assert float(correlation.max()) < 5 * math.sqrt(2 / 5000)
    assert float((noise[:, :2] - (second[:, :2] - 3) / 0.5).abs().max()) > 1
    assert len(noise[:, 0, 0].unique()) == 5000
    assert torch.equal(inputs, torch.full_like(inputs, 3.0))


def test_an_undecided_vote_abstains():
    near = at(0.001, 5)
    assert certify(half_space, near, sigma=1.0, draws=100).predictions.tolist() == [ABSTAIN] * 5
    assert smoothed_predictions(half_space, near, sigma=1.0, draws=100).tolist() == [ABSTAIN] * 5
    assert smoothed_predictions(half_space, at(-2.0, 2), sigma=1.0, draws=100).tolist() == [0, 0]
    assert smoothed_predictions(constant, near[:1], sigma=1.0).tolist() == [2]
    assert smoothed_predictions(lambda x: -constant(x), near[:1], sigma=1.0).tolist() == [0]  # no other class seen


@pytest.mark.parametrize(("hits", "clear"), [(58, False), (59, True), (60, True), (41, True), (42, False)])
def test_a_prediction_needs_a_two_sided_binomial_test(hits, clear):
    # Of 95 votes for two classes, five for a third: 2 P(X >= hits) <= 0.05 from 58 hits on for 95, 59 of 100 ...
    p_value = min(1.0, 2 * float(binom.cdf(min(hits, 100 - hits), 100, 0.5)))
    confidence = 0.9
    assert clear == (p_value <= 0.1)
    predicted = smoothed_predictions(counted([hits]), at(0.0), sigma=1.0, draws=100, confidence=confidence)
    assert int(predicted) == ((0 if hits > 50 else 1) if clear else ABSTAIN)


def test_only_the_first_two_classes_are_compared():
    def model(inputs, lengths=None):
        return nn.functional.one_hot(torch.tensor([2] * 12 + [0] * 2 + [1] * 6), 3).double()

    # 12 against 6 of 20: p = 0.238. Against 8, the third included, it would be 0.503.
    assert smoothed_predictions(model, at(0.0), sigma=1.0, draws=20, confidence=0.7).tolist() == [2]
    assert smoothed_predictions(model, at(0.0), sigma=1.0, draws=20, confidence=0.8).tolist() == [ABSTAIN]


def measured(values):
    return Measurement(value=torch.tensor(values, dtype=torch.float64), kind="certificate", confidence=0.999)


def test_certified_accuracy_is_the_share_right_and_far_enough():
    smoothed = Smoothed(
        predictions=torch.tensor([0, 1, ABSTAIN, 2]),
        probability=measured([0.9, 0.8, 0.4, 0.7]),
        radius=measured([1.0, 0.5, 0.0, 0.25]),
        sigma=1.0,
    )
    curve = certified_accuracy(smoothed, torch.tensor([0, 1, 1, 0]), [0.0, 0.5, 0.6, 1.1], confidence=0.9)
    assert [interval.mean for interval in curve] == [0.5, 0.5, 0.25, 0.0]
    z = norm.ppf(0.95)
    size = 4 + 0.75 * z**2  # as if 0.375 z² more sequences held, and as many did not
    centre = (1 + 0.375 * z**2) / size
    half = z * math.sqrt(centre * (1 - centre) / size)
    assert math.isclose(curve[2].low, centre - half, rel_tol=1e-6)
    assert math.isclose(curve[2].high, centre + half, rel_tol=1e-6)
    assert curve[0].count == 4
    assert curve[0].covers == (
        "90 % interval over 4 sequences, for one trained model; each certificate holds with probability at least 0.999"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, r"^sigma must be greater than 0, got 0\.$"),
        ({"draws": 0}, r"^draws must be at least 1, got 0\.$"),
        ({"confidence": 0.0}, r"^confidence must be greater than 0, got 0\.$"),
        ({"confidence": 1.0}, r"^confidence must be less than 1, got 1\.$"),
        ({"seed": -1}, r"^seed must be at least 0, got -1\.$"),
        ({"batch_size": 0}, r"^batch_size must be at least 1, got 0\.$"),
        ({"lengths": torch.tensor([4])}, r"^lengths must lie in \[1, 3\], the number of steps, got 4\.$"),
    ],
)
@pytest.mark.parametrize("decide", [certify, smoothed_predictions])
def test_messages(decide, settings, message):
    with pytest.raises(ValueError, match=message):
        decide(half_space, at(1.0), **{"sigma": 1.0, **settings})


def test_messages_of_their_own():
    with pytest.raises(ValueError, match=r"^selection_draws must"):
        certify(half_space, at(1.0), sigma=1.0, selection_draws=0)
    with pytest.raises(ValueError, match=r"^model must be in eval mode"):
        certify(classifier().train(), at(1.0), sigma=1.0)
    smoothed = certify(half_space, at(1.0, 2), sigma=1.0, draws=10)
    with pytest.raises(ValueError, match=r"^labels must"):
        certified_accuracy(smoothed, torch.zeros(3), [0.0])
    with pytest.raises(TypeError, match=r"^labels must be a tensor, got list\."):
        certified_accuracy(smoothed, [0, 0], [0.0])
    with pytest.raises(ValueError, match=r"^radii\[1\] must"):
        certified_accuracy(smoothed, torch.zeros(2), [0.0, -1.0])
