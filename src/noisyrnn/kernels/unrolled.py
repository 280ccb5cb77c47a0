"""The kernel "torch": a backward pass written by hand in tensor operations, for where nothing can be compiled.

The loop over steps runs without autograd and writes into memory made once. What does not depend on the state (input
projections, noise, derivatives of what was saved) is done for a block of steps at a time, and so are the gradients of
the weights: one large product a block. Any device; float32 and float64.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from noisyrnn.kernels.cpu import buffers
from noisyrnn.kernels.recurrence import Gradients, Pass, Recurrence
from noisyrnn.sde.brownian import fill

_BLOCK = 32  # steps; fewer are not worth the calls, more leave a processor's last cache
_DTYPES = (torch.float32, torch.float64)


def supports(recurrence: Recurrence, inputs: Tensor) -> str | None:
    """As in `Backend`."""
    if inputs.dtype not in _DTYPES:
        return f"{inputs.dtype} is not float32 or float64"
    if recurrence.W.dtype != inputs.dtype:
        return f"inputs are {inputs.dtype} and weights {recurrence.W.dtype}"
    return None


def layout(call: Pass) -> tuple[int, int]:
    """As in `Backend`."""
    hidden = call.W.shape[1]
    return hidden, call.W.shape[2] + (hidden if call.noise.source else 0)


class _Time(NamedTuple):
    """What time does to a step; the tensors broadcast against `(R, T, B, hidden_size)`.

    Args:
        dt: Step lengths, 1 past a sequence's end.
        over: Whether the sequence has ended.
        moves: The length of a step, 0 past the end.
    """

    dt: Tensor | None
    over: Tensor | None
    moves: Tensor

    @classmethod
    def of(cls, call: Pass) -> "_Time":
        """The one of a pass."""
        steps = call.inputs.shape[2]
        over, dt = None, None
        if call.lengths is not None:
            over = (torch.arange(steps, device=call.inputs.device)[:, None] >= call.lengths[:, None, :])[..., None]
        if call.dt is not None:
            dt = call.dt.transpose(1, 2)[..., None]
            dt = dt if over is None else torch.where(over, 1.0, dt)
        moves = call.inputs.new_ones(1, 1, 1, 1) if dt is None or call.kind == "modrelu" else dt
        moves = moves if over is None else moves.masked_fill(over, 0.0)
        return cls(dt, over, moves.expand(len(call.state), steps, -1, -1))


def _noise(call: Pass, time: _Time, begin: int, end: int, mean: Tensor, shift: Tensor | None) -> None:
    """Fill `mean` with the multiplier times a step's length, and `shift` with the additive noise, of some steps.

    Args:
        call: The pass.
        time: Of the pass.
        begin: First step.
        end: Past the last one.
        mean: `(R, end - begin, B, hidden_size)`; left alone where the pass has no multiplicative noise.
        shift: The same shape; `None` where it has no additive noise.
    """
    noise = call.noise
    targets = [] if shift is None else [("first", shift)]
    if noise.source in (1, 2):
        targets.append(("uniform" if noise.source == 1 else "second", mean))
    elif noise.source == 3 and shift is None:
        targets.append(("first", mean))
    if not targets:
        return
    kinds, tensors = zip(*targets, strict=True)
    first_step = noise.first_step + begin
    fill(tensors, call.seed, kinds, first_row=noise.first_row, first_step=first_step, stream=noise.stream)
    if noise.source == 3 and shift is not None:
        mean.copy_(shift)
    root = None if time.dt is None else time.dt[:, begin:end].sqrt()
    if noise.source:
        mean.mul_(noise.slope)
        if root is not None and noise.source > 1:
            mean.div_(root)
        mean.add_(noise.base).mul_(time.moves[:, begin:end])
    if shift is not None:
        shift.mul_(noise.additive)
        if root is not None:
            shift.mul_(root)
        if time.over is not None:
            shift.masked_fill_(time.over[:, begin:end], 0.0)


def _empty(like: Tensor, *shape: int) -> Tensor:
    """Memory for numbers such as these; the processor's is used again, since fresh pages are slow to come."""
    if like.device.type == "cpu" and like.dtype == torch.float32:
        return buffers.empty(*shape)
    return like.new_empty(shape)


def _each(block: Tensor) -> tuple[Tensor, ...]:
    """Steps of `(R, k, ...)`, without the axis R where it is 1: plain matrices take the shorter way."""
    return block[0].unbind(0) if len(block) == 1 else block.unbind(1)


def _one(tensor: Tensor) -> Tensor:
    """`(R, ...)` without the axis R where that is 1."""
    return tensor[0] if len(tensor) == 1 else tensor


def _add_product(target: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`target += left @ right` for a matrix, or one for each replica."""
    return target.addmm_(left, right) if target.ndim == 2 else target.baddbmm_(left, right)


def _tanh_(z: Tensor) -> Tensor:
    """Write tanh over its argument; on a processor by numpy, which takes a sixth of torch's time."""
    if z.device.type != "cpu":
        return z.tanh_()
    numbers = z.numpy()
    np.tanh(numbers, out=numbers)
    return z


def _inputs(call: Pass, time: _Time) -> Tensor:
    """Inputs `(R, T, B, input_size)`, zero past the end: padding may be anything."""
    x = call.inputs.transpose(1, 2)
    return x if time.over is None else x.masked_fill(time.over, 0.0)


@torch.no_grad()
def forward(call: Pass, *, every_step: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As in `Backend`; saved are `(R, parts, T, B, hidden_size)`, reshaped to `(R, T, B, parts * hidden_size)`.

    The parts are tanh's values (modReLU's arguments), the oscillator's velocities, and, where the noise is
    multiplicative, its multiplier times the step's length.
    """
    replicas, batch, steps, _ = call.inputs.shape
    hidden = call.W.shape[1]
    block = min(_BLOCK, steps)
    time, noise, new = _Time.of(call), call.noise, functools.partial(_empty, call.inputs)
    x, bias = _inputs(call, time), (None if call.kind == "modrelu" else call.b)
    oscillator, keep = call.kind == "oscillator", every_step or save
    parts = 2 if oscillator else 1
    outputs = new(replicas, steps if keep else block, batch, hidden)
    stored = new(replicas, parts + (noise.source > 0), steps if save else block, batch, hidden)
    Wt, At = _one(call.W.mT), None if call.A is None else _one(call.A.mT)
    Ut, b = call.U.mT, _one(call.b.unsqueeze(1))
    h, velocity = _one(call.state[..., :hidden]), _one(call.state[..., hidden:])
    products = new(replicas, block, batch, hidden) if noise.source and call.kind != "modrelu" else None
    work = torch.empty_like(h, memory_format=torch.contiguous_format)
    for begin in range(0, steps, block):
        end = min(begin + block, steps)
        here = slice(begin, end) if keep else slice(0, end - begin)
        part = stored[:, :, begin:end] if save else stored[:, :, : end - begin]
        _project(x[:, begin:end], Ut, bias, part[:, 0])
        scale = part[:, -1] if noise.source else time.moves[:, begin:end]
        if not keep:
            h = h.clone()  # it lies where this block's are written
        _noise(call, time, begin, end, part[:, -1], outputs[:, here] if noise.additive else None)
        if call.kind != "modrelu":
            memory = None if products is None else products[:, : end - begin]
            scale = torch.mul(scale, call.step[:, None, None], out=memory)
        rates = _each(scale)
        values, after = _each(part[:, 0]), _each(outputs[:, here])
        if oscillator:
            velocities = _each(part[:, 1])
            lengths = _each(time.moves[:, begin:end] * call.step[:, None, None])
        for k in range(end - begin):
            z = values[k]
            if oscillator:
                _tanh_(_add_product(_add_product(z, h, Wt[..., :hidden, :]), velocity, Wt[..., hidden:, :]))
                stiffness, friction = call.coefficients
                torch.add(z, h, alpha=-stiffness, out=work).add_(velocity, alpha=-friction)
                velocity = torch.addcmul(velocity, lengths[k], work, out=velocities[k])
                change = velocity
            elif call.kind == "modrelu":
                _add_product(z, h, Wt)
                change = torch.abs(z, out=work).add_(b).relu_().mul_(z.sign()).sub_(h)
            else:
                change = _tanh_(_add_product(z, h, Wt))
                if At is not None:
                    product = torch.addmm if z.ndim == 2 else torch.baddbmm
                    change = product(z, h, At, out=work)
            if noise.additive:
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
    rows = _one(x.flatten(1, 2))
    target = _one(out.flatten(1, 2))  # a view: the two axes lie together
    if bias is None:
        target.zero_()
    else:
        target.copy_(_one(bias.unsqueeze(1)))
    _add_product(target, rows, _one(Ut))


def _before(history: Tensor, first: Tensor, begin: int, end: int) -> Tensor:
    """The states that steps `[begin, end)` start from, `(R, end - begin, B, hidden_size)`, from those they end in."""
    if begin:
        return history[:, begin - 1 : end - 1]
    return torch.cat([first.unsqueeze(1), history[:, : end - 1]], dim=1)


class _Block(NamedTuple):
    """Some steps of a backward pass.

    Args:
        begin: The first one.
        end: Past the last one.
        parts: What was saved, `(R, parts, k, B, hidden_size)`.
        scale: Multiplier times length of each step; broadcasts against `(R, k, B, hidden_size)`.
        moves: Length of each step, likewise.
        arriving: Gradient of each step's outputs, or `None` for zero.
    """

    begin: int
    end: int
    parts: Tensor
    scale: Tensor
    moves: Tensor
    arriving: tuple[Tensor | None, ...]


class _Gathering:
    """Gradients on their way back: that of the state, and those of the weights so far, without the factor d.

    Args:
        call: The pass.
        x: Its inputs, `(R, T, B, input_size)`.
        outputs: `(R, T, B, hidden_size)`.
        saved: `(R, parts, T, B, hidden_size)`.
        with_inputs: Whether the gradient of the inputs is wanted.
    """

    def __init__(self, call: Pass, x: Tensor, outputs: Tensor, saved: Tensor, with_inputs: bool) -> None:
        self.call, self.x, self.outputs, self.saved = call, x, outputs, saved
        self.hidden = hidden = call.W.shape[1]
        replicas, batch, steps, _ = call.inputs.shape
        new, weights = call.inputs.new_zeros, call.W if call.A is None else torch.cat([call.A, call.W], dim=1)
        d = call.step.unsqueeze(2)
        modrelu = call.kind == "modrelu"
        # The state's and the inputs' gradients are not put together from sums over steps, so d is in their matrices.
        self.back = _one(weights if modrelu else weights * d.repeat(1, weights.shape[1] // hidden, 1))
        self.U_back = call.U if modrelu else d * call.U
        self.state = torch.zeros_like(call.state, memory_format=torch.contiguous_format)
        self.weights, self.U, self.b, self.step = (new(t.shape) for t in (weights, call.U, call.b, call.step))
        self.inputs = torch.empty_like(call.inputs, memory_format=torch.contiguous_format) if with_inputs else None
        block = min(_BLOCK, steps)
        shape = (replicas, block, batch, 2, hidden) if call.kind == "drift" else (3, replicas, block, batch, hidden)
        self.work = _empty(call.inputs, *shape)
        self.unit = call.inputs.new_ones(())

    def slopes(self, values: Tensor, out: Tensor) -> Tensor:
        """Derivative of tanh where it has these values."""
        return torch.addcmul(self.unit, values, values, value=-1.0, out=out)

    def drift(self, block: _Block) -> None:
        """Back through steps of the kind "drift"."""
        values = block.parts[:, 0]
        pairs = self.work[:, : block.end - block.begin]  # gradients of A h (or of all) and of tanh's argument, over d
        flat = pairs.flatten(3) if self.call.A is not None else pairs[..., 1, :]
        pairs[..., 0, :] = block.scale
        self.slopes(values, pairs[..., 1, :]).mul_(block.scale)
        grad, each, rows = _one(self.state), _each(pairs), _each(flat)
        both = grad.unsqueeze(-2)  # for A h and for tanh
        for k in reversed(range(len(each))):
            self.arrive(grad, block.arriving[k])
            each[k].mul_(both)
            _add_product(grad, rows[k], self.back)
        self.add(block, flat, self.outputs, self.call.state, self.weights)
        self.add_inputs(block, pairs[..., 1, :])
        self.b += pairs[..., 1, :].sum((1, 2))
        self.step += pairs[..., 0, :].mul_(values).sum((1, 2))

    def modrelu(self, block: _Block) -> None:
        """Back through steps of the kind "modrelu"."""
        z = block.parts[:, 0]
        grads, signs, above = self.work[:, :, : block.end - block.begin].unbind(0)
        torch.abs(z, out=above).add_(self.call.b[:, None, None]).gt_(0.0)
        torch.sign(z, out=signs).mul_(above)
        torch.abs(signs, out=grads).mul_(block.scale)
        grad, rows, kept = _one(self.state), _each(grads), _each(1.0 - block.scale)
        for k in reversed(range(len(rows))):
            self.arrive(grad, block.arriving[k])
            rows[k].mul_(grad)
            _add_product(grad.mul_(kept[k]), rows[k], self.back)
        self.add(block, grads, self.outputs, self.call.state, self.weights)
        self.add_inputs(block, grads)
        self.b += signs.mul_(grads).sum((1, 2))

    def oscillator(self, block: _Block) -> None:
        """Back through steps of the kind "oscillator"."""
        hidden, (stiffness, friction) = self.hidden, self.call.coefficients
        values, velocities = block.parts[:, 0], block.parts[:, 1]
        # Gradients over d: of the position's change, of the velocity's, and of tanh's argument.
        moved, pushed, grads = self.work[:, :, : block.end - block.begin].unbind(0)
        moved.copy_(block.scale)
        pushed.copy_(block.moves)
        self.slopes(values, grads)
        grad, d = _one(self.state), _one(self.call.step.unsqueeze(1))
        position, velocity = grad[..., :hidden], grad[..., hidden:]
        moves, pushes, rows = _each(moved), _each(pushed), _each(grads)
        for k in reversed(range(len(rows))):
            self.arrive(position, block.arriving[k])
            velocity.addcmul_(moves[k].mul_(position), d)
            rows[k].mul_(pushes[k].mul_(velocity))
            position.addcmul_(pushes[k], d, value=-stiffness)
            velocity.addcmul_(pushes[k], d, value=-friction)
            _add_product(grad, rows[k], self.back)
        y, z = self.call.state[..., :hidden], self.call.state[..., hidden:]
        self.step += moved.mul_(velocities).sum((1, 2))
        force = torch.sub(values, _before(self.outputs, y, block.begin, block.end), alpha=stiffness, out=moved)
        force.sub_(_before(self.saved[:, 1], z, block.begin, block.end), alpha=friction)
        self.step += force.mul_(pushed).sum((1, 2))
        self.add(block, grads, self.outputs, y, self.weights[..., :hidden])
        self.add(block, grads, self.saved[:, 1], z, self.weights[..., hidden:])
        self.add_inputs(block, grads)
        self.b += grads.sum((1, 2))

    @staticmethod
    def arrive(grad: Tensor, arriving: Tensor | None) -> None:
        """Add the gradient of a step's outputs, where there is one."""
        if arriving is not None:
            grad.add_(arriving)

    def add(self, block: _Block, grads: Tensor, history: Tensor, first: Tensor, total: Tensor) -> None:
        """Add to `total` gradsᵀ times the states that the steps start from."""
        before = _before(history, first, block.begin, block.end)
        _add_product(_one(total), _one(grads.flatten(1, 2).mT), _one(before.flatten(1, 2)))

    def add_inputs(self, block: _Block, grads: Tensor) -> None:
        """Add what follows for U and the inputs from the gradients of `W h + U x + b`."""
        here, rows = slice(block.begin, block.end), grads.flatten(1, 2)
        _add_product(_one(self.U), _one(rows.mT), _one(self.x[:, here].flatten(1, 2)))
        if self.inputs is not None:
            self.inputs[:, :, here] = (rows @ self.U_back).view(*grads.shape[:3], -1).transpose(1, 2)

    def gradients(self) -> Gradients:
        """All of them, with d."""
        call, none = self.call, self.state.new_zeros
        replicas = len(self.state)
        inputs = none(replicas, 0) if self.inputs is None else self.inputs
        dA, dW = none(replicas, 0), self.weights
        if call.kind == "modrelu":
            return Gradients(inputs, self.state, dA, dW, self.U, self.b, self.step)
        d = call.step.unsqueeze(2)
        if call.A is not None:
            dA, dW = self.weights.split(self.hidden, dim=1)
            self.step += (call.A * dA).sum(2)
            dA = d * dA
        return Gradients(inputs, self.state, dA, d * dW, d * self.U, call.step * self.b, self.step)


@torch.no_grad()
def backward(
    call: Pass,
    outputs: Tensor,
    saved: Tensor,
    grad_outputs: Tensor | None,
    grad_last: Tensor | None,
    *,
    with_inputs: bool,
) -> Gradients:
    """As in `Backend`."""
    replicas, batch, steps, _ = call.inputs.shape
    time = _Time.of(call)
    parts = saved.reshape(replicas, -1, steps, batch, call.W.shape[1])
    gathering = _Gathering(call, _inputs(call, time), outputs.transpose(1, 2), parts, with_inputs)
    if grad_last is not None:
        gathering.state.copy_(grad_last)
    scale = parts[:, -1] if call.noise.source else time.moves
    for begin in reversed(range(0, steps, _BLOCK)):
        end = min(begin + _BLOCK, steps)
        arriving: tuple[Tensor | None, ...] = (None,) * (end - begin)
        if grad_outputs is not None:
            some = grad_outputs.transpose(1, 2)[:, begin:end]
            arriving = _each(some if time.over is None else some.masked_fill(time.over[:, begin:end], 0.0))
        block = _Block(begin, end, parts[:, :, begin:end], scale[:, begin:end], time.moves[:, begin:end], arriving)
        getattr(gathering, call.kind)(block)
    return gathering.gradients()
