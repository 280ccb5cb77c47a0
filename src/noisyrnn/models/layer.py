"""A cell run over a sequence, with or without noise on its hidden state."""

import inspect
import math
import os
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_choice, check_integer, check_lengths, check_sequences, values_hidden
from noisyrnn.kernels import dispatch
from noisyrnn.kernels.cpu import Stream
from noisyrnn.models.cell import Cell
from noisyrnn.sde.brownian import BrownianPath, derive_seed
from noisyrnn.sde.diffusion import HiddenNoise

SWITCHES = ("auto", "off", "on")


class RecurrentLayer(nn.Module):
    """A recurrent cell over a sequence; the base that declares, and the concrete layers only fill in a cell.

    Every constructor argument of a concrete layer is an attribute of the same name, so that `options` can rebuild it.

    Args:
        cell: What is iterated.
        additive: Standard deviation of the additive hidden noise of one step, at least 0.
        multiplicative: Relative standard deviation of the multiplicative hidden noise, at least 0.
        noise_form: "independent" or "shared"; see `HiddenNoise`.
        noise_law: "gaussian" or "uniform"; see `HiddenNoise`.
        noise_seed: Where the noise of passes without a `path` starts; `None` takes it from the operating system,
            so that two layers, or two processes, never share it by accident.

    Attributes:
        noise: "auto" (noise in training mode), "on" or "off".
        kernel: What runs the loop over time: "auto" (the fastest that can), "cpu", "gpu", "torch" or "reference".
    """

    def __init__(
        self,
        cell: Cell[Any],
        *,
        additive: float,
        multiplicative: float,
        noise_form: str,
        noise_law: str,
        noise_seed: int | None,
    ) -> None:
        super().__init__()
        HiddenNoise(additive=additive, multiplicative=multiplicative, form=noise_form, law=noise_law)
        if noise_seed is not None:
            check_integer("noise_seed", noise_seed, minimum=0)
        self.cell = cell
        self.input_size = cell.input_size
        self.hidden_size = cell.hidden_size
        self.additive = additive
        self.multiplicative = multiplicative
        self.noise_form = noise_form
        self.noise_law = noise_law
        self.noise_seed = noise_seed
        self._switch = "auto"
        self._kernel = "auto"
        self._stream = Stream()
        self._entropy = int.from_bytes(os.urandom(8), "little") if noise_seed is None else noise_seed
        self._passes = 0

    @property
    def noise(self) -> str:
        """When the hidden noise acts: "auto" (in training mode), "on" or "off"."""
        return self._switch

    @noise.setter
    def noise(self, switch: str) -> None:
        check_choice("noise", switch, SWITCHES)
        self._switch = switch

    @property
    def kernel(self) -> str:
        """What runs the loop over time; the environment variable NOISYRNN_KERNEL overrides it."""
        return self._kernel

    @kernel.setter
    def kernel(self, name: str) -> None:
        check_choice("kernel", name, dispatch.KERNELS)
        self._kernel = name

    @property
    def hidden_noise(self) -> HiddenNoise:
        """The noise as laws and levels, in the published parametrisation."""
        return self._published_noise()

    def options(self) -> dict[str, Any]:
        """Every constructor argument and its value."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return ", ".join(f"{name}={value!r}" for name, value in self.options().items())

    def forward(
        self,
        inputs: Tensor,
        h_0: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        dt: Tensor | float | None = None,
        path: BrownianPath | None = None,
        owner_training: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """All outputs and the last valid state.

        Args:
            inputs: `(batch, steps, input_size)`.
            h_0: Initial state, `(1, batch, state_size)`; zeros by default.
            lengths: Valid steps of each sequence, int64 `(batch,)`; all by default.
            dt: Length of each step in nominal steps: a number, `(steps,)` or `(batch, steps)`, above 0; 1 by default.
            path: Where the noise comes from; by default a fresh path for every pass.
            owner_training: Training mode of the model that owns the layer. With `noise="auto"` both must train, so that
                code which puts only the recurrent layers of a model in training mode does not switch the noise on.

        Returns:
            Outputs `(batch, steps, hidden_size)`, zero past a sequence's end, and the last valid state
            `(1, batch, state_size)`, whose first `hidden_size` entries are the last valid output.

        Raises:
            ValueError: If a shape, a length or a step length is out of range.
            TypeError: If inputs are not a floating tensor or lengths are not integers.
        """
        outputs, state = self._run(inputs, h_0, lengths, dt, path, owner_training, every_step=True)
        assert outputs is not None
        return outputs, state.unsqueeze(0)

    def last_output(
        self,
        inputs: Tensor,
        h_0: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        dt: Tensor | float | None = None,
        path: BrownianPath | None = None,
        owner_training: bool = True,
    ) -> Tensor:
        """The output at the last valid step, `(batch, hidden_size)`; arguments as for `forward`."""
        _, state = self._run(inputs, h_0, lengths, dt, path, owner_training, every_step=False)
        return state[:, : self.hidden_size]

    @torch.no_grad()
    def step(self, inputs: Tensor, state: Tensor | None = None) -> Tensor:
        """The state after one noise-free step: for streams, where the next value is not there yet.

        Steps one after another give what `forward` gives with the noise off. No gradients.

        Args:
            inputs: `(batch, input_size)`.
            state: `(batch, state_size)`, whose first `hidden_size` entries are the output; zeros by default.

        Raises:
            ValueError: If a shape is wrong.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.input_size:
            raise ValueError(f"inputs must have shape (batch, {self.input_size}), got {tuple(inputs.shape)}.")
        if state is None:
            state = self.cell.initial_state(len(inputs))
        if state.shape != (len(inputs), self.cell.state_size):
            raise ValueError(f"state must have shape {(len(inputs), self.cell.state_size)}, got {tuple(state.shape)}.")
        if self._streams():
            after = self._stream.step(self.cell, inputs, state)
            if after is not None:
                return after
        return self.cell.step(inputs, state)

    def _run(
        self,
        inputs: Tensor,
        h_0: Tensor | None,
        lengths: Tensor | None,
        dt: Tensor | float | None,
        path: BrownianPath | None,
        owner_training: bool,
        every_step: bool,
    ) -> tuple[Tensor | None, Tensor]:
        check_sequences("inputs", inputs, input_size=self.input_size)
        batch, steps, _ = inputs.shape
        if lengths is not None:
            check_lengths(lengths, batch=batch, steps=steps)
            lengths = lengths.to(inputs.device)
        state = self.cell.initial_state(batch)
        if h_0 is not None:
            if h_0.shape != (1, *state.shape):
                raise ValueError(f"h_0 must have shape {(1, *state.shape)}, got {tuple(h_0.shape)}.")
            state = h_0[0]
        step_lengths = self._step_lengths(dt, batch, steps, state)
        noise = self.hidden_noise
        noisy = self._switch == "on" or (self._switch == "auto" and self.training and owner_training)
        if not noisy or noise.silent:
            fused = getattr(self.cell, "run_fused", None)
            if fused is not None:
                return fused(inputs, state, lengths)
            path = None
            if self._streams():
                done = self._stream.run(
                    self.cell, inputs, state, lengths=lengths, dt=step_lengths, every_step=every_step
                )
                if done is not None:
                    return done
        elif path is None:
            path = self._seed_path() if torch.compiler.is_compiling() else self._fresh_path()
        return dispatch.run(
            self.cell,
            inputs,
            state,
            noise=None if path is None else noise,
            path=path,
            lengths=lengths,
            dt=step_lengths,
            every_step=every_step,
            kernel=self._kernel,
        )

    def _streams(self) -> bool:
        """Whether a noise-free pass may go by the CPU kernel with weights that are packed already."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        return dispatch.chosen(self._kernel) in ("auto", "cpu")

    def _published_noise(self) -> HiddenNoise:
        """What the options say as they are; a method, as `torch.compile` cannot follow a property of `super()`."""
        return HiddenNoise(
            additive=self.additive, multiplicative=self.multiplicative, form=self.noise_form, law=self.noise_law
        )

    def _step_lengths(self, dt: Tensor | float | None, batch: int, steps: int, like: Tensor) -> Tensor | None:
        """`dt` as a checked tensor `(steps,)` or `(batch, steps)`."""
        if dt is None:
            return None
        if not self.cell.timed:
            raise ValueError(
                f"dt must be None for {type(self).__name__}, whose steps have no length, got step lengths."
            )
        sizes = torch.as_tensor(dt, dtype=like.dtype, device=like.device)
        if sizes.ndim == 0:
            sizes = sizes.expand(steps)
        if sizes.shape not in ((steps,), (batch, steps)):
            raise ValueError(
                f"dt must be a number or have shape ({steps},) or {(batch, steps)}, got {tuple(sizes.shape)}."
            )
        if values_hidden():
            return sizes
        smallest, largest = float(sizes.detach().min()), float(sizes.detach().max())
        if not smallest > 0:
            raise ValueError(f"dt must be positive, got {smallest:g} as the smallest.")
        if not math.isfinite(largest):
            raise ValueError(f"dt must be finite, got {largest:g} as the largest.")
        return sizes

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _seed_path(self) -> BrownianPath:
        """A fresh path with a tensor as its seed, for a compiled graph: a number would compile it for every pass."""
        path = self._fresh_path()
        return replace(path, seed=path.seed_tensor())

    def _fresh_path(self) -> BrownianPath:
        """A path no earlier pass of this layer has seen; ranks of a distributed run differ too."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        self._passes += 1
        return BrownianPath(seed=derive_seed(self._entropy, rank, self._passes))
