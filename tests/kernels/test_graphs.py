"""The operators as `torch.compile` sees them, and layers that are copied."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from tests.kernels.noise_terms import terms
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from noisyrnn.kernels import operator
from noisyrnn.kernels.recurrence import DRIFTS, KINDS, Recurrence
from noisyrnn.models import AntisymmetricRNN, NoisyRNN, SequenceClassifier
from noisyrnn.noise import BrownianPath

REPLICAS, BATCH, STEPS, INPUT, HIDDEN = 2, 3, 4, 2, 5
LENGTHS = torch.tensor([7, 2, 3])


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch.compiler.reset()  # graphs count towards a limit for each function, not for each model


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flat(backend: str, kind: str, *, source: int = 2, columns: int = 0) -> tuple[list[Tensor | None], list[object]]:
    """Arguments of the operators: tensors, then settings."""
    width = 2 * HIDDEN if kind in ("oscillator", "lstm") else HIDDEN
    rows = {"gru": 3, "lstm": 4}.get(kind, 1) * HIDDEN
    tensors = [
        randn(REPLICAS, BATCH, STEPS, INPUT, seed=1),
        randn(REPLICAS, BATCH, width, seed=2),
        randn(REPLICAS, HIDDEN, HIDDEN, seed=3) if kind == "drift" else None,
        randn(REPLICAS, rows, width if kind == "oscillator" else HIDDEN, seed=4),
        randn(REPLICAS, rows, INPUT, seed=5),
        randn(REPLICAS, 4 * HIDDEN if kind == "gru" else rows, seed=6),
        torch.full((REPLICAS, HIDDEN), 0.3),
        randn(REPLICAS, HIDDEN, columns, seed=7) if columns else None,
    ]
    tensors = [None if t is None else t.requires_grad_() for t in tensors]
    dt = torch.linspace(0.5, 1.5, REPLICAS * STEPS).view(REPLICAS, 1, STEPS)
    lengths = torch.tensor([[4, 1, 3], [4, 4, 2]])
    noise, path = terms(source, 0.1, 0.2 if source else 0.0)
    coefficients = (1.3, 0.7) if kind == "oscillator" else ()
    activation = "softplus" if columns and kind in DRIFTS else "tanh"
    settings = operator.KernelOptions(
        backend, kind, "", coefficients, activation, noise, path, True, True, single=False
    )
    return [*tensors, dt, lengths, torch.tensor([1, -1])], list(settings.flat())


# Kernel, kind, source of the noise, columns of a diffusion.
OPERATORS = [
    *(("cpp", kind, 0, 3) for kind in KINDS),
    *(("cpp", kind, source, 0) for kind, source in zip(KINDS, (2, 0, 3, 1, 3, 2, 0), strict=True)),
    *(("eager", kind, source, 0) for kind, source in [("drift", 2), ("drift", 0), ("oscillator", 1), ("modrelu", 3)]),
]


@pytest.mark.parametrize(("kernel", "kind", "source", "columns"), OPERATORS, indirect=["kernel"])
def test_the_operators_keep_what_their_fakes_promise(kernel: str, kind: str, source: int, columns: int) -> None:
    tensors, settings = flat(kernel, kind, source=source, columns=columns)
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_static")
    for every_step, save in ((True, True), (False, True)):
        torch.library.opcheck(operator.recurrence_operator, (*tensors, *settings, every_step, save), test_utils=tests)
    plain = [None if t is None else t.detach() for t in tensors]
    for every_step in (True, False):
        torch.library.opcheck(
            operator.recurrence_operator, (*plain, *settings, every_step, False), test_utils=tests[:2]
        )
    outputs, saved, last = operator.recurrence_operator(*plain, *settings, True, True)
    for wanted in ((True, True), (False, True), (True, False)):
        arguments = (*plain, outputs, saved, randn(*outputs.shape), randn(*last.shape), *settings, *wanted)
        torch.library.opcheck(operator.recurrence_backward, arguments, test_utils=tests[:2])


@pytest.mark.parametrize(("kernel", "kind", "source", "columns"), OPERATORS, indirect=["kernel"])
def test_the_bare_operator_has_the_gradients_of_the_function(kernel: str, kind: str, source: int, columns: int) -> None:
    """What a compiled graph holds, against what runs without it."""
    found = []
    for bare in (True, False):
        tensors, settings = flat(kernel, kind, source=source, columns=columns)
        tensors[4].requires_grad_(False)
        if bare:
            outputs, _, last = operator.recurrence_operator(*tensors, *settings, True, True)
        else:
            name, *rest = settings
            call = operator._call(tensors, *rest)
            options = operator.KernelOptions(
                name, kind, "", call.coefficients, call.activation, call.noise, call.path, True, True, single=False
            )
            outputs, _, last = operator.Fused.apply(*tensors, options)
        (outputs.square().sum() + last.sum()).backward()
        found.append([outputs.detach(), last.detach(), *(t.grad for t in tensors[:8] if t is not None)])
        assert tensors[4].grad is None
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def test_the_mapped_axis_may_be_any(kernel: str) -> None:
    tensors, settings = flat(kernel, "drift")
    name, *rest = settings
    call = operator._call(tensors, *rest)
    options = operator.KernelOptions(name, "drift", "", (), "tanh", call.noise, call.path, True, True, single=False)
    several = [
        None if t is None else torch.stack([t.detach(), t.detach()[[0, 0]]], dim=i % 2) for i, t in enumerate(tensors)
    ]
    dims = tuple(None if t is None else i % 2 for i, t in enumerate(tensors))
    outputs, _, last = torch.func.vmap(lambda *t: operator.Fused.apply(*t, options), in_dims=dims)(*several)
    for i, rows in enumerate(([0, 1], [0, 0])):
        wanted = operator.Fused.apply(*(None if t is None else t.detach()[rows] for t in tensors), options)
        assert torch.allclose(outputs[i], wanted[0], rtol=1e-5, atol=1e-6)
        assert torch.allclose(last[i], wanted[2], rtol=1e-5, atol=1e-6)


def classifier(kernel: str) -> SequenceClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = NoisyRNN(INPUT, HIDDEN, step_size=0.2, additive=0.2, multiplicative=0.3)
        layer.kernel = kernel
        return SequenceClassifier(layer, 3)


def results(model: torch.nn.Module, **options: object) -> list[Tensor]:
    """Logits and gradients."""
    model.zero_grad()
    logits = model(randn(BATCH, 7, INPUT), **options)
    logits.square().sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("timed", [False, True])
def test_a_classifier_compiles_in_one_graph(backend: str, timed: bool, kernel: str) -> None:
    model = classifier(kernel)
    options = {"lengths": LENGTHS, "dt": torch.linspace(0.5, 1.5, 7)} if timed else {}
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    tolerance = 0.0 if backend == "aot_eager" else 2e-5  # inductor's own products and sums round otherwise
    for seed in (3, 4):
        path = BrownianPath(seed=torch.tensor(seed))
        found, wanted = results(compiled, path=path, **options), results(model, path=path, **options)
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        model.eval()
        logits = compiled(randn(BATCH, 7, INPUT), **options)
        torch.testing.assert_close(logits, model(randn(BATCH, 7, INPUT), **options), rtol=tolerance, atol=tolerance)


def test_a_compiled_graph_draws_the_seed_of_every_pass(kernel: str) -> None:
    """Noise as without it, also in the backward pass, and no compilation but the first."""
    model, twin = classifier(kernel), classifier(kernel)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    logits = []
    with torch.random.fork_rng():
        for seed in range(4):
            torch.manual_seed(seed)
            found = [results(compiled) for _ in range(2)]
            torch.manual_seed(seed)
            torch.testing.assert_close(found, [results(twin) for _ in range(2)], rtol=0, atol=0)
            logits += [one for one, *_ in found]
    assert counter.frame_count == 1
    assert len(torch.stack(logits).unique(dim=0)) == 8


@pytest.mark.slow
def test_inductor_repeats_the_seeds_of_manual_seed(kernel: str) -> None:
    compiled = torch.compile(classifier(kernel), fullgraph=True)
    found = []
    with torch.random.fork_rng():
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            found.append([results(compiled) for _ in range(2)])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    logits = torch.stack([one for passes in found[1:] for one, *_ in passes])
    assert len(logits.unique(dim=0)) == 4


def test_wrong_lengths_reach_no_kernel_through_a_compiled_graph(kernel: str) -> None:
    compiled = torch.compile(classifier(kernel).eval(), backend="aot_eager", fullgraph=True)
    with pytest.raises(ValueError, match=r"lengths must lie in \[1, 7\], the number of steps, got 8\."):
        compiled(randn(BATCH, 7, INPUT), lengths=torch.tensor([7, 8, 1]))


def test_copies_and_pickles_compute_the_same(kernel: str) -> None:
    model = classifier(kernel)
    path = BrownianPath(seed=5)
    wanted = results(model, path=path)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.layer.kernel == kernel
        for one, two in zip(results(other, path=path), wanted, strict=True):
            assert torch.equal(one, two)


def test_settings_come_back_from_the_operators_arguments(kernel: str) -> None:
    """Each field of the noise in its own place."""
    noise, path = terms(2, -0.5, -0.125, first_row=3, first_step=4, stream=5)
    tensors, _ = flat(kernel, "drift")
    for each in (noise, replace(noise, multiplicative=0.0, place="inside")):
        settings = operator.KernelOptions(kernel, "drift", "tf32", (1.0, 2.0), "relu", each, path, True, False)
        name, *rest = settings.flat()
        call = operator._call(tensors, *rest)
        assert name == kernel
        assert (call.kind, call.precision, call.coefficients, call.activation) == ("drift", "tf32", (1.0, 2.0), "relu")
        assert (call.noise, call.path) == (each, path)
        assert call.seed is tensors[-1]


def test_recurrence_fields_are_in_the_order_of_a_pass() -> None:
    assert Recurrence._fields[1:6] == ("A", "W", "U", "b", "step")
    assert operator.KernelCall._fields[3:8] == Recurrence._fields[1:6]


def test_layers_with_other_settings_compile_too() -> None:
    """The second value of a number becomes a symbol of the graph."""
    inputs, path = randn(2, 3, 2), BrownianPath(seed=1)
    for damping in (0.01, 0.02, 0.03):
        layer = AntisymmetricRNN(2, 3, damping=damping)
        layer.kernel = "reference"
        outputs, _ = torch.compile(layer, backend="eager", fullgraph=True)(inputs, path=path)
        torch.testing.assert_close(outputs, layer(inputs, path=path)[0])
