"""Sensitivity of states and logits: products of state-to-state Jacobians, and gradients over time."""

import contextlib
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from noisyrnn.analysis.arguments import check_complete, check_measured, check_noise_off, initial_state
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.analysis.trajectory import Trajectory, cell_of, standardized_inputs
from noisyrnn.checks import check_integer, check_labels
from noisyrnn.models import Cell, RecurrentLayer, SequenceClassifier, SequenceModel
from noisyrnn.models.modules import float64_copy
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.padding import valid_steps
from noisyrnn.robustness.gradient import recording
from noisyrnn.robustness.logits import Model, call_model, check_model
from noisyrnn.sde.diffusion import FunctionDiffusion

Recurrent = SequenceModel | RecurrentLayer | Cell
"""A model with one cell inside; a sequence model standardises its inputs, the others use them unchanged."""

ACCURACY = 1e-3
"""Largest estimated relative error of a singular value that is returned."""


def float64_trajectory(
    model: Recurrent,
    inputs: Tensor,
    *,
    noise: HiddenNoise | None = None,
    path: BrownianPath | None = None,
    lengths: Tensor | None = None,
    dt: Tensor | float | None = None,
    h_0: Tensor | None = None,
) -> Trajectory:
    """Return the trajectory of a float64 copy of the model's cell; arguments as for `Trajectory.of`.

    `h_0` is `(1, batch, state_size)`, as a layer takes it; zeros by default.

    Raises:
        ValueError: If a shape does not fit, an input is NaN or infinite, `dt` is not positive and finite, or it is
            given for a cell whose steps have no length.
        RuntimeError: If the state becomes non-finite.
        TypeError: If the model has no cell, or several.
    """
    original = cell_of(model)
    check_complete(inputs, lengths, input_size=model.input_size)
    cell, inputs = float64_model(model, inputs)
    state = None if h_0 is None else initial_state(h_0, cell, batch=len(inputs)).to(inputs.device)
    if noise is not None and noise.diffusion is not None:
        noise = _in_float64(noise, original, cell)
    trajectory = Trajectory.of(cell, inputs, state=state, noise=noise, path=path, lengths=lengths, dt=dt)
    for m, state in enumerate(trajectory.states):
        bad = int((~torch.isfinite(state)).any(dim=1).sum())
        if bad:
            raise RuntimeError(
                f"hidden state became non-finite at step {m} of {trajectory.steps} "
                f"for {bad} of {len(inputs)} sequences. Lower the model's step size or the noise."
            )
    return trajectory


def float64_model(model: Recurrent, inputs: Tensor) -> tuple[Cell, Tensor]:
    """Return a float64 copy of the model's cell, and the inputs as it takes them."""
    cell, inputs = float64_copy(cell_of(model)), inputs.detach().double()
    return cell, standardized_inputs(model, inputs, torch.float64) if isinstance(model, SequenceModel) else inputs


def _in_float64(noise: HiddenNoise, original: Cell, cell: Cell) -> HiddenNoise:
    """Return a noise whose diffusion is a float64 copy; one of the cell's own becomes that of its copy."""
    function = getattr(noise.diffusion, "function", None)
    if getattr(function, "__self__", None) is original and cell.diffusion is not None:
        return replace(noise, diffusion=FunctionDiffusion(cell.diffusion))
    diffusion: Any = deepcopy(noise.diffusion)
    return replace(noise, diffusion=diffusion.double())


@recording
@torch.no_grad()
def jacobian_spectra(
    model: Recurrent,
    inputs: Tensor,
    *,
    lengths: Tensor | None = None,
    dt: Tensor | float | None = None,
    h_0: Tensor | None = None,
    leading: int | None = None,
) -> Measurement:
    r"""Compute the logarithms of the singular values of all noise-free products of state-to-state Jacobians.

    .. math:: \Phi_{M,m} = \frac{\partial h_M}{\partial h_m} = J_{M-1} \cdots J_m, \quad
        J_m = \frac{\partial h_{m+1}}{\partial h_m}, \quad m = 0, \dots, M - 1 .

    M is the length of each sequence. The product is computed backwards in time in float64, and its norm is stored
    separately as a logarithm, so that it neither overflows nor vanishes. Rounding errors of large singular values hide
    small ones. The size of these errors is tracked along the product:

    .. math:: E_m = E_{m+1} J_m + \Phi_{M,m+1} \, \big((|J_m| + I) \circ S_m\big)

    is the response of the product if every Jacobian, identity plus increment, is rounded with random signs. A value
    below :math:`10^3 \sqrt{d}\, u \|E_m\|_F` (u the unit roundoff) may be wrong by more than 0.1 % and is NaN.

    Args:
        model: Model of one cell (one layer, one direction), used without noise for any `noise_mode`; the computation is
            in float64 for any dtype.
        inputs: `(batch, steps, input_size)`.
        lengths: Valid steps of each sequence, int64 `(batch,)`; all by default.
        dt: Length of each step in nominal steps: a number, `(steps,)` or `(batch, steps)`; 1 by default.
        h_0: Initial state, `(1, batch, state_size)`; zeros by default.
        leading: Number of singular values, from the largest, in [1, state size]; all by default. It saves memory only.

    Returns:
        Exact, natural logarithms, `(batch, steps, leading)`, float64; entry `m` belongs to `Φ_{M,m}`. NaN after a
        sequence's end, and where rounding errors hide the value.

    Raises:
        ValueError: If a shape or `leading` is out of range, an input is NaN or infinite, or `dt` is not positive and
            finite.
        RuntimeError: If the state becomes non-finite.
        TypeError: If the model has no cell, or several.

    Example:
        >>> from noisyrnn.models import LipschitzRNN
        >>> layer = LipschitzRNN(input_size=1, hidden_size=4)
        >>> jacobian_spectra(layer, torch.zeros(2, 5, 1), leading=3).value.shape
        torch.Size([2, 5, 3])
    """
    size = cell_of(model).state_size
    count = size if leading is None else leading
    check_integer("leading", count, minimum=1)
    if count > size:
        raise ValueError(f"leading must be at most {size}, the size of the state, got {count}.")
    trajectory = float64_trajectory(model, inputs, lengths=lengths, dt=dt, h_0=h_0)
    generator = torch.Generator().manual_seed(0)
    eye = torch.eye(size, dtype=torch.float64, device=inputs.device)
    product = eye.expand(len(inputs), size, size)
    response = torch.zeros_like(product)
    log_scale = torch.zeros(len(inputs), 1, dtype=torch.float64, device=inputs.device)
    spectra = []
    for m in reversed(range(trajectory.steps)):
        J = trajectory.jacobian(m)
        signs = (torch.randint(0, 2, (size, size), generator=generator, device="cpu") * 2 - 1).to(J)
        response = response @ J + product @ ((J.abs() + eye) * signs)
        product = product @ J
        scale = product.norm(dim=(1, 2), keepdim=True)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        product, response = product / scale, response / scale
        log_scale = log_scale + scale[..., 0].log()
        rounding = size**0.5 * torch.finfo(torch.float64).eps / 2 * response.norm(dim=(1, 2))
        values = torch.linalg.svdvals(product)
        values = values.where(values > rounding[:, None] / ACCURACY, torch.nan)
        spectra.append((values.log() + log_scale)[:, :count])
    logs = torch.stack(spectra[::-1], dim=1)
    return Measurement(value=_within(logs, lengths), kind="exact")


def jacobian_norms(
    model: Recurrent,
    inputs: Tensor,
    *,
    lengths: Tensor | None = None,
    dt: Tensor | float | None = None,
    h_0: Tensor | None = None,
) -> Measurement:
    """Compute the log spectral norm of every product of Jacobians: exact, `(batch, steps)`; see `jacobian_spectra`."""
    spectra = jacobian_spectra(model, inputs, lengths=lengths, dt=dt, h_0=h_0, leading=1)
    return Measurement(value=spectra.value[..., 0], kind="exact")


@recording
@torch.no_grad()
def gradient_norms(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    lengths: Tensor | None = None,
    dt: Tensor | float | None = None,
) -> Measurement:
    r"""Compute the logarithm of the norm of the loss's gradient with respect to every state.

    .. math:: \log \|\partial \ell / \partial h_m\|, \quad
        \frac{\partial \ell}{\partial h_M} = V^T (p - e_y), \quad
        \frac{\partial \ell}{\partial h_m} = J_m^T \frac{\partial \ell}{\partial h_{m+1}}

    for the cross-entropy ℓ of each sequence, with `p` the softmax of its logits. The gradient is rescaled at every
    step, and :math:`p - e_y` is written as :math:`(1 - p_y)` times a vector of moderate size, so that neither a long
    sequence nor a confident model makes it vanish.

    Args:
        model: Model of one cell (one layer, one direction), used without noise for any `noise_mode`; the computation is
            in float64 for any dtype.
        inputs: `(batch, steps, input_size)`.
        labels: True classes, int64 `(batch,)`.
        lengths: Valid steps of each sequence, int64 `(batch,)`; all by default.
        dt: Length of each step in nominal steps: a number, `(steps,)` or `(batch, steps)`; 1 by default.

    Returns:
        Exact, natural logarithms, `(batch, steps + 1)`, float64, of the gradient with respect to
        `h_0, …, h_M`; NaN after a sequence's last state, -inf where the gradient is zero.

    Raises:
        ValueError: If a shape does not fit, an input is NaN or infinite, or a label has no logit.
        RuntimeError: If the state becomes non-finite.
        TypeError: If the model is not a `SequenceClassifier`, or has several cells.
    """
    if not isinstance(model, SequenceClassifier):
        raise TypeError(f"model must be a SequenceClassifier for a gradient of its loss, got {type(model).__name__}.")
    check_complete(inputs, lengths, input_size=model.input_size)
    labels = check_labels(labels, count=len(inputs), classes=model.classes)
    trajectory = float64_trajectory(model, inputs, lengths=lengths, dt=dt)
    readout = deepcopy(model.readout).double()
    cell: Any = trajectory.maps.cell
    outputs, pull = vjp(cell.output, trajectory.end)[:2]
    logits = readout(outputs)
    true = torch.nn.functional.one_hot(labels, model.classes).bool()
    others = logits.masked_fill(true, -torch.inf)
    log_norm = others.logsumexp(dim=1) - logits.logsumexp(dim=1)  # log(1 - p_y)
    (gradient,) = pull((others.softmax(dim=1) - true.double()) @ readout.weight)
    norms = []
    for m in reversed(range(trajectory.steps + 1)):
        if m < trajectory.steps:
            gradient = trajectory.cotangent(m, gradient)
        norm = gradient.norm(dim=1, keepdim=True)
        gradient = gradient / torch.where(norm > 0, norm, torch.ones_like(norm))
        log_norm = log_norm + norm[:, 0].log()
        norms.append(log_norm)
    logs = torch.stack(norms[::-1], dim=1)
    return Measurement(value=_within(logs, None if lengths is None else lengths + 1), kind="exact")


def gradient_rate(norms: Measurement) -> Measurement:
    """Compute the growth rate of the gradient per step back in time: negative if it vanishes, positive if it explodes.

    It is the least-squares slope of the logarithms that `gradient_norms` returns, against the steps before the end.

    Args:
        norms: Result of `gradient_norms`, `(batch, steps + 1)`; entries that are not finite are left out.

    Returns:
        Exact, `(batch,)`, in natural logarithms per step; NaN where fewer than two entries are finite.
    """
    logs = norms.value
    present = torch.isfinite(logs)
    back = torch.arange(logs.shape[1] - 1, -1, -1, dtype=logs.dtype, device=logs.device).expand_as(logs)
    back = back.where(present, torch.nan)
    offset = back - back.nanmean(dim=1, keepdim=True)
    slope = (offset * logs.where(present, torch.nan)).nansum(dim=1) / offset.square().nansum(dim=1)
    return Measurement(value=slope, kind="exact")


@recording
def input_jacobian(model: Model, inputs: Tensor, *, lengths: Tensor | None = None) -> Measurement:
    """Compute the Jacobian of the outputs with respect to the inputs, with one backward pass per output.

    Args:
        model: Any differentiable callable from inputs to outputs `(batch, outputs)`, logits or values, that treats its
            rows separately; a module in eval mode. Its parameters get no gradient. The result is as precise as the
            model's dtype.
        inputs: `(batch, steps, input_size)`, in the units of the data. NaN where a value is missing, for a model with
            `missing`: the Jacobian is in the values that are there, and 0 elsewhere.
        lengths: Valid steps of each sequence, int64 `(batch,)`; all by default, and then the model is called without.

    Returns:
        Exact, `(batch, outputs, steps, input_size)`.

    Raises:
        ValueError: If a shape does not fit, the model is in training mode or its noise on.
        RuntimeError: If the outputs carry no gradient, or are not finite.
    """
    check_measured(model, inputs, lengths)
    check_model(model)
    check_noise_off(model)
    # cuDNN's recurrent layers have no backward pass in eval mode; the plain ones do.
    plain = torch.backends.cudnn.flags(enabled=False) if inputs.is_cuda else contextlib.nullcontext()
    with torch.enable_grad(), plain:
        leaf = inputs.detach().clone().requires_grad_(True)
        outputs = _outputs(model, leaf, lengths)
        if not outputs.requires_grad:
            raise RuntimeError(
                "outputs must depend on the inputs through torch operations, got outputs without a gradient. "
                "Remove no_grad and detach from the model."
            )
        rows = [
            torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for total in outputs.sum(dim=0)
        ]
    return Measurement(value=torch.stack(rows, dim=1), kind="exact")


def input_jacobian_norms(
    model: Model, inputs: Tensor, *, lengths: Tensor | None = None
) -> tuple[Measurement, Measurement]:
    """Compute spectral and Frobenius norm of the Jacobian of the outputs with respect to all inputs of a sequence.

    Arguments and exceptions as for `input_jacobian`.

    Returns:
        Two exact measurements, each `(batch,)`, float64, in units of the outputs per unit of the
        inputs.
    """
    jacobians = input_jacobian(model, inputs, lengths=lengths).value.flatten(2).double()
    spectral = torch.linalg.matrix_norm(jacobians, ord=2)
    frobenius = torch.linalg.matrix_norm(jacobians)
    return Measurement(value=spectral, kind="exact"), Measurement(value=frobenius, kind="exact")


def _outputs(model: Model, inputs: Tensor, lengths: Tensor | None) -> Tensor:
    """Return outputs `(batch, outputs)`, after a check of their shape and values."""
    outputs = call_model(model, inputs, lengths)
    if not isinstance(outputs, Tensor):
        raise TypeError(f"model must return a tensor of outputs, got {type(outputs).__name__}.")
    if outputs.ndim != 2 or len(outputs) != len(inputs):
        raise ValueError(
            f"model must return outputs of shape ({len(inputs)}, outputs), got {tuple(outputs.shape)}. Of answers "
            "at every step choose one: lambda x: model(x)[:, -1]."
        )
    bad = int((~torch.isfinite(outputs)).any(dim=1).sum())
    if bad:
        raise RuntimeError(f"outputs became non-finite for {bad} of {len(inputs)} sequences. Lower the step size.")
    return outputs


def _within(logs: Tensor, counts: Tensor | None) -> Tensor:
    """Return `logs`, `(batch, steps, ...)`, with NaN after the first `counts` entries of each row."""
    if counts is None:
        return logs
    valid = valid_steps(counts.to(logs.device), logs.shape[1])
    return logs.where(valid.reshape(*valid.shape, *(1,) * (logs.ndim - 2)), torch.nan)
