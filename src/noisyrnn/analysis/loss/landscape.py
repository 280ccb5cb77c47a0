"""The loss on a plane through the weights of a model."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from noisyrnn.analysis.loss.hessian import MeanLoss, trainable_parameters
from noisyrnn.analysis.loss.spectrum import Eigenpairs
from noisyrnn.checks import check_integer, check_number
from noisyrnn.data.split import Split
from noisyrnn.robustness.gradient import recording


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """Two directions in the space of the trainable parameters.

    Args:
        first: First direction, in the module's order, `(size,)`.
        second: Second direction, `(size,)`.
        kind: "eigenvectors" or "filter-normalised".
        seed: Seed of random directions, else `None`.
    """

    first: Tensor
    second: Tensor
    kind: str
    seed: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Landscape:
    r"""The mean loss :math:`L(w + \alpha u + \beta v)` around the weights `w`, exact for its sequences.

    Args:
        alphas: Multiples of the first direction, float64 `(points,)`, from `-extent` to `extent`.
        betas: Multiples of the second direction, likewise.
        loss: Float64 `(points, points)`: a row for each alpha, a column for each beta; NaN where it is not finite. The
            middle entry is the model's own loss.
        directions: Kind of the directions.
        seed: Seed of the directions.
    """

    alphas: Tensor
    betas: Tensor
    loss: Tensor
    directions: str
    seed: int | None

    @property
    def non_finite(self) -> int:
        """Number of entries of the loss that are not finite."""
        return int(self.loss.isnan().sum())

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form, with `None` for a loss that is not finite."""
        return {
            "directions": self.directions,
            "seed": self.seed,
            "alphas": self.alphas.tolist(),
            "betas": self.betas.tolist(),
            "loss": [[None if math.isnan(entry) else entry for entry in row] for row in self.loss.tolist()],
            "non_finite": self.non_finite,
        }


def eigen_directions(pairs: Eigenpairs) -> Directions:
    """Return the unit eigenvectors of the two largest eigenvalues, the directions of largest curvature.

    Raises:
        ValueError: If there is only one eigenvector.
    """
    count = pairs.vectors.shape[1]
    if count < 2:
        raise ValueError(f"pairs must hold two eigenvectors, got {count}.")
    return Directions(first=pairs.vectors[:, -1], second=pairs.vectors[:, -2], kind="eigenvectors")


def filter_normalized_directions(model: nn.Module, *, seed: int = 0) -> Directions:
    r"""Draw two random directions, each row with the norm of the weights, so that landscapes of models are comparable.

    Each row `d` of a normal random matrix is rescaled to the norm of the same row `w` of a trainable weight,
    :math:`d \leftarrow d\, \|w\| / \|d\|`; in a weight with more than two axes, a row is all inputs of one unit.
    Parameters with a single axis (biases, thresholds, step sizes) remain unchanged: their directions are 0, as in the
    reference.

    Args:
        model: Any module.
        seed: Seed of the draws.

    Raises:
        ValueError: If no trainable parameter has two axes.

    Reference:
        Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018.
    """
    parameters = trainable_parameters(model)
    if all(parameter.ndim < 2 for parameter in parameters):
        raise ValueError(f"model must have a trainable weight with rows, got none in {type(model).__name__}.")
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.cat([_rescaled(parameter, generator) for parameter in parameters]) for _ in range(2))
    return Directions(first=first, second=second, kind="filter-normalised", seed=seed)


@recording
@torch.no_grad()
def loss_landscape(
    model: nn.Module,
    split: Split,
    directions: Directions,
    *,
    extent: float = 1.0,
    points: int = 21,
    batch_size: int = 256,
) -> Landscape:
    """Compute the loss of a model along two directions in its weights.

    The loss is that of `MeanLoss`. The model is left unchanged. The passes use its precision and its kernel, without
    gradients.

    Args:
        model: Any module from `(batch, steps, input_size)` to logits.
        split: Sequences and labels of the loss.
        directions: Directions in the model's trainable parameters.
        extent: Largest multiple of either direction, above 0.
        points: Number of multiples of each direction, at least 3 and odd, so that the model itself is among them.
        batch_size: Number of sequences per pass; it affects memory, not the result.

    Raises:
        TypeError: If `model` is not a module.
        ValueError: If a number is out of its range, or a direction has another size.
    """
    check_number("extent", extent, above=0.0)
    check_integer("points", points, minimum=3)
    if points % 2 == 0:
        raise ValueError(f"points must be odd, got {points}. Take {points + 1}: the model is the point in the middle.")
    mean = MeanLoss(model, split, batch_size=batch_size)
    start = nn.utils.parameters_to_vector(mean.parameters).double()
    for direction in (directions.first, directions.second):
        if direction.shape != start.shape:
            raise ValueError(
                f"directions must have shape {tuple(start.shape)}, one entry for each trainable parameter, "
                f"got {tuple(direction.shape)}."
            )
    first, second = directions.first.to(start), directions.second.to(start)
    half = points // 2
    steps = (
        extent * torch.arange(-half, half + 1, dtype=torch.float64, device="cpu") / half
    )  # the middle one is exactly 0
    losses = []
    for alpha in steps.tolist():
        for beta in steps.tolist():
            _assign(mean.parameters, start + alpha * first + beta * second)
            losses.append(sum(float(mean.share(batch)) for batch in range(mean.batches)))
    loss = torch.tensor(losses, dtype=torch.float64, device="cpu").view(points, points)
    loss = torch.where(loss.isfinite(), loss, torch.nan)
    return Landscape(alphas=steps, betas=steps, loss=loss, directions=directions.kind, seed=directions.seed)


def _rescaled(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a random direction for one parameter, float64, flat."""
    if parameter.ndim < 2:
        return parameter.new_zeros(parameter.numel(), dtype=torch.float64)
    draws = (
        torch.randn(parameter.shape, generator=generator, dtype=torch.float64, device="cpu")
        .flatten(1)
        .to(parameter.device)
    )
    rows = parameter.detach().double().flatten(1)
    return (draws * (rows.norm(dim=1) / draws.norm(dim=1))[:, None]).flatten()


def _assign(parameters: list[nn.Parameter], vector: Tensor) -> None:
    """Write a vector into the parameters, in place."""
    for parameter, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        parameter.copy_(part.view_as(parameter))
