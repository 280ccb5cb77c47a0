"""Weights of the published code's noisy, Lipschitz and antisymmetric RNN, under the names they have there."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from noisyrnn.checks import check_choice, check_number
from noisyrnn.models.antisymmetric import AntisymmetricRNN
from noisyrnn.models.heads import SequenceClassifier
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.models.noisy import NoisyRNN

_NAMES = ("B", "C", "E.weight", "E.bias", "D.weight", "D.bias", "d")


def from_released_weights(
    weights: Mapping[str, Tensor],
    *,
    skew_symmetry: float = 0.75,
    damping: float = 0.001,
    skew_symmetry_w: float | None = None,
    damping_w: float | None = None,
    alpha: int = 1,
    step_size: float | None = None,
    additive: float = 0.0,
    multiplicative: float = 0.0,
    noise_law: str = "gaussian",
) -> SequenceClassifier:
    r"""Build a classifier from the weights of the published code.

    There, states are rows: :math:`h \leftarrow h + d \odot (h A + \tanh(h W + E(x)))` with :math:`A = S(B)` and
    :math:`W = S(C)`, and the logits are `D(h)`. Here, :math:`A` and :math:`W` multiply from the left, so that the free
    matrices are transposed, since :math:`S(M^T) = S(M)^T`:

    - `B` and `C` become `layer.cell.B` and `layer.cell.C`, transposed;
    - `E.weight` and `E.bias` become `layer.cell.input.weight` and `layer.cell.input.bias`;
    - `D.weight` and `D.bias` become `readout.weight` and `readout.bias`;
    - `d` becomes `layer.cell.step_size`, or for `alpha` 0 the fixed `layer.step_size`.

    Args:
        weights: A `state_dict` with those names. `B` is not needed with `alpha` 0; without a bias, that bias is zero.
        skew_symmetry: β of `A` and `W`.
        damping: γ of `A` and `W`.
        skew_symmetry_w: β of `W` where it differs from that of `A`.
        damping_w: γ of `W` where it differs from that of `A`.
        alpha: 1, or 0 where the published class has `A` switched off: an antisymmetric RNN, so that β of `W` must be 1
            and all units must have the same step.
        step_size: Step of every unit where `weights` has no `d`, above 0.
        additive: Level of the additive noise of one step, in training mode.
        multiplicative: Level of the multiplicative noise of one step, in training mode.
        noise_law: "gaussian", or "uniform" as in the released script.

    Returns:
        A classifier in evaluation mode, in the dtype of `C`: around a `NoisyRNN`, or for `alpha` 0 an
        `AntisymmetricRNN`.

    Raises:
        ValueError: If a tensor is missing, unknown or of another shape, or an option is out of range.

    Reference:
        Erichson et al., Lipschitz Recurrent Neural Networks, ICLR 2021; Lim et al., Noisy Recurrent Neural Networks,
        NeurIPS 2021.
    """
    for name in weights:
        check_choice("name of a weight", name, _NAMES)
    check_choice("alpha", str(alpha), ("0", "1"))
    needed = {"C", "E.weight", "D.weight"} | ({"B"} if alpha else set()) | ({"d"} if step_size is None else set())
    missing = sorted(needed - set(weights))
    if missing:
        raise ValueError(f"weights must hold {', '.join(sorted(needed))}, got none called {', '.join(missing)}.")
    hidden, inputs, classes = len(weights["C"]), weights["E.weight"].shape[-1], len(weights["D.weight"])
    dtype = weights["C"].dtype
    if step_size is not None:
        check_number("step_size", step_size, above=0.0)
    fixed = torch.full((1,), step_size or 0.0, dtype=dtype, device="cpu")
    step = weights["d"].detach().flatten() if "d" in weights else fixed
    bias = "E.bias" in weights
    noise: dict[str, Any] = {"additive": additive, "multiplicative": multiplicative, "noise_law": noise_law}
    layer: RecurrentLayer
    if alpha:
        options: dict[str, Any] = {
            "skew_symmetry": skew_symmetry,
            "damping": damping,
            "skew_symmetry_w": skew_symmetry_w,
            "damping_w": damping_w,
        }
        initial = 0.01 if step_size is None else step_size
        layer = NoisyRNN(inputs, hidden, step_size=initial, bias=bias, dtype=dtype, **options, **noise)
    else:
        beta = skew_symmetry if skew_symmetry_w is None else skew_symmetry_w
        if beta != 1:
            raise ValueError(f"skew_symmetry of W must be 1 with alpha 0, got {beta:g}. Pass skew_symmetry=1.0.")
        if not bool((step == step[0]).all()):
            raise ValueError(
                f"d must be the same for all units with alpha 0, got {float(step.min()):g} to {float(step.max()):g}."
            )
        gamma = damping if damping_w is None else damping_w
        layer = AntisymmetricRNN(
            inputs, hidden, step_size=float(step[0]), damping=gamma, bias=bias, dtype=dtype, **noise
        )
    model = SequenceClassifier(layer, classes)
    cell: Any = layer.cell
    targets = {"C": cell.C, "E.weight": cell.input.weight, "E.bias": cell.input.bias}
    targets |= {"D.weight": model.readout.weight, "D.bias": model.readout.bias}
    with torch.no_grad():
        model.readout.bias.zero_()
        if alpha:
            targets |= {"B": cell.B}
            cell.step_size.copy_(step.expand(hidden) if len(step) == 1 else _shaped("d", step, cell.step_size))
        for name, target in targets.items():
            if name in weights:
                value = _shaped(name, weights[name].detach(), target)
                target.copy_(value.T if name in ("B", "C") else value)
    return model.eval()


def _shaped(name: str, value: Tensor, target: Tensor) -> Tensor:
    """The value itself, if it has the shape of the target."""
    if value.shape != target.shape:
        raise ValueError(f"{name} must have shape {tuple(target.shape)}, got {tuple(value.shape)}.")
    return value
