"""Trajectory of a hidden state along its inputs, with the Jacobians between successive states."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from noisyrnn.analysis.arguments import check_complete, step_sizes
from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.kernels.reference import StepMaps
from noisyrnn.models import Cell, RecurrentLayer, SequenceModel
from noisyrnn.models.missing import add_mask
from noisyrnn.models.modules import prepare_weights
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.hidden_noise import HiddenNoise
from noisyrnn.sde.schemes import StochasticHeun


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States `h_0 … h_M` of a cell along its inputs, and the Jacobians `J_m = ∂h_{m+1}/∂h_m` along them.

    The maps are those of the reference loop, so that every derivative of any order is right. For the drift of the
    noisy family the Jacobian is written out; for any other cell it comes from automatic differentiation. Nothing is
    detached: what is computed from a trajectory can be differentiated in the cell's parameters.

    Args:
        maps: The step maps of the pass.
        states: `h_0 … h_M`, each `(batch, state_size)`.
        written: The cell's recurrence where its Jacobian is written out, else `None`.
    """

    maps: StepMaps
    states: tuple[Tensor, ...]
    written: Recurrence | None

    @classmethod
    def of(
        cls,
        cell: Cell,
        inputs: Tensor,
        *,
        state: Tensor | None = None,
        noise: HiddenNoise | None = None,
        path: BrownianPath | None = None,
        lengths: Tensor | None = None,
        dt: Tensor | float | None = None,
    ) -> "Trajectory":
        """Compute the trajectory of `cell` along `inputs`.

        Args:
            cell: Cell, run by the reference loop.
            inputs: Inputs of the cell, already standardised, `(batch, steps, input_size)`.
            state: Initial state, `(batch, state_size)`; zeros by default.
            noise: Laws and levels of the noise; noise-free by default.
            path: Source of the random numbers, required with `noise`.
            lengths: Valid steps of each sequence, `(batch,)`; all by default.
            dt: Length of each step in nominal steps: a number, `(steps,)` or `(batch, steps)`; 1 by default.

        Raises:
            ValueError: If a shape does not fit, an input is NaN or infinite, or a step's length is not positive and
                finite.
        """
        check_complete(inputs, lengths, input_size=cell.input_size)
        sizes = step_sizes(dt, inputs, lengths, cell=cell, like=inputs)
        if (noise is None) != (path is None):
            raise ValueError("noise and path must be given together, got one of them.")
        maps = StepMaps(cell, inputs, noise=noise, path=path, lengths=lengths, dt=sizes)
        states = [cell.initial_state(len(inputs)) if state is None else state]
        for m in range(len(maps)):
            states.append(maps(m, states[-1]))
        return cls(maps, tuple(states), _written(maps))

    @property
    def steps(self) -> int:
        """Number of steps M."""
        return len(self.maps)

    @property
    def end(self) -> Tensor:
        """Last valid state, `(batch, state_size)`."""
        return self.states[-1]

    def tangent(self, m: int, vectors: Tensor) -> Tensor:
        """Return `J_m v` for vectors `(..., batch, state_size)` with any leading axes."""
        if self.written is not None:
            return self._drift_product(m, vectors, transposed=False)
        return _over_leading(lambda v: jvp(self._map(m), (self.states[m],), (v,))[1], vectors)

    def cotangent(self, m: int, vectors: Tensor) -> Tensor:
        """Return `J_mᵀ v` for vectors `(..., batch, state_size)` with any leading axes."""
        if self.written is not None:
            return self._drift_product(m, vectors, transposed=True)
        pull = vjp(self._map(m), self.states[m])[1]
        return _over_leading(lambda v: pull(v)[0], vectors)

    def jacobian(self, m: int) -> Tensor:
        """Return `J_m`, `(batch, state_size, state_size)`: rows are outputs, columns inputs."""
        batch, size = self.states[m].shape
        eye = torch.eye(size, dtype=self.states[m].dtype, device=self.states[m].device)
        if self.written is None:
            columns = self.tangent(m, eye[:, None, :].expand(size, batch, size))
            return columns.permute(1, 2, 0)
        rate, slope = self._rates(m)
        inner = slope[..., None] * self.written.W
        A = self.written.linear
        if A is not None:
            inner = inner + A
        return eye + rate[..., None] * inner

    def valid(self, m: int) -> Tensor | None:
        """Return which sequences have step `m`, bool `(batch, 1)`; `None` if all do."""
        return None if self.maps.valid is None else self.maps.valid[m]

    def _map(self, m: int) -> Callable[[Tensor], Tensor]:
        return lambda h: self.maps(m, h)

    def _rates(self, m: int) -> tuple[Tensor, Tensor]:
        """Return the factor of the drift in the step, with noise and step length, and a'; `(batch, hidden_size)`."""
        assert self.written is not None
        state = self.states[m]
        slope = self.written.activation.slope(state @ self.written.W.T + self.maps.drives[m])
        rate = self.written.step.expand_as(state)
        dt = self.maps.dts[m]
        if dt is not None:
            rate = rate * dt
        noise, draws = self.maps.noise, self.maps.draws.multiplicative
        if noise is not None and draws is not None:
            rate = noise.perturb(rate, None, draws[m], dt)
        valid = self.valid(m)
        return rate if valid is None else rate * valid, slope

    def _drift_product(self, m: int, vectors: Tensor, *, transposed: bool) -> Tensor:
        """Return `J v` or `Jᵀ v` with `J = I + diag(rate) (A + diag(slope) W)`."""
        assert self.written is not None
        rate, slope = self._rates(m)
        A, W = self.written.linear, self.written.W
        if transposed:
            weighted = rate * vectors
            moved = (slope * weighted) @ W
            return vectors + (moved if A is None else moved + weighted @ A)
        moved = slope * (vectors @ W.T)
        return vectors + rate * (moved if A is None else moved + vectors @ A.T)


def _written(maps: StepMaps) -> Recurrence | None:
    """Return the recurrence of maps whose Jacobian is written out: of the drift, by a scheme that evaluates it once."""
    recurrence, noise = maps.recurrence, maps.noise
    if recurrence is None or recurrence.kind not in ("drift", "rate") or isinstance(maps.scheme, StochasticHeun):
        return None
    return None if noise is not None and noise.diffusion is not None and not noise.state_free else recurrence


def standardized_inputs(model: SequenceModel, inputs: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the inputs of the layer of `model` for complete sequences, `(batch, steps, input_size of the layer)`.

    They are standardised. With `missing="mask"` there is a channel of ones for each, since no value is missing; the
    other settings then change nothing.

    Args:
        model: The model.
        inputs: `(batch, steps, input_size)`, checked by `check_complete`.
        dtype: Type of the result (default: that of the weights).
    """
    values = model.standardize(inputs, dtype)
    return add_mask(values) if model.missing == "mask" else values


def cell_of(model: object) -> Cell:
    """Return the cell of a sequence model, a layer or a cell.

    Raises:
        TypeError: If there is none or several: quantities of the hidden state need a model of this library with one
            layer and one direction.
    """
    if isinstance(model, SequenceModel):
        model = getattr(model.layer, "_orig_mod", model.layer)  # what torch.compile made of a layer
    if isinstance(model, RecurrentLayer):
        if len(model.cells) > 1:
            raise TypeError(
                f"model must have one cell (one layer, one direction) for a quantity of the hidden state, got "
                f"{type(model).__name__} with {len(model.cells)}: {', '.join(model.cells)}."
            )
        model = model.cell
    if not isinstance(model, Cell):
        raise TypeError(
            f"model must be a SequenceModel, RecurrentLayer or Cell for a quantity of the hidden state, "
            f"got {type(model).__name__}."
        )
    prepare_weights(model)
    return model


def _over_leading(apply: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
    """Call `apply`, a function of `(batch, state_size)`, over all leading axes of `vectors`."""
    leading = vectors.shape[:-2]
    if not leading:
        return apply(vectors)
    return vmap(apply)(vectors.flatten(0, -3)).unflatten(0, leading)
