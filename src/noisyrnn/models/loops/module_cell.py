"""Adapts any recurrent module to the interface of a cell."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_integer
from noisyrnn.models.cell import Cell


class ModuleCell(Cell):
    """Cell of a module that is called like `nn.RNNCell`: `h = module(x, h)` or `(h, c) = module(x, (h, c))`.

    The state is the concatenation of its parts, the first of which is the output. Only the reference loop can run it.

    Args:
        module: Called with inputs `(batch, input_size)` and its state. Must have integer attributes `input_size` and
            `hidden_size`.
        parts: Number of tensors `(batch, hidden_size)` in its state, at least 1; by default 2 for `nn.LSTMCell` and 1
            for all other modules.

    Raises:
        TypeError: If the module lacks one of these attributes.
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
        """Entries of the state: `parts * hidden_size`."""
        return self.parts * self.hidden_size

    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        """Return the new state minus the old one, `(batch, state_size)`; `dt` is ignored."""
        return self.joined(self.module(inputs, self.split(state)), state.shape[0]) - state

    def split(self, state: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return a state `(batch, state_size)` in the module's form."""
        return state if self.parts == 1 else state.chunk(self.parts, dim=1)

    def joined(self, state: object, batch: int) -> Tensor:
        """Join a state in the module's form to `(batch, state_size)`.

        Raises:
            TypeError: If the module returned something else than its state.
            ValueError: If it returned a state of another shape.
        """
        name, shape = type(self.module).__name__, (batch, self.hidden_size)
        parts = [state] if isinstance(state, Tensor) else state
        if not isinstance(parts, tuple | list) or not all(isinstance(part, Tensor) for part in parts):
            raise TypeError(f"{name} must return its new state, got {type(state).__name__}.")
        shapes = [part.shape for part in parts]
        if shapes != [shape] * self.parts:
            wanted, got = (", ".join(str(tuple(one)) for one in each) for each in ([shape] * self.parts, shapes))
            raise ValueError(
                f"{name} must return its new state in the shape {wanted}, got {got}. For a state of several tensors "
                "give their number: ModuleCell(module, parts=2)."
            )
        return state if isinstance(state, Tensor) else torch.cat(list(parts), dim=1)


def as_cell(module: nn.Module) -> Cell:
    """Return the module itself if it is a `Cell`, or else a `ModuleCell` of it.

    Raises:
        TypeError: If the module takes whole sequences, as `nn.GRU` does.
    """
    if isinstance(module, nn.RNNBase) or hasattr(module, "batch_first"):
        name = type(module).__name__
        cell = f"nn.{name}Cell" if isinstance(module, nn.RNNBase) else "a cell"
        raise TypeError(
            f"cell must take one step, as nn.GRUCell does, got {name}, which takes whole sequences. Use {cell}."
        )
    return module if isinstance(module, Cell) else ModuleCell(module)
