import pytest
import torch

from noisyrnn.robustness import FGSM

LABELS = torch.tensor([0, 1, 1, 0, 1, 0])


def margin(model, inputs):
    logits = model(inputs).detach()
    return logits[:, 1] - logits[:, 0]


def test_linear_margin_moves_by_radius_times_l1_norm(linear, make_inputs):
    inputs = make_inputs()
    result = FGSM(0.2)(linear, inputs, LABELS, generator=torch.Generator())
    expected = (1 - 2 * LABELS).double() * 0.2 * linear.weight.detach().abs().sum()
    torch.testing.assert_close(margin(linear, result) - margin(linear, inputs), expected)


def test_uses_lengths(linear, make_inputs):
    inputs, lengths = make_inputs(), torch.full((6,), 2)
    result = FGSM(0.2)(linear, inputs, LABELS, generator=torch.Generator(), lengths=lengths)
    sign = -(2 * LABELS - 1)[:, None, None] * linear.weight.detach().sign()[:2]
    torch.testing.assert_close(result[:, :2], inputs[:, :2] + 0.2 * sign)


def test_agrees_with_foolbox(recurrent, make_inputs):
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    inputs, labels = make_inputs(), torch.tensor([0, 1, 2, 0, 1, 2])
    theirs = foolbox.attacks.FGSM().run(
        foolbox.PyTorchModel(recurrent, bounds=(-9, 9), device="cpu"), inputs, labels, epsilon=0.1
    )
    ours = FGSM(0.1)(recurrent, inputs, labels, generator=torch.Generator())
    assert float((ours - inputs).abs().max()) > 0.05
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
