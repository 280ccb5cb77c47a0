"""Every model on every kernel gives the same numbers wherever it is called, and its noise is that of `nn.Dropout`.

What a pass should give is that of the same pass in plain circumstances, from the same state of torch's generator. In
the plain ones each kernel is compared with the reference in float64. `slow` has all products; by default each pair of a
model, a kernel and a circumstance comes once.
"""

import copy
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.defaults import defaults
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from noisyrnn.models import MODELS, RecurrentLayer, build_layer
from noisyrnn.native.library import unavailable
from noisyrnn.noise import BrownianPath

Result = dict[str, Tensor]
Call = Callable[[RecurrentLayer, Tensor], Tensor]

KERNELS = ("cpp", "eager", "reference")
DRIFT = ("antisymmetric", "lipschitz", "noisy")  # what kernel "cpp" runs
FUSED = (*DRIFT, "cornn", "exprnn")  # what kernel "eager" runs
PAIRS = [
    (name, kernel)
    for name in sorted(MODELS)
    for kernel in KERNELS
    if kernel == "reference" or (kernel == "eager" and name in FUSED) or (kernel == "cpp" and name in DRIFT)
]
FORMS = ("plain", "lengths", "stack")
BATCH, STEPS, INPUT, HIDDEN = 4, 6, 3, 5


@pytest.fixture(autouse=True)
def _own_generator() -> Iterator[None]:
    """Seeds set here end with the test."""
    with torch.random.fork_rng():
        yield


def make(name: str, kernel: str, form: str = "plain", **options: Any) -> RecurrentLayer:
    """A noisy float32 layer with weights large enough to matter."""
    if kernel == "cpp" and (reason := unavailable()) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    stack = {"num_layers": 2, "bidirectional": True, "dropout": 0.3} if form == "stack" else {}
    layer = build_layer(name, INPUT, HIDDEN, {"additive": 0.1, "multiplicative": 0.2, **stack, **options})
    for parameter_name, parameter in layer.named_parameters():
        if parameter_name.endswith((".B", ".C")):  # start near zero by default
            nn.init.normal_(parameter, std=0.5)
    layer.kernel = kernel
    return layer


def make_inputs() -> Tensor:
    return torch.randn(BATCH, STEPS, INPUT, generator=torch.Generator().manual_seed(1))


LENGTHS = torch.tensor([6, 1, 3, 2])
DT = torch.linspace(0.5, 1.5, STEPS)
TIMED = ("noisy", "lipschitz", "antisymmetric", "cornn")


def side_by_side(layer: RecurrentLayer, inputs: Tensor, form: str) -> Tensor:
    """Outputs and last states of one pass, `(batch, anything)`."""
    options: dict[str, Any] = {}
    if form == "lengths":
        options = {"lengths": LENGTHS, "dt": DT if layer.cells["l0"].supports_dt else None}
    outputs, h_n = layer(inputs, **options)
    return torch.cat([outputs.flatten(1), h_n.transpose(0, 1).flatten(1)], dim=1)


def results(layer: RecurrentLayer, inputs: Tensor, form: str, call: Callable[[Any, Tensor], Tensor]) -> Result:
    """Values and all gradients of a pass that begins with torch's generator at a seed."""
    inputs = inputs.detach().clone().requires_grad_()
    layer.zero_grad()
    torch.manual_seed(7)
    values = call(lambda x: side_by_side(layer, x, form), inputs)
    values.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return {"values": values.detach(), "inputs": inputs.grad, **gradients}


def plainly(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    return function(inputs)


def assert_equal(found: Result, expected: Result) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].device == value.device, name
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(("name", "kernel"), PAIRS)
@pytest.mark.parametrize("form", [FORMS[0], *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])])
def test_kernels_agree_with_the_reference_in_float64(name: str, kernel: str, form: str) -> None:
    """With the noise of torch's generator: all kernels draw it alike."""
    layer, inputs = make(name, kernel, form), make_inputs()
    exact = copy.deepcopy(layer).double()
    exact.kernel = "reference"
    found, expected = results(layer, inputs, form, plainly), results(exact, inputs.double(), form, plainly)
    for key, value in expected.items():
        error = (found[key].double() - value).norm() / value.norm().clamp(min=1.0)
        assert float(error) < 1e-5, key  # some tens of roundings of 6e-8


# Circumstances under which the result is the same to the bit.


def in_default(dtype: torch.dtype, device: str = "cpu") -> Callable[..., Result]:
    def run(layer: RecurrentLayer, inputs: Tensor, form: str) -> Result:
        with defaults(dtype, device):
            return results(layer, inputs, form, plainly)

    return run


def in_checkpoint(**options: Any) -> Callable[..., Result]:
    def run(layer: RecurrentLayer, inputs: Tensor, form: str) -> Result:
        return results(layer, inputs, form, lambda function, x: checkpoint(function, x, **options))

    return run


def two_checkpoints(layer: RecurrentLayer, inputs: Tensor, form: str) -> Result:
    """A pass in a checkpoint after others of the same layer: each is computed again from its own state."""

    def call(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        first = checkpoint(function, x, use_reentrant=False)
        for _ in range(2):  # these are not to reach the first one's gradient
            checkpoint(function, x, use_reentrant=False)
        torch.rand(3)
        return first

    return results(layer, inputs, form, call)


def mapped_alike(layer: RecurrentLayer, inputs: Tensor, form: str) -> Result:
    """The same noise for all that is mapped, here weights: the pass of each is that without `vmap`."""

    def call(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        def one(_: Tensor) -> Tensor:
            return function(x)

        return torch.func.vmap(one, randomness="same")(torch.zeros(2))[1]

    return results(layer, inputs, form, call)


def deep_copy(layer: RecurrentLayer, inputs: Tensor, form: str) -> Result:
    return results(copy.deepcopy(layer), inputs, form, plainly)


def unpickled(layer: RecurrentLayer, inputs: Tensor, form: str) -> Result:
    layer(inputs)  # with what passes leave behind
    return results(pickle.loads(pickle.dumps(layer)), inputs, form, plainly)


def _in_process(send: Any, layer: RecurrentLayer, inputs: Tensor, form: str) -> None:
    """What a child does; it sends NumPy arrays, which need no shared memory."""
    torch.set_num_threads(1)
    send.send({name: value.numpy() for name, value in results(layer, inputs, form, plainly).items()})


def in_process(method: str) -> Callable[..., Result]:
    def run(layer: RecurrentLayer, inputs: Tensor, form: str) -> Result:
        layer(inputs)
        context = multiprocessing.get_context(method)
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=_in_process, args=(send, layer, inputs, form))
        process.start()
        send.close()
        try:
            found = receive.recv() if receive.poll(120) else None
        finally:
            process.join(10)
            process.kill()
        assert found is not None
        return {name: torch.from_numpy(value) for name, value in found.items()}

    return run


ALIKE: dict[str, Callable[..., Result]] = {
    "float64": in_default(torch.float64),
    "float16": in_default(torch.float16),
    "bfloat16": in_default(torch.bfloat16),
    "meta": in_default(torch.float32, "meta"),
    "checkpoint": in_checkpoint(use_reentrant=False),
    "checkpoint, reentrant": in_checkpoint(use_reentrant=True),
    "checkpoints": two_checkpoints,
    "vmap, same": mapped_alike,
    "deep copy": deep_copy,
    "pickle": unpickled,
    "fork": in_process("fork"),
}


def sampled(circumstances: list[str], always: tuple[str, ...]) -> list[Any]:
    """All products; those of three circumstances, each with one form in turn, are not slow."""
    cases = []
    for k, (name, kernel) in enumerate(PAIRS):
        for circumstance in circumstances:
            for f, form in enumerate(FORMS):
                chosen = circumstance in always and f == (k + always.index(circumstance)) % len(FORMS)
                marks = () if chosen else pytest.mark.slow
                identity = f"{circumstance}-{name}-{kernel}-{form}".replace(" ", "_")
                cases.append(pytest.param(name, kernel, circumstance, form, marks=marks, id=identity))
    return cases


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "kernel", "circumstance", "form"), sampled(list(ALIKE), ("float64", "meta", "checkpoint"))
)
def test_the_same_numbers_in_any_circumstance(name: str, kernel: str, circumstance: str, form: str) -> None:
    layer, inputs = make(name, kernel, form), make_inputs()
    expected = results(copy.deepcopy(layer), inputs, form, plainly)
    found = ALIKE[circumstance](layer, inputs, form)
    if circumstance == "vmap, same":  # products of several replicas are summed in another order
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    else:
        assert_equal(found, expected)


@pytest.mark.slow
def test_a_spawned_process(tmp_path: Any) -> None:
    """All models one after another, since a new interpreter takes seconds to import torch."""
    layers = {pair: make(*pair, "stack") for pair in PAIRS}
    expected = {pair: results(copy.deepcopy(layer), make_inputs(), "stack", plainly) for pair, layer in layers.items()}
    (tmp_path / "layers").write_bytes(pickle.dumps((make_inputs(), layers)))
    code = (
        f"import sys, pickle; sys.path[:0] = {sys.path!r}\n"
        f"import importlib.util\nspec = importlib.util.spec_from_file_location('circumstances', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        f"inputs, layers = pickle.loads(open({str(tmp_path / 'layers')!r}, 'rb').read())\n"
        "found = {k: module.results(l, inputs, 'stack', module.plainly) for k, l in layers.items()}\n"
        f"open({str(tmp_path / 'found')!r}, 'wb').write(pickle.dumps(found))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    found = pickle.loads((tmp_path / "found").read_bytes())
    for pair, result in expected.items():
        assert_equal(found[pair], result)


class Simulated(Dataset[Tensor]):
    """One noisy path of a layer for each sample."""

    def __init__(self, layer: RecurrentLayer) -> None:
        self.layer = layer

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        return self.layer(torch.zeros(1, 3, INPUT))[1].detach().flatten()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_of_a_data_loader_and_copies_share_no_noise() -> None:
    layer = make("noisy", "reference")
    workers = DataLoader(Simulated(layer), batch_size=1, num_workers=3, multiprocessing_context="fork")
    assert len(torch.cat(list(workers)).unique(dim=0)) == 6
    copies = [copy.deepcopy(layer)(torch.zeros(1, 3, INPUT))[1].detach().flatten() for _ in range(5)]
    assert len(torch.stack(copies).unique(dim=0)) == 5


# The randomness of `torch.func.vmap`, as `nn.Dropout` has it.


def seeds_drawn(*shape: int) -> Tensor:
    """What a pass draws next as its seed, or several passes that `vmap` makes of one."""
    with torch.random.fork_rng():
        return torch.randint(2**63 - 1, shape)


every_pair = pytest.mark.parametrize(
    ("name", "kernel", "form"),
    [
        pytest.param(*pair, form, marks=() if k % len(FORMS) == f else pytest.mark.slow)
        for k, pair in enumerate(PAIRS)
        for f, form in enumerate(FORMS)
    ],
)


def rows_of(layer: RecurrentLayer, form: str, path: Any = None) -> Callable[[Tensor], Tensor]:
    def one(x: Tensor) -> Tensor:
        options = (
            {"lengths": LENGTHS[2:3], "dt": DT[:STEPS]} if form == "lengths" and layer.cells["l0"].supports_dt else {}
        )
        outputs, h_n = layer(x.unsqueeze(0), path=path, **options)
        return torch.cat([outputs.flatten(), h_n.flatten()])

    return one


@every_pair
def test_vmap(name: str, kernel: str, form: str) -> None:
    layer, inputs = make(name, kernel, form), make_inputs()
    one = rows_of(layer, form)
    for randomness in ("error", None):
        with pytest.raises(RuntimeError, match=r"^vmap: called random operation while in randomness error mode"):
            torch.func.vmap(one, **({} if randomness is None else {"randomness": randomness}))(inputs)
    alike = inputs[:1].expand(BATCH, -1, -1)
    same = torch.func.vmap(one, randomness="same")(alike)
    torch.testing.assert_close(same, same[:1].expand_as(same), rtol=1e-4, atol=1e-5)
    seeds = seeds_drawn(BATCH)
    different = torch.func.vmap(one, randomness="different")(alike)
    assert (different.std(dim=0) > 0).any() and len(different.unique(dim=0)) == BATCH
    for row, x, seed in zip(different, alike, seeds, strict=True):
        expected = rows_of(layer, form, BrownianPath(seed=seed))(x)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)
    layer.noise_mode, layer.dropout = "off", 0.0
    torch.testing.assert_close(torch.func.vmap(one)(inputs)[1], one(inputs[1]), rtol=1e-4, atol=1e-5)


@every_pair
def test_nested_vmap_and_gradients_of_each_sample(name: str, kernel: str, form: str) -> None:
    layer, inputs = make(name, kernel, form), make_inputs()
    one = rows_of(layer, form)
    alike = inputs[:1].expand(2, -1, -1).expand(3, 2, -1, -1)
    for outer, inner, kinds in (("different", "different", 6), ("same", "different", 2), ("different", "same", 3)):
        mapped = torch.func.vmap(torch.func.vmap(one, randomness=inner), randomness=outer)(alike)
        rows = mapped.detach().flatten(0, 1)
        alike_to = (torch.cdist(rows, rows) < 1e-3).sum(dim=1)  # equal up to rounding, or far apart
        assert float((1 / alike_to).sum()) == pytest.approx(kinds)
    weights = {key: value.detach() for key, value in layer.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, seed: Tensor | None = None) -> Tensor:
        path = None if seed is None else BrownianPath(seed=seed)
        outputs, _ = torch.func.functional_call(layer, weights, (x.unsqueeze(0),), {"path": path})
        return outputs.square().sum()

    seeds = seeds_drawn(BATCH)
    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0), randomness="different")
    found = gradient(weights, inputs)
    for k in range(BATCH):
        expected = torch.func.grad(loss)(weights, inputs[k], seeds[k])
        torch.testing.assert_close({n: g[k] for n, g in found.items()}, expected, rtol=1e-3, atol=1e-4)


@every_pair
def test_an_ensemble_of_weights(name: str, kernel: str, form: str) -> None:
    layers = [make(name, kernel, form) for _ in range(3)]
    for layer in layers:
        nn.init.normal_(next(layer.parameters()), std=0.3)
    weights, buffers = torch.func.stack_module_state(layers)
    inputs = make_inputs()

    def one(weights: Any, buffers: Any) -> Tensor:
        return torch.func.functional_call(layers[0], (weights, buffers), (inputs,))[0]

    seeds = seeds_drawn(3)
    found = torch.func.vmap(one, randomness="different")(weights, buffers)
    for layer, outputs, seed in zip(layers, found, seeds, strict=True):
        expected = layer(inputs, path=BrownianPath(seed=seed))[0]
        torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="randomness error mode"):
        torch.func.vmap(one)(weights, buffers)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_shapes_on_the_meta_device(name: str, training: bool) -> None:
    with torch.device("meta"):
        layer = build_layer(name, INPUT, HIDDEN, {"additive": 0.1}).train(training)
    outputs, _ = layer(torch.empty(BATCH, STEPS, INPUT, device="meta"))
    outputs.sum().backward()
    assert outputs.is_meta and outputs.shape == (BATCH, STEPS, HIDDEN)
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_forward_mode_is_the_references() -> None:
    layer = build_layer("noisy", INPUT, HIDDEN, {}).eval()
    inputs = torch.randn(BATCH, STEPS, INPUT)

    def derivative() -> Tensor:
        return torch.func.jvp(lambda x: layer(x)[0], (inputs,), (torch.ones_like(inputs),))[1]

    layer.kernel = "reference"
    expected = derivative()
    step = 1e-2
    with torch.no_grad():
        quotient = (layer(inputs + step)[0] - layer(inputs - step)[0]) / (2 * step)
    torch.testing.assert_close(expected, quotient, rtol=1e-2, atol=1e-3)
    layer.kernel = "eager"
    with pytest.raises(NotImplementedError, match=r"^kernel must be 'reference' for forward-mode derivatives"):
        derivative()


@pytest.mark.parametrize("kernel", ["auto", "eager"])
def test_batched_gradients_are_the_references(kernel: str) -> None:
    layer, inputs = build_layer("noisy", INPUT, HIDDEN, {}).eval(), torch.randn(1, STEPS, INPUT)
    state = torch.randn(HIDDEN)

    def end(h: Tensor) -> Tensor:
        return layer(inputs, h[None, None])[1][0, 0]

    layer.kernel = kernel
    expected = torch.func.jacrev(end)(state)
    with pytest.raises(NotImplementedError, match=r"^kernel must be 'reference' for torch.autograd.grad\(is_grads_b"):
        torch.autograd.functional.jacobian(end, state, vectorize=True)
    layer.kernel = "reference"
    torch.testing.assert_close(torch.autograd.functional.jacobian(end, state, vectorize=True), expected)


@pytest.mark.parametrize("size", [2**31, 10**30])
def test_sizes_beyond_an_axis_are_refused_before_anything_is_built(size: int) -> None:
    for name, options in (("input_size", {}), ("hidden_size", {}), ("num_layers", {"num_layers": size})):
        sizes = [size if name == axis else 2 for axis in ("input_size", "hidden_size")]
        with pytest.raises(ValueError, match=f"^{name} must be at most"):
            build_layer("gru", *sizes, options)


def test_a_layer_compiles_before_any_pass_of_its_process() -> None:
    code = (
        "import torch, noisyrnn\n"
        "layer = noisyrnn.NoisyRNN(1, 8).eval()\n"
        "compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')\n"
        "inputs = torch.randn(2, 3, 1)\n"
        "print(torch.allclose(compiled(inputs)[0], layer(inputs)[0], atol=1e-6))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout == "True\n", found.stderr[-2000:]
