"""Sequences in units of each channel's scale, and the way back."""

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from noisyrnn.data.scale import Scale
from noisyrnn.missing import missing_of
from noisyrnn.robustness.logits import Model, call_model, take_rows


class StandardizedValues:
    """Sequences in units of each channel's standard deviation, without the channels that never vary.

    Args:
        inputs: `(batch, steps, channels)`.
        scale: Mean and standard deviation of each channel, not all 0.
        factor: What the standard deviation is multiplied by, for each sequence, `(batch,)`; 1 by default.

    Attributes:
        values: Float64 `(batch, steps, channels that vary)`; 0 where a value is missing, which stays so.
        present: Where values are not missing, bool of the same shape.
    """

    def __init__(self, inputs: Tensor, scale: Scale, factor: Tensor | None = None) -> None:
        mean, std = (inputs.new_tensor(values, dtype=torch.float64) for values in (scale.mean, scale.std))
        self._inputs, self._varies = inputs.detach(), std > 0
        self._std = std[self._varies]
        if factor is not None:
            self._std = self._std * factor.to(inputs.device, torch.float64)[:, None, None]
        values = (self._inputs.double() - mean)[..., self._varies] / self._std
        self.present = ~values.isnan()
        self.values = torch.where(self.present, values, 0.0)

    def restore(self, values: Tensor) -> Tensor:
        """Return the inputs, in their type, that have other standardized values.

        Args:
            values: `(batch, steps, channels that vary)`, or any number of variants of a single sequence.
        """
        inputs = self._inputs.double().expand(len(values), -1, -1)
        offset = torch.zeros_like(inputs)
        offset[..., self._varies] = self._std * (values - self.values)
        return (inputs + offset).to(self._inputs.dtype)

    def take(self, rows: Tensor) -> "StandardizedValues":
        """Return those of some sequences; `rows` holds their numbers."""
        taken = copy(self)
        taken._inputs, taken.values, taken.present = self._inputs[rows], self.values[rows], self.present[rows]
        if self._std.ndim > 1:
            taken._std = self._std[rows]
        return taken

    def view(self, model: Model) -> "StandardizedModel":
        """Return the model as a function of the standardized values."""
        return StandardizedModel(self, model)


@dataclass(frozen=True)
class StandardizedModel:
    """A model as a function of standardized values.

    Args:
        origin: The sequences whose values are changed: a call takes another `values` of them.
        model: Callable from sequences in the units of the data.
    """

    origin: StandardizedValues
    model: Model

    def __call__(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the model's outputs for the sequences that have these standardized values."""
        return call_model(self.model, self.origin.restore(values), lengths)

    def take(self, rows: Tensor) -> "StandardizedModel":
        """Return the model for some of the sequences; `rows` holds their numbers."""
        return StandardizedModel(self.origin.take(rows), take_rows(self.model, rows))

    @property
    def missing(self) -> str | None:
        """How the model meets missing values."""
        return missing_of(self.model)
