"""What the layer itself decides: which noise a pass sees, how its weights are called, and what it survives."""

import copy
import inspect
import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from noisyrnn.kernels import reference
from noisyrnn.models import MODELS, Cell, NoisyCell, RecurrentLayer, SequenceClassifier, build_layer, layer_options
from noisyrnn.noise import BrownianPath

Make = Callable[..., Any]


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> list[BrownianPath | None]:
    """The path of every pass of the loop, in order."""
    seen: list[BrownianPath | None] = []
    run = reference.run

    def spy(*arguments: Any, path: BrownianPath | None = None, **options: Any) -> Any:
        seen.append(path)
        return run(*arguments, path=path, **options)

    monkeypatch.setattr(reference, "run", spy)
    return seen


def seeds_drawn(count: int) -> list[Tensor]:
    """What torch's default generator gives next, whose state stays as it is."""
    with torch.random.fork_rng():
        return [torch.randint(2**63 - 1, ()) for _ in range(count)]


def test_every_pass_draws_one_seed(make_layer: Make, make_inputs: Make, paths: list[BrownianPath]) -> None:
    layer = make_layer("noisy", num_layers=2, bidirectional=True, dropout=0.5)
    seeds = seeds_drawn(3)
    for _ in range(3):
        layer(make_inputs())
    assert paths == [BrownianPath(seed=seed, stream=k) for seed in seeds for k in range(4)]


def test_ranks_that_were_seeded_alike_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with torch.random.fork_rng():
        seeds = []
        for rank in range(8):
            monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            torch.manual_seed(1)
            seeds += [int(BrownianPath.random().seed) for _ in range(50)]
    assert len(set(seeds)) == 400


def test_passes_without_noise_draw_nothing(make_layer: Make, make_inputs: Make, paths: list[BrownianPath]) -> None:
    layer, cell = make_layer("noisy", num_layers=2, dropout=0.5), NoisyCell(2, 5, dtype=torch.float64)
    before = torch.get_rng_state()
    layer.eval()(make_inputs())
    cell.eval()(make_inputs()[:, 0])
    layer.train()(make_inputs(), path=BrownianPath(seed=1))
    layer.noise_mode = cell.train().noise_mode = "off"
    layer.dropout = 0.0
    layer.last_output(make_inputs())
    cell(make_inputs()[:, 0])
    make_layer("lipschitz", num_layers=2)(make_inputs())
    assert torch.equal(torch.get_rng_state(), before)
    layer.noise_mode, (seed,) = "on", seeds_drawn(1)
    layer.eval()(make_inputs())
    assert paths[-2:] == [BrownianPath(seed=seed), BrownianPath(seed=seed, stream=1)]


def test_the_owner_is_the_classifier(make_layer: Make, make_inputs: Make, paths: list[BrownianPath]) -> None:
    model = SequenceClassifier(make_layer("noisy"), classes=2).double()
    model(make_inputs())
    model.eval()
    model.layer.train()
    model(make_inputs())
    assert isinstance(paths[0], BrownianPath) and paths[1] is None


@pytest.mark.parametrize("path", [3, "seed", torch.tensor(3), {"seed": 3}])
def test_a_path_of_another_type(path: object, make_layer: Make, make_inputs: Make) -> None:
    model = SequenceClassifier(make_layer("noisy"), classes=2).double()
    sentence = r"^path must be a BrownianPath, got .* Give BrownianPath\(seed=\.\.\.\)\.$"
    for call in (model, model.layer, model.eval()):  # also where there is no noise
        with pytest.raises(TypeError, match=sentence):
            call(make_inputs(), path=path)


def test_a_wrong_h_0_is_refused_before_any_work(make_layer: Make, make_inputs: Make, paths: list[BrownianPath]) -> None:
    with pytest.raises(ValueError, match=r"^h_0 must have shape \(1, 4, 10\), got \(1, 4, 5\)\.$"):
        make_layer("cornn")(make_inputs(), torch.zeros(1, 4, 5))
    assert paths == []


def test_step_lengths_may_differ_between_replicas(make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer("lipschitz").double(), make_inputs().double()
    dt = torch.rand(2, inputs.shape[1], dtype=torch.float64) + 0.5
    together = torch.func.vmap(lambda sizes: layer.last_output(inputs, dt=sizes))(dt)
    alone = torch.stack([layer.last_output(inputs, dt=sizes) for sizes in dt])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"dt must be a number or have shape"):
        torch.func.vmap(lambda sizes: layer.last_output(inputs, dt=sizes))(dt[:, 1:])


def test_each_cell_has_its_own_stream(make_layer: Make, make_inputs: Make, paths: list[BrownianPath]) -> None:
    path = BrownianPath(seed=4, stream=7, first_row=3)
    make_layer("noisy", num_layers=2, bidirectional=True)(make_inputs(), path=path)
    assert paths == [replace(path, stream=7 + k) for k in range(4)]


NAMES = {
    "noisy": ["step_size", "B", "C", "input.weight", "input.bias"],
    "lipschitz": ["step_size", "B", "C", "input.weight", "input.bias"],
    "antisymmetric": ["C", "input.weight", "input.bias"],
    "rate": ["W", "input.weight", "input.bias"],
    "cornn": ["input.weight", "input.bias", "recurrent.weight"],
    "exprnn": [
        "threshold",
        "input.weight",
        "recurrent.free",
        "recurrent.start",
    ],
    **{
        name: [f"rnn.{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        for name in ("rnn", "gru", "lstm")
    },
}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_names_of_the_weights(name: str) -> None:
    layer = MODELS[name].build(2, 3, num_layers=2, bidirectional=True)
    cells = ["l0", "l0_reverse", "l1", "l1_reverse"]
    assert set(layer.state_dict()) == {f"cells.{cell}.{weight}" for cell in cells for weight in NAMES[name]}
    bare = {weight for weight in NAMES[name] if weight != "threshold" and "bias" not in weight}
    assert set(MODELS[name].build(2, 3, bias=False).state_dict()) == {f"cells.l0.{weight}" for weight in bare}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_weights_of_older_files_load(name: str, make_layer: Make) -> None:
    layer, other = make_layer(name), make_layer(name, seed=1)
    model, twin = SequenceClassifier(layer, 2).double(), SequenceClassifier(other, 2).double()
    old = {key.replace("layer.cells.l0.", "layer.cell."): value for key, value in model.state_dict().items()}
    for new, former in ((".recurrent.free", "original"), (".recurrent.start", "0.base")):
        former = f".recurrent.parametrizations.weight.{former}"
        old = {key.replace(new, former): value for key, value in old.items()}
    assert "layer.cell." in " ".join(old) and "cells" not in " ".join(old)
    for owner in (twin, copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        owner.load_state_dict(old)
        assert all(torch.equal(a, b) for a, b in zip(owner.parameters(), model.parameters(), strict=True))
    assert len(old) == len(model.state_dict()) and "layer.cell." in " ".join(old)  # the caller's are as they were


def test_the_only_cell(make_layer: Make) -> None:
    layer = make_layer("noisy")
    assert layer.cell is layer.cells["l0"]
    sentence = r"^NoisyRNN has 4 cells, l0, l0_reverse, l1, l1_reverse: use layer\.cells\.$"
    stack = make_layer("noisy", num_layers=2, bidirectional=True)
    with pytest.raises(AttributeError, match=sentence):
        _ = stack.cell
    assert hasattr(layer, "cell") and not hasattr(stack, "cell")  # debuggers and tracers ask for every attribute
    assert dict(inspect.getmembers(stack))["num_layers"] == 2
    with pytest.raises(AttributeError, match="'NoisyRNN' object has no attribute 'cel'"):
        _ = stack.cel


@pytest.mark.parametrize("name", sorted(MODELS))
def test_options_of_stacks_rebuild_them(name: str, make_layer: Make, make_inputs: Make) -> None:
    chosen = {"num_layers": 2, "bidirectional": True, "batch_first": False, "dropout": 0.25, "bias": False}
    layer, inputs = make_layer(name, **chosen, additive=0.3), make_inputs()
    options = layer.options()
    assert chosen.items() <= options.items() and not {"device", "dtype", "build"} & set(options)
    twin = type(layer)(**options).double()
    twin.load_state_dict(layer.state_dict())
    path = BrownianPath(seed=1)
    assert torch.equal(twin(inputs, path=path)[0], layer(inputs, path=path)[0])
    assert "device" not in layer_options(name) and "num_layers=2" in repr(layer)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_device_and_type(name: str) -> None:
    layer = MODELS[name].build(2, 3, num_layers=2, dtype=torch.float64)
    assert {t.dtype for t in layer.state_dict().values()} == {torch.float64}
    assert layer(torch.zeros(1, 2, 2, dtype=torch.float64))[0].dtype == torch.float64
    layer = MODELS[name].build(2, 3, device="meta", dtype=torch.float16)
    assert {(t.device.type, t.dtype) for t in layer.state_dict().values()} == {("meta", torch.float16)}


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_through_a_stack_are_the_whole_pass(
    name: str, dtype: torch.dtype, make_layer: Make, make_inputs: Make
) -> None:
    layer, inputs = make_layer(name, num_layers=3, additive=0.1).to(dtype).eval(), make_inputs().to(dtype)
    state, found = None, []
    for x in inputs.unbind(1):
        state = layer.step(x, state)
        found.append(state[-1, :, :5])
    outputs, h_n = layer(inputs)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12  # float32: the matrices are multiplied in another order
    torch.testing.assert_close(torch.stack(found, dim=1), outputs, rtol=0, atol=tolerance)
    torch.testing.assert_close(state, h_n, rtol=0, atol=tolerance)
    assert state.shape == h_n.shape and not state.requires_grad


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in sorted(MODELS)), ("rate", {"form": "current"})])
def test_the_recipe_for_values_that_arrive_one_at_a_time(
    name: str, options: dict[str, Any], layers: int, make_layer: Make, make_inputs: Make
) -> None:
    layer, inputs = make_layer(name, num_layers=layers, **options), make_inputs()
    model = SequenceClassifier(layer, classes=3, mean=torch.ones(2), std=torch.full((2,), 2.0)).eval()
    outputs, _ = layer(model.standardize(inputs))
    state = None
    for m, x in enumerate(inputs.unbind(dim=1)):
        state = layer.step(model.standardize(x), state)
        output = layer.output(state if layers == 1 else state[-1])
        torch.testing.assert_close(output, outputs[:, m], rtol=0, atol=1e-12)
        torch.testing.assert_close(model.answers(output), model(inputs[:, : m + 1]), rtol=0, atol=1e-12)
    assert torch.equal(output, state.reshape(layers, 4, -1)[-1, :, :5]) == (not options)  # rates are not currents


@pytest.mark.parametrize("name", ["lstm", "cornn"])
@pytest.mark.parametrize("form", [tuple, list])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_state_in_two_parts_is_refused_with_how_to_join_them(
    name: str, form: Any, layers: int, make_layer: Make, make_inputs: Make
) -> None:
    parts = form(torch.rand(2, layers, 4, 5, generator=torch.Generator().manual_seed(0)).double())
    layer, inputs = make_layer(name, num_layers=layers).eval(), make_inputs()
    sentence = (
        rf"must be a tensor, got {form.__name__}\. The parts of a state of {type(layer).__name__} are one tensor, "
    )
    with pytest.raises(TypeError, match=rf"^h_0 {sentence}such as torch\.cat\(\(h, c\), dim=-1\)\.$"):
        layer(inputs, parts)
    for one in (layer, layer.float()):  # without and with the fast kernel
        with pytest.raises(TypeError, match=rf"^state {sentence}"):
            one.step(inputs[:, 0].to(next(one.parameters()).dtype), parts)
    if name == "lstm" and layers == 1:
        torch_layer = nn.LSTM(2, 5, batch_first=True, dtype=torch.float64)
        ours = type(layer).from_torch(torch_layer).eval()
        torch.testing.assert_close(
            ours(inputs, torch.cat(tuple(parts), dim=-1))[0], torch_layer(inputs, tuple(parts))[0]
        )


def test_outputs_of_what_is_no_state_are_refused(make_layer: Make) -> None:
    layer = make_layer("lstm")
    assert torch.equal(layer.output(torch.ones(4, 10)), torch.ones(4, 5))
    for shape in ((4, 5), (4, 11), ()):  # the first is that of the outputs
        with pytest.raises(ValueError, match=r"^state must have shape \(\.\.\., 10\), got "):
            layer.output(torch.ones(shape))
    with pytest.raises(TypeError, match=r"^state must be a tensor, got tuple\. The parts of a state of LSTM are one"):
        layer.output((torch.ones(4, 5), torch.ones(4, 5)))


def test_bad_steps(make_layer: Make) -> None:
    x = torch.zeros(4, 2, dtype=torch.float64)
    sentence = r"^bidirectional must be False to take single steps, got True\. A backward direction starts at the end: "
    for layers in (1, 2):
        with pytest.raises(ValueError, match=sentence):
            make_layer("noisy", bidirectional=True, num_layers=layers).step(x)
    with pytest.raises(ValueError, match=r"^state must have shape \(2, 4, 5\), got \(4, 5\)\.$"):
        make_layer("noisy", num_layers=2).step(x, torch.zeros(4, 5).double())


@pytest.mark.parametrize("name", ["noisy", "cornn"])
def test_bad_initial_states_of_stacks(name: str, make_layer: Make, make_inputs: Make) -> None:
    layer, size = make_layer(name, num_layers=2, bidirectional=True), 10 if name == "cornn" else 5
    with pytest.raises(ValueError, match=rf"^h_0 must have shape \(4, 4, {size}\), got \(1, 4, {size}\)\.$"):
        layer(make_inputs(), torch.zeros(1, 4, size).double())
    with pytest.raises(ValueError, match=rf"^h_0 must have shape \(4, {size}\), got \(4, 4, {size}\)\.$"):
        layer(make_inputs()[0], torch.zeros(4, 4, size).double())


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"num_layers": 0}, ValueError, r"^num_layers must be at least 1, got 0\.$"),
        ({"num_layers": 1.5}, TypeError, r"^num_layers must be an integer, got 1\.5\.$"),
        ({"dropout": -0.1}, ValueError, r"^dropout must be at least 0, got -0\.1\.$"),
        ({"dropout": 1.0, "num_layers": 2}, ValueError, r"^dropout must be less than 1, got 1\.$"),
        ({"dropout": "some"}, TypeError, r"^dropout must be a number, got 'some'\.$"),
    ],
)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_bad_stacks(name: str, options: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        MODELS[name].build(2, 3, **options)


STACK = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "additive": 0.1}


@pytest.mark.parametrize(
    ("name", "switch", "options"),
    [
        ("noisy", "on", {"num_layers": 2, "dropout": 0.3}),
        ("noisy", "off", {"bidirectional": True}),
        ("cornn", "off", {}),
        ("exprnn", "off", {}),
    ],
)
def test_a_stack_compiles_in_one_graph(
    name: str, switch: str, options: dict[str, Any], make_layer: Make, make_inputs: Make
) -> None:
    torch.compiler.reset()
    layer = make_layer(name, additive=0.1, **options)
    layer.kernel, layer.noise_mode = "reference", switch
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    arguments = {"lengths": torch.tensor([2, 1, 2, 1]), "path": BrownianPath(seed=3)}
    inputs = make_inputs(steps=2)
    for found, wanted in zip(compiled(inputs, **arguments), layer(inputs, **arguments), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_autocast(name: str, make_layer: Make, make_inputs: Make) -> None:
    layer, inputs, path = make_layer(name, **STACK).float(), make_inputs().float(), BrownianPath(seed=1)
    exact = layer(inputs, path=path)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, h_n = layer(inputs, path=path)
    outputs.float().square().sum().backward()
    # bfloat16 keeps 8 bits, and each of twelve steps rounds a few times; modReLU jumps where its argument changes sign.
    assert (outputs.float() - exact).norm() <= 0.05 * exact.norm()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in layer.parameters())
    assert h_n.shape == (4, 4, layer.cells["l0"].state_size)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_copies_and_pickles(name: str, make_layer: Make, make_inputs: Make) -> None:
    layer, inputs, path = make_layer(name, **STACK).float(), make_inputs().float(), BrownianPath(seed=1)
    layer.noise_mode, layer.kernel = "on", "auto"
    wanted = layer(inputs, path=path)[0]
    with torch.no_grad():
        layer.eval()(inputs)  # packs the weights
    layer.train()
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(other(inputs, path=path)[0], wanted)
        assert other.noise_mode == "on" and other.options() == layer.options()


@pytest.mark.parametrize("name", ["noisy", "cornn", "exprnn"])
@pytest.mark.parametrize("kernel", ["reference", "eager"])
def test_replicas_of_a_stack(name: str, kernel: str, make_layer: Make, make_inputs: Make) -> None:
    layers = [make_layer(name, seed=seed, **STACK) for seed in (0, 1)]
    for layer in layers:
        layer.kernel = kernel
    parameters, buffers = torch.func.stack_module_state(layers)
    inputs, lengths, seeds = make_inputs(), torch.tensor([6, 1, 3, 2]), torch.tensor([3, 4])

    def outputs_of(parameters: Any, buffers: Any, seed: Any) -> Any:
        options = {"lengths": lengths, "path": BrownianPath(seed=seed)}
        return torch.func.functional_call(layers[0], (parameters, buffers), (inputs,), options)[0]

    together = torch.func.vmap(outputs_of)(parameters, buffers, seeds)
    for layer, seed, found in zip(layers, seeds, together, strict=True):
        wanted = layer(inputs, lengths=lengths, path=BrownianPath(seed=seed))[0]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_groups_of_parameters(make_layer: Make) -> None:
    layer = make_layer("noisy", num_layers=2)
    steps = [p for name, p in layer.named_parameters() if name.endswith("step_size")]
    others = [p for name, p in layer.named_parameters() if not name.endswith("step_size")]
    optimizer = torch.optim.Adam([{"params": steps, "lr": 1e-4}, {"params": others}], lr=1e-2)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 8]


def test_a_plain_layer_describes_itself() -> None:
    layer = RecurrentLayer(nn.GRUCell, 2, 3, additive=0.5)
    assert "additive=0.5" in repr(layer) and "build" not in layer.options()
    assert layer.noise_mode == "auto" and layer.output_size == 3


@pytest.mark.parametrize("name", MODELS)
def test_one_number_is_shown_as_one(name: str) -> None:
    levels = [level for level in ("additive", "damping", "dropout", "stiffness") if level in layer_options(name)]
    texts = set()
    for kind in (int, float, np.float64):
        layer = MODELS[name].build(2, 3, num_layers=2, **{level: kind(0) for level in levels})
        texts.add(repr(layer))
        assert json.loads(json.dumps(layer.options())) == layer.options()
    assert len(texts) == 1


def test_a_mask_reaches_the_layer(make_layer: Make, make_inputs: Make) -> None:
    layer, inputs, lengths = make_layer("noisy"), make_inputs(), torch.tensor([6, 1, 3, 2])
    mask, path = torch.arange(6) < lengths[:, None], BrownianPath(seed=1)
    assert torch.equal(layer(inputs, mask=mask, path=path)[0], layer(inputs, lengths=lengths, path=path)[0])
    with pytest.raises(ValueError, match=r"^mask must be true on the first steps .*, got a gap in row 1\. "):
        layer(inputs, mask=~mask)


def test_states_and_step_lengths_of_another_type_are_refused() -> None:
    layer, inputs = build_layer("lipschitz", 2, 3, {}), torch.zeros(4, 5, 2)
    with pytest.raises(TypeError, match=r"^h_0 must be a tensor, got ndarray\. Convert: torch\.as_tensor\(h_0\)\.$"):
        layer(inputs, torch.zeros(1, 4, 3).numpy())
    for dt in ("0.1", True):
        with pytest.raises(TypeError, match=f"^dt must be a number or a tensor, got {dt!r}"):
            layer(inputs, dt=dt)


def test_the_scheme_can_be_set(make_layer: Make, make_inputs: Make) -> None:
    one = make_layer("lipschitz", num_layers=2, bidirectional=True)
    two = make_layer("lipschitz", num_layers=2, bidirectional=True, scheme="stochastic-heun")
    assert not torch.equal(one(make_inputs())[0], two(make_inputs())[0])
    one.scheme = "stochastic-heun"
    assert {cell.scheme for cell in one.cells.values()} == {"stochastic-heun"}
    assert torch.equal(one(make_inputs())[0], two(make_inputs())[0])
    assert one.options()["scheme"] == "stochastic-heun"
    with pytest.raises(ValueError, match=r"^scheme must be one of euler-maruyama, .*, got 'heun'"):
        one.scheme = "heun"


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("gru", {"scheme": "milstein"}, r"^scheme must be 'euler-maruyama' for GRU, got 'milstein': its step"),
        ("cornn", {"scheme": "stochastic-heun"}, r"^scheme must be 'euler-maruyama' for CoRNN,"),
        ("noisy", {"scheme": "milstein"}, r"^multiplicative must be 0 with scheme 'milstein', got 0\.02: entry i"),
        ("noisy", {"scheme": "stochastic-heun", "noise_law": "uniform"}, r"^scheme must be .* noise_law 'uniform'"),
        (
            "noisy",
            {"scheme": "milstein", "diffusion": torch.outer},
            r"^diffusion must be .* declared diagonal",
        ),
    ],
)
def test_schemes_that_do_not_fit(name: str, options: dict[str, Any], sentence: str, make_layer: Make) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_layer(name, **options)


def test_a_level_set_later_is_checked_against_the_scheme(make_layer: Make, make_inputs: Make) -> None:
    layer = make_layer("lipschitz", scheme="milstein", additive=0.1)
    layer(make_inputs())
    layer.multiplicative = 0.1
    with pytest.raises(ValueError, match=r"^multiplicative must be 0 with scheme 'milstein', got 0\.1"):
        layer(make_inputs())
    layer.eval()(make_inputs())


def test_a_step_of_another_length_is_one_of_dt_and_not_one_that_is_set(make_layer: Make, make_inputs: Make) -> None:
    layer = make_layer("rate", tau=100.0, step_size=20.0)
    with pytest.raises(AttributeError, match=r"^step_size must stay 20\.0, with which .* call the layer with dt"):
        layer.step_size = 5.0
    built = make_layer("rate", tau=100.0, step_size=5.0)
    built.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.eval()(make_inputs(), dt=5.0 / 20.0)[0], built.eval()(make_inputs())[0])


def test_layers_of_users_keep_their_attributes(make_inputs: Make) -> None:
    class Own(RecurrentLayer):
        def __init__(self, gain: float, step_size: float) -> None:
            super().__init__(nn.GRUCell, 2, 5)
            self.gain, self.step_size = gain, step_size

    layer = Own(1.0, 0.1)
    layer.gain, layer.step_size = 2.0, 0.2  # what they mean is the class's own matter
    assert (layer.gain, layer.step_size) == (2.0, 0.2)
    with pytest.raises(AttributeError, match=r"^bidirectional must stay False, with which the cells of this Own"):
        layer.bidirectional = True


def test_single_steps_by_heuns_scheme(make_layer: Make, make_inputs: Make) -> None:
    layer, inputs = make_layer("lipschitz", num_layers=2, scheme="stochastic-heun").eval(), make_inputs()
    state = None
    for m in range(6):
        state = layer.step(inputs[:, m], state)
    torch.testing.assert_close(state, layer(inputs)[1], rtol=0, atol=1e-14)


class Reservoir(Cell):
    """A fixed random network: its weights are buffers."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("W", torch.randn(hidden_size, hidden_size) / hidden_size**0.5)
        self.register_buffer("U", torch.randn(hidden_size, input_size))

    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        change = 0.1 * (torch.tanh(state @ self.W.T + inputs @ self.U.T) - state)
        return change if dt is None else dt * change


class Decay(Cell):
    """A cell without any weight."""

    def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
        return -0.1 * state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_may_be_buffers(dtype: torch.dtype) -> None:
    layer = RecurrentLayer(Reservoir, 3, 8, dtype=dtype, additive=0.1)
    inputs = torch.randn(2, 5, 3, dtype=dtype)
    outputs, h_n = layer(inputs)
    assert outputs.dtype == h_n.dtype == layer.step(inputs[:, 0]).dtype == dtype
    other = torch.float32 if dtype == torch.float64 else torch.float64
    with pytest.raises(TypeError, match=f"^inputs must be {dtype}, as the weights are, got {other}"):
        layer(inputs.to(other))
    model = SequenceClassifier(layer, 2)
    assert model.readout.weight.dtype == dtype
    model(inputs).sum().backward()  # only the readout is trained
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == [
        "readout.weight",
        "readout.bias",
    ]


def test_a_cell_without_weights_says_what_it_needs() -> None:
    layer = RecurrentLayer(Decay, 3, 8)
    with pytest.raises(TypeError, match=r"^Decay must have a parameter or a floating-point buffer .* pass h_0, or"):
        layer(torch.zeros(2, 5, 3))
    assert layer(torch.zeros(2, 5, 3), torch.ones(1, 2, 8))[1].shape == (1, 2, 8)
    with pytest.raises(TypeError, match=r"^layer must have a parameter or a floating-point buffer, got RecurrentLayer"):
        SequenceClassifier(layer, 2)
