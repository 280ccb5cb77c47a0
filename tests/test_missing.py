"""Values that take the place of missing ones."""

import functools

import pytest
import torch

from noisyrnn.missing import hold_last, hold_last_or_next, missing_of

NAN = float("nan")
VALUES = torch.tensor(
    [[[NAN, 1.0, NAN], [2.0, NAN, NAN], [NAN, NAN, NAN], [3.0, 4.0, NAN]], [[5.0, NAN, 6.0]] + [[NAN, NAN, 7.0]] * 3]
)


def held(values: torch.Tensor, start: float, *, following: bool) -> torch.Tensor:
    """The definition, value by value."""
    result = values.clone()
    for row in range(values.shape[0]):
        for channel in range(values.shape[2]):
            known = values[row, :, channel][~values[row, :, channel].isnan()]
            last = float(known[0]) if following and len(known) else start
            for step in range(values.shape[1]):
                value = float(values[row, step, channel])
                last = last if value != value else value
                result[row, step, channel] = last
    return result


def test_the_last_value_is_held() -> None:
    assert torch.equal(hold_last(VALUES), held(VALUES, 0.0, following=False))
    starts = torch.tensor([10.0, 20.0, 30.0])
    expected = torch.where(hold_last(VALUES, 99.0) == 99.0, starts, hold_last(VALUES))
    assert torch.equal(hold_last(VALUES, starts), expected)
    assert hold_last(VALUES, starts)[0, :, 2].tolist() == [30.0] * 4


def test_before_the_first_value_comes_the_next_one() -> None:
    assert torch.equal(hold_last_or_next(VALUES), held(VALUES, 0.0, following=True))


def test_complete_values_are_left_unchanged() -> None:
    values = torch.randn(3, 4, 2)
    assert torch.equal(hold_last(values), values) and torch.equal(hold_last_or_next(values), values)


def test_the_gradient_of_a_held_value_goes_to_the_measured_one() -> None:
    values = VALUES.clone().requires_grad_()
    weight = torch.arange(1.0, 25.0).reshape(2, 4, 3)
    (hold_last(values) * weight).sum().backward()
    assert values.grad is not None
    assert values.grad[0, 0].tolist() == [0.0, float(weight[0, :3, 1].sum()), 0.0]
    assert values.grad[0, 1].tolist() == [float(weight[0, 1:3, 0].sum()), 0.0, 0.0]
    assert bool((values.grad[VALUES.isnan()] == 0).all())


def test_it_runs_under_vmap() -> None:
    stacked = torch.stack([VALUES, VALUES + 1])
    assert torch.equal(torch.func.vmap(hold_last)(stacked), torch.stack([hold_last(each) for each in stacked]))


@pytest.mark.parametrize("missing", ["hold", None])
def test_a_model_states_how_it_meets_them(missing: str | None) -> None:
    def model() -> None: ...

    model.missing = missing  # type: ignore[attr-defined]
    assert missing_of(functools.partial(functools.partial(model), 1)) == missing
    assert missing_of(len) is None
