"""The loop over time in plain PyTorch: any cell, dtype and device. It defines what every other kernel computes."""

import itertools
from dataclasses import replace
from typing import Any, Protocol, TypedDict, Unpack

import torch
from torch import Tensor

from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.recurrence import GATED, Recurrence
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.hidden_noise import HiddenNoise, NoiseDraws
from noisyrnn.padding import valid_steps
from noisyrnn.sde.activation import ACTIVATIONS
from noisyrnn.sde.diffusion import MatrixDiffusion, own_slopes
from noisyrnn.sde.schemes import SCHEMES


class Dynamics(Protocol):
    """What the loop needs of a cell; `noisyrnn.models.Cell` provides it."""

    scheme: str
    """Key of `SCHEMES`, by which a step is integrated."""

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

    def output(self, state: Tensor) -> Tensor:
        """The outputs of states, `(..., state_size)` to `(..., hidden_size)`."""
        ...


def recurrence_of(cell: Any, *, scheme: bool = True) -> Recurrence | None:
    """The recurrence of a cell; `None` if it has none, or if its step was changed without it.

    Args:
        cell: A cell.
        scheme: Whether Heun's scheme, whose step evaluates the increment twice, counts as such a change.
    """
    if "increment" in vars(cell) or getattr(cell, "changes_step", False):
        return None
    if scheme and cell.scheme == "stochastic-heun":
        return None
    return cell.recurrence()


def checked_increment(change: object, state: Tensor) -> Tensor:
    """Return a cell's increment; raise unless it is a tensor of the shape of the state.

    Raises:
        TypeError: If it is something else than a tensor.
        ValueError: If it has another shape, which adding it might hide.
    """
    if not isinstance(change, Tensor):
        raise TypeError(f"increment must return a tensor, got {type(change).__name__}.")
    if change.shape != state.shape:
        raise ValueError(
            f"increment must return the shape of the state, {tuple(state.shape)}, got {tuple(change.shape)}."
        )
    return change


def _written_out(cell: Dynamics) -> Recurrence | None:
    """The recurrence of a cell, except where torch's own function of a step takes less time."""
    recurrence = recurrence_of(cell, scheme=False)
    return None if recurrence is None or recurrence.kind in GATED else recurrence


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

    It is the `Equation` that the cell's scheme integrates: δ f is the cell's increment Δ. The noise acts on the first
    `hidden_size` entries of the state. Past a sequence's end its map is the identity.

    Args:
        cell: A cell, or its recurrence.
        inputs: `(batch, steps, input_size)`.
        noise: As in `PathOptions`, like the following.
        path: Needed with `noise`.
        lengths: `(batch,)`.
        dt: `(steps,)` or `(batch, steps)`.

    Attributes:
        recurrence: The recurrence that gives the cell's increment, or `None`.
        scheme: The scheme.
        valid: For each step, which sequences have it, bool `(batch, 1)`; `None` where all have every step.
        drives: For each step, the input's part of it, `(batch, hidden_size)`, with the noise inside the activation;
            without a recurrence the inputs.
        dts: For each step, its length in a shape that broadcasts against `(batch, hidden_size)`, or `None`.

    Raises:
        ValueError: If the noise is inside an activation and the cell has no recurrence, or a diffusion returns a wrong
            shape.
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
        steps = inputs.shape[1]
        self.cell = cell
        self.noise = noise
        self.recurrence = cell if isinstance(cell, Recurrence) else _written_out(cell)
        self.scheme = SCHEMES["euler-maruyama" if isinstance(cell, Recurrence) else cell.scheme]
        self.valid: tuple[Tensor, ...] | None = None
        if lengths is not None:
            valid = valid_steps(lengths, steps)[..., None]
            inputs = inputs.masked_fill(~valid, 0.0)  # else NaN padding reaches the gradients as 0 * NaN
            self.valid = valid.unbind(1)
        self.dts = (None,) * steps if dt is None else _by_step(dt)
        self._inputs = inputs
        if noise is not None and noise.diffusion is not None:
            self._times = self._starts(path)
        self.draws = NoiseDraws(None, None)
        if noise is not None and path is not None:
            self.draws = self._draw(noise, path, inputs)
        drive = inputs
        if self.recurrence is not None:
            drive, self._matrices = self.recurrence.drive(inputs), self.recurrence.transposed()
            with torch.no_grad():
                self.recurrence.activation.check_at(torch.zeros_like(drive[:1, 0]))
        if noise is not None and noise.place == "inside" and self.draws.additive is not None:
            drive = drive + self._inside(noise, self.draws.additive.transpose(0, 1), dt)
            self.draws = NoiseDraws(None, None)
        self.drives = drive.unbind(1)
        additive, multiplicative = self.draws
        self._additive = (None,) * steps if additive is None else additive.unbind(0)
        self._multiplicative = (None,) * steps if multiplicative is None else multiplicative.unbind(0)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.drives)

    def __call__(self, m: int, state: Tensor) -> Tensor:
        """The state `(batch, state_size)` after step `m`, given that before it."""
        after = self.scheme.step(self, m, state)
        return after if self.valid is None else torch.where(self.valid[m], after, state)

    def drift(self, m: int, state: Tensor) -> Tensor:
        """The noise-free increment Δ of step `m`, `(batch, state_size)`."""
        if self.recurrence is not None:
            return self.recurrence.increment(self.drives[m], state, self._matrices, self.dts[m])
        assert not isinstance(self.cell, Recurrence)
        return checked_increment(self.cell.increment(self.drives[m], state, self.dts[m]), state)

    def perturb(self, m: int, state: Tensor, drift: Tensor) -> Tensor:
        """As in `Equation`."""
        noise, additive, multiplicative = self.noise, self._additive[m], self._multiplicative[m]
        if noise is None or (additive is None and multiplicative is None):
            return drift
        size = self.cell.hidden_size
        if noise.diffusion is None:
            hidden = noise.perturb(drift[:, :size], additive, multiplicative, self.dts[m])
        else:
            assert additive is not None
            shift = noise.diffusion.product(*self.arguments(m, state), additive)
            hidden = drift[:, :size] + self._root(m) * noise.scale * shift
        return self._padded(hidden, drift[:, size:])

    def correction(self, m: int, state: Tensor, drift: Tensor) -> Tensor | None:
        """As in `Equation`."""
        noise, size = self.noise, self.cell.hidden_size
        if noise is None or noise.state_free or noise.place == "inside":
            return None
        length = self.dts[m]
        dt: Any = 1.0 if length is None else length
        if noise.diffusion is not None:
            bent = noise.diffusion.correction(*self.arguments(m, state))
            if bent is None:
                return None
            half = 0.5 * dt * noise.scale**2 * bent
        else:  # the diagonal a + m Δ/dt, or m Δ/dt with motions of its own
            level = noise.multiplicative * drift[:, :size]
            if noise.form == "shared":
                level = level + noise.additive * dt
            half = 0.5 * noise.multiplicative / dt * level * self._own_slopes(m, state)
        return self._padded(half, torch.zeros_like(drift[:, size:]))

    def iterated(self, m: int, state: Tensor) -> Tensor | None:
        """As in `Equation`."""
        noise, xi = self.noise, self._additive[m]
        if noise is None or xi is None or noise.diffusion is None:
            return None
        bent = noise.diffusion.correction(*self.arguments(m, state))
        if bent is None:
            return None
        hidden = 0.5 * noise.scale**2 * self._root(m) ** 2 * bent * (xi**2 - 1)
        return self._padded(hidden, torch.zeros_like(state[:, self.cell.hidden_size :]))

    def arguments(self, m: int, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments `h`, `x` and `t` of a diffusion at step `m`."""
        return state[:, : self.cell.hidden_size], self._inputs[:, m], self._times[m]

    def _draw(self, noise: HiddenNoise, path: BrownianPath, inputs: Tensor) -> NoiseDraws:
        """Draw the random numbers of the pass."""
        batch, steps, _ = inputs.shape
        units, dtype, device = self.cell.hidden_size, inputs.dtype, inputs.device
        if noise.diffusion is not None:
            zeros = torch.zeros(batch, units, dtype=dtype, device=device)
            with torch.no_grad():
                units = noise.diffusion.columns(zeros, inputs[:, 0], self._times[0])
        return noise.draw(path, steps=steps, batch=batch, units=units, dtype=dtype, device=device)

    def _starts(self, path: BrownianPath | None) -> tuple[Tensor, ...]:
        """The times at which the steps begin, in nominal steps; each broadcasts against `(batch, 1)`."""
        first = 0.0 if path is None else path.first_step / path.factor
        begin = torch.full((1, 1), first, dtype=self._inputs.dtype, device=self._inputs.device)
        lengths = [torch.ones_like(begin) if dt is None else dt.reshape(-1, 1) for dt in self.dts[:-1]]
        return tuple(itertools.accumulate(lengths, initial=begin))

    def _inside(self, noise: HiddenNoise, normals: Tensor, dt: Tensor | None) -> Tensor:
        """The noise inside the activation of all steps, `(batch, steps, hidden_size)`, from numbers of that shape."""
        if self.recurrence is None:
            raise ValueError(
                f"noise_place must be 'outside' for {type(self.cell).__name__}, which has no activation that noise can "
                "enter, got 'inside'."
            )
        shift = noise.additive * normals
        if isinstance(noise.diffusion, MatrixDiffusion):
            shift = noise.scale * (normals @ noise.diffusion.matrix.to(normals).T)
        return shift if dt is None else shift / dt.sqrt()[..., None]

    def _own_slopes(self, m: int, state: Tensor) -> Tensor:
        """The derivative of each unit's increment in that unit, `(batch, hidden_size)`."""
        size = self.cell.hidden_size
        if self.recurrence is not None:
            written = self.recurrence.own_slopes(self.drives[m], state, self.dts[m])
            if written is not None:
                return written
        return own_slopes(lambda h: self.drift(m, self._padded(h, state[:, size:]))[:, :size], state[:, :size])

    def _root(self, m: int) -> Tensor | float:
        """The root of the length of step `m`."""
        dt = self.dts[m]
        return 1.0 if dt is None else dt.sqrt()

    @staticmethod
    def _padded(hidden: Tensor, rest: Tensor) -> Tensor:
        """A change of the whole state, `(batch, state_size)`, from those of its first entries and of the rest."""
        return torch.cat([hidden, rest], dim=1) if rest.shape[1] else hidden


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
    outputs = []
    for m in range(len(maps)):
        state = maps(m, state)
        if every_step:
            output = cell.output(state)
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
            Recurrence(
                call.kind,
                A,
                call.W[r],
                call.U[r],
                call.b[r],
                call.step[r],
                call.coefficients,
                ACTIVATIONS[call.activation],
            ),
            call.inputs[r],
            call.state[r],
            noise=_noise_of(call, r),
            path=None if call.path is None else replace(call.path, seed=call.seed[r]),
            lengths=None if call.lengths is None else call.lengths[r],
            dt=dt if dt is None or len(dt) > 1 else dt[0],
            every_step=every_step,
        )
        outputs.append(call.inputs.new_empty(0) if every is None else every)
        states.append(state)
    return torch.stack(outputs), torch.stack(states)


def _noise_of(call: KernelCall, r: int) -> HiddenNoise | None:
    """The noise of one replica."""
    if call.noise is None or call.diffusion is None:
        return call.noise
    diffusion = MatrixDiffusion.around(call.diffusion[r])
    return replace(call.noise, additive=0.0, diffusion=diffusion, scale=call.noise.additive)


def _by_step(dt: Tensor) -> tuple[Tensor, ...]:
    """Step lengths as one tensor for each step that broadcasts against `(batch, hidden_size)`."""
    return dt.unbind(0) if dt.ndim == 1 else dt.T.unsqueeze(-1).unbind(0)
