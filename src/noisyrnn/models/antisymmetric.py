"""The antisymmetric RNN."""

from collections.abc import Collection
from functools import partial
from typing import ClassVar, Unpack

import torch
from torch import nn

from noisyrnn.checks import check_number
from noisyrnn.kernels.cpp.recurrent_matrix import skew_damped_together
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.models.cell import LINEAR_INPUT, RecurrenceCell, bias_of
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.models.options import CellOptions, LayerOptions, cell_options
from noisyrnn.sde.activation import Activation, activation_of, as_option
from noisyrnn.sde.recurrent_matrix import check_skew_damped


class AntisymmetricCell(RecurrenceCell):
    r"""The increment :math:`\delta\, a(W h + U x + b)` with :math:`W = C - C^T - \gamma I`.

    Args:
        input_size: Channels of one step.
        hidden_size: Units.
        step_size: δ, above 0.
        damping: γ, at least 0.
        init_std: `C` starts at `N(0, (init_std / hidden_size)²)`, above 0.
        activation: a; see `DriftOptions`.
        options: Keyword arguments of `CellOptions`.
    """

    reads = LINEAR_INPUT

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float,
        damping: float,
        init_std: float,
        activation: str | Activation = "tanh",
        **options: Unpack[CellOptions],
    ) -> None:
        super().__init__(input_size, hidden_size, **options)
        check_number("step_size", step_size, above=0.0)
        check_skew_damped(1.0, damping)
        check_number("init_std", init_std, above=0.0)
        self.activation = activation_of(activation)
        self.activation_name = self.activation.name
        self.step_size = step_size
        self.damping = damping
        dtype = options.get("dtype")
        self.C = nn.Parameter(torch.randn(hidden_size, hidden_size, dtype=dtype) * (init_std / hidden_size))
        self.input = nn.Linear(input_size, hidden_size, **options)

    def recurrence(self) -> Recurrence:
        """The step in tensors."""
        (W,) = skew_damped_together(self.C, skew_symmetry=(1.0,), damping=(self.damping,))
        step = self.input.weight.new_full((self.hidden_size,), self.step_size)
        weights = (None, W, self.input.weight, bias_of(self.input), step)
        return Recurrence("drift", *weights, activation=self.activation)


class AntisymmetricRNN(RecurrentLayer):
    r"""The antisymmetric RNN :math:`h \leftarrow h + \delta\, a((C - C^T - \gamma I) h + U x + b)`.

    Args:
        input_size: Channels of one step, at least 1.
        hidden_size: Units, at least 1.
        step_size: δ, above 0.
        damping: γ, at least 0.
        init_std: `C` starts at `N(0, (init_std / hidden_size)²)`, above 0.
        options: Keyword arguments of `DriftOptions` and `LayerOptions`.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Chang et al., AntisymmetricRNN: a dynamical system view on recurrent neural networks, ICLR 2019.
    """

    built_with: ClassVar[Collection[str]] = (
        "step_size",
        "damping",
        "init_std",
        "activation",
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float = 0.01,
        damping: float = 0.0001,
        init_std: float = 0.1,
        activation: str | Activation = "tanh",
        **options: Unpack[LayerOptions],
    ) -> None:
        build = partial(
            AntisymmetricCell,
            step_size=step_size,
            damping=damping,
            init_std=init_std,
            activation=activation,
            **cell_options(options),
        )
        super().__init__(build, input_size, hidden_size, **options)
        self.step_size = step_size
        self.damping = damping
        self.init_std = init_std
        self.activation = as_option(activation)
