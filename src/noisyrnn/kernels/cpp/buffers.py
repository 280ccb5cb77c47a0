"""Large buffers used again from step to step: fresh pages from the system would cost as much as a tenth of a step."""

import math
import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SMALL = 1 << 18  # floats; below, the ordinary allocator does as well
_ALIGNMENT = 64
_MOST_BLOCKS = 12
_MOST_BYTES = 1 << 30
_IDLE = 64  # buffers taken by others before a free block is given back


@dataclass(eq=False)
class _Block:
    """Memory that is not in use.

    Args:
        memory: Its bytes.
        since: Number of the last buffer taken when it became free.
    """

    memory: np.ndarray
    since: int


_free: list[_Block] = []
_taken = 0


def empty(*shape: int) -> Tensor:
    """An uninitialised float32 tensor; its memory returns for reuse when the last tensor on it is gone.

    At most twelve free blocks and 1 GiB are kept, none of them longer than 64 further calls.
    """
    global _taken
    count = math.prod(shape)
    if count < _SMALL:
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    _taken += 1
    size = count * 4 + _ALIGNMENT
    memory = _reused(size)
    if memory is None:
        memory = np.empty(size, np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    floats = memory[offset : offset + count * 4].view(np.float32)
    # The tensor keeps `floats` alive, and nothing else does.
    weakref.finalize(floats, _give_back, memory).atexit = False
    return torch.from_numpy(floats).view(shape)


def empty_like(tensor: Tensor) -> Tensor:
    """An uninitialised, contiguous tensor of the shape of a float32 tensor on the CPU; `empty` describes its memory."""
    if tensor.numel() < _SMALL and tensor.is_contiguous():
        return torch.empty_like(tensor)  # half the time of `torch.empty`, and a pass has a dozen small ones
    return empty(*tensor.shape)


def release() -> None:
    """Give all free blocks back to the system now."""
    _free.clear()


def kept_bytes() -> int:
    """Bytes held for reuse."""
    return sum(block.memory.nbytes for block in _free)


def _reused(size: int) -> np.ndarray | None:
    """A free block of at least `size` and at most twice as many bytes."""
    fitting = [block for block in list(_free) if size <= block.memory.nbytes <= 2 * size]
    for block in sorted(fitting, key=lambda block: block.memory.nbytes):
        try:
            _free.remove(block)  # another thread may have been faster
        except ValueError:
            continue
        return block.memory
    return None


def _give_back(memory: np.ndarray) -> None:
    """May run in any thread, at any moment: no lock, only steps that are atomic by themselves."""
    _free.append(_Block(memory, _taken))
    for block in list(_free):
        if len(_free) > _MOST_BLOCKS or kept_bytes() > _MOST_BYTES or _taken - block.since > _IDLE:
            try:
                _free.remove(block)
            except ValueError:
                continue
