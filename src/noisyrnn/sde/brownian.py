"""Noise as a function of (seed, row, step, unit), so that it can be regenerated, negated, split and coarsened."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from noisyrnn.checks import check_integer

_MASK = 0xFFFFFFFF
_UPPER = 0xFFFFFF00  # of a word, the 24 bits that float32 holds
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_CHUNK = 1 << 17  # counters per pass and thread (for two at least): fewer are not worth the calls, more leave the cache
_GPU_CHUNK = 1 << 22  # few launches matter more there


def derive_seed(*parts: int | str) -> int:
    """A 64-bit seed that depends on all `parts`: how one run's seed gives many independent ones.

    Example:
        >>> derive_seed(1, "noise", 0) != derive_seed(1, "noise", 1)
        True
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


Word = int | Tensor
Memory = Tensor | None  # to write a result into; `None` for a fresh tensor


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Word, Word]) -> tuple[Tensor, ...]:
    """Philox 4x32 with ten rounds: four 32-bit words for each counter, all held in int64.

    Args:
        counter: Four int64 tensors that broadcast against one another, with values in [0, 2³²).
        key: Two integers in [0, 2³²), or int64 tensors of such that broadcast against the counters.

    Reference:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    whole = torch.broadcast_tensors(*counter, *(word for word in key if isinstance(word, Tensor)))
    words = _rounds((whole[0], whole[1], whole[2], whole[3]), _round_keys(key), (None,) * 5)
    return tuple(word.bitwise_and_(_MASK) for word in words)


def _round_keys(key: tuple[Word, Word]) -> list[tuple[Word, Word]]:
    """The keys of all ten rounds, with upper bits that do not count."""
    return [(key[0] + n * 0x9E3779B9, key[1] + n * 0xBB67AE85) for n in range(10)]


def _rounds(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], keys: list[tuple[Word, Word]], memory: Sequence[Memory]
) -> tuple[Tensor, ...]:
    """Ten rounds of Philox with their keys; the words have upper bits that do not count.

    A product of two 32-bit words fills 64 bits; int64 wraps, which leaves its bits right. Only what is multiplied next
    has to be free of upper bits, so the lower halves keep theirs.

    Args:
        counter: As in `philox`; the last word has no axis that the others lack.
        keys: Of the rounds.
        memory: Five of the shape that all words broadcast to.
    """
    c0, c1, c2, c3 = counter
    m0, m1, m2, m3, m4 = memory
    few_threads = m0 is not None and torch.get_num_threads() <= 2
    # After one round a word depends on a part of the counter only; after three on nearly all of it. So far the words
    # stay as small as broadcasting lets them, and are masked while they are.
    (k0, k1), *later = keys
    p0, p1 = c0 * _M0, c2 * _M1
    c0, c1 = ((p1 >> 32) ^ c1 ^ k0) & _MASK, p1
    c2, c3 = ((p0 >> 32) ^ c3 ^ k1) & _MASK, p0

    (k0, k1), *later = later
    p0, p1 = c0 * _M0, c2 * _M1
    c0, c1 = ((p1 >> 32) ^ c1 ^ k0) & _MASK, p1
    c2, c3 = torch.bitwise_xor((p0 >> 32) & _MASK, (c3 ^ k1) & _MASK, out=m1), p0

    (k0, k1), *later = later
    p0, p1 = c0 * _M0, _times(c2, _M1, few_threads)
    c0, c1 = torch.bitwise_right_shift(p1, 32, out=m0).bitwise_xor_(c1 ^ k0).bitwise_and_(_MASK), p1
    c2, c3 = torch.bitwise_xor((p0 >> 32) & _MASK, (c3 ^ k1) & _MASK, out=m2), p0

    for k0, k1 in later:
        p0, p1 = _times(c0, _M0, few_threads), _times(c2, _M1, few_threads)
        c0, c1 = torch.bitwise_right_shift(p1, 32, out=m4).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_MASK), p1
        c2, c3 = torch.bitwise_right_shift(p0, 32, out=m1).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_MASK), p0
        m0, m1, m2, m3, m4 = m4, m2, m1, m0, m3  # where c0 to c3 now are, and what is free
    return c0, c1, c2, c3


def _times(word: Tensor, factor: int, few_threads: bool) -> Tensor:
    """`word *= factor`; numpy takes a third of torch's time for it on one thread, and less than torch on two."""
    if few_threads:
        numbers = word.numpy()
        np.multiply(numbers, factor, out=numbers)
        return word
    return word.mul_(factor)


def box_muller(first: Tensor, second: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two independent standard normals from two 32-bit words, of which the upper 24 bits count."""
    return _normals((first & _UPPER).to(dtype), (second & _UPPER).to(dtype), None)


def _normals(first: Tensor, second: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
    """As `box_muller`, from words that are floating point numbers already; writes over them."""
    uniform = first.add_(2.0**7).mul_(2.0**-32)  # in (0, 1): its logarithm is finite
    angle = second.mul_(2.0**-31 * math.pi)
    radius = uniform.log_().mul_(-2.0).sqrt_()
    return torch.cos(angle, out=memory).mul_(radius), angle.sin_().mul_(radius)


def draw(
    seed: int | Tensor,
    kinds: Sequence[str],
    *,
    first_row: int,
    first_step: int,
    stream: int,
    steps: int,
    batch: int,
    units: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Numbers of a path's words: `(len(kinds), *seed.shape, steps, batch, units)`.

    Args:
        seed: See `fill`.
        kinds: See `fill`.
        first_row: See `BrownianPath`.
        first_step: See `BrownianPath`.
        stream: See `BrownianPath`.
        steps: How many, at least 0.
        batch: Rows, at least 1.
        units: How many, at least 1.
        dtype: Of the result; half types round float32's numbers.
        device: Of the result.
    """
    shape = steps, batch, units
    # Made by the seed, so that where `torch.func.vmap` maps the seed it maps the result, which is written in place.
    if isinstance(seed, int):
        out = torch.empty(len(kinds), *shape, dtype=dtype, device=device)
    else:
        seed = seed.to(device)
        out = seed.new_empty(len(kinds), *seed.shape, *shape, dtype=dtype)
    fill(out.unbind(0), seed, kinds, first_row=first_row, first_step=first_step, stream=stream)
    return out


def fill(
    targets: Sequence[Tensor],
    seed: int | Tensor,
    kinds: Sequence[str],
    *,
    first_row: int,
    first_step: int,
    stream: int,
) -> None:
    """Write numbers of a path's words, made a few steps at a time.

    Args:
        targets: One for each kind, `(*seed.shape, steps, batch, units)`, alike in all but where they lie.
        seed: In [0, 2⁶⁴); or an int64 tensor of such numbers' bits, each of which gets its own numbers.
        kinds: Each "first" or "second", normals of that motion, or "uniform", from the second motion's words.
        first_row: See `BrownianPath`.
        first_step: See `BrownianPath`.
        stream: See `BrownianPath`.
    """
    *replicas, steps, batch, units = targets[0].shape
    device, dtype = targets[0].device, targets[0].dtype
    work = dtype if dtype == torch.float64 else torch.float32  # half precision cannot hold 24 bits
    key = seed if isinstance(seed, int) else seed.to(device)[..., None, None, None]
    keys = _round_keys((key & _MASK, key >> 32))
    skip = first_row % 2
    pairs = (skip + batch + 1) // 2
    few = device.type != "cpu" or torch.compiler.is_compiling()  # a graph cannot ask for the number of threads
    chunk = _GPU_CHUNK if few else _CHUNK * max(2, torch.get_num_threads())
    span = max(1, min(steps, chunk // (math.prod(replicas) * pairs * units)))
    unit = torch.arange(units, device=device)
    row = torch.arange(first_row // 2, first_row // 2 + pairs, device=device)[:, None]
    layer = torch.full((1,), stream, device=device)
    integers = floats = None
    if not few and not torch._C._are_functorch_transforms_active():  # `torch.func.vmap` knows no `out`
        size = math.prod(replicas) * span * pairs * units
        integers, floats = torch.empty(5, size, dtype=torch.int64), torch.empty(3, size, dtype=work)
    for begin in range(0, steps, span):
        end = min(begin + span, steps)
        whole = (*replicas, end - begin, pairs, units)
        step = torch.arange(first_step + begin, first_step + end, device=device)[:, None, None]
        words = _rounds((unit, row, step, layer), keys, _parts(integers, 5, whole))
        first, second, spare = _parts(floats, 3, whole)
        for kind, target in zip(kinds, targets, strict=True):
            used = words[:2] if kind == "first" else words[2:]
            even, odd = _float(used[0], work, first), _float(used[1], work, second)
            if kind == "uniform":
                even, odd = even.mul_(2.0**-32), odd.mul_(2.0**-32)
            else:
                even, odd = _normals(even, odd, spare)
            here = target[..., begin:end, :, :]
            for part, rows in (even[..., skip:, :], here[..., skip::2, :]), (odd, here[..., 1 - skip :: 2, :]):
                rows.copy_(part[..., : rows.shape[-2], :])


def _parts(memory: Memory, count: int, shape: tuple[int, ...]) -> Sequence[Memory]:
    """A piece of this shape of each of the `count` rows of `memory`."""
    return (None,) * count if memory is None else memory[:, : math.prod(shape)].view(count, *shape).unbind(0)


def _float(word: Tensor, dtype: torch.dtype, memory: Memory) -> Tensor:
    """The upper 24 bits of a word, which loses the others, as a floating point number below 2³²."""
    word.bitwise_and_(_UPPER)
    return word.to(dtype) if memory is None else memory.copy_(word)


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
        if isinstance(self.seed, Tensor):
            return self.seed
        return torch.tensor(self.seed - 2**64 if self.seed >= 2**63 else self.seed)

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
