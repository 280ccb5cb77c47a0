"""Sensitivity of states and logits: products of state-to-state Jacobians, and gradients over time."""

import contextlib
from copy import deepcopy
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.func import vjp

from noisyrnn.analysis.measurement import Measurement
from noisyrnn.analysis.trajectory import Trajectory, cell_of
from noisyrnn.checks import check_batch, check_integer, check_labels, check_sequences
from noisyrnn.kernels.reference import PathOptions
from noisyrnn.models import Cell, RecurrentLayer, SequenceClassifier
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.padding import valid_steps
from noisyrnn.robustness.gradient import recording
from noisyrnn.robustness.logits import Model, check_model, predict
from noisyrnn.sde.diffusion import FunctionDiffusion
from noisyrnn.step_lengths import as_step_lengths

Recurrent = SequenceClassifier | RecurrentLayer | Cell
"""A model with a cell inside; a classifier standardises its inputs, the others use them unchanged."""

ACCURACY = 1e-3
"""Largest estimated relative error of a singular value that is returned."""


def float64_trajectory(model: Recurrent, inputs: Tensor, **options: Unpack[PathOptions]) -> Trajectory:
    """Return the trajectory of a float64 copy of the model's cell from state zero; arguments as for `Trajectory.of`.

    Raises:
        ValueError: If a shape does not fit, or `dt` is given for a cell whose steps have no length.
        RuntimeError: If the state becomes non-finite.
        TypeError: If the model has no cell.
    """
    original = cell_of(model)
    cell = deepcopy(original).double()
    noise = options.get("noise")
    if noise is not None and noise.diffusion is not None:
        options["noise"] = _in_float64(noise, original, cell)
    check_batch(inputs, options.get("lengths"))
    dt = options.get("dt")
    if dt is not None:
        if not cell.supports_dt:
            raise ValueError(
                f"dt must be None for {type(cell).__name__}, whose steps have no length, got step lengths."
            )
        options["dt"] = dt.double()
    inputs = inputs.detach().double()
    if isinstance(model, SequenceClassifier):
        check_sequences("inputs", inputs, input_size=model.layer.input_size)
        inputs = model.standardize(inputs, torch.float64)
    trajectory = Trajectory.of(cell, inputs, **options)
    for m, state in enumerate(trajectory.states):
        bad = int((~torch.isfinite(state)).any(dim=1).sum())
        if bad:
            raise RuntimeError(
                f"hidden state became non-finite at step {m} of {trajectory.steps} "
                f"for {bad} of {len(inputs)} sequences. Lower the model's step size or the noise."
            )
    return trajectory


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
        model: Model, used without noise for any `noise_mode`; the computation is in float64 for any dtype.
        inputs: `(batch, steps, input_size)`.
        lengths: Valid steps of each sequence, int64 `(batch,)`; all by default.
        dt: Length of each step in nominal steps: a number, `(steps,)` or `(batch, steps)`; 1 by default.
        leading: Number of singular values, from the largest, in [1, state size]; all by default. It saves memory only.

    Returns:
        Exact, natural logarithms, `(batch, steps, leading)`, float64; entry `m` belongs to `Φ_{M,m}`. NaN after a
        sequence's end, and where rounding errors hide the value.

    Raises:
        ValueError: If a shape or `leading` is out of range.
        RuntimeError: If the state becomes non-finite.
        TypeError: If the model has no cell.

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
    check_batch(inputs, lengths)
    sizes = as_step_lengths(dt, inputs.shape[1], inputs.new_empty(0, dtype=torch.float64))
    trajectory = float64_trajectory(model, inputs, lengths=lengths, dt=sizes)
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
    model: Recurrent, inputs: Tensor, *, lengths: Tensor | None = None, dt: Tensor | float | None = None
) -> Measurement:
    """Compute the log spectral norm of every product of Jacobians: exact, `(batch, steps)`; see `jacobian_spectra`."""
    spectra = jacobian_spectra(model, inputs, lengths=lengths, dt=dt, leading=1)
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
        model: Model, used without noise for any `noise_mode`; the computation is in float64 for any dtype.
        inputs: `(batch, steps, input_size)`.
        labels: True classes, int64 `(batch,)`.
        lengths: Valid steps of each sequence, int64 `(batch,)`; all by default.
        dt: Length of each step in nominal steps: a number, `(steps,)` or `(batch, steps)`; 1 by default.

    Returns:
        Exact, natural logarithms, `(batch, steps + 1)`, float64, of the gradient with respect to
        `h_0, …, h_M`; NaN after a sequence's last state, -inf where the gradient is zero.

    Raises:
        ValueError: If a shape does not fit or a label has no logit.
        RuntimeError: If the state becomes non-finite.
        TypeError: If the model is not a `SequenceClassifier`.
    """
    if not isinstance(model, SequenceClassifier):
        raise TypeError(f"model must be a SequenceClassifier for a gradient of its loss, got {type(model).__name__}.")
    check_batch(inputs, lengths)
    sizes = as_step_lengths(dt, inputs.shape[1], inputs.new_empty(0, dtype=torch.float64))
    trajectory = float64_trajectory(model, inputs, lengths=lengths, dt=sizes)
    labels = check_labels(labels, count=len(inputs), classes=model.classes)
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
    """Compute the Jacobian of the logits with respect to the inputs, with one backward pass per class.

    Args:
        model: Any differentiable callable from inputs to logits that treats its rows separately; a module in eval mode.
            Its parameters get no gradient. The result is as precise as the model's dtype.
        inputs: `(batch, steps, input_size)`, in the units of the data.
        lengths: Valid steps of each sequence, int64 `(batch,)`; all by default, and then the model is called without.

    Returns:
        Exact, `(batch, classes, steps, input_size)`.

    Raises:
        ValueError: If a shape does not fit or the model is in training mode.
        RuntimeError: If the logits carry no gradient, or are not finite.
    """
    check_batch(inputs, lengths)
    check_model(model)
    # cuDNN's recurrent layers have no backward pass in eval mode; the plain ones do.
    plain = torch.backends.cudnn.flags(enabled=False) if inputs.is_cuda else contextlib.nullcontext()
    with torch.enable_grad(), plain:
        leaf = inputs.detach().clone().requires_grad_(True)
        any_label = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
        logits = predict(model, leaf, any_label, lengths)
        if not logits.requires_grad:
            raise RuntimeError(
                "logits must depend on the inputs through torch operations, got logits without a gradient. "
                "Remove no_grad and detach from the model."
            )
        rows = [
            torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for total in logits.sum(dim=0)
        ]
    return Measurement(value=torch.stack(rows, dim=1), kind="exact")


def input_jacobian_norms(
    model: Model, inputs: Tensor, *, lengths: Tensor | None = None
) -> tuple[Measurement, Measurement]:
    """Compute spectral and Frobenius norm of the Jacobian of the logits with respect to all inputs of a sequence.

    Arguments and exceptions as for `input_jacobian`.

    Returns:
        Two exact measurements, each `(batch,)`, float64, in logits per unit of the inputs.
    """
    jacobians = input_jacobian(model, inputs, lengths=lengths).value.flatten(2).double()
    spectral = torch.linalg.matrix_norm(jacobians, ord=2)
    frobenius = torch.linalg.matrix_norm(jacobians)
    return Measurement(value=spectral, kind="exact"), Measurement(value=frobenius, kind="exact")


def _within(logs: Tensor, counts: Tensor | None) -> Tensor:
    """Return `logs`, `(batch, steps, ...)`, with NaN after the first `counts` entries of each row."""
    if counts is None:
        return logs
    valid = valid_steps(counts.to(logs.device), logs.shape[1])
    return logs.where(valid.reshape(*valid.shape, *(1,) * (logs.ndim - 2)), torch.nan)
