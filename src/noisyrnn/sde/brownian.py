"""Noise as a function of (seed, row, step, unit), so that it can be regenerated, negated, split and coarsened."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from noisyrnn.checks import check_integer
from noisyrnn.sde.draws import draw, seed_bits


def derive_seed(*parts: int | str) -> int:
    """A 64-bit seed that depends on all `parts`: how one run's seed gives many independent ones.

    Example:
        >>> derive_seed(1, "noise", 0) != derive_seed(1, "noise", 1)
        True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, kw_only=True)
class BrownianPath:
    """Standard normal noise that depends only on (seed, row, step, unit), for two independent Brownian motions.

    Philox turns the counter (unit, row pair, step, stream) into four words: two give the first motion of two
    neighbouring rows, two the second. So the same path reaches every kernel, batch split and device alike.

    Args:
        seed: In [0, 2⁶⁴); or an int64 tensor `()` with the bits of such a number, which `torch.func.vmap` may map.
        first_row: Row number of the first sequence; ranks of a distributed run take different ones.
        first_step: Step number of the first step, for a path drawn in pieces; in fine steps where it is coarsened.
        stream: Tells layers that share a seed apart, in [0, 2³²).
        sign: 1 or -1; see `negated`.
        factor: Fine steps in one step; see `coarsened`.

    Example:
        >>> path = BrownianPath(seed=1)
        >>> first, second = path.normals(steps=3, batch=2, units=4)
        >>> torch.equal(first, -path.negated().normals(steps=3, batch=2, units=4)[0])
        True
    """

    seed: int | Tensor
    first_row: int = 0
    first_step: int = 0
    stream: int = 0
    sign: int = 1
    factor: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.seed, Tensor):
            if self.seed.dtype != torch.int64 or self.seed.ndim > 0:
                got = f"{self.seed.dtype} of shape {tuple(self.seed.shape)}"
                raise ValueError(f"seed must be an integer or an int64 tensor of shape (), got {got}.")
        else:
            check_integer("seed", self.seed, minimum=0)
            if self.seed >= 2**64:
                raise ValueError(f"seed must be less than 2**64, got {self.seed}.")
        check_integer("first_row", self.first_row, minimum=0)
        check_integer("first_step", self.first_step, minimum=0)
        check_integer("stream", self.stream, minimum=0)
        check_integer("factor", self.factor, minimum=1)
        if self.stream >= 2**32:
            raise ValueError(f"stream must be less than 2**32, got {self.stream}.")
        if self.sign not in (1, -1):
            raise ValueError(f"sign must be 1 or -1, got {self.sign}.")

    def seed_tensor(self) -> Tensor:
        """The seed as an int64 tensor `()` that holds the bits of an unsigned number."""
        return seed_bits(self.seed)

    def negated(self) -> "BrownianPath":
        """The antithetic path: every increment has the other sign."""
        return replace(self, sign=-self.sign)

    def coarsened(self, factor: int) -> "BrownianPath":
        """The same motion seen at every `factor`-th point of an equally spaced grid."""
        check_integer("factor", factor, minimum=1)
        return replace(self, factor=self.factor * factor)

    def normals(
        self,
        *,
        steps: int,
        batch: int,
        units: int,
        motions: int = 2,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Standard normals of each Brownian motion, `(motions, steps, batch, units)`; `motions` is 1 or 2.

        An increment over a step δ is `sqrt(δ)` times its entry.
        """
        fine = self._draw(("first", "second")[:motions], steps * self.factor, batch, units, dtype, device)
        if self.factor > 1:
            fine = fine.unflatten(1, (steps, self.factor)).sum(2) / math.sqrt(self.factor)
        return fine if self.sign == 1 else -fine

    def uniforms(
        self,
        *,
        steps: int,
        batch: int,
        units: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Uniform numbers on [0, 1) that share the words of the second motion, `(steps, batch, units)`.

        The antithetic path takes `u` to `1 - u`. A coarsened path has none: sums of uniforms are not uniform.
        """
        if self.factor > 1:
            raise ValueError(f"factor must be 1 for uniform noise, got {self.factor}. Use a Gaussian law.")
        values = self._draw(("uniform",), steps, batch, units, dtype, device)[0]
        return values if self.sign == 1 else 1 - values

    def _draw(
        self,
        kinds: Sequence[str],
        steps: int,
        batch: int,
        units: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Tensor:
        """`draw` with this path's fields."""
        return draw(
            self.seed,
            kinds,
            first_row=self.first_row,
            first_step=self.first_step,
            stream=self.stream,
            steps=steps,
            batch=batch,
            units=units,
            dtype=dtype,
            device=device,
        )
