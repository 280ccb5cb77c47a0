"""Cells with hidden noise for user-written loops over time."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_integer, check_number
from noisyrnn.kernels import reference
from noisyrnn.models.cell import own_diffusion
from noisyrnn.models.loops.module_cell import ModuleCell, as_cell
from noisyrnn.models.modules import Switch, prepare_weights
from noisyrnn.models.sequences.layout import check_dtype, step_lengths
from noisyrnn.noise.brownian import BrownianPath, check_path
from noisyrnn.noise.hidden_noise import NOISE_MODES, HiddenNoise


class WithHiddenNoise(nn.Module):
    r"""Adds noise to a cell's new hidden state. Called like `nn.RNNCell`.

    The cell's update :math:`h \leftarrow h + \Delta` becomes :math:`h \leftarrow h + \mu \odot \Delta + \eta`, as in a
    `RecurrentLayer`; the rest of the state, such as an LSTM's memory, is unchanged. For whole sequences use
    `RecurrentLayer(nn.GRUCell, input_size, hidden_size, additive=...)`.

    Args:
        cell: `nn.RNNCell`, `nn.GRUCell`, `nn.LSTMCell`, a module called like one of them (see `ModuleCell`), or a
            `Cell`.
        noise: Laws and levels of the noise; a cell with a diffusion of its own has that, and both levels must be 0.

    Attributes:
        noise_mode: When noise is added: "auto" (in training mode), "on" or "off".
        noise_scale: Factor of all levels of the noise, at least 0; 1 at first.

    Raises:
        TypeError: If the cell lacks `input_size` or `hidden_size`, or `noise` is not a `HiddenNoise`.

    Example:
        >>> cell = WithHiddenNoise(nn.GRUCell(3, 8), HiddenNoise(additive=0.1))
        >>> path, h = BrownianPath(seed=1), None
        >>> for step, x in enumerate(torch.zeros(5, 4, 3)):
        ...     h = cell(x, h, path=path, step=step)
        >>> h.shape
        torch.Size([4, 8])
    """

    noise_mode = Switch(NOISE_MODES)
    _noise_mode: str

    def __init__(self, cell: nn.Module, noise: HiddenNoise) -> None:
        super().__init__()
        if not isinstance(noise, HiddenNoise):
            raise TypeError(f"noise must be a HiddenNoise, got {type(noise).__name__}.")
        self.cell = as_cell(cell)
        if noise.diffusion is None:
            noise = replace(noise, diffusion=own_diffusion(self.cell))
        noise.check_units(self.cell.hidden_size)
        self.hidden_noise = noise
        self.diffusion = noise.diffusion  # a module: its values are converted and saved with the cell's
        self.input_size = self.cell.input_size
        self.hidden_size = self.cell.hidden_size
        self.noise_mode = "auto"
        self.noise_scale = 1.0

    def extra_repr(self) -> str:
        """Return the noise."""
        return repr(self.hidden_noise)

    def forward(
        self,
        inputs: Tensor,
        state: Tensor | tuple[Tensor, ...] | None = None,
        *,
        dt: Tensor | float | None = None,
        path: BrownianPath | None = None,
        step: int = 0,
    ) -> Tensor | tuple[Tensor, ...]:
        """Return the state after one step.

        Args:
            inputs: `(batch, input_size)`, or `(input_size,)` for one sequence.
            state: The last state in the cell's own form, `(batch, state_size)` or a tuple `(h, c)`, without the batch
                axis for one sequence; zeros by default.
            dt: Length of the step in nominal steps, a number or `(batch,)`, above 0; 1 by default.
            path: Source of the noise; by default `BrownianPath.random`, a new path for every call, from torch's
                default generator.
            step: Number of this step along the path, at least 0. A loop that counts its steps gets the noise that a
                layer gets from `path`.

        Returns:
            The new state in the form of the old one.

        Raises:
            ValueError: If a shape does not fit, `step` is above 0 without a path, or `dt` is given for a cell whose
                steps have no length.
            TypeError: If `path` is not a `BrownianPath`, or the type of `inputs` is not that of the weights.
        """
        check_path(path)
        check_integer("step", step, minimum=0)
        if step > 0 and path is None:
            raise ValueError(f"step must be 0 without a path, got {step}. Give path=BrownianPath(seed=...).")
        if dt is not None and not self.cell.supports_dt:
            raise ValueError(f"dt must be None for {type(self.cell).__name__}, whose steps have no length, got {dt}.")
        if inputs.ndim not in (1, 2) or inputs.shape[-1] != self.input_size:
            raise ValueError(
                f"inputs must have shape (batch, {self.input_size}) or ({self.input_size},), got {tuple(inputs.shape)}."
            )
        check_dtype("inputs", inputs, self)
        alone = inputs.ndim == 1
        x = (inputs.unsqueeze(0) if alone else inputs).unsqueeze(1)
        h = self._joined(state, len(x), alone)
        if isinstance(dt, Tensor) and dt.ndim == 1:
            dt = dt.unsqueeze(1)
        sizes = None if dt is None else step_lengths(dt, x, None, h)
        noise: HiddenNoise | None = None
        if self.hidden_noise.acts(self._noise_mode, self.training):
            check_number("noise_scale", self.noise_scale, minimum=0.0)
            noise = self.hidden_noise if self.noise_scale == 1 else self.hidden_noise.scaled(self.noise_scale)
            path = BrownianPath.random(device=x.device) if path is None else path
            path = replace(path, first_step=path.first_step + step * path.factor)
        prepare_weights(self.cell)
        _, after = reference.run(self.cell, x, h, noise=noise, path=path, dt=sizes, every_step=False)
        return self._split(after, alone)

    def _joined(self, state: Tensor | tuple[Tensor, ...] | None, batch: int, alone: bool) -> Tensor:
        """Join a state in the cell's own form to `(batch, state_size)`; zeros for `None`."""
        if state is None:
            return self.cell.initial_state(batch)
        parts = (state,) if isinstance(state, Tensor) else tuple(state)
        joined = torch.cat([part.unsqueeze(0) if alone else part for part in parts], dim=-1)
        if joined.shape != (batch, self.cell.state_size):
            got = ", ".join(str(tuple(part.shape)) for part in parts)
            raise ValueError(f"state must hold {self.cell.state_size} entries for each of {batch} rows, got {got}.")
        return joined

    def _split(self, state: Tensor, alone: bool) -> Tensor | tuple[Tensor, ...]:
        """Return the state `(batch, state_size)` in the cell's own form."""
        state = state[0] if alone else state
        parts = self.cell.parts if isinstance(self.cell, ModuleCell) else 1
        return state if parts == 1 else state.chunk(parts, dim=-1)
