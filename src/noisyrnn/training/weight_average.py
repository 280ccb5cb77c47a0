"""An exponential moving average of a model's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    r"""An average of the weights over the steps, :math:`\bar w \leftarrow \gamma \bar w + (1 - \gamma) w`.

    After few steps γ is smaller, (1 + n) / (10 + n) after n of them, so that the initial weights do not count for long.

    Args:
        model: Its parameters are averaged; its buffers do not change in training.
        decay: γ, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = dict(model.named_parameters())
        self._decay = decay
        self._values = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take the weights of now into the average, after step number `steps`, from 1."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(self._values.values()), list(self._parameters.values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            own = parameter.clone()
            parameter.copy_(self._values[name])
            self._values[name].copy_(own)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights on the CPU."""
        return {name: value.cpu().clone() for name, value in self._values.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from averaged weights."""
        for name, value in self._values.items():
            value.copy_(state[name])
