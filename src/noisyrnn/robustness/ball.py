"""What attacks in a ball share: its radius, projection, directions and random points."""

from abc import ABC
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from noisyrnn.checks import check_choice, check_flag
from noisyrnn.padding import valid_values
from noisyrnn.robustness.base import Perturbation
from noisyrnn.robustness.draws import Draws, draw_normal, draw_uniform
from noisyrnn.robustness.logits import Model
from noisyrnn.robustness.standardized_values import StandardizedModel


@dataclass(frozen=True)
class BallAttack(Perturbation, ABC):
    """An attack in the ball of radius ϵ around each sequence.

    A sequence is one point: the ℓ2 norm runs over its valid steps and channels together.

    Args:
        strength: Radius ϵ, `>= 0`.
        clip: Range that the iterates are cut to; `None` lets them leave the range of the data.
        norm: `"linf"` or `"l2"`.
        scale: Scale of the channels, in whose units the radius is; an ℓ2 radius is then ϵ√n for a sequence of n values.
            `None`: the units of the data.
        until_wrong: Whether to leave a sequence once it is misclassified, with labels at every step once all of its
            answers are wrong. Not part of the `repr`, since the wrong answers are the same.
    """

    norm: Literal["linf", "l2"] = "linf"

    until_wrong: bool = field(default=False, kw_only=True, repr=False)

    symbol = "ϵ"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("norm", self.norm, ("linf", "l2"))
        check_flag("until_wrong", self.until_wrong)

    @property
    def scale_unit(self) -> str:
        """`s`, or `s√n` for a sequence of n values."""
        return "s" if self.norm == "linf" else "s√n"

    def _radius(self, inputs: Tensor, valid: Tensor) -> Tensor:
        """Return the radius of each sequence, float64 `(batch, 1, 1)`."""
        values = _count(inputs, valid).double()
        per_value = self.norm == "l2" and self.scale is not None
        return self.strength * values.sqrt() if per_value else torch.full_like(values, self.strength)

    def _direction(self, gradient: Tensor) -> Tensor:
        """Return the direction of steepest ascent, of length one in the norm; zero where the gradient is."""
        if self.norm == "linf":
            return gradient.sign()
        return (gradient.double() / _length(gradient).clamp_min(torch.finfo(torch.float64).tiny)).to(gradient.dtype)

    def _project(self, offset: Tensor, valid: Tensor) -> Tensor:
        """Project an offset to the nearest one within the radius."""
        if self.norm == "linf":
            return offset.clamp(-self.strength, self.strength)
        excess = (_length(offset) / self._radius(offset, valid)).clamp_min(1)
        return (offset.double() / excess).to(offset.dtype)

    def _random_offset(self, inputs: Tensor, valid: Tensor, generator: Draws) -> Tensor:
        """Draw uniformly from the ball; for ℓ2 of dimension n, a uniform direction times radius · u^(1/n)."""
        if self.norm == "linf":
            return self.strength * (2 * draw_uniform(inputs, generator) - 1) * valid
        direction = self._direction(draw_normal(inputs, generator) * valid)
        dimension = _count(inputs, valid)
        quantile = draw_uniform(inputs[:, :1, :1], generator).double()
        return (self._radius(inputs, valid) * quantile ** (1 / dimension.float())).to(inputs.dtype) * direction


def movable(model: Model, inputs: Tensor, lengths: Tensor | None) -> Tensor:
    """Mask of the values that an attack can move: those of valid steps that are not missing.

    Args:
        model: As `Perturbation.perturb` gets it; it knows which values are missing.
        inputs: `(batch, steps, channels)`.
        lengths: Valid steps of each sequence, or `None`.

    Returns:
        Bool, `(batch, steps, channels)`, or `(batch, steps, 1)` if none is missing.
    """
    valid = valid_values(inputs, lengths)
    return valid & model.origin.present if isinstance(model, StandardizedModel) else valid


def _count(inputs: Tensor, valid: Tensor) -> Tensor:
    """Number of values of each sequence where `valid`, as `movable` returns it, is true, `(batch, 1, 1)`."""
    return valid.sum(dim=(1, 2), keepdim=True) * (inputs.shape[2] // valid.shape[2])


def _length(values: Tensor) -> Tensor:
    """Euclidean norm of each sequence, float64 `(batch, 1, 1)`: squares of small float32 gradients vanish."""
    return values.double().square().sum(dim=(1, 2), keepdim=True).sqrt()
