"""Sequence models: a recurrent layer, a linear readout of its outputs, and the loss that they are trained with."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from noisyrnn.checks import (
    LARGEST_SIZE,
    check_choice,
    check_counted,
    check_finite,
    check_flag,
    check_integer,
    check_lengths,
    check_mask,
    check_tensor,
    values_hidden,
)
from noisyrnn.missing import hold_last
from noisyrnn.models.layer import RecurrentLayer, final_output, pass_options, shared_view
from noisyrnn.models.missing import add_mask, check_missing_setting, skip_steps
from noisyrnn.models.modules import first_weight
from noisyrnn.models.options import show_options
from noisyrnn.models.sequences.layout import check_form
from noisyrnn.models.standardization import float64_statistics, standardize
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.padding import valid_steps
from noisyrnn.targets import at_every_step, counted, mark_uncounted, mean_over_steps, without_marks


class Loss(NamedTuple):
    """A loss of a sequence model, for each of its answers: one for each sequence, or one at every step.

    Args:
        values: From outputs `(..., outputs)` and targets to the loss of each answer, `(...)`.
        correct: From the same to whether each answer is the right class, bool `(...)`.
    """

    values: Callable[[Tensor, Tensor], Tensor]
    correct: Callable[[Tensor, Tensor], Tensor]


LOSSES = {
    "cross_entropy": Loss(
        lambda logits, classes: functional.cross_entropy(logits.movedim(-1, 1), classes, reduction="none"),
        lambda logits, classes: logits.argmax(-1) == classes,
    ),
    "squared_error": Loss(
        lambda outputs, targets: (outputs - targets).square().mean(dim=-1),
        lambda outputs, targets: torch.zeros_like(targets[..., 0], dtype=torch.bool),  # a value is never exactly right
    ),
}
"""Losses by name: of classes, int64 `(...)`, and of values `(..., outputs)`."""


class SequenceModel(nn.Module):
    """A recurrent layer over standardized inputs, and a linear readout of its last valid output or of every output.

    With two directions the last output is that of the forward direction at the last valid step, next to that of the
    backward direction at the first step.

    The difference from the mean is taken in float64 and then rounded to the type of the weights, so that values far
    from zero with a small spread, such as times in seconds since 1970, keep it. So the buffers `mean` and `std` stay
    float64 whatever the model is converted to, and inputs may have any floating type: give them as they were measured,
    in float64.

    Args:
        layer: The layer; its noise and dropout act only while the model is in training mode as well.
        outputs: Entries of one answer, at least 1.
        loss: Key of `LOSSES`.
        every_step: Whether there is an answer at every step, or one for each sequence.
        mean: Subtracted from each channel, `(input_size,)`; zero by default. Saved with the weights.
        std: Each channel is divided by it, `(input_size,)`, above 0; one by default. Saved with the weights.
        target_mean: Mean of each target, `(outputs,)`, with `target_std` and the squared error: the readout computes
            `(target - target_mean) / target_std`, and the loss is that of these. Answers are in the units of the
            targets. Saved with the weights.
        target_std: Standard deviation of each target, `(outputs,)`, above 0; both or none are given.
        missing: How values that are NaN are met: "hold" replaces them by the last value of their channel, before the
            first one by its mean; "mask" also gives the layer a channel for each, 1 where there was a value, so that
            its `input_size` is twice that of the inputs; "skip" leaves out steps without any value and lengthens the
            step before (see `noisyrnn.models.missing`). `None`: there may be none. Saved with the weights.

    Raises:
        TypeError: If `layer` is not a `RecurrentLayer`, or a statistic is not a tensor.
        ValueError: If `outputs` is below 1, the loss is unknown, `missing` does not go with the layer, or a statistic
            has another shape or range.

    Example:
        >>> from noisyrnn.models import NoisyRNN
        >>> model = SequenceModel(NoisyRNN(input_size=1, hidden_size=8), 3, loss="cross_entropy")
        >>> model.losses(model(torch.zeros(2, 5, 1)), torch.tensor([0, 2])).shape
        torch.Size([2])
    """

    any_dtype = True
    """Whether inputs may have another floating type than the weights."""

    mean: Tensor
    std: Tensor
    target_mean: Tensor | None
    target_std: Tensor | None

    def __init__(
        self,
        layer: RecurrentLayer,
        outputs: int,
        *,
        loss: str,
        every_step: bool = False,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        target_mean: Tensor | None = None,
        target_std: Tensor | None = None,
        missing: str | None = None,
    ) -> None:
        check_integer("outputs", outputs, minimum=1, maximum=LARGEST_SIZE)
        check_choice("loss", loss, LOSSES)
        check_flag("every_step", every_step)
        if not isinstance(getattr(layer, "_orig_mod", layer), RecurrentLayer):  # or what torch.compile made of one
            raise TypeError(
                f"layer must be a RecurrentLayer, got {type(layer).__name__}. Wrap a cell: "
                "RecurrentLayer(torch.nn.GRUCell, input_size, hidden_size)."
            )
        check_target_statistics(target_mean, target_std, outputs, loss)
        kind = type(getattr(layer, "_orig_mod", layer)).__name__
        check_missing_setting(missing, every_step=every_step, supports_dt=layer.supports_dt, name=kind)
        if missing == "mask" and layer.input_size % 2:
            raise ValueError(
                f"layer must have input_size twice the channels of the inputs for missing='mask', got "
                f"{layer.input_size}."
            )
        example = first_weight(layer)
        if example is None:
            raise TypeError(f"layer must have a parameter or a floating-point buffer, got {kind} without any.")
        super().__init__()
        channels = layer.input_size // 2 if missing == "mask" else layer.input_size
        mean, std = float64_statistics(mean, std, channels, example.device)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        for name, value in (("target_mean", target_mean), ("target_std", target_std)):
            exact = None if value is None else value.detach().clone().to(example.device, torch.float64)
            self.register_buffer(name, exact)
        self.layer = layer
        self.loss = loss
        self.every_step = every_step
        self.missing = missing
        self.readout = nn.Linear(layer.output_size, outputs, dtype=example.dtype, device="cpu").to(example.device)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; not one of those by which the layer alone is controlled.

        Raises:
            AttributeError: For `noise_mode`, `noise_scale` and `kernel`.
        """
        if name in ("noise_mode", "noise_scale", "kernel"):
            raise AttributeError(f"{name} must be set on the layer, got a {type(self).__name__}: model.layer.{name}.")
        super().__setattr__(name, value)

    def forward(
        self,
        inputs: Tensor | PackedSequence,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        dt: Tensor | float | None = None,
        path: BrownianPath | None = None,
        h_0: Tensor | None = None,
    ) -> Any:
        """Answers `(batch, outputs)`, or with `every_step` `(batch, steps, outputs)` in the form of the inputs.

        Answers past the end of a sequence are zero. Arguments are those of `RecurrentLayer.forward`.
        """
        layer = self.layer
        self._check_inputs(inputs, mask)  # before broadcasting hides a wrong shape
        if layer.training and not self.training:  # by code that sets the mode of recurrent modules only
            layer = in_evaluation_mode(layer)
        values = self._standardize(inputs)
        if isinstance(values, Tensor) and self.missing is not None:
            values, lengths, dt = self._without_missing(values, lengths, dt)
        start = {} if h_0 is None else {"h_0": h_0}
        if not self.every_step:
            options = {**start, **pass_options(layer)}
            states, h_n = layer(values, lengths=lengths, mask=mask, dt=dt, path=path, **options)
            return self.answers(final_output(layer, states, h_n, lengths=lengths, mask=mask))
        states, _ = layer(values, lengths=lengths, mask=mask, dt=dt, path=path, **start)
        if isinstance(states, PackedSequence):
            return states._replace(data=self.answers(states.data))
        answers = self.answers(states)
        if lengths is not None:
            mask = valid_steps(lengths.to(answers.device), answers.shape[1 if layer.batch_first else 0])
        if mask is None:
            return answers
        valid = mask if layer.batch_first else mask.T
        return torch.where(valid.to(answers.device)[..., None], answers, 0.0)

    def answers(self, states: Tensor) -> Tensor:
        """Answers `(..., outputs)` to states of the layer, in the units of the targets."""
        answers: Tensor = self.readout(states)
        if self.target_mean is None or self.target_std is None:
            return answers
        return (answers * self.target_std + self.target_mean).to(self.readout.weight.dtype)

    def losses(
        self, outputs: Tensor, targets: Tensor, *, lengths: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Loss of each sequence, `(batch,)`: that of its answer, or the mean over its counted steps.

        Args:
            outputs: `(batch, outputs)`, or `(batch, steps, outputs)` for answers at every step.
            targets: Classes, int64 `(batch,)` or `(batch, steps)`, or values of the shape of the outputs; -1 or NaN
                at steps that do not count, as a `Split` holds them.
            lengths: Valid steps of each sequence, int64 `(batch,)`: steps past its end do not count. All by default.
            mask: Steps that count, bool `(batch, steps)`, at least one in each sequence; all by default. Neither
                `lengths` nor `mask` changes anything where there is one answer for each sequence.

        Raises:
            ValueError: If the shape of `lengths` or `mask` does not fit, a length is out of range, or no step of a
                sequence counts.
            TypeError: If `mask` is not bool, or lengths are not integers.
        """
        targets = _counted_targets(targets, lengths, mask)
        known = without_marks(targets)
        if self.target_mean is not None and self.target_std is not None:
            outputs = ((outputs - self.target_mean) / self.target_std).to(outputs.dtype)
            known = ((known - self.target_mean) / self.target_std).to(outputs.dtype)
        return mean_over_steps(LOSSES[self.loss].values(outputs, known), targets)

    def correct(
        self, outputs: Tensor, targets: Tensor, *, lengths: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Whether each sequence is classified correctly, bool `(batch,)`; never, where targets are values.

        Arguments are those of `losses`. For answers at every step it is the share of counted steps that are classified
        correctly, float64.
        """
        targets = _counted_targets(targets, lengths, mask)
        return mean_over_steps(LOSSES[self.loss].correct(outputs, without_marks(targets)), targets)

    def standardize(self, inputs: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return standardized inputs `(..., input_size)` in the type of the weights, or in `dtype`.

        They are `inputs` itself, not a copy, if standardization changes nothing.
        """
        if dtype is None:
            weight = first_weight(self.layer)
            assert weight is not None
            dtype = weight.dtype
        return standardize(inputs, self.mean, self.std, dtype)

    @property
    def input_size(self) -> int:
        """Channels of the inputs."""
        return len(self.mean)

    @property
    def supports_dt(self) -> bool:
        """Whether `forward` accepts `dt`."""
        return bool(self.layer.supports_dt)

    def prepare(
        self, inputs: Tensor, *, lengths: Tensor | None = None, dt: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | float | None]:
        """Standardized inputs, lengths and step lengths as the layer takes them, without missing values.

        Args:
            inputs: In the form of the layer's inputs, not packed.
            lengths: Valid steps of each sequence, or `None`.
            dt: Lengths of the steps, or `None`.
        """
        values = self.standardize(inputs)
        return (values, lengths, dt) if self.missing is None else self._without_missing(values, lengths, dt)

    def _without_missing(
        self, values: Tensor, lengths: Tensor | None, dt: Tensor | float | None
    ) -> tuple[Tensor, Tensor | None, Tensor | float | None]:
        """As `prepare`, for values that are standardized."""
        first = self.layer.batch_first
        values = values if first else values.transpose(0, 1)
        if self.missing == "skip":
            values, lengths, dt = skip_steps(values, lengths, dt)
        else:
            values = add_mask(values) if self.missing == "mask" else hold_last(values)
        return values if first else values.transpose(0, 1), lengths, dt

    def _check_inputs(self, inputs: Tensor | PackedSequence, mask: Tensor | None) -> None:
        """Raise unless `forward` accepts the form of `inputs`."""
        if self.missing is None:
            self.layer.check_inputs(inputs)
            return
        check_form(inputs, input_size=self.input_size, batch_first=self.layer.batch_first)
        if isinstance(inputs, PackedSequence) or inputs.ndim == 2:
            raise ValueError(
                f"inputs must be a tensor with a batch axis for missing={self.missing!r}, got another form. Pad the "
                "sequences and give lengths."
            )
        if mask is not None and self.missing == "skip":
            raise ValueError("mask must be None for missing='skip', got a tensor. Give lengths: mask.sum(dim=1).")

    def _standardize(self, inputs: Tensor | PackedSequence) -> Tensor | PackedSequence:
        """Inputs as the layer takes them, packed if they were."""
        if isinstance(inputs, PackedSequence):
            return inputs._replace(data=self.standardize(inputs.data))
        return self.standardize(inputs)

    def as_batch_first(self) -> Self:
        """The model for inputs `(batch, steps, input_size)`, which is what a `Split` holds.

        Itself, or a view of it that shares everything but its layer's `batch_first`.
        """
        if self.layer.batch_first:
            return self
        view = shared_view(self)
        view.__dict__["_modules"] = {**self._modules, "layer": self.layer.as_batch_first()}
        return view

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert or move the module, but leave the statistics in float64."""
        exact = {name: getattr(self, name) for name in ("mean", "std", "target_mean", "target_std")}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            moved: Any = getattr(self, name)
            if moved is not None and moved.dtype != value.dtype:
                setattr(self, name, value.to(moved.device))
        return self


def _counted_targets(targets: Tensor, lengths: Tensor | None, mask: Tensor | None) -> Tensor:
    """Return the targets with marks at the steps past a sequence's end and at those that a mask leaves out."""
    if (lengths is None and mask is None) or not at_every_step(targets):
        return targets
    batch, steps = targets.shape[:2]
    if mask is not None:
        check_mask(mask, count=batch, steps=steps)
        targets = mark_uncounted(targets, mask.to(targets.device))
    if lengths is not None:
        check_lengths(lengths, batch=batch, steps=steps)
        targets = mark_uncounted(targets, valid_steps(lengths.to(targets.device), steps))
    if not values_hidden():
        check_counted(counted(targets))
    return targets


class ChannelStatistics(TypedDict, total=False):
    """What every sequence model knows of the inputs' channels: statistics and missing values; see `SequenceModel`."""

    mean: Tensor | None
    std: Tensor | None
    missing: str | None


class Statistics(ChannelStatistics, total=False):
    """Statistics of the inputs' channels and of targets that are values; see `SequenceModel`."""

    target_mean: Tensor | None
    target_std: Tensor | None


def check_target_statistics(mean: Tensor | None, std: Tensor | None, outputs: int, loss: str) -> None:
    """Raise if statistics are given and are not finite, not of shape `(outputs,)` or not for this loss."""
    if mean is None and std is None:
        return
    if loss != "squared_error":
        raise ValueError(f"target_mean must be None with loss {loss!r}, got a tensor. Classes are not standardized.")
    for name, value in (("target_mean", mean), ("target_std", std)):
        check_tensor(name, value)
        assert value is not None
        if value.shape != (outputs,):
            raise ValueError(f"{name} must have shape ({outputs},), got {tuple(value.shape)}.")
        check_finite(name, value)
    if std is not None and not bool((std > 0).all()):
        raise ValueError(f"target_std must be positive, got {float(std.min()):g} as the smallest.")


class SequenceClassifier(SequenceModel):
    """A `SequenceModel` with logits for each sequence, trained with the cross-entropy.

    Args:
        layer: The layer.
        classes: At least 2.
        statistics: `mean`, `std` and `missing` of `SequenceModel`.

    Raises:
        TypeError: If `layer` is not a `RecurrentLayer`, or `mean` or `std` is not a tensor.
        ValueError: If `classes` is below 2, or `mean` or `std` have another shape or range.

    Example:
        >>> from noisyrnn.models import NoisyRNN
        >>> model = SequenceClassifier(NoisyRNN(input_size=1, hidden_size=8), classes=3)
        >>> model(torch.zeros(2, 5, 1)).shape
        torch.Size([2, 3])
    """

    def __init__(self, layer: RecurrentLayer, classes: int, **statistics: Unpack[ChannelStatistics]) -> None:
        check_integer("classes", classes, minimum=2, maximum=LARGEST_SIZE)
        super().__init__(layer, classes, loss="cross_entropy", **statistics)
        self.classes = classes


class SequenceRegressor(SequenceModel):
    """A `SequenceModel` with values for each sequence, trained with the mean squared error.

    Args:
        layer: The layer.
        targets: Values for each sequence, at least 1.
        statistics: `mean`, `std`, `missing`, `target_mean` and `target_std` of `SequenceModel`.

    Raises:
        TypeError: If `layer` is not a `RecurrentLayer`, or a statistic is not a tensor.
        ValueError: If `targets` is below 1, or a statistic has another shape or range.

    Example:
        >>> from noisyrnn.models import NoisyRNN
        >>> SequenceRegressor(NoisyRNN(input_size=1, hidden_size=8), targets=2)(torch.zeros(4, 5, 1)).shape
        torch.Size([4, 2])
    """

    def __init__(self, layer: RecurrentLayer, targets: int = 1, **statistics: Unpack[Statistics]) -> None:
        check_integer("targets", targets, minimum=1)
        super().__init__(layer, targets, loss="squared_error", **statistics)
        self.targets = targets


class SequenceToSequence(SequenceModel):
    """A `SequenceModel` with an answer at every step: values with the mean squared error, or logits with cross-entropy.

    The loss of a sequence is the mean over its steps that count, those of the mask of a `Split`.

    Args:
        layer: The layer.
        targets: Values for each step, at least 1; left out where there are classes.
        classes: Number of classes of each step, at least 2, for a classification; `None` for values.
        statistics: `mean`, `std`, `missing` and, for values, `target_mean` and `target_std` of `SequenceModel`.

    Raises:
        TypeError: If `layer` is not a `RecurrentLayer`, or a statistic is not a tensor.
        ValueError: If `targets` is below 1, `classes` below 2, or a statistic has another shape or range.

    Example:
        >>> from noisyrnn.models import NoisyRNN
        >>> SequenceToSequence(NoisyRNN(input_size=1, hidden_size=8), targets=2)(torch.zeros(4, 5, 1)).shape
        torch.Size([4, 5, 2])
        >>> model = SequenceToSequence(NoisyRNN(input_size=1, hidden_size=8), classes=3)
        >>> model.losses(model(torch.zeros(2, 4, 1)), torch.tensor([[0, 1, 2, -1], [-1, -1, 2, 2]])).shape
        torch.Size([2])
    """

    def __init__(
        self,
        layer: RecurrentLayer,
        targets: int = 1,
        *,
        classes: int | None = None,
        **statistics: Unpack[Statistics],
    ) -> None:
        if classes is None:
            check_integer("targets", targets, minimum=1)
        else:
            check_integer("classes", classes, minimum=2, maximum=LARGEST_SIZE)
        loss = "squared_error" if classes is None else "cross_entropy"
        super().__init__(layer, classes or targets, loss=loss, every_step=True, **statistics)
        self.targets = targets if classes is None else None
        self.classes = classes


for _head in (SequenceClassifier, SequenceRegressor, SequenceToSequence):
    _unused = ("target_mean", "target_std") if _head is SequenceClassifier else ()
    show_options(_head, SequenceModel, without=("outputs", "loss", "every_step", *_unused))

Head = SequenceClassifier | SequenceRegressor | SequenceToSequence

HEADS: dict[str, type[Head]] = {
    "classifier": SequenceClassifier,
    "regressor": SequenceRegressor,
    "sequence": SequenceToSequence,
}
"""The sequence models that a model file can hold, by the name that it gives them."""


def in_evaluation_mode(layer: RecurrentLayer) -> RecurrentLayer:
    """A view of a layer in evaluation mode that shares everything else; of a compiled layer the eager one."""
    view = shared_view(getattr(layer, "_orig_mod", layer))
    view.training = False
    return view
