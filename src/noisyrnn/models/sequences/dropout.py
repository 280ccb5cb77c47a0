"""Dropout between the layers of a stack."""

from dataclasses import replace

from torch import Tensor

from noisyrnn.noise.brownian import BrownianPath


def apply_dropout(outputs: Tensor, rate: float, path: BrownianPath, stream: int) -> Tensor:
    """`outputs` with each entry zero with probability `rate`, and the others divided by `1 - rate`.

    Which entries are zero depends on (seed, row, step, unit) only, as hidden noise does, and neither on the global
    random state nor on padding. An antithetic path keeps the mask, since only its noise has the other sign.

    Args:
        outputs: `(batch, steps, size)`.
        rate: In [0, 1).
        path: Where the mask comes from.
        stream: Tells the mask apart from all else that is drawn from the path.
    """
    batch, steps, size = outputs.shape
    uniform = replace(path, stream=path.stream + stream, sign=1, factor=1).uniforms(
        steps=steps, batch=batch, units=size, device=outputs.device
    )
    return outputs * (uniform >= rate).transpose(0, 1) / (1 - rate)
