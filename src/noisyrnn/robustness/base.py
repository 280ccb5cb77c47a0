"""The base class of all perturbations."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from noisyrnn.checks import check_batch, check_number, check_range, check_tensor
from noisyrnn.data.scale import Scale
from noisyrnn.padding import valid_values
from noisyrnn.robustness.draws import Draws
from noisyrnn.robustness.logits import Model, check_repeatable, check_rows
from noisyrnn.robustness.standardized_values import StandardizedValues

ValueRange = tuple[float, float]
"""Smallest and largest value."""


@dataclass(frozen=True)
class Perturbation(ABC):
    r"""A change of the inputs at test time, of a given strength.

    A subclass is a final frozen dataclass with a `name` and one method, `perturb`. This class checks the arguments,
    returns the inputs unchanged for strength 0, converts to and from units of the channels' scale, cuts the result to
    `clip` and restores padded steps. Every draw comes from the generator and for the full shape: neither the device,
    nor the lengths, nor the model changes it in a call with the same sequences. (`evaluate` calls an attack without the
    sequences that the model has wrong already, so that its starts do depend on the model.)

    With a `scale` the perturbation acts on standardized values:

    .. math:: x' = x + s \odot \big( P(z) - z \big), \quad z = (x - m) / s ,

    with mean m and standard deviation s of each channel. White noise and ℓ∞ radii of strength k are then k·s in the
    units of the data, and multiplicative noise does not depend on the offset of a channel. A channel with s = 0 is
    left unchanged and its values do not count. The standardized values are float64, so that an offset costs no digits.

    Args:
        strength: Standard deviation, probability or radius, `>= 0`.
        clip: Range that the perturbed values are cut to; `None` lets them leave the range of the data.
        scale: Scale of the channels, in whose units the strength is; `None`: the units of the data.

    Raises:
        ValueError: If `strength` is negative, `clip` is empty, or both `clip` and `scale` are set.
        TypeError: If one of them has another type.

    Example:
        >>> from noisyrnn.robustness import WhiteNoise
        >>> inputs, labels = torch.full((1, 40_000, 1), 5000.0), torch.tensor([0])
        >>> millivolts = Scale(mean=(4000.0,), std=(200.0,), low=(3400.0,), high=(4600.0,))
        >>> noisy = WhiteNoise(0.1, scale=millivolts)(None, inputs, labels, generator=torch.Generator().manual_seed(1))
        >>> round(float(noisy.std()))
        20
    """

    strength: float
    clip: ValueRange | None = None
    scale: Scale | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def name(self) -> str:
        """Key in `PERTURBATIONS`."""

    @property
    def symbol(self) -> str:
        """Letter of the strength, for labels."""
        return ""

    @property
    def random(self) -> bool:
        """Whether two draws differ."""
        return True

    @property
    def norm(self) -> str | None:
        """Norm of an attack's radius, `"linf"` or `"l2"`; `None` for noise."""
        return None

    @property
    def gradient_free(self) -> bool:
        """Whether an attack uses the outputs of the model only."""
        return False

    @property
    def scale_unit(self) -> str:
        """Unit of the strength with a `scale`, for labels."""
        return "s"

    @property
    @final
    def unit(self) -> str:
        """Unit of the strength, for labels; empty: that of the data."""
        return "" if self.scale is None else self.scale_unit

    @property
    @final
    def is_attack(self) -> bool:
        """Whether it searches a ball around the inputs for a wrong answer of the model."""
        return self.norm is not None

    def __post_init__(self) -> None:
        check_number("strength", self.strength, minimum=0)
        if self.scale is not None and not isinstance(self.scale, Scale):
            raise TypeError(
                f"scale must be a Scale or None, got {self.scale!r}. Take that of the data: Scale.of(split)."
            )
        if self.clip is not None:
            check_range("clip", self.clip)
            if self.scale is not None:
                raise ValueError(f"clip must be None with a scale, got {self.clip!r}. Leave one of them out.")

    @abstractmethod
    def perturb(
        self, inputs: Tensor, *, model: Any, labels: Tensor, lengths: Tensor | None, generator: Draws
    ) -> Tensor:
        """Perturb every step, padded ones included, at a strength above 0.

        Args:
            inputs: `(batch, steps, channels)`; not to be modified. With a `scale` these are the standardized values.
            model: Callable from such inputs to logits; used by attacks only.
            labels: True classes, `(batch,)` or `(batch, steps)`, or values, as a `Split` holds them: -1 or NaN at steps
                that do not count; used by attacks only.
            lengths: Valid steps of each sequence, `(batch,)`; `None` where all are.
            generator: Source of every draw: a generator of the CPU, or `PathDraws`.

        Returns:
            A new tensor in the shape of `inputs`; its padded steps are ignored.
        """

    @final
    def __call__(
        self,
        model: Model | None,
        inputs: Tensor,
        labels: Tensor,
        *,
        generator: Draws,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Return a perturbed copy of `inputs`. A value that is missing, NaN, stays so.

        Args:
            model: Used by attacks only; its parameters get no gradient and its mode is not changed. For steps that last
                `dt`, `(batch, steps)`: `functools.partial(model, dt=dt)`.
            inputs: `(batch, steps, channels)`.
            labels: True classes or values, as a `Split` holds them; used by attacks only.
            generator: Source of every draw: a generator of the CPU, or `PathDraws`.
            lengths: Valid steps of each sequence, `(batch,)`; `None` where all are.

        Raises:
            TypeError: If this is an attack and `model` is not callable or `labels` not a tensor.
            ValueError: If a shape does not fit.
        """
        check_batch(inputs, lengths)
        check_rows(model, len(inputs))
        if self.scale is not None and inputs.shape[2] != len(self.scale.std):
            raise ValueError(f"inputs must have {len(self.scale.std)} channels, those of scale, got {inputs.shape[2]}.")
        if self.strength == 0 or (self.scale is not None and not any(self.scale.std)):
            return inputs.clone()
        if self.is_attack:
            check_tensor("labels", labels)
            if model is None or not callable(model):
                raise TypeError(f"model must be callable for {self.name}, got {model!r}. Give the model to attack.")
            check_repeatable(model, inputs, lengths)
        return self.apply(model, inputs, labels, generator=generator, lengths=lengths)

    @final
    def apply(
        self, model: Model | None, inputs: Tensor, labels: Tensor, *, generator: Draws, lengths: Tensor | None
    ) -> Tensor:
        """As a call, without its checks, for many calls on one model; at a strength above 0."""
        scale = self.scale
        if scale is None and self.is_attack and bool(inputs.isnan().any()):  # it computes with complete sequences
            scale = unit_scale(inputs.shape[2])
        if scale is None:
            perturbed = self.perturb(inputs, model=model, labels=labels, lengths=lengths, generator=generator)
            return self.restrict(self._checked(perturbed, inputs), inputs, lengths)
        values = StandardizedValues(inputs, scale)
        view = None if model is None else values.view(model)
        found = self.perturb(values.values, model=view, labels=labels, lengths=lengths, generator=generator)
        return self.restrict(values.restore(self._checked(found, values.values)), inputs, lengths)

    def _checked(self, perturbed: object, inputs: Tensor) -> Tensor:
        """Return what `perturb` returned; raise unless it is a tensor of the shape and type of what it was given."""
        if not isinstance(perturbed, Tensor):
            raise TypeError(f"perturb of {self.name} must return a tensor, got {type(perturbed).__name__}.")
        if (perturbed.shape, perturbed.dtype) != (inputs.shape, inputs.dtype):
            raise ValueError(
                f"perturb of {self.name} must return the shape and type of its inputs, {tuple(inputs.shape)} in "
                f"{inputs.dtype}, got {tuple(perturbed.shape)} in {perturbed.dtype}. Change every step."
            )
        return perturbed

    @final
    def restrict(self, perturbed: Tensor, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Cut `perturbed` to `clip` and restore the padded steps and the missing values of `inputs`."""
        if self.clip is not None:
            perturbed = perturbed.clamp(*self.clip)
        return torch.where(valid_values(inputs, lengths) & ~inputs.isnan(), perturbed, inputs)


@dataclass(frozen=True)
class Noise(Perturbation):
    """A perturbation that knows no model, and can have another strength for each sequence.

    A subclass has one method, `change`.
    """

    @abstractmethod
    def change(self, inputs: Tensor, strength: float | Tensor, generator: Draws) -> Tensor:
        """Perturb every step at a strength: a number, or one for each sequence as `(batch, 1, 1)`."""

    def perturb(self, inputs: Tensor, *, model: Any, generator: Draws, **unused: Any) -> Tensor:
        """Perturb every step at this strength."""
        return self.for_model(self.change(inputs, self.strength, generator), model)

    @final
    def with_strengths(
        self,
        inputs: Tensor,
        strengths: Tensor,
        *,
        generator: Draws,
        lengths: Tensor | None = None,
        model: Any = None,
    ) -> Tensor:
        """Return a copy of `inputs` perturbed at a strength of its own for each sequence, in place of `strength`.

        Args:
            inputs: `(batch, steps, channels)`.
            strengths: `>= 0`, `(batch,)`.
            generator: Source of every draw.
            lengths: Valid steps of each sequence, `(batch,)`; `None` where all are.
            model: The model that they are for; it decides what takes the place of values that are removed.
        """
        check_batch(inputs, lengths)
        if self.scale is None:
            changed = self.change(inputs, strengths.to(inputs)[:, None, None], generator)
            changed = self.for_model(changed, model)
        else:
            values = StandardizedValues(inputs, self.scale)
            changed = values.restore(self.change(values.values, strengths.to(values.values)[:, None, None], generator))
        return self.restrict(changed, inputs, lengths)

    def for_model(self, changed: Tensor, model: Any) -> Tensor:
        """Return the result of `change` as a model can take it; a noise that removes values overrides it."""
        return changed


def unit_scale(channels: int) -> Scale:
    """Return the scale of values in the units of the data."""
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    return Scale(mean=zeros, std=ones, low=zeros, high=ones)


def check_perturbation(argument: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a `Perturbation`."""
    if isinstance(value, type):
        raise TypeError(
            f"{argument} must be a Perturbation, got the class {value.__name__}. Call it with a strength, such as 0.1."
        )
    if not isinstance(value, Perturbation):
        raise TypeError(
            f"{argument} must be a Perturbation, got {value!r}. Use one of noisyrnn.robustness, or a subclass of "
            "noisyrnn.robustness.Perturbation."
        )


def check_clip(clip: bool, value_range: ValueRange | None) -> None:
    """Raise if values are to be cut to a range that the data do not state."""
    if clip and value_range is None:
        raise ValueError(
            "clip must be false for data that state no range of values, got true. Images, such as digits, state one."
        )


def check_strengths(argument: str, strengths: object) -> None:
    """Raise unless `strengths` is a non-empty list or tuple of finite numbers `>= 0`."""
    if not isinstance(strengths, list | tuple):
        is_number = isinstance(strengths, int | float) and not isinstance(strengths, bool)
        example = f"[{strengths}]" if is_number else "[0.1, 0.2]"
        raise TypeError(f"{argument} must be a list of numbers, got {strengths!r}. Write {example}.")
    if len(strengths) == 0:
        raise ValueError(f"{argument} must hold at least one number, got {strengths!r}. Write [0.1, 0.2].")
    for index, strength in enumerate(strengths):
        check_number(f"{argument}[{index}]", strength, minimum=0)
