"""A perturbation whose strength is in units of each channel's standard deviation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from noisyrnn.checks import check_number
from noisyrnn.robustness.base import Model, Perturbation, Range, check_batch, finish


class StandardizedValues:
    """Sequences in units of each channel's scale, without the channels of scale 0, and the way back.

    Args:
        inputs: `(batch, steps, channels)`.
        center: One number for each channel.
        scale: One number `>= 0` for each channel, not all 0.
        factor: What the scale of each sequence is multiplied by, `(batch,)`; 1 by default.

    Attributes:
        values: Float64 `(batch, steps, channels of a scale above 0)`.
    """

    def __init__(
        self, inputs: Tensor, *, center: Sequence[float], scale: Sequence[float], factor: Tensor | None = None
    ) -> None:
        centers, scales = (inputs.new_tensor(numbers, dtype=torch.float64) for numbers in (center, scale))
        self._inputs, self._varies = inputs.detach(), scales > 0
        self._scale = scales[self._varies]
        if factor is not None:
            self._scale = self._scale * factor.to(inputs.device, torch.float64)[:, None, None]
        self.values = (self._inputs.double() - centers)[..., self._varies] / self._scale

    def restore(self, values: Tensor) -> Tensor:
        """Inputs, in their type, that have other standardized values: `(batch, …)`, or any number of one sequence."""
        inputs = self._inputs.double().expand(len(values), -1, -1)
        offset = torch.zeros_like(inputs)
        offset[..., self._varies] = self._scale * (values - self.values)
        return (inputs + offset).to(self._inputs.dtype)

    def call(self, model: Model, values: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """What a model returns for the inputs that have these standardized values."""
        inputs = self.restore(values)
        return model(inputs) if lengths is None else model(inputs, lengths=lengths)


@final
@dataclass(frozen=True)
class Scaled:
    r"""A perturbation of the standardized values, for data whose channels have scales of their own.

    .. math:: x' = x + s \odot \big( P(z) - z \big), \quad z = (x - m) / s ,

    with centre m and scale s of each channel. White noise and ℓ∞ radii of strength k are then k·s in the units of the
    data, and multiplicative noise does not depend on the offset of a channel. A channel of scale 0 never varies: it is
    left unchanged and its values do not count. The standardized values are float64, so that an offset costs no digits.

    Args:
        perturbation: What is done to the standardized values, without a `clip`.
        center: m, one number for each channel.
        scale: s, one number `>= 0` for each channel.
        unit: Unit of the strength in labels.

    Raises:
        ValueError: If a number is not finite, a scale is negative, or the two have different lengths.

    Example:
        >>> from noisyrnn.robustness import WhiteNoise
        >>> inputs, labels = torch.full((1, 40_000, 1), 5000.0), torch.tensor([0])
        >>> perturbation = Scaled(WhiteNoise(0.1), center=(4000.0,), scale=(200.0,))
        >>> noisy = perturbation(None, inputs, labels, generator=torch.Generator().manual_seed(1))
        >>> round(float(noisy.std()))
        20
    """

    perturbation: Perturbation
    center: tuple[float, ...]
    scale: tuple[float, ...]
    unit: str = "s"

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", tuple(map(float, self.center)))
        object.__setattr__(self, "scale", tuple(map(float, self.scale)))
        for value in self.center:
            check_number("center", value)
        for value in self.scale:
            check_number("scale", value, minimum=0)
        if len(self.center) != len(self.scale):
            raise ValueError(
                f"center and scale must hold one number for each channel, got {len(self.center)} and {len(self.scale)}."
            )

    @property
    def strength(self) -> float:
        """That of the perturbation, in units of the scale."""
        return self.perturbation.strength

    @property
    def clip(self) -> Range | None:
        """`None`: data without a range of their own are not cut to one."""
        return None

    @property
    def name(self) -> str:
        """That of the perturbation."""
        return self.perturbation.name

    @property
    def symbol(self) -> str:
        """That of the perturbation."""
        return self.perturbation.symbol

    @property
    def norm(self) -> str | None:
        """That of the perturbation where it is an attack, else `None`."""
        return getattr(self.perturbation, "norm", None)

    @property
    def random(self) -> bool:
        """Whether two draws differ."""
        return self.perturbation.random

    @property
    def needs_gradient(self) -> bool:
        """Whether it differentiates the model."""
        return self.perturbation.needs_gradient

    def __call__(
        self,
        model: Model | None,
        inputs: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Perturbed copy of `inputs`, `(batch, steps, channels)`."""
        check_batch(inputs, lengths)
        if inputs.shape[2] != len(self.scale):
            raise ValueError(f"inputs must have {len(self.scale)} channels, those of scale, got {inputs.shape[2]}.")
        if self.strength == 0 or not any(self.scale):
            return inputs.clone()
        values = StandardizedValues(inputs, center=self.center, scale=self.scale)

        def view(changed: Tensor, lengths: Tensor | None = None) -> Tensor:
            assert model is not None
            return values.call(model, changed, lengths=lengths)

        changed = self.perturbation(view, values.values, labels, generator=generator, lengths=lengths)
        return finish(inputs, values.restore(changed), lengths=lengths, clip=None)
