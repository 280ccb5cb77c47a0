"""Strengths in units of each channel: independent of the unit and the offset of the data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split
from noisyrnn.models import NoisyRNN, SequenceClassifier
from noisyrnn.robustness import (
    FGSM,
    PERTURBATIONS,
    PGD,
    SaltAndPepper,
    Square,
    WhiteNoise,
    build_perturbation,
    evaluate,
)
from noisyrnn.robustness.standardized_values import StandardizedValues

LENGTHS = torch.tensor([7, 4, 9, 1, 9, 6])
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])
SCALES = {
    "hundred": ((50.0,), (30.0,)),
    "volts": ((2e-3,), (5e-4,)),
    "offset": ((1e6,), (2.0,)),
    "unlike": ((1e6, -3e-3, 7.0), (2.0, 1e-5, 4e4)),
}


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=SCALES)
def case(request):
    """Sequences of unequal lengths in some unit, float64, and the centre and scale of each channel."""
    center, scale = SCALES[request.param]
    values = torch.randn(6, 9, len(scale), generator=generator(), dtype=torch.float64)
    valid = (torch.arange(9) < LENGTHS[:, None]).unsqueeze(-1)
    return (
        torch.where(
            valid, torch.tensor(center, dtype=torch.float64) + torch.tensor(scale, dtype=torch.float64) * values, 0.0
        ).double(),
        center,
        scale,
    )


def scale_of(center, scale):
    low, high = (tuple(c + k * s for c, s in zip(center, scale, strict=True)) for k in (-3, 3))
    return Scale(mean=center, std=scale, low=low, high=high)


def linear(center, scale, weight=1.0):
    """Logits (-m, m) of the weighted sum of the standardized values."""

    def model(inputs, lengths=None):
        valid = (torch.arange(inputs.shape[1]) < lengths[:, None]).unsqueeze(-1)
        standardized = (inputs - torch.tensor(center, dtype=torch.float64)) / torch.tensor(scale, dtype=torch.float64)
        margin = (standardized * valid * weight).sum(dim=(1, 2))
        return torch.stack((-margin, margin), dim=1)

    return model


def changed(name, strength, case, dtype=torch.float64):
    """(x' - x) / s of one perturbation."""
    inputs, center, scale = case
    inputs = inputs.to(dtype)
    perturbation = build_perturbation(name, strength, scale=scale_of(center, scale))
    model = linear(center, scale)
    result = perturbation(model, inputs, LABELS, generator=generator(3), lengths=LENGTHS)
    assert result.dtype == dtype
    assert torch.equal(result[torch.arange(9) >= LENGTHS[:, None]], inputs[torch.arange(9) >= LENGTHS[:, None]])
    return (result.double() - inputs.double()) / torch.tensor(scale, dtype=torch.float64), result


def test_white_noise_is_k_standard_deviations(case):
    moved, _ = changed("white_noise", 0.2, case)
    draw = torch.randn(case[0].shape, generator=generator(3), dtype=torch.float64)
    valid = (torch.arange(9) < LENGTHS[:, None]).unsqueeze(-1)
    torch.testing.assert_close(moved, 0.2 * draw * valid, rtol=0, atol=1e-4)  # 1e6 leaves ten digits


def test_multiplicative_noise_acts_on_the_standardized_value(case):
    inputs, center, scale = case
    moved, _ = changed("multiplicative_noise", 0.4, case)
    draw = torch.randn(inputs.shape, generator=generator(3), dtype=torch.float64)
    standardized = (inputs - torch.tensor(center, dtype=torch.float64)) / torch.tensor(scale, dtype=torch.float64)
    valid = (torch.arange(9) < LENGTHS[:, None]).unsqueeze(-1)
    torch.testing.assert_close(moved, 0.4 * draw * standardized * valid, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["fgsm", "pgd_linf"])
def test_a_radius_is_k_standard_deviations_of_each_channel(name, case):
    moved, _ = changed(name, 0.2, case)
    valid = (torch.arange(9) < LENGTHS[:, None]).unsqueeze(-1)
    uphill = torch.where(LABELS == 0, 0.2, -0.2)[:, None, None] * valid  # every value, in every unit
    torch.testing.assert_close(moved, uphill.expand_as(moved).double(), rtol=0, atol=1e-4)


def test_an_l2_radius_grows_with_the_root_of_the_number_of_values(case):
    moved, _ = changed("pgd_l2", 0.2, case)
    values = LENGTHS * len(case[2])
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), 0.2 * values.double().sqrt(), rtol=1e-4, atol=0)


def test_salt_and_pepper_takes_the_quantiles_of_its_channel(case):
    _, result = changed("salt_and_pepper", 1.0, case)
    center, scale = (torch.tensor(one, dtype=torch.float64) for one in case[1:])
    for row, length in enumerate(LENGTHS.tolist()):
        for channel in range(len(scale)):
            ends = {float(center[channel] + k * scale[channel]) for k in (-3, 3)}
            assert all(min(abs(v - e) / scale[channel] for e in ends) < 1e-6 for v in result[row, :length, channel])


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_channel_that_never_varies_is_left_alone_and_does_not_count(name, recurrent):
    center, scale = (3.0, 5.0), (0.0, 2.0)
    inputs = torch.stack([torch.full((6, 9), 3.0), torch.randn(6, 9, generator=generator()) + 5], dim=2).double()
    scaling = Scale(mean=center, std=scale, low=(3.0, 1.0), high=(3.0, 9.0))
    result = build_perturbation(name, 0.5, scale=scaling)(
        recurrent, inputs, LABELS, generator=generator(), lengths=LENGTHS
    )
    assert torch.equal(result[..., 0], inputs[..., 0]) and not torch.equal(result, inputs)
    if name == "pgd_l2":
        size = ((result - inputs) / 2)[..., 1].norm(dim=1)
        assert bool((size <= 0.5 * LENGTHS.double().sqrt() * (1 + 1e-9)).all())
        assert bool((size > 0.49 * LENGTHS.double().sqrt()).any())


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_strength_zero_and_constant_data_change_nothing(name, recurrent, make_inputs):
    inputs = make_inputs()
    for strength, std in ((0.0, 1.0), (0.5, 0.0)):
        scale = Scale(mean=(0.0, 0.0), std=(std, std), low=(0.0, 0.0), high=(0.0, 0.0))
        if name in ("salt_and_pepper", "missing_values", "missing_blocks") and strength:
            continue  # a probability has no unit
        result = build_perturbation(name, strength, scale=scale)(recurrent, inputs, LABELS, generator=generator())
        assert torch.equal(result, inputs) and result is not inputs


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_another_unit_and_offset_give_the_same_accuracy(name):
    """A model of standardized values is as robust in volts as in percent."""
    values = torch.randn(60, 9, 2, generator=generator(), dtype=torch.float64)
    weight = torch.arange(1, 19, dtype=torch.float64).reshape(9, 2).sqrt()  # no two points of a search are as good
    labels = ((values * weight).sum(dim=(1, 2)) > 0).long()
    found = []
    for center, scale in (((0.0, 0.0), (1.0, 1.0)), ((4e5, -2e-3), (3e2, 1e-5))):
        inputs = torch.tensor(center, dtype=torch.float64) + torch.tensor(scale, dtype=torch.float64) * values
        split = Split(inputs=inputs, labels=labels, lengths=torch.full((60,), 9), classes=2)
        perturbation = build_perturbation(name, 0.3, scale=scale_of(center, scale))
        if isinstance(perturbation, Square):
            perturbation = replace(perturbation, queries=50)  # takes long, and finds the same with fewer
        found.append(evaluate(linear(center, scale, weight), split, perturbation, draws=3))
    assert found[0].correct == found[1].correct and 0 < found[0].accuracy < 1
    assert all(one.moved for one in found)


def test_float32_far_from_zero_is_moved_in_its_own_steps():
    """Steps of float32 near 1e6 are 1/16: noise of 2 moves, noise of 1e-3 moves nothing and is noticed."""
    inputs = torch.full((4, 50, 1), 1e6)
    split = Split(inputs=inputs, labels=torch.tensor([0, 1, 0, 1]), classes=2)
    for std, moved in ((10.0, True), (0.005, False)):
        scale = Scale(mean=(1e6,), std=(std,), low=(1e6 - std,), high=(1e6 + std,))
        for name in ("white_noise", "fgsm", "pgd_linf", "pgd_l2"):
            result = evaluate(
                lambda x: (x - 1e6)[:, 0] * torch.tensor([-1.0, 1.0]), split, build_perturbation(name, 0.2, scale=scale)
            )
            assert result.moved is moved, name


@pytest.mark.parametrize("factor", [None, torch.arange(1.0, 7.0)])
def test_some_rows_of_standardized_values(case, factor):
    inputs, center, scale = case
    values = StandardizedValues(inputs, scale_of(center, scale), factor)
    model, rows = values.view(lambda x, lengths: x * lengths[:, None, None]), torch.tensor([4, 0, 1])
    changed_values = values.values + 0.25
    whole = model(changed_values, lengths=LENGTHS)
    assert torch.equal(model.take(rows)(changed_values[rows], lengths=LENGTHS[rows]), whole[rows])
    assert torch.equal(values.take(rows).values, values.values[rows])


def test_repr_holds_the_scale():
    scale = scale_of((1.0, 2.0), (3.0, 4.0))
    perturbation = build_perturbation("pgd_l2", 0.2, scale=scale)
    assert perturbation == PGD(0.2, norm="l2", scale=scale)
    assert eval(repr(perturbation), {"Scale": Scale, "PGD": PGD}) == perturbation


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_unit_of_the_strength_has_a_name(name):
    units = {"multiplicative_noise": "of (x − m)", "salt_and_pepper": "", "missing_values": "", "missing_blocks": ""}
    other = "s√n" if name.endswith("l2") else "s"
    assert build_perturbation(name, 0.2, scale=scale_of((1.0,), (3.0,))).unit == units.get(name, other)
    assert build_perturbation(name, 0.2, value_range=(0.0, 1.0)).unit == ""


def test_a_model_with_steps_first_is_attacked_as_any_other():
    torch.manual_seed(0)
    models = [SequenceClassifier(NoisyRNN(2, 6, step_size=1.0, batch_first=first), 3).eval() for first in (True, False)]
    models[1].load_state_dict(models[0].state_dict())
    inputs, scale = torch.randn(6, 6, 2, generator=generator()), scale_of((0.1, 0.2), (1.0, 2.0))
    one, other = (FGSM(0.3, scale=scale)(model, inputs, LABELS, generator=generator()) for model in models)
    torch.testing.assert_close(one, other)


def test_messages(make_inputs):
    scale = scale_of((0.0,), (1.0,))
    with pytest.raises(ValueError, match=r"^inputs must have 1 channels, those of scale, got 2\.$"):
        WhiteNoise(0.1, scale=scale)(None, make_inputs(), LABELS, generator=generator())
    with pytest.raises(ValueError, match=r"^clip must be None with a scale, got \(0, 1\)\. Leave one of them out\.$"):
        WhiteNoise(0.1, clip=(0, 1), scale=scale)
    with pytest.raises(ValueError, match=r"^scale must be None for salt and pepper, got a Scale\. Set low=scale\.low"):
        SaltAndPepper(0.1, scale=scale)
    with pytest.raises(ValueError, match=r"^clip must be false for data that state no range of values, got true\."):
        build_perturbation("fgsm", 0.1, scale=scale, clip=True)
    with pytest.raises(TypeError, match=r"^scale must be a Scale where value_range is None, got None\."):
        build_perturbation("fgsm", 0.1)


class TestScale:
    def test_messages(self):
        with pytest.raises(ValueError, match=r"^std must hold one number for each of 1 channels, got 2\.$"):
            Scale(mean=(0.0,), std=(1.0, 1.0), low=(0.0,), high=(0.0,))
        with pytest.raises(ValueError, match="std"):
            Scale(mean=(0.0,), std=(-1.0,), low=(0.0,), high=(0.0,))

    def test_statistics_of_the_valid_steps(self):
        rng = np.random.default_rng(0)
        rows = [rng.normal([5e5, -2e-3], [3.0, 1e-4], size=(length, 2)) for length in rng.integers(20, 60, size=80)]
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        split = Split(
            inputs=padded, labels=torch.arange(80) % 2, lengths=torch.tensor([len(row) for row in rows]), classes=2
        )
        scale, values = Scale.of(split), np.concatenate(rows)
        np.testing.assert_allclose(scale.mean, values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(scale.std, values.std(0), rtol=1e-6)
        np.testing.assert_allclose(scale.low, np.quantile(values, 0.001, axis=0), rtol=1e-12)
        np.testing.assert_allclose(scale.high, np.quantile(values, 0.999, axis=0), rtol=1e-12)

    def test_a_constant_channel_has_scale_zero_whatever_its_value(self):
        inputs = torch.full((30, 7, 1), 0.1, dtype=torch.float64) + torch.tensor(1e6)  # its mean is rounded
        scale = Scale.of(Split(inputs=inputs, labels=torch.arange(30) % 2, classes=2))
        assert scale.std == (0.0,) and scale.low == scale.high

    def test_a_sequence_counts_by_its_weight(self):
        inputs = torch.randn(40, 50, 2, generator=generator(), dtype=torch.float64)
        copies = torch.arange(40) % 4
        inputs[copies == 0] = 1e9  # weight 0: as if it were not there
        labels = torch.arange(40) % 2
        weighted = Scale.of(Split(inputs=inputs, labels=labels, weights=copies.float(), classes=2))
        rows = torch.repeat_interleave(torch.arange(40), copies)
        values = inputs[rows].flatten(0, 1).numpy()
        np.testing.assert_allclose(weighted.mean, values.mean(0), rtol=1e-9)
        np.testing.assert_allclose(weighted.std, values.std(0), rtol=1e-9)
        expected = np.quantile(values, [0.001, 0.999], axis=0, method="inverted_cdf")
        np.testing.assert_allclose([weighted.low, weighted.high], expected)
