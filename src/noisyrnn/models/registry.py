"""The models by name, their options, and how one is built from settings."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import docstring_parser
import torch

from noisyrnn.files import file_digest
from noisyrnn.models.antisymmetric import AntisymmetricRNN
from noisyrnn.models.cornn import CoRNN
from noisyrnn.models.exprnn import ExpRNN
from noisyrnn.models.gated import GRU, LSTM, TanhRNN
from noisyrnn.models.layer import NOT_OPTIONS, RecurrentLayer
from noisyrnn.models.lipschitz import LipschitzRNN
from noisyrnn.models.noisy import NoisyRNN
from noisyrnn.models.options import SHARED_OPTIONS
from noisyrnn.models.rate import RateRNN
from noisyrnn.registry import Entry, Registry


def _check(entry: Entry[type[RecurrentLayer]]) -> None:
    """Raise `TypeError` unless the model of a plug-in can be built and its options can be flags."""
    if not (isinstance(entry.build, type) and issubclass(entry.build, RecurrentLayer)):
        raise TypeError(f"build must be a subclass of RecurrentLayer, got {entry.build!r}")
    for name, parameter in inspect.signature(entry.build).parameters.items():
        if isinstance(parameter.annotation, str):
            raise TypeError(
                f"the annotation of {name} must be a type, got a text: leave out `from __future__ import annotations`"
            )


_ENTRIES: dict[str, Entry[type[RecurrentLayer]]] = {
    "noisy": Entry(
        description="Noisy RNN: the Lipschitz cell with a learnable step, trained with hidden noise", build=NoisyRNN
    ),
    "lipschitz": Entry(
        description="Lipschitz RNN: matrices of prescribed skew-symmetry and damping, fixed step", build=LipschitzRNN
    ),
    "antisymmetric": Entry(
        description="Antisymmetric RNN: skew-symmetric recurrent matrix, fixed step", build=AntisymmetricRNN
    ),
    "rate": Entry(description="Rate network: leaky units, noise outside or inside the activation", build=RateRNN),
    "cornn": Entry(description="coRNN: coupled damped oscillators", build=CoRNN),
    "exprnn": Entry(description="Exponential RNN: orthogonal recurrent matrix, modReLU", build=ExpRNN),
    "rnn": Entry(description="Tanh RNN (torch.nn.RNN)", build=TanhRNN),
    "gru": Entry(description="Gated recurrent unit (torch.nn.GRU)", build=GRU),
    "lstm": Entry(description="Long short-term memory (torch.nn.LSTM)", build=LSTM),
}

MODELS: Registry[Entry[type[RecurrentLayer]]] = Registry("noisyrnn.models", _ENTRIES, check=_check)
"""Each `build` is the layer's class."""


def plugin_source(model: str) -> dict[str, str]:
    """Returns the digest of the file that defines the model of a plug-in, as `{"source": digest}`; else nothing."""
    layer = MODELS[model].build
    if layer.__module__.startswith("noisyrnn."):
        return {}
    try:
        file = inspect.getsourcefile(layer)
    except (OSError, TypeError):  # defined in a session
        file = None
    return {} if file is None else {"source": file_digest(Path(file))}


def layer_options(model: str) -> dict[str, Any]:
    """Returns the options that a training of a model, a key of `MODELS`, can set, with their defaults.

    The layout of the inputs (`batch_first`) is not one of them: a data set has only one.
    """
    return {name: value for name, value in _arguments(model).items() if name != "batch_first"}


def describe_option(model: str, name: str) -> tuple[Any, str]:
    """Returns the type of a model's option and its description, one line of text.

    The docstring of the layer describes its own options, `noisyrnn.models.options` those that models share.
    """
    layer = MODELS[model].build
    params = [param for kind in (layer, *SHARED_OPTIONS) for param in docstring_parser.parse(kind.__doc__ or "").params]
    text = next((param.description or "" for param in params if param.arg_name == name), "")
    kind = inspect.signature(layer).parameters[name].annotation
    return str if str in get_args(kind) and type(None) not in get_args(kind) else kind, _one_line(text)


def _one_line(text: str) -> str:
    """Returns a description without line breaks and code marks."""
    return " ".join(text.split()).replace("`", "")


def _arguments(model: str) -> dict[str, Any]:
    """Returns everything that `build_layer` takes as an option, with its default."""
    parameters = inspect.signature(MODELS[model].build).parameters.values()
    optional = [p for p in parameters if p.default is not inspect.Parameter.empty]
    return {p.name: p.default for p in optional if p.name not in NOT_OPTIONS}


def build_layer(model: str, input_size: int, hidden_size: int, options: Mapping[str, Any]) -> RecurrentLayer:
    """Builds a float32 layer of a model, a key of `MODELS`, whatever torch's default type is.

    Args:
        model: Key of `MODELS`.
        input_size: Channels of the inputs.
        hidden_size: Units.
        options: Override the layer's defaults.

    Raises:
        ValueError: If the layer has no such option, or a value is out of range.
    """
    layer: Callable[..., RecurrentLayer] = MODELS[model].build
    known = _arguments(model)
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f"{name} must not be set for {MODELS[model].build.__name__}, got {value!r}. "
                f"It takes {', '.join(sorted(known))}."
            )
    return layer(input_size, hidden_size, **options, dtype=torch.float32)
