"""The loop over time in plain PyTorch: any cell, dtype and device. It defines what every other kernel computes."""

from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from noisyrnn.kernels.call import Recurrence
from noisyrnn.padding import valid_steps
from noisyrnn.sde.brownian import BrownianPath
from noisyrnn.sde.diffusion import HiddenNoise, NoiseDraws

Weights = TypeVar("Weights")


class Dynamics(Protocol[Weights]):
    """What the loop needs of a cell; `noisyrnn.models.Cell` provides it."""

    hidden_size: int

    def recurrence(self) -> Recurrence | None:
        """The same step for the fused kernels; `None` for one that they do not know."""
        ...

    def weights(self) -> Weights:
        """Weights in the form the steps use, made once for the whole pass."""
        ...

    def drive(self, inputs: Tensor, weights: Weights) -> Tensor:
        """The inputs' part of every step: `(batch, steps, input_size)` to `(batch, steps, k)`."""
        ...

    def increment(self, drive: Tensor, state: Tensor, weights: Weights, dt: Tensor | None) -> Tensor:
        """The noise-free update of one step: `(batch, k)` and `(batch, state_size)` to `(batch, state_size)`."""
        ...


def fused_form(cell: Any) -> Recurrence | None:
    """The recurrence of a cell; `None` if it has none, or changes its step without it."""
    patched = any(name in vars(cell) for name in ("weights", "drive", "increment"))
    return None if patched or getattr(cell, "changes_step", False) else cell.recurrence()


class StepMaps(Generic[Weights]):
    r"""The maps :math:`h \leftarrow h + \mu \odot \Delta(h, x_m) + \eta_m` of one pass, one a step.

    The noise acts on the first `hidden_size` entries of the state. From a sequence's end on its map is the identity.

    Args:
        cell: Gives the increment Δ.
        inputs: `(batch, steps, input_size)`.
        noise: Laws and levels; `None` for none.
        path: Where the random numbers come from; needed with `noise`.
        lengths: Valid steps of each sequence, int64 `(batch,)`.
        dt: Length of each step in nominal steps, `(steps,)` or `(batch, steps)`.

    Attributes:
        valid: For each step, which sequences have it, bool `(batch, 1)`; `None` where all have every step.
        drives: For each step, the inputs' part of it, `(batch, k)`.
        dts: For each step, its length in a shape that broadcasts against `(batch, hidden_size)`, or `None`.
    """

    def __init__(
        self,
        cell: Dynamics[Weights],
        inputs: Tensor,
        *,
        noise: HiddenNoise | None = None,
        path: BrownianPath | None = None,
        lengths: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> None:
        batch, steps, _ = inputs.shape
        self.cell = cell
        self.noise = noise
        self.weights = cell.weights()
        self.valid: tuple[Tensor, ...] | None = None
        if lengths is not None:
            valid = valid_steps(lengths, steps)[..., None]
            inputs = inputs.masked_fill(~valid, 0.0)  # else NaN padding reaches the gradients as 0 * NaN
            self.valid = valid.unbind(1)
        self.drives = cell.drive(inputs, self.weights).unbind(1)
        draws = NoiseDraws(None, None)
        if noise is not None and path is not None:
            size, dtype = cell.hidden_size, inputs.dtype
            draws = noise.draw(path, steps=steps, batch=batch, units=size, dtype=dtype, device=inputs.device)
        self.draws = draws
        self._additive = (None,) * steps if draws.additive is None else draws.additive.unbind(0)
        self._multiplicative = (None,) * steps if draws.multiplicative is None else draws.multiplicative.unbind(0)
        self.dts = (None,) * steps if dt is None else _by_step(dt)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.drives)

    def __call__(self, m: int, state: Tensor) -> Tensor:
        """The state `(batch, state_size)` after step `m`, given that before it."""
        after = state + self.increment(m, state)
        return after if self.valid is None else torch.where(self.valid[m], after, state)

    def increment(self, m: int, state: Tensor) -> Tensor:
        """The noisy increment of step `m` of a sequence that goes on, `(batch, state_size)`."""
        increment = self.cell.increment(self.drives[m], state, self.weights, self.dts[m])
        additive, multiplicative = self._additive[m], self._multiplicative[m]
        if self.noise is None or (additive is None and multiplicative is None):
            return increment
        size = self.cell.hidden_size
        hidden = self.noise.perturb(increment[:, :size], additive, multiplicative, self.dts[m])
        return torch.cat([hidden, increment[:, size:]], dim=1) if increment.shape[1] > size else hidden


def run(
    cell: Dynamics[Weights],
    inputs: Tensor,
    state: Tensor,
    *,
    noise: HiddenNoise | None = None,
    path: BrownianPath | None = None,
    lengths: Tensor | None = None,
    dt: Tensor | None = None,
    every_step: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """Iterate the step maps over a sequence, from an initial state `(batch, state_size)`; arguments as for `StepMaps`.

    Past a sequence's end its outputs are zero, so padding changes nothing.

    Returns:
        Outputs `(batch, steps, hidden_size)`, or `None` without `every_step`; last valid state `(batch, state_size)`.
    """
    maps = StepMaps(cell, inputs, noise=noise, path=path, lengths=lengths, dt=dt)
    size = cell.hidden_size
    outputs = []
    for m in range(len(maps)):
        state = maps(m, state)
        if every_step:
            output = state[:, :size]
            outputs.append(output if maps.valid is None else torch.where(maps.valid[m], output, 0.0))
    return (torch.stack(outputs, dim=1) if every_step else None), state


def _by_step(dt: Tensor) -> tuple[Tensor, ...]:
    """Step lengths as one tensor a step that broadcasts against `(batch, hidden_size)`."""
    return dt.unbind(0) if dt.ndim == 1 else dt.T.unsqueeze(-1).unbind(0)
