"""The regulariser that hidden noise adds to the loss, to second order: what it is, and its exact value."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap
from torch.nn import functional

from noisyrnn.analysis.measurement import Measurement, mean_of_draws
from noisyrnn.analysis.trajectory import Trajectory, cell_of, standardized_inputs
from noisyrnn.checks import check_choice, check_labels, check_lengths, check_sequences, values_hidden
from noisyrnn.models import SequenceClassifier
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.robustness.gradient import recording

_BITS = 24  # random bits in a uniform number of a path


@dataclass(frozen=True, kw_only=True, eq=False)
class Regularizer:
    r"""The two parts of the second-order effect of the noise on the loss, in units of the loss.

    .. math:: E\,\ell(h_M) = \ell(\bar h_M) + \tfrac{1}{2} (P + Q) + \text{fourth order in the levels}.

    The levels of the noise are in `P` and `Q`: where it has a noise level ε, these are ε² times the paper's, so divide
    by ε² for those. `Q` is at least 0; `P` is signed and may outweigh it.

    Args:
        P: Through the curvature of the dynamics, `(batch,)` if exact and `(draws, batch)` if estimated.
        Q: Through the curvature of the loss, shaped like `P`.
        kind: "exact", or "estimate": row k then comes from the k-th of independent draws, and their mean is unbiased.

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
        """`part` ("P", "Q" or "total") of every sequence, `(batch,)`; an estimate is the mean of its draws.

        Raises:
            ValueError: If there is no such part, or a single draw, which has no standard error.
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
    dt: Tensor | None = None,
) -> Regularizer:
    r"""The exact regulariser of a noisy, Lipschitz or antisymmetric RNN, by one recursion forward in time.

    Along the noise-free path, with :math:`J_m` the Jacobian of step m, :math:`N_m` the diagonal covariance of its noise
    and :math:`C_0 = 0, w_0 = 0`:

    .. math::
        C_{m+1} = J_m C_m J_m^T + N_m, \quad w_{m+1} = J_m w_m + \tfrac{1}{2} h_m'' : C_m, \quad
        Q = \mathrm{tr}(\nabla^2 \ell\, C_M), \quad P = 2 \nabla \ell \cdot w_M .

    A step with the noise-free increment Δ, `dt` nominal steps long, has the variances
    :math:`(a \sqrt{dt} + m \Delta / \sqrt{dt})^2` for the shared form of the noise with the levels a and m, and
    :math:`a^2 dt + m^2 \Delta^2 / dt` for the independent one. The loss is the cross-entropy of each sequence.

    The values can be differentiated in the parameters and the inputs. Time is O(batch · steps · d³) for d hidden units;
    memory O(batch · d²), or O(batch · steps · d²) where gradients are recorded: use `torch.no_grad()` without them.

    Args:
        model: Its noise switch and mode do not matter.
        inputs: `(batch, steps, input_size)`, of the model's dtype; float64 for figures that are to be trusted.
        labels: True classes, `(batch,)`.
        noise: Laws and levels; those of the model's layer by default.
        lengths: Valid steps of each sequence, `(batch,)`; all by default.
        dt: Length of each step in nominal steps, `(steps,)` or `(batch, steps)`; 1 by default.

    Returns:
        `P` and `Q` of each sequence, exact.

    Raises:
        TypeError: If the model is not a classifier, or its cell is another one.
        ValueError: If the noise is uniform (its mean is below 1, so that it acts to first order already), or a shape
            or a label does not fit.

    Example:
        >>> from noisyrnn.models import NoisyRNN
        >>> model = SequenceClassifier(NoisyRNN(input_size=1, hidden_size=8), classes=3)
        >>> explicit_regularizer(model, torch.ones(2, 5, 1), torch.tensor([0, 2])).measurement("Q").kind
        'exact'

    Reference:
        Lim et al., Noisy Recurrent Neural Networks, NeurIPS 2021; the double sums there, folded.
    """
    return Expansion.of(model, inputs, labels, noise=noise, lengths=lengths, dt=dt).exact()


def checked_noise(
    model: SequenceClassifier,
    inputs: Tensor,
    labels: Tensor,
    *,
    noise: HiddenNoise | None,
    lengths: Tensor | None,
    dt: Tensor | None,
) -> HiddenNoise:
    """The noise that is meant, `None` standing for the layer's own, once all arguments are known to fit."""
    if not isinstance(model, SequenceClassifier):
        raise TypeError(f"model must be a SequenceClassifier, got {type(model).__name__}.")
    check_sequences("inputs", inputs, input_size=model.layer.input_size)
    batch, steps, _ = inputs.shape
    if not values_hidden():
        check_labels(labels, count=batch, classes=model.classes)
    if lengths is not None:
        check_lengths(lengths, batch=batch, steps=steps)
    if dt is not None and not cell_of(model).supports_dt:
        name = type(model.layer).__name__
        raise ValueError(f"dt must be None for {name}, whose steps have no length, got step lengths.")
    if dt is not None and dt.shape not in ((steps,), (batch, steps)):
        raise ValueError(f"dt must have shape ({steps},) or {(batch, steps)}, got {tuple(dt.shape)}.")
    noise = model.layer.hidden_noise if noise is None else noise
    if noise.law == "uniform":
        raise ValueError(
            "noise_law must be 'gaussian' for a second-order effect, got 'uniform', which acts to first order: its "
            "mean is not 1. Give another noise."
        )
    return noise


class _Loss(NamedTuple):
    """The cross-entropy of each sequence, and its derivatives in the last output h.

    With `D` the readout's rows less that of the true class, the gradient is `Σ p_c D_c`, and the Hessian
    `Σ p_c (D_c - gradient)(D_c - gradient)ᵀ`: no term cancels another where the softmax is saturated.

    Args:
        value: `(batch,)`.
        logits: `(batch, classes)`.
        gradient: `(batch, hidden_size)`.
        probabilities: p, `(batch, classes)`.
        rows: `D_c - gradient`, `(batch, classes, hidden_size)`.
    """

    value: Tensor
    logits: Tensor
    gradient: Tensor
    probabilities: Tensor
    rows: Tensor

    @classmethod
    def at(cls, readout: nn.Linear, outputs: Tensor, labels: Tensor) -> "_Loss":
        """The loss of the last outputs `(batch, hidden_size)`."""
        logits = readout(outputs)
        differences = readout.weight - readout.weight[labels][:, None]
        probabilities = logits.softmax(1)
        gradient = (probabilities[..., None] * differences).sum(1)
        value = functional.cross_entropy(logits, labels, reduction="none")
        return cls(value, logits, gradient, probabilities, differences - gradient[:, None])

    def trace(self, covariance: Tensor) -> Tensor:
        """`tr(∇²ℓ C)`, `(batch,)`, for `(batch, hidden_size, hidden_size)`."""
        return (self.probabilities * ((self.rows @ covariance) * self.rows).sum(-1)).sum(-1)

    def along(self, vectors: Tensor) -> Tensor:
        """`vᵀ ∇²ℓ v`, `(draws, batch)`, for `(draws, batch, hidden_size)`."""
        return (self.probabilities * torch.einsum("kbd,bcd->kbc", vectors, self.rows) ** 2).sum(-1)


class _Drift(NamedTuple):
    """The steps `h + rate ⊙ (A h + tanh(W h + …))` along a path, all at once, and their derivatives.

    Args:
        A: `(d, d)`, or `None`.
        W: `(d, d)`.
        rate: `(steps, batch, d)`; zero once a sequence has finished, like the following.
        slope: `rate ⊙ tanh'`.
        bend: `rate ⊙ tanh''`: `h''[v, v] = bend ⊙ (W v)²`.
        increment: The steps themselves.
    """

    A: Tensor | None
    W: Tensor
    rate: tuple[Tensor, ...]
    slope: tuple[Tensor, ...]
    bend: tuple[Tensor, ...]
    increment: Tensor

    @classmethod
    def along(cls, trajectory: Trajectory, dt: Tensor | None, valid: Tensor | None) -> "_Drift":
        """Of a trajectory of the drift family."""
        assert trajectory.linear is not None
        A, W = trajectory.linear.A, trajectory.linear.W
        states = torch.stack(trajectory.states[:-1])
        activation = torch.tanh(states @ W.T + torch.stack(trajectory.maps.drives))
        rate = trajectory.linear.step.expand_as(states)
        rate = rate if dt is None else rate * dt
        rate = rate if valid is None else rate * valid
        slope = rate * (1 - activation**2)
        drift = activation if A is None else activation + states @ A.T
        bend = -2 * activation * slope
        return cls(A, W, rate.unbind(0), slope.unbind(0), bend.unbind(0), rate * drift)

    def push(self, m: int, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """`J v` and `J u + h''[v, v]`, for vectors `(draws, batch, d)`."""
        both = torch.stack([v, u])
        inner = both @ self.W.T
        after = both + self.slope[m] * inner
        if self.A is not None:
            after = after + self.rate[m] * (both @ self.A.T)
        moved, carried = after.unbind(0)
        return moved, carried + self.bend[m] * inner.unbind(0)[0] ** 2

    def spread(self, m: int, covariance: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """`J C Jᵀ` and `J u + h'' : C`, for `(batch, d, d)` and `(batch, d)`."""
        jacobian = self.slope[m][..., None] * self.W  # J - I
        if self.A is not None:
            jacobian = torch.addcmul(jacobian, self.rate[m][..., None], self.A)
        half = torch.baddbmm(covariance, jacobian, covariance)
        bent = self.bend[m] * ((covariance @ self.W.T) * self.W.T).sum(-2)
        return torch.baddbmm(half, half, jacobian.mT), u + (jacobian @ u[..., None])[..., 0] + bent


@dataclass(frozen=True, eq=False)
class Expansion:
    """What the second-order effect of a noise needs of the noise-free path.

    Args:
        trajectory: The noise-free path.
        drift: Its derivatives written out, where its cell allows that.
        root: Standard deviation of the noise of each step and unit, up to its sign, `(steps, batch, hidden_size)`.
        loss: The loss at the end.
    """

    trajectory: Trajectory
    drift: _Drift | None
    root: Tensor
    loss: _Loss

    @classmethod
    def of(
        cls,
        model: SequenceClassifier,
        inputs: Tensor,
        labels: Tensor,
        *,
        noise: HiddenNoise | None,
        lengths: Tensor | None,
        dt: Tensor | None,
    ) -> "Expansion":
        """Run the model without noise; arguments and errors as for `explicit_regularizer`."""
        noise = checked_noise(model, inputs, labels, noise=noise, lengths=lengths, dt=dt)
        labels = labels.long()
        trajectory = Trajectory.of(cell_of(model), standardized_inputs(model, inputs), lengths=lengths, dt=dt)
        maps, size = trajectory.maps, model.layer.hidden_size
        valid = None if maps.valid is None else torch.stack(maps.valid)
        if dt is not None:
            dt = dt[:, None, None] if dt.ndim == 1 else dt.T[..., None]
        drift = None if trajectory.linear is None else _Drift.along(trajectory, dt, valid)
        if drift is None:
            increment = torch.stack([maps.increment(m, h)[:, :size] for m, h in enumerate(trajectory.states[:-1])])
        else:
            increment = drift.increment
        root = _root(noise, increment, dt)
        root = root if valid is None else root * valid
        return cls(trajectory, drift, root, _Loss.at(model.readout, trajectory.end[:, :size], labels))

    def exact(self) -> Regularizer:
        """`P` and `Q` of each sequence by the recursion for the covariance.

        Raises:
            TypeError: If the cell is not of the drift family.
        """
        if self.drift is None:
            raise TypeError(
                f"model must have the cell of a noisy, Lipschitz or antisymmetric RNN for an exact regularizer, "
                f"got {type(self.trajectory.maps.cell).__name__}. Use tangent_regularizer or kind='hutchinson'."
            )
        u = torch.zeros_like(self.trajectory.end)  # 2 w
        covariance = torch.diag_embed(u)
        for m, root in enumerate(self.root.unbind(0)):
            covariance, u = self.drift.spread(m, covariance, u)
            covariance = covariance + torch.diag_embed(root**2)
        return Regularizer(P=(self.loss.gradient * u).sum(-1), Q=self.loss.trace(covariance), kind="exact")

    def sampled(self, path: BrownianPath, draws: int) -> Regularizer:
        """Draws of `P` and `Q`, `(draws, batch)`, by tangents; see `tangent_regularizer`."""
        trajectory, size = self.trajectory, self.root.shape[-1]
        v = u = trajectory.end.new_zeros(draws, *trajectory.end.shape)  # u is 2 w
        behind = v.shape[-1] - size  # entries without noise
        for m, (root, signs) in enumerate(zip(self.root.unbind(0), _signs(path, draws, self.root), strict=True)):
            if self.drift is None:
                v, u = _push(trajectory, m, v, u)
            else:
                v, u = self.drift.push(m, v, u)
            v = v + functional.pad(root * signs, (0, behind))
        P, Q = (self.loss.gradient * u[..., :size]).sum(-1), self.loss.along(v[..., :size])
        return Regularizer(P=P, Q=Q, kind="estimate")


def _push(trajectory: Trajectory, m: int, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """As `_Drift.push` for any cell: the derivative of `(h, v) -> J(h) v` along `(v, u)` holds both."""

    def along(h: Tensor, v: Tensor) -> Tensor:
        return jvp(lambda state: trajectory.maps(m, state), (h,), (v,))[1]

    state = trajectory.states[m]
    return vmap(lambda v, u: jvp(along, (state, v), (v, u))[:2])(v, u)


def _root(noise: HiddenNoise, increment: Tensor, dt: Tensor | None) -> Tensor:
    """A number whose square is the variance of the noise on the increments of all steps."""
    additive = increment.new_tensor(noise.additive) if dt is None else noise.additive * dt.sqrt()
    relative = noise.multiplicative * increment if dt is None else noise.multiplicative / dt.sqrt() * increment
    if noise.form == "shared" or noise.additive == 0 or noise.multiplicative == 0:
        return additive + relative
    return torch.hypot(additive, relative)  # smooth: the first is above 0


def _signs(path: BrownianPath, draws: int, like: Tensor) -> Iterator[Tensor]:
    """Independent random signs, `(draws, batch, units)` for each step of `like`, `(steps, batch, units)`.

    Each bit of the path's numbers is one. Draws lie along the path's units, so that no two rows share any.
    """
    steps, batch, units = like.shape
    words = -(-units // _BITS)
    uniform = path.uniforms(steps=steps, batch=batch, units=draws * words, device=like.device)
    places = torch.arange(_BITS, device=like.device)
    for numbers in (uniform * 2**_BITS).int().unflatten(-1, (draws, words)).unbind(0):
        bits = (numbers[..., None] >> places) & 1
        yield (2 * bits - 1).flatten(-2)[..., :units].transpose(0, 1).to(like.dtype)
