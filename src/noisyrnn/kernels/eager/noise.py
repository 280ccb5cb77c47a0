"""The noise of a pass: its numbers, and what they mean for a step."""

from torch import Tensor

from noisyrnn.kernels.call import KernelCall, NoiseSource
from noisyrnn.kernels.eager.blocks import Time
from noisyrnn.sde.draws import fill


def _scaled_at_once(call: KernelCall, time: Time) -> bool:
    """Whether all steps' numbers are scaled alike, and so while they are made, which takes no time."""
    return time.dt is None and time.over is None and call.source is not NoiseSource.FIRST_MOTION


def draw_noise(call: KernelCall, time: Time, begin: int, mean: Tensor, shift: Tensor | None) -> None:
    """Fill `mean` with the multiplicative noise's numbers, and `shift` with the additive one's; scaled where possible.

    Args:
        call: The pass.
        time: Of the pass.
        begin: First step.
        mean: `(R, k, B, hidden_size)`; left alone where the pass has no multiplicative noise, or one that has the
            numbers of the additive noise.
        shift: The same shape; `None` where it has no additive noise.
    """
    slope, base = call.multiplicative
    first_row, first_step, stream = call.place
    targets = [] if shift is None else [("first", shift, (call.additive, 0.0))]
    if call.source in (NoiseSource.UNIFORM, NoiseSource.SECOND_MOTION):
        targets.append(("uniform" if call.source is NoiseSource.UNIFORM else "second", mean, (slope, base)))
    elif call.source is NoiseSource.FIRST_MOTION and shift is None:
        targets.append(("first", mean, (1.0, 0.0)))
    if targets:
        kinds, tensors, affine = zip(*targets, strict=True)
        fill(
            tensors,
            call.seed,
            kinds,
            first_row=first_row,
            first_step=first_step + begin,
            stream=stream,
            affine=affine if _scaled_at_once(call, time) else None,
        )


def scale_noise(call: KernelCall, time: Time, begin: int, end: int, mean: Tensor, shift: Tensor | None) -> None:
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
    slope, base = call.multiplicative
    if call.source is NoiseSource.FIRST_MOTION and shift is not None:
        mean.copy_(shift)
    root = None if time.dt is None else time.dt[:, begin:end].sqrt()
    if call.source:
        if root is not None and call.source is not NoiseSource.UNIFORM:
            mean.div_(root)
        mean.mul_(slope).add_(base).mul_(time.moves[:, begin:end])
    if shift is not None:
        shift.mul_(call.additive)
        if root is not None:
            shift.mul_(root)
        if time.over is not None:
            shift.masked_fill_(time.over[:, begin:end], 0.0)
