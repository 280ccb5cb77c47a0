import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisyrnn.robustness import PGD
from noisyrnn.robustness.gradient import sequence_losses

LABELS = torch.tensor([0, 1, 1, 0, 1, 0])
THREE = torch.tensor([0, 1, 2, 0, 1, 2])


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def margin(model, inputs):
    logits = model(inputs).detach()
    return logits[:, 1] - logits[:, 0]


def curved(inputs):
    """Two classes, many local maxima."""
    wave = (torch.sin(7 * inputs) + 0.3 * inputs).sum(dim=(1, 2))
    return torch.stack((wave, -wave), dim=1)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize("random_start", [False, True])
def test_linear_optimum_is_radius_times_dual_norm(linear, make_inputs, norm, dual, random_start):
    inputs = make_inputs()
    attack = PGD(0.2, norm=norm, random_start=random_start, steps=100, step_size=0.05)
    result = attack(linear, inputs, LABELS, generator=generator())
    expected = (1 - 2 * LABELS).double() * 0.2 * torch.linalg.vector_norm(linear.weight.detach(), dual)
    torch.testing.assert_close(margin(linear, result) - margin(linear, inputs), expected, rtol=1e-6, atol=1e-6)


def test_l2_norm_runs_over_the_valid_steps_of_a_sequence(linear, make_inputs):
    inputs, lengths = make_inputs(), torch.tensor([1, 2, 3, 4, 5, 5])
    result = PGD(0.2, norm="l2")(linear, inputs, LABELS, generator=generator(), lengths=lengths)
    torch.testing.assert_close((result - inputs).flatten(1).norm(dim=1), torch.full((6,), 0.2).double())


def test_l2_step_ignores_the_gradient_of_padding(linear, make_inputs):
    inputs, lengths = make_inputs(), torch.full((6,), 2)
    attack = PGD(9.0, norm="l2", steps=1, step_size=0.1, random_start=False)
    result = attack(lambda x, lengths: linear(x), inputs, LABELS, generator=generator(), lengths=lengths)
    torch.testing.assert_close((result - inputs).flatten(1).norm(dim=1), torch.full((6,), 0.1).double())


@pytest.mark.parametrize(
    ("norm", "name"), [("linf", "LinfProjectedGradientDescentAttack"), ("l2", "L2ProjectedGradientDescentAttack")]
)
def test_agrees_with_foolbox(recurrent, make_inputs, norm, name):
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    inputs = make_inputs()
    radius, steps, step_size = 0.1, 12, 0.015  # reaches the border and is projected onto it
    attack = getattr(foolbox.attacks, name)(abs_stepsize=step_size, steps=steps, random_start=False)
    theirs = attack.run(foolbox.PyTorchModel(recurrent, bounds=(-9, 9), device="cpu"), inputs, THREE, epsilon=radius)
    ours = PGD(radius, norm=norm, steps=steps, step_size=step_size, random_start=False)
    result = ours(recurrent, inputs, THREE, generator=generator())
    torch.testing.assert_close(result, theirs, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    radius=st.floats(1e-3, 3.0),
    step_size=st.floats(1e-3, 3.0),
    clip=st.booleans(),
    random_start=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_stays_in_its_ball_and_in_the_clip(norm, radius, step_size, clip, random_start, dtype, seed):
    inputs = torch.rand(4, 6, 2, generator=generator(seed), dtype=dtype)
    lengths = torch.tensor([6, 1, 3, 6])
    attack = PGD(
        radius, norm=norm, steps=4, step_size=step_size, clip=(0.0, 1.0) if clip else None, random_start=random_start
    )
    result = attack(
        lambda x, lengths: curved(x), inputs, torch.tensor([0, 1, 0, 1]), generator=generator(seed), lengths=lengths
    )
    offset = (result - inputs).double().flatten(1)
    size = offset.abs().amax(dim=1) if norm == "linf" else offset.norm(dim=1)
    assert float(size.max()) <= radius * (1 + 1e-6) + 1e-6  # rounding of float32 sums
    if clip:
        assert float(result.min()) >= 0 and float(result.max()) <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("change", ["steps", "restarts"])
def test_more_steps_or_restarts_never_weaken(make_inputs, norm, change):
    inputs, labels = make_inputs(batch=40), torch.arange(40) % 2
    losses = [sequence_losses(curved(inputs), labels)]
    for count in (1, 2, 3, 5, 8):
        # A large step overshoots, so the last iterate is often not the best one.
        attack = PGD(0.5, norm=norm, step_size=0.4, **{"steps": 3, change: count})
        losses.append(sequence_losses(curved(attack(curved, inputs, labels, generator=generator())), labels))
    stacked = torch.stack(losses)
    assert bool((stacked[1:] >= stacked[:-1]).all())
    assert float(stacked[-1].mean()) > float(stacked[1].mean()) > float(stacked[0].mean())


def test_misclassified_is_kept_though_a_correct_iterate_has_a_larger_loss():
    def model(inputs):
        far = inputs[:, 0] > 0.15
        near_logits = torch.tensor([0.0, 1.0] + [-20.0] * 30)  # wrong: class 1 leads, loss 1.3
        far_logits = torch.tensor([0.1] + [0.0] * 31)  # right: class 0 leads, loss 3.4
        return torch.where(far, far_logits, near_logits) + 0 * inputs[:, 0]

    inputs, labels = torch.zeros(1, 1, 1), torch.tensor([0])
    assert sequence_losses(model(inputs + 0.5), labels) > sequence_losses(model(inputs), labels)
    for seed in range(5):  # some starts are far
        result = PGD(0.5, restarts=4)(model, inputs, labels, generator=generator(seed))
        assert int(model(result).argmax()) == 1


def test_unperturbed_input_is_a_candidate(make_inputs):
    # The loss is largest at the input itself: every random start is worse.
    inputs = make_inputs()

    def peak(x):
        distance = (x - inputs).square().sum(dim=(1, 2))
        return torch.stack((distance, -distance), dim=1)

    result = PGD(0.5, steps=2, step_size=1e-6)(peak, inputs, torch.zeros(6, dtype=torch.long), generator=generator())
    assert torch.equal(result, inputs)


def test_tiny_float32_gradients_keep_their_direction():
    direction = PGD(1.0, norm="l2")._direction(torch.tensor([[[3e-30], [4e-30]]]))
    torch.testing.assert_close(direction.flatten(), torch.tensor([0.6, 0.8]))


def test_zero_gradient_moves_nothing(make_inputs):
    inputs = make_inputs()
    attack = PGD(0.5, norm="l2", random_start=False)
    result = attack(lambda x: 0 * x[:, 0], inputs, LABELS, generator=generator())
    assert torch.equal(result, inputs)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_start_is_uniform_in_the_ball(norm):
    n = 4000
    inputs = torch.zeros(n, 3, 2, dtype=torch.float64)
    lengths = torch.full((n,), 2)
    valid = (torch.arange(3) < lengths[:, None]).unsqueeze(-1)
    offset = PGD(2.0, norm=norm)._random_offset(inputs, valid, generator())
    size = offset.abs().amax(dim=(1, 2)) if norm == "linf" else offset.flatten(1).norm(dim=1)
    # In dimension 4 a share 2^-4 of the ball lies within half the radius; four standard errors.
    share = float((size <= 1.0).double().mean())
    assert abs(share - 1 / 16) < 4 * (1 / 16 * 15 / 16 / n) ** 0.5
    assert float(offset[:, 2].abs().max()) == 0
    assert float(size.max()) <= 2.0 + 1e-12
    assert float(offset[:, :2].mean(dim=0).abs().max()) < 5 * (4 / 3 / n) ** 0.5  # both signs; the largest of four
    variance = 4 / 3 if norm == "linf" else 4 / 6  # r²/3 of a cube's entry; r²/(d + 2) of a ball's
    assert abs(float(offset[:, :2].square().mean()) / variance - 1) < 0.05


def test_default_steps_fall_from_the_radius_along_a_cosine():
    """On a slope the steps are seen one by one: r, 0.75 r, 0.25 r of four, cut at the radius; here from far outside."""
    seen = []

    def slope(inputs):
        seen.append(float(inputs.detach()[0, 0, 0]))
        return torch.stack((-inputs[:, 0, 0], inputs[:, 0, 0]), dim=1)

    inputs, labels = torch.full((1, 1, 1), -7.0, dtype=torch.float64), torch.tensor([0])
    PGD(2.0, norm="l2", steps=3, random_start=False)(slope, inputs, labels, generator=generator())
    assert seen[:4] == [-7.0] * 4  # twice to see whether it answers alike, clean, and with its gradient
    assert seen[4:] == pytest.approx([-5.0, -5.0, -5.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l3"}, r"^norm must be one of l2, linf, got 'l3'"),
        ({"steps": 0}, r"^steps must be at least 1, got 0\.$"),
        ({"restarts": 0}, r"^restarts must be at least 1, got 0\.$"),
        ({"step_size": 0.0}, r"^step_size must be greater than 0, got 0\.$"),
        (
            {"restarts": 3, "random_start": False},
            r"^restarts must be 1 without random_start, got 3\. Set random_start=True\.$",
        ),
    ],
)
def test_messages(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(0.1, **settings)


@pytest.mark.parametrize("value", ["False", 0, None, 1.5])
def test_random_start_is_a_flag(value: object) -> None:
    with pytest.raises(TypeError, match="random_start"):
        PGD(0.1, random_start=value)  # type: ignore[arg-type]
