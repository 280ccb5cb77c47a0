import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split
from noisyrnn.robustness import FGSM, PGD, PathDraws, Square, evaluate
from noisyrnn.robustness.gradient import sequence_losses, wrong_answers
from noisyrnn.robustness.square import propose_signs

LABELS = torch.tensor([0, 1, 1, 0, 1, 0])


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def curved(inputs, lengths=None):
    """Two classes, many local maxima."""
    wave = (torch.sin(7 * inputs) + 0.3 * inputs).sum(dim=(1, 2))
    return torch.stack((wave, -wave), dim=1)


def steps(inputs):
    """Two classes by the sign of a sum, rounded: the gradient is zero."""
    score = (4 * (inputs - 0.5).sum(dim=(1, 2))).round()
    return torch.stack((score, -score), dim=1)


def counting(model):
    """The model, and the list of the batch sizes of its calls."""
    rows = []

    def counted(inputs):
        rows.append(len(inputs))
        return model(inputs)

    return counted, rows


@settings(max_examples=40, deadline=None)
@given(
    radius=st.floats(1e-3, 3.0),
    share=st.floats(1e-3, 1.0),
    clip=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_stays_in_its_ball_and_in_the_clip_and_leaves_padding(radius, share, clip, dtype, seed):
    inputs = torch.rand(4, 6, 2, generator=generator(seed), dtype=dtype)
    lengths = torch.tensor([6, 1, 3, 6])
    seen = []

    def model(x, lengths):
        seen.append(x)
        return curved(x)

    attack = Square(radius, queries=12, initial_share=share, clip=(0.0, 1.0) if clip else None)
    result = attack(model, inputs, torch.tensor([0, 1, 0, 1]), generator=generator(seed), lengths=lengths)
    assert float((result - inputs).abs().max()) <= radius * (1 + 1e-6) + 1e-6  # rounding of float32 sums
    padded = torch.arange(6) >= lengths[:, None]
    assert torch.equal(result[padded], inputs[padded])
    if clip:
        for values in (result, *seen):  # nor does the model see anything outside
            assert float(values.min()) >= 0 and float(values.max()) <= 1


def test_every_value_moves_to_a_corner_of_the_ball(make_inputs):
    inputs = make_inputs(batch=30)
    labels = curved(inputs).argmax(dim=1)
    result = Square(0.3, queries=20)(curved, inputs, labels, generator=generator())
    moved = (result != inputs).flatten(1).any(dim=1)
    assert int(moved.sum()) > 20
    torch.testing.assert_close((result - inputs)[moved].abs(), torch.full_like(result[moved], 0.3))


def test_reaches_the_optimum_of_a_linear_model():
    """With no wrong answer in the ball it uses all its queries; the best point is x - ϵ sign(w)."""
    weight = torch.randn(40, 2, generator=generator(3), dtype=torch.float64)
    inputs, labels = torch.rand(6, 40, 2, generator=generator(), dtype=torch.float64), torch.ones(6, dtype=torch.long)

    def model(x):
        margin = 100 + (x * weight).sum(dim=(1, 2))
        return torch.stack((-margin, margin), dim=1)

    def gain(attacked):
        return (sequence_losses(model(attacked), labels) - sequence_losses(model(inputs), labels)) / 2

    best = 0.2 * weight.abs().sum()
    shares = [
        float((gain(Square(0.2, queries=queries)(model, inputs, labels, generator=generator())) / best).min())
        for queries in (20, 200, 2000)
    ]
    assert shares[0] < shares[1] < shares[2]
    assert shares[1] > 0.5 and shares[2] > 0.97


def test_finds_wrong_answers_where_the_gradient_is_zero(make_inputs):
    inputs = make_inputs(batch=100, steps=8)
    labels = steps(inputs).argmax(dim=1)
    for attack in (FGSM(0.5), PGD(0.5, random_start=False)):
        assert torch.equal(attack(steps, inputs, labels, generator=generator()), inputs)
    split = Split(inputs=inputs, labels=labels, classes=2)
    assert evaluate(steps, split, PGD(0.5), draws=1).accuracy > 0.5  # a random start only
    assert evaluate(steps, split, Square(0.5, queries=300), draws=1).accuracy < 0.05


def test_same_seed_same_bits(make_inputs):
    inputs = make_inputs()
    one, two, other = (
        Square(0.3, queries=30)(lambda x: curved(x) + torch.tensor([50.0, 0.0]), inputs, 0 * LABELS, generator=rng)
        for rng in (generator(1), generator(1), generator(2))
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_other_sequences_and_lengths_do_not_shift_the_draws(make_inputs):
    inputs = make_inputs()
    labels = curved(inputs).argmax(dim=1)
    wrong = torch.where(torch.arange(6) < 3, 1 - labels, labels)
    attack = Square(0.02, queries=30)
    whole, part = (attack(curved, inputs, each, generator=generator()) for each in (labels, wrong))
    assert torch.equal(part[:3], inputs[:3]) and torch.equal(part[3:], whole[3:])
    assert not torch.equal(whole[:3], inputs[:3])
    lengths = torch.tensor([2, 1, 3, 5, 5, 5])
    short = attack(curved, inputs, labels, generator=generator(), lengths=lengths)
    assert torch.equal(short[3:], whole[3:])


def test_a_split_batch_has_the_draws_of_the_whole_one(make_inputs):
    inputs = make_inputs()
    labels = curved(inputs).argmax(dim=1)
    attack = Square(0.05, queries=30)
    whole = attack(curved, inputs, labels, generator=PathDraws(seed=1))
    halves = [
        attack(curved, inputs[rows], labels[rows], generator=PathDraws(seed=1, first_row=rows.start))
        for rows in (slice(0, 3), slice(3, 6))
    ]
    assert torch.equal(torch.cat(halves), whole) and not torch.equal(whole, inputs)


def test_a_misclassified_sequence_is_unchanged_and_costs_one_query(make_inputs):
    inputs = make_inputs()
    model, rows = counting(curved)
    labels = 1 - curved(inputs).argmax(dim=1)
    result = Square(0.3).apply(model, inputs, labels, generator=generator(), lengths=None)
    assert torch.equal(result, inputs) and rows == [6]
    labels[0] = 1 - labels[0]
    rows.clear()
    result = Square(1e-6, queries=9).apply(model, inputs, labels, generator=generator(), lengths=None)
    assert torch.equal(result[1:], inputs[1:]) and rows == [6] + [1] * 8


def test_a_sequence_is_not_queried_after_its_first_wrong_answer(make_inputs):
    inputs = make_inputs(batch=50)
    labels = curved(inputs).argmax(dim=1)
    model, rows = counting(curved)
    result = Square(0.4, queries=200).apply(model, inputs, labels, generator=generator(), lengths=None)
    wrong = wrong_answers(curved(result), labels)
    assert rows == sorted(rows, reverse=True) and rows[0] == rows[1] == 50 and sum(rows) < 200 * 50
    assert (len(rows) == 200) == bool((~wrong).any())
    assert bool(wrong.float().mean() > 0.8)


def test_queries_are_the_largest_number_of_calls(make_inputs):
    inputs = make_inputs()
    model, rows = counting(lambda x: curved(x) + torch.tensor([50.0, 0.0]))
    for queries in (2, 3, 40):
        rows.clear()
        Square(0.3, queries=queries).apply(model, inputs, 0 * LABELS, generator=generator(), lengths=None)
        assert rows == [6] * queries


def test_is_never_worse_than_the_input(make_inputs):
    inputs = make_inputs()

    def peak(x):  # the loss is largest at the input itself
        distance = (x - inputs[: len(x)]).square().sum(dim=(1, 2))
        return torch.stack((1 + distance, -distance), dim=1)

    result = Square(0.5, queries=5)(peak, inputs, 0 * LABELS, generator=generator())
    assert torch.equal(result, inputs)


def test_targets_at_every_step_and_values(make_inputs):
    inputs = make_inputs(batch=20)
    lengths = torch.full((20,), 5)

    def every_step(x, lengths):
        return torch.stack((torch.sin(7 * x[..., 0]), torch.cos(5 * x[..., 1])), dim=2)

    labels = every_step(inputs, lengths).argmax(dim=2)
    labels[:, -1] = -1
    values = inputs.sum(dim=(1, 2))[:, None]
    attack = Square(0.1, queries=100)
    result = attack(every_step, inputs, labels, generator=generator(), lengths=lengths)
    shares = [wrong_answers(every_step(x, lengths), labels) for x in (inputs, result)]
    assert float(shares[0].max()) == 0 and float(shares[1].min()) > 0
    attack = Square(0.1, queries=400)
    result = attack(lambda x: x.sum(dim=(1, 2))[:, None], inputs, values, generator=generator())
    error = sequence_losses(result.sum(dim=(1, 2))[:, None], values).sqrt()
    torch.testing.assert_close(error, torch.full((20,), 1.0).double())  # all ten values by 0.1 to the same side


def test_windows_have_the_length_of_the_share_and_lie_within_the_valid_steps():
    batch, share = 4000, 0.3
    lengths = torch.arange(batch) % 10 + 1
    signs = 2 * (torch.rand(batch, 10, 3, generator=generator(), dtype=torch.float64) < 0.5).double() - 1
    changed = propose_signs(signs, lengths, share, generator(2))
    differs = (changed != signs).any(dim=2)
    first, last = differs.int().argmax(dim=1), 9 - differs.flip(1).int().argmax(dim=1)
    window = torch.tensor([max(1, round(share * int(length))) for length in lengths])
    assert bool(differs.any(dim=1).all())  # a proposal always changes something
    assert bool((last < lengths).all()) and bool((last - first < window).all())
    opposite = propose_signs(torch.where(differs[..., None], changed, signs), lengths, share, generator(2))
    flipped = (opposite != changed).all(dim=2)  # the same draws again change nothing, so their opposite is taken
    assert torch.equal(flipped.sum(dim=1), window)
    start = flipped.int().argmax(dim=1)
    assert torch.equal(9 - flipped.flip(1).int().argmax(dim=1) - start, window - 1)
    start = start[lengths == 10].double()  # 0 to 7 with equal probability, in 400 sequences
    assert set(start.int().tolist()) == set(range(8))
    assert abs(float(start.mean()) - 3.5) < 4 * (63 / 12 / len(start)) ** 0.5


def test_the_share_halves_by_the_schedule_of_the_paper():
    changes = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
    for queries in (10_000, 1000):
        attack = Square(0.1, queries=queries, initial_share=0.8)
        shares = [attack._share(k) for k in range(queries)]
        assert shares[0] == 0.8 and shares[-1] == 0.8 / 2**9
        found = [k * 10_000 // queries for k in range(1, queries) if shares[k] != shares[k - 1]]
        step = 10_000 // queries
        assert found == [change + step for change in changes]
        assert all(a == b or a == 2 * b for a, b in pairwise(shares))


def test_depends_on_no_default_type_or_device(make_inputs):
    inputs = make_inputs().float()
    expected = Square(0.1, queries=20)(curved, inputs, LABELS, generator=generator())
    with torch.device("meta"):
        torch.set_default_dtype(torch.bfloat16)
        try:
            result = Square(0.1, queries=20)(curved, inputs, LABELS, generator=generator())
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(result, expected)


def test_finds_as_many_wrong_answers_as_art():
    """Their squares cover rows and columns of an image and ours rows, so the rates are similar, not equal."""
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    from art.attacks.evasion import SquareAttack
    from art.estimators.classification import PyTorchClassifier
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(pixels / 16).float().reshape(-1, 8, 8), torch.tensor(digits)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        model = torch.nn.Sequential(*layers)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[:1200]), labels[:1200]).backward()
            optimizer.step()
    model.eval()
    inputs, labels = inputs[1200:1400], labels[1200:1400]
    ours = Square(0.1, (0.0, 1.0), queries=202)(model, inputs, labels, generator=generator())
    wrapped = PyTorchClassifier(
        model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    state = np.random.get_state()  # noqa: NPY002 (ART draws from the global state)
    np.random.seed(0)  # noqa: NPY002
    attack = SquareAttack(wrapped, eps=0.1, max_iter=200, p_init=0.3, verbose=False)
    theirs = attack.generate(inputs[:, None].numpy(), labels.numpy())
    np.random.set_state(state)  # noqa: NPY002
    strongest = PGD(0.1, (0.0, 1.0), steps=50)(model, inputs, labels, generator=generator())
    with torch.no_grad():
        rates = [
            float(wrong_answers(model(x.reshape(-1, 8, 8)), labels).float().mean())
            for x in (inputs, torch.from_numpy(theirs), ours, strongest)
        ]
    clean, art, square, pgd = rates
    assert square > clean + 0.2
    assert art - 0.05 <= square <= art + 0.2
    assert square <= pgd + 0.02


@settings(max_examples=40, deadline=None)
@given(
    radius=st.floats(1e-3, 3.0),
    share=st.floats(1e-3, 1.0),
    clip=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_l2_stays_in_its_ball_and_in_the_clip_and_leaves_padding(radius, share, clip, dtype, seed):
    inputs = torch.rand(4, 6, 2, generator=generator(seed), dtype=dtype)
    lengths, seen = torch.tensor([6, 1, 3, 6]), []

    def model(x, lengths):
        if len(x) == 4:
            seen.append(x)
        return curved(x) + torch.tensor([100.0, 0.0])  # no wrong answer ends the search

    attack = Square(radius, norm="l2", queries=12, initial_share=share, clip=(0.0, 1.0) if clip else None)
    result = attack.apply(model, inputs, torch.zeros(4, dtype=torch.long), generator=generator(seed), lengths=lengths)
    padded = torch.arange(6) >= lengths[:, None]
    assert len(seen) == 12
    for values in (result, *seen):
        norm = (values - inputs).double().flatten(1).norm(dim=1)
        assert float(norm.max()) <= radius * (1 + 1e-6) + 1e-6  # rounding of float32 sums
        assert torch.equal(values[padded], inputs[padded])
        if clip:
            assert float(values.min()) >= 0 and float(values.max()) <= 1
    for values in () if clip else seen[1:]:  # proposals use the whole radius
        norm = (values - inputs).double().flatten(1).norm(dim=1)
        torch.testing.assert_close(norm, torch.full_like(norm, radius), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_keeps_the_largest_loss_of_all_it_has_seen(norm, make_inputs):
    """So the kept loss never falls: with a bound on the queries, the result has the maximum up to there."""
    inputs, losses = make_inputs(), []

    def model(x):
        logits = curved(x) + torch.tensor([50.0, 0.0])
        losses.append(sequence_losses(logits, 0 * LABELS))
        return logits

    result = Square(0.4, norm=norm, queries=60).apply(model, inputs, 0 * LABELS, generator=generator(), lengths=None)
    seen, largest = torch.stack(losses), torch.stack(losses).max(dim=0).values
    torch.testing.assert_close(sequence_losses(model(result), 0 * LABELS), largest, rtol=0, atol=0)
    assert bool((largest > seen[1]).all())  # better than the start


def test_l2_reaches_the_optimum_of_a_linear_model():
    """The best point is x - ϵ w / |w|."""
    weight = torch.randn(12, 2, generator=generator(3), dtype=torch.float64)
    inputs, labels = torch.rand(6, 12, 2, generator=generator(), dtype=torch.float64), torch.ones(6, dtype=torch.long)

    def margin(x):
        return 100 + (x * weight).sum(dim=(1, 2))

    def share(queries):
        attack = Square(0.2, norm="l2", queries=queries)
        result = attack(lambda x: torch.stack((-margin(x), margin(x)), dim=1), inputs, labels, generator=generator())
        return float(((margin(inputs) - margin(result)) / (0.2 * weight.norm())).min())

    shares = [share(queries) for queries in (20, 200, 3000)]
    assert shares[0] < shares[1] < shares[2] <= 1
    assert shares[2] > 0.92


def test_l2_reaches_the_optimum_within_the_clip():
    """Half of the values are at the end of the range that the loss calls for: all the norm goes to the others."""
    inputs = torch.full((5, 10, 1), 0.5, dtype=torch.float64)
    inputs[:, :5] = 0.0
    labels = torch.ones(5, dtype=torch.long)

    def margin(x):
        return 100 + x.sum(dim=(1, 2))

    attack = Square(0.3, (0.0, 1.0), "l2", queries=1000)
    result = attack(lambda x: torch.stack((-margin(x), margin(x)), dim=1), inputs, labels, generator=generator())
    gain = (margin(inputs) - margin(result)) / (0.3 * 5**0.5)
    assert float(gain.max()) <= 1 and float(gain.min()) > 0.95


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.3), ("l2", 0.4)])
def test_finds_what_brute_force_finds_where_the_gradient_is_zero(norm, radius):
    """Every sequence of two values that any of 4000 points of its ball misclassifies."""
    inputs = torch.rand(60, 2, 1, generator=generator(4), dtype=torch.float64)

    def model(x, lengths=None):
        score = (3 * x[:, 0, 0] - 2 * x[:, 1, 0]).round() + 0.25
        return torch.stack((score, -score), dim=1)

    labels = model(inputs).argmax(dim=1)
    angle = torch.linspace(0, 2 * math.pi, 4000, dtype=torch.float64)
    circle = torch.stack((angle.cos(), angle.sin()), dim=1)
    edge = circle if norm == "l2" else circle / circle.abs().amax(dim=1, keepdim=True)  # the extremes of a linear score
    points = inputs[:, None] + radius * edge[None, :, :, None]
    fooled = (model(points.flatten(0, 1)).argmax(dim=1).reshape(60, 4000) != labels[:, None]).any(dim=1)
    result = Square(radius, norm=norm, queries=300)(model, inputs, labels, generator=generator())
    assert 10 < int(fooled.sum()) < 50
    assert torch.equal(wrong_answers(model(result), labels), fooled)


def test_l2_same_seed_same_bits_and_lengths_do_not_shift_the_draws(make_inputs):
    inputs = make_inputs()
    labels = curved(inputs).argmax(dim=1)
    attack = Square(0.02, norm="l2", queries=30)
    one, two, other = (attack(curved, inputs, labels, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    short = attack(curved, inputs, labels, generator=generator(), lengths=torch.tensor([2, 1, 3, 5, 5, 5]))
    assert torch.equal(short[3:], one[3:]) and not torch.equal(short[:3], one[:3])
    halves = [
        attack(curved, inputs[rows], labels[rows], generator=PathDraws(seed=1, first_row=rows.start))
        for rows in (slice(0, 3), slice(3, 6))
    ]
    assert torch.equal(torch.cat(halves), attack(curved, inputs, labels, generator=PathDraws(seed=1)))


def test_l2_radius_in_units_of_the_scale_is_the_root_mean_square_of_the_change(make_inputs):
    inputs, lengths = make_inputs(batch=3), torch.tensor([5, 2, 4])
    scale = Scale(mean=(1.0, 2.0), std=(0.5, 4.0), low=(0.0, 0.0), high=(1.0, 1.0))
    result = Square(0.3, norm="l2", queries=20, scale=scale)(
        lambda x, lengths: curved(x) + torch.tensor([500.0, 0.0]),
        inputs,
        torch.zeros(3, dtype=torch.long),
        generator=generator(),
        lengths=lengths,
    )
    change = ((result - inputs) / torch.tensor([0.5, 4.0], dtype=torch.float64)).flatten(1).norm(dim=1)
    torch.testing.assert_close(change, 0.3 * (2 * lengths.double()).sqrt())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 1}, r"^queries must be at least 2, got 1\.$"),
        ({"norm": "l1"}, r"^norm must be one of l2, linf, got 'l1'"),
        ({"initial_share": 0.0}, r"^initial_share must be greater than 0, got 0\.$"),
        ({"initial_share": 1.5}, r"^initial_share must be at most 1, got 1\.5\.$"),
        ({"initial_share": math.nan}, r"^initial_share must be finite and greater than 0, got nan\.$"),
    ],
)
def test_messages(options, message):
    with pytest.raises(ValueError, match=message):
        Square(0.1, **options)
