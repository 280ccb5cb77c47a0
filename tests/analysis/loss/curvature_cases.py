"""Small models, their data and their Hessians written out, for the tests of curvature."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from noisyrnn.data.split import Split
from noisyrnn.models import SequenceClassifier, build_layer


def classifier(name: str = "lipschitz", *, hidden: int = 4, seed: int = 0) -> SequenceClassifier:
    """A classifier of two channels into three classes, float64, in eval mode, with weights large enough to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SequenceClassifier(build_layer(name, 2, hidden, {}), 3).double().eval()
        model.layer.kernel = "reference"
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.split(".")[-1] in ("B", "C", "weight"):
                nn.init.normal_(parameter, std=0.7)
            if parameter_name.endswith("threshold"):
                nn.init.uniform_(parameter, 0.1, 0.2)
            if parameter_name.endswith("step"):
                nn.init.uniform_(parameter, 0.2, 0.4)
    return model


def sequences(*, count: int = 7, steps: int = 5, ragged: bool = False, seed: int = 1) -> Split:
    """Random sequences of two channels in three classes; of unequal lengths if `ragged`, with ones behind the ends."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, steps, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (count,), generator=generator)
    lengths = torch.arange(count) % steps + 1 if ragged else None
    if lengths is not None:
        inputs[torch.arange(steps) >= lengths[:, None]] = 1.0
    return Split(inputs=inputs, labels=labels, lengths=lengths, classes=3)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat_weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainable(model)])


def loss_at(model: nn.Module, split: Split, weights: Tensor) -> Tensor:
    """The mean cross-entropy with other weights, one sequence after another, each cut at its end."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    parts = weights.split([parameter.numel() for _, parameter in named])
    chosen = {name: part.view_as(parameter) for (name, parameter), part in zip(named, parts, strict=True)}
    total = weights.new_zeros(())
    for i in range(len(split)):
        end = split.inputs.shape[1] if split.lengths is None else int(split.lengths[i])
        logits = functional_call(model, chosen, (split.inputs[i : i + 1, :end],))[0]
        total = total + torch.logsumexp(logits, 0) - logits[split.labels[i]]
    return total / len(split)


def dense_hessian(model: nn.Module, split: Split) -> Tensor:
    """The Hessian as a matrix, by `torch.autograd.functional`, `(size, size)`."""
    model = copy.deepcopy(model).eval()
    return torch.autograd.functional.hessian(lambda w: loss_at(model, split, w), flat_weights(model), vectorize=True)


class Dense:
    """A symmetric matrix as an operator that counts its products."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.size, self.products = matrix, len(matrix), 0
        self.dtype, self.device = matrix.dtype, matrix.device

    def matvec(self, vectors: Tensor) -> Tensor:
        self.products += 1
        return self.matrix @ vectors


def symmetric(eigenvalues: list[float], seed: int = 0) -> Dense:
    """A matrix with these eigenvalues in a random orthonormal basis."""
    size = len(eigenvalues)
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return Dense(Q @ torch.tensor(eigenvalues, dtype=torch.float64).diag() @ Q.T)
