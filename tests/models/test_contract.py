"""What every entry of `MODELS` promises, without hidden noise and with it."""

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn.models import MODELS, RecurrentLayer, SequenceClassifier, layer_options
from noisyrnn.noise import BrownianPath

Make = Callable[..., Any]

SILENT = {"additive": 0.0, "multiplicative": 0.0}
NOISY = {"additive": 0.1, "multiplicative": 0.2}
LEVELS = {"silent": SILENT, "noisy": NOISY}
PATH = BrownianPath(seed=8)
TIMED = ("noisy", "lipschitz", "antisymmetric", "rate", "cornn")

every = pytest.mark.parametrize("name", sorted(MODELS))
levels = pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS.keys())


def outputs_of(layer: RecurrentLayer, inputs: Tensor, **arguments: Any) -> Tensor:
    """Outputs and last state side by side, `(batch, anything)`."""
    outputs, h_n = layer(inputs, **arguments)
    return torch.cat([outputs.flatten(1), h_n[0]], dim=1)


OTHER = {
    "additive": 0.3,
    "multiplicative": 0.4,
    "noise_form": "shared",
    "noise_law": "uniform",
    "noise_units": "per_time",
    "noise_level": 0.5,
    "noise_place": "inside",
    "scheme": "stochastic-heun",
    "batch_first": False,
    "dropout": 0.5,
}
"""Another value for each option that can be set later."""

BASE = {"noisy": {"learn_step": False, "noise_units": "per_time"}, "rate": {"noise_units": "per_step"}}
"""Options with which they go."""


@every
def test_an_option_set_later_acts_everywhere_or_is_refused(name: str, make_layer: Make, make_inputs: Make) -> None:
    for option in inspect.signature(MODELS[name].build).parameters:
        base: dict[str, Any] = BASE.get(name, {}) | {"num_layers": 2} | NOISY
        base |= {"noise_units": "per_step"} if name == "noisy" and option in ("noise_units", "noise_law") else {}
        base |= {"multiplicative": 0.0} if option == "noise_place" else {}
        layer = make_layer(name, **base)
        if option in ("diffusion", "device", "dtype"):  # modules and conversions, which are set as those of torch
            continue
        if option == "scheme" and not (layer.cells["l0"].integrable and layer.supports_dt):
            continue
        value = getattr(layer, option)
        if option not in OTHER:
            shown = repr(layer)
            with pytest.raises(AttributeError, match=rf"^{option} must stay .* {MODELS[name].build.__name__} .* got 7"):
                setattr(layer, option, 7)
            setattr(layer, option, value)  # the same
            assert repr(layer) == shown
            assert getattr(copy.deepcopy(layer), option) == getattr(pickle.loads(pickle.dumps(layer)), option) == value
            continue
        assert OTHER[option] != value
        setattr(layer, option, OTHER[option])
        built = make_layer(name, **base | {option: OTHER[option]})
        assert repr(layer) == repr(built)
        built.load_state_dict(layer.state_dict())
        assert torch.equal(*(outputs_of(each, make_inputs(4, 4), path=PATH) for each in (layer, built))), option


@every
@levels
@pytest.mark.parametrize(("batch", "steps", "hidden_size"), [(1, 1, 1), (4, 6, 5), (3, 2, 7)])
def test_shapes(
    name: str, levels: dict[str, float], batch: int, steps: int, hidden_size: int, make_layer: Make, make_inputs: Make
) -> None:
    layer = make_layer(name, hidden_size=hidden_size, **levels)
    inputs = make_inputs(batch, steps)
    outputs, h_n = layer(inputs)
    assert outputs.shape == (batch, steps, hidden_size)
    assert outputs.dtype == torch.float64
    assert h_n.shape == (1, batch, layer.cell.state_size)
    assert h_n.shape[2] == hidden_size * (2 if name in ("cornn", "lstm") else 1)
    layer.noise_mode = "off"
    outputs, h_n = layer(inputs)
    assert torch.equal(outputs[:, -1], h_n[0, :, :hidden_size])
    assert torch.equal(layer.last_output(inputs), outputs[:, -1])


@every
@levels
def test_gradients_reach_every_parameter(
    name: str, levels: dict[str, float], make_layer: Make, make_inputs: Make
) -> None:
    model = SequenceClassifier(make_layer(name, **levels), classes=3).double()
    inputs = make_inputs().requires_grad_()
    model(inputs, path=PATH).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert (parameter.grad != 0).any(), parameter_name
    assert (inputs.grad != 0).all()


@every
@levels
def test_eval_is_deterministic(name: str, levels: dict[str, float], make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer(name, **levels).eval(), make_inputs()
    assert torch.equal(outputs_of(layer, inputs), outputs_of(layer, inputs))
    assert torch.equal(outputs_of(layer, inputs, path=PATH), outputs_of(layer, inputs))


@every
def test_training_passes_differ_with_noise_only(name: str, make_layer: Make, make_inputs: Make) -> None:
    inputs = make_inputs()
    noisy, silent = make_layer(name, **NOISY), make_layer(name, **SILENT)
    assert noisy.training
    assert (outputs_of(noisy, inputs) != outputs_of(noisy, inputs)).any(dim=1).all()
    assert torch.equal(outputs_of(silent, inputs), outputs_of(silent, inputs))
    torch.testing.assert_close(outputs_of(noisy.eval(), inputs), outputs_of(silent, inputs), rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize("form", ["independent", "shared"])
def test_same_path_same_result(name: str, form: str, make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer(name, **NOISY, noise_form=form), make_inputs()
    first = outputs_of(layer, inputs, path=PATH)
    assert torch.equal(first, outputs_of(layer, inputs, path=PATH))
    assert not torch.equal(first, outputs_of(layer, inputs, path=BrownianPath(seed=9)))
    assert not torch.equal(first, outputs_of(layer, inputs, path=PATH.negated()))
    assert torch.equal(layer.last_output(inputs, path=PATH), layer(inputs, path=PATH)[0][:, -1])


@every
@levels
def test_float32_is_float64_to_rounding(
    name: str, levels: dict[str, float], make_layer: Make, make_inputs: Make
) -> None:
    layer, inputs = make_layer(name, **levels), make_inputs()
    exact = outputs_of(layer, inputs, path=PATH)
    single = outputs_of(layer.float(), inputs.float(), path=PATH)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-5)  # a few dozen roundings of 6e-8


@every
@levels
def test_rows_are_independent(name: str, levels: dict[str, float], make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer(name, **levels), make_inputs(batch=5)
    whole = outputs_of(layer, inputs, path=PATH)
    for row in range(5):
        alone = outputs_of(layer, inputs[row : row + 1], path=BrownianPath(seed=8, first_row=row))
        torch.testing.assert_close(alone[0], whole[row], rtol=0, atol=1e-12)  # BLAS may sum in another order


@every
@levels
def test_input_is_left_unmodified(name: str, levels: dict[str, float], make_layer: Make, make_inputs: Make) -> None:
    layer, inputs, lengths = make_layer(name, **levels), make_inputs(), torch.tensor([6, 1, 3, 2])
    h_0 = torch.randn(1, 4, layer.cell.state_size, generator=torch.Generator().manual_seed(2)).double()
    before = inputs.clone(), lengths.clone(), h_0.clone()
    layer(inputs, h_0, lengths=lengths)
    assert all(torch.equal(a, b) for a, b in zip((inputs, lengths, h_0), before, strict=True))


@every
@levels
def test_padding_changes_nothing(name: str, levels: dict[str, float], make_layer: Make, make_inputs: Make) -> None:
    layer, inputs, lengths = make_layer(name, **levels), make_inputs(), torch.tensor([6, 1, 3, 2])
    outputs, h_n = layer(inputs, lengths=lengths, path=PATH)
    outputs.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in layer.parameters()]
    past = torch.arange(6) >= lengths[:, None]
    assert (outputs[past] == 0).all()
    assert (outputs[~past] != 0).all()
    for filler in (100.0, torch.nan):  # NaN is how many archives pad
        layer.zero_grad()
        padded = inputs.masked_fill(past[..., None], filler)
        longer = torch.cat([padded, torch.full((4, 3, 2), filler, dtype=torch.float64)], dim=1)
        again, h_again = layer(longer, lengths=lengths, path=PATH)
        assert torch.equal(again[:, :6], outputs) and torch.equal(h_again, h_n)
        assert again.shape == (4, 9, 5) and (again[:, 6:] == 0).all()
        again.square().sum().backward()
        for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-12)
    for row, length in enumerate(lengths.tolist()):
        path = BrownianPath(seed=8, first_row=row)
        alone, h_alone = layer(inputs[row : row + 1, :length], path=path)
        torch.testing.assert_close(alone[0], outputs[row, :length], rtol=0, atol=1e-12)
        torch.testing.assert_close(h_alone[:, 0], h_n[:, row], rtol=0, atol=1e-12)


@every
def test_options_and_repr_rebuild_an_equal_layer(name: str, make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer(name, **NOISY, noise_form="shared"), make_inputs()
    options = layer.options()
    assert options["additive"] == 0.1 and options["noise_form"] == "shared"
    kind = type(layer)
    assert set(layer_options(name)) | {"input_size", "hidden_size", "batch_first"} == set(options)
    described = f"{kind.__name__}({layer.extra_repr()})"
    assert repr(layer).startswith(f"{kind.__name__}(") and layer.extra_repr() in repr(layer)
    for twin in (kind(**options), eval(described, {kind.__name__: kind})):
        assert twin.options() == options
        twin = twin.double()
        twin.load_state_dict(layer.state_dict())
        assert torch.equal(outputs_of(twin, inputs, path=PATH), outputs_of(layer, inputs, path=PATH))


@every
@levels
def test_state_dict_round_trip_is_exact(
    name: str, levels: dict[str, float], make_layer: Make, make_inputs: Make
) -> None:
    layer, other = make_layer(name, **levels), make_layer(name, seed=1, **levels)
    inputs = make_inputs()
    assert not torch.equal(outputs_of(layer, inputs, path=PATH), outputs_of(other, inputs, path=PATH))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(outputs_of(layer, inputs, path=PATH), outputs_of(other, inputs, path=PATH))


@every
def test_deepcopy(name: str, make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer(name, **NOISY), make_inputs()
    twin = copy.deepcopy(layer)
    assert torch.equal(outputs_of(twin, inputs, path=PATH), outputs_of(layer, inputs, path=PATH))
    with torch.no_grad():
        next(twin.parameters()).mul_(3.0)
    assert not torch.equal(outputs_of(twin, inputs, path=PATH), outputs_of(layer, inputs, path=PATH))


@every
@pytest.mark.parametrize(
    ("switch", "training", "acts"),
    [("auto", True, True), ("auto", False, False), ("on", False, True), ("on", True, True), ("off", True, False)],
)
def test_noise_switch(name: str, switch: str, training: bool, acts: bool, make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer(name, **NOISY), make_inputs()
    clean = outputs_of(make_layer(name, **SILENT), inputs)
    assert layer.noise_mode == "auto"
    layer.noise_mode = switch
    result = outputs_of(layer.train(training), inputs, path=PATH)
    assert torch.allclose(result, clean, rtol=0, atol=1e-12) is not acts


@every
def test_only_the_layer_in_training_mode_adds_no_noise(name: str, make_layer: Make, make_inputs: Make) -> None:
    model, inputs = SequenceClassifier(make_layer(name, **NOISY), classes=3).double().eval(), make_inputs()
    clean = model(inputs)
    model.layer.train()
    torch.testing.assert_close(model(inputs), clean, rtol=0, atol=1e-12)
    model.layer.noise_mode = "on"
    assert not torch.allclose(model(inputs), clean)
    model.layer.noise_mode = "auto"
    assert not torch.allclose(model.train()(inputs), clean)


@every
@levels
def test_initial_state(name: str, levels: dict[str, float], make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer(name, **levels), make_inputs()
    size = layer.cell.state_size
    zeros = torch.zeros(1, 4, size, dtype=torch.float64)
    assert torch.equal(outputs_of(layer, inputs, h_0=zeros, path=PATH), outputs_of(layer, inputs, path=PATH))
    whole, h_n = layer(inputs, path=PATH)
    head, h_2 = layer(inputs[:, :2], path=PATH)
    tail, h_6 = layer(inputs[:, 2:], h_2, path=BrownianPath(seed=8, first_step=2))
    torch.testing.assert_close(torch.cat([head, tail], dim=1), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(h_6, h_n, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=rf"^h_0 must have shape \(1, 4, {size}\), got \(4, {size}\)\.$"):
        layer(inputs, zeros[0])
    with pytest.raises(ValueError, match=rf"^h_0 must have shape \(1, 4, {size}\), got \(1, 3, {size}\)\.$"):
        layer.last_output(inputs, zeros[:, :3])


@pytest.mark.parametrize("name", TIMED)
@levels
def test_step_lengths(name: str, levels: dict[str, float], make_layer: Make, make_inputs: Make) -> None:
    tau = {"tau": 1.0} if name == "rate" else {}
    layer, inputs = make_layer(name, step_size=0.25, **tau, **levels), make_inputs()
    plain = outputs_of(layer, inputs, path=PATH)
    ones = torch.ones(4, 6, dtype=torch.float64)
    for dt in (1.0, 1, ones[0], ones):
        torch.testing.assert_close(outputs_of(layer, inputs, dt=dt, path=PATH), plain, rtol=0, atol=1e-12)
    halved = outputs_of(layer, inputs, dt=0.5, path=PATH)
    assert not torch.allclose(halved, plain)
    for dt in (torch.full((6,), 0.5), torch.full((4, 6), 0.5)):
        torch.testing.assert_close(outputs_of(layer, inputs, dt=dt, path=PATH), halved, rtol=0, atol=1e-12)
    # A row's own step lengths act on that row and that step alone.
    dt = ones.clone()
    dt[2, 3] = 0.5
    changed, _ = layer(inputs, dt=dt, path=PATH)
    base, _ = layer(inputs, path=PATH)
    differs = ((changed - base).abs() > 1e-12).any(dim=2)
    assert torch.equal(differs, (torch.arange(4) == 2)[:, None] & (torch.arange(6) >= 3))


@pytest.mark.parametrize("name", ["noisy", "lipschitz", "antisymmetric", "rate"])
def test_a_step_of_half_the_size_is_half_a_step(name: str, make_layer: Make, make_inputs: Make) -> None:
    inputs = make_inputs()
    options = {"antisymmetric": {}, "rate": {"tau": 1.0}}.get(name, {"learn_step": False})
    whole = make_layer(name, step_size=0.25, **options, **SILENT)
    half = make_layer(name, step_size=0.125, **options, **SILENT)
    torch.testing.assert_close(outputs_of(whole, inputs, dt=0.5), outputs_of(half, inputs), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize(
    ("dt", "sentence"),
    [
        (torch.ones(5), r"^dt must be a number or have shape \(6,\) or \(4, 6\), got \(5,\)\.$"),
        (torch.ones(6, 4), r"^dt must be a number or have shape \(6,\) or \(4, 6\), got \(6, 4\)\.$"),
        (0.0, r"^dt must be positive, got 0 as the smallest\.$"),
        (-0.5, r"^dt must be positive, got -0\.5 as the smallest\.$"),
        (float("nan"), r"^dt must be positive, got nan as the smallest\.$"),
        (float("inf"), r"^dt must be finite, got inf as the largest\.$"),
    ],
)
def test_bad_step_lengths(name: str, dt: Tensor | float, sentence: str, make_layer: Make, make_inputs: Make) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_layer(name)(make_inputs(), dt=dt)


@pytest.mark.parametrize("name", sorted(set(MODELS) - set(TIMED)))
@levels
def test_untimed_cells_refuse_step_lengths(
    name: str, levels: dict[str, float], make_layer: Make, make_inputs: Make
) -> None:
    layer = make_layer(name, **levels)
    sentence = rf"^dt must be None for {type(layer).__name__}, whose steps have no length, got step lengths\.$"
    with pytest.raises(ValueError, match=sentence):
        layer(make_inputs(), dt=1.0)


@every
def test_one_noise_free_step(name: str, make_layer: Make, make_inputs: Make) -> None:
    cell, inputs = make_layer(name).cell, make_inputs()
    state = cell.initial_state(4)
    assert state.dtype == torch.float64 and torch.equal(state, torch.zeros(4, cell.state_size).double())
    layer = make_layer(name, **SILENT)
    for m in range(3):
        state = cell.step(inputs[:, m], state)
        torch.testing.assert_close(state, layer(inputs[:, : m + 1])[1][0], rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize(
    ("inputs", "error", "sentence"),
    [
        (
            torch.zeros(64, 784),
            ValueError,
            r"^inputs must have shape \(batch, steps, 2\), or \(steps, 2\) for one sequence, got \(64, 784\)\. "
            r"For several sequences add the feature axis: inputs\.unsqueeze\(-1\)\.$",
        ),
        (torch.zeros(4, 6, 1), ValueError, r"^inputs must have shape \(batch, steps, 2\), or .*, got \(4, 6, 1\)\.$"),
        (torch.zeros(4, 0, 2), ValueError, r"^inputs must hold at least one sequence of one step, got \(4, 0, 2\)\.$"),
        (torch.zeros(4, 6, 2).long(), TypeError, r"^inputs must be floating point, got torch\.int64\. Convert: .*$"),
        ([[0.0]], TypeError, r"^inputs must be a tensor or a PackedSequence, got list\.$"),
    ],
)
def test_bad_inputs(name: str, inputs: Any, error: type[Exception], sentence: str, make_layer: Make) -> None:
    layer = make_layer(name)
    model = SequenceClassifier(layer, classes=3).double()
    for call in (layer, layer.last_output, model):
        with pytest.raises(error, match=sentence):
            call(inputs)


@every
@pytest.mark.parametrize(
    ("lengths", "error", "sentence"),
    [
        (torch.tensor([7, 1, 1, 1]), ValueError, r"^lengths must lie in \[1, 6\], the number of steps, got 7\.$"),
        (torch.tensor([6, 0, 1, 1]), ValueError, r"^lengths must lie in \[1, 6\], the number of steps, got 0\.$"),
        (torch.tensor([6, 1, 1]), ValueError, r"^lengths must have shape \(4,\), got \(3,\)\.$"),
        (torch.ones(4), TypeError, r"^lengths must be integers, got torch\.float32\.$"),
    ],
)
def test_bad_lengths(
    name: str, lengths: Tensor, error: type[Exception], sentence: str, make_layer: Make, make_inputs: Make
) -> None:
    with pytest.raises(error, match=sentence):
        make_layer(name)(make_inputs(), lengths=lengths)


@every
@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"additive": -0.1}, ValueError, r"^additive must be at least 0, got -0\.1\.$"),
        ({"multiplicative": -0.2}, ValueError, r"^multiplicative must be at least 0, got -0\.2\.$"),
        ({"noise_form": "both"}, ValueError, r"^noise_form must be one of independent, shared, got 'both'\.$"),
        ({"noise_law": "cauchy"}, ValueError, r"^noise_law must be one of gaussian, uniform, got 'cauchy'\.$"),
        ({"hidden_size": 0}, ValueError, r"^hidden_size must be at least 1, got 0\.$"),
        ({"input_size": 2.0}, TypeError, r"^input_size must be an integer, got 2\.0\.$"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        MODELS[name].build(**{"input_size": 2, "hidden_size": 5, **options})


@every
def test_bad_switch(name: str, make_layer: Make) -> None:
    layer = make_layer(name)
    with pytest.raises(ValueError, match=r"^noise_mode must be one of auto, off, on, got 'of'\. Did you mean 'off'\?$"):
        layer.noise_mode = "of"
    assert layer.noise_mode == "auto"
