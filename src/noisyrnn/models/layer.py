"""Recurrent cells run over sequences, with or without noise on their hidden state, under the contract of `nn.RNN`."""

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from noisyrnn.checks import (
    LARGEST_SIZE,
    MOST_LAYERS,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    check_tensor,
    values_hidden,
)
from noisyrnn.kernels import operator
from noisyrnn.kernels.cpp.packed import PackedWeights
from noisyrnn.kernels.select import KERNELS, uses_cpp
from noisyrnn.models.cell import Cell, own_diffusion
from noisyrnn.models.loops.module_cell import as_cell
from noisyrnn.models.modules import Switch, called_hooks, check_uncalled, first_weight, prepare_weights
from noisyrnn.models.options import LayerOptions, show_options
from noisyrnn.models.sequences.dropout import apply_dropout
from noisyrnn.models.sequences.layout import check_dtype, check_form, reverse_valid, step_lengths, to_batch_first
from noisyrnn.noise.brownian import BrownianPath, check_path
from noisyrnn.noise.hidden_noise import NOISE_MODES, HiddenNoise
from noisyrnn.sde.diffusion import MatrixDiffusion, as_diffusion, is_values
from noisyrnn.sde.schemes import SCHEMES

ModuleT = TypeVar("ModuleT", bound=nn.Module)

Pass = Callable[..., tuple[Tensor | None, Tensor]]
"""Runs one cell over sequences: called with inputs, initial state, `dt` and `every_step`, as `kernels.operator.run`."""

NOT_OPTIONS = ("build", "device", "dtype")
"""Constructor arguments that are not settings: the factory of the cells, and where the weights are at first."""


class RecurrentLayer(nn.Module):
    """Runs recurrent cells over sequences, one cell for each layer and direction. Subclasses only choose the cell.

    Layer number l, from 0, has its forward cell at `cells["l0"]`, `cells["l1"]`, … and its backward cell at
    `cells["l0_reverse"]`, …; so a parameter `C` is called `cells.l0.C` in a `state_dict`. Weights saved under the older
    name `cell.C` load into a layer of one cell. Each cell has its own stream of a `BrownianPath`: cell number k, in the
    order of `cells`, has the path's stream plus k.

    Every constructor argument of a concrete layer is an attribute of the same name, so that `options` can rebuild it.
    Those in `built_with` cannot be set later, since the cells have them too; the noise, `dropout`, `batch_first` and
    the attributes below can. The keyword arguments are those of `LayerOptions`, which describes them.

    Args:
        build: Called with `(input_size, hidden_size)`; returns a `Cell`, or a module that is called like `nn.RNNCell`,
            such as `nn.GRUCell` (see `ModuleCell`).
        input_size: Channels of one step, at least 1.
        hidden_size: Units of each cell, at least 1.

    Attributes:
        cells: The cells by name, in the order of `h_0` and `h_n`.
        noise_mode: When noise is added: "auto" (in training mode), "on" or "off". In a `SequenceModel`, "auto" adds
            noise only if both the model and the layer are in training mode.
        noise_scale: Factor of all levels of the noise, at least 0, for tests with more or less noise than in training.
            It is 1 at first.
        kernel: Kernel that runs the loops over time: "auto" (the fastest that supports the cell), "cpp", "triton",
            "eager" or "reference". The environment variable NOISYRNN_KERNEL overrides it.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> layer = RecurrentLayer(nn.GRUCell, 3, 8, num_layers=2, bidirectional=True, additive=0.1)
        >>> outputs, h_n = layer(torch.zeros(4, 5, 3))
        >>> outputs.shape, h_n.shape
        (torch.Size([4, 5, 16]), torch.Size([4, 4, 8]))
    """

    noise_mode = Switch(NOISE_MODES)
    kernel = Switch(KERNELS)
    _noise_mode: str
    _kernel: str

    defaults: ClassVar[LayerOptions] = {}
    """Defaults of a subclass in place of those of the class that it extends."""

    built_with: ClassVar[Collection[str]] = frozenset(
        ("input_size", "hidden_size", "num_layers", "bidirectional", "bias", "learn_diffusion")
    )
    """Attributes that cannot be set to another value, as the cells were built with it; a subclass adds its own."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        """List the options that the subclass passes on as `**options` in its signature."""
        super().__init_subclass__(**arguments)
        cls.built_with = frozenset(name for kind in _kinds(cls) for name in vars(kind).get("built_with", ()))
        if "__init__" in vars(cls):
            show_options(cls, _kinds(cls)[1], defaults=cls.defaults, without=("build",))

    def __init__(
        self,
        build: Callable[[int, int], nn.Module],
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        additive: float = 0.0,
        multiplicative: float = 0.0,
        noise_form: str = "independent",
        noise_law: str = "gaussian",
        diffusion: Any = None,
        learn_diffusion: bool = False,
        scheme: str = "euler-maruyama",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(build, nn.Module) or not callable(build):
            got = type(build).__name__ if isinstance(build, nn.Module) else repr(build)
            raise TypeError(
                f"build must be a class of cells, such as nn.GRUCell, or a function of (input_size, hidden_size) that "
                f"makes a cell, got {got}. A layer makes its cells itself."
            )
        check_flag("learn_diffusion", learn_diffusion)
        noise = HiddenNoise(
            additive=additive,
            multiplicative=multiplicative,
            form=noise_form,
            law=noise_law,
            diffusion=as_diffusion(diffusion, learn=learn_diffusion, dtype=dtype),
        )
        check_integer("input_size", input_size, minimum=1, maximum=LARGEST_SIZE)
        check_integer("hidden_size", hidden_size, minimum=1, maximum=LARGEST_SIZE)
        check_integer("num_layers", num_layers, minimum=1, maximum=MOST_LAYERS)
        for name, flag in (("bidirectional", bidirectional), ("batch_first", batch_first), ("bias", bias)):
            check_flag(name, flag)
        check_number("dropout", dropout, minimum=0.0)
        if dropout >= 1:
            raise ValueError(f"dropout must be less than 1, got {dropout:g}.")
        if dropout > 0 and num_layers == 1:  # as nn.RNN has it
            warnings.warn(
                f"dropout acts between layers, so that {dropout:g} changes nothing with num_layers 1.",
                stacklevel=2 + sum("__init__" in vars(kind) for kind in _kinds(type(self))[:-1]),
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.batch_first = batch_first
        self.dropout = dropout
        self.bias = bias
        self.additive = additive
        self.multiplicative = multiplicative
        self.noise_form = noise_form
        self.noise_law = noise_law
        noise.check_units(hidden_size)
        self.learn_diffusion = isinstance(noise.diffusion, MatrixDiffusion) and noise.diffusion.learn
        self.cells = nn.ModuleDict()
        for level in range(num_layers):
            for direction in ("", "_reverse") if bidirectional else ("",):
                cell = as_cell(build(self.output_size if level else input_size, hidden_size))
                self.cells[f"l{level}{direction}"] = cell
        weight = first_weight(self.cells)
        if noise.diffusion is not None and is_values(diffusion) and weight is not None and not weight.is_meta:
            noise.diffusion.to(weight)
        self.diffusion = noise.diffusion
        if self.diffusion is not None and own_diffusion(cell) is not None:
            raise ValueError(
                f"diffusion must be None for a cell with one of its own, {type(cell).__name__}, got {self.diffusion}."
            )
        self.scheme = scheme
        self.noise_mode = "auto"
        self.noise_scale = 1.0
        self.kernel = "auto"
        self._packed = tuple(PackedWeights() for _ in self.cells)
        self.register_load_state_dict_pre_hook(_rename_older_weights)
        self.to(device=device, dtype=dtype)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; one that the cells were built with only once.

        Raises:
            AttributeError: If the cells were built with another value.
        """
        if name in self.built_with and name in self.__dict__ and not _same(value, self.__dict__[name]):
            raise AttributeError(
                f"{name} must stay {self.__dict__[name]!r}, with which the cells of this {type(self).__name__} were "
                f"built, got {value!r}. {_INSTEAD.get(name, _REBUILD)}"
            )
        super().__setattr__(name, value)

    @property
    def cell(self) -> Cell:
        """The cell of a layer that has one.

        Raises:
            AttributeError: If the layer has several cells.
        """
        cells: Mapping[str, Any] = self.__dict__["_modules"]["cells"]._modules  # as fast as a streamed step needs it
        if len(cells) > 1:
            raise AttributeError  # Python then asks `__getattr__`
        return cells["l0"]

    def __getattr__(self, name: str) -> Any:
        """Raise `AttributeError` with the way to the cells where the layer has several of them."""
        if name == "cell":
            cells: Any = self.cells
            raise AttributeError(f"{type(self).__name__} has {len(cells)} cells, {', '.join(cells)}: use layer.cells.")
        return super().__getattr__(name)

    @property
    def output_size(self) -> int:
        """Entries of one output: `hidden_size`, or twice that with two directions."""
        return self.hidden_size * (2 if self.bidirectional else 1)

    @property
    def scheme(self) -> str:
        """How a step is integrated, a key of `noisyrnn.sde.SCHEMES`; setting it checks and sets that of every cell.

        Raises:
            ValueError: If the scheme is unknown, or cannot integrate the cells with this noise.
        """
        cell: Any = self.cells._modules["l0"]
        return cell.scheme

    @scheme.setter
    def scheme(self, scheme: str) -> None:
        check_choice("scheme", scheme, SCHEMES)
        cells: list[Any] = list(self.cells.values())
        _check_scheme(scheme, RecurrentLayer._noise_of(self, cells[0]), cells[0], type(self).__name__)
        for cell in cells:
            cell.scheme = scheme

    @property
    def supports_dt(self) -> bool:
        """Whether `forward` accepts `dt`: the steps of the cells, and of the noise, have a length."""
        cell: Any = self.cells._modules["l0"]
        return bool(cell.supports_dt) and (self.noise_law != "uniform" or self.hidden_noise.silent)

    def output(self, state: Tensor) -> Tensor:
        """Return the outputs of states of one cell, `(..., state_size)` to `(..., hidden_size)`.

        They are the first entries of a state for most cells, and rates a(v) for a `RateRNN` whose state is a current.

        Raises:
            TypeError: If `state` is not a tensor.
            ValueError: If its last axis is not that of a state.
        """
        cell: Any = self.cells._modules["l0"]
        check_state("state", state, cell, type(self).__name__)
        if state.shape[-1:] != (cell.state_size,):
            raise ValueError(f"state must have shape (..., {cell.state_size}), got {tuple(state.shape)}.")
        return cell.output(state)

    @property
    def hidden_noise(self) -> HiddenNoise:
        """Noise of every cell as laws and levels per step; that of the first where cells have diffusions of their own.

        Raises:
            ValueError: If an option is out of range or does not go with another.
        """
        return self._scaled(self._noise_of(self.cells._modules["l0"]))

    def _noise_of(self, cell: Any) -> HiddenNoise:
        """Return the noise of one cell, which may have a diffusion of its own."""
        diffusion = own_diffusion(cell) if self.diffusion is None else self.diffusion
        known: HiddenNoise | None = self.__dict__.get("_checked_noise")
        if (
            known is not None
            and known.additive is self.additive
            and known.multiplicative is self.multiplicative
            and known.form is self.noise_form
            and known.law is self.noise_law
            and known.diffusion is diffusion
        ):
            return known
        noise = HiddenNoise(
            additive=self.additive,
            multiplicative=self.multiplicative,
            form=self.noise_form,
            law=self.noise_law,
            diffusion=diffusion,
        )
        if not torch.compiler.is_compiling():
            self.__dict__["_checked_noise"] = noise  # its checks are noticeable in a pass over a short sequence
        return noise

    def _scaled(self, noise: HiddenNoise) -> HiddenNoise:
        """Return a noise with the layer's factor of all levels."""
        if self.noise_scale == 1:
            return noise
        check_number("noise_scale", self.noise_scale, minimum=0.0)
        return noise.scaled(self.noise_scale)

    def check_inputs(self, inputs: Tensor | PackedSequence) -> None:
        """Raise unless `forward` accepts the shape and type of `inputs`; errors as for `forward`."""
        check_form(inputs, input_size=self.input_size, batch_first=self.batch_first)

    def as_batch_first(self) -> Self:
        """Return a layer for inputs `(batch, steps, input_size)`: itself, or a view with another `batch_first`."""
        if self.batch_first:
            return self
        view = shared_view(self)
        view.batch_first = True
        return view

    def options(self) -> dict[str, Any]:
        """Return the constructor's settings and their values; for a user's class, those that are attributes."""
        options = inspect.signature(type(self)).parameters.values()
        defaults = {option.name: option.default for option in options if option.name not in NOT_OPTIONS}
        values = {
            name: _plain_number(getattr(self, name), default)
            for name, default in defaults.items()
            if hasattr(self, name)
        }
        if isinstance(self.diffusion, MatrixDiffusion) and not self.diffusion.matrix.is_meta:
            values["diffusion"] = self.diffusion.matrix.tolist()
        return values

    def extra_repr(self) -> str:
        """Return the constructor's settings."""
        shown = self.options() | {"diffusion": self.diffusion}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())

    def forward(
        self,
        inputs: Tensor | PackedSequence,
        h_0: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        mask: Tensor | None = None,
        dt: Tensor | float | None = None,
        path: BrownianPath | None = None,
        last_only: bool = False,
    ) -> tuple[Any, Tensor]:
        """Return all outputs and the last states.

        `lengths`, `mask` and `dt` are always batch-first, regardless of `batch_first`.

        Args:
            inputs: `(batch, steps, input_size)`; without `batch_first` `(steps, batch, input_size)`; for one sequence
                `(steps, input_size)`; or packed.
            h_0: Initial states, `(directions * num_layers, batch, state_size)`, without the batch axis for one
                sequence; zeros by default. The order is that of `cells`.
            lengths: Valid steps of each sequence, int64 `(batch,)`, each in [1, steps]; all by default.
            mask: Valid steps as a mask, bool `(batch, steps)`: true on the valid steps, which must come first.
            dt: Length of each step in nominal steps: a number, `(steps,)` or `(batch, steps)`, above 0; 1 by default.
                A step has the same length in both directions.
            path: Source of the noise; by default `BrownianPath.random`, a new path for every pass, from torch's
                default generator.
            last_only: Allow `None` as outputs, which saves memory. A layer with a forward or backward hook returns them
                nevertheless.

        Returns:
            Outputs of the last layer in the form of the inputs, with `directions * hidden_size` entries, zero past a
            sequence's end; and the last states, shaped as `h_0`: `output` computes the output of each, which is that of
            the last valid step for a forward direction, of the first step for a backward one.

        Raises:
            ValueError: If a shape, a length or a step length is out of range.
            TypeError: If inputs are not floating, lengths are not integers, a mask is not bool or `h_0` is not a
                tensor.
        """
        every_step = not last_only or called_hooks(self)
        check_path(path)
        check_uncalled(self.cells, f"{type(self).__name__}.cells")
        sequences = to_batch_first(
            inputs, input_size=self.input_size, batch_first=self.batch_first, lengths=lengths, mask=mask
        )
        values, lengths = sequences.values, sequences.lengths
        check_dtype("inputs", values, self)
        states = self._initial_states(h_0, values.shape[0], sequences.unbatched)
        if h_0 is not None:
            check_dtype("h_0", h_0, self)
        if dt is not None and not self.cells["l0"].supports_dt:
            raise ValueError(
                f"dt must be None for {type(self).__name__}, whose steps have no length, got step lengths."
            )
        sizes = None if dt is None else step_lengths(dt, values, lengths, states[0])
        if sizes is not None and not values_hidden():
            self._check_steps(sizes)
        noise = self.hidden_noise
        noisy = noise.acts(self._noise_mode, self.training)
        cell: Any = self.cells._modules["l0"]
        if noisy and cell.scheme != "euler-maruyama":  # levels may have been set since
            _check_scheme(cell.scheme, noise, cell, type(self).__name__)
        drops = self.training and self.dropout > 0 and self.num_layers > 1
        if path is None and (noisy or drops):
            path = BrownianPath.random(device=values.device)
        passes = self._passes(noise if noisy else None, path, lengths)
        outputs: Tensor | None = None
        last_states: list[Tensor] = []
        for level in range(self.num_layers):
            if outputs is not None:
                values = self._dropout(path, len(states), outputs, level - 1) if drops else outputs
            wanted = {"dt": sizes, "every_step": every_step or level < self.num_layers - 1}
            k = len(last_states)
            outputs, state = passes[k](values, states[k], **wanted)
            last_states.append(state)
            if self.bidirectional:
                if sizes is not None:
                    wanted["dt"] = reverse_valid(sizes.expand(values.shape[:2]), lengths)
                backward, state = passes[k + 1](reverse_valid(values, lengths), states[k + 1], **wanted)
                last_states.append(state)
                if outputs is not None and backward is not None:
                    outputs = torch.cat([outputs, reverse_valid(backward, lengths)], dim=2)
        if not every_step:
            outputs = None
        h_n = torch.stack(last_states) if len(last_states) > 1 else last_states[0].unsqueeze(0)
        return (
            None if outputs is None else sequences.restore(outputs),
            h_n.squeeze(1) if isinstance(inputs, Tensor) and inputs.ndim == 2 else h_n,
        )

    def last_output(self, inputs: Tensor | PackedSequence, h_0: Tensor | None = None, **options: Any) -> Tensor:
        """Return the last layer's final output, `(batch, output_size)`; `(output_size,)` for one sequence.

        This is the output at the last valid step, next to that of a backward direction at the first step. Arguments are
        those of `forward`.
        """
        outputs, h_n = self(inputs, h_0, **options, **pass_options(self))
        return final_output(self, outputs, h_n, lengths=options.get("lengths"), mask=options.get("mask"))

    def step(self, inputs: Tensor, state: Tensor | None = None) -> Tensor:
        """Return the state after one noise-free step, for data that arrive one step at a time.

        Successive steps compute what `forward` computes with the noise and the dropout off; `output` returns the
        output that belongs to a state. No gradients.

        Args:
            inputs: `(batch, input_size)`; for the layer of a `SequenceModel`, standardized by its `standardize`.
            state: `(batch, state_size)`; for several layers `(num_layers, batch, state_size)`, of which the last has
                the output: `layer.output(state[-1])`. Zeros by default.

        Raises:
            ValueError: If a shape is wrong, or the layer is bidirectional.
            TypeError: If the type of `inputs` or `state` is not that of the weights.
        """
        after = None
        if (
            isinstance(inputs, Tensor)
            and isinstance(state, Tensor)
            and len(self._packed) == 1
            and uses_cpp(self._kernel)
        ):
            after = self._packed[0].step(self.cell, inputs, state)
        return self._checked_step(inputs, state) if after is None else after

    @torch.no_grad()
    def _checked_step(self, inputs: Tensor, state: Tensor | None) -> Tensor:
        """See `step`; what the kernel does not take, wrong arguments among it."""
        check_tensor("inputs", inputs)
        if inputs.ndim != 2 or inputs.shape[1] != self.input_size:
            raise ValueError(f"inputs must have shape (batch, {self.input_size}), got {tuple(inputs.shape)}.")
        check_dtype("inputs", inputs, self)
        if state is not None:
            check_state("state", state, self.cells["l0"], type(self).__name__)
            check_dtype("state", state, self)
        if len(self._packed) == 1:
            return self._step(self.cell, self._packed[0], inputs, state)
        if self.bidirectional:
            raise ValueError(
                "bidirectional must be False to take single steps, got True. A backward direction starts at the end: "
                "call the layer on the whole sequence."
            )
        cells: list[Any] = list(self.cells.values())
        shape = (self.num_layers, len(inputs), cells[0].state_size)
        if state is not None and state.shape != shape:
            raise ValueError(f"state must have shape {shape}, got {tuple(state.shape)}.")
        after: list[Tensor] = []
        for level, (cell, packed) in enumerate(zip(cells, self._packed, strict=True)):
            after.append(self._step(cell, packed, inputs, None if state is None else state[level]))
            inputs = cell.output(after[-1])
        return torch.stack(after)

    def _step(self, cell: Cell, packed: PackedWeights, inputs: Tensor, state: Tensor | None) -> Tensor:
        """Return one cell's state after one noise-free step."""
        if state is None:
            state = cell.initial_state(len(inputs))
        if state.shape != (len(inputs), cell.state_size):
            raise ValueError(f"state must have shape {(len(inputs), cell.state_size)}, got {tuple(state.shape)}.")
        after = packed.step(cell, inputs, state) if uses_cpp(self._kernel) else None
        return cell.step(inputs, state) if after is None else after

    def _check_steps(self, sizes: Tensor) -> None:
        """Warn where steps of these lengths, `(steps,)` or `(batch, steps)`, are too long for the cells."""

    def _passes(self, noise: HiddenNoise | None, path: BrownianPath | None, lengths: Tensor | None) -> list[Pass]:
        """Return for each cell what runs it over sequences."""
        passes: list[Pass] = []
        cells: list[Any] = list(self.cells.values())
        for k, cell in enumerate(cells):
            prepare_weights(cell)
            options: dict[str, Any] = {"lengths": lengths, "kernel": self._kernel, "packed": self._packed[k]}
            if noise is not None and path is not None:
                if k and self.diffusion is None and own_diffusion(cell) is not None:
                    noise = self._scaled(self._noise_of(cell))
                options |= {"noise": noise, "path": replace(path, stream=path.stream + k) if k else path}
            passes.append(partial(operator.run, cell, **options))
        return passes

    def _dropout(self, path: BrownianPath | None, cells: int, outputs: Tensor, level: int) -> Tensor:
        """Apply dropout to the outputs of layer number `level`."""
        assert path is not None
        return apply_dropout(outputs, self.dropout, path, cells + level)

    def _initial_states(self, h_0: Tensor | None, batch: int, unbatched: bool) -> list[Tensor]:
        """Return one state `(batch, state_size)` for each cell."""
        cells: list[Any] = list(self.cells.values())
        if h_0 is None:
            return [cell.initial_state(batch) for cell in cells]
        size = cells[0].state_size
        shape = (len(cells), size) if unbatched else (len(cells), batch, size)
        check_state("h_0", h_0, cells[0], type(self).__name__)
        if h_0.shape != shape:
            raise ValueError(f"h_0 must have shape {shape}, got {tuple(h_0.shape)}.")
        return list((h_0.unsqueeze(1) if unbatched else h_0).unbind(0))


def check_state(argument: str, state: object, cell: Any, name: str) -> None:
    """Raise `TypeError` unless `state`, of the cells of the layer `name`, is a tensor."""
    if isinstance(state, tuple | list) and cell.state_size > cell.hidden_size:
        raise TypeError(
            f"{argument} must be a tensor, got {type(state).__name__}. The parts of a state of {name} are one tensor, "
            "such as torch.cat((h, c), dim=-1)."
        )
    check_tensor(argument, state)


def _check_scheme(scheme: str, noise: HiddenNoise, cell: Cell, name: str) -> None:
    """Raise `ValueError` if the scheme cannot integrate a step of the cell of the layer `name` with this noise."""
    if scheme == "euler-maruyama":
        return
    if not cell.integrable or not cell.supports_dt:
        raise ValueError(
            f"scheme must be 'euler-maruyama' for {name}, got {scheme!r}: its step is not a drift times a step length."
        )
    if noise.law == "uniform":
        raise ValueError(
            f"scheme must be 'euler-maruyama' with noise_law 'uniform', which discretises no equation, got {scheme!r}."
        )
    if noise.place == "inside":
        raise ValueError(
            f"scheme must be 'euler-maruyama' with noise_place 'inside', got {scheme!r}: the noise is not a diffusion."
        )
    if scheme == "milstein" and noise.multiplicative > 0:
        raise ValueError(
            f"multiplicative must be 0 with scheme 'milstein', got {noise.multiplicative:g}: entry i of its diffusion "
            "is proportional to f_i, which depends on every unit through W. Use scheme='stochastic-heun'."
        )
    if scheme == "milstein" and not noise.state_free and not getattr(noise.diffusion, "diagonal", False):
        raise ValueError(
            "diffusion must be a matrix or declared diagonal with scheme 'milstein', got another: entry i must depend "
            "on unit i only. Use FunctionDiffusion(function, diagonal=True)."
        )


_REBUILD = "Build another layer with it, and load this one's state_dict where the shapes agree."
_INSTEAD = dict.fromkeys(
    ("step_size", "alpha", "tau"),
    "For steps of another length call the layer with dt, the length in units of this step.",
)
"""What to do in place of setting an attribute."""


def _same(value: Any, other: Any) -> bool:
    """Whether two values of a setting are the same."""
    return value is other or (isinstance(value, str | int | float) and bool(value == other))


def _kinds(kind: type[RecurrentLayer]) -> list[type[RecurrentLayer]]:
    """Return the class and its base classes, up to `RecurrentLayer`."""
    return [base for base in kind.__mro__ if issubclass(base, RecurrentLayer)]


def pass_options(layer: Any) -> dict[str, bool]:
    """Return the options for a call of `layer` of which only `final_output` is needed."""
    return {} if "forward" in vars(layer) else {"last_only": True}  # a `forward` of the instance may lack the option


def final_output(
    layer: Any, outputs: Any, h_n: Tensor, *, lengths: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Return the last layer's final output, `(batch, output_size)`, from the results of a call with `pass_options`.

    It is taken from the outputs if the call returned them, since a hook may have changed them.

    Args:
        layer: The layer that was called.
        outputs: The outputs that it returned, or `None`.
        h_n: The last states that it returned.
        lengths: `lengths` of the call.
        mask: `mask` of the call.
    """
    size = layer.hidden_size
    if outputs is None:
        # Each view is a node of autograd, whose cost is noticeable for short sequences.
        ends = (h_n.squeeze(0),) if h_n.shape[0] == 1 else h_n.unbind(0)[-2 if layer.bidirectional else -1 :]
        ends = tuple(layer.output(end) for end in ends)
        return torch.cat(ends, dim=-1) if layer.bidirectional else ends[0]
    if isinstance(outputs, PackedSequence):
        outputs, lengths = pad_packed_sequence(outputs, batch_first=True)
    elif outputs.ndim == 2:
        return torch.cat([outputs[-1, :size], outputs[0, size:]])
    elif not layer.batch_first:
        outputs = outputs.transpose(0, 1)
    if mask is not None:
        lengths = mask.sum(dim=1)
    if lengths is None:
        forward = outputs[:, -1]
    else:
        forward = outputs[torch.arange(len(outputs), device=outputs.device), lengths.to(outputs.device) - 1]
    if layer.bidirectional:
        return torch.cat([forward[:, :size], outputs[:, 0, size:]], dim=1)
    return forward.clone(memory_format=torch.contiguous_format)  # as a state is: rounding depends on the layout


def shared_view(module: ModuleT) -> ModuleT:
    """Return a module with the same weights, buffers, hooks and submodules, whose attributes can be set separately."""
    view: ModuleT = object.__new__(type(module))
    view.__dict__.update(module.__dict__)
    return view


def _rename_older_weights(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename weights of `cell`, as older versions saved them, to those of `cells.l0`."""
    for name in [name for name in state if name.startswith(f"{prefix}cell.")]:
        state[f"{prefix}cells.l0.{name.removeprefix(f'{prefix}cell.')}"] = state.pop(name)


def _plain_number(value: Any, default: Any) -> Any:
    """Return an option's value; NumPy's floats, and integers where the default is a float, become Python's floats."""
    whole = isinstance(value, int) and not isinstance(value, bool) and isinstance(default, float)
    return float(value) if whole or isinstance(value, float) else value
