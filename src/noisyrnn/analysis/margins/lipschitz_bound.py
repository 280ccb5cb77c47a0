"""A radius around each sequence in which no class changes, from global Lipschitz constants."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from noisyrnn.analysis.arguments import check_class_labels, check_complete, check_noise_off, step_sizes
from noisyrnn.analysis.margins.margin import leads
from noisyrnn.analysis.measurement import Measurement
from noisyrnn.analysis.trajectory import cell_of
from noisyrnn.kernels.recurrence import DRIFTS, GATED
from noisyrnn.kernels.reference import recurrence_of
from noisyrnn.models import Cell, SequenceClassifier
from noisyrnn.padding import valid_values
from noisyrnn.robustness.gradient import recording
from noisyrnn.robustness.logits import check_model, predict


@recording
@torch.no_grad()
def margin_certificate(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    lengths: Tensor | None = None,
    dt: Tensor | float | None = None,
) -> Measurement:
    r"""Lower bound on the ℓ2 distance from each sequence to the decision boundary of the noise-free classifier.

    Every supported step is :math:`h \leftarrow B h + G\, a(W h + U x + b)` with `G` diagonal (or two diagonal blocks on
    top of each other) and the slopes of `a` in an interval of centre q and half width r (1/2 and 1/2 for tanh), so that
    its Jacobian is :math:`B + G D W` with `D` diagonal. Writing :math:`D = q I + r E`, :math:`|E| \le 1`, which
    commutes with `G`:

    .. math:: \|h_{m+1} - h'_{m+1}\| \le L_m \|h_m - h'_m\| + c_m \|x_m - x'_m\|, \quad
        L_m = \sigma_{\max}(B + q\, G W) + r\, \sigma_{\max}(G W), \quad
        c_m = (|q| + r)\, \sigma_{\max}(G U \operatorname{diag}(s)^{-1}),

    with `s` the model's `std`. Currents, whose Jacobian is :math:`B + G W D`, have the same `L`; their inputs do not
    pass the activation, but their outputs do. By the Cauchy-Schwarz inequality
    :math:`\|h_M - h'_M\| \le K \|x - x'\|_2` with :math:`K^2 = \sum_m (c_m \prod_{k>m} L_k)^2`, and no class
    changes within

    .. math:: \min_{j \neq y} \frac{\mathrm{logit}_y - \mathrm{logit}_j}{K \, \|V_y - V_j\|_2} .

    The constants hold for all states and inputs, so the bound is small for many steps; it is computed in logarithms and
    may be 0. It holds up to rounding: singular values are computed in float64 from the model's weights.
    An expRNN is Lipschitz only if no threshold is positive, since modReLU then has no jump at zero.

    Args:
        model: In eval mode, around a noisy, Lipschitz, antisymmetric, rate, co-, exponential or tanh RNN.
        inputs: `(batch, steps, input_size)`, not standardised.
        labels: True classes, `(batch,)`.
        lengths: Valid steps of each sequence, `(batch,)`; the distance runs over them.
        dt: Length of each step in nominal steps: a number, `(steps,)` or `(batch, steps)`. Each different value costs
            two singular value decompositions.

    Returns:
        A certificate, float64 `(batch,)`, in units of the inputs: 0 where misclassified.

    Raises:
        TypeError: If no global Lipschitz constant is known for the model (GRU, LSTM, a cell of your own, the scheme
            "stochastic-heun"), or it has several cells.
        ValueError: If a shape does not fit, an input is NaN or infinite (a held copy of a value is not an independent
            input), `dt` is not positive and finite, the model is in training mode or its noise on, or a threshold is
            positive.

    Example:
        >>> from noisyrnn.models import TanhRNN
        >>> model = SequenceClassifier(TanhRNN(input_size=1, hidden_size=4), classes=2).eval()
        >>> inputs = torch.zeros(2, 3, 1)
        >>> radius = margin_certificate(model, inputs, model(inputs).argmax(dim=1))
        >>> radius.kind, bool((radius.value > 0).all())
        ('certificate', True)

    Reference:
        Tsuzuku, Sato and Sugiyama, Lipschitz-margin training, NeurIPS 2018.
    """
    if not isinstance(model, SequenceClassifier):
        raise TypeError(f"model must be a SequenceClassifier, got {type(model).__name__}.")
    check_model(model)
    check_noise_off(model)
    check_complete(inputs, lengths, input_size=model.input_size)
    labels = check_class_labels(labels, count=len(inputs))
    cell = cell_of(model)
    sizes = step_sizes(dt, inputs, lengths, cell=cell, like=model.std, name=type(model.layer).__name__)
    ahead = leads(predict(partial(model, dt=sizes), inputs, labels, lengths), labels)
    gain = _log_gain(model, inputs, lengths, sizes) + _output_gain(model).log()
    V = model.readout.weight.double()
    apart = (V[labels][:, None] - V).norm(dim=2)
    radii = (ahead.log() - gain[:, None] - apart.log()).exp()
    return Measurement(value=torch.where(ahead > 0, radii, 0.0).amin(dim=1), kind="certificate")


def _log_gain(model: SequenceClassifier, inputs: Tensor, lengths: Tensor | None, dt: Tensor | None) -> Tensor:
    """Return log K of each sequence, float64 `(batch,)`."""
    batch, steps, _ = inputs.shape
    sizes = torch.as_tensor(1.0 if dt is None else dt, dtype=torch.float64, device=inputs.device)
    values, place = sizes.unique(return_inverse=True)
    bounds = torch.stack([_step_bounds(model, float(value)) for value in values]).log().to(inputs.device)
    L, c = bounds[place].expand(batch, steps, 2).unbind(2)
    valid = valid_values(inputs, lengths).squeeze(2)
    L, c = torch.where(valid, L, 0.0), torch.where(valid, c, -torch.inf)
    later = L[:, 1:].flip(1).cumsum(1).flip(1)
    after = torch.cat([later, torch.zeros_like(L[:, :1])], dim=1)
    return torch.logsumexp(2 * (c + after), dim=1) / 2


def _step_bounds(model: SequenceClassifier, dt: float) -> Tensor:
    """Return `L` and `c` of a step of `dt` nominal steps, float64 `(2,)`."""
    step = _step_matrices(cell_of(model), type(model.layer).__name__, dt)
    norm = partial(torch.linalg.matrix_norm, ord=2)
    L = norm(step.B + step.centre * step.GW) + step.half_width * norm(step.GW)
    GU = step.GU[:, : len(model.std)]  # with missing="mask" the other channels are the same for all complete inputs
    return torch.stack([L, step.input_gain * norm(GU / model.std.double())])


class _Step(NamedTuple):
    """The step `B h + G a(W h + U x + b)`.

    Args:
        B: float64, as the following.
        GW: `G W`.
        GU: `G U`.
        centre: Centre of the slopes of a.
        half_width: Half the width of their interval.
        input_gain: Lipschitz constant of what the inputs pass through.
    """

    B: Tensor
    GW: Tensor
    GU: Tensor
    centre: float = 0.5
    half_width: float = 0.5
    input_gain: float = 1.0


def _step_matrices(cell: Cell, name: str, dt: float) -> _Step:
    """Return the matrices of a step."""
    recurrence = recurrence_of(cell)
    if recurrence is None or recurrence.kind in GATED:
        scheme = f" with scheme {cell.scheme!r}" if cell.scheme != "euler-maruyama" else ""
        raise TypeError(
            f"model must be Lipschitz: no global Lipschitz constant is known for {name}{scheme}. Use smoothing.certify."
        )
    W, U, d = recurrence.W.double(), recurrence.U.double(), dt * recurrence.step.double()
    if recurrence.kind == "modrelu":
        largest = float(recurrence.b.max())
        if largest > 0:
            raise ValueError(
                f"thresholds must be at most 0 for a global Lipschitz constant, got {largest:g} as the largest: "
                "modReLU then jumps at zero. Use smoothing.certify."
            )
        return _Step(torch.zeros_like(W), W, U)
    eye = torch.eye(len(W), dtype=torch.float64, device=W.device)
    if recurrence.kind in DRIFTS:
        low, high = recurrence.activation.slopes
        interval, gain = ((low + high) / 2, (high - low) / 2), max(abs(low), abs(high))
        if recurrence.kind == "current":
            return _Step(eye - d.diag(), d[:, None] * W, d[:, None] * U, *interval)
        linear = torch.zeros_like(W) if recurrence.linear is None else recurrence.linear.double()
        return _Step(eye + d[:, None] * linear, d[:, None] * W, d[:, None] * U, *interval, gain)
    stiffness, friction = recurrence.coefficients
    z = torch.cat([-stiffness * d.diag(), eye - friction * d.diag()], dim=1)  # new velocity, the force left out
    y = torch.cat([eye, torch.zeros_like(eye)], dim=1) + d[:, None] * z  # new position: moved by the new velocity
    G = torch.cat([(d * d).diag(), d.diag()])
    return _Step(torch.cat([y, z]), G @ W, G @ U)


def _output_gain(model: SequenceClassifier) -> Tensor:
    """Return a Lipschitz constant of the outputs in the last state, `()`."""
    recurrence = recurrence_of(cell_of(model))
    if recurrence is None or recurrence.kind != "current":
        return model.std.new_ones(())
    return model.std.new_tensor(recurrence.activation.slopes).abs().max()
