"""A training step of several runs as a CUDA graph: one launch in place of some hundred."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Compute = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From inputs, labels and seeds to the values of a step, which the host reads; the weights are updated on the way."""


class CapturedStep:
    """Repeats a computation whose inputs, labels and seeds change, but neither their shapes nor anything else.

    Without a GPU the computation itself is called again.

    Args:
        compute: It must not wait for the GPU, and must have run before on the current stream, which is not the
            default one: what compiles and what allocates for good has then happened.
        inputs: Of the first step, of which nothing is computed here.
        labels: Likewise.
        seeds: Likewise.
    """

    def __init__(self, compute: Compute, inputs: Tensor, labels: Tensor, seeds: Tensor) -> None:
        self._places = tuple(torch.empty_like(tensor) for tensor in (inputs, labels, seeds))
        self._compute = compute
        self._graph = None
        if inputs.device.type == "cuda":
            self._graph = torch.cuda.CUDAGraph()
            stream = torch.cuda.current_stream(inputs.device)
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._values = compute(*self._places)
            self._read = torch.empty_like(self._values, device="cpu", pin_memory=True)
            self._done = torch.cuda.Event()

    def begin(self, inputs: Tensor, labels: Tensor, seeds: Tensor) -> Callable[[], list[float]]:
        """Begin a step; the function that is returned waits for its end, and returns its values."""
        for place, tensor in zip(self._places, (inputs, labels, seeds), strict=True):
            place.copy_(tensor)
        if self._graph is None:
            return self._compute(*self._places).tolist
        self._graph.replay()
        self._read.copy_(self._values, non_blocking=True)
        self._done.record()
        return self._wait

    def _wait(self) -> list[float]:
        self._done.synchronize()
        values: list[float] = self._read.tolist()
        return values


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """Return 64-bit words, unsigned or signed, as an int64 tensor; a GPU's earlier work is not waited for."""
    signed = [(value + 2**63) % 2**64 - 2**63 for value in values]
    tensor = torch.tensor(signed, dtype=torch.int64, device="cpu")
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
