"""The backward pass."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from noisyrnn.kernels.call import EndGradients, Gradients, KernelCall
from noisyrnn.kernels.eager import blocks
from noisyrnn.kernels.eager.blocks import Time, add_product, each_step, empty, squeezed, valid_inputs

_WIDTH = 4  # columns, at least, of the inputs: products with fewer take longer


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
        with_weights: Whether those of the weights are.
    """

    def __init__(
        self, call: KernelCall, x: Tensor, outputs: Tensor, saved: Tensor, *, with_inputs: bool, with_weights: bool
    ) -> None:
        self.call, self.x, self.outputs, self.saved, self.with_weights = call, x, outputs, saved, with_weights
        self.hidden = hidden = call.W.shape[1]
        replicas, batch, steps, _ = call.inputs.shape
        new, weights = call.inputs.new_zeros, call.W if call.A is None else torch.cat([call.A, call.W], dim=1)
        d = call.step.unsqueeze(2)
        modrelu = call.kind == "modrelu"
        # The state's and the inputs' gradients are not put together from sums over steps, so d is in their matrices.
        self.back = squeezed(weights if modrelu else weights * d.repeat(1, weights.shape[1] // hidden, 1))
        self.U_back = call.U if modrelu else d * call.U
        self.state = torch.zeros_like(call.state, memory_format=torch.contiguous_format)
        self.weights, self.b, self.step = (new(t.shape) for t in (weights, call.b, call.step))
        self.with_ones = new(
            replicas, max(_WIDTH, self.x.shape[-1] + 1), hidden
        )  # of Uᵀ, then of a bias (modReLU's is `b`)
        self.inputs = torch.empty_like(call.inputs, memory_format=torch.contiguous_format) if with_inputs else None
        block = min(blocks.BLOCK, steps)
        shape = (replicas, block, batch, 2, hidden) if call.kind == "drift" else (3, replicas, block, batch, hidden)
        self.work = empty(call.inputs, *shape)
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
        grad, each, rows = squeezed(self.state), each_step(pairs), each_step(flat)
        both = grad.unsqueeze(-2)  # for A h and for tanh
        for k in reversed(range(len(each))):
            self.arrive(grad, block.arriving[k])
            each[k].mul_(both)
            add_product(grad, rows[k], self.back)
        self.add(block, flat, self.outputs, self.call.state, self.weights)
        self.add_inputs(block, pairs[..., 1, :])
        self.step += pairs[..., 0, :].mul_(values).sum((1, 2))

    def modrelu(self, block: _Block) -> None:
        """Back through steps of the kind "modrelu"."""
        z = block.parts[:, 0]
        grads, signs, above = self.work[:, :, : block.end - block.begin].unbind(0)
        torch.abs(z, out=above).add_(self.call.b[:, None, None]).gt_(0.0)
        torch.sign(z, out=signs).mul_(above)
        torch.abs(signs, out=grads).mul_(block.scale)
        grad, rows, kept = squeezed(self.state), each_step(grads), each_step(1.0 - block.scale)
        for k in reversed(range(len(rows))):
            self.arrive(grad, block.arriving[k])
            rows[k].mul_(grad)
            add_product(grad.mul_(kept[k]), rows[k], self.back)
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
        grad, d = squeezed(self.state), squeezed(self.call.step.unsqueeze(1))
        position, velocity = grad[..., :hidden], grad[..., hidden:]
        moves, pushes, rows = each_step(moved), each_step(pushed), each_step(grads)
        for k in reversed(range(len(rows))):
            self.arrive(position, block.arriving[k])
            velocity.addcmul_(moves[k].mul_(position), d)
            rows[k].mul_(pushes[k].mul_(velocity))
            position.addcmul_(pushes[k], d, value=-stiffness)
            velocity.addcmul_(pushes[k], d, value=-friction)
            add_product(grad, rows[k], self.back)
        y, z = self.call.state[..., :hidden], self.call.state[..., hidden:]
        self.step += moved.mul_(velocities).sum((1, 2))
        force = torch.sub(values, _before(self.outputs, y, block.begin, block.end), alpha=stiffness, out=moved)
        force.sub_(_before(self.saved[:, 1], z, block.begin, block.end), alpha=friction)
        self.step += force.mul_(pushed).sum((1, 2))
        self.add(block, grads, self.outputs, y, self.weights[..., :hidden])
        self.add(block, grads, self.saved[:, 1], z, self.weights[..., hidden:])
        self.add_inputs(block, grads)

    @staticmethod
    def arrive(grad: Tensor, arriving: Tensor | None) -> None:
        """Add the gradient of a step's outputs, where there is one."""
        if arriving is not None:
            grad.add_(arriving)

    def add(self, block: _Block, grads: Tensor, history: Tensor, first: Tensor, total: Tensor) -> None:
        """Add to `total` gradsᵀ times the states that the steps start from."""
        if not self.with_weights:
            return
        before = _before(history, first, block.begin, block.end)
        add_product(squeezed(total), squeezed(grads.flatten(1, 2).mT), squeezed(before.flatten(1, 2)))

    def add_inputs(self, block: _Block, grads: Tensor) -> None:
        """Add what follows for U, a bias and the inputs from the gradients of `W h + U x + b`."""
        here, rows = slice(block.begin, block.end), grads.flatten(1, 2)
        if self.with_weights:
            x = pad(self.x[:, here], (0, 1), value=1.0)
            x = pad(x, (0, self.with_ones.shape[1] - x.shape[-1]))
            add_product(squeezed(self.with_ones), squeezed(x.flatten(1, 2).mT), squeezed(rows))
        if self.inputs is not None:
            self.inputs[:, :, here] = (rows @ self.U_back).view(*grads.shape[:3], -1).transpose(1, 2)

    def gradients(self) -> Gradients:
        """All of them, with d."""
        call, none = self.call, self.state.new_zeros
        replicas = len(self.state)
        inputs = none(replicas, 0) if self.inputs is None else self.inputs
        if not self.with_weights:
            return Gradients(inputs, self.state, *(none(replicas, 0) for _ in Gradients._fields[2:]))
        dA, dW = none(replicas, 0), self.weights
        size = call.U.shape[2]
        dU, db = self.with_ones[:, :size].mT.contiguous(), self.with_ones[:, size]
        if call.kind == "modrelu":
            return Gradients(inputs, self.state, dA, dW, dU, self.b, self.step, none(replicas, 0))
        d = call.step.unsqueeze(2)
        if call.A is not None:
            dA, dW = self.weights.split(self.hidden, dim=1)
            self.step += (call.A * dA).sum(2)
            dA = d * dA
        return Gradients(inputs, self.state, dA, d * dW, d * dU, call.step * db, self.step, none(replicas, 0))


@torch.no_grad()
def backward(
    call: KernelCall,
    outputs: Tensor,
    saved: Tensor,
    grads: EndGradients,
    *,
    with_inputs: bool,
    with_weights: bool = True,
) -> Gradients:
    """As in `Kernel`."""
    grad_outputs, grad_last = grads
    replicas, batch, steps, _ = call.inputs.shape
    time = Time.of(call)
    parts = saved.reshape(replicas, -1, steps, batch, call.W.shape[1])
    wanted = {"with_inputs": with_inputs, "with_weights": with_weights}
    gathering = _Gathering(call, valid_inputs(call, time), outputs.transpose(1, 2), parts, **wanted)
    if grad_last is not None:
        gathering.state.copy_(grad_last)
    scale = parts[:, -1] if call.source else time.moves
    for begin in reversed(range(0, steps, blocks.BLOCK)):
        end = min(begin + blocks.BLOCK, steps)
        arriving: tuple[Tensor | None, ...] = (None,) * (end - begin)
        if grad_outputs is not None:
            some = grad_outputs.transpose(1, 2)[:, begin:end]
            arriving = each_step(some if time.over is None else some.masked_fill(time.over[:, begin:end], 0.0))
        block = _Block(begin, end, parts[:, :, begin:end], scale[:, begin:end], time.moves[:, begin:end], arriving)
        getattr(gathering, call.kind)(block)
    return gathering.gradients()


def _before(history: Tensor, first: Tensor, begin: int, end: int) -> Tensor:
    """The states that steps `[begin, end)` start from, `(R, end - begin, B, hidden_size)`, from those they end in."""
    if begin:
        return history[:, begin - 1 : end - 1]
    return torch.cat([first.unsqueeze(1), history[:, : end - 1]], dim=1)
