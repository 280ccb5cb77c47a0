"""The trace of a symmetric operator from its products with random vectors."""

from dataclasses import replace

import torch
from torch import Tensor

from noisyrnn.analysis.loss.hessian import SymmetricOperator, random_signs
from noisyrnn.analysis.measurement import Measurement, mean_of_draws
from noisyrnn.checks import check_choice, check_integer

METHODS = ("hutch++", "hutchinson")


def hessian_trace(
    operator: SymmetricOperator, *, method: str = "hutch++", probes: int = 32, seed: int = 0
) -> Measurement:
    r"""Estimate the trace of a symmetric operator, such as `LossHessian`, without bias and with a standard error.

    - "hutchinson": the mean of :math:`z^\top H z` over random vectors `z` of signs.
    - "hutch++": with an orthonormal basis `Q` of the range of `H S`, for a third of the probes as `S`,
      :math:`\operatorname{tr} H = \operatorname{tr} Q^\top H Q + \operatorname{tr} P H P`, where
      :math:`P = I - Q Q^\top`. The first part uses another third of the products and is exact; the second, without the
      large eigenvalues, is estimated by Hutchinson's estimator with the rest. `Q` depends on `S` only, so given `Q` the
      rest is unbiased, and its standard error is that of the sum.

    `Measurement.interval` uses Student's t with the degrees of freedom of the vectors behind the standard error: all
    probes, or a third of them for "hutch++". It takes the forms to be nearly normal, as they are where many eigenvalues
    contribute. Where a few dominate, a 95 % interval covers less: of eigenvalues 1/k², k up to 60, 87 % for 4 probes of
    "hutchinson" and 92 % for 30, and 93 % for 32 of "hutch++".

    Args:
        operator: Symmetric operator with n rows.
        method: "hutch++" or "hutchinson".
        probes: Products with the operator: at least 4, or 2 for "hutchinson".
        seed: Seed of the random vectors.

    Raises:
        ValueError: If the method is unknown or the probes are too few for a standard error.

    Example:
        >>> from noisyrnn.analysis.loss.hessian import LossHessian
        >>> from noisyrnn.data.split import Split
        >>> split = Split(inputs=torch.ones(2, 1, 1), labels=torch.tensor([0, 1]), classes=2)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2))
        >>> for parameter in model.parameters():
        ...     _ = torch.nn.init.zeros_(parameter)
        >>> hessian_trace(LossHessian(model, split), probes=12).value      # exact: 1
        tensor(1.0000, dtype=torch.float64)

    Reference:
        Meyer, Musco, Musco and Woodruff, Hutch++: Optimal Stochastic Trace Estimation, SOSA 2021.
    """
    check_choice("method", method, METHODS)
    check_integer("probes", probes, minimum=4 if method == "hutch++" else 2)
    generator = torch.Generator().manual_seed(seed)

    def signs() -> Tensor:
        return random_signs(operator.size, generator).to(dtype=operator.dtype, device=operator.device)

    if method == "hutchinson":
        return mean_of_draws(torch.stack([_form(operator, signs()) for _ in range(probes)]))
    sketch = probes // 3
    Q = torch.linalg.qr(torch.stack([operator.matvec(signs()) for _ in range(sketch)], dim=1)).Q
    exact = sum(float(_form(operator, q)) for q in Q.T)
    draws = []
    for _ in range(probes - 2 * sketch):
        z = signs()
        draws.append(_form(operator, z - Q @ (Q.T @ z)))
    rest = mean_of_draws(torch.stack(draws))
    return replace(rest, value=exact + rest.value)


def _form(operator: SymmetricOperator, z: Tensor) -> Tensor:
    """Return `zᵀ H z`."""
    return z @ operator.matvec(z)
