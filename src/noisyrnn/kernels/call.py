"""What the fused kernels iterate, in plain tensors and numbers, and what each of them provides."""

from typing import NamedTuple, Protocol

from torch import Tensor

from noisyrnn.sde.brownian import BrownianPath
from noisyrnn.sde.diffusion import HiddenNoise

KINDS = ("drift", "oscillator", "modrelu")


class Recurrence(NamedTuple):
    r"""One step of a cell, as the fused kernels know it; the noise is put on its increment Δ by the kernel.

    - "drift": :math:`\Delta = d \odot (A h + \tanh(W h + U x + b))`, without `A h` where `A` is `None`.
    - "oscillator": the state is `(y, z)`; with `coefficients` :math:`(\gamma, \epsilon)`,
      :math:`\Delta_z = d\,[\tanh(W (y, z) + U x + b) - \gamma y - \epsilon z]`, :math:`\Delta_y = d\,(z + \Delta_z)`.
    - "modrelu": :math:`\Delta = \mathrm{modReLU}_b(W h + U x) - h`, with `b` the threshold; `step` has no meaning.

    Where a step lasts `dt` nominal steps, `d` stands for `step * dt`.

    Args:
        kind: One of `KINDS`.
        A: `(hidden_size, hidden_size)`, or `None`.
        W: `(hidden_size, state_size)`.
        U: `(hidden_size, input_size)`.
        b: `(hidden_size,)`.
        step: d, `(hidden_size,)`.
        coefficients: Constants of the kind.
    """

    kind: str
    A: Tensor | None
    W: Tensor
    U: Tensor
    b: Tensor
    step: Tensor
    coefficients: tuple[float, ...] = ()


class FusedNoise(NamedTuple):
    r"""`HiddenNoise` and `BrownianPath` as numbers.

    :math:`\mu = \mathrm{base} + \mathrm{slope} \cdot \xi` and :math:`\eta = \mathrm{additive} \cdot \xi_1`.
    A step of `dt` nominal steps multiplies `additive` by `sqrt(dt)` and, for normal ξ, divides `slope` by it.

    Args:
        source: What ξ is: 0 none (μ is 1), 1 uniform from the second motion's words, 2 normal of the second motion,
            3 normal of the first motion.
        additive: Factor of the first motion's normals.
        base: See above.
        slope: See above.
        first_row: Of the path.
        first_step: Of the path.
        stream: Of the path.
    """

    source: int = 0
    additive: float = 0.0
    base: float = 1.0
    slope: float = 0.0
    first_row: int = 0
    first_step: int = 0
    stream: int = 0

    @property
    def silent(self) -> bool:
        """Whether nothing is random."""
        return self.source == 0 and self.additive == 0

    @classmethod
    def of(cls, noise: HiddenNoise | None, path: BrownianPath | None) -> "FusedNoise":
        """The numbers of a noise on a path that is not coarsened."""
        if noise is None or path is None or noise.silent:
            return cls()
        source, base, slope = 0, 1.0, 0.0
        if noise.multiplicative > 0:
            if noise.law == "uniform":  # the antithetic path takes u to 1 - u
                source, slope = 1, path.sign * noise.multiplicative
                base = 1 - noise.multiplicative if path.sign == 1 else 1.0
            else:
                source, slope = (3 if noise.form == "shared" else 2), path.sign * noise.multiplicative
        return cls(source, path.sign * noise.additive, base, slope, path.first_row, path.first_step, path.stream)

    def restore(self, seed: Tensor) -> tuple[HiddenNoise, BrownianPath]:
        """A noise and a path, of a seed `()`, that `of` turns into these numbers."""
        noise = HiddenNoise(
            additive=abs(self.additive),
            multiplicative=abs(self.slope),
            form="shared" if self.source == 3 else "independent",
            law="uniform" if self.source == 1 else "gaussian",
        )
        sign = -1 if self.additive < 0 or self.slope < 0 else 1
        path = BrownianPath(
            seed=seed, first_row=self.first_row, first_step=self.first_step, stream=self.stream, sign=sign
        )
        return noise, path


class Pass(NamedTuple):
    """One pass of R replicas over B sequences of T steps. A replica axis may be expanded (stride 0).

    Args:
        kind: See `Recurrence`.
        inputs: `(R, B, T, input_size)`.
        state: Initial state, `(R, B, state_size)`.
        A: `(R, hidden_size, hidden_size)`, or `None`.
        W: `(R, hidden_size, state_size)`.
        U: `(R, hidden_size, input_size)`.
        b: `(R, hidden_size)`.
        step: `(R, hidden_size)`.
        dt: `(R, B, T)` or `(R, 1, T)`, or `None`.
        lengths: int64 `(R, B)`, each in [1, T], or `None`.
        seed: int64 `(R,)`; the bits of an unsigned number.
        coefficients: See `Recurrence`.
        noise: Laws, levels and place on the path.
        precision: How products are made, see `gpu.product_precision`; "" leaves it to the backend.
    """

    kind: str
    inputs: Tensor
    state: Tensor
    A: Tensor | None
    W: Tensor
    U: Tensor
    b: Tensor
    step: Tensor
    dt: Tensor | None
    lengths: Tensor | None
    seed: Tensor
    coefficients: tuple[float, ...]
    noise: FusedNoise
    precision: str = ""


class Gradients(NamedTuple):
    """Gradients of one pass, shaped as in `Pass`; `inputs` is `(R, 0)` if not asked for, `A` if there is none."""

    inputs: Tensor
    state: Tensor
    A: Tensor
    W: Tensor
    U: Tensor
    b: Tensor
    step: Tensor


class Backend(Protocol):
    """What a fused kernel provides; a module can be one."""

    def supports(self, recurrence: Recurrence, inputs: Tensor) -> str | None:
        """Why it cannot run these, as the end of a sentence; `None` if it can. Noise laws are all supported."""
        ...

    def layout(self, call: Pass) -> tuple[int, int]:
        """Numbers that one step of a row takes in memory: of the outputs, with their padding, and of what is saved."""
        ...

    def forward(self, call: Pass, *, every_step: bool, save: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs `(R, B, T, hidden_size)`, what `backward` needs beside them, and last state `(R, B, state_size)`.

        Outputs are zero past a sequence's end; without `every_step` and `save` they are `(R, 0, 0, 0)`. What is saved
        is `(R, T, B, ...)`, and `(R, 0, 0, 0)` without `save`. Both are stored step by step, with the numbers a row
        that `layout` gives. The three do not share memory with one another.
        """
        ...

    def backward(
        self,
        call: Pass,
        outputs: Tensor,
        saved: Tensor,
        grad_outputs: Tensor | None,
        grad_last: Tensor | None,
        *,
        with_inputs: bool,
    ) -> Gradients:
        """Gradients from those of the outputs and of the last state; `None` stands for zero."""
        ...
