"""Draws a path's normal and uniform values: by compiled code where there is some, else by tensor operations.

The tensor operations are the definition. In float32 the library of the CPU and the Triton kernel of a GPU give the same
values up to rounding, uniform values exactly. In float64 the library gives them to the last bits, with the C library's
functions.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from noisyrnn.native import library
from noisyrnn.native.library import Place
from noisyrnn.noise.philox import philox

_CHUNK = 1 << 18
_GPU_CHUNK = 1 << 22
"""Counters at a time for the tensor operations: what a CPU's cache holds; on a GPU few launches matter more."""


def draw(
    seed: int | Tensor,
    kinds: Sequence[str],
    place: Place,
    *,
    steps: int,
    batch: int,
    units: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Random values of a path: `(len(kinds), *seed.shape, steps, batch, units)`.

    Args:
        seed: In [0, 2⁶⁴); or an int64 tensor with the bits of such numbers, which `torch.func.vmap` may map.
        kinds: Each "first" or "second", normals of that motion, or "uniform", from the second motion's words.
        place: Where the values begin in the path.
        steps: Number of steps, at least 0.
        batch: Number of rows, at least 1.
        units: Number of units, at least 1.
        dtype: Of the result; half types are rounded from float32.
        device: Of the result.
    """

    def make(seeds: int | Tensor) -> Tensor:
        seeds = seed_bits(seeds, device)
        single = torch.promote_types(dtype, torch.float32)
        # Made by the seeds, so that where `torch.func.vmap` in a compiled graph maps them it maps the values.
        out = seeds.new_empty(len(kinds), *seeds.shape, steps, batch, units, dtype=single)
        fill(out.unbind(0), seeds, kinds, place)
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
        """The values of all seeds at once."""
        return make(seed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is to be differentiated."""
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], seed: Tensor, make: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
        """Give the seeds one axis more."""
        return _Transformed.apply(seed.movedim(in_dims[0], 0), make), 1


def fill(targets: Sequence[Tensor], seed: int | Tensor, kinds: Sequence[str], place: Place) -> None:
    """Write a path's values into tensors.

    Args:
        targets: One for each kind, float32 or float64 `(*seed.shape, steps, batch, units)`, of one shape, type and
            device; rows and units are contiguous.
        seed: As for `draw`.
        kinds: As for `draw`.
        place: As for `draw`.
    """
    seeds, (steps, batch, units) = seed_bits(seed, targets[0].device), targets[0].shape[-3:]
    compiled = None if torch.compiler.is_compiling() else _compiled(targets[0])
    if compiled is not None:
        flat = {
            kind: target.view(seeds.numel(), steps, batch, units) for kind, target in zip(kinds, targets, strict=True)
        }
        seeds, uniform = seeds.flatten(), "second" not in flat
        compiled(seeds, flat.get("first"), flat.get("uniform" if uniform else "second"), place, uniform=uniform)
        if not uniform and "uniform" in flat:  # from the words of "second"
            compiled(seeds, None, flat["uniform"], place, uniform=True)
        return
    counters = math.prod(seeds.shape) * (batch // 2 + 1) * units
    most = _CHUNK if targets[0].device.type == "cpu" else _GPU_CHUNK
    span = max(1, steps if torch.compiler.is_compiling() else most // counters)
    first_row, first_step, stream = place
    for begin in range(0, steps, span):
        count = min(span, steps - begin)
        chunks = [target[..., begin : begin + count, :, :] for target in targets]
        _fill_by_tensor_operations(chunks, seeds, kinds, Place(first_row, first_step + begin, stream))


def _compiled(target: Tensor) -> Callable[..., None] | None:
    """What draws into such tensors, as `library.draw` does; `None` if only tensor operations do."""
    if target.is_cpu:
        return library.draw if library.unavailable() is None else None
    if target.device.type != "cuda" or target.dtype != torch.float32 or importlib.util.find_spec("triton") is None:
        return None
    from noisyrnn.noise import triton_draws  # slow to import

    return triton_draws.fill if triton_draws.fits(target.view(-1, *target.shape[-3:])) else None


def _fill_by_tensor_operations(targets: Sequence[Tensor], seeds: Tensor, kinds: Sequence[str], place: Place) -> None:
    """The definition: word 0 and 1 of counter (unit, row pair, step, stream) give the first motion, 2 and 3 the second.

    Of two words Box-Muller makes two normals, one for each row of the pair.
    """
    steps, batch, units = targets[0].shape[-3:]
    first_row, first_step, stream = place
    skip = first_row % 2
    pairs = (skip + batch + 1) // 2

    def count(first: int, size: int) -> Tensor:
        return torch.arange(first, first + size, device=seeds.device)

    step, pair = count(first_step, steps)[:, None, None], count(first_row // 2, pairs)[:, None]
    words = philox((count(0, units), pair, step, count(stream, 1)), seeds[..., None, None, None])
    for kind, target in zip(kinds, targets, strict=True):
        one, two = (_fraction(word, target.dtype) for word in (words[:2] if kind == "first" else words[2:]))
        even, odd = (one, two) if kind == "uniform" else box_muller(one, two)
        rows = torch.stack((even, odd), dim=-2).flatten(-3, -2)  # pairs of rows side by side
        target[...] = rows[..., skip : skip + batch, :]


def _fraction(word: Tensor, dtype: torch.dtype) -> Tensor:
    """The upper 24 bits of a word, which float32 holds, as a number in [0, 1)."""
    return (word >> 8).to(dtype) * 2.0**-24


def box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent normals from two uniform values of 24 bits in [0, 1)."""
    radius = torch.sqrt(-2.0 * torch.log(first + 2.0**-25))  # in (0, 1): its logarithm is finite
    angle = 2.0 * math.pi * second
    return radius * torch.cos(angle), radius * torch.sin(angle)
