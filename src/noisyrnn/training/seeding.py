"""Random initial weights from a seed, without changing the global random state."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context manager: draw from a generator with this seed instead of torch's default generator of the CPU.

    The values are those after `torch.manual_seed(seed)`. They do not depend on other threads, which share torch's
    default generator, and that generator is left unchanged. Tensors are created on the CPU for any default device.
    """
    with _OwnGenerator(torch.Generator().manual_seed(seed)), torch.device("cpu"):
        yield


class _OwnGenerator(TorchDispatchMode):
    """Passes a generator to every operation of this thread that would draw from torch's default generator."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """`False`: to keep torch._dynamo out of the function below, torch would import it, in more than a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
            if not any(argument.name == "generator" for argument in func._schema.arguments):  # randn and similar
                name = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
                if not hasattr(func.overloadpacket, name):  # without such an overload torch's default one is used
                    return func(*args, **kwargs)
                func = getattr(func.overloadpacket, name)
            kwargs["generator"] = self._generator
        return func(*args, **kwargs)
