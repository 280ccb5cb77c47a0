"""Fixed points of the noise-free map at a constant input, with the eigenvalues of the Jacobian there."""

from dataclasses import dataclass

import torch
from torch import Tensor

from noisyrnn.analysis.arguments import check_complete
from noisyrnn.analysis.dynamics.jacobian import Recurrent, float64_model, float64_trajectory
from noisyrnn.analysis.trajectory import Trajectory
from noisyrnn.checks import check_finite, check_integer, check_number, check_tensor
from noisyrnn.models import Cell
from noisyrnn.noise.brownian import derive_seed
from noisyrnn.robustness.gradient import recording

_BLOCK = 64
"""Searches that run at once."""

_LEAST = 1e-12
_MOST = 1e10
"""Range of the damping, relative to the mean square of G's columns; a search ends where it would need more."""

_PROGRESS = 1e-10
"""Relative fall of the speed that counts as one, beyond rounding."""

_SAME = 1e-4
"""States whose entries differ by less than this, relative to 1 or to the largest entry if that is larger, are one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedPoints:
    """Fixed points that a search found, those that most searches reached first.

    Args:
        states: `(points, state_size)`, float64.
        outputs: Outputs of the layer there, `(points, hidden_size)`.
        speeds: Norm of the change of the state in one step, `(points,)`: at most the tolerance.
        eigenvalues: Eigenvalues of the Jacobian of one step, complex `(points, state_size)`, the largest modulus first.
        counts: Searches that ended at each point, int64 `(points,)`.
        searches: Number of searches.
    """

    states: Tensor
    outputs: Tensor
    speeds: Tensor
    eigenvalues: Tensor
    counts: Tensor
    searches: int

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.states)

    @property
    def stable(self) -> Tensor:
        """Whether nearby states return, bool `(points,)`: all eigenvalues lie within the unit circle."""
        return self.eigenvalues[:, 0].abs() < 1

    @property
    def unstable_directions(self) -> Tensor:
        """Eigenvalues outside the unit circle, int64 `(points,)`: 0 for attractors, 1 or more for saddles."""
        return (self.eigenvalues.abs() > 1).sum(dim=1)

    def __repr__(self) -> str:
        """Return how many points there are, and how many of them attract."""
        reached = int(self.counts.sum())
        return (
            f"FixedPoints({len(self)} points, {int(self.stable.sum())} of them stable, "
            f"by {reached} of {self.searches} searches)"
        )


@recording
@torch.no_grad()
def fixed_points(
    model: Recurrent,
    inputs: Tensor,
    *,
    at: Tensor | None = None,
    searches: int = 256,
    scatter: float = 0.0,
    seed: int = 0,
    tolerance: float = 1e-8,
    iterations: int = 500,
    lengths: Tensor | None = None,
    h_0: Tensor | None = None,
) -> FixedPoints:
    r"""Search for states that a step at a constant input leaves unchanged, from states that the network visits.

    Each search minimises the speed :math:`\|F(h) - h\|` of the noise-free step F by Levenberg and Marquardt's method,
    in float64: with :math:`G = \partial F / \partial h - I`,

    .. math:: h \leftarrow h - (G^T G + \lambda I)^{-1} G^T (F(h) - h),

    where the damping λ falls while the speed does, and grows where it would not, until the speed falls no further.
    Searches that end at the same state are one point. Other fixed points may exist: no search proves that there is
    none. A continuum of fixed points, such as a line attractor, gives as many points as searches, each with an
    eigenvalue near 1.

    Args:
        model: Model of one cell (one layer, one direction); a sequence model standardises the inputs.
        inputs: Sequences that drive the noise-free network, `(batch, steps, input_size)`; the searches start at states
            that it visits, drawn evenly from all.
        at: The constant input, `(input_size,)`, in the unit of the inputs; zeros by default.
        searches: Number of searches, at least 1.
        scatter: Standard deviation of normal numbers added to each start, at least 0: saddles, which no path visits,
            are found from starts around the paths.
        seed: Seed of the starts, at least 0.
        tolerance: Largest speed of a point, above 0: searches that end at a faster state are left out. With a larger
            one slow points, where the speed has a minimum above zero, are points too.
        iterations: Largest number of steps of a search, at least 1.
        lengths: Valid steps of each sequence, int64 `(batch,)`; all by default.
        h_0: Initial state of each sequence, `(1, batch, state_size)`; zeros by default.

    Returns:
        The points, on the device of the inputs. There may be none.

    Raises:
        ValueError: If an argument is out of range, or an input is NaN or infinite.
        RuntimeError: If the state becomes non-finite along the inputs.
        TypeError: If the model has no cell, or several.

    Example:
        >>> from noisyrnn.models import LipschitzRNN
        >>> layer = LipschitzRNN(input_size=1, hidden_size=4)
        >>> fixed_points(layer, torch.zeros(2, 5, 1), searches=8).states.shape[1]
        4

    Reference:
        Sussillo and Barak, Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
        networks, Neural Computation 2013.
    """
    check_integer("searches", searches, minimum=1)
    check_number("scatter", scatter, minimum=0.0)
    check_integer("seed", seed, minimum=0)
    check_number("tolerance", tolerance, above=0.0)
    check_integer("iterations", iterations, minimum=1)
    check_complete(inputs, lengths, input_size=model.input_size)
    if at is None:
        at = inputs.new_zeros(model.input_size)
    check_tensor("at", at)
    if at.shape != (model.input_size,):
        raise ValueError(f"at must have shape ({model.input_size},), got {tuple(at.shape)}.")
    check_finite("at", at)
    trajectory = float64_trajectory(model, inputs, lengths=lengths, h_0=h_0)
    generator = torch.Generator().manual_seed(derive_seed(seed, "fixed points"))
    starts = _visited(trajectory, lengths, searches, generator)
    noise = torch.randn(starts.shape, generator=generator, dtype=torch.float64, device="cpu")
    starts = starts + scatter * noise.to(starts.device)
    cell, (constant,) = float64_model(model, at.to(inputs)[None, None])
    found = [_search(cell, constant, part, iterations) for part in starts.split(_BLOCK)]
    states = torch.cat(found)
    step = _step(cell, constant, states)
    speeds = (step.end - states).norm(dim=1)
    reached = speeds <= tolerance
    first, counts = _distinct(states[reached])
    states = states[reached][first]
    jacobians = _step(cell, constant, states).jacobian(0) if len(states) else states.new_zeros(0, *states.shape[1:] * 2)
    eigenvalues = torch.linalg.eigvals(jacobians)
    order = eigenvalues.abs().argsort(dim=1, descending=True)
    return FixedPoints(
        states=states,
        outputs=cell.output(states),
        speeds=speeds[reached][first],
        eigenvalues=eigenvalues.gather(1, order),
        counts=counts,
        searches=searches,
    )


def _visited(trajectory: Trajectory, lengths: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
    """Return states drawn from those that the sequences visit, `(count, state_size)`."""
    states = torch.stack(trajectory.states, dim=1)
    batch, steps, _ = states.shape
    rows = torch.randint(batch, (count,), generator=generator, device="cpu")
    ends = torch.full((batch,), steps, dtype=torch.int64, device="cpu") if lengths is None else lengths.cpu() + 1
    share = torch.rand(count, generator=generator, dtype=torch.float64, device="cpu")
    return states[rows.to(states.device), (share * ends[rows]).long().to(states.device)]


def _step(cell: Cell, constant: Tensor, states: Tensor) -> Trajectory:
    """Return one step from each of the states at a constant input, `(1, input_size)`."""
    return Trajectory.of(cell, constant.expand(len(states), 1, -1), state=states)


def _search(cell: Cell, constant: Tensor, h: Tensor, iterations: int) -> Tensor:
    """Return the states of least speed that the searches from `h`, `(searches, state_size)`, reach."""
    eye = torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
    damping = torch.full((len(h),), 1e-3, dtype=h.dtype, device=h.device)
    step = _step(cell, constant, h)
    change = step.end - h
    for _ in range(iterations):
        speed = change.norm(dim=1)
        if not bool(((speed > 0) & (damping < _MOST)).any()):
            break
        G = step.jacobian(0) - eye
        size = G.square().sum(dim=(1, 2)).clamp(min=torch.finfo(h.dtype).tiny) / len(eye)
        normal = G.mT @ G + (damping * size)[:, None, None] * eye
        moved = h - torch.linalg.solve(normal, (G.mT @ change[..., None]))[..., 0]
        tried = _step(cell, constant, moved)
        after = tried.end - moved
        better = after.norm(dim=1) < (1 - _PROGRESS) * speed  # false where it is not a number
        h = moved.where(better[:, None], h)
        damping = torch.where(better, damping / 10, damping * 10).clamp(_LEAST, _MOST)
        step = _step(cell, constant, h)
        change = step.end - h
    return h


def _distinct(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of states that differ, those that occur most often first, and how often each occurs."""
    first: list[int] = []
    counts: list[int] = []
    for k, state in enumerate(states):
        known = states[first]
        near = (known - state).abs().amax(dim=1) <= _SAME * state.abs().amax().clamp(min=1.0)
        if bool(near.any()):
            counts[int(near.nonzero()[0])] += 1
        else:
            first.append(k)
            counts.append(1)
    order = sorted(range(len(first)), key=lambda k: -counts[k])
    indices = torch.tensor([first[k] for k in order], dtype=torch.int64, device=states.device)
    return indices, torch.tensor([counts[k] for k in order], dtype=torch.int64, device=states.device)
