"""Inputs less their mean, over their standard deviation, channel by channel."""

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from noisyrnn.checks import check_finite
from noisyrnn.models.layer import RecurrentLayer


def hold_statistics(module: nn.Module, layer: RecurrentLayer, mean: Tensor | None, std: Tensor | None) -> None:
    """Give `module` the buffers `mean` and `std`, which then travel with its weights.

    Args:
        module: A head.
        layer: Its inputs are standardised; defaults have the dtype and device of its weights.
        mean: `(input_size,)`; zero by default.
        std: `(input_size,)`, above 0; one by default.

    Raises:
        TypeError: If `mean` or `std` is not a tensor.
        ValueError: If `mean` or `std` have another shape or range.
    """
    input_size, example = layer.input_size, next(layer.parameters())
    for name, value in (("mean", mean), ("std", std)):
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}. Use torch.tensor({name}).")
        if value is not None and value.shape != (input_size,):
            raise ValueError(f"{name} must have shape ({input_size},), got {tuple(value.shape)}.")
    if mean is not None and not mean.is_meta:
        check_finite("mean", mean)
    if std is not None and not std.is_meta:
        check_finite("std", std)
        if not bool((std > 0).all()):
            raise ValueError(f"std must be positive, got {float(std.min()):g} as the smallest.")
    module.register_buffer("mean", example.new_zeros(input_size) if mean is None else mean.clone())
    module.register_buffer("std", example.new_ones(input_size) if std is None else std.clone())


def standardised(inputs: Tensor | PackedSequence, mean: Tensor, std: Tensor) -> Tensor | PackedSequence:
    """Inputs `(..., input_size)`, packed if they were.

    Example:
        >>> standardised(torch.tensor([[3.0, 3.0]]), torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]))
        tensor([[1., 3.]])
    """
    if isinstance(inputs, PackedSequence):
        return inputs._replace(data=(inputs.data - mean) / std)
    return (inputs - mean) / std
