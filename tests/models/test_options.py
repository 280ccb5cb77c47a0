"""Every option of every layer, cell and head refuses what is not of its type, before anything is built."""

import inspect
from typing import Any, ClassVar, get_type_hints

import pytest
import torch
from torch import nn

from noisyrnn import NoisyRNN
from noisyrnn.models import HEADS, MODELS, NoisyCell, RecurrentLayer, WithHiddenNoise
from noisyrnn.models.lipschitz import LipschitzCell
from noisyrnn.models.options import LayerOptions, LipschitzOptions, merge_options
from noisyrnn.models.registry import describe_option
from noisyrnn.sde import Activation

FLAGS = ("bias", "batch_first", "bidirectional", "learn_step")
SIZES = ("input_size", "hidden_size", "num_layers")
CLASSES = {**{name: entry.build for name, entry in MODELS.items()}, "cell": NoisyCell}
CASES = [(name, option) for name, kind in CLASSES.items() for option in inspect.signature(kind).parameters]


@pytest.mark.parametrize(("kind", "declared"), [(RecurrentLayer, LayerOptions), (LipschitzCell, LipschitzOptions)])
def test_what_is_declared_once_is_what_is_taken(kind: type, declared: type) -> None:
    taken = inspect.signature(kind).parameters
    hints = get_type_hints(declared)
    assert {name: taken[name].annotation for name in hints} == hints
    assert set(taken) - set(hints) <= {"build", "input_size", "hidden_size", "options"}


@pytest.mark.parametrize("name", CLASSES)
def test_a_misspelt_option_is_refused(name: str) -> None:
    kind: Any = CLASSES[name]
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'aditive'"):
        kind(2, 3, aditive=0.1)


def test_a_signature_shows_what_is_passed_on() -> None:
    class Own(NoisyRNN):
        def __init__(self, hidden_size: int, *, own: int = 3, additive: float = 0.5, **options: Any) -> None:
            super().__init__(2, hidden_size, additive=additive, **options)
            self.own = own

    class OwnDefaults(Own):
        defaults: ClassVar[Any] = {**NoisyRNN.defaults, "damping": 0.25}

        def __init__(self, hidden_size: int, **options: Any) -> None:
            super().__init__(hidden_size, **{**self.defaults, **options})

    parameters = inspect.signature(Own).parameters
    shown = {name: parameters[name].default for name in ("own", "additive", "step_size", "noise_level", "dropout")}
    assert shown == {"own": 3, "additive": 0.5, "step_size": 0.01, "noise_level": 1.0, "dropout": 0.0}
    assert next(iter(parameters)) == "hidden_size" and not {"self", "build", "options"} & set(parameters)
    assert Own(4, bias=False).options() == {**NoisyRNN(2, 4, bias=False, additive=0.5).options(), "own": 3}
    layer = OwnDefaults(4)
    for name, parameter in inspect.signature(OwnDefaults).parameters.items():
        if name not in ("input_size", "hidden_size", "device", "dtype"):
            assert getattr(layer, name) == parameter.default
    assert layer.damping == 0.25
    assert "damping" not in inspect.signature(layer).parameters  # an instance is called like any module


@pytest.mark.parametrize("name", MODELS)
def test_every_option_is_described(name: str) -> None:
    parameters = inspect.signature(MODELS[name].build).parameters
    for option in set(parameters) - {"input_size", "hidden_size"}:
        kind, text = describe_option(name, option)
        declared = parameters[option].annotation
        assert kind == (str if declared == str | Activation else declared) and text.endswith(".") and "\n" not in text


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("kind", [RecurrentLayer, *CLASSES.values()])
def test_a_warning_names_the_line_that_made_the_layer(kind: Any) -> None:
    if kind is NoisyCell:
        pytest.skip("it has no dropout")
    arguments = (nn.GRUCell, 2, 3) if kind is RecurrentLayer else (2, 3)
    with pytest.warns(UserWarning, match="dropout acts between layers") as record:
        kind(*arguments, dropout=0.5)
    assert [each.filename for each in record] == [__file__]


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


def test_an_option_that_replaces_others() -> None:
    defaults = {"additive": 0.05, "multiplicative": 0.02, "scheme": "milstein"}
    assert merge_options(defaults, {"diffusion": [[0.1]]}) == {
        "additive": 0.0,
        "multiplicative": 0.0,
        "scheme": "milstein",
        "diffusion": [[0.1]],
    }
    assert merge_options(defaults, {"diffusion": None}) == {**defaults, "diffusion": None}
    assert merge_options(defaults, {"diffusion": [[0.1]], "additive": 0.2})["additive"] == 0.2  # which is refused
    assert merge_options({"alpha": 0.5}, {"tau": 2.0, "step_size": 1.0})["alpha"] is None
    assert merge_options({"alpha": 0.5}, {"step_size": 1.0})["alpha"] is None
    assert "alpha" not in merge_options({"damping": 0.1}, {"step_size": 1.0})
    assert NoisyRNN(1, 1, diffusion=[[0.1]]).additive == 0
    with pytest.raises(ValueError, match=r"^additive must be 0 with a diffusion, which replaces both levels, got 0\.2"):
        NoisyRNN(1, 1, diffusion=[[0.1]], additive=0.2)
