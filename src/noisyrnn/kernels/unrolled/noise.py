"""The noise of a pass: its numbers, and what they mean for a step."""

import torch
from torch import Tensor

from noisyrnn.kernels.recurrence import Pass
from noisyrnn.kernels.unrolled.blocks import Time
from noisyrnn.sde.draws import fill


def draw_noise(call: Pass, begin: int, mean: Tensor, shift: Tensor | None) -> None:
    """Fill `mean` with the multiplicative noise's numbers, and `shift` with the additive one's.

    Args:
        call: The pass.
        begin: First step.
        mean: `(R, k, B, hidden_size)`; left alone where the pass has no multiplicative noise, or one that has the
            numbers of the additive noise.
        shift: The same shape; `None` where it has no additive noise.
    """
    noise = call.noise
    targets = [] if shift is None else [("first", shift)]
    if noise.source in (1, 2):
        targets.append(("uniform" if noise.source == 1 else "second", mean))
    elif noise.source == 3 and shift is None:
        targets.append(("first", mean))
    if targets:
        kinds, tensors = zip(*targets, strict=True)
        first_step = noise.first_step + begin
        fill(tensors, call.seed, kinds, first_row=noise.first_row, first_step=first_step, stream=noise.stream)


def scale_noise(call: Pass, time: Time, begin: int, end: int, mean: Tensor, shift: Tensor | None) -> None:
    """Turn the numbers into the multiplier times a step's length, and into the additive noise.

    Args:
        call: The pass.
        time: Of the pass.
        begin: First step.
        end: Past the last one.
        mean: As `draw_noise` left it, of these steps.
        shift: Likewise.
    """
    noise = call.noise
    if noise.source == 3 and shift is not None:
        mean.copy_(shift)
    root = None if time.dt is None else time.dt[:, begin:end].sqrt()
    if noise.source:
        if root is not None and noise.source > 1:
            mean.div_(root)
        torch.add(mean.new_full((), noise.base), mean, alpha=noise.slope, out=mean)
        if time.dt is not None or time.over is not None:
            mean.mul_(time.moves[:, begin:end])
    if shift is not None:
        shift.mul_(noise.additive)
        if root is not None:
            shift.mul_(root)
        if time.over is not None:
            shift.masked_fill_(time.over[:, begin:end], 0.0)
