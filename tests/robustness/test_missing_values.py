"""Values that are missing at random, one by one or for a while."""

import pytest
import torch
from scipy import stats

from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split
from noisyrnn.models import NoisyRNN, SequenceClassifier
from noisyrnn.models.missing import layer_channels
from noisyrnn.robustness import MissingValues, PathDraws, build_perturbation, evaluate

LABELS = torch.tensor([0])


class Aware:
    """A model that states that it meets missing values."""

    missing = "hold"

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        raise AssertionError("noise does not call the model")


def removed(p: float, *, block: int = 1, seed: int = 1, shape: tuple[int, ...] = (500, 40, 2)) -> torch.Tensor:
    inputs = torch.zeros(shape)
    generator = torch.Generator().manual_seed(seed)
    return MissingValues(p, block=block)(Aware(), inputs, torch.zeros(shape[0]).long(), generator=generator).isnan()


def test_each_value_is_missing_by_itself() -> None:
    found = removed(0.3)
    low, high = stats.binom.interval(1 - 6e-5, found.numel(), 0.3)  # four standard errors
    assert low <= int(found.sum()) <= high
    both = int((found[..., 0] & found[..., 1]).sum())
    low, high = stats.binom.interval(1 - 6e-5, found[..., 0].numel(), 0.09)
    assert low <= both <= high
    pairs = int((found[:, 1:] & found[:, :-1]).sum())
    low, high = stats.binom.interval(1 - 6e-5, found[:, 1:].numel(), 0.09)
    assert low <= pairs <= high


def test_an_outage_takes_all_channels_for_a_while() -> None:
    """Blocks are of the given length, begin anywhere, and each step is missing with the given probability."""
    found = removed(0.3, block=5, shape=(4000, 23, 2))
    assert torch.equal(found[..., 0], found[..., 1])
    rates = found[..., 0].double().mean(dim=0)
    error = (0.3 * 0.7 / 4000) ** 0.5
    assert bool(((rates - 0.3).abs() < 4.5 * error).all()), rates
    changes = found[:, 1:, 0] != found[:, :-1, 0]
    for row in changes.nonzero()[:, 0].unique()[:200].tolist():
        places = changes[row].nonzero()[:, 0]
        assert bool((places.diff() % 5 == 0).all())
    begins = changes.nonzero()[:, 1] % 5
    assert bool((begins.bincount(minlength=5) > 0).all())


@pytest.mark.parametrize("block", [1, 4, 50])
def test_a_larger_probability_removes_what_a_smaller_one_does(block: int) -> None:
    small, large = removed(0.1, block=block), removed(0.3, block=block)
    assert bool((large | ~small).all()) and int(large.sum()) > int(small.sum()) > 0
    assert bool(removed(1.0, block=block).all())


def test_a_model_without_a_setting_gets_the_last_value_and_the_fill_before_the_first() -> None:
    inputs = 1 + torch.arange(24.0).reshape(2, 6, 2)
    perturb = MissingValues(0.6, fill=(-1.0, -2.0))
    aware, plain = (
        perturb(model, inputs, torch.tensor([0, 1]), generator=torch.Generator().manual_seed(5))
        for model in (Aware(), None)
    )
    for row in range(2):
        for channel in range(2):
            last = (-1.0, -2.0)[channel]
            for step in range(6):
                last = last if aware[row, step, channel].isnan() else float(inputs[row, step, channel])
                assert float(plain[row, step, channel]) == last
    assert bool(aware.isnan().any()) and bool((plain < 0).any())


def test_the_channel_mean_of_the_training_data_is_the_fill() -> None:
    scale = Scale(mean=(4.0, 5.0), std=(1.0, 1.0), low=(0.0, 0.0), high=(9.0, 9.0))
    assert build_perturbation("missing_values", 0.2, scale=scale) == MissingValues(0.2, fill=(4.0, 5.0))
    assert build_perturbation("missing_blocks", 0.2, scale=scale) == MissingValues(0.2, block=10, fill=(4.0, 5.0))
    assert build_perturbation("missing_values", 0.2, value_range=(0.0, 255.0)) == MissingValues(0.2)
    assert build_perturbation("missing_values", 0.2, value_range=(3.0, 5.0)) == MissingValues(0.2, fill=3.0)


@pytest.mark.parametrize("block", [1, 10])
def test_a_part_of_a_batch_has_the_draws_of_the_whole(block: int) -> None:
    """As processes of one training have them."""
    inputs = torch.randn(6, 12, 2)
    perturb = MissingValues(0.4, block=block)
    strengths = torch.full((6,), 0.4)
    whole = perturb.with_strengths(inputs, strengths, generator=PathDraws(3), model=Aware())
    part = perturb.with_strengths(inputs[2:], strengths[2:], generator=PathDraws(3, first_row=2), model=Aware())
    assert torch.equal(whole[2:].isnan(), part.isnan()) and bool(part.isnan().any())
    held = perturb.with_strengths(inputs, strengths, generator=PathDraws(3))
    assert torch.equal(held[~whole.isnan()], inputs[~whole.isnan()]) and bool(torch.isfinite(held).all())


@pytest.mark.parametrize("missing", ["mask", "hold", "skip"])
def test_a_model_with_a_setting_is_evaluated_by_it(missing: str) -> None:
    """The answers are those to the sequences with NaN; a model without one is evaluated on held values."""
    torch.manual_seed(0)
    model = SequenceClassifier(NoisyRNN(layer_channels(1, missing), 6), 2, missing=missing).eval()
    generator = torch.Generator().manual_seed(2)
    inputs, labels = torch.randn(40, 15, 1, generator=generator), torch.randint(2, (40,), generator=generator)
    split = Split(inputs=inputs, labels=labels, classes=2)
    seen = []

    def spy(values: torch.Tensor) -> torch.Tensor:
        seen.append(values.clone())
        return model(values)

    spy.missing = missing  # type: ignore[attr-defined]
    result = evaluate(spy, split, MissingValues(0.3), draws=2)
    assert result.moved and any(bool(values.isnan().any()) for values in seen)
    assert result.accuracy == evaluate(model, split, MissingValues(0.3), draws=2).accuracy
    del spy.missing  # type: ignore[attr-defined]
    seen.clear()
    evaluate(spy, split, MissingValues(0.3), draws=2)
    assert not any(bool(values.isnan().any()) for values in seen)


def test_a_model_trained_on_the_last_step_suffers_where_it_is_missing() -> None:
    """A class that is the sign of the last value: right where it is there, else decided by the one before."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 5, 1, generator=generator, dtype=torch.float64)
    split = Split(inputs=inputs, labels=(inputs[:, -1, 0] > 0).long(), classes=2)

    def model(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([-values[:, -1], values[:, -1]], dim=1)

    accuracy = evaluate(model, split, MissingValues(0.4), draws=1).accuracy
    # Kept with 0.6; else right with 1/2, also if a value before it is held. All missing (0.01): the fill, class 0.
    assert abs(accuracy - 0.8) < 4 * (0.8 * 0.2 / 2000) ** 0.5


def test_messages() -> None:
    with pytest.raises(ValueError, match=r"^strength must"):
        MissingValues(1.5)
    with pytest.raises(ValueError, match=r"^block must be at least 1"):
        MissingValues(0.5, block=0)
    with pytest.raises(ValueError, match=r"^scale must be None for missing values"):
        MissingValues(0.5, scale=Scale(mean=(0.0,), std=(1.0,), low=(0.0,), high=(1.0,)))
    with pytest.raises(TypeError, match=r"^fill must be a number"):
        MissingValues(0.5, fill="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^inputs must have 2 channels, those of fill, got 1\.$"):
        MissingValues(0.5, fill=(0.0, 1.0))(None, torch.zeros(1, 3, 1), LABELS, generator=torch.Generator())
