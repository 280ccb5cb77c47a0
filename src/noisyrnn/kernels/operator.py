"""The fused recurrence as a differentiable function over an explicit axis of replicas.

Two custom operators, forward and backward, know every backend by name; their fake implementations let `torch.compile`
pass. Around them, `torch.func.vmap` folds its axis into the replicas, and the backward pass differentiates through the
reference loop, so that second derivatives are right.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noisyrnn.checks import autocasts, check_lengths
from noisyrnn.kernels.call import Backend, FusedNoise, Gradients, Pass
from noisyrnn.kernels.replay import replay

BACKENDS: dict[str, Backend] = {}
"""Filled by `noisyrnn.kernels.select`."""

WITHOUT_AXIS = frozenset({"cpp"})
"""Backends that take a single replica without its axis: for a short sequence, adding it takes longer than the loop."""

_TENSORS = 10
"""Tensors of a `Pass`; they come first in every flat list of arguments."""


@dataclass(frozen=True)
class Settings:
    """The arguments of the operators that are not tensors.

    Args:
        backend: Key of `BACKENDS`.
        kind: See `Recurrence`.
        precision: See `Pass`.
        coefficients: See `Recurrence`.
        noise: See `FusedNoise`.
        every_step: Whether outputs are wanted.
        save: Whether a backward pass may follow.
        single: Whether the tensors lack the axis of replicas; for `Fused` alone.
    """

    backend: str
    kind: str
    precision: str
    coefficients: tuple[float, ...]
    noise: FusedNoise
    every_step: bool
    save: bool
    single: bool = False

    def of(self, tensors: Sequence[Any]) -> Pass:
        """A `Pass` of tensors that have the axis of replicas."""
        return Pass._make((self.kind, *tensors, self.coefficients, self.noise, self.precision))

    def flat(self) -> tuple[Any, ...]:
        """As the operators' schemas have them."""
        noise = self.noise
        levels, place = [noise.additive, noise.base, noise.slope], [noise.first_row, noise.first_step, noise.stream]
        return self.backend, self.kind, self.precision, list(self.coefficients), noise.source, levels, place


def _pass(
    tensors: Sequence[Any], kind: str, precision: str, coefficients: Any, source: int, levels: Any, place: Any
) -> Pass:
    """A `Pass` from the operators' arguments."""
    noise = FusedNoise(source, *levels, *place)
    return Pass._make((kind, *tensors, tuple(coefficients), noise, precision))


def _without_autocast(call: Pass) -> contextlib.AbstractContextManager[Any]:
    """What runs the backends: none of them is to have its own operations narrowed."""
    device = call.state.device.type
    on = autocasts(device)
    return torch.autocast(device, enabled=False) if on else contextlib.nullcontext()


def _forward(backend: str, call: Pass, every_step: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    """`Backend.forward`, of checked lengths, out of autocast's reach."""
    lengths = call.lengths
    if lengths is not None and lengths.device.type == "cpu":  # elsewhere reading them would stall the device
        check_lengths(lengths.flatten(), batch=lengths.numel(), steps=call.inputs.shape[-2])
    with _without_autocast(call):
        return BACKENDS[backend].forward(call, every_step=every_step, save=save)


def _alias(part: Tensor) -> Tensor:
    """A tensor with the same memory that is not a view: users may change it in place."""
    return part.new_empty(0).set_(part.untyped_storage(), part.storage_offset(), part.shape, part.stride())


def _axis_added(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Tensors as those of one replica."""
    return [None if t is None else t.unsqueeze(0) for t in tensors]


@torch.library.custom_op("noisyrnn::recurrence", mutates_args=())
def recurrence(
    inputs: Tensor,
    state: Tensor,
    A: Tensor | None,
    W: Tensor,
    U: Tensor,
    b: Tensor,
    step: Tensor,
    dt: Tensor | None,
    lengths: Tensor | None,
    seed: Tensor,
    backend: str,
    kind: str,
    precision: str,
    coefficients: Sequence[float],
    source: int,
    levels: Sequence[float],
    place: Sequence[int],
    every_step: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`Backend.forward` as an operator."""
    tensors = (inputs, state, A, W, U, b, step, dt, lengths, seed)
    call = _pass(tensors, kind, precision, coefficients, source, levels, place)
    return _forward(backend, call, every_step, save)


@recurrence.register_fake
def _(inputs: Tensor, state: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *weights, backend = rest[:9]
    *flat, every_step, save = rest[9:]
    call = _pass((inputs, state, *weights), *flat)
    replicas, batch, steps, _ = inputs.shape
    behind, width = BACKENDS[backend].layout(call)
    outputs = state.new_empty((replicas, steps, batch, behind) if every_step or save else (replicas, 0, 0, 0))
    saved = state.new_empty((replicas, steps, batch, width) if save else (replicas, 0, 0, 0))
    return outputs[..., : call.b.shape[1]].transpose(1, 2), saved, state.new_empty(state.shape)


@torch.library.custom_op("noisyrnn::recurrence_backward", mutates_args=())
def recurrence_backward(
    inputs: Tensor,
    state: Tensor,
    A: Tensor | None,
    W: Tensor,
    U: Tensor,
    b: Tensor,
    step: Tensor,
    dt: Tensor | None,
    lengths: Tensor | None,
    seed: Tensor,
    outputs: Tensor,
    saved: Tensor,
    grad_outputs: Tensor | None,
    grad_last: Tensor | None,
    backend: str,
    kind: str,
    precision: str,
    coefficients: Sequence[float],
    source: int,
    levels: Sequence[float],
    place: Sequence[int],
    with_inputs: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`Backend.backward` as an operator."""
    tensors = (inputs, state, A, W, U, b, step, dt, lengths, seed)
    call = _pass(tensors, kind, precision, coefficients, source, levels, place)
    with _without_autocast(call):
        return BACKENDS[backend].backward(call, outputs, saved, grad_outputs, grad_last, with_inputs=with_inputs)


@recurrence_backward.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, state, A, W, U, b, step = arguments[:7]
    replicas = len(state)
    shapes = [inputs.shape if arguments[-1] else (replicas, 0), state.shape, (replicas, 0) if A is None else A.shape]
    return tuple(state.new_empty(shape) for shape in (*shapes, W.shape, U.shape, b.shape, step.shape))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keep what the backward pass of a compiled graph needs."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:_TENSORS], *output[:2])
    ctx.flat = inputs[_TENSORS:-2]


def _derive(ctx: Any, grad_outputs: Tensor | None, _: None, grad_last: Tensor | None) -> tuple[Any, ...]:
    """The backward pass of a compiled graph: once, as `torch.compile` has it anyway."""
    unused = (None,) * (len(ctx.flat) + 5)
    if grad_outputs is None and grad_last is None:
        return (None,) * 7 + unused
    needs = ctx.needs_input_grad
    found = recurrence_backward(*ctx.saved_tensors, grad_outputs, grad_last, *ctx.flat, needs[0])
    return *(gradient if need else None for gradient, need in zip(found, needs, strict=False)), *unused


# Where `Fused` is followed step by step `torch.compile` loses its way, so a compiled graph has the bare operator.
recurrence.register_autograd(_derive, setup_context=_keep)


class Fused(torch.autograd.Function):
    """`outputs, saved, last = Fused.apply(*tensors of a Pass, settings)`.

    With `settings.single` no tensor has the axis of replicas; it is added here, out of autograd's sight.
    """

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The backend's forward pass."""
        tensors, settings = arguments[:_TENSORS], arguments[_TENSORS]
        if not settings.single:
            return _forward(settings.backend, settings.of(tensors), settings.every_step, settings.save)
        if settings.backend in WITHOUT_AXIS:
            outputs, saved, last = _forward(settings.backend, settings.of(tensors), settings.every_step, settings.save)
            return _alias(outputs), saved, last
        call = settings.of(_axis_added(tensors))
        outputs, saved, last = _forward(settings.backend, call, settings.every_step, settings.save)
        return _alias(outputs[0]), saved[0], _alias(last[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        """Keep what the backward pass needs."""
        outputs, saved, _ = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(saved)
        ctx.save_for_backward(*inputs[:_TENSORS], outputs, saved)
        ctx.settings = inputs[_TENSORS]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """There is none: only the plain loop is differentiated forward."""
        raise NotImplementedError(
            "kernel must be 'reference' for forward-mode derivatives, got a fused one, which has backward ones only. "
            "Set layer.kernel = 'reference'."
        )

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor | None, _: None, grad_last: Tensor | None) -> tuple[Any, ...]:
        """The backward operator, itself differentiable."""
        if grad_outputs is None and grad_last is None:
            return (None,) * (_TENSORS + 1)
        with_inputs = ctx.needs_input_grad[0]
        arguments = (*ctx.saved_tensors, grad_outputs, grad_last, ctx.settings, with_inputs)
        # Nobody will differentiate this pass: no need for a Function that could.
        plain = not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
        found = Gradients(*(FusedBackward.forward(*arguments) if plain else FusedBackward.apply(*arguments)))
        A = found.A if ctx.needs_input_grad[2] else None
        return found.inputs if with_inputs else None, found.state, A, *found[3:], None, None, None, None

    @staticmethod
    def run(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        """`apply`, without the detour through Python that only transforms of `torch.func` need."""
        if torch._C._are_functorch_transforms_active():
            return Fused.apply(*arguments)
        return super(torch.autograd.Function, Fused).apply(*arguments)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        """Turn the mapped axis into that of the replicas, or fold it into them."""
        settings = arguments[_TENSORS]
        tensors = _fold(info.batch_size, in_dims, arguments[:_TENSORS], settings.single)
        # Only here, below the mapped level, is it seen whether a tensor requires a gradient.
        save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        inner = dataclasses.replace(settings, save=settings.save or save, single=False)
        return _unfold(info.batch_size, Fused.apply(*tensors, inner), settings.single)


class FusedBackward(torch.autograd.Function):
    """`Gradients(*FusedBackward.apply(*tensors of a Pass, outputs, saved, their gradients, settings, with_inputs))`."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        """The backend's backward pass."""
        *tensors, settings, with_inputs = arguments
        adds = settings.single and settings.backend not in WITHOUT_AXIS
        tensors = _axis_added(tensors) if adds else tensors
        call = settings.of(tensors[:_TENSORS])
        with _without_autocast(call):
            found = BACKENDS[settings.backend].backward(call, *tensors[_TENSORS:], with_inputs=with_inputs)
        return tuple(t[0] for t in found) if adds else found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the reference loop needs to run again."""
        *tensors, settings, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[:_TENSORS], *tensors[-2:])
        ctx.settings = settings

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Second derivatives: the reference loop once more, differentiated twice."""
        settings: Settings = ctx.settings
        if all(grad is None for grad in grads):
            return (None,) * (_TENSORS + 6)
        needs = [*ctx.needs_input_grad[:7], *ctx.needs_input_grad[12:14]]
        higher = torch.is_grad_enabled()
        with torch.enable_grad():
            # Aliases: what is differentiated here must not reach one tensor through another's own history.
            aliases: list[Any] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
            *tensors, grad_outputs, grad_last = aliases
            call = settings.of(_axis_added(tensors) if settings.single else tensors)
            outputs, last = replay(call, every_step=grad_outputs is not None)
            if settings.single:
                outputs, last = outputs[0], last[0]
            ends = [(outputs, grad_outputs), (last, grad_last)]
            given = [(end, grad) for end, grad in ends if grad is not None]
            first = [(t, g) for t, g in zip(tensors[:7], grads, strict=True) if g is not None and t is not None]
            gradients = torch.autograd.grad(
                [end for end, _ in given],
                [t for t, _ in first],
                [grad for _, grad in given],
                create_graph=True,
                allow_unused=True,
            )
            pairs = [(g, v) for g, (_, v) in zip(gradients, first, strict=True) if g is not None and g.requires_grad]
            wanted = [*tensors[:7], grad_outputs, grad_last]
            targets = [t for t, need in zip(wanted, needs, strict=True) if need]
            second = iter(
                torch.autograd.grad(
                    [g for g, _ in pairs],
                    targets,
                    [v for _, v in pairs],
                    create_graph=higher,
                    allow_unused=True,
                )
                if pairs
                else [None] * len(targets)
            )
        found = [next(second) if need else None for need in needs]
        return *found[:7], *(None,) * 5, *found[7:], None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        """As `Fused.vmap`."""
        *tensors, settings, with_inputs = arguments
        folded = _fold(info.batch_size, in_dims, tensors, settings.single)
        inner = dataclasses.replace(settings, single=False)
        return _unfold(info.batch_size, FusedBackward.apply(*folded, inner, with_inputs), settings.single)


def _fold(size: int, in_dims: Sequence[Any], tensors: Sequence[Tensor | None], single: bool) -> list[Tensor | None]:
    """Tensors with a mapped axis, or none, to `(size, ...)`, or from `(R, ...)` to `(size * R, ...)`.

    A shared one is expanded, and copied only where R is above 1.
    """

    def folded(tensor: Tensor | None, dim: int | None) -> Tensor | None:
        if tensor is None:
            return None
        mapped = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        return mapped if single else mapped.flatten(0, 1)

    return [folded(t, d) for t, d in zip(tensors, in_dims, strict=False)]


def _unfold(size: int, tensors: Sequence[Tensor], single: bool) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The inverse of `_fold`, and where the mapped axis now is."""
    unfolded = tensors if single else [t.unflatten(0, (size, len(t) // size)) for t in tensors]
    return tuple(unfolded), (0,) * len(tensors)
