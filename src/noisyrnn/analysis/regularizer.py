"""The regulariser that hidden noise adds to the loss, to second order: exact, estimated, or as a penalty."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap
from torch.nn import functional

from noisyrnn.analysis.arguments import check_complete, step_sizes
from noisyrnn.analysis.measurement import Measurement, mean_of_draws
from noisyrnn.analysis.step_derivatives import WRITTEN, DriftSteps, Steps
from noisyrnn.analysis.trajectory import Trajectory, cell_of, standardized_inputs
from noisyrnn.checks import check_choice, check_integer, check_labels, check_number, values_hidden
from noisyrnn.kernels import operator
from noisyrnn.kernels.reference import StepMaps, recurrence_of
from noisyrnn.models import Cell, SequenceClassifier
from noisyrnn.models.rate import RateCell
from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.robustness.gradient import recording
from noisyrnn.sde.activation import Derivatives
from noisyrnn.sde.diffusion import MatrixDiffusion

PENALTIES = ("explicit", "hutchinson")
_BITS = 24  # random bits in a uniform number of a path
_ROWS = 1024  # sequences in one simulated pass: enough to use the cores, few enough for their noise to fit in memory


@dataclass(frozen=True, kw_only=True, eq=False)
class Regularizer:
    r"""The two terms of the second-order effect of the noise on the loss, in units of the loss.

    .. math:: E\,\ell(h_M) = \ell(\bar h_M) + \tfrac{1}{2} (P + Q) + \text{fourth order in the levels}.

    The levels of the noise are in `P` and `Q`: where it has a noise level ε, these are ε² times the paper's, so divide
    by ε² for those. `Q` is at least 0; `P` is signed and may outweigh it.

    Args:
        P: Effect through the curvature of the dynamics, `(batch,)` if exact and `(draws, batch)` if estimated.
        Q: Effect through the curvature of the loss, shaped like `P`.
        kind: "exact", or "estimate": each row then comes from an independent draw, and their mean is unbiased.

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021.
    """

    P: Tensor
    Q: Tensor
    kind: str

    @property
    def total(self) -> Tensor:
        """½ (P + Q), shaped like both."""
        return 0.5 * (self.P + self.Q)

    def measurement(self, part: str = "total") -> Measurement:
        """Return `part` ("P", "Q" or "total") of each sequence, `(batch,)`; an estimate is the mean of its draws.

        Raises:
            ValueError: If there is no such part, or only one draw, which has no standard error.
        """
        check_choice("part", part, ("P", "Q", "total"))
        value: Tensor = getattr(self, part)
        return Measurement(value=value, kind="exact") if self.kind == "exact" else mean_of_draws(value)


@recording
def explicit_regularizer(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    noise: HiddenNoise | None = None,
    lengths: Tensor | None = None,
    dt: Tensor | float | None = None,
) -> Regularizer:
    r"""Compute the exact regulariser of a noisy, Lipschitz, antisymmetric, rate or tanh RNN by one recursion in time.

    Along the noise-free path, with :math:`J_m` the Jacobian of step m, :math:`N_m` the covariance of its noise and
    :math:`C_0 = 0, w_0 = 0`:

    .. math::
        C_{m+1} = J_m C_m J_m^T + N_m, \quad w_{m+1} = J_m w_m + \tfrac{1}{2} h_m'' : C_m, \quad
        Q = \mathrm{tr}(\nabla^2 \ell\, C_M), \quad P = 2 \nabla \ell \cdot w_M .

    A step with the noise-free increment Δ, `dt` nominal steps long, has the variances
    :math:`(a \sqrt{dt} + m \Delta / \sqrt{dt})^2` for the shared form of the noise with the levels a and m, and
    :math:`a^2 dt + m^2 \Delta^2 / dt` for the independent one. A diffusion σ has :math:`N_m = dt\,\sigma \sigma^T` at
    the noise-free state. Noise ζ inside the activation has :math:`N_m = (r a')^2 \mathrm{Var}\,\zeta`, with r the rate
    of the step, and adds its mean :math:`\tfrac{1}{2} r a'' \mathrm{Var}\,\zeta` to w. The loss is the cross-entropy of
    each sequence.

    Both derivatives of the activation are needed. At a kink, such as that of ReLU at 0, the second one is taken as 0:
    the values then hold for noise too weak to carry a pre-activation across it.

    The values can be differentiated in the parameters and the inputs. Time is O(batch · steps · d³) for d hidden units;
    memory O(batch · d²), or O(batch · steps · d²) where gradients are recorded: use `torch.no_grad()` without them.

    Args:
        model: A classifier with one of these cells, one layer and one direction; its `noise_mode` has no effect.
        inputs: `(batch, steps, input_size)`, of the model's dtype; use float64 for accurate values.
        labels: True classes, `(batch,)`.
        noise: Laws and levels of the noise (default: those of the model's layer).
        lengths: Valid steps of each sequence, `(batch,)` (default: all).
        dt: Length of each step in nominal steps: a number, `(steps,)` or `(batch, steps)` (default: 1).

    Returns:
        `P` and `Q` of each sequence, exact.

    Raises:
        TypeError: If the model is not a classifier, has another cell or several.
        ValueError: If the noise is uniform (its mean is below 1, so that it already acts to first order), the scheme is
            "stochastic-heun", an input is NaN or infinite, `dt` is not positive and finite, or a shape or a label is
            wrong.

    Example:
        >>> from noisyrnn.models import NoisyRNN
        >>> model = SequenceClassifier(NoisyRNN(input_size=1, hidden_size=8), classes=3)
        >>> explicit_regularizer(model, torch.ones(2, 5, 1), torch.tensor([0, 2])).measurement("Q").kind
        'exact'

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021; the double sums there, computed recursively.
    """
    return _Expansion.of(model, inputs, labels, noise=noise, lengths=lengths, dt=dt).exact()


@recording
@torch.no_grad()
def tangent_regularizer(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    noise: HiddenNoise | None = None,
    draws: int = 64,
    seed: int = 0,
    lengths: Tensor | None = None,
    dt: Tensor | float | None = None,
) -> Regularizer:
    r"""Estimate the regulariser of almost any cell with tangent vectors carried along the noise-free path; unbiased.

    .. math:: v_{m+1} = J_m v_m + N_m^{1/2} \zeta_m, \quad w_{m+1} = J_m w_m + \tfrac{1}{2} h_m''[v_m, v_m], \quad
        Q = E\, v_M^T \nabla^2 \ell\, v_M, \quad P = 2\, E\, \nabla \ell \cdot w_M .

    Both hold for any independent ζ with unit covariance. Random signs have the smallest variance. One sign per unit is
    enough for both terms of the published noise, whose `N_m` is diagonal in both of its forms; a diffusion has one per
    column. The contribution of the noise's dependence on the state has mean zero at second order.

    The step must be twice differentiable. That of the exponential RNN is not differentiable where a pre-activation
    crosses its threshold: its regulariser holds for noise too weak to cause that.

    Args:
        model: A classifier of one layer and one direction, with any cell whose outputs are its state or the rates of
            its currents, and another scheme than "stochastic-heun".
        inputs: `(batch, steps, input_size)`, of the model's dtype.
        labels: True classes, `(batch,)`.
        noise: Laws and levels of the noise (default: those of the model's layer).
        draws: Independent draws, at least 1, and at least 2 for a standard error; memory is proportional to it.
        seed: Seed of the draws, at least 0.
        lengths: Valid steps of each sequence, `(batch,)` (default: all).
        dt: Length of each step: a number, `(steps,)` or `(batch, steps)` (default: 1), for cells whose steps have a
            length.

    Returns:
        Draws of `P` and `Q`, `(draws, batch)`, without gradients; `penalty` is differentiable.

    Raises:
        TypeError: If the model is not a classifier, has several cells, or outputs of its own.
        ValueError: If the noise is uniform, the scheme is "stochastic-heun", an input is NaN or infinite, a shape or a
            label is wrong, or `dt`, `draws` or `seed` is out of range.
    """
    check_integer("draws", draws, minimum=1)
    check_integer("seed", seed, minimum=0)
    path = BrownianPath(seed=derive_seed(seed, "tangent"))
    return _Expansion.of(model, inputs, labels, noise=noise, lengths=lengths, dt=dt).sampled(path, draws)


@recording
@torch.no_grad()
def antithetic_regularizer(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    noise: HiddenNoise | None = None,
    scale: float = 1.0,
    pairs: int = 256,
    seed: int = 0,
    lengths: Tensor | None = None,
    dt: Tensor | float | None = None,
) -> Measurement:
    r"""Simulate the effect of the noise on the loss of any cell, with pairs of the noise and its negative.

    With all levels multiplied by `scale` s, each pair gives
    :math:`[\ell(h^{+s}) + \ell(h^{-s}) - 2 \ell(\bar h)] / (2 s^2)`. Its mean is ½ (P + Q) + O(s²); with s = 1 it is
    the whole effect of the noise, all orders together.

    The difference of losses is divided by s², so use a model in float64 for a small `scale`.

    Args:
        model: A classifier of one layer and one direction, with any cell; its `kernel` runs the passes.
        inputs: `(batch, steps, input_size)`, of the model's dtype.
        labels: True classes, `(batch,)`.
        noise: Laws and levels of the noise (default: those of the model's layer).
        scale: Factor s of all noise levels, above 0.
        pairs: Number of independent pairs, at least 2.
        seed: Seed of the noise, at least 0; it gives the same random numbers for every scale.
        lengths: Valid steps of each sequence, `(batch,)` (default: all).
        dt: Length of each step: a number, `(steps,)` or `(batch, steps)` (default: 1), for cells whose steps have a
            length.

    Returns:
        An estimate for each sequence, `(batch,)`, with its standard error over the pairs, in units of the loss.

    Raises:
        TypeError: If the model is not a classifier, or has several cells.
        ValueError: If the noise is uniform, an input is NaN or infinite, a shape or a label is wrong, or `dt`, `scale`,
            `pairs` or `seed` is out of range.
    """
    check_number("scale", scale, above=0.0)
    check_integer("pairs", pairs, minimum=2)
    check_integer("seed", seed, minimum=0)
    noise, sizes = _check_arguments(model, inputs, labels, noise=noise, lengths=lengths, dt=dt)
    noise = noise.scaled(scale)
    labels, batch, cell = labels.long(), len(inputs), cell_of(model)
    inputs = standardized_inputs(model, inputs)

    def losses(copies: int, path: BrownianPath | None) -> Tensor:
        _, end = operator.run(
            cell,
            inputs.repeat(copies, 1, 1),
            cell.initial_state(copies * batch),
            noise=None if path is None else noise,
            path=path,
            lengths=None if lengths is None else lengths.repeat(copies),
            dt=sizes.repeat(copies, 1) if sizes is not None and sizes.ndim == 2 else sizes,
            every_step=False,
            kernel=model.layer.kernel,
        )
        logits = model.readout(cell.output(end))
        return functional.cross_entropy(logits, labels.repeat(copies), reduction="none").unflatten(0, (copies, batch))

    noise_free, pairs_per_pass = losses(1, None), max(1, _ROWS // batch)
    sums = []
    for first in range(0, pairs, pairs_per_pass):
        copies = min(pairs_per_pass, pairs - first)
        path = BrownianPath(seed=derive_seed(seed, "antithetic"), first_row=first * batch)
        sums.append(losses(copies, path) + losses(copies, path.negated()) - 2 * noise_free)
    return mean_of_draws(torch.cat(sums) / (2 * scale**2))


class PenaltyOptions(TypedDict, total=False):
    """Options of `penalty` and `penalized_loss`.

    Args:
        kind: "explicit" (default, see `explicit_regularizer`), or "hutchinson": the mean of a few draws of
            `tangent_regularizer`, unbiased in value and gradient, in O(batch · steps · d²), for any cell that
            `tangent_regularizer` takes.
        draws: Number of draws for "hutchinson", at least 1 (default: 1).
        path: Source of the draws, required for "hutchinson"; give each training step a new one.
        noise: Laws and levels of the noise (default: those of the model's layer).
        lengths: Valid steps of each sequence, `(batch,)` (default: all).
        dt: Length of each step: a number, `(steps,)` or `(batch, steps)` (default: 1), for cells whose steps have a
            length.
    """

    kind: str
    draws: int
    path: BrownianPath | None
    noise: HiddenNoise | None
    lengths: Tensor | None
    dt: Tensor | float | None


@recording
def penalty(model: SequenceClassifier, inputs: Tensor, labels: Tensor, **options: Unpack[PenaltyOptions]) -> Tensor:
    """Return ½ (P + Q) of each sequence, differentiable: the effect of training with the noise, without drawing it.

    Args:
        model: A classifier that `explicit_regularizer` or, for "hutchinson", `tangent_regularizer` takes.
        inputs: `(batch, steps, input_size)`, of the model's dtype.
        labels: True classes, `(batch,)`.
        options: Keyword arguments of `PenaltyOptions`.

    Returns:
        `(batch,)`, signed.

    Raises:
        TypeError: If the model is not a classifier, has several cells, or one without this regulariser.
        ValueError: If the noise is uniform, the scheme is "stochastic-heun", an input is NaN or infinite, a shape or a
            label is wrong, `kind`, `dt` or `draws` is out of range, or `path` is missing.
    """
    return _penalized(model, inputs, labels, **options)[1]


@recording
def penalized_loss(
    model: SequenceClassifier, inputs: Tensor, labels: Tensor, **options: Unpack[PenaltyOptions]
) -> tuple[Tensor, Tensor]:
    """Return the noise-free loss of each sequence plus its `penalty`, `(batch,)`, and the logits, in one forward pass.

    It takes the arguments of `penalty` and raises the same errors.
    """
    expansion, effect = _penalized(model, inputs, labels, **options)
    return expansion.loss.value + effect, expansion.loss.logits


class _Loss(NamedTuple):
    """The cross-entropy of each sequence, and its derivatives in the last state h.

    With `D` the readout's rows less that of the true class, the gradient is `Σ p_c D_c`, and the Hessian
    `Σ p_c (D_c - gradient)(D_c - gradient)ᵀ`: no terms cancel where the softmax is saturated.

    Args:
        value: `(batch,)`.
        logits: `(batch, classes)`.
        gradient: `(batch, hidden_size)`.
        probabilities: p, `(batch, classes)`.
        rows: `D_c - gradient`, `(batch, classes, hidden_size)`.
        own: A diagonal that the Hessian has in addition where the outputs are an activation of the state.
    """

    value: Tensor
    logits: Tensor
    gradient: Tensor
    probabilities: Tensor
    rows: Tensor
    own: Tensor | None = None

    @classmethod
    def at(cls, readout: nn.Linear, cell: Any, state: Tensor, labels: Tensor) -> "_Loss":
        """Return the loss of the outputs of the last states, `(batch, hidden_size)`.

        Raises:
            TypeError: If the outputs are neither the state nor rates of currents.
        """
        rates = _rates_of(cell, state)
        logits = readout(cell.output(state) if rates is None else rates.value)
        differences = readout.weight - readout.weight[labels][:, None]
        probabilities = logits.softmax(1)
        gradient = (probabilities[..., None] * differences).sum(1)
        value = functional.cross_entropy(logits, labels, reduction="none")
        rows = differences - gradient[:, None]
        if rates is None:
            return cls(value, logits, gradient, probabilities, rows)
        slope, own = rates.slope, rates.bend * gradient
        return cls(value, logits, slope * gradient, probabilities, slope[:, None] * rows, own)

    def trace(self, covariance: Tensor) -> Tensor:
        """Return `tr(∇²ℓ C)`, `(batch,)`, for `(batch, hidden_size, hidden_size)`."""
        through = (self.probabilities * ((self.rows @ covariance) * self.rows).sum(-1)).sum(-1)
        return through if self.own is None else through + (self.own * covariance.diagonal(dim1=1, dim2=2)).sum(-1)

    def along(self, vectors: Tensor) -> Tensor:
        """Return `vᵀ ∇²ℓ v`, `(draws, batch)`, for `(draws, batch, hidden_size)`."""
        through = (self.probabilities * torch.einsum("kbd,bcd->kbc", vectors, self.rows) ** 2).sum(-1)
        return through if self.own is None else through + (self.own * vectors**2).sum(-1)


@dataclass(frozen=True, eq=False)
class _Expansion:
    """Second-order expansion of the loss in the noise, along the noise-free path.

    Args:
        trajectory: The noise-free path.
        written: Its derivatives in closed form, for cells of the drift family; otherwise `None`.
        roots: For each step the matrix by which its noise multiplies standard normals, up to the sign of the columns,
            `(batch, hidden_size, columns)`, or its diagonal, `(batch, hidden_size)`.
        shifts: For each step the second-order mean of its noise times two, `(batch, hidden_size)`; `None` where zero.
        loss: The loss at the end of the path, and its derivatives.
    """

    trajectory: Trajectory
    written: Steps | None
    roots: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...] | None
    loss: _Loss

    @classmethod
    def of(
        cls,
        model: SequenceClassifier,
        inputs: Tensor,
        labels: Tensor,
        *,
        noise: HiddenNoise | None = None,
        lengths: Tensor | None = None,
        dt: Tensor | float | None = None,
    ) -> "_Expansion":
        """Run the model without noise, after a check of all arguments."""
        noise, dt = _check_arguments(model, inputs, labels, noise=noise, lengths=lengths, dt=dt)
        cell: Any = cell_of(model)
        if cell.scheme == "stochastic-heun":
            raise ValueError(
                "scheme must be 'euler-maruyama' or 'milstein' for a second-order effect in closed form, got "
                "'stochastic-heun'. Use antithetic_regularizer."
            )
        inputs = standardized_inputs(model, inputs)
        trajectory = Trajectory.of(cell, inputs, lengths=lengths, dt=dt)
        maps, size = trajectory.maps, model.layer.hidden_size
        valid = None if maps.valid is None else torch.stack(maps.valid)
        sizes = None if dt is None else (dt[:, None, None] if dt.ndim == 1 else dt.T[..., None])
        written: Steps | None = None
        if maps.recurrence is not None and maps.recurrence.kind in WRITTEN:
            states = torch.stack(trajectory.states[:-1])
            rate = maps.recurrence.step.expand_as(states)
            rate = rate if sizes is None else rate * sizes
            rate = rate if valid is None else rate * valid
            written = WRITTEN[maps.recurrence.kind].along(maps.recurrence, states, torch.stack(maps.drives), rate)
            increment = written.increment
        else:
            increment = torch.stack([maps.drift(m, h)[:, :size] for m, h in enumerate(trajectory.states[:-1])])
        shifts = None
        if noise.place == "inside":
            roots, shifts = _inside(noise, written, cell, sizes)
        elif noise.diffusion is not None:
            arguments = StepMaps(cell, inputs, noise=noise, lengths=lengths, dt=dt).arguments
            factors = [noise.diffusion.factor(*arguments(m, h)) for m, h in enumerate(trajectory.states[:-1])]
            root: Any = noise.scale if sizes is None else noise.scale * sizes.sqrt()
            roots = torch.stack(factors) * (root if factors[0].ndim == 2 or sizes is None else root[..., None])
        else:
            roots = _root(noise, increment, sizes)
        if valid is not None:
            roots = roots * (valid if roots.ndim == 3 else valid[..., None])
        loss = _Loss.at(model.readout, cell, trajectory.end, labels.long())
        return cls(trajectory, written, roots.unbind(0), shifts, loss)

    def exact(self) -> Regularizer:
        """Return `P` and `Q` of each sequence, by the recursion for the covariance.

        Raises:
            TypeError: If the cell is not of the drift family.
        """
        if self.written is None:
            name = type(self.trajectory.maps.cell).__name__
            raise TypeError(
                "model must have the cell of a noisy, Lipschitz, antisymmetric, rate or tanh RNN for an exact "
                f"regularizer, got {name}. Use tangent_regularizer or kind='hutchinson'."
            )
        u = torch.zeros_like(self.trajectory.end)  # 2 w
        covariance = torch.diag_embed(u)
        for m, root in enumerate(self.roots):
            covariance, u = self.written.spread(m, covariance, u)
            covariance = covariance + (torch.diag_embed(root**2) if root.ndim == 2 else root @ root.mT)
            u = u if self.shifts is None else u + self.shifts[m]
        return Regularizer(P=(self.loss.gradient * u).sum(-1), Q=self.loss.trace(covariance), kind="exact")

    def sampled(self, path: BrownianPath, draws: int) -> Regularizer:
        """Return draws of `P` and `Q`, `(draws, batch)`, by the recursion for tangent vectors."""
        trajectory, size = self.trajectory, self.loss.gradient.shape[-1]
        v = u = trajectory.end.new_zeros(draws, *trajectory.end.shape)  # u is 2 w
        behind = v.shape[-1] - size  # entries without noise
        for m, (root, signs) in enumerate(zip(self.roots, _signs(path, draws, self.roots), strict=True)):
            if self.written is None:
                v, u = _push(trajectory, m, v, u)
            else:
                v, u = self.written.push(m, v, u)
            noise = root * signs if root.ndim == 2 else (root @ signs[..., None])[..., 0]
            v = v + functional.pad(noise, (0, behind))
            u = u if self.shifts is None else u + self.shifts[m]
        P, Q = (self.loss.gradient * u[..., :size]).sum(-1), self.loss.along(v[..., :size])
        return Regularizer(P=P, Q=Q, kind="estimate")


def _penalized(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    kind: str = "explicit",
    draws: int = 1,
    path: BrownianPath | None = None,
    **options: Any,
) -> tuple[_Expansion, Tensor]:
    """Return the expansion, and the penalty `(batch,)`."""
    check_choice("kind", kind, PENALTIES)
    check_integer("draws", draws, minimum=1)
    if kind == "hutchinson" and path is None:
        raise ValueError("path must be given for kind 'hutchinson', got None. Use BrownianPath(seed=...).")
    with torch.autocast(inputs.device.type, enabled=False):  # half precision is too coarse for many Jacobians
        expansion = _Expansion.of(model, inputs, labels, **options)
        if path is None or kind == "explicit":
            return expansion, expansion.exact().total
        return expansion, expansion.sampled(path, draws).total.mean(0)


def _check_arguments(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    noise: HiddenNoise | None,
    lengths: Tensor | None,
    dt: Tensor | float | None,
) -> tuple[HiddenNoise, Tensor | None]:
    """Check all arguments, and return the noise, by default that of the model's layer, and the lengths of steps."""
    if not isinstance(model, SequenceClassifier):
        raise TypeError(
            f"model must be a SequenceClassifier, got {type(model).__name__}. The regularizer is implemented for the "
            "cross-entropy of one class for each sequence only."
        )
    check_complete(inputs, lengths, input_size=model.input_size)
    if not values_hidden():
        check_labels(labels, count=len(inputs), classes=model.classes)
    like, name = model.readout.weight.detach(), type(model.layer).__name__
    sizes = step_sizes(dt, inputs, lengths, cell=cell_of(model), like=like, name=name)
    noise = model.layer.hidden_noise if noise is None else noise
    if noise.law == "uniform":
        raise ValueError(
            "noise_law must be 'gaussian' for a second-order effect, got 'uniform', which acts to first order: its "
            "mean is not 1. Give another noise."
        )
    return noise, sizes


def _push(trajectory: Trajectory, m: int, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return `J v` and `J u + h''[v, v]` for any cell, as the derivative of `(h, v) -> J(h) v` along `(v, u)`."""

    def along(h: Tensor, v: Tensor) -> Tensor:
        return jvp(lambda state: trajectory.maps(m, state), (h,), (v,))[1]

    state = trajectory.states[m]
    return vmap(lambda v, u: jvp(along, (state, v), (v, u))[:2])(v, u)


def _root(noise: HiddenNoise, increment: Tensor, dt: Tensor | None) -> Tensor:
    """Return a value whose square is the variance of the noise on the increments of all steps."""
    additive = increment.new_tensor(noise.additive) if dt is None else noise.additive * dt.sqrt()
    relative = noise.multiplicative * increment if dt is None else noise.multiplicative / dt.sqrt() * increment
    if noise.form == "shared" or noise.additive == 0 or noise.multiplicative == 0:
        return additive + relative
    return torch.hypot(additive, relative)  # smooth: the first is above 0


def _inside(
    noise: HiddenNoise, written: Steps | None, cell: Any, sizes: Tensor | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the roots of a noise inside the activation, and twice its second-order mean at every step.

    The step `rate ⊙ a(z + ζ)` is `rate ⊙ (a + a' ζ + ½ a'' ζ²)` to second order.
    """
    if not isinstance(written, DriftSteps):
        raise ValueError(f"noise_place must be 'outside' for {type(cell).__name__}, got 'inside'.")
    slope, bend = torch.stack(written.slope), torch.stack(written.bend)
    shorter: Any = 1.0 if sizes is None else sizes.sqrt()
    if isinstance(noise.diffusion, MatrixDiffusion):
        matrix = noise.scale * noise.diffusion.matrix.to(slope)
        shifts = bend * (matrix**2).sum(1) / shorter**2
        return (slope / shorter)[..., None] * matrix, shifts.unbind(0)
    return slope * (noise.additive / shorter), (bend * (noise.additive / shorter) ** 2).unbind(0)


def _rates_of(cell: Any, state: Tensor) -> Derivatives | None:
    """Return the activation of the last states and its derivatives, for a network of currents; `None` if unchanged.

    Raises:
        TypeError: If the outputs are another function of the state.
    """
    recurrence = recurrence_of(cell)
    if recurrence is not None and recurrence.kind == "current":
        return recurrence.activation.derivatives(state)
    if type(cell).output not in (Cell.output, RateCell.output):
        raise TypeError(f"model must have a state as its outputs, got {type(cell).__name__} with an output of its own.")
    return None


def _signs(path: BrownianPath, draws: int, roots: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield independent random signs, `(draws, batch, columns)`, for each of `roots`.

    Each bit of the path's numbers is a sign. Draws take consecutive units of the path, so no two rows share any.
    """
    like = roots[0]
    steps, batch, units = len(roots), len(like), like.shape[-1]
    words = -(-units // _BITS)
    uniform = path.uniforms(steps=steps, batch=batch, units=draws * words, device=like.device)
    places = torch.arange(_BITS, device=like.device)
    for numbers in (uniform * 2**_BITS).int().unflatten(-1, (draws, words)).unbind(0):
        bits = (numbers[..., None] >> places) & 1
        yield (2 * bits - 1).flatten(-2)[..., :units].transpose(0, 1).to(like.dtype)
