"""Hidden-to-hidden matrices of prescribed skew-symmetry and damping."""

import torch
from torch import Tensor

from noisyrnn.checks import check_number


def check_skew_damped(skew_symmetry: float, damping: float) -> None:
    """Raise `ValueError` unless `skew_symmetry` lies in [0.5, 1] and `damping >= 0`."""
    check_number("skew_symmetry", skew_symmetry, minimum=0.5, maximum=1.0)
    check_number("damping", damping, minimum=0.0)


def skew_damped(matrix: Tensor, *, skew_symmetry: float = 0.75, damping: float = 0.001) -> Tensor:
    r"""The matrix :math:`S_{\beta,\gamma}(M) = (1-\beta)(M + M^T) + \beta(M - M^T) - \gamma I`.

    A skew-symmetry of 1 leaves the skew-symmetric part alone, whose eigenvalues are imaginary; 0.5 gives `M` itself,
    less the damping. Damping moves every eigenvalue to the left.

    Args:
        matrix: The free parameters `M`, `(d, d)`.
        skew_symmetry: β in [0.5, 1].
        damping: γ, at least 0.

    Returns:
        `(d, d)`.

    Raises:
        ValueError: If `skew_symmetry` or `damping` is out of range.

    Example:
        >>> skew_damped(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), skew_symmetry=1.0, damping=0.0)
        tensor([[ 0.,  2.],
                [-2.,  0.]])

    Reference:
        Erichson et al., Lipschitz Recurrent Neural Networks, ICLR 2021.
    """
    if not torch.compiler.is_compiling():  # a setting may then be a symbol, whose value is not known
        check_skew_damped(skew_symmetry, damping)
    # (1-β)(M + Mᵀ) + β(M - Mᵀ) = M + (1 - 2β) Mᵀ
    without_damping = torch.add(matrix, matrix.T, alpha=1 - 2 * skew_symmetry)
    identity = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    return torch.sub(without_damping, identity, alpha=damping)
