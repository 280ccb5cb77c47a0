"""Base classes of recurrent cells."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from noisyrnn.checks import LARGEST_SIZE, check_flag, check_integer
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.kernels.reference import checked_increment
from noisyrnn.models.modules import first_weight, prepare_weights
from noisyrnn.models.options import CellOptions
from noisyrnn.sde.diffusion import Field, FunctionDiffusion, MatrixDiffusion, as_diffusion
from noisyrnn.sde.schemes import SCHEMES, NoiseFree

Reads = Mapping[str, tuple[type[nn.Module], ...]]
"""Names of modules that a step reads and does not call, and the classes one of which must have their `forward`."""

LINEAR_INPUT: Reads = {"input": (nn.Linear,)}
"""For a cell that reads one linear layer, of its inputs."""


class Cell(nn.Module, ABC):
    r"""A map :math:`h \leftarrow h + \Delta(h, x)`, given by its increment Δ: the one method that a new cell writes.

    The first `hidden_size` entries of the state are the output; second-order and gated cells have more behind them. A
    cell with other outputs, such as the rates of a current, overrides `output`.

    Args:
        input_size: Channels of one step of the input, at least 1.
        hidden_size: Units, at least 1.
        options: Keyword arguments of `CellOptions`, which are checked; a subclass makes its weights by them.
    """

    supports_dt = True
    """Whether a step has a length, so that `dt` has a meaning."""

    integrable = True
    """Whether the increment is a drift times the step's length, so that any scheme can integrate it."""

    scheme: str = "euler-maruyama"
    """Key of `noisyrnn.sde.SCHEMES`, by which the loop integrates a step; set by the layer."""

    diffusion: Field | MatrixDiffusion | FunctionDiffusion
    """A diffusion of the cell's own, where it has one: a method `(h, x, t)` as for `noisyrnn.sde.FunctionDiffusion`, or
    an attribute, such as `FunctionDiffusion(function, diagonal=True)`."""

    reads: ClassVar[Reads] = {}
    """The modules that a step reads."""

    calls: ClassVar[tuple[str, ...]] = ()
    """Modules that every step calls."""

    changes_step: ClassVar[bool] = False
    """Whether the class changes the increment without its `recurrence`, which is then not used."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Record whether the recurrence is still that of the increment."""
        super().__init_subclass__(**options)
        if "recurrence" in vars(cls) or "increment" in vars(cls):
            cls.changes_step = "recurrence" not in vars(cls)

    def __init__(self, input_size: int, hidden_size: int, **options: Unpack[CellOptions]) -> None:
        super().__init__()
        check_flag("bias", options.get("bias", True))
        check_integer("input_size", input_size, minimum=1, maximum=LARGEST_SIZE)
        check_integer("hidden_size", hidden_size, minimum=1, maximum=LARGEST_SIZE)
        self.input_size = input_size
        self.hidden_size = hidden_size

    @property
    def state_size(self) -> int:
        """Entries of the state: `hidden_size`, or more for a cell whose state is more than its output."""
        return self.hidden_size

    @abstractmethod
    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        """Δ of one step: `(batch, input_size)` and `(batch, state_size)` to `(batch, state_size)`.

        `dt` is the step's length in nominal steps and broadcasts against `(batch, hidden_size)`; `None` is 1.
        """

    def recurrence(self) -> Recurrence | None:
        """The same step for the fast kernels; `None` for a cell that they do not know."""
        return None

    def initial_state(self, batch: int) -> Tensor:
        """Zeros, `(batch, state_size)`, of the dtype and device of the weights.

        Raises:
            TypeError: If the cell has neither parameters nor buffers, whose dtype and device the state could have.
        """
        example = first_weight(self)
        if example is None:
            raise TypeError(
                f"{type(self).__name__} must have a parameter or a floating-point buffer for the type of its initial "
                "state, got neither. Register one, pass h_0, or override initial_state."
            )
        return torch.zeros(batch, self.state_size, dtype=example.dtype, device=example.device)

    def output(self, state: Tensor) -> Tensor:
        """The outputs of states, `(..., state_size)` to `(..., hidden_size)`: their first entries."""
        return state if state.shape[-1] == self.hidden_size else state[..., : self.hidden_size]

    def step(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        """The state `(batch, state_size)` after one noise-free step with the inputs `(batch, input_size)`."""
        prepare_weights(self)
        equation = NoiseFree(lambda h: checked_increment(self.increment(inputs, h, dt), h))
        return SCHEMES[self.scheme].step(equation, 0, state)


class RecurrenceCell(Cell):
    """A cell given by its `recurrence`, which the fast kernels run and from which the increment follows."""

    @abstractmethod
    def recurrence(self) -> Recurrence:
        """The step in tensors."""

    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        """The increment of the recurrence."""
        recurrence = self.recurrence()
        return recurrence.increment(recurrence.drive(inputs), state, recurrence.transposed(), dt)


def own_diffusion(cell: Cell) -> MatrixDiffusion | FunctionDiffusion | None:
    """The diffusion that a cell has itself, or `None`."""
    return as_diffusion(getattr(cell, "diffusion", None))


def bias_of(linear: nn.Linear) -> Tensor:
    """The bias of a linear layer; zeros where it has none, since the kernels always add one."""
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
