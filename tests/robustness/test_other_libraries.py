"""Attack libraries wrap a model in their own ways, some in training mode: the hidden noise must stay off."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noisyrnn.models import NoisyRNN, SequenceClassifier

LABELS = torch.tensor([0, 2, 1])


@pytest.fixture
def model() -> SequenceClassifier:
    torch.manual_seed(0)
    layer = NoisyRNN(2, 6, step_size=0.3, init_std=2.0, additive=0.5, multiplicative=0.5)
    return SequenceClassifier(layer, 3, mean=torch.tensor([0.1, -0.2]), std=torch.tensor([0.7, 1.3])).eval()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1))


def expected(model: SequenceClassifier, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Noise-free logits, and the gradient of the mean cross-entropy in the inputs."""
    leaf = inputs.clone().requires_grad_(True)
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, LABELS), leaf)
    return logits.detach(), gradient


def test_foolbox_sees_the_noise_free_model(model: SequenceClassifier, inputs: Tensor) -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    logits, gradient = expected(model, inputs)
    wrapped = foolbox.PyTorchModel(model, bounds=(-9, 9), device="cpu")
    torch.testing.assert_close(wrapped(inputs), logits)
    leaf = inputs.clone().requires_grad_(True)
    (theirs,) = torch.autograd.grad(nn.functional.cross_entropy(wrapped(leaf), LABELS), leaf)
    torch.testing.assert_close(theirs, gradient)
    moved = foolbox.attacks.FGSM().run(wrapped, inputs, LABELS, epsilon=0.1)
    torch.testing.assert_close(moved, inputs + 0.1 * gradient.sign(), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("switch", ["auto", "off"])
def test_art_sees_the_noise_free_model(model: SequenceClassifier, inputs: Tensor, switch: str) -> None:
    """It puts recurrent layers, and them alone, in training mode to differentiate them."""
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification import PyTorchClassifier

    model.layer.noise_mode = switch
    logits, gradient = expected(model, inputs)
    wrapped = PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=(5, 2), nb_classes=3, device_type="cpu", clip_values=(-9.0, 9.0)
    )
    np.testing.assert_allclose(wrapped.predict(inputs.numpy()), logits.numpy(), atol=1e-6)
    one_hot = np.eye(3, dtype=np.float32)[LABELS]
    theirs = wrapped.loss_gradient(inputs.numpy(), one_hot)
    np.testing.assert_allclose(theirs, gradient.numpy(), atol=1e-6)
    moved = FastGradientMethod(wrapped, eps=0.1).generate(inputs.numpy(), one_hot)
    np.testing.assert_allclose(moved, (inputs + 0.1 * gradient.sign()).numpy(), atol=1e-6)


def test_a_recurrent_layer_in_training_mode_stays_silent(model: SequenceClassifier, inputs: Tensor) -> None:
    logits, _ = expected(model, inputs)
    model.layer.train()
    torch.testing.assert_close(model(inputs), logits)
    model.train()
    assert not torch.allclose(model(inputs), logits)
