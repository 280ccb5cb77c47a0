"""How a model is found by name and built from settings."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from noisyrnn.models.layer import NOT_OPTIONS, RecurrentLayer


@dataclass(frozen=True)
class ModelEntry:
    """One line of `MODELS`.

    Args:
        description: What it is, in a line.
        layer: Its class.
    """

    description: str
    layer: type[RecurrentLayer]

    def options(self) -> dict[str, Any]:
        """The layer's own options and their defaults."""
        parameters = inspect.signature(self.layer).parameters.values()
        optional = [p for p in parameters if p.default is not inspect.Parameter.empty]
        return {p.name: p.default for p in optional if p.name not in NOT_OPTIONS}

    def build(self, input_size: int, hidden_size: int, options: Mapping[str, Any]) -> RecurrentLayer:
        """A new float32 layer, whatever torch's default type is; `options` override the defaults.

        Raises:
            ValueError: If the layer has no such option, or a value is out of range.
        """
        known = self.options()
        for name, value in options.items():
            if name not in known:
                raise ValueError(
                    f"{name} must not be set for {self.layer.__name__}, got {value!r}. "
                    f"It takes {', '.join(sorted(known))}."
                )
        constructor: Callable[..., RecurrentLayer] = self.layer
        return constructor(input_size, hidden_size, **options, dtype=torch.float32)
