"""Every option of every layer, cell and head refuses what is not of its type, before anything is built."""

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from noisyrnn import NoisyRNN
from noisyrnn.models import HEADS, MODELS, NoisyCell, RecurrentLayer, WithHiddenNoise

FLAGS = ("bias", "batch_first", "bidirectional", "learn_step")
SIZES = ("input_size", "hidden_size", "num_layers")
CLASSES = {**{name: entry.build for name, entry in MODELS.items()}, "cell": NoisyCell}
CASES = [(name, option) for name, kind in CLASSES.items() for option in inspect.signature(kind).parameters]


@pytest.mark.parametrize(("name", "option"), CASES)
def test_an_option_of_the_wrong_type(name: str, option: str) -> None:
    if option in ("device", "dtype", "kind"):
        pytest.skip("torch checks it")
    kind: Any = CLASSES[name]
    given: dict[str, Any] = {"input_size": 2, "hidden_size": 3}
    wrong: list[Any] = [[], "False", object()]
    if option in FLAGS:
        wrong += [0, 1, 1.0, None, torch.tensor(True)]
    elif option in SIZES:
        wrong += [0, -1, 2.0, True, None, "3", 2**0.5]
    elif not isinstance(inspect.signature(kind).parameters[option].default, str):
        wrong += [-1.0, True, float("nan"), float("inf")]
    for value in wrong:
        with pytest.raises((TypeError, ValueError), match=rf"^{option} must "):
            kind(**{**given, option: value})


@pytest.mark.parametrize("head", HEADS.values(), ids=lambda head: head.__name__)
def test_a_head_of_something_else(head: Any) -> None:
    layer = NoisyRNN(2, 3)
    for other in (nn.GRU(2, 3), layer.cell, "noisy", None):
        with pytest.raises(TypeError, match=r"^layer must be a RecurrentLayer, got "):
            head(other, 2)
    for name, value in (
        ("mean", [0.0, 0.0]),
        ("std", 1.0),
        ("std", torch.zeros(2)),
        ("mean", torch.full((2,), torch.nan)),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"^{name} must "):
            head(layer, 2, **{name: value})
    for outputs in (2.0, True, "2", 0, -1, None):
        with pytest.raises((TypeError, ValueError), match=r"^(classes|targets) must "):
            head(layer, outputs)


def test_noise_of_something_else() -> None:
    with pytest.raises(TypeError, match=r"^noise must be a HiddenNoise, got float"):
        WithHiddenNoise(nn.GRUCell(2, 3), 0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^bias must be True or False, got 'False'"):
        RecurrentLayer(nn.GRUCell, 2, 3, bias="False")  # type: ignore[arg-type]
