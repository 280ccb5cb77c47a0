"""The coupled oscillatory RNN."""

import math
from collections.abc import Collection
from functools import partial
from typing import ClassVar, Unpack

from torch import nn

from noisyrnn.checks import check_number
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.models.cell import Reads, RecurrenceCell, bias_of
from noisyrnn.models.layer import RecurrentLayer
from noisyrnn.models.options import CellOptions, LayerOptions, cell_options


class CoRNNCell(RecurrenceCell):
    r"""Driven, damped, coupled oscillators with the state `(y, z)`: position, then velocity.

    .. math:: z \leftarrow z + \Delta t\,[\tanh(W y + \mathcal{W} z + U x + b) - \gamma y - \epsilon z], \quad
        y \leftarrow y + \Delta t\, z,

    the second with the new velocity. The output is the position `y`. As in the released cell, where they are one linear
    layer of `input_size + 2 * hidden_size` inputs, `W`, :math:`\mathcal{W}`, `U` and `b` all start uniform on
    ±1/√(`input_size + 2 * hidden_size`).

    Args:
        input_size: Channels of one step.
        hidden_size: Oscillators.
        step_size: Δt, above 0.
        stiffness: γ, at least 0.
        friction: ϵ, at least 0.
        options: Keyword arguments of `CellOptions`.
    """

    integrable = False  # its step is implicit in the velocity
    reads: ClassVar[Reads] = {"input": (nn.Linear,), "recurrent": (nn.Linear,)}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float,
        stiffness: float,
        friction: float,
        **options: Unpack[CellOptions],
    ) -> None:
        super().__init__(input_size, hidden_size, **options)
        check_number("step_size", step_size, above=0.0)
        check_number("stiffness", stiffness, minimum=0.0)
        check_number("friction", friction, minimum=0.0)
        self.step_size = step_size
        self.stiffness = stiffness
        self.friction = friction
        self.input = nn.Linear(input_size, hidden_size, **options)
        self.recurrent = nn.Linear(2 * hidden_size, hidden_size, bias=False, dtype=options.get("dtype"))
        reach = 1 / math.sqrt(input_size + 2 * hidden_size)
        for weight in self.parameters():
            nn.init.uniform_(weight, -reach, reach)

    @property
    def state_size(self) -> int:
        """Positions and velocities."""
        return 2 * self.hidden_size

    def recurrence(self) -> Recurrence:
        """The step in tensors."""
        step = self.input.weight.new_full((self.hidden_size,), self.step_size)
        coefficients = (float(self.stiffness), float(self.friction))
        return Recurrence(
            "oscillator", None, self.recurrent.weight, self.input.weight, bias_of(self.input), step, coefficients
        )


class CoRNN(RecurrentLayer):
    """The coupled oscillatory RNN; see `CoRNNCell` for its equations. Its state is `(y, z)`, its output `y`.

    Hidden noise acts on the positions y.

    Args:
        input_size: Channels of one step, at least 1.
        hidden_size: Oscillators, at least 1.
        step_size: Δt, above 0.
        stiffness: γ, at least 0.
        friction: ϵ, at least 0.
        options: Keyword arguments of `LayerOptions`.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Rusch and Mishra, Coupled Oscillatory Recurrent Neural Network, ICLR 2021.
    """

    built_with: ClassVar[Collection[str]] = (
        "step_size",
        "stiffness",
        "friction",
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        step_size: float = 0.042,
        stiffness: float = 2.7,
        friction: float = 4.7,
        **options: Unpack[LayerOptions],
    ) -> None:
        build = partial(CoRNNCell, step_size=step_size, stiffness=stiffness, friction=friction, **cell_options(options))
        super().__init__(build, input_size, hidden_size, **options)
        self.step_size = step_size
        self.stiffness = stiffness
        self.friction = friction
