"""The noise of a pass: its numbers, and what they mean for a step."""

from torch import Tensor

from noisyrnn.kernels.call import Pass
from noisyrnn.kernels.eager.blocks import Time
from noisyrnn.sde.draws import fill


def _scaled_at_once(call: Pass, time: Time) -> bool:
    """Whether all steps' numbers are scaled alike, and so while they are made, which takes no time."""
    return time.dt is None and time.over is None and call.noise.source != 3


def draw_noise(call: Pass, time: Time, begin: int, mean: Tensor, shift: Tensor | None) -> None:
    """Fill `mean` with the multiplicative noise's numbers, and `shift` with the additive one's; scaled where possible.

    Args:
        call: The pass.
        time: Of the pass.
        begin: First step.
        mean: `(R, k, B, hidden_size)`; left alone where the pass has no multiplicative noise, or one that has the
            numbers of the additive noise.
        shift: The same shape; `None` where it has no additive noise.
    """
    noise = call.noise
    targets = [] if shift is None else [("first", shift, (noise.additive, 0.0))]
    if noise.source in (1, 2):
        targets.append(("uniform" if noise.source == 1 else "second", mean, (noise.slope, noise.base)))
    elif noise.source == 3 and shift is None:
        targets.append(("first", mean, (1.0, 0.0)))
    if targets:
        kinds, tensors, affine = zip(*targets, strict=True)
        fill(
            tensors,
            call.seed,
            kinds,
            first_row=noise.first_row,
            first_step=noise.first_step + begin,
            stream=noise.stream,
            affine=affine if _scaled_at_once(call, time) else None,
        )


def scale_noise(call: Pass, time: Time, begin: int, end: int, mean: Tensor, shift: Tensor | None) -> None:
    """Turn numbers not scaled yet into the multiplier times a step's length, and into the additive noise.

    Args:
        call: The pass.
        time: Of the pass.
        begin: First step.
        end: Past the last one.
        mean: As `draw_noise` left it, of these steps.
        shift: Likewise.
    """
    if _scaled_at_once(call, time):
        return
    noise = call.noise
    if noise.source == 3 and shift is not None:
        mean.copy_(shift)
    root = None if time.dt is None else time.dt[:, begin:end].sqrt()
    if noise.source:
        if root is not None and noise.source > 1:
            mean.div_(root)
        mean.mul_(noise.slope).add_(noise.base).mul_(time.moves[:, begin:end])
    if shift is not None:
        shift.mul_(noise.additive)
        if root is not None:
            shift.mul_(root)
        if time.over is not None:
            shift.masked_fill_(time.over[:, begin:end], 0.0)
