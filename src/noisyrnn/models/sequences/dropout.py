"""Dropout between the layers of a stack."""

from dataclasses import replace

from torch import Tensor

from noisyrnn.noise.brownian import BrownianPath


def apply_dropout(outputs: Tensor, rate: float, path: BrownianPath, stream: int) -> Tensor:
    """Set each entry of `outputs` to zero with probability `rate` and divide the others by `1 - rate`.

    Like hidden noise, the mask depends only on (seed, row, step, unit), not on the global random state or on padding.
    An antithetic path has the same mask: it changes only the sign of the noise.

    Args:
        outputs: `(batch, steps, size)`.
        rate: Probability in [0, 1).
        path: Source of the mask.
        stream: Added to the path's stream, so that the mask is independent of the noise drawn from the path.
    """
    batch, steps, size = outputs.shape
    uniform = replace(path, stream=path.stream + stream, sign=1, factor=1).uniforms(
        steps=steps, batch=batch, units=size, device=outputs.device
    )
    return outputs * (uniform >= rate).transpose(0, 1) / (1 - rate)
