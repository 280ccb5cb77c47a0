"""The fast gradient sign method."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from noisyrnn.robustness.base import Model, Range, check_batch, check_repeatable, check_settings, finish
from noisyrnn.robustness.gradient import input_gradient


@final
@dataclass(frozen=True)
class FGSM:
    r"""Fast gradient sign method: one step up the cross-entropy, as large in every entry.

    .. math:: x' = x + \epsilon \, \mathrm{sign}(\nabla_x \ell(x, y)) .

    An entry with a zero gradient stays. The result depends on no draw.

    Args:
        strength: The radius ϵ, in units of the inputs, `>= 0`.
        clip: Range the result is cut to; `None` lets it leave the range of the data.

    Raises:
        ValueError: If `strength` is negative or `clip` is empty.

    Reference:
        Goodfellow, Shlens, Szegedy, Explaining and Harnessing Adversarial Examples, ICLR 2015.
    """

    strength: float
    clip: Range | None = None

    name: ClassVar[str] = "fgsm"
    symbol: ClassVar[str] = "ϵ"
    norm: ClassVar[str] = "linf"
    random: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self.strength, self.clip)

    def __call__(
        self,
        model: Model,
        inputs: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Perturbed copy of `inputs`, `(batch, steps, input_size)`; nothing is drawn from the generator."""
        check_batch(inputs, lengths)
        if self.strength == 0:
            return inputs.clone()
        check_repeatable(model, inputs, lengths)
        gradient, _ = input_gradient(model, inputs, labels, lengths)
        return finish(inputs, inputs + self.strength * gradient.sign(), lengths=lengths, clip=self.clip)
