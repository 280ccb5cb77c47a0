"""Applies or rejects the hooks of modules whose parameters a cell reads without calling them.

A fused kernel takes a cell's weights as tensors. It calls neither the cell nor modules such as its `nn.Linear`, so
their hooks and their `forward` would not run.
"""

from collections.abc import Collection, Sequence
from copy import deepcopy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from noisyrnn.checks import check_choice

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}
_WEIGHT_HOOKS = (BasePruningMethod, WeightNorm, SpectralNorm)
"""Pre-hooks that only set a parameter of their module and ignore its inputs."""


class Switch:
    """Attribute of a module with a fixed set of values; the value is stored as `_name`.

    Args:
        choices: Allowed values; setting another one raises `ValueError`.
    """

    def __init__(self, choices: Collection[str]) -> None:
        self.choices = choices

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module: nn.Module | None, owner: type | None = None) -> Any:
        return self if module is None else module.__dict__[f"_{self.name}"]

    def __set__(self, module: nn.Module, value: str) -> None:
        check_choice(self.name, value, self.choices)
        module.__dict__[f"_{self.name}"] = value


def prepare_weights(cell: Any) -> None:
    """Set the weights of a cell as a call of its modules would. Called once for each pass, before they are read.

    Pruning and torch's older weight and spectral normalization set weights in a forward pre-hook, which runs here.

    Args:
        cell: A `Cell`; its `reads` names the modules that it reads and does not call.

    Raises:
        ValueError: If the cell or one of these modules has another hook, or a `forward` set on the instance.
        TypeError: If the `forward` of one of these modules is not that of a class in `reads`.
    """
    check_uncalled(cell, type(cell).__name__)
    _run_weight_hooks(cell)
    for name, child in cell._modules.items():
        if child is None or name in cell.calls:
            continue
        kinds = cell.reads.get(name)
        if kinds is not None:
            check_uncalled(child, f"{type(cell).__name__}.{name}", kinds)
        for module in child.modules() if child._modules else (child,):
            _run_weight_hooks(module)


def check_uncalled(module: nn.Module, name: str, kinds: Sequence[type[nn.Module]] = ()) -> None:
    """Raise if a call of a module could have an effect that its parameters do not show.

    Args:
        module: Module whose parameters are read without calling it.
        name: Its name in the message.
        kinds: Classes, one of which must define the module's `forward`; empty to skip this check.

    Raises:
        ValueError: If the module has a hook that does more than set a weight, or a `forward` set on the instance.
        TypeError: If its `forward` is not that of one of `kinds`.
    """
    state = module.__dict__
    for attribute, kind in _HOOKS.items():
        if not state[attribute]:  # as nearly always: each pass comes here for every cell
            continue
        for hook in state[attribute].values():
            if not isinstance(hook, _WEIGHT_HOOKS):
                shown = getattr(hook, "__qualname__", type(hook).__name__)
                raise ValueError(
                    f"{name} must have no {kind}, got {shown}. Its parameters are read and it is not called, so the "
                    "hook would not run: register it on the layer, or use torch.nn.utils.parametrize."
                )
    if "forward" in state:
        raise ValueError(
            f"{name} must have the forward of its class, got one set on the instance. Its parameters are read and it "
            "is not called: use torch.nn.utils.parametrize."
        )
    if kinds and not any(type(module).forward is kind.forward for kind in kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        shown = f"{type(module).__module__}.{type(module).__qualname__}"
        raise TypeError(
            f"{name} must be computed as {wanted} is, got {shown}. Its parameters are read and it is "
            "not called: use torch.nn.utils.parametrize, or write a cell of your own."
        )


def float64_copy(cell: ModuleT) -> ModuleT:
    """Return a copy of a prepared cell in float64, prepared too: `double()` leaves out weights that a hook has set.

    The hooks run as in evaluation mode, where older spectral normalization does not change the weights once more.
    """
    copy = deepcopy(cell).double()
    modes = {module: module.training for module in copy.modules()}
    copy.eval()
    prepare_weights(copy)
    for module, training in modes.items():
        module.training = training
    return copy


def first_weight(module: nn.Module) -> Tensor | None:
    """Return a parameter of a module, else a floating-point buffer, else `None`; its type and device are the module's.

    Several times as fast as the first item of `parameters()`.
    """
    found = _first(module, "_parameters")
    return _first(module, "_buffers") if found is None else found


def _first(module: nn.Module, kind: str) -> Tensor | None:
    """Return the first floating-point tensor of a kind, `_parameters` or `_buffers`, or `None`."""
    for own in module.__dict__[kind].values():
        if own is not None and own.is_floating_point():
            return own
    for child in module._modules.values():
        found = None if child is None else _first(child, kind)
        if found is not None:
            return found
    return None


def called_hooks(module: nn.Module) -> bool:
    """Return whether a hook receives the results of a call of this module, or their gradients."""
    state = module.__dict__
    own = state["_forward_hooks"] or state["_backward_hooks"] or state["_backward_pre_hooks"]
    return bool(own) or nn.modules.module._has_any_global_hook()


def _run_weight_hooks(module: nn.Module) -> None:
    """Run the pre-hooks that only set a weight."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, _WEIGHT_HOOKS):
            hook(module, ())
