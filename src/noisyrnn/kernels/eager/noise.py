"""The noise of a pass: its values, and what they mean for a step."""

from torch import Tensor

from noisyrnn.kernels.call import KernelCall, NoiseSource
from noisyrnn.kernels.eager.blocks import Time
from noisyrnn.noise.draws import fill


def draw_noise(call: KernelCall, begin: int, mean: Tensor, shift: Tensor | None) -> None:
    """Fill `mean` with the values of the multiplicative noise, and `shift` with those of the additive one.

    Args:
        call: The pass.
        begin: First step.
        mean: `(R, k, B, hidden_size)`; unchanged if the pass has no multiplicative noise, or one that has the values of
            the additive noise.
        shift: The same shape; `None` if there is no additive noise.
    """
    targets = {} if shift is None else {"first": shift}
    if call.source in (NoiseSource.UNIFORM, NoiseSource.SECOND_MOTION):
        targets["uniform" if call.source is NoiseSource.UNIFORM else "second"] = mean
    elif call.source is NoiseSource.FIRST_MOTION and shift is None:
        targets["first"] = mean
    if targets:
        place = call.place._replace(first_step=call.place.first_step + begin)
        fill(list(targets.values()), call.seed, list(targets), place)


def scale_noise(call: KernelCall, time: Time, begin: int, end: int, mean: Tensor, shift: Tensor | None) -> None:
    """Turn the values into the multiplier times the length of a step, and into the additive noise.

    Args:
        call: The pass.
        time: Of the pass.
        begin: First step.
        end: Past the last one.
        mean: As `draw_noise` left it, of these steps.
        shift: Likewise.
    """
    slope, base = call.multiplicative
    if call.source is NoiseSource.FIRST_MOTION and shift is not None:
        mean.copy_(shift)
    root = None if time.dt is None else time.dt[:, begin:end].sqrt()
    if call.source:
        if root is not None and call.source is not NoiseSource.UNIFORM:
            mean.div_(root)
        mean.mul_(slope).add_(base)
        if time.dt is not None or time.over is not None:
            mean.mul_(time.moves[:, begin:end])
    if shift is not None:
        shift.mul_(call.additive)
        if root is not None:
            shift.mul_(root)
        if time.over is not None:
            shift.masked_fill_(time.over[:, begin:end], 0.0)
