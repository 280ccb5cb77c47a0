"""The loop over time in plain PyTorch: any cell, dtype and device. It defines what every other kernel computes."""

from dataclasses import replace
from typing import Any, Protocol, TypedDict, Unpack

import torch
from torch import Tensor

from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.hidden_noise import HiddenNoise, NoiseDraws
from noisyrnn.padding import valid_steps


class Dynamics(Protocol):
    """What the loop needs of a cell; `noisyrnn.models.Cell` provides it."""

    @property
    def hidden_size(self) -> int:
        """Units; the noise acts on as many entries of the state."""
        ...

    def recurrence(self) -> Recurrence | None:
        """The same step for the fast kernels; `None` for one that they do not know."""
        ...

    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        """The noise-free update of one step: `(batch, input_size)` and `(batch, state_size)` to the latter."""
        ...


def recurrence_of(cell: Any) -> Recurrence | None:
    """The recurrence of a cell; `None` if it has none, or if its step was changed without it."""
    patched = "increment" in vars(cell) or getattr(cell, "changes_step", False)
    return None if patched else cell.recurrence()


class PathOptions(TypedDict, total=False):
    """Options of the path of a hidden state along given inputs.

    Args:
        noise: Laws and levels of the noise; noise-free by default.
        path: Source of the random numbers, required with `noise`.
        lengths: Valid steps of each sequence, int64 `(batch,)`; all by default.
        dt: Length of each step in nominal steps, `(steps,)` or `(batch, steps)`; 1 by default.
    """

    noise: HiddenNoise | None
    path: BrownianPath | None
    lengths: Tensor | None
    dt: Tensor | None


class StepMaps:
    r"""The maps :math:`h \leftarrow h + \mu \odot \Delta(h, x_m) + \eta_m` of one pass, one for each step.

    The noise acts on the first `hidden_size` entries of the state. Past a sequence's end its map is the identity.

    Args:
        cell: A cell, or its recurrence.
        inputs: `(batch, steps, input_size)`.
        noise: As in `PathOptions`, like the following.
        path: Needed with `noise`.
        lengths: `(batch,)`.
        dt: `(steps,)` or `(batch, steps)`.

    Attributes:
        recurrence: The cell's recurrence, or `None`.
        valid: For each step, which sequences have it, bool `(batch, 1)`; `None` where all have every step.
        drives: For each step, the input's part of it, `(batch, hidden_size)`; without a recurrence the inputs.
        dts: For each step, its length in a shape that broadcasts against `(batch, hidden_size)`, or `None`.
    """

    def __init__(
        self,
        cell: Dynamics | Recurrence,
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
        self.recurrence = cell if isinstance(cell, Recurrence) else recurrence_of(cell)
        self.valid: tuple[Tensor, ...] | None = None
        if lengths is not None:
            valid = valid_steps(lengths, steps)[..., None]
            inputs = inputs.masked_fill(~valid, 0.0)  # else NaN padding reaches the gradients as 0 * NaN
            self.valid = valid.unbind(1)
        drive = inputs
        if self.recurrence is not None:
            drive, self._matrices = self.recurrence.drive(inputs), self.recurrence.transposed()
        self.drives = drive.unbind(1)
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
        """The noisy increment of step `m` where it is valid, `(batch, state_size)`."""
        if self.recurrence is not None:
            increment = self.recurrence.increment(self.drives[m], state, self._matrices, self.dts[m])
        else:
            assert not isinstance(self.cell, Recurrence)
            increment = self.cell.increment(self.drives[m], state, self.dts[m])
        additive, multiplicative = self._additive[m], self._multiplicative[m]
        if self.noise is None or (additive is None and multiplicative is None):
            return increment
        size = self.cell.hidden_size
        hidden = self.noise.perturb(increment[:, :size], additive, multiplicative, self.dts[m])
        return torch.cat([hidden, increment[:, size:]], dim=1) if increment.shape[1] > size else hidden


def run(
    cell: Dynamics | Recurrence,
    inputs: Tensor,
    state: Tensor,
    *,
    every_step: bool = True,
    **options: Unpack[PathOptions],
) -> tuple[Tensor | None, Tensor]:
    """Iterate the step maps over a sequence.

    Past a sequence's end its outputs are zero, so padding changes nothing.

    Args:
        cell: A cell, or its recurrence.
        inputs: `(batch, steps, input_size)`.
        state: Initial state, `(batch, state_size)`.
        every_step: Whether outputs are wanted, or the last state only.
        options: Keyword arguments of `PathOptions`.

    Returns:
        Outputs `(batch, steps, hidden_size)`, or `None` without `every_step`; last valid state `(batch, state_size)`.
    """
    maps = StepMaps(cell, inputs, **options)
    size = cell.hidden_size
    outputs = []
    for m in range(len(maps)):
        state = maps(m, state)
        if every_step:
            output = state[:, :size]
            outputs.append(output if maps.valid is None else torch.where(maps.valid[m], output, 0.0))
    return (torch.stack(outputs, dim=1) if every_step else None), state


def run_call(call: KernelCall, *, every_step: bool) -> tuple[Tensor, Tensor]:
    """What a kernel computes for a call, differentiable to any order.

    Returns:
        Outputs `(R, B, T, hidden_size)`, empty without `every_step`; last states `(R, B, state_size)`.
    """
    outputs, states = [], []
    for r in range(len(call.seed)):
        A = None if call.A is None else call.A[r]
        dt = None if call.dt is None else call.dt[r]
        every, state = run(
            Recurrence(call.kind, A, call.W[r], call.U[r], call.b[r], call.step[r], call.coefficients),
            call.inputs[r],
            call.state[r],
            noise=call.noise,
            path=None if call.path is None else replace(call.path, seed=call.seed[r]),
            lengths=None if call.lengths is None else call.lengths[r],
            dt=dt if dt is None or len(dt) > 1 else dt[0],
            every_step=every_step,
        )
        outputs.append(call.inputs.new_empty(0) if every is None else every)
        states.append(state)
    return torch.stack(outputs), torch.stack(states)


def _by_step(dt: Tensor) -> tuple[Tensor, ...]:
    """Step lengths as one tensor for each step that broadcasts against `(batch, hidden_size)`."""
    return dt.unbind(0) if dt.ndim == 1 else dt.T.unsqueeze(-1).unbind(0)
