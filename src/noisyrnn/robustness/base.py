"""What a perturbation is, and the three things all of them share: checks, a call of the model, untouched padding."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from noisyrnn.checks import check_labels, check_lengths, check_number, check_sequences
from noisyrnn.data.scale import Scale
from noisyrnn.padding import valid_steps
from noisyrnn.registry import Entry

Model = Callable[..., Tensor]
"""`model(inputs)`, or `model(inputs, lengths=lengths)`: `(batch, steps, input_size)` to logits `(batch, classes)`."""

Range = tuple[float, float]
"""Smallest and largest value."""


class Perturbation(Protocol):
    """A change of the inputs at test time, of a given strength; the implementations are frozen dataclasses.

    Strength 0 returns the inputs exactly, padded steps are never changed, and the argument is left unmodified.
    Every draw comes from the generator, on the CPU and for the full shape: neither the device, nor the lengths,
    nor the model changes it.
    """

    @property
    def strength(self) -> float:
        """Standard deviation, probability or radius, `>= 0`."""

    @property
    def clip(self) -> Range | None:
        """Range the perturbed values are cut to, or `None`: they may leave the range of the data."""

    @property
    def name(self) -> str:
        """Its key in `PERTURBATIONS`."""

    @property
    def symbol(self) -> str:
        """Letter of the strength, for labels."""

    @property
    def random(self) -> bool:
        """Whether two draws differ."""

    @property
    def needs_gradient(self) -> bool:
        """Whether it differentiates the model."""

    def __call__(
        self,
        model: Model,
        inputs: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Perturbed copy of `inputs`.

        Args:
            model: Used by attacks alone; its parameters get no gradient and its mode is not changed.
            inputs: `(batch, steps, input_size)`.
            labels: True classes, `(batch,)`; used by attacks alone.
            generator: Source of every draw, on the CPU.
            lengths: Valid steps of each sequence, `(batch,)`; `None` where all are.
        """


class InputNoise(ABC):
    """A perturbation that depends on the inputs and the generator only: neither on the model nor on the labels."""

    strength: float
    clip: Range | None

    def __call__(
        self,
        model: Model | None,
        inputs: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Perturbed copy of `inputs`, `(batch, steps, input_size)`; neither model nor labels is used."""
        check_batch(inputs, lengths)
        if self.strength == 0:
            return inputs.clone()
        return finish(inputs, self.perturb(inputs, generator), lengths=lengths, clip=self.clip)

    @abstractmethod
    def perturb(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Inputs of every step, padded ones included, with the noise of a strength above 0."""


@dataclass(frozen=True, kw_only=True)
class PerturbationEntry(Entry[Callable[[float, Range, Range | None], Perturbation]]):
    """One entry of `PERTURBATIONS`.

    Args:
        description: One line for lists and help.
        build: `(strength, value_range, clip)` to a perturbation, for data that state their range of values.
        symbol: Letter of the strength.
        build_scaled: `(strength, scale)` to a perturbation, for data that state none.
    """

    symbol: str
    build_scaled: Callable[[float, Scale], Perturbation]


def check_range(argument: str, value: Range) -> None:
    """Raise unless `value` is a pair of finite numbers, the first below the second."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{argument} must be a pair (low, high), got {value!r}.")
    for number in value:
        check_number(argument, number)
    if not value[0] < value[1]:
        raise ValueError(f"{argument} must have its low end below its high end, got ({value[0]:g}, {value[1]:g}).")


def check_clip(clip: bool, value_range: Range | None) -> None:
    """Raise if values are to be cut to a range that the data do not state."""
    if clip and value_range is None:
        raise ValueError(
            "clip must be false for data that state no range of values, got true. Images, such as digits, state one."
        )


def check_settings(strength: float, clip: Range | None) -> None:
    """Raise unless `strength` is a number `>= 0` and `clip` a range or `None`."""
    check_number("strength", strength, minimum=0)
    if clip is not None:
        check_range("clip", clip)


def check_strengths(name: str, strengths: object) -> None:
    """Raise unless `strengths` is a non-empty list or tuple of finite numbers `>= 0`; `name` is what it is called."""
    if not isinstance(strengths, list | tuple):
        number = isinstance(strengths, int | float) and not isinstance(strengths, bool)
        example = f"[{strengths}]" if number else "[0.1, 0.2]"
        raise TypeError(f"{name} must be a list of numbers, got {strengths!r}. Write {example}.")
    if len(strengths) == 0:
        raise ValueError(f"{name} must hold at least one number, got {strengths!r}. Write [0.1, 0.2].")
    for index, strength in enumerate(strengths):
        check_number(f"{name}[{index}]", strength, minimum=0)


def check_batch(inputs: Tensor, lengths: Tensor | None) -> None:
    """Raise unless `inputs` is `(batch, steps, input_size)` and `lengths` fits it."""
    check_sequences("inputs", inputs)
    if lengths is not None:
        check_lengths(lengths, batch=inputs.shape[0], steps=inputs.shape[1])


def check_model(model: Model) -> None:
    """Raise unless `model` can be called, and is not a module in training mode."""
    if not callable(model):
        raise TypeError(f"model must be callable, got {model!r}.")
    if isinstance(model, torch.nn.Module) and model.training:
        raise ValueError("model must be in eval mode, got training mode. Call model.eval() first.")


def batch_first(model: Model) -> Any:
    """The model for inputs `(batch, steps, input_size)`: a view of it where it says that it takes steps first."""
    if isinstance(model, partial):
        return partial(batch_first(model.func), *model.args, **model.keywords)
    view = getattr(model, "as_batch_first", None)
    return model if view is None else view()


_MEMBERS = ("strength", "name", "random", "needs_gradient")


def check_perturbation(argument: str, perturbation: object) -> None:
    """Raise `TypeError` unless `perturbation` can be called and says of itself what a `Perturbation` does."""
    missing = [name for name in _MEMBERS if not hasattr(perturbation, name)]
    if not callable(perturbation) or isinstance(perturbation, type) or missing:
        lacks = "a class" if isinstance(perturbation, type) else f"one without {', '.join(missing) or '__call__'}"
        raise TypeError(
            f"{argument} must be a Perturbation with the attributes {', '.join(_MEMBERS)}, got {perturbation!r}, "
            f"{lacks}. Build one of noisyrnn.robustness, or give your class these attributes."
        )


def check_repeatable(model: Model, inputs: Tensor, lengths: Tensor | None) -> None:
    """Warn if two calls with the same inputs differ: a model in training mode, perhaps inside of a function."""
    called = batch_first(model)
    with torch.no_grad():
        one, two = (called(inputs) if lengths is None else called(inputs, lengths=lengths) for _ in range(2))
    if isinstance(one, Tensor) and isinstance(two, Tensor) and not torch.allclose(one, two, rtol=1e-4, atol=1e-5):
        warnings.warn(
            f"model gives different logits for the same inputs, by up to {float((one - two).abs().max()):.2g}. Is it "
            "in training mode, or its noise on? Call model.eval() first; else every figure depends on chance.",
            stacklevel=3,
        )


def valid_values(inputs: Tensor, lengths: Tensor | None) -> Tensor:
    """Boolean `(batch, steps, 1)`: true where a step belongs to its sequence, false where it is padding."""
    batch, steps, _ = inputs.shape
    if lengths is None:
        return torch.ones(batch, steps, 1, dtype=torch.bool, device=inputs.device)
    return valid_steps(lengths.to(inputs.device), steps).unsqueeze(-1)


def finish(inputs: Tensor, perturbed: Tensor, *, lengths: Tensor | None, clip: Range | None) -> Tensor:
    """`perturbed`, cut to `clip`, with the padded steps of `inputs` put back."""
    if clip is not None:
        perturbed = perturbed.clamp(*clip)
    return torch.where(valid_values(inputs, lengths), perturbed, inputs)


def standard_normal(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Independent N(0, 1) draws in the shape, type and place of `inputs`."""
    return torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype, device="cpu").to(inputs.device)


def uniform(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Independent draws from [0, 1) in the shape, type and place of `inputs`."""
    return torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype, device="cpu").to(inputs.device)


def predict(model: Model, inputs: Tensor, labels: Tensor, lengths: Tensor | None) -> Tensor:
    """Logits `(batch, classes)`, checked.

    Raises:
        ValueError: If the model returns another shape, or a label has no logit.
        RuntimeError: If a logit is not finite.
    """
    called = batch_first(model)
    logits = called(inputs) if lengths is None else called(inputs, lengths=lengths)
    batch = inputs.shape[0]
    if not isinstance(logits, Tensor):
        raise TypeError(f"model must return a tensor of logits, got {type(logits).__name__}.")
    if logits.ndim != 2 or logits.shape[0] != batch:
        raise ValueError(f"model must return logits of shape ({batch}, classes), got {tuple(logits.shape)}.")
    if logits.shape[1] == 1:
        raise ValueError(
            f"model must return one logit for each class, got {tuple(logits.shape)}. For two classes and one logit z, "
            "return torch.cat([torch.zeros_like(z), z], dim=1)."
        )
    check_labels(labels, count=batch, classes=logits.shape[1])
    bad = int((~torch.isfinite(logits)).any(dim=1).sum())
    if bad:
        raise RuntimeError(
            f"logits became non-finite for {bad} of {batch} sequences. Lower the model's step size or the strength."
        )
    return logits
