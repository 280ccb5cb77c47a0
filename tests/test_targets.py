import pytest
import torch

from noisyrnn.targets import at_every_step, counted, largest_share, mark_uncounted, mean_over_steps, without_marks

MASK = torch.tensor([[True, False, True], [False, False, True]])
CLASSES = torch.tensor([[1, 7, 0], [9, -4, 2]])
VALUES = torch.arange(12.0).reshape(2, 3, 2)


@pytest.mark.parametrize(
    ("targets", "every_step"),
    [(CLASSES[0], False), (CLASSES, True), (VALUES[0], False), (VALUES, True)],
)
def test_type_and_axes_tell_targets_at_every_step(targets: torch.Tensor, every_step: bool) -> None:
    assert at_every_step(targets) is every_step


def test_marks_hold_the_mask() -> None:
    assert mark_uncounted(CLASSES, MASK).tolist() == [[1, -1, 0], [-1, -1, 2]]
    for targets in (CLASSES, VALUES):
        marked = mark_uncounted(targets, MASK)
        assert torch.equal(counted(marked), MASK)
        known = without_marks(marked)
        assert torch.equal(known[MASK], targets[MASK]) and not known[~MASK].any()


def test_a_mean_over_steps_is_that_of_the_counted_ones() -> None:
    values = torch.tensor([[1.0, torch.nan, 2.0], [torch.inf, 5.0, 4.0]])
    for targets in (CLASSES, VALUES):
        assert mean_over_steps(values, mark_uncounted(targets, MASK)).tolist() == [1.5, 4.0]
    right = torch.tensor([[True, True, False], [True, True, True]])
    assert mean_over_steps(right, mark_uncounted(CLASSES, MASK)).tolist() == [0.5, 1.0]
    one_each = values[:, 0]
    assert mean_over_steps(one_each, CLASSES[:, 0]) is one_each


def test_a_step_that_does_not_count_has_no_gradient() -> None:
    values = torch.tensor([[1.0, 3.0, 2.0], [7.0, 5.0, 4.0]], requires_grad=True)
    mean_over_steps(values, mark_uncounted(CLASSES, MASK)).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [[0.5, 0, 0.5], [0, 0, 1]]


def test_the_largest_share_is_the_accuracy_of_the_commonest_class() -> None:
    classes, weights = torch.tensor([0, 0, 0, 1]), torch.tensor([1.0, 1.0, 1.0, 9.0])
    assert largest_share(classes, 2) == 0.75 == largest_share(classes, 2, weights)
    steps = torch.tensor([[0, 0, 1, -1], [1, 1, 1, 1]])  # shares of 1: a third, and all
    assert largest_share(steps, 2) == pytest.approx((1 / 3 + 1) / 2)
