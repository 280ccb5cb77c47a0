import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from noisyrnn.models import NoisyCell, NoisyRNN
from noisyrnn.noise import BrownianPath

Make = Callable[..., Any]
PATH = BrownianPath(seed=6)
OF_LAYERS = {"num_layers", "bidirectional", "batch_first", "dropout"}

OPTIONS = {
    "published": {},
    "uniform": {"noise_law": "uniform", "bias": False},
    "paper": {"noise_units": "per_time", "learn_step": False, "noise_level": 0.5, "noise_form": "shared"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_loop_is_the_layer(options: dict[str, Any], make_layer: Make, make_inputs: Make) -> None:
    options = {**options, "step_size": 0.2, "additive": 0.3, "multiplicative": 0.4}
    layer, cell = make_layer("noisy", **options), NoisyCell(2, 5, **options, dtype=torch.float64)
    cell.cell.load_state_dict(layer.cell.state_dict())
    assert cell.hidden_noise == layer.hidden_noise
    inputs, h, found = make_inputs(), None, []
    for m in range(6):
        h = cell(inputs[:, m], h, path=PATH, step=m)
        found.append(h)
    torch.testing.assert_close(torch.stack(found, dim=1), layer(inputs, path=PATH)[0], rtol=0, atol=1e-12)
    for step, x in enumerate(inputs[0]):  # one sequence
        h = cell(x, h[0] if h.ndim == 2 else h, path=PATH, step=step) if step else cell(x, path=PATH)
    torch.testing.assert_close(h, found[-1][0], rtol=0, atol=1e-12)


def test_the_options_are_those_of_the_layer() -> None:
    cell, layer = (inspect.signature(kind).parameters for kind in (NoisyCell, NoisyRNN))
    assert set(layer) - set(cell) == OF_LAYERS and set(cell) <= set(layer)
    assert all(cell[name].default == layer[name].default for name in cell)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"noise_level": 0.5}, r"^noise_level must be 1 with noise_units 'per_step', got 0\.5\. Use noise"),
        ({"noise_units": "per_time"}, r"^learn_step must be False with noise_units 'per_time', got True\.$"),
        ({"step_size": 0.0}, r"^step_size must be greater than 0, got 0\.$"),
        ({"additive": -1.0}, r"^additive must be at least 0, got -1\.$"),
    ],
)
def test_bad_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        NoisyCell(1, 2, **options)


@pytest.mark.parametrize("name", ["num_layers", "bidirectional", "batch_first", "dropout", "aditive"])
def test_options_of_a_stack_of_layers_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{name}'"):
        NoisyCell(1, 2, **{name: False})
