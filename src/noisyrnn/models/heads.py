"""Sequence models: a recurrent layer, a linear readout of its outputs, and the loss that they are trained with."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from noisyrnn.checks import LARGEST_SIZE, check_choice, check_flag, check_integer
from noisyrnn.models.layer import RecurrentLayer, final_output, pass_options, shared_view
from noisyrnn.models.options import show_options
from noisyrnn.models.standardization import float64_statistics, standardize
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.padding import valid_steps


class Loss(NamedTuple):
    """A loss of a sequence model.

    Args:
        values: From outputs `(batch, outputs)` and targets to the loss of each sequence, `(batch,)`.
        correct: From the same to whether each sequence was classified correctly, bool `(batch,)`.
    """

    values: Callable[[Tensor, Tensor], Tensor]
    correct: Callable[[Tensor, Tensor], Tensor]


LOSSES = {
    "cross_entropy": Loss(
        lambda logits, classes: functional.cross_entropy(logits, classes, reduction="none"),
        lambda logits, classes: logits.argmax(1) == classes,
    ),
    "squared_error": Loss(
        lambda outputs, targets: (outputs - targets).square().mean(dim=1),
        lambda outputs, targets: torch.zeros_like(targets[:, 0], dtype=torch.bool),  # a value is never exactly right
    ),
}
"""Losses by name: of classes, int64 `(batch,)`, and of values `(batch, outputs)`."""


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

    Raises:
        TypeError: If `layer` is not a `RecurrentLayer`, or `mean` or `std` is not a tensor.
        ValueError: If `outputs` is below 1, the loss is unknown, or `mean` or `std` have another shape or range.

    Example:
        >>> from noisyrnn.models import NoisyRNN
        >>> model = SequenceModel(NoisyRNN(input_size=1, hidden_size=8), 3, loss="cross_entropy")
        >>> model.losses(model(torch.zeros(2, 5, 1)), torch.tensor([0, 2])).shape
        torch.Size([2])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layer: RecurrentLayer,
        outputs: int,
        *,
        loss: str,
        every_step: bool = False,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        check_integer("outputs", outputs, minimum=1, maximum=LARGEST_SIZE)
        check_choice("loss", loss, LOSSES)
        check_flag("every_step", every_step)
        if not isinstance(getattr(layer, "_orig_mod", layer), RecurrentLayer):  # or what torch.compile made of one
            raise TypeError(
                f"layer must be a RecurrentLayer, got {type(layer).__name__}. Wrap a cell: "
                "RecurrentLayer(torch.nn.GRUCell, input_size, hidden_size)."
            )
        super().__init__()
        example = next(layer.parameters())
        mean, std = float64_statistics(mean, std, layer.input_size, example.device)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.layer = layer
        self.loss = loss
        self.every_step = every_step
        self.readout = nn.Linear(layer.output_size, outputs, dtype=example.dtype, device="cpu").to(example.device)

    def forward(
        self,
        inputs: Tensor | PackedSequence,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        dt: Tensor | float | None = None,
        path: BrownianPath | None = None,
    ) -> Any:
        """Answers `(batch, outputs)`, or with `every_step` `(batch, steps, outputs)` in the form of the inputs.

        Answers past the end of a sequence are zero. Arguments are those of `RecurrentLayer.forward`.
        """
        layer = self.layer
        layer.check_inputs(inputs)  # before broadcasting hides a wrong shape
        if layer.training and not self.training:  # by code that sets the mode of recurrent modules only
            layer = in_evaluation_mode(layer)
        values = self._standardize(inputs)
        if not self.every_step:
            states, h_n = layer(values, lengths=lengths, mask=mask, dt=dt, path=path, **pass_options(layer))
            return self.readout(final_output(layer, states, h_n, lengths=lengths, mask=mask))
        states, _ = layer(values, lengths=lengths, mask=mask, dt=dt, path=path)
        if isinstance(states, PackedSequence):
            return states._replace(data=self.readout(states.data))
        answers: Tensor = self.readout(states)
        if lengths is not None:
            mask = valid_steps(lengths.to(answers.device), answers.shape[1 if layer.batch_first else 0])
        if mask is None:
            return answers
        valid = mask if layer.batch_first else mask.T
        return torch.where(valid.to(answers.device)[..., None], answers, 0.0)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sequence, `(batch,)`.

        Args:
            outputs: `(batch, outputs)`.
            targets: Classes, int64 `(batch,)`, or values `(batch, outputs)`.
        """
        return LOSSES[self.loss].values(outputs, targets)

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether each sequence is classified correctly, bool `(batch,)`; never, where targets are values."""
        return LOSSES[self.loss].correct(outputs, targets)

    def standardize(self, inputs: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Standardized inputs `(..., input_size)` in the type of the weights, or in `dtype`."""
        dtype = next(self.layer.parameters()).dtype if dtype is None else dtype
        return standardize(inputs, self.mean, self.std, dtype)

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
        exact = {"mean": self.mean, "std": self.std}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            moved: Any = getattr(self, name)
            if moved.dtype != value.dtype:
                setattr(self, name, value.to(moved.device))
        return self


class ChannelStatistics(TypedDict, total=False):
    """Statistics of the inputs' channels, by which every sequence model standardizes; see `SequenceModel`."""

    mean: Tensor | None
    std: Tensor | None


class SequenceClassifier(SequenceModel):
    """A `SequenceModel` with logits for each sequence, trained with the cross-entropy.

    Args:
        layer: The layer.
        classes: At least 2.
        statistics: `mean` and `std` of `SequenceModel`.

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
        statistics: `mean` and `std` of `SequenceModel`.

    Raises:
        TypeError: If `layer` is not a `RecurrentLayer`, or `mean` or `std` is not a tensor.
        ValueError: If `targets` is below 1, or `mean` or `std` have another shape or range.

    Example:
        >>> from noisyrnn.models import NoisyRNN
        >>> SequenceRegressor(NoisyRNN(input_size=1, hidden_size=8), targets=2)(torch.zeros(4, 5, 1)).shape
        torch.Size([4, 2])
    """

    def __init__(self, layer: RecurrentLayer, targets: int = 1, **statistics: Unpack[ChannelStatistics]) -> None:
        check_integer("targets", targets, minimum=1)
        super().__init__(layer, targets, loss="squared_error", **statistics)
        self.targets = targets


class SequenceToSequence(SequenceModel):
    """A `SequenceModel` with values, or logits, at every step of a sequence.

    Args:
        layer: The layer.
        targets: Values for each step, at least 1.
        statistics: `mean` and `std` of `SequenceModel`.

    Raises:
        TypeError: If `layer` is not a `RecurrentLayer`, or `mean` or `std` is not a tensor.
        ValueError: If `targets` is below 1, or `mean` or `std` have another shape or range.

    Example:
        >>> from noisyrnn.models import NoisyRNN
        >>> SequenceToSequence(NoisyRNN(input_size=1, hidden_size=8), targets=2)(torch.zeros(4, 5, 1)).shape
        torch.Size([4, 5, 2])
    """

    def __init__(self, layer: RecurrentLayer, targets: int = 1, **statistics: Unpack[ChannelStatistics]) -> None:
        check_integer("targets", targets, minimum=1)
        super().__init__(layer, targets, loss="squared_error", every_step=True, **statistics)
        self.targets = targets


for _head in (SequenceClassifier, SequenceRegressor, SequenceToSequence):
    show_options(_head, SequenceModel, without=("outputs", "loss", "every_step"))

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
