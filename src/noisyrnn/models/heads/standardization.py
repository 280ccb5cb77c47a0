"""Inputs less their mean, over their standard deviation, channel by channel."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from noisyrnn.checks import check_finite
from noisyrnn.models.layer import RecurrentLayer, shared_view


class Standardized(nn.Module):
    """A recurrent layer whose inputs are standardised; what the heads share.

    The difference from the mean is taken in float64 and then rounded to the type of the weights, so that values far
    from zero with a small spread, such as times in seconds since 1970, keep it. So the buffers `mean` and `std` stay
    float64 whatever the model is converted to, and inputs may have any floating type: give them as they were measured,
    in float64.

    Args:
        layer: Run over the standardised inputs.
        mean: `(input_size,)`; zero by default. Travels with the weights.
        std: `(input_size,)`, above 0; one by default. Travels with the weights.

    Raises:
        TypeError: If `mean` or `std` is not a tensor.
        ValueError: If `mean` or `std` have another shape or range.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layer: RecurrentLayer, mean: Tensor | None, std: Tensor | None) -> None:
        super().__init__()
        size = layer.input_size
        for name, value in (("mean", mean), ("std", std)):
            if value is None:
                continue
            if not isinstance(value, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(value).__name__}. Use torch.tensor({name}).")
            if value.shape != (size,):
                raise ValueError(f"{name} must have shape ({size},), got {tuple(value.shape)}.")
            if not value.is_meta:
                check_finite(name, value)
        if std is not None and not std.is_meta and not bool((std > 0).all()):
            raise ValueError(f"std must be positive, got {float(std.min()):g} as the smallest.")
        exact, device = torch.float64, next(layer.parameters()).device
        for name, value, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            held = torch.full((size,), default, dtype=exact, device=device) if value is None else value.detach().clone()
            self.register_buffer(name, held.to(exact))
        self.layer = layer

    def standardize(self, inputs: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Standardised inputs `(..., input_size)` in the type of the weights, or in `dtype`."""
        dtype = next(self.layer.parameters()).dtype if dtype is None else dtype
        return standardize(inputs, self.mean, self.std, dtype)

    def as_batch_first(self) -> Self:
        """The model for inputs `(batch, steps, input_size)`, which is what a `Split` holds.

        Itself, or a view of it that shares everything but its layer's `batch_first`.
        """
        if self.layer.batch_first:
            return self
        view = shared_view(self)
        view.__dict__["_modules"] = {**self._modules, "layer": self.layer.as_batch_first()}
        return view

    def _standardize(self, inputs: Tensor | PackedSequence) -> Tensor | PackedSequence:
        """Inputs as the layer takes them, packed if they were."""
        if isinstance(inputs, PackedSequence):
            return inputs._replace(data=self.standardize(inputs.data))
        return self.standardize(inputs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert or move the module, but leave the statistics in float64."""
        exact = {"mean": self.mean, "std": self.std}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            moved: Any = getattr(self, name)
            if moved.dtype != value.dtype:
                setattr(self, name, value.to(moved.device))
        return self


def standardize(inputs: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """Inputs `(..., input_size)` less their mean over their standard deviation, computed in the type of these.

    Example:
        >>> mean, std = torch.tensor([1.0, 0.0]).double(), torch.tensor([2.0, 1.0]).double()
        >>> standardize(torch.tensor([[3.0, 3.0]]), mean, std, torch.float32)
        tensor([[1., 3.]])
    """
    return ((inputs - mean) / std).to(dtype)
