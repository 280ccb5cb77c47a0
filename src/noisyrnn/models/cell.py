"""What a recurrent cell is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from noisyrnn.checks import LARGEST_SIZE, check_integer
from noisyrnn.kernels.call import Recurrence
from noisyrnn.models.modules import prepare_weights

Weights = TypeVar("Weights")


class Cell(nn.Module, ABC, Generic[Weights]):
    r"""A map :math:`h \leftarrow h + \Delta(h, x)`, given by its increment Δ.

    The first `hidden_size` entries of the state are the output; second-order and gated cells carry more behind them.

    Args:
        input_size: Channels of one step of the input, at least 1.
        hidden_size: Units, at least 1.
    """

    supports_dt = True
    """Whether a step has a length, so that `dt` has a meaning."""

    reads: ClassVar[Mapping[str, tuple[type[nn.Module], ...]]] = {}
    """Modules that a step reads and does not call, and the classes one of which must have their `forward`."""

    calls: ClassVar[tuple[str, ...]] = ()
    """Modules that every step calls."""

    changes_step: ClassVar[bool] = False
    """Whether the class changes a step without its `recurrence`, which then does not count."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Note whether the fused form is still that of the step."""
        super().__init_subclass__(**options)
        own = vars(cls)
        if "recurrence" in own or any(name in own for name in ("weights", "drive", "increment")):
            cls.changes_step = "recurrence" not in own

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        check_integer("input_size", input_size, minimum=1, maximum=LARGEST_SIZE)
        check_integer("hidden_size", hidden_size, minimum=1, maximum=LARGEST_SIZE)
        self.input_size = input_size
        self.hidden_size = hidden_size

    @property
    def state_size(self) -> int:
        """Entries of the state: `hidden_size`, or more for a cell that carries more than its output."""
        return self.hidden_size

    @abstractmethod
    def weights(self) -> Weights:
        """Weights in the form the steps use; made once for all steps of a pass."""

    @abstractmethod
    def drive(self, inputs: Tensor, weights: Weights) -> Tensor:
        """The inputs' part of a step, for any leading axes: `(..., input_size)` to `(..., k)`."""

    @abstractmethod
    def increment(self, drive: Tensor, state: Tensor, weights: Weights, dt: Tensor | None = None) -> Tensor:
        """Δ: `(batch, k)` and `(batch, state_size)` to `(batch, state_size)`.

        `dt` is the step's length in nominal steps and broadcasts against `(batch, hidden_size)`; `None` is 1.
        """

    def recurrence(self) -> Recurrence | None:
        """The same step for the fused kernels; `None` for a cell that they do not know."""
        return None

    def initial_state(self, batch: int) -> Tensor:
        """Zeros, `(batch, state_size)`, of the parameters' dtype and device."""
        example = next(self.parameters())
        return torch.zeros(batch, self.state_size, dtype=example.dtype, device=example.device)

    def step(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        """The state `(batch, state_size)` after one noise-free step with the inputs `(batch, input_size)`."""
        prepare_weights(self)
        weights = self.weights()
        return state + self.increment(self.drive(inputs, weights), state, weights, dt)


def bias_of(linear: nn.Linear) -> Tensor:
    """Its bias; zeros where it has none, since the kernels always add one."""
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
