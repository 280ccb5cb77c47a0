"""Normal and uniform numbers from a path's words, written in place a few steps at a time.

On a processor numpy makes them, on as many Python threads as torch has: torch takes up to three times as long for a
product of integers, and its threads meet after every operation. Elsewhere torch does.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisyrnn.sde.philox import Array, round_keys, rounds
from noisyrnn.threads import kernel_threads

_UPPER = 0xFFFFFF00  # of a word, the 24 bits that float32 holds
_CHUNK = 1 << 17  # counters at a time: with fewer the threads queue for the interpreter, more leave the cache
_GPU_CHUNK = 1 << 22  # few launches matter more there
_THREADS = 8  # at most: they share one interpreter


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
        seed: See `fill`; `torch.func.vmap` may map it.
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

    def make(seeds: int | Tensor) -> Tensor:
        seeds = seed_bits(seeds, device)
        single = torch.promote_types(dtype, torch.float32)
        # Made by the seeds, so that where `torch.func.vmap` in a compiled graph maps them it maps the numbers.
        out = seeds.new_empty(len(kinds), *seeds.shape, steps, batch, units, dtype=single)
        fill(out.unbind(0), seeds, kinds, first_row=first_row, first_step=first_step, stream=stream)
        return out.to(dtype)

    if torch._C._are_functorch_transforms_active():
        return _Transformed.apply(seed_bits(seed, device), make)
    return make(seed)


def seed_bits(seed: int | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """A seed in [0, 2⁶⁴) as an int64 tensor with its bits; one that is a tensor, on the device."""
    if isinstance(seed, Tensor):
        return seed.to(device)
    bits = seed - 2**64 if seed >= 2**63 else seed
    return torch.full((), bits, dtype=torch.int64, device=device)  # no copy from the host's memory


class _Transformed(torch.autograd.Function):
    """`make(seed)`, whose second axis is the seeds', out of sight of the transforms of `torch.func`."""

    @staticmethod
    def forward(seed: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """The numbers of all seeds at once."""
        return make(seed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is to be differentiated."""
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], seed: Tensor, make: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
        """Give the seeds one axis more."""
        return _Transformed.apply(seed.movedim(in_dims[0], 0), make), 1


def fill(
    targets: Sequence[Tensor],
    seed: int | Tensor,
    kinds: Sequence[str],
    *,
    first_row: int,
    first_step: int,
    stream: int,
    affine: Sequence[tuple[float, float]] | None = None,
) -> None:
    """Write numbers of a path's words.

    Args:
        targets: One for each kind, float32 or float64 `(*seed.shape, steps, batch, units)`, alike in all but where they
            lie.
        seed: In [0, 2⁶⁴); or an int64 tensor of such numbers' bits, each of which gets its own numbers.
        kinds: Each "first" or "second", normals of that motion, or "uniform", from the second motion's words.
        first_row: See `BrownianPath`.
        first_step: See `BrownianPath`.
        stream: See `BrownianPath`.
        affine: For each kind, what its numbers are multiplied with, and what is added then; 1 and 0 for `None`.
    """
    compiling = torch.compiler.is_compiling()
    xp = np if targets[0].device.type == "cpu" and not compiling else torch
    threads = min(kernel_threads(), _THREADS) if xp is np else 1
    affine = affine or [(1.0, 0.0)] * len(kinds)
    pen = _Pen(xp, targets, seed, kinds, affine, first_row=first_row, first_step=first_step, stream=stream)
    steps = pen.steps
    span = max(1, min(steps, (_CHUNK if xp is np else _GPU_CHUNK) // pen.layer))
    threads = min(threads, math.ceil(steps / span)) or 1
    turns = math.ceil(steps / (span * threads)) or 1
    span = math.ceil(steps / (turns * threads)) or 1  # as many turns for each

    def work(begins: Iterable[int]) -> None:
        memory = None if compiling else pen.memory(span)  # a compiler fuses what has no memory of its own
        for begin in begins:
            pen.write(begin, min(begin + span, steps), memory)

    if threads == 1:
        work(range(0, steps, span))
    else:
        _share(work, range(0, steps, span), threads)


def _share(work: Callable[[Iterable[int]], None], items: Sequence[int], threads: int) -> None:
    """Let this thread and others work on the items, each on the next one when it has done with one."""
    waiting: SimpleQueue[int | None] = SimpleQueue()
    for item in (*items, *[None] * threads):
        waiting.put(item)
    stopped = Event()

    def part() -> None:
        try:
            work(item for item in iter(waiting.get, None) if not stopped.is_set())
        except BaseException:
            stopped.set()  # an interruption stops the others too
            raise

    with ThreadPoolExecutor(threads - 1) as pool:
        others = []
        with contextlib.suppress(RuntimeError):  # at the interpreter's end no thread begins; this one goes on alone
            for _ in range(threads - 1):
                others.append(pool.submit(part))
        part()
    for other in others:
        other.result()


class _Pen:
    """Writes some steps at a time, with `torch` or `numpy`; other arguments as for `fill`.

    Attributes:
        steps: Of the targets.
        layer: Counters of a step.
    """

    def __init__(
        self,
        xp: ModuleType,
        targets: Sequence[Tensor],
        seed: int | Tensor,
        kinds: Sequence[str],
        affine: Sequence[tuple[float, float]],
        *,
        first_row: int,
        first_step: int,
        stream: int,
    ) -> None:
        *self._replicas, self.steps, batch, self._units = targets[0].shape
        self._dtype, self._device = targets[0].dtype, targets[0].device
        self._skip = first_row % 2
        self._pairs = (self._skip + batch + 1) // 2
        self.layer = math.prod(self._replicas) * self._pairs * self._units
        self._xp = xp
        self._targets: Sequence[Array] = targets
        key: Array = seed_bits(seed, self._device)[..., None, None, None]
        if xp is np:
            self._targets, key = [target.numpy() for target in targets], key.numpy().view(np.uint64)
        self._kinds, self._affine = kinds, affine
        self._keys = round_keys(key)
        self._unit = self._range(0, self._units)
        self._row = self._range(first_row // 2, self._pairs)[:, None]
        self._first_step = first_step
        self._stream = self._range(stream, 1)

    def _range(self, first: int, count: int) -> Array:
        """Whole numbers for a counter."""
        if self._xp is np:
            return np.arange(first, first + count, dtype=np.uint64)
        return torch.arange(first, first + count, device=self._device)

    def memory(self, steps: int) -> tuple[Array, Array]:
        """What `write` uses for so many steps."""
        size = steps * self.layer
        if self._xp is np:
            return np.empty((5, size), np.uint64), np.empty((3, size), self._targets[0].dtype)
        integers = torch.empty(5, size, dtype=torch.int64, device=self._device)
        return integers, torch.empty(3, size, dtype=self._dtype, device=self._device)

    def write(self, begin: int, end: int, memory: tuple[Array, Array] | None) -> None:
        """Write the steps `[begin, end)`, in fresh memory for `None`."""
        whole = (*self._replicas, end - begin, self._pairs, self._units)
        integers: Sequence[Array | None] = (None,) * 5
        floats: Sequence[Array | None] = (None,) * 3
        if memory is not None:
            integers, floats = ([part[: math.prod(whole)].reshape(whole) for part in parts] for parts in memory)
        step = self._range(self._first_step + begin, end - begin)[:, None, None]
        words = rounds(self._xp, (self._unit, self._row, step, self._stream), self._keys, integers)
        for kind, (factor, summand), target in zip(self._kinds, self._affine, self._targets, strict=True):
            pair = words[:2] if kind == "first" else words[2:]
            even, odd = (self._float(word, part) for word, part in zip(pair, floats, strict=False))
            if kind != "uniform":
                even, odd, radius = box_muller(self._xp, even, odd, floats[2])
                if factor != 1.0:
                    radius *= factor
            here, skip = target[..., begin:end, :, :], self._skip
            for part, first, rows in (even, skip, here[..., skip::2, :]), (odd, 0, here[..., 1 - skip :: 2, :]):
                used = slice(first, first + rows.shape[-2])
                by = 2.0**-32 * factor if kind == "uniform" else radius[..., used, :]
                self._put(part[..., used, :], by, summand, rows)

    def _put(self, numbers: Array, factor: Array | float, summand: float, rows: Array) -> None:
        """Write `numbers * factor + summand`; the last operation into the rows."""
        operation, operand = self._xp.multiply, factor
        if summand != 0.0:
            numbers *= factor
            operation, operand = self._xp.add, summand
        if self._xp is np:
            operation(numbers, operand, out=rows)
        else:
            rows[...] = operation(numbers, operand)

    def _float(self, word: Array, memory: Array | None) -> Array:
        """The upper 24 bits of a word, which loses the others, as a floating point number below 2³²."""
        word &= _UPPER
        if memory is None:
            return word.to(self._dtype)
        memory[...] = word.view(np.int64) if self._xp is np else word  # signed numbers convert faster
        return memory


def box_muller(xp: ModuleType, first: Array, second: Array, memory: Array | None) -> tuple[Array, Array, Array]:
    """Cosine, sine and radius from two words: cosine times radius and sine times radius are independent normals.

    Args:
        xp: `torch` or `numpy`.
        first: A word's upper 24 bits as a floating point number below 2³²; written over.
        second: The other word's, likewise.
        memory: Of the same shape and type, or `None` for fresh one.
    """
    first += 2.0**7
    first *= 2.0**-32  # in (0, 1): its logarithm is finite
    second *= 2.0**-31 * math.pi
    fresh = memory is None
    radius = xp.log(first, out=None if fresh else first)
    radius *= -2.0
    radius = xp.sqrt(radius, out=None if fresh else radius)
    return xp.cos(second, out=memory), xp.sin(second, out=None if fresh else second), radius
