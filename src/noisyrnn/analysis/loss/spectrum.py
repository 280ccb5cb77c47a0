"""Eigenvalues of a symmetric operator and the density of its spectrum, both by Lanczos's method."""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from noisyrnn.analysis.loss.hessian import SymmetricOperator, random_signs
from noisyrnn.analysis.measurement import Measurement, mean_of_draws
from noisyrnn.checks import check_integer, check_number


@dataclass(frozen=True, kw_only=True, eq=False)
class Eigenpairs:
    r"""Eigenvalues from both ends of a spectrum, with their eigenvectors.

    With :math:`r = \|H v - \lambda v\|` and a unit vector `v`, a theorem guarantees an eigenvalue of `H` within `r` of
    `λ`. There is no guarantee that no eigenvalue nearer to an end was missed, so the kind of every value is "estimate".
    Lanczos's method finds the ends first, and misses one only if the random starts are almost orthogonal to its vector.

    Args:
        values: Float64 `(k,)`, ascending: first the smallest ones, then the largest.
        vectors: Orthonormal columns, `(size, k)`.
        residuals: r of each pair, float64 `(k,)`, computed with the vectors themselves.
        products: Number of products with `H`.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int

    @property
    def smallest(self) -> Measurement:
        """The most negative eigenvalue, or the smallest if there is no negative one."""
        return Measurement(value=self.values[0], kind="estimate")

    @property
    def largest(self) -> Measurement:
        """The largest eigenvalue."""
        return Measurement(value=self.values[-1], kind="estimate")

    @property
    def condition_number(self) -> Measurement:
        r""":math:`\kappa = |\lambda_{\max}| / |\lambda_{\min}|`, with the largest and the smallest eigenvalue.

        It compares the two ends of the spectrum: at a saddle, the direction of largest with that of most negative
        curvature. It is infinite if the smallest eigenvalue is 0. It is not the condition number of a linear system,
        the ratio of the extreme *absolute values*: the Hessian of a softmax classifier is singular (adding a constant
        to all logits changes nothing), so that one is always infinite.
        """
        smallest, largest = self.values[0].abs(), self.values[-1].abs()
        return Measurement(value=largest / smallest, kind="estimate")


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralDensity:
    r"""Density :math:`\phi(t) = \frac{1}{n} \sum_i g_w(t - \lambda_i)` of n eigenvalues, :math:`g_w` a normal density.

    Args:
        grid: Positions of the values, float64 `(points,)`, ascending.
        density: φ on the grid, an estimate with its standard error over the probes. It integrates to 1.
        width: w, the standard deviation of the normal density, in units of the eigenvalues.
    """

    grid: Tensor
    density: Measurement
    width: float


def hessian_eigenvalues(
    operator: SymmetricOperator,
    *,
    leading: int = 5,
    trailing: int = 5,
    steps: int = 150,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> Eigenpairs:
    """Compute the largest and the smallest eigenvalues of a symmetric operator, such as `LossHessian`.

    Lanczos's method with full orthogonalization, from as many random starts as there are wanted values at either end.
    One start finds a single copy of a repeated eigenvalue; k starts find the k copies that can be among k wanted
    values. It stops when the residuals of all wanted pairs are small enough, or after `steps`; then the residuals show
    the accuracy reached.

    Args:
        operator: Symmetric operator with n rows.
        leading: Number of largest eigenvalues, at least 1.
        trailing: Number of smallest eigenvalues, at least 1.
        steps: Maximum number of products, plus one per pair; as many vectors of size n are stored.
        tolerance: Residuals to reach, relative to the largest absolute eigenvalue.
        seed: Seed of the starts.

    Raises:
        ValueError: If the operator has fewer rows, or `steps` allows fewer products, than there are wanted pairs.

    Example:
        >>> from noisyrnn.analysis.loss.hessian import LossHessian
        >>> from noisyrnn.data.split import Split
        >>> split = Split(inputs=torch.ones(2, 1, 1), labels=torch.tensor([0, 1]), classes=2)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2))
        >>> for parameter in model.parameters():
        ...     _ = torch.nn.init.zeros_(parameter)
        >>> hessian_eigenvalues(LossHessian(model, split), leading=1, trailing=1).largest   # exact: 1
        Measurement(1, estimate)
    """
    check_integer("leading", leading, minimum=1)
    check_integer("trailing", trailing, minimum=1)
    check_number("tolerance", tolerance, minimum=0.0)
    wanted = leading + trailing
    check_integer("steps", steps, minimum=wanted)
    if wanted > operator.size:
        raise ValueError(f"leading + trailing must be at most {operator.size}, the operator's rows, got {wanted}.")
    generator = torch.Generator().manual_seed(seed)
    width = max(leading, trailing)
    starts = torch.randn(
        width, operator.size, generator=generator, dtype=torch.float64, device="cpu"
    )  # vectors of signs may be orthogonal to an eigenvector
    krylov = _Krylov(operator, starts, min(steps, operator.size), generator)
    while True:
        krylov.advance()
        full = krylov.count == krylov.steps
        if krylov.count < wanted or not (full or krylov.count % width == 0):  # once for each round of the starts
            continue
        values, combinations = krylov.ritz()
        chosen = torch.cat(
            [torch.arange(trailing, device="cpu"), torch.arange(len(values) - leading, len(values), device="cpu")]
        )
        worst = float(krylov.residuals(combinations[:, chosen]).max())
        if full or worst <= tolerance * float(values.abs().max()):
            break
    values, combinations = values[chosen], combinations[:, chosen]
    vectors = krylov.basis[: len(combinations)].T @ combinations.to(krylov.basis)
    misses = [operator.matvec(v) - value * v for v, value in zip(vectors.T, values.to(vectors), strict=True)]
    return Eigenpairs(
        values=values,
        vectors=vectors,
        residuals=torch.stack([miss.norm() for miss in misses]).double().cpu(),
        products=len(combinations) + wanted,
    )


def spectral_density(
    operator: SymmetricOperator,
    *,
    probes: int = 4,
    steps: int = 32,
    seed: int = 0,
    grid: Tensor | None = None,
    width: float | None = None,
) -> SpectralDensity:
    r"""Estimate the density of the eigenvalues of a symmetric operator, by stochastic Lanczos quadrature.

    For a random vector `z` of signs, :math:`E\, z^\top g(H) z = \operatorname{tr} g(H)`; `steps` of Lanczos's method
    give nodes θ and weights ω with :math:`z^\top g(H) z \approx n \sum_k \omega_k g(\theta_k)`, exact for polynomials
    of degree `2 steps - 1`. The standard error covers the choice of the probes, not the error of the quadrature. That
    error is below a thousandth of the peak for any spectrum if `width` is at least the range divided by `steps`; for a
    few outliers around a tight bulk, as in trained networks, a third of that width is enough.

    Args:
        operator: Symmetric operator with n rows.
        probes: Number of random vectors, at least 2.
        steps: Number of products per vector, at least 1; at most n are computed.
        seed: Seed of the probes.
        grid: Positions at which to return the density, `(points,)`; by default 401 points from 4 widths below the
            spectrum's range to 4 widths above.
        width: Standard deviation of the normal densities, above 0; by default a hundredth of the range.

    Raises:
        ValueError: If a number is out of its range, or `width` is missing where all eigenvalues are equal.

    Reference:
        Ghorbani, Krishnan and Xiao, An Investigation into Neural Net Optimization via Hessian Eigenvalue Density,
        ICML 2019.
    """
    check_integer("probes", probes, minimum=2)
    check_integer("steps", steps, minimum=1)
    if width is not None:
        check_number("width", width, above=0.0)
    generator = torch.Generator().manual_seed(seed)
    rules = []
    for _ in range(probes):
        start = random_signs(operator.size, generator)[None]
        krylov = _Krylov(operator, start, min(steps, operator.size), generator)
        for _ in range(krylov.steps):
            krylov.advance()
        nodes, combinations = krylov.ritz()
        rules.append((nodes, combinations[0] ** 2))
    low = min(float(nodes[0]) for nodes, _ in rules)
    high = max(float(nodes[-1]) for nodes, _ in rules)
    if width is None:
        width = (high - low) / 100
        if not width > 1e-12 * max(abs(low), abs(high)):  # rounding only
            raise ValueError(f"width must be given where all eigenvalues are equal, got None and {low:g} for all.")
    if grid is None:
        grid = torch.linspace(low - 4 * width, high + 4 * width, 401, dtype=torch.float64, device="cpu")
    grid = grid.detach().double().cpu()
    densities = torch.stack([_normal((grid[:, None] - nodes) / width) @ weights / width for nodes, weights in rules])
    return SpectralDensity(grid=grid, density=mean_of_draws(densities), width=width)


class _Krylov:
    """Lanczos's method from one or several starts: an orthonormal basis that grows by one vector per product.

    The products with the vectors of the basis become its next vectors, in the same order, so b starts give a matrix of
    bandwidth b. If a product adds no new direction, the basis gets a random one instead, so `size` steps give every
    eigenvalue, including repeated ones. Such a direction does not contribute to a start's quadrature: its weights are
    0.

    Args:
        operator: Symmetric operator.
        starts: First directions, `(b, size)`.
        steps: Maximum number of vectors, `1 <= steps <= operator.size`.
        generator: Source of the random directions.

    Attributes:
        basis: Vectors as rows, `(steps, size)`; the first `count` are filled.
        count: Number of vectors so far.
    """

    def __init__(self, operator: SymmetricOperator, starts: Tensor, steps: int, generator: torch.Generator) -> None:
        self.operator, self.steps, self.generator = operator, steps, generator
        self.basis = torch.empty(steps, operator.size, dtype=operator.dtype, device=operator.device)
        self.count = 0
        self._entries = torch.zeros(steps, steps, dtype=torch.float64, device="cpu")  # of the operator in the basis
        self._waiting = deque(starts.to(self.basis))  # products, in order, whose part outside the basis comes next

    def advance(self) -> None:
        """Add a vector and its product to the basis."""
        rest = self._outside(self._waiting.popleft())
        scale = float(self._entries.abs().max())
        rounding = 10 * math.sqrt(self.operator.size) * torch.finfo(self.basis.dtype).eps * scale
        if float(rest.norm()) <= rounding:
            fresh = torch.randn(self.operator.size, generator=self.generator, dtype=torch.float64, device="cpu")
            rest = self._outside(fresh.to(self.basis))
        self.basis[self.count] = rest / rest.norm()
        product = self.operator.matvec(self.basis[self.count])
        self.count += 1
        column = (self.basis[: self.count] @ product).double().cpu()
        self._entries[: self.count, self.count - 1] = self._entries[self.count - 1, : self.count] = column
        self._waiting.append(product)

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Return the eigenvalues, ascending, and eigenvectors, as columns in the basis; float64 on the CPU."""
        values, combinations = torch.linalg.eigh(self._entries[: self.count, : self.count])
        return values, combinations

    def residuals(self, combinations: Tensor) -> Tensor:
        """Return the norms `(k,)` outside the basis of the products of its combinations, columns `(count, k)`."""
        outside = torch.stack([self._outside(product) for product in self._waiting])
        last = combinations[-len(outside) :].to(outside)  # all earlier products lie within the basis
        return (outside.T @ last).norm(dim=0)

    def _outside(self, vector: Tensor) -> Tensor:
        """Return the part of a vector outside the basis, projected twice to remove rounding errors along the basis."""
        basis = self.basis[: self.count]
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        return vector


def _normal(x: Tensor) -> Tensor:
    """Return the standard normal density."""
    return torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
