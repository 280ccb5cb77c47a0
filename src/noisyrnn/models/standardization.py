"""Standardizes inputs channel by channel."""

import ctypes
import struct

import torch
from torch import Tensor

from noisyrnn.checks import check_finite, values_hidden

_ZERO, _ONE = struct.pack("d", 0.0), struct.pack("d", 1.0)


def standardize(inputs: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    """Inputs `(..., input_size)` less their mean over their standard deviation, computed in the type of these.

    Returns `inputs` itself if the mean is 0, the standard deviation 1 and `dtype` that of the inputs, since three
    operations are noticeable in a training step on a short sequence.

    Example:
        >>> mean, std = torch.tensor([1.0, 0.0]).double(), torch.tensor([2.0, 1.0]).double()
        >>> standardize(torch.tensor([[3.0, 3.0]]), mean, std, torch.float32)
        tensor([[1., 3.]])
    """
    if _changes_nothing(mean, std):
        return inputs.to(dtype)
    return ((inputs - mean) / std).to(dtype)


def _changes_nothing(mean: Tensor, std: Tensor) -> bool:
    """Return whether these are zeros and ones in float64 on the CPU; reads bytes, since both may change at any time."""
    if values_hidden() or torch._C._get_tracing_state() is not None:
        return False
    for tensor, value in ((mean, _ZERO), (std, _ONE)):
        readable = type(tensor) is Tensor and tensor.is_cpu and tensor.dtype == torch.float64 and tensor.is_contiguous()
        if not readable or ctypes.string_at(tensor.data_ptr(), tensor.nbytes) != value * tensor.numel():
            return False
    return True


def float64_statistics(
    mean: Tensor | None, std: Tensor | None, input_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Copies of a mean and a standard deviation in float64; zeros and ones by default.

    Raises:
        TypeError: If one is not a tensor.
        ValueError: If one has another shape than `(input_size,)`, is not finite, or `std` is not above 0.
    """
    for name, value in (("mean", mean), ("std", std)):
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}. Use torch.tensor({name}).")
        if value.shape != (input_size,):
            raise ValueError(f"{name} must have shape ({input_size},), got {tuple(value.shape)}.")
        if not value.is_meta:
            check_finite(name, value)
    if std is not None and not std.is_meta and not bool((std > 0).all()):
        raise ValueError(f"std must be positive, got {float(std.min()):g} as the smallest.")
    copies = [
        torch.full((input_size,), default, dtype=torch.float64, device=device)
        if value is None
        else value.detach().clone().to(torch.float64)
        for value, default in ((mean, 0.0), (std, 1.0))
    ]
    return copies[0], copies[1]
