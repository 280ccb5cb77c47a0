"""Runs a cell over sequences by the fastest kernel that can: one differentiable operator with an axis of replicas.

`Fused` is the operator of plain PyTorch. Its backward pass can be differentiated again, by the reference loop, and
`torch.func.vmap` folds its axis into the replicas. Compiled graphs call the custom operators `noisyrnn::recurrence` and
`noisyrnn::recurrence_backward`, which torch.compile can trace; calling them outside a graph takes 0.4 ms more for each
training step.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noisyrnn.checks import autocasts, check_lengths
from noisyrnn.kernels import cpp, reference
from noisyrnn.kernels.call import Gradients, KernelCall
from noisyrnn.kernels.cpp.packed import PackedWeights
from noisyrnn.kernels.reference import Dynamics
from noisyrnn.kernels.select import FAST, choose, compiled_for, uses_cpp
from noisyrnn.kernels.triton.kernel import product_precision
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.sde.diffusion import MatrixDiffusion

WITHOUT_AXIS = frozenset({"cpp"})
"""Kernels that take a single replica without its axis: for a short sequence, adding it takes longer than the loop."""

_TENSORS = 11
"""Tensors of a `KernelCall`; they come first in every flat list of arguments."""

_FLOATS = 8
"""The first of them, which have gradients."""


def run(
    cell: Dynamics,
    inputs: Tensor,
    state: Tensor,
    *,
    noise: HiddenNoise | None = None,
    path: BrownianPath | None = None,
    lengths: Tensor | None = None,
    dt: Tensor | None = None,
    every_step: bool = True,
    kernel: str = "auto",
    packed: PackedWeights | None = None,
) -> tuple[Tensor | None, Tensor]:
    """Run a cell over sequences, with the results of `reference.run`.

    Args:
        cell: Its `recurrence` is what fast kernels run. One with a method `run_fused` has a loop of its own for passes
            without noise, which runs where the kernel "cpp" cannot.
        inputs: `(batch, steps, input_size)`.
        state: Initial state, `(batch, state_size)`.
        noise: Laws and levels; `None` for none.
        path: Where the random numbers come from; needed with `noise`.
        lengths: Valid steps of each sequence, int64 `(batch,)`; all by default.
        dt: Length of each step in nominal steps, `(steps,)` or `(batch, steps)`; 1 by default.
        every_step: Whether outputs are wanted, or the last state only.
        kernel: One of `select.KERNELS`; the environment variable NOISYRNN_KERNEL overrides it.
        packed: Packed weights of the cell, for passes without noise and gradients.

    Returns:
        Outputs `(batch, steps, hidden_size)`, zero past a sequence's end, or `None` without `every_step`; last valid
        state `(batch, state_size)`.

    Raises:
        ValueError: If a kernel other than "auto" is named and cannot run this.
    """
    if noise is None or path is None or noise.silent:
        noise = path = None
        own = getattr(cell, "run_fused", None)
        if own is not None and not compiled_for(inputs, kernel):
            outputs, last = own(inputs, state, lengths=lengths)
            return (outputs if every_step else None), last
    if noise is not None and path is not None:
        noise.check_dt(dt)
        path.check_place(steps=inputs.shape[1], batch=inputs.shape[0])
    elif packed is not None and not torch.is_grad_enabled() and uses_cpp(kernel):
        call = packed.call(cell, inputs, state, lengths=lengths, dt=dt)
        if call is not None:
            outputs, _, last = cpp.forward(call, every_step=every_step, save=False)
            return (outputs[0] if every_step else None), last[0]
    name, recurrence = choose(cell, inputs, state=state, noise=noise, path=path, dt=dt, kernel=kernel)
    if recurrence is None or name == "reference":
        return reference.run(cell, inputs, state, noise=noise, path=path, lengths=lengths, dt=dt, every_step=every_step)
    device = inputs.device
    seed = torch.zeros((), dtype=torch.int64, device=device) if path is None else path.seed_tensor(device)
    # Autocast may have made these narrower. The state is float32 everywhere; kernels that choose a precision of their
    # products do so here, because a backward pass does not run under autocast.
    inputs, state = inputs.to(recurrence.W.dtype), state.to(recurrence.W.dtype)
    precision = _precision(name, inputs, recurrence.step.shape[-1])
    if dt is not None and dt.ndim == 1:
        dt = dt.unsqueeze(0)
    if name == "eager":
        recurrence = recurrence.without_leak()
    kind, *weights, coefficients, activation = recurrence
    noise, diffusion = _as_levels(noise, recurrence.W)
    tensors = [inputs, state, *weights, diffusion, dt, lengths, seed]
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    options = KernelOptions(name, kind, precision, coefficients, activation.name, noise, path, every_step, save)
    if torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        replicated = [None if t is None else t.unsqueeze(0) for t in tensors]
        outputs, _, last = recurrence_operator(*replicated, *options.flat(), every_step, save)
        return (outputs[0] if every_step else None), last[0]
    apply = Fused.apply if torch._C._are_functorch_transforms_active() else _apply
    outputs, _, last = apply(*tensors, options)
    return (outputs if every_step else None), last


def _as_levels(noise: HiddenNoise | None, like: Tensor) -> tuple[HiddenNoise | None, Tensor | None]:
    """A noise with the factor of its constant diffusion as `additive`, and the diffusion's matrix, or `None`."""
    if noise is None or not isinstance(noise.diffusion, MatrixDiffusion):
        return noise, None
    levels = HiddenNoise(additive=noise.scale, place=noise.place)
    return levels, noise.diffusion.matrix.to(like)


def _precision(kernel: str, inputs: Tensor, units: int) -> str:
    """How a kernel makes products; "" for those that have no choice."""
    if kernel == "cpp":
        return cpp.product_precision(inputs.shape[0], units)
    return product_precision(inputs.device.type) if kernel == "triton" else ""


@dataclass(frozen=True)
class KernelOptions:
    """The arguments of the operators that are not tensors.

    Args:
        kernel: Key of `FAST`.
        kind: One of `recurrence.KINDS`.
        precision: As in `KernelCall`.
        coefficients: Constants of the kind.
        activation: Name of the activation.
        noise: Laws and levels, or `None`.
        path: Rows, steps, stream and sign of the paths, or `None`.
        every_step: Whether outputs are wanted.
        save: Whether a backward pass may follow.
        single: Whether the tensors lack the axis of replicas; for `Fused` only.
    """

    kernel: str
    kind: str
    precision: str
    coefficients: tuple[float, ...]
    activation: str
    noise: HiddenNoise | None
    path: BrownianPath | None
    every_step: bool
    save: bool
    single: bool = True

    def call(self, tensors: Sequence[Any]) -> KernelCall:
        """The call of tensors that have the axis of replicas."""
        constants = (self.coefficients, self.activation, self.noise, self.path, self.precision, None)
        return KernelCall._make((self.kind, *tensors, *constants))

    def flat(self) -> tuple[Any, ...]:
        """The options as the custom operators' schemas have them."""
        noise, path = self.noise, self.path
        form, law, side = ("", "", "") if noise is None else (noise.form, noise.law, noise.place)
        levels = [] if noise is None else [noise.additive, noise.multiplicative]
        place = [] if path is None else [*path.place, path.sign]
        coefficients = list(self.coefficients)
        return self.kernel, self.kind, self.precision, coefficients, self.activation, form, law, side, levels, place


def _call(
    tensors: Sequence[Any],
    kind: str,
    precision: str,
    coefficients: Any,
    activation: str,
    form: str,
    law: str,
    side: str,
    levels: Any,
    place: Any,
) -> KernelCall:
    """The call of a custom operator's arguments."""
    noise, path = None, None
    if levels:
        additive, multiplicative = levels
        noise = HiddenNoise(additive=additive, multiplicative=multiplicative, form=form, law=law, place=side)
    if place:
        first_row, first_step, stream, sign = place
        path = BrownianPath(seed=0, first_row=first_row, first_step=first_step, stream=stream, sign=sign)
    return KernelCall._make((kind, *tensors, tuple(coefficients), activation, noise, path, precision, None))


_NOTHING = contextlib.nullcontext()


def _without_autocast(call: KernelCall) -> contextlib.AbstractContextManager[Any]:
    """A context for the kernels, whose own operations must keep their precision."""
    device = call.state.device.type
    on = autocasts(device)
    return torch.autocast(device, enabled=False) if on else _NOTHING


def _check_lengths(call: KernelCall) -> None:
    """Raise unless the lengths lie within the steps; on a GPU reading them would make the host wait."""
    lengths = call.lengths
    if lengths is not None and lengths.device.type == "cpu":
        check_lengths(lengths.flatten(), batch=lengths.numel(), steps=call.inputs.shape[-2])


def _alias(part: Tensor) -> Tensor:
    """A tensor with the same memory that is not a view: users may change it in place."""
    return part.new_empty(0).set_(part.untyped_storage(), part.storage_offset(), part.shape, part.stride())


def _with_axis(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Tensors with an axis for one replica."""
    return [None if t is None else t.unsqueeze(0) for t in tensors]


_TENSOR_SCHEMA = (
    "Tensor inputs, Tensor state, Tensor? A, Tensor W, Tensor U, Tensor b, Tensor step, Tensor? diffusion, Tensor? dt, "
    "Tensor? lengths, Tensor seed"
)
_OPTION_SCHEMA = (
    "str kernel, str kind, str precision, float[] coefficients, str activation, str form, str law, str side, "
    "float[] levels, SymInt[] place"
)


@torch.library.custom_op(
    "noisyrnn::recurrence",
    mutates_args=(),
    schema=f"({_TENSOR_SCHEMA}, {_OPTION_SCHEMA}, bool every_step, bool save) -> (Tensor, Tensor, Tensor)",
)
def recurrence_operator(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`Kernel.forward` as a custom operator."""
    tensors, (kernel, *options, every_step, save) = arguments[:_TENSORS], arguments[_TENSORS:]
    call = _call(tensors, *options)
    _check_lengths(call)
    with _without_autocast(call):
        return FAST[kernel].forward(call, every_step=every_step, save=save)


@recurrence_operator.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    tensors, (kernel, *options, every_step, save) = arguments[:_TENSORS], arguments[_TENSORS:]
    options[-1] = ()  # the place of the paths changes no shape, and may be symbolic
    call = _call(tensors, *options)
    (replicas, batch, steps, _), state = call.inputs.shape, call.state
    behind, width = FAST[kernel].layout(call)
    outputs = state.new_empty((replicas, steps, batch, behind) if every_step or save else (replicas, 0, 0, 0))
    saved = state.new_empty((replicas, steps, batch, width) if save else (replicas, 0, 0, 0))
    return outputs[..., : call.step.shape[1]].transpose(1, 2), saved, state.new_empty(state.shape)


@torch.library.custom_op(
    "noisyrnn::recurrence_backward",
    mutates_args=(),
    schema=f"({_TENSOR_SCHEMA}, Tensor outputs, Tensor saved, Tensor? grad_outputs, Tensor? grad_last, "
    f"{_OPTION_SCHEMA}, bool with_inputs, bool with_weights) -> ({', '.join(['Tensor'] * len(Gradients._fields))})",
)
def recurrence_backward(*arguments: Any) -> Gradients:
    """`Kernel.backward` as a custom operator."""
    tensors, rest = arguments[:_TENSORS], arguments[_TENSORS:]
    outputs, saved, grad_outputs, grad_last, kernel, *options, with_inputs, with_weights = rest
    call, grads = _call(tensors, *options), (grad_outputs, grad_last)
    with _without_autocast(call):
        return FAST[kernel].backward(call, outputs, saved, grads, with_inputs=with_inputs, with_weights=with_weights)


@recurrence_backward.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, state, *weights = arguments[:_FLOATS]
    (with_inputs, with_weights), none = arguments[-2:], (len(state), 0)
    of_weights = [none if t is None or not with_weights else t.shape for t in weights]
    shapes = [inputs.shape if with_inputs else none, state.shape, *of_weights]
    return tuple(state.new_empty(shape) for shape in shapes)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    """Keep what the backward pass of a compiled graph needs."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:_TENSORS], *output[:2])
    ctx.flat = inputs[_TENSORS:-2]


def _derive(ctx: Any, grad_outputs: Tensor | None, _: None, grad_last: Tensor | None) -> tuple[Any, ...]:
    """The backward pass of a compiled graph; like all of torch.compile it has no second derivatives."""
    unused = (None,) * (len(ctx.flat) + 2 + _TENSORS - _FLOATS)
    if grad_outputs is None and grad_last is None:
        return (None,) * _FLOATS + unused
    needs = ctx.needs_input_grad
    wanted = _wanted(needs)
    gradients = recurrence_backward(*ctx.saved_tensors, grad_outputs, grad_last, *ctx.flat, *wanted)
    return *(gradient if need else None for gradient, need in zip(gradients, needs, strict=False)), *unused


recurrence_operator.register_autograd(_derive, setup_context=_keep)


def _wanted(needs: Sequence[bool]) -> tuple[bool, bool]:
    """Whether the gradient of the inputs is needed, and that of any weight, from what is said of each tensor."""
    return needs[0], any(needs[2:_FLOATS])


class Fused(torch.autograd.Function):
    """`outputs, saved, last = Fused.apply(*tensors of a KernelCall, options)`.

    With `options.single` no tensor has the axis of replicas; it is added here, where autograd does not see it.
    """

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The kernel's forward pass."""
        tensors, options = arguments[:_TENSORS], arguments[_TENSORS]
        adds = options.single and options.kernel not in WITHOUT_AXIS
        call = options.call(_with_axis(tensors) if adds else tensors)
        _check_lengths(call)
        with _without_autocast(call):
            outputs, saved, last = FAST[options.kernel].forward(call, every_step=options.every_step, save=options.save)
        if adds:
            return _alias(outputs[0]), saved[0], _alias(last[0])
        # Without `every_step` no caller sees the outputs.
        return (_alias(outputs) if options.single and options.every_step else outputs), saved, last

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        """Keep what the backward pass needs."""
        outputs, saved, _ = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(saved)
        ctx.save_for_backward(*inputs[:_TENSORS], outputs, saved)
        ctx.options = inputs[_TENSORS]

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Raise: only the reference loop has forward-mode derivatives."""
        raise NotImplementedError(
            "kernel must be 'reference' for forward-mode derivatives, got a fused one, which has backward ones only. "
            "Set layer.kernel = 'reference'."
        )

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor | None, _: None, grad_last: Tensor | None) -> tuple[Any, ...]:
        """The backward operator, itself differentiable."""
        if grad_outputs is None and grad_last is None:
            return (None,) * (_TENSORS + 1)
        for gradient in (grad_outputs, grad_last):
            if gradient is not None and torch._C._functorch.is_legacy_batchedtensor(gradient):
                raise NotImplementedError(
                    "kernel must be 'reference' for torch.autograd.grad(is_grads_batched=True), which "
                    "torch.autograd.functional uses with vectorize=True, got a fused one. Use torch.func.jacrev, or "
                    "set layer.kernel = 'reference'."
                )
        arguments = (*ctx.saved_tensors, grad_outputs, grad_last, ctx.options, _wanted(ctx.needs_input_grad))
        # Nobody will differentiate this pass: no need for a Function that could.
        plain = not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
        gradients = Gradients(*(FusedBackward.forward(*arguments) if plain else FusedBackward.apply(*arguments)))
        needs = ctx.needs_input_grad[:_FLOATS]
        found = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
        return *found, *(None,) * (_TENSORS - _FLOATS + 1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        """Turn the mapped axis into that of the replicas, or fold it into them."""
        options = arguments[_TENSORS]
        tensors = _fold(info.batch_size, in_dims, arguments[:_TENSORS], options.single)
        # Only here, below the mapped level, is it seen whether a tensor requires a gradient.
        save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        inner = dataclasses.replace(options, save=options.save or save, single=False)
        return _unfold(info.batch_size, Fused.apply(*tensors, inner), options.single)


_apply = super(torch.autograd.Function, Fused).apply
"""`Fused.apply` without the Python code that only transforms of `torch.func` need."""


class FusedBackward(torch.autograd.Function):
    """The backward pass of `Fused`, itself differentiable: its outputs are `Gradients`.

    Its arguments are the tensors of a `KernelCall`, outputs, what was saved, the gradients of outputs and last state,
    the options, and whether the inputs' gradient is wanted and those of the weights.
    """

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        """The kernel's backward pass."""
        *tensors, options, (with_inputs, with_weights) = arguments
        adds = options.single and options.kernel not in WITHOUT_AXIS
        *tensors, outputs, saved, grad_outputs, grad_last = _with_axis(tensors) if adds else tensors
        call, grads = options.call(tensors), (grad_outputs, grad_last)
        with _without_autocast(call):
            gradients = FAST[options.kernel].backward(
                call, outputs, saved, grads, with_inputs=with_inputs, with_weights=with_weights
            )
        return tuple(t[0] for t in gradients) if adds else gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the reference loop needs to run again."""
        *tensors, options, _ = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[:_TENSORS], *tensors[-2:])
        ctx.options = options

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Second derivatives: the reference loop once more, differentiated twice."""
        options: KernelOptions = ctx.options
        if all(grad is None for grad in grads):
            return (None,) * (_TENSORS + 6)
        needs = [*ctx.needs_input_grad[:_FLOATS], *ctx.needs_input_grad[_TENSORS + 2 : _TENSORS + 4]]
        higher = torch.is_grad_enabled()
        with torch.enable_grad():
            # Aliases: what is differentiated here must not reach one tensor through another's own history.
            aliases: list[Any] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
            *tensors, grad_outputs, grad_last = aliases
            call = options.call(_with_axis(tensors) if options.single else tensors)
            outputs, last = reference.run_call(call, every_step=grad_outputs is not None)
            if options.single:
                outputs, last = outputs[0], last[0]
            ends = [(outputs, grad_outputs), (last, grad_last)]
            given = [(end, grad) for end, grad in ends if grad is not None]
            first = [(t, g) for t, g in zip(tensors[:_FLOATS], grads, strict=True) if g is not None and t is not None]
            gradients = torch.autograd.grad(
                [end for end, _ in given],
                [t for t, _ in first],
                [grad for _, grad in given],
                create_graph=True,
                allow_unused=True,
            )
            pairs = [(g, v) for g, (_, v) in zip(gradients, first, strict=True) if g is not None and g.requires_grad]
            wanted = [*tensors[:_FLOATS], grad_outputs, grad_last]
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
        return *found[:_FLOATS], *(None,) * (_TENSORS - _FLOATS + 2), *found[_FLOATS:], None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        """As `Fused.vmap`."""
        *tensors, options, wanted = arguments
        folded = _fold(info.batch_size, in_dims, tensors, options.single)
        inner = dataclasses.replace(options, single=False)
        return _unfold(info.batch_size, FusedBackward.apply(*folded, inner, wanted), options.single)


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
