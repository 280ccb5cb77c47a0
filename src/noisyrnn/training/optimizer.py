"""Builds the optimizer, and knows how its learning rates differ between parameters."""

from typing import Any

import torch
from torch import Tensor, nn

from noisyrnn.models.exprnn import Rotation
from noisyrnn.training.config import TrainConfig


class RatedOptimizer:
    """An optimizer of torch, in groups of parameters whose learning rate is a multiple of the training's.

    Args:
        config: Kind, weight decay and factor of the rate of orthogonal matrices.
        model: Its parameters are optimized.

    Attributes:
        torch_optimizer: The optimizer.
    """

    def __init__(self, config: TrainConfig, model: nn.Module) -> None:
        own = set() if config.orthogonal_rate == 1 else {id(parameter) for parameter in orthogonal_parameters(model)}
        parts = [[p for p in model.parameters() if (id(p) in own) is inside] for inside in (False, True)]
        pairs = [(part, factor) for part, factor in zip(parts, (1.0, config.orthogonal_rate), strict=True) if part]
        self._factors = [factor for _, factor in pairs]
        groups = [{"params": part} for part, _ in pairs]
        rate, decay = config.learning_rate, config.weight_decay
        self.torch_optimizer: torch.optim.Optimizer
        if config.optimizer == "rmsprop":
            self.torch_optimizer = torch.optim.RMSprop(groups, lr=rate, weight_decay=decay)
        else:
            kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
            self.torch_optimizer = kind(groups, lr=rate, weight_decay=decay, fused=True)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the training."""
        for group, factor in zip(self.torch_optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor

    @property
    def has_conditional_step(self) -> bool:
        """Whether there is `step_if`."""
        return not isinstance(self.torch_optimizer, torch.optim.RMSprop)

    def step_if(self, finite: Tensor) -> None:
        """Make a step if a flag is true; it is read where the weights are, so that a CUDA graph can hold the step.

        Args:
            finite: Boolean, `()`.
        """
        optimizer: Any = self.torch_optimizer
        before = [group["capturable"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["capturable"] = finite.device.type == "cuda"
        optimizer.found_inf = (~finite).to(torch.float32)  # torch's fused optimizers skip a step by it
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf
            for group, value in zip(optimizer.param_groups, before, strict=True):
                group["capturable"] = value


def orthogonal_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters from which orthogonal matrices are computed."""
    rotations = [module for module in model.modules() if isinstance(module, Rotation)]
    return [parameter for rotation in rotations for parameter in rotation.parameters()]
