"""Sequences in units of each channel's scale, and the way back."""

import torch
from torch import Tensor

from noisyrnn.data.scale import Scale
from noisyrnn.robustness.logits import Model, call_model


class StandardizedValues:
    """Sequences in units of each channel's standard deviation, without the channels that never vary.

    Args:
        inputs: `(batch, steps, channels)`.
        scale: Mean and standard deviation of each channel, not all 0.
        factor: What the standard deviation is multiplied by, for each sequence, `(batch,)`; 1 by default.

    Attributes:
        values: Float64 `(batch, steps, channels that vary)`.
    """

    def __init__(self, inputs: Tensor, scale: Scale, factor: Tensor | None = None) -> None:
        mean, std = (inputs.new_tensor(values, dtype=torch.float64) for values in (scale.mean, scale.std))
        self._inputs, self._varies = inputs.detach(), std > 0
        self._std = std[self._varies]
        if factor is not None:
            self._std = self._std * factor.to(inputs.device, torch.float64)[:, None, None]
        self.values = (self._inputs.double() - mean)[..., self._varies] / self._std

    def restore(self, values: Tensor) -> Tensor:
        """Return the inputs, in their type, that have other standardized values.

        Args:
            values: `(batch, steps, channels that vary)`, or any number of variants of a single sequence.
        """
        inputs = self._inputs.double().expand(len(values), -1, -1)
        offset = torch.zeros_like(inputs)
        offset[..., self._varies] = self._std * (values - self.values)
        return (inputs + offset).to(self._inputs.dtype)

    def view(self, model: Model) -> Model:
        """Return the model as a function of the standardized values."""

        def view(values: Tensor, lengths: Tensor | None = None) -> Tensor:
            return call_model(model, self.restore(values), lengths)

        return view
