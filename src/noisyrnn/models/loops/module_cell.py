"""A recurrent module of any kind as a cell."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_integer
from noisyrnn.models.cell import Cell


class ModuleCell(Cell):
    """A module that is called as `nn.RNNCell` is, `h = module(x, h)` or `(h, c) = module(x, (h, c))`.

    The state holds the parts side by side, the first of which is the output. It runs by the reference loop alone.

    Args:
        module: Called with `(batch, input_size)` and its state; it has the attributes `input_size` and `hidden_size`.
        parts: Tensors `(batch, hidden_size)` in its state; by default 2 for `nn.LSTMCell` and 1 for all others.

    Raises:
        TypeError: If the module does not say its sizes.
        ValueError: If `parts` is below 1.
    """

    supports_dt = False
    calls: ClassVar[tuple[str, ...]] = ("module",)

    def __init__(self, module: nn.Module, *, parts: int | None = None) -> None:
        sizes = [getattr(module, name, None) for name in ("input_size", "hidden_size")]
        if not all(isinstance(size, int) for size in sizes):
            raise TypeError(
                f"module must have integers input_size and hidden_size, got {type(module).__name__} with {sizes[0]!r} "
                f"and {sizes[1]!r}. Set both attributes."
            )
        super().__init__(*sizes)  # type: ignore[arg-type]
        if parts is None:
            parts = 2 if isinstance(module, nn.LSTMCell) else 1
        check_integer("parts", parts, minimum=1)
        self.module = module
        self.parts = parts

    @property
    def state_size(self) -> int:
        """Entries of all parts."""
        return self.parts * self.hidden_size

    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        """The new state minus the old one; `dt` has no meaning here."""
        return self.joined(self.module(inputs, self.split(state))) - state

    def split(self, state: Tensor) -> Tensor | tuple[Tensor, ...]:
        """A state `(batch, state_size)` as the module takes it."""
        return state if self.parts == 1 else state.chunk(self.parts, dim=1)

    def joined(self, state: Tensor | tuple[Tensor, ...]) -> Tensor:
        """What the module returns as one state `(batch, state_size)`."""
        return state if isinstance(state, Tensor) else torch.cat(tuple(state), dim=1)


def as_cell(module: nn.Module) -> Cell:
    """The module if it is a cell, else a cell of it.

    Raises:
        TypeError: If it runs over whole sequences, as `nn.GRU` does.
    """
    if isinstance(module, nn.RNNBase) or hasattr(module, "batch_first"):
        name = type(module).__name__
        cell = f"nn.{name}Cell" if isinstance(module, nn.RNNBase) else "a cell"
        raise TypeError(
            f"cell must take one step, as nn.GRUCell does, got {name}, which takes whole sequences. Use {cell}."
        )
    return module if isinstance(module, Cell) else ModuleCell(module)
