"""Diffusions σ(h, x, t) that a user gives: constant matrices and functions."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from noisyrnn.checks import check_flag, check_values

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""σ: from `h` `(batch, d)`, `x` `(batch, input_size)` and `t` to `(batch, d)` or `(batch, d, r)`."""


class Diffusion(Protocol):
    r"""The matrix :math:`\sigma(h, x, t)` of d rows and r columns, one for each Brownian motion.

    Attributes:
        constant: Whether it depends on none of h, x and t.
        diagonal: Whether it is diagonal, and entry i depends on unit i of h only: what Milstein's scheme needs.
    """

    constant: bool
    diagonal: bool

    def columns(self, h: Tensor, x: Tensor, t: Tensor) -> int:
        """Number r of Brownian motions, given an example of the arguments."""
        ...

    def product(self, h: Tensor, x: Tensor, t: Tensor, xi: Tensor) -> Tensor:
        """σ ξ, `(batch, d)`, for ξ `(batch, r)`."""
        ...

    def factor(self, h: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """σ, `(batch, d, r)`, or its diagonal, `(batch, d)`."""
        ...

    def correction(self, h: Tensor, x: Tensor, t: Tensor) -> Tensor | None:
        """The vector `Σ_j Σ_i σ_ij ∂_i σ_kj`, `(batch, d)`; `None` where it is zero."""
        ...


class MatrixDiffusion(nn.Module):
    """A constant diffusion: correlated noise, of low rank where r is less than d.

    Args:
        matrix: `(d, r)`, finite: a tensor, an array, or a list of d lists.
        learn: Whether it is trained.
        dtype: Type of the matrix; by default that of a tensor, and torch's default type for all else.

    Attributes:
        matrix: The matrix, a buffer or a parameter.

    Raises:
        ValueError: If the shape is another or a value is not finite.
        TypeError: If the matrix holds other things than numbers.

    Example:
        >>> MatrixDiffusion([[0.1, 0.0], [0.1, 0.2], [0.0, 0.3]])
        MatrixDiffusion(3 units, 2 columns)
    """

    constant = True
    diagonal = False
    matrix: Tensor

    def __init__(
        self, matrix: Tensor | Sequence[Sequence[float]], *, learn: bool = False, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        check_flag("learn_diffusion", learn)
        values = _as_matrix(matrix, dtype)
        if learn:
            self.matrix = nn.Parameter(values)
        else:
            self.register_buffer("matrix", values)

    @classmethod
    def around(cls, matrix: Tensor) -> Self:
        """Return a diffusion of this very tensor, `(d, r)`, so that its gradient is the tensor's."""
        diffusion = cls.__new__(cls)
        nn.Module.__init__(diffusion)
        diffusion.register_buffer("matrix", matrix)
        return diffusion

    @property
    def learn(self) -> bool:
        """Whether the matrix is trained."""
        return isinstance(self.matrix, nn.Parameter)

    def extra_repr(self) -> str:
        """Return the shape."""
        units, columns = self.matrix.shape
        return f"{units} units, {columns} columns"

    def columns(self, h: Tensor, x: Tensor, t: Tensor) -> int:
        """As in `Diffusion`."""
        return self.matrix.shape[1]

    def product(self, h: Tensor, x: Tensor, t: Tensor, xi: Tensor) -> Tensor:
        """As in `Diffusion`."""
        return xi @ self.matrix.to(xi).T

    def factor(self, h: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """As in `Diffusion`."""
        return self.matrix.to(h).expand(len(h), -1, -1)

    def correction(self, h: Tensor, x: Tensor, t: Tensor) -> None:
        """As in `Diffusion`."""
        return None


class FunctionDiffusion(nn.Module):
    """A diffusion given by a function of state, input and time.

    Args:
        function: Called with `h` `(batch, d)`, `x` `(batch, input_size)` and the time `t`, which broadcasts against
            `(batch, 1)`, in nominal steps since the start. Returns the diagonal of σ, `(batch, d)`, or the matrix,
            `(batch, d, r)`. The parameters of an `nn.Module` are trained with those of the layer.
        diagonal: Whether it returns a diagonal whose entry i depends on unit i of `h` only. Milstein's scheme needs
            that, and nothing checks it.

    Raises:
        TypeError: If `function` is not callable.

    Example:
        >>> diffusion = FunctionDiffusion(lambda h, x, t: 0.1 * h.cos(), diagonal=True)
        >>> diffusion.product(torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 2))
        tensor([[0.1000, 0.1000]])
    """

    constant = False

    def __init__(self, function: Field, *, diagonal: bool = False) -> None:
        super().__init__()
        if not callable(function):
            raise TypeError(f"diffusion must be a matrix or a callable of h, x and t, got {function!r}.")
        check_flag("diagonal", diagonal)
        self.function = function
        self.diagonal = diagonal

    def extra_repr(self) -> str:
        """Return what the user declared."""
        return f"{getattr(self.function, '__qualname__', type(self.function).__name__)}, diagonal={self.diagonal}"

    def columns(self, h: Tensor, x: Tensor, t: Tensor) -> int:
        """As in `Diffusion`.

        Raises:
            TypeError: If the function returns something else than a tensor.
            ValueError: If it returns another shape.
        """
        sigma = self.function(h, x, t)
        if not isinstance(sigma, Tensor):
            raise TypeError(f"diffusion must return a tensor, got {type(sigma).__name__}.")
        shape, (batch, units) = sigma.shape, h.shape
        if shape[:2] != h.shape or len(shape) > 3 or 0 in shape or (self.diagonal and len(shape) != 2):
            wanted = f"({batch}, {units})" if self.diagonal else f"({batch}, {units}) or ({batch}, {units}, columns)"
            raise ValueError(f"diffusion must return the shape {wanted}, got {tuple(shape)}.")
        return shape[-1]

    def product(self, h: Tensor, x: Tensor, t: Tensor, xi: Tensor) -> Tensor:
        """As in `Diffusion`."""
        sigma = self.factor(h, x, t)
        return sigma * xi if sigma.ndim == 2 else (sigma @ xi[..., None])[..., 0]

    def factor(self, h: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """As in `Diffusion`, of the type of `h`."""
        return self.function(h, x, t).to(h.dtype)

    def correction(self, h: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """As in `Diffusion`."""

        def along(vector: Tensor) -> Tensor:
            return jvp(lambda h: self.factor(h, x, t), (h,), (vector,))[1]

        sigma = self.factor(h, x, t)
        if self.diagonal:
            return along(sigma)
        if sigma.ndim == 2:
            return sigma * own_slopes(lambda h: self.factor(h, x, t), h)
        column = torch.eye(sigma.shape[2], dtype=sigma.dtype, device=sigma.device)
        return vmap(lambda pick: (along((sigma * pick).sum(2)) * pick).sum(2))(column).sum(0)


def own_slopes(function: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
    """Return `∂_i f_i` of a function of `(batch, d)`, `(batch, d)`, by d derivatives along the units."""
    units = torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
    return vmap(lambda unit: jvp(function, (h,), (unit.expand_as(h),))[1] * unit)(units).sum(0)


def as_diffusion(
    diffusion: Any, *, learn: bool = False, dtype: torch.dtype | None = None
) -> MatrixDiffusion | FunctionDiffusion | None:
    """Return a layer's `diffusion` argument as a module; `None` for `None`.

    Raises:
        TypeError: If it is neither a matrix nor callable.
        ValueError: If a matrix has another shape, or what is to be learned is not a matrix.
    """
    if is_values(diffusion):
        return MatrixDiffusion(diffusion, learn=learn, dtype=dtype)
    if isinstance(diffusion, MatrixDiffusion):
        if learn and not diffusion.learn:
            raise ValueError(
                "learn_diffusion must be False with a MatrixDiffusion that is not trained, got True. Use "
                "MatrixDiffusion(matrix, learn=True)."
            )
        return diffusion
    if learn:
        raise ValueError(f"learn_diffusion must be False unless diffusion is a matrix, got {learn} with {diffusion!r}.")
    return diffusion if diffusion is None or isinstance(diffusion, FunctionDiffusion) else FunctionDiffusion(diffusion)


def is_values(diffusion: Any) -> bool:
    """Whether a layer's `diffusion` argument is a matrix of values: a tensor, an array or a list."""
    return isinstance(diffusion, torch.Tensor | list | tuple) or hasattr(diffusion, "__array__")


def _as_matrix(matrix: Any, dtype: torch.dtype | None) -> Tensor:
    """Return a copy of a floating matrix `(d, r)`, after a check."""
    if not isinstance(matrix, Tensor):
        try:
            dtype = torch.get_default_dtype() if dtype is None else dtype
            matrix = torch.tensor(matrix, dtype=torch.float64, device="cpu").to(dtype)
        except (TypeError, ValueError) as error:
            raise TypeError(f"diffusion must be a matrix of numbers, got {matrix!r} ({error}).") from error
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"diffusion must have shape (hidden_size, columns), got {tuple(matrix.shape)}.")
    if not matrix.is_floating_point():
        raise TypeError(f"diffusion must be floating point, got {matrix.dtype}. Convert: diffusion.float().")
    matrix = matrix.detach().to(dtype=dtype, copy=True)
    if not matrix.is_meta:
        check_values("diffusion", matrix)
    return matrix
