"""Keyword options that models share: each is declared and described here, once, and passed on as `**options`."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any, TypedDict

import torch

from noisyrnn.sde.activation import Activation


class CellOptions(TypedDict, total=False):
    """Options of every cell, and of every layer, which passes them on to its cells.

    Args:
        bias: Whether the cells have a bias.
        dtype: Type of the weights; torch's default type by default.
    """

    bias: bool
    dtype: torch.dtype | None


class NoiseOptions(TypedDict, total=False):
    """Options of the hidden noise of every layer and of `NoisyCell`; see `HiddenNoise`.

    Args:
        additive: Standard deviation of the additive hidden noise of one step, at least 0.
        multiplicative: Relative standard deviation of the multiplicative hidden noise, at least 0.
        noise_form: "independent" (a number for each of the two noises) or "shared" (one number for both).
        noise_law: Law of the multiplicative noise, "gaussian" or "uniform".
        diffusion: Replaces both levels: a matrix `(hidden_size, columns)` as a list of lists, for correlated noise; in
            Python also a tensor, or a callable of h, x and t, see `FunctionDiffusion`.
        learn_diffusion: Whether a diffusion that is a matrix is trained.
    """

    additive: float
    multiplicative: float
    noise_form: str
    noise_law: str
    diffusion: Any
    learn_diffusion: bool


class LayerOptions(NoiseOptions, CellOptions, total=False):
    """Options of every layer: those of `NoiseOptions` and `CellOptions`, and how its cells are stacked.

    Args:
        num_layers: Layers, each of which reads the outputs of the one below, at least 1.
        bidirectional: Whether each layer also runs backwards over the valid steps; outputs are then forward and
            backward side by side.
        batch_first: Whether inputs and outputs are `(batch, steps, ...)`, not `(steps, batch, ...)`. Unlike in
            `nn.RNN` that is the default.
        dropout: Probability in [0, 1) with which, in training mode, each output of a layer but the last is dropped. The
            mask comes from the pass's `BrownianPath`.
        scheme: How a step is integrated: "euler-maruyama", "milstein" or "stochastic-heun".
        device: Where the weights are; torch's default device by default.
    """

    scheme: str
    num_layers: int
    bidirectional: bool
    batch_first: bool
    dropout: float
    device: torch.device | str | None


class DriftOptions(TypedDict, total=False):
    """Option of every cell whose drift has an activation of choice.

    Args:
        activation: "tanh", "sigmoid", "relu", "softplus", "retanh" or "identity"; in Python also an `Activation`.
    """

    activation: str | Activation


class LipschitzOptions(DriftOptions, total=False):
    """Options of the cell that the Lipschitz RNN, the noisy RNN and `NoisyCell` share.

    Args:
        step_size: Initial step d of every unit, above 0.
        learn_step: Whether d is trained, one value a unit.
        skew_symmetry: β of `A` and `W`, in [0.5, 1].
        damping: γ of `A` and `W`, at least 0.
        skew_symmetry_w: β of `W` where it differs from that of `A`; `None` for the same.
        damping_w: γ of `W` where it differs from that of `A`; `None` for the same.
        init_std: The free matrices start at `N(0, (init_std / hidden_size)²)`, above 0.
    """

    step_size: float
    learn_step: bool
    skew_symmetry: float
    damping: float
    skew_symmetry_w: float | None
    damping_w: float | None
    init_std: float


SHARED_OPTIONS = (CellOptions, NoiseOptions, LayerOptions, DriftOptions, LipschitzOptions)
"""The declarations above, whose docstrings describe the options."""


def cell_options(options: LayerOptions) -> CellOptions:
    """Returns those options of a layer that its cells take as well."""
    chosen: Any = {name: value for name, value in options.items() if name in CellOptions.__annotations__}
    return chosen


def merge_options(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a model, given those that differ from its defaults.

    A diffusion replaces the two levels of the noise, whose defaults are then 0, and a time constant the leak α.
    """
    merged = {**defaults, **options}
    if "alpha" in merged and (options.get("tau") is not None or options.get("step_size") is not None):
        merged["alpha"] = options.get("alpha")
    if options.get("diffusion") is not None:
        merged |= {name: options.get(name, 0.0) for name in ("additive", "multiplicative")}
    return merged


def show_options(
    kind: type, passed_to: type, *, defaults: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> None:
    """Replaces `**options` in the signature of a class by the arguments of the class that takes them.

    `inspect.signature`, and with it `help`, the command line and the documentation, then show every option and its
    default.

    Args:
        kind: Its `__init__` passes `**options` on; otherwise its signature stays unchanged.
        passed_to: Class that takes them.
        defaults: Defaults that `kind` sets in place of those of `passed_to`.
        without: Arguments of `passed_to` that are not options of `kind`.
    """
    init: Any = kind.__init__  # type: ignore[misc]
    own = inspect.signature(init).parameters
    shown = {name: parameter for name, parameter in own.items() if parameter.kind is not parameter.VAR_KEYWORD}
    if len(shown) == len(own):
        return
    for name, parameter in inspect.signature(passed_to).parameters.items():
        if name not in shown and name not in without:
            default = (defaults or {}).get(name, parameter.default)
            shown[name] = parameter.replace(kind=parameter.KEYWORD_ONLY, default=default)
    init.__signature__ = inspect.Signature(list(shown.values()))
