"""Noise as a function of (seed, row, step, unit), so that it can be regenerated, negated, split and coarsened."""

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from noisyrnn.checks import check_integer

_MASK = 0xFFFFFFFF
_CHUNK = 1 << 15  # counters per pass: the six int64 work arrays of Philox then stay in a core's own cache
_GPU_CHUNK = 1 << 22  # few launches matter more there


def derive_seed(*parts: int | str) -> int:
    """A 64-bit seed that depends on all `parts`: how one run's seed gives many independent ones.

    Example:
        >>> derive_seed(1, "noise", 0) != derive_seed(1, "noise", 1)
        True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox 4x32 with ten rounds: four 32-bit words for each counter, all held in int64.

    Args:
        counter: Four int64 tensors of one shape, with values in [0, 2³²).
        key: Two integers in [0, 2³²).

    Reference:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # A product of two 32-bit words fills 64 bits; int64 wraps, which leaves its bits right.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0 = (p1 >> 32).bitwise_and_(_MASK).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = (p0 >> 32).bitwise_and_(_MASK).bitwise_xor_(c3).bitwise_xor_(k1)
        c1, c3 = p1.bitwise_and_(_MASK), p0.bitwise_and_(_MASK)
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def box_muller(first: Tensor, second: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two independent standard normals from two 32-bit words, of which the upper 24 bits count."""
    uniform = ((first >> 8).to(dtype) + 0.5) * 2.0**-24  # in (0, 1): its logarithm is finite
    angle = (second >> 8).to(dtype) * (2.0**-23 * math.pi)
    radius = uniform.log_().mul_(-2.0).sqrt_()
    return radius * angle.cos(), radius * angle.sin()


@dataclass(frozen=True, kw_only=True)
class BrownianPath:
    """Standard normal noise that depends only on (seed, row, step, unit), for two independent Brownian motions.

    Philox turns the counter (unit, row pair, step, stream) into four words: two give the first motion of two
    neighbouring rows, two the second. So the same path reaches every kernel, batch split and device alike.

    Args:
        seed: In [0, 2⁶⁴).
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

    seed: int
    first_row: int = 0
    first_step: int = 0
    stream: int = 0
    sign: int = 1
    factor: int = 1

    def __post_init__(self) -> None:
        check_integer("seed", self.seed, minimum=0)
        check_integer("first_row", self.first_row, minimum=0)
        check_integer("first_step", self.first_step, minimum=0)
        check_integer("stream", self.stream, minimum=0)
        check_integer("factor", self.factor, minimum=1)
        if self.seed >= 2**64:
            raise ValueError(f"seed must be less than 2**64, got {self.seed}.")
        if self.stream >= 2**32:
            raise ValueError(f"stream must be less than 2**32, got {self.stream}.")
        if self.sign not in (1, -1):
            raise ValueError(f"sign must be 1 or -1, got {self.sign}.")

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
        fine = self._rows(steps * self.factor, batch, units, motions, "normal", dtype, device)
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
        values = self._rows(steps, batch, units, 1, "uniform", dtype, device)[0]
        return values if self.sign == 1 else 1 - values

    def _rows(
        self,
        steps: int,
        batch: int,
        units: int,
        motions: int,
        kind: str,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Tensor:
        """All numbers of one kind, `(motions, steps, batch, units)`, made a few steps at a time."""
        first_pair, last_pair = self.first_row // 2, (self.first_row + batch - 1) // 2
        pairs = last_pair - first_pair + 1
        skip = self.first_row % 2
        key = (self.seed & _MASK, self.seed >> 32)
        cpu = torch.device(device).type == "cpu"
        span = max(1, (_CHUNK if cpu else _GPU_CHUNK) // (pairs * units))
        work = dtype if dtype == torch.float64 else torch.float32  # half precision cannot hold 24 bits
        unit = torch.arange(units, device=device)
        row = torch.arange(first_pair, last_pair + 1, device=device)[:, None]
        out = torch.empty(motions, steps, batch, units, dtype=dtype, device=device)
        for begin in range(0, steps, span):
            end = min(begin + span, steps)
            step = torch.arange(self.first_step + begin, self.first_step + end, device=device)[:, None, None]
            shape = (end - begin, pairs, units)
            stream = torch.full(shape, self.stream, device=device)
            words = philox((unit.expand(shape), row.expand(shape), step.expand(shape), stream), key)
            for motion in range(motions):
                if kind == "uniform":
                    pair = [(word >> 8).to(work) * 2.0**-24 for word in words[2:]]
                else:
                    pair = list(box_muller(words[2 * motion], words[2 * motion + 1], work))
                rows = torch.stack(pair, dim=2).flatten(1, 2)
                out[motion, begin:end] = rows[:, skip : skip + batch]
        return out
