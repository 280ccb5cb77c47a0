"""The forward pass."""

import functools

import numpy as np
import torch
from torch import Tensor

from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.eager import blocks
from noisyrnn.kernels.eager.blocks import Time, add_product, each_step, empty, squeezed, valid_inputs
from noisyrnn.kernels.eager.noise import draw_noise, scale_noise


@torch.no_grad()
def forward(call: KernelCall, *, every_step: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As in `Kernel`; saved are `(R, parts, T, B, hidden_size)`, reshaped to `(R, T, B, parts * hidden_size)`.

    The parts are tanh's values (modReLU's arguments), the oscillator's velocities, and, where the noise is
    multiplicative, its multiplier times the step's length.
    """
    replicas, batch, steps, _ = call.inputs.shape
    hidden = call.W.shape[1]
    block = min(blocks.BLOCK, steps)
    ahead = steps if save else block  # of noise at once: its threads start slowly, but memory is to stay small
    time, source, new = Time.of(call), call.source, functools.partial(empty, call.inputs)
    x, bias = valid_inputs(call, time), (None if call.kind == "modrelu" else call.b)
    oscillator, keep = call.kind == "oscillator", every_step or save
    parts = 2 if oscillator else 1
    outputs = new(replicas, steps if keep else block, batch, hidden)
    stored = new(replicas, parts + (source > 0), steps if save else block, batch, hidden)
    Wt, At = squeezed(call.W.mT), None if call.A is None else squeezed(call.A.mT)
    Ut, b = call.U.mT, squeezed(call.b.unsqueeze(1))
    h, velocity = squeezed(call.state[..., :hidden]), squeezed(call.state[..., hidden:])
    products = new(replicas, block, batch, hidden) if source and call.kind != "modrelu" else None
    work = torch.empty_like(h, memory_format=torch.contiguous_format)
    for begin in range(0, steps, block):
        end = min(begin + block, steps)
        here = slice(begin, end) if keep else slice(0, end - begin)
        part = stored[:, :, begin:end] if save else stored[:, :, : end - begin]
        _project(x[:, begin:end], Ut, bias, part[:, 0])
        scale = part[:, -1] if source else time.moves[:, begin:end]
        if not keep:
            h = h.clone()  # it lies where this block's are written
        if begin % ahead == 0:
            drawn = slice(here.start, here.start + min(ahead, steps - begin))
            draw_noise(call, begin, stored[:, -1, : steps - begin], outputs[:, drawn] if call.additive else None)
        scale_noise(call, time, begin, end, part[:, -1], outputs[:, here] if call.additive else None)
        if call.kind != "modrelu":
            memory = None if products is None else products[:, : end - begin]
            scale = torch.mul(scale, call.step[:, None, None], out=memory)
        rates = each_step(scale)
        values, after = each_step(part[:, 0]), each_step(outputs[:, here])
        if oscillator:
            velocities = each_step(part[:, 1])
            lengths = each_step(time.moves[:, begin:end] * call.step[:, None, None])
        for k in range(end - begin):
            z = values[k]
            if oscillator:
                _tanh_(add_product(add_product(z, h, Wt[..., :hidden, :]), velocity, Wt[..., hidden:, :]))
                stiffness, friction = call.coefficients
                torch.add(z, h, alpha=-stiffness, out=work).add_(velocity, alpha=-friction)
                velocity = torch.addcmul(velocity, lengths[k], work, out=velocities[k])
                change = velocity
            elif call.kind == "modrelu":
                add_product(z, h, Wt)
                change = torch.abs(z, out=work).add_(b).relu_().mul_(z.sign()).sub_(h)
            else:
                change = _tanh_(add_product(z, h, Wt))
                if At is not None:
                    product = torch.addmm if z.ndim == 2 else torch.baddbmm
                    change = product(z, h, At, out=work)
            if call.additive:
                h = after[k].addcmul_(rates[k], change).add_(h)  # small terms first: one rounding of h's size
            else:
                h = torch.addcmul(h, rates[k], change, out=after[k])
    last = torch.cat([h, velocity], dim=-1).view(call.state.shape)
    if keep and time.over is not None:
        outputs.masked_fill_(time.over, 0.0)
    saved = stored.view(replicas, steps, batch, -1) if save else new(replicas, 0, 0, 0)
    return outputs.transpose(1, 2) if keep else new(replicas, 0, 0, 0), saved, last


def _project(x: Tensor, Ut: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """`U x + bias` of `(R, k, B, input_size)` into `(R, k, B, hidden_size)`."""
    if x.shape[-1] == 1:  # a product of matrices would go through the memory twice
        if bias is None:
            torch.mul(x, Ut.unsqueeze(1), out=out)
        else:
            torch.addcmul(bias[:, None, None], x, Ut.unsqueeze(1), out=out)
        return
    rows = squeezed(x.flatten(1, 2))
    target = squeezed(out.flatten(1, 2))  # a view: the two axes lie together
    if bias is None:
        target.zero_()
    else:
        target.copy_(squeezed(bias.unsqueeze(1)))
    add_product(target, rows, squeezed(Ut))


def _tanh_(z: Tensor) -> Tensor:
    """Write tanh over its argument; on a processor by numpy, which takes a sixth of torch's time."""
    if z.device.type != "cpu":
        return z.tanh_()
    numbers = z.numpy()
    np.tanh(numbers, out=numbers)
    return z
