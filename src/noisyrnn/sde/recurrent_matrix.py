"""Hidden-to-hidden matrices of prescribed skewness and damping."""

import torch
from torch import Tensor

from noisyrnn.checks import check_number


def check_skew_damped(skewness: float, damping: float) -> None:
    """Raise `ValueError` unless `skewness` lies in [0.5, 1] and `damping >= 0`."""
    check_number("skewness", skewness, minimum=0.5, maximum=1.0)
    check_number("damping", damping, minimum=0.0)


def skew_damped(matrix: Tensor, *, skewness: float = 0.75, damping: float = 0.001) -> Tensor:
    r"""The matrix :math:`S_{\beta,\gamma}(M) = (1-\beta)(M + M^T) + \beta(M - M^T) - \gamma I`.

    Skewness 1 leaves the skew-symmetric part alone, whose eigenvalues are imaginary; skewness 0.5 gives `M` itself,
    less the damping. Damping moves every eigenvalue to the left.

    Args:
        matrix: The free parameters `M`, `(d, d)`.
        skewness: β in [0.5, 1].
        damping: γ, at least 0.

    Returns:
        `(d, d)`.

    Raises:
        ValueError: If `skewness` or `damping` is out of range.

    Example:
        >>> skew_damped(torch.tensor([[0.0, 2.0], [0.0, 0.0]]), skewness=1.0, damping=0.0)
        tensor([[ 0.,  2.],
                [-2.,  0.]])

    Reference:
        Erichson et al., Lipschitz Recurrent Neural Networks, ICLR 2021.
    """
    if not torch.compiler.is_compiling():  # a setting may then be a symbol, whose value is not known
        check_skew_damped(skewness, damping)
    # (1-β)(M + Mᵀ) + β(M - Mᵀ) = M + (1 - 2β) Mᵀ
    without_damping = torch.add(matrix, matrix.T, alpha=1 - 2 * skewness)
    identity = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    return torch.sub(without_damping, identity, alpha=damping)
