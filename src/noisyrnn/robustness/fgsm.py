"""The fast gradient sign method."""

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from noisyrnn.robustness.base import Perturbation
from noisyrnn.robustness.gradient import input_gradient
from noisyrnn.robustness.logits import Model


@final
@dataclass(frozen=True)
class FGSM(Perturbation):
    r"""Fast gradient sign method: one step up the cross-entropy, or the squared error of a regression.

    The step has the same size in every value:

    .. math:: x' = x + \epsilon \, \mathrm{sign}(\nabla_x \ell(x, y)) .

    A value with a zero gradient stays. The result depends on no draw.

    Args:
        strength: Radius ϵ, `>= 0`.
        clip: Range that the result is cut to; `None` lets it leave the range of the data.
        scale: Scale of the channels, in whose units the radius is; `None`: the units of the data.

    Reference:
        Goodfellow, Shlens, Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015.
    """

    name = "fgsm"
    symbol = "ϵ"
    norm = "linf"
    random = False

    def perturb(self, inputs: Tensor, *, model: Model, labels: Tensor, lengths: Tensor | None, **unused: Any) -> Tensor:
        """Take one step along the sign of the gradient."""
        gradient, _ = input_gradient(model, inputs, labels, lengths)
        return inputs + self.strength * gradient.sign()
