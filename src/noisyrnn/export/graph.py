"""Noise-free models as graphs with any batch size and number of steps."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan  # a prototype in torch, and its only loop of open length

from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.kernels.reference import recurrence_of
from noisyrnn.models import Cell, Head, SequenceModel, SequenceToSequence
from noisyrnn.models.modules import check_uncalled, prepare_weights
from noisyrnn.models.standardization import standardize
from noisyrnn.padding import valid_steps
from noisyrnn.sde.activation import TANH
from noisyrnn.sde.schemes import SCHEMES, NoiseFree

Graph: TypeAlias = "SequenceGraph | StepGraph"


class Signature(NamedTuple):
    """Inputs and outputs of a graph.

    Args:
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        example: Inputs for tracing, with batch size and number of steps above 1: torch treats 0 and 1 as constants.
        axes: Axes of open size of each input, with the names of the sizes.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[Tensor, ...]
    axes: tuple[dict[int, str], ...]


_ROUNDING = 1e-3
"""Largest permitted rounding error of the inputs, in standard deviations."""

_FARTHEST = 100.0
"""Values that a file must take, in standard deviations from the mean."""


def input_dtype(model: Head) -> torch.dtype:
    """Return the type of a file's inputs: that of the weights, or float64 where that would hide variation.

    It would by rounding values far from zero, or where values are too small or too large for it.
    """
    dtype, std = model.readout.weight.dtype, model.std
    known = torch.finfo(dtype)
    spacing = (known.eps * model.mean.abs()).clamp(min=known.tiny)  # smaller numbers are zero for some readers
    fine = bool((spacing <= _ROUNDING * std).all())
    return dtype if fine and bool((model.mean.abs() + _FARTHEST * std <= known.max).all()) else torch.float64


class WrittenCell(nn.Module):
    """A cell with precomputed weights, so that the graph needs no matrix exponential.

    Args:
        cell: A cell; one without a recurrence is called itself.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        prepare_weights(cell)
        with torch.no_grad():
            recurrence = recurrence_of(cell, scheme=False)
        self._kind = "" if recurrence is None else recurrence.kind
        self._activation = TANH if recurrence is None else recurrence.activation
        weights: tuple[Tensor, ...] = () if recurrence is None else (recurrence.transposed(), *recurrence[3:6])
        self._linear = recurrence is not None and recurrence.A is not None
        for k, weight in enumerate(weights):
            self.register_buffer(f"weight_{k}", weight.detach().contiguous())
        self._count = len(weights)
        constants = () if recurrence is None else recurrence.coefficients
        for k, constant in enumerate(constants):  # as tensors: the exporter to ONNX rounds plain numbers to float32
            self.register_buffer(f"constant_{k}", weights[0].detach().new_tensor(constant))
        self._constants = len(constants)

    def _increment(self, inputs: Tensor) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """Return the part of the inputs in all steps, and the increment of a step as a function of it and the state."""
        cell, weights = self.cell, [getattr(self, f"weight_{k}") for k in range(self._count)]
        if not self._kind:
            return inputs, lambda drive, state: cell.increment(drive, state)
        matrices, U, b, step = weights  # A and W themselves are not needed
        constants = tuple(getattr(self, f"constant_{k}") for k in range(self._constants))
        A = matrices if self._linear else None
        recurrence = Recurrence(self._kind, A, matrices, U, b, step, constants, self._activation)
        return recurrence.drive(inputs), lambda drive, state: recurrence.increment(drive, state, matrices, None)

    def forward(self, inputs: Tensor, state: Tensor) -> Tensor:
        """Return the state after one step, like `Cell.step`."""
        drive, increment = self._increment(inputs)
        return self._step(increment, drive, state)

    def _step(self, increment: Callable[[Tensor, Tensor], Tensor], drive: Tensor, state: Tensor) -> Tensor:
        """Return the state after one step by the cell's scheme."""
        return SCHEMES[self.cell.scheme].step(NoiseFree(lambda h: increment(drive, h)), 0, state)

    def output(self, state: Tensor) -> Tensor:
        """Return the outputs of states, like `Cell.output`."""
        return self.cell.output(state)

    def over(self, valid: Tensor, inputs: Tensor, state: Tensor, *, every_step: bool) -> tuple[Tensor | None, Tensor]:
        """Run a whole pass, with the results of `kernels.reference.run`; `valid` is bool `(steps, batch, 1)`."""
        # As a matrix: into a product of more axes onnxruntime takes the division by one channel's std, as a float32.
        drives, increment = self._increment(inputs.flatten(0, 1))
        drives = drives.unflatten(0, inputs.shape[:2])

        def step(state: Tensor, now: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
            drive, valid = now
            after = torch.where(valid, self._step(increment, drive, state), state)
            return after, (torch.where(valid, after, 0.0),) if every_step else ()

        end, outputs = scan(step, state, (drives.transpose(0, 1), valid))
        # Contiguous: else the next layer's product compares strides, which fixes the number of steps.
        every = self.output(outputs[0]).transpose(0, 1).contiguous() if every_step else None
        return every, end


class _Graph(nn.Module):
    """Standardisation, cells and readout of a model."""

    mean: Tensor
    std: Tensor
    target_mean: Tensor | None
    target_std: Tensor | None

    def __init__(self, model: Head) -> None:
        super().__init__()
        layer = model.layer
        check_uncalled(model, type(model).__name__)
        check_uncalled(layer, type(layer).__name__)
        self.register_buffer("mean", model.mean)
        self.register_buffer("std", model.std)
        self.register_buffer("target_mean", model.target_mean)
        self.register_buffer("target_std", model.target_std)
        self.dtype = model.readout.weight.dtype
        self.input_dtype = input_dtype(model)
        self.cells = nn.ModuleList(WrittenCell(cast(Cell, cell)) for cell in layer.cells.values())
        self.readout = model.readout
        self.missing = model.missing
        self.input_size = model.input_size
        self.hidden_size = layer.hidden_size
        self.answer = "logits" if model.loss == "cross_entropy" else "outputs"

    def answers(self, states: Tensor) -> Tensor:
        """Answers `(..., outputs)` to states of the last layer, as `SequenceModel.answers` computes them."""
        return SequenceModel.answers(cast(SequenceModel, self), states)

    def held(self, values: Tensor, last: Tensor) -> Tensor:
        """Return standardized values with missing ones replaced by the last of their channel."""
        return torch.where(values.isnan(), last, values)

    def with_mask(self, values: Tensor, held: Tensor) -> Tensor:
        """Return the channels that the layer takes, as `noisyrnn.models.missing` computes them."""
        return torch.cat([held, (~values.isnan()).to(held.dtype)], dim=-1) if self.missing == "mask" else held

    def _written(self) -> list[WrittenCell]:
        return [cast(WrittenCell, cell) for cell in self.cells]

    def _initial_states(self, batch: int) -> list[Tensor]:
        return [written.cell.initial_state(batch) for written in self._written()]


class SequenceGraph(_Graph):
    """The model's pass over whole sequences: inputs and lengths to logits or outputs, in the model's shapes.

    Args:
        model: Model on the CPU.
    """

    def __init__(self, model: Head) -> None:
        super().__init__(model)
        self.directions = 2 if model.layer.bidirectional else 1
        self.batch_first = model.layer.batch_first
        self.every_step = isinstance(model, SequenceToSequence)

    def signature(self) -> Signature:
        """Inputs, including `lengths`, int64 `(batch,)`, and output of the graph."""
        sizes, axes = ((2, 3), {0: "batch", 1: "steps"}) if self.batch_first else ((3, 2), {0: "steps", 1: "batch"})
        inputs = self.mean.new_zeros(*sizes, self.input_size, dtype=self.input_dtype)
        example = (inputs, torch.tensor([3, 2], dtype=torch.int64, device="cpu"))
        return Signature(("inputs", "lengths"), (self.answer,), example, (axes, {0: "batch"}))

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Run the model; lengths are not checked, and lengths above the number of steps count as that number."""
        values = standardize(inputs if self.batch_first else inputs.transpose(0, 1), self.mean, self.std, self.dtype)
        values = self._complete(values)
        valid = valid_steps(lengths, values.shape[1]).T[..., None]
        # A backward direction meets the padding first. Its state does not change there, so no step has to be moved.
        masks, cells, states = (valid, valid.flip(0)), self._written(), self._initial_states(values.shape[0])
        ends: list[Tensor] = []
        while len(ends) < len(cells):
            every_step = self.every_step or len(ends) + self.directions < len(cells)
            found: list[Tensor] = []
            for backward in range(self.directions):
                k = len(ends)
                ordered = values.flip(1) if backward else values
                outputs, end = cells[k].over(masks[backward], ordered, states[k], every_step=every_step)
                ends.append(end)
                if outputs is not None:
                    found.append(outputs.flip(1) if backward else outputs)
            if found:
                values = torch.cat(found, dim=2) if len(found) > 1 else found[0]
        if not self.every_step:
            last = self.answers(torch.cat([cells[0].output(end) for end in ends[-self.directions :]], 1))
            return last
        answers = torch.where(valid.transpose(0, 1), self.answers(values), 0.0)
        return answers if self.batch_first else answers.transpose(0, 1)

    def _complete(self, values: Tensor) -> Tensor:
        """Return standardized values as the layer takes them, without missing ones."""
        if self.missing is None:
            return values

        def step(last: Tensor, now: Tensor) -> tuple[Tensor, tuple[Tensor]]:
            after = self.held(now, last)
            return after, (after.clone(),)

        start = values.new_zeros(values.shape[0], values.shape[2])  # the mean, before the first value
        _, (held,) = scan(step, start, values.transpose(0, 1))
        return self.with_mask(values, held.transpose(0, 1)).contiguous()


class StepGraph(_Graph):
    """A single step: the next value and the state to the output so far and the new state.

    States have the shape of those of `RecurrentLayer.step`; the first state is zero. A model that meets missing values
    has a second one, `held`: the last value of each channel, standardized, zero at first.

    Args:
        model: Model on the CPU.

    Raises:
        ValueError: If the layer is bidirectional.
    """

    def __init__(self, model: Head) -> None:
        super().__init__(model)
        if model.layer.bidirectional:
            raise ValueError(
                "streaming must be False for a bidirectional layer, got True. A backward direction starts at the end."
            )

    def signature(self) -> Signature:
        """Inputs `(batch, input_size)` and states, output and next states of the graph."""
        inputs = self.mean.new_zeros(2, self.input_size, dtype=self.input_dtype)
        state = self._joined(self._initial_states(2))
        names, example, axes = ["state"], [state], [{state.ndim - 2: "batch"}]
        if self.missing is not None:
            names, example = [*names, "held"], [*example, inputs.new_zeros(inputs.shape, dtype=self.dtype)]
            axes = [*axes, {0: "batch"}]
        outputs = (self.answer, *(f"next_{name}" for name in names))
        return Signature(("inputs", *names), outputs, (inputs, *example), ({0: "batch"}, *axes))

    def forward(self, inputs: Tensor, state: Tensor, held: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the output `(batch, outputs)` after this step, and the states for the next."""
        values = standardize(inputs, self.mean, self.std, self.dtype)
        if held is not None:
            held = self.held(values, held)
            values = self.with_mask(values, held)
        after: list[Tensor] = []
        for written, before in zip(self._written(), [state] if state.ndim == 2 else state.unbind(0), strict=True):
            after.append(written(values, before))
            values = written.output(after[-1])
        states = (self._joined(after),) if held is None else (self._joined(after), held)
        return (self.answers(values), *states)

    @staticmethod
    def _joined(states: list[Tensor]) -> Tensor:
        return states[0] if len(states) == 1 else torch.stack(states)
