import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from noisyrnn.models.sequences.dropout import apply_dropout
from noisyrnn.noise import BrownianPath

Make = Callable[..., Any]
PATH = BrownianPath(seed=4)


@pytest.mark.parametrize("rate", [0.2, 0.75])
def test_the_share_and_the_mean(rate: float) -> None:
    outputs = torch.ones(40, 50, 20, dtype=torch.float64)
    found = apply_dropout(outputs, rate, PATH, 3)
    share = (found == 0).double().mean()
    assert abs(float(share) - rate) < 4 * math.sqrt(rate * (1 - rate) / outputs.numel())
    kept = found[found != 0]
    assert torch.allclose(kept, torch.full_like(kept, 1 / (1 - rate)), rtol=1e-12, atol=0)
    assert abs(float(found.mean()) - 1) < 4 * math.sqrt(rate / (1 - rate) / outputs.numel())
    for one, other in ((found[1:], found[:-1]), (found[:, 1:], found[:, :-1]), (found[..., 1:], found[..., :-1])):
        both = ((one == 0) & (other == 0)).double().mean()  # neighbours are independent
        assert abs(float(both) - rate**2) < 4 * math.sqrt(rate**2 * (1 - rate**2) / one.numel())


def test_rate_zero_changes_nothing() -> None:
    outputs = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(apply_dropout(outputs, 0.0, PATH, 1), outputs)


def test_the_mask_is_a_function_of_row_step_and_unit() -> None:
    outputs = torch.ones(6, 8, 4)
    whole = apply_dropout(outputs, 0.5, PATH, 2)
    assert torch.equal(apply_dropout(outputs[:, :5], 0.5, PATH, 2), whole[:, :5])
    assert torch.equal(apply_dropout(outputs[2:], 0.5, BrownianPath(seed=4, first_row=2), 2), whole[2:])
    assert torch.equal(apply_dropout(outputs[:, 3:], 0.5, BrownianPath(seed=4, first_step=3), 2), whole[:, 3:])
    assert torch.equal(apply_dropout(outputs, 0.5, BrownianPath(seed=4, stream=1), 1), whole)
    assert torch.equal(apply_dropout(outputs, 0.5, PATH.negated(), 2), whole)
    assert torch.equal(apply_dropout(outputs, 0.5, PATH.coarsened(2), 2), whole)
    assert not torch.equal(apply_dropout(outputs, 0.5, PATH, 3), whole)
    assert not torch.equal(apply_dropout(outputs, 0.5, BrownianPath(seed=5), 2), whole)


def test_between_layers_in_training_mode_only(make_layer: Make, make_inputs: Make) -> None:
    layer, plain = (make_layer("lipschitz", num_layers=3, dropout=rate) for rate in (0.4, 0.0))
    inputs = make_inputs()
    clean = plain(inputs)[0]
    with torch.random.fork_rng():
        seed = torch.randint(2**63 - 1, ())
    masked = layer(inputs)[0]
    assert not torch.equal(layer(inputs)[0], masked)
    assert torch.equal(layer(inputs, path=BrownianPath(seed=seed))[0], masked)
    before = torch.get_rng_state()
    assert torch.equal(layer(inputs, path=PATH)[0], layer(inputs, path=PATH)[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert (layer(inputs)[0] != 0).all()  # the last layer's outputs are whole
    layer.noise_mode = "off"  # the switch is that of the noise
    assert not torch.equal(layer(inputs)[0], clean)
    assert torch.equal(layer.eval()(inputs)[0], clean)


def test_equals_layers_by_hand(make_layer: Make, make_inputs: Make) -> None:
    layer = make_layer("lipschitz", num_layers=3, bidirectional=True, dropout=0.4)
    values = make_inputs()
    found = layer(values, path=PATH)[0]
    for level in range(3):
        alone = make_layer("lipschitz", input_size=values.shape[2], bidirectional=True)
        for way in ("", "_reverse"):
            alone.cells[f"l0{way}"].load_state_dict(layer.cells[f"l{level}{way}"].state_dict())
        values = alone(values)[0]
        if level < 2:  # streams 0 to 5 are those of the cells' noise
            values = apply_dropout(values, 0.4, PATH, 6 + level)
    torch.testing.assert_close(found, values, rtol=0, atol=1e-12)


def test_padding_does_not_change_the_mask(make_layer: Make, make_inputs: Make) -> None:
    layer = make_layer("noisy", num_layers=2, bidirectional=True, dropout=0.4)
    inputs, lengths = make_inputs(), torch.tensor([4, 1, 3, 2])
    longer = layer(
        inputs.masked_fill((torch.arange(6) >= lengths[:, None])[..., None], torch.nan), lengths=lengths, path=PATH
    )
    shorter = layer(inputs[:, :4], lengths=lengths, path=PATH)
    assert torch.equal(longer[0][:, :4], shorter[0]) and torch.equal(longer[1], shorter[1])
