"""One pass over sequences, as every fast kernel takes it."""

from enum import IntEnum
from typing import NamedTuple, Protocol

from torch import Tensor

from noisyrnn.kernels.recurrence import Recurrence
from noisyrnn.native.library import Place
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.hidden_noise import HiddenNoise


class NoiseSource(IntEnum):
    """What the multiplier μ of an increment is drawn from; native/call.h has the same values."""

    NONE = 0
    UNIFORM = 1
    SECOND_MOTION = 2
    FIRST_MOTION = 3


class KernelCall(NamedTuple):
    """One pass of R replicas over B sequences of T steps. The axis of replicas may be expanded (stride 0).

    Args:
        kind: One of `recurrence.KINDS`.
        inputs: `(R, B, T, input_size)`.
        state: Initial state, `(R, B, state_size)`.
        A: As in `Recurrence`, like the next four, with an axis of replicas.
        W: `(R, rows, entries)`.
        U: `(R, rows, input_size)`.
        b: `(R, rows)`.
        step: `(R, hidden_size)`.
        diffusion: A constant diffusion, `(R, hidden_size, columns)`; `None` for the two levels or no noise.
        dt: `(R, B, T)` or `(R, 1, T)`, or `None`.
        lengths: int64 `(R, B)`, each in [1, T], or `None`.
        seed: int64 `(R,)`: the bits of the seed of each replica's path.
        coefficients: Constants of the kind.
        activation: Name of the activation.
        noise: Laws and levels, of which `additive` is the factor of a diffusion; `None` for no noise.
        path: Rows, steps, stream and sign of all replicas' paths, whose seeds are `seed`; `None` without noise.
        precision: How products are made: one of `triton.kernel.PRECISIONS` by the GPU kernel; "bf16", "bf16x6" or ""
            (both float32) by the C++ kernel; "" for the others.
        packed: The weights in the C++ kernel's own order, where they are at hand.
    """

    kind: str
    inputs: Tensor
    state: Tensor
    A: Tensor | None
    W: Tensor
    U: Tensor
    b: Tensor
    step: Tensor
    diffusion: Tensor | None
    dt: Tensor | None
    lengths: Tensor | None
    seed: Tensor
    coefficients: tuple[float, ...] = ()
    activation: str = "tanh"
    noise: HiddenNoise | None = None
    path: BrownianPath | None = None
    precision: str = ""
    packed: Tensor | None = None

    @property
    def source(self) -> NoiseSource:
        """What μ is drawn from."""
        if self.noise is None or self.noise.multiplicative == 0:
            return NoiseSource.NONE
        if self.noise.law == "uniform":
            return NoiseSource.UNIFORM
        return NoiseSource.FIRST_MOTION if self.noise.form == "shared" else NoiseSource.SECOND_MOTION

    @property
    def sign(self) -> int:
        """-1 for antithetic paths, else 1."""
        return 1 if self.path is None else self.path.sign

    @property
    def additive(self) -> float:
        """Factor of the first motion's normals in η; a step of `dt` nominal steps multiplies it by `sqrt(dt)`."""
        return 0.0 if self.noise is None else self.sign * self.noise.additive

    @property
    def multiplicative(self) -> tuple[float, float]:
        """`slope` and `base` in μ = base + slope · ξ; a step of `dt` nominal steps divides the slope by `sqrt(dt)`."""
        if self.noise is None or self.noise.multiplicative == 0:
            return 0.0, 1.0
        level = self.noise.multiplicative
        if self.noise.law == "uniform":  # the antithetic path takes u to 1 - u
            return self.sign * level, 1 - level if self.sign == 1 else 1.0
        return self.sign * level, 1.0

    @property
    def place(self) -> Place:
        """Where the paths begin."""
        return Place() if self.path is None else self.path.place


class Gradients(NamedTuple):
    """Gradients of a pass, shaped as in `KernelCall`.

    `inputs` is `(R, 0)` if it is not asked for, and so are all weights; `A` and `diffusion` also where there is none.
    """

    inputs: Tensor
    state: Tensor
    A: Tensor
    W: Tensor
    U: Tensor
    b: Tensor
    step: Tensor
    diffusion: Tensor


EndGradients = tuple[Tensor | None, Tensor | None]
"""Gradients of a pass's outputs and of its last state, shaped like these; `None` stands for zero."""


class Kernel(Protocol):
    """What a fast kernel provides; a module can be one."""

    def supports(self, recurrence: Recurrence, inputs: Tensor, noise: HiddenNoise | None = None) -> str | None:
        """Return the reason why it cannot run a recurrence with a noise, as a clause; `None` if it can."""
        ...

    def layout(self, call: KernelCall) -> tuple[int, int]:
        """Values that one step of a row takes in memory: of the outputs, with their padding, and of what is saved."""
        ...

    def forward(self, call: KernelCall, *, every_step: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs `(R, B, T, hidden_size)`, what `backward` needs in addition, and last state `(R, B, state_size)`.

        Outputs are zero past a sequence's end; without `every_step` and `save` they are `(R, 0, 0, 0)`. What is saved
        is `(R, T, B, ...)`, and `(R, 0, 0, 0)` without `save`. Both are stored step by step, with as many values a row
        as `layout` returns. The three do not share memory with one another.
        """
        ...

    def backward(
        self,
        call: KernelCall,
        outputs: Tensor,
        saved: Tensor,
        grads: EndGradients,
        *,
        with_inputs: bool,
        with_weights: bool = True,
    ) -> Gradients:
        """Gradients in the tensors of a call; `outputs` and `saved` are those of `forward`."""
        ...
