from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn.models import RecurrentLayer, build_layer


@pytest.fixture
def make_layer() -> Callable[..., RecurrentLayer]:
    """A function of a model's name and options: its layer in float64, with weights large enough to matter."""

    def make(name: str, input_size: int = 2, hidden_size: int = 5, seed: int = 0, **options: Any) -> RecurrentLayer:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layer = build_layer(name, input_size, hidden_size, options).double()
            for parameter_name, parameter in layer.named_parameters():
                if parameter_name.endswith((".B", ".C")):  # start near zero by default
                    torch.nn.init.normal_(parameter, std=0.5)
                if parameter_name.endswith(".threshold"):
                    torch.nn.init.uniform_(parameter, -0.05, 0.05)
        return layer

    return make


@pytest.fixture
def make_inputs() -> Callable[..., Tensor]:
    def make(batch: int = 4, steps: int = 6, input_size: int = 2, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, steps, input_size, generator=generator, dtype=torch.float64)

    return make
