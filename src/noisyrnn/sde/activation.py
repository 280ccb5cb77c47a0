"""Activations of the drift, with their derivatives and their Lipschitz constants."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn import functional

from noisyrnn.checks import check_choice, check_number, values_hidden

Pointwise = Callable[[Tensor], Tensor]


class Derivatives(NamedTuple):
    """An activation and its derivatives at the same arguments, each shaped like them.

    Args:
        value: a(z).
        slope: a'(z).
        bend: a''(z).
    """

    value: Tensor
    slope: Tensor
    bend: Tensor


@dataclass(frozen=True)
class Activation:
    """A Lipschitz continuous function, applied entry by entry.

    At a kink, such as that of ReLU at 0, its first derivative is that of the left side, and its second derivative is 0,
    as everywhere next to it.

    Args:
        function: From a tensor to a new one of the same shape; entry i depends on entry i only.
        lipschitz: A Lipschitz constant of the function, at least 0. Certificates and bounds rely on it and cannot check
            it.

    Raises:
        TypeError: If `function` is not callable.
        ValueError: If `lipschitz` is negative or not finite, or `function` has parameters.

    Example:
        >>> Activation(torch.sin, lipschitz=1.0).derivatives(torch.zeros(1)).slope
        tensor([1.])
    """

    function: Pointwise
    lipschitz: float
    name: str = field(default="", init=False)
    slopes: tuple[float, float] = field(default=(0.0, 0.0), init=False, repr=False)
    """Smallest and largest slope; for a function of the user's plus and minus the Lipschitz constant."""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {self.function!r}.")
        if isinstance(self.function, nn.Module) and any(True for _ in self.function.parameters()):
            raise ValueError(
                f"function must have no parameters, got {self.function!r}: training would change its slopes."
            )
        check_number("lipschitz", self.lipschitz, minimum=0.0)
        object.__setattr__(self, "slopes", (-float(self.lipschitz), float(self.lipschitz)))

    def __call__(self, z: Tensor) -> Tensor:
        """a(z), shaped like `z`."""
        return self.function(z)

    def check_at(self, z: Tensor) -> None:
        """Raise unless the function leaves `z` unchanged and returns a tensor of its shape.

        Raises:
            TypeError: If it returns something else than a tensor.
            ValueError: If it returns another shape or changes its argument in place.
        """
        if self.name:
            return
        counted = not values_hidden() and not z.is_inference()  # whether torch counts what is written into it
        shape, version = tuple(z.shape), z._version if counted else 0
        value = self.function(z)
        if not isinstance(value, Tensor):
            raise TypeError(f"activation must return a tensor, got {type(value).__name__}.")
        if value.shape != shape:
            raise ValueError(f"activation must return the shape of its argument, {shape}, got {tuple(value.shape)}.")
        if counted and z._version != version:
            raise ValueError(f"activation must not write into its argument, got {self.function!r}, which does.")

    def derivatives(self, z: Tensor) -> Derivatives:
        """a, a' and a'' at `z`."""
        written = _DERIVATIVES.get(self.name)
        if written is not None:
            return written(z)
        one = torch.ones_like(z)

        def slope(z: Tensor) -> Tensor:
            return jvp(self.function, (z,), (one,))[1]

        return Derivatives(self.function(z), *jvp(slope, (z,), (one,)))

    def slope(self, z: Tensor) -> Tensor:
        """a'(z), shaped like `z`."""
        if self.name in _DERIVATIVES:
            return self.derivatives(z).slope
        return jvp(self.function, (z,), (torch.ones_like(z),))[1]


def _softplus(z: Tensor) -> Tensor:
    return functional.softplus(z, threshold=40.0)  # torch's default of 20 is off by 2e-9


def _retanh(z: Tensor) -> Tensor:
    return torch.tanh(z).relu()


def _tanh_derivatives(z: Tensor) -> Derivatives:
    value = torch.tanh(z)
    slope = 1 - value**2
    return Derivatives(value, slope, -2 * value * slope)


def _sigmoid_derivatives(z: Tensor) -> Derivatives:
    value = torch.sigmoid(z)
    slope = value * (1 - value)
    return Derivatives(value, slope, slope * (1 - 2 * value))


def _relu_derivatives(z: Tensor) -> Derivatives:
    return Derivatives(z.relu(), (z > 0).to(z.dtype), torch.zeros_like(z))


def _softplus_derivatives(z: Tensor) -> Derivatives:
    slope = torch.sigmoid(z)
    return Derivatives(_softplus(z), slope, slope * (1 - slope))


def _retanh_derivatives(z: Tensor) -> Derivatives:
    value = _retanh(z)
    slope = (z > 0) * (1 - value**2)
    return Derivatives(value, slope, -2 * value * slope)


def _identity_derivatives(z: Tensor) -> Derivatives:
    return Derivatives(z, torch.ones_like(z), torch.zeros_like(z))


_DERIVATIVES: dict[str, Callable[[Tensor], Derivatives]] = {
    "tanh": _tanh_derivatives,
    "sigmoid": _sigmoid_derivatives,
    "relu": _relu_derivatives,
    "softplus": _softplus_derivatives,
    "retanh": _retanh_derivatives,
    "identity": _identity_derivatives,
}


def _named(name: str, function: Pointwise, smallest: float, largest: float) -> Activation:
    activation = Activation(function, largest)
    object.__setattr__(activation, "name", name)
    object.__setattr__(activation, "slopes", (smallest, largest))
    return activation


def _identity(z: Tensor) -> Tensor:
    return z


ACTIVATIONS: dict[str, Activation] = {
    "tanh": _named("tanh", torch.tanh, 0.0, 1.0),
    "sigmoid": _named("sigmoid", torch.sigmoid, 0.0, 0.25),
    "relu": _named("relu", torch.relu, 0.0, 1.0),
    "softplus": _named("softplus", _softplus, 0.0, 1.0),
    "retanh": _named("retanh", _retanh, 0.0, 1.0),
    "identity": _named("identity", _identity, 1.0, 1.0),
}
"""Activations by name; `retanh` is max(0, tanh)."""

TANH = ACTIVATIONS["tanh"]


def as_option(activation: str | Activation) -> str | Activation:
    """Return the name of an activation that has one, as a layer's options and files hold it."""
    return activation.name or activation if isinstance(activation, Activation) else activation


def activation_of(activation: str | Activation) -> Activation:
    """Return the activation of a name, or an `Activation` unchanged.

    Raises:
        ValueError: If there is no activation of that name.
        TypeError: If a callable is given without a Lipschitz constant.
    """
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(
            f"activation must be a name or state its Lipschitz constant, got {activation!r}. "
            "Use Activation(function, lipschitz=...)."
        )
    check_choice("activation", activation, ACTIVATIONS)
    return ACTIVATIONS[activation]
