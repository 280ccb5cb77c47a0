"""What acts on a model by calling its modules acts, or is refused: hooks, pruning, normalizations, other forwards."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from noisyrnn import GRU, NoisyRNN, SequenceClassifier, SequenceRegressor, SequenceToSequence
from noisyrnn.models import HEADS, MODELS, RecurrentLayer, WithHiddenNoise, build_layer
from noisyrnn.models.lipschitz import LipschitzCell
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.noise.hidden_noise import HiddenNoise

KERNELS = ("auto", "eager", "reference")
INPUTS = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([6, 1, 4, 6])
PATH = BrownianPath(seed=3)


def build(name: str = "noisy", **options: Any) -> RecurrentLayer:
    torch.manual_seed(1)
    return build_layer(name, 3, 8, options)


def weight_of(layer: RecurrentLayer) -> tuple[nn.Module, str]:
    """A module of the layer whose weight is read, and the weight's name."""
    cell: Any = layer.cell
    return (cell.rnn, "weight_hh_l0") if hasattr(cell, "rnn") else (cell.input, "weight")


@pytest.mark.parametrize("head", HEADS.values(), ids=lambda head: head.__name__)
def test_hooks_of_layer_and_readout_run(head: Any) -> None:
    model, seen = head(NoisyRNN(3, 8), 2), []
    model.layer.register_forward_hook(lambda *_: seen.append("layer"))
    model.layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    model.readout.register_forward_hook(lambda *_: seen.append("readout"))
    model(INPUTS).sum().backward()
    assert seen == ["layer", "readout", "backward"]


@pytest.mark.parametrize("form", ["lengths", "mask", "packed", "alone", "steps first"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_hook_of_the_layer_sees_and_changes_what_the_readout_reads(form: str, bidirectional: bool) -> None:
    layer = build(bidirectional=bidirectional, num_layers=2, batch_first=form != "steps first")
    model = SequenceClassifier(layer, 2).eval()
    inputs: Any = INPUTS.transpose(0, 1) if form == "steps first" else INPUTS[0] if form == "alone" else INPUTS
    options: dict[str, Any] = {}
    if form == "packed":
        inputs = nn.utils.rnn.pack_padded_sequence(inputs, LENGTHS, batch_first=True, enforce_sorted=False)
    elif form == "mask":
        options["mask"] = torch.arange(6) < LENGTHS[:, None]
    elif form == "lengths":
        options["lengths"] = LENGTHS
    expected = model(inputs, **options)
    seen: list[Any] = []
    handle = layer.register_forward_hook(lambda _, __, results: seen.append(results))
    assert model(inputs, **options).equal(expected)
    assert seen[0][0] is not None
    handle.remove()

    def doubled(_: Any, __: Any, results: Any) -> Any:
        outputs, h_n = results
        return (2 * outputs if isinstance(outputs, Tensor) else outputs._replace(data=2 * outputs.data)), h_n

    layer.register_forward_hook(doubled)
    bias = model.readout.bias
    torch.testing.assert_close(model(inputs, **options) - bias, 2 * (expected - bias))


def test_a_replaced_forward_of_the_layer_acts() -> None:
    model = SequenceClassifier(NoisyRNN(3, 8), 2).eval()
    forward = model.layer.forward
    model.layer.forward = lambda inputs, lengths, mask, dt, path: forward(0 * inputs)  # type: ignore[method-assign]
    assert model(INPUTS).equal(model(5 * INPUTS))


@pytest.mark.parametrize("name", MODELS)
def test_pruned_weights_are_those_of_their_masks(name: str) -> None:
    def pruned(seed: int) -> RecurrentLayer:
        torch.manual_seed(seed)
        layer = build_layer(name, 3, 8, {"additive": 0.01})
        prune.l1_unstructured(*weight_of(layer), 0.5)
        return layer.eval()

    saved, loaded = pruned(1), pruned(2)
    loaded.load_state_dict(saved.state_dict())
    for mode in ("off", "on"):
        saved.noise_mode = loaded.noise_mode = mode
        with torch.no_grad():
            assert saved(INPUTS, path=PATH)[0].equal(loaded(INPUTS, path=PATH)[0])
    for _ in range(2):
        saved.train()(INPUTS)[0].sum().backward()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("normalize", [nn.utils.weight_norm, nn.utils.spectral_norm], ids=["weight", "spectral"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_older_normalizations_follow_their_parameters(kernel: str, normalize: Any) -> None:
    layer = build(additive=0.0, multiplicative=0.0).eval()
    layer.kernel = kernel
    module = copy.deepcopy(layer.cell.input)
    for each in (layer.cell.input, module):
        torch.manual_seed(0)
        normalize(each)
    assert layer(INPUTS)[0].equal(layer(INPUTS)[0])
    with torch.no_grad():
        for parameters in zip(layer.cell.input.parameters(), module.parameters(), strict=True):
            for parameter in parameters:
                parameter.mul_(3).add_(0.1)
        module(torch.zeros(1, 3))  # sets its weight, as torch does
        expected = build(additive=0.0, multiplicative=0.0).eval()
        expected.kernel = kernel
        expected.load_state_dict(layer.state_dict(), strict=False)
        expected.cell.input.weight.copy_(module.weight)
        torch.testing.assert_close(layer(INPUTS)[0], expected(INPUTS)[0])
        torch.testing.assert_close(layer.step(INPUTS[:, 0]), expected.step(INPUTS[:, 0]))


def test_spectral_norm_iterates_once_for_each_training_pass() -> None:
    layer = build()
    nn.utils.spectral_norm(layer.cell.input)
    module = copy.deepcopy(layer.cell.input)
    for training, gradients in ((True, True), (True, False), (False, True), (False, False)):
        layer.train(training)
        module.train(training)
        with torch.set_grad_enabled(gradients):
            layer(INPUTS)
            module(INPUTS)
            assert layer.cell.input.weight_u.equal(module.weight_u)
            layer.step(INPUTS[:, 0])
            module(INPUTS)
            assert layer.cell.input.weight_u.equal(module.weight_u)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("place", ["cell", "input"])
@pytest.mark.parametrize(
    "register",
    ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"],
)
def test_a_hook_that_would_not_run_is_refused(kernel: str, place: str, register: str) -> None:
    layer = build()
    layer.kernel = kernel
    module = layer.cell if place == "cell" else layer.cell.input
    getattr(module, f"register_{register}")(lambda *_: None)
    named = "LipschitzCell" if place == "cell" else r"LipschitzCell\.input"
    for call in (
        layer,
        lambda inputs: layer.step(inputs[:, 0]),
        layer.eval(),
        WithHiddenNoise(layer.cell, HiddenNoise()),
    ):
        inputs = INPUTS[:, 0] if isinstance(call, WithHiddenNoise) else INPUTS
        for gradients in (True, False):
            with (
                torch.set_grad_enabled(gradients),
                pytest.raises(ValueError, match=f"^{named} must have no .* hook|pre-hook"),
            ):
                call(inputs)


def test_a_hook_of_the_dictionary_of_cells_is_refused() -> None:
    layer = build()
    layer.cells.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"^NoisyRNN\.cells must have no forward hook"):
        layer(INPUTS)


class Adapted(nn.Linear):
    """A linear map with a low-rank term, as adapters add it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_other_forwards_are_refused(kernel: str) -> None:
    layer = build()
    layer.kernel = kernel
    for other in (Adapted(3, 8), nn.Sequential(nn.Linear(3, 8)), torch.ao.nn.quantized.dynamic.Linear(3, 8)):
        layer.cell.input = other
        with pytest.raises(TypeError, match=r"LipschitzCell\.input must be computed as Linear is, got"):
            layer(INPUTS)
    layer.cell.input = nn.Linear(3, 8)
    layer.cell.input.forward = lambda inputs: inputs  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="forward of its class, got one set on the instance"):
        layer(INPUTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchs_networks_refuse_hooks_of_their_module(dtype: torch.dtype) -> None:
    """They read its weights where a kernel runs them, and call it elsewhere: the hook would run in some passes."""
    layer = GRU(3, 8, additive=0.1, dtype=dtype)
    layer.cell.rnn.register_forward_hook(lambda *_: None)
    for mode in (layer.eval(), layer.train()):
        with pytest.raises(ValueError, match=r"TorchCell\.rnn must have no forward hook"):
            mode(INPUTS.to(dtype))


def test_a_module_cell_is_called_in_each_step() -> None:
    layer, seen = RecurrentLayer(nn.GRUCell, 3, 8), []
    layer.cell.module.register_forward_hook(lambda *_: seen.append(1))
    layer(INPUTS)
    assert len(seen) == 6


class Halved(nn.Module):
    """A parametrization with a setting that is not a tensor."""

    factor = 0.5

    def forward(self, weight: Tensor) -> Tensor:
        return self.factor * weight


@pytest.mark.parametrize("kernel", KERNELS)
def test_parametrizations_act_at_once(kernel: str) -> None:
    layer, expected = build().eval(), build().eval()
    layer.kernel = expected.kernel = kernel
    parametrize.register_parametrization(layer.cell.input, "weight", Halved())
    with torch.no_grad():
        layer(INPUTS)
        layer.cell.input.parametrizations.weight[0].factor = 0.25
        expected.cell.input.weight.mul_(0.25)
        torch.testing.assert_close(layer(INPUTS)[0], expected(INPUTS)[0])


@pytest.mark.parametrize("patched", ["class", "instance"])
def test_a_changed_step_is_not_run_by_its_parents_fused_form(patched: str) -> None:
    class Still(LipschitzCell):
        def increment(self, drive: Tensor, state: Tensor, weights: Any, dt: Tensor | None = None) -> Tensor:
            return torch.ones_like(state)

    layer = build().eval()
    if patched == "class":
        layer.cell.__class__ = Still
    else:
        layer.cell.increment = lambda drive, state, weights, dt=None: torch.ones_like(state)  # type: ignore[method-assign]
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            assert layer(INPUTS)[0][0, :, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert layer.step(INPUTS[:, 0])[0, 0] == 1


def test_regressors_and_sequences_keep_their_results_under_hooks() -> None:
    for head in (SequenceRegressor, SequenceToSequence):
        model = head(build(), 2).eval()
        expected = model(INPUTS, lengths=LENGTHS)
        model.layer.register_forward_hook(lambda *_: None)
        assert model(INPUTS, lengths=LENGTHS).equal(expected)
