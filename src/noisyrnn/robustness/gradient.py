"""The objective of the attacks, log-odds against the label or squared error, and its gradient by the inputs."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from itertools import chain
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from noisyrnn.data.split import Split
from noisyrnn.robustness.logits import Model, predict
from noisyrnn.targets import mean_over_steps, without_marks

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
Losses = Callable[[Tensor, Tensor], Tensor]


def recording(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a function that differentiates, so that it works in any caller's mode, `torch.inference_mode` included.

    Tensors that were made in inference mode cannot be differentiated: such arguments are copied, and so are the weights
    of such a module.
    """

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        with torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext():
            usable: Any = [_differentiable(value) for value in args]
            named: Any = {name: _differentiable(value) for name, value in kwargs.items()}
            return function(*usable, **named)

    return run


def _differentiable(value: Any) -> Any:
    """Return the value with tensors that can be differentiated."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, Split):
        names = ("inputs", "labels", "lengths", "weights", "mask", "dt")
        changed = {name: _differentiable(getattr(value, name)) for name in names}
        return value if all(changed[name] is getattr(value, name) for name in names) else replace(value, **changed)
    if isinstance(value, nn.Module) and any(p.is_inference() for p in chain(value.parameters(), value.buffers())):
        return copy.deepcopy(value)
    return value


def sequence_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute what an attack makes large for each sequence, float64 `(batch,)`, the mean over its counted steps.

    For classes these are the log-odds against the label: `logsumexp` of the other logits minus the label's logit. For
    values it is the squared error.

    The cross-entropy is log(1 + exp(log-odds)), so both increase in the same direction. The gradient of the
    cross-entropy of a confident model rounds to zero, though, and would hide that direction; that of the log-odds does
    not.
    """
    known = without_marks(labels)
    if known.is_floating_point():
        return mean_over_steps((logits.double() - known.double()).square().mean(dim=-1), labels)
    is_label = torch.nn.functional.one_hot(known.long(), logits.shape[-1]).bool()
    logits = logits.double()
    odds = logits.masked_fill(is_label, -torch.inf).logsumexp(dim=-1) - logits[is_label].reshape(known.shape)
    return mean_over_steps(odds, labels)


def logit_ratios(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Compute the difference-of-logits ratio of each sequence, float64 `(batch,)`, the mean over its counted steps.

    .. math:: \ell = -\frac{z_y - \max_{i \neq y} z_i}{z_{(1)} - z_{(3)}}

    with the largest and the third largest logit below the line: it does not depend on the logits' scale. For two
    classes there is no third; the ratio is then the difference above the line.

    Reference:
        Croce, Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks,
        ICML 2020.
    """
    known = without_marks(labels).long()
    logits = logits.double()
    is_label = torch.nn.functional.one_hot(known, logits.shape[-1]).bool()
    lead = logits.masked_fill(is_label, -torch.inf).amax(dim=-1) - logits[is_label].reshape(known.shape)
    if logits.shape[-1] > 2:
        first, _, third = logits.topk(3, dim=-1).values.unbind(-1)
        lead = lead / (first - third + 1e-12)
    return mean_over_steps(lead, labels)


def wrong_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each sequence is misclassified, bool `(batch,)`; or the share of its counted steps that is.

    It is the same for all sequences of a regression.
    """
    if labels.is_floating_point():
        return torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    return mean_over_steps(logits.argmax(dim=-1) != labels, labels)


_NO_GRADIENT = "logits must depend on the inputs through torch operations, got "


@recording
def input_gradient(
    model: Model, inputs: Tensor, labels: Tensor, lengths: Tensor | None, *, losses: Losses = sequence_losses
) -> tuple[Tensor, Tensor]:
    """Compute the gradient of each sequence's loss with respect to that sequence, and the logits.

    Only the inputs are differentiated: no parameter's `grad` is written. The model must treat its rows separately.

    Args:
        model: See `predict`.
        inputs: `(batch, steps, channels)`.
        labels: As a `Split` holds them.
        lengths: Valid steps of each sequence, or `None`.
        losses: From logits and labels to the loss of each sequence.

    Returns:
        Gradient, shape of `inputs`, and detached logits, or values.

    Raises:
        RuntimeError: If the logits carry no gradient, or it is not finite.
    """
    # cuDNN's recurrent layers have no backward pass in eval mode; the plain ones do.
    plain = torch.backends.cudnn.flags(enabled=False) if inputs.is_cuda else contextlib.nullcontext()
    with torch.enable_grad(), plain:
        leaf = inputs.detach().clone().requires_grad_(True)
        try:
            logits = predict(model, leaf, labels, lengths)
        except RuntimeError as error:
            if "numpy() on Tensor that requires grad" in str(error):
                raise RuntimeError(f"{_NO_GRADIENT}a model that computes in NumPy. Use Square.") from error
            raise
        if not logits.requires_grad:
            raise RuntimeError(f"{_NO_GRADIENT}logits without a gradient. Remove no_grad and detach from the model.")
        total = losses(logits, labels).sum()
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
    bad = int((~torch.isfinite(gradient)).flatten(1).any(dim=1).sum())
    if bad:
        raise RuntimeError(
            f"gradient of the loss became non-finite for {bad} of {len(inputs)} sequences. Lower the model's step size."
        )
    return gradient, logits.detach()
