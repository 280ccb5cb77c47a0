from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Two classes with logits (-w·x, w·x) / 2: the loss of label 1 falls with w·x, so every optimum is known."""

    def __init__(self, steps: int, channels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(steps, channels, generator=generator, dtype=torch.float64))

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is not None:
            inputs = inputs * (torch.arange(inputs.shape[1]) < lengths[:, None]).unsqueeze(-1)
        margin = (inputs * self.weight).sum(dim=(1, 2))
        return torch.stack((-margin / 2, margin / 2), dim=1)


class Recurrent(nn.Module):
    """A small GRU with three classes, read at the last valid step."""

    def __init__(self, channels: int = 2, classes: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.gru = nn.GRU(channels, 8, batch_first=True, dtype=torch.float64)
            self.readout = nn.Linear(8, classes, dtype=torch.float64)
            with torch.no_grad():
                self.readout.weight.mul_(6.0)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        states, _ = self.gru(inputs)
        last = states[:, -1] if lengths is None else states[torch.arange(len(inputs)), lengths - 1]
        return self.readout(last)


@pytest.fixture
def linear() -> Linear:
    return Linear(steps=5, channels=2).eval()


@pytest.fixture
def recurrent() -> Recurrent:
    return Recurrent().eval()


@pytest.fixture
def make_inputs() -> Callable[..., Tensor]:
    def make(batch: int = 6, steps: int = 5, channels: int = 2, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(batch, steps, channels, generator=generator, dtype=torch.float64)

    return make
