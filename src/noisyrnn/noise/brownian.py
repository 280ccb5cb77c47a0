"""Noise as a function of (seed, row, step, unit), so that it can be regenerated, negated, split and coarsened."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from noisyrnn.checks import check_integer
from noisyrnn.native.library import Place
from noisyrnn.noise.draws import draw, seed_bits


def derive_seed(*parts: int | str) -> int:
    """A 64-bit seed that depends on all `parts`: how one run's seed gives many independent ones.

    Example:
        >>> derive_seed(1, "noise", 0) != derive_seed(1, "noise", 1)
        True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


_ROWS, _STEPS, _STREAMS = 2**33, 2**32, 2**32
"""What a counter of four 32-bit words can number; past them a path would repeat itself."""

_RANK = 0xD1B54A32D192ED03 - 2**64
"""Distance of the seeds of two neighbouring ranks: odd, so that its multiples return after 2⁶⁴ ranks only."""


@dataclass(frozen=True, kw_only=True)
class BrownianPath:
    """Standard normal noise that depends only on (seed, row, step, unit), for two independent Brownian motions.

    Philox turns the counter (unit, row pair, step, stream) into four words: two give the first motion of two
    neighbouring rows, two the second. So the same path reaches every kernel, batch split and device alike.

    Args:
        seed: In [0, 2⁶⁴); or an int64 tensor `()` with the bits of such a number, which `torch.func.vmap` may map.
        first_row: Row number of the first sequence, in [0, 2³³); ranks of a distributed run take different ones.
        first_step: Step number of the first step, in [0, 2³²), for a path drawn in pieces; in fine steps where it is
            coarsened.
        stream: Tells layers that share a seed apart, in [0, 2³²).
        sign: 1 or -1; see `negated`.
        factor: Fine steps in one step; see `coarsened`.

    Raises:
        ValueError: If an argument is out of range, or rows or steps that are drawn are.
        TypeError: If an argument is not an integer.

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
        for name, value, count in (
            ("first_row", self.first_row, _ROWS),
            ("first_step", self.first_step, _STEPS),
            ("stream", self.stream, _STREAMS),
        ):
            check_integer(name, value, minimum=0)
            if value >= count:
                raise ValueError(f"{name} must be less than 2**{count.bit_length() - 1}, got {value}.")
        check_integer("factor", self.factor, minimum=1)
        check_integer("sign", self.sign, minimum=-1)
        if self.sign not in (1, -1):
            raise ValueError(f"sign must be 1 or -1, got {self.sign}.")

    @classmethod
    def random(cls, *, device: torch.device | str = "cpu") -> "BrownianPath":
        """A path whose seed is drawn from torch's default generator of a device, as the mask of `nn.Dropout` is.

        So `torch.manual_seed` and `torch.random.fork_rng` repeat it, activation checkpointing draws it again, the
        `randomness` of `torch.func.vmap` applies, and DataLoader workers differ. The seed is a tensor on the device,
        which the host never waits for. Ranks of a distributed run differ even if they were seeded alike.
        """
        seed = torch.randint(2**63 - 1, (), dtype=torch.int64, device=device)
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        return cls(seed=seed + _signed(rank * _RANK) if rank else seed)

    def seed_tensor(self, device: torch.device | str = "cpu") -> Tensor:
        """The seed as an int64 tensor `()` on a device, which holds the bits of an unsigned number."""
        return seed_bits(self.seed, device)

    @property
    def place(self) -> Place:
        """Where it begins."""
        return Place(self.first_row, self.first_step, self.stream)

    def check_place(self, *, steps: int, batch: int) -> None:
        """Raise `ValueError` unless the path has `batch` rows and `steps` steps from its first ones on."""
        if torch.compiler.is_compiling():  # sizes may then be symbols, which a comparison would fix
            return
        if self.first_row + batch > _ROWS:
            raise ValueError(
                f"first_row must be at most {_ROWS - batch} for {batch} rows, got {self.first_row}. "
                "A path has 2**33 rows: take another seed."
            )
        if self.first_step + steps * self.factor > _STEPS:
            raise ValueError(
                f"first_step must be at most {_STEPS - steps * self.factor} for {steps} steps of factor {self.factor}, "
                f"got {self.first_step}. A path has 2**32 fine steps: take another seed."
            )

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
        check_integer("motions", motions, minimum=1)
        if motions > 2:
            raise ValueError(f"motions must be 1 or 2, got {motions}.")
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
        """`draw` with this path's fields; `steps` are fine ones."""
        if not torch.compiler.is_compiling():
            for name, value, minimum in (("steps", steps, 0), ("batch", batch, 1), ("units", units, 1)):
                check_integer(name, value, minimum=minimum)
        self.check_place(steps=steps // self.factor, batch=batch)
        return draw(
            self.seed,
            kinds,
            self.place,
            steps=steps,
            batch=batch,
            units=units,
            dtype=dtype,
            device=device,
        )


def check_path(path: object) -> None:
    """Raise `TypeError` unless `path` is a `BrownianPath` or `None`."""
    if path is not None and not isinstance(path, BrownianPath):
        raise TypeError(f"path must be a BrownianPath, got {path!r}. Give BrownianPath(seed=...).")


def _signed(word: int) -> int:
    """The int64 with the lowest 64 bits of a number."""
    return (word + 2**63) % 2**64 - 2**63
