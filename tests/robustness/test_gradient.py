import math

import pytest
import torch

from noisyrnn.robustness.gradient import input_gradient, sequence_losses

LABELS = torch.tensor([0, 1, 1, 0, 1, 0])


def test_loss_is_the_log_odds_of_each_sequence():
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    expected = [math.log(math.e + math.e**4) - 2, math.log(2)]
    torch.testing.assert_close(sequence_losses(logits, torch.tensor([1, 0])), torch.tensor(expected).double())


def test_gradient_is_the_closed_form(linear, make_inputs):
    inputs = make_inputs()
    gradient, logits = input_gradient(linear, inputs, LABELS, None)
    margin = (inputs * linear.weight).sum(dim=(1, 2)).detach()
    slope = (1 - 2 * LABELS).double()  # of ±margin
    torch.testing.assert_close(gradient, slope[:, None, None] * linear.weight.detach().expand_as(inputs))
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], margin)


@pytest.mark.parametrize("size", [40.0, 1e4])
def test_confident_float32_model_keeps_its_direction(size):
    inputs = torch.full((1, 1, 1), size)
    gradient, _ = input_gradient(lambda x: torch.cat((-x[:, 0], x[:, 0] * 0), dim=1), inputs, torch.tensor([1]), None)
    assert gradient.item() == -1.0  # that of the cross-entropy is exp(-size): 0 for the larger one


def test_direction_is_that_of_the_cross_entropy(recurrent, make_inputs):
    inputs, labels = make_inputs(), torch.tensor([0, 1, 2, 0, 1, 2])
    gradient, _ = input_gradient(recurrent, inputs, labels, None)
    leaf = inputs.clone().requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(recurrent(leaf), labels, reduction="sum")
    (expected,) = torch.autograd.grad(loss, leaf)
    for one, other in zip(gradient, expected, strict=True):
        torch.testing.assert_close(one / one.norm(), other / other.norm())


def test_an_unused_input_has_a_zero_gradient(make_inputs):
    weight = torch.ones(2, requires_grad=True)
    gradient, _ = input_gradient(lambda x: weight.expand(6, 2), make_inputs(), LABELS, None)
    assert torch.equal(gradient, torch.zeros(6, 5, 2, dtype=torch.float64))


def test_messages(linear, make_inputs):
    with pytest.raises(
        RuntimeError, match=r"^logits must depend on the inputs through torch operations, got logits without"
    ):
        input_gradient(lambda x: linear(x).detach(), make_inputs(), LABELS, None)
    with pytest.raises(
        RuntimeError, match=r"^logits must depend .*, got a model that computes in NumPy\. Use Square\.$"
    ):
        input_gradient(lambda x: torch.from_numpy(x.numpy()[:, 0]), make_inputs(), LABELS, None)
    inputs = make_inputs()
    inputs[:2] = 0.0
    with pytest.raises(RuntimeError, match=r"^gradient of the loss became non-finite for 2 of 6 sequences\. Lower"):
        input_gradient(lambda x: torch.sqrt(x[:, 0]), inputs, LABELS, None)
