"""The GPU kernel against the reference loop in float64: interpreted on a CPU at small sizes, on a GPU at full size.

Triton reads `TRITON_INTERPRET` when it is first imported, so the interpreted tests run in a process of their own, which
`test_interpreted` starts.
"""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tests.kernels.noise_terms import Terms, terms
from torch import Tensor

from noisyrnn.kernels.call import Gradients, KernelCall
from noisyrnn.kernels.recurrence import GATED, KINDS, Recurrence
from noisyrnn.kernels.reference import run_call
from noisyrnn.kernels.triton import kernel
from noisyrnn.noise import HiddenNoise

INSIDE = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INSIDE, reason="run by test_interpreted")

SILENT = terms()
ADDITIVE = terms(additive=0.3)
UNIFORM = terms(1, 0.3, 0.4, first_row=3, first_step=7)
UNIFORM_NEGATED = terms(1, 0.0, -0.4)
INDEPENDENT = terms(2, 0.3, 0.4, first_row=5, first_step=2**31 - 2, stream=2**32 - 1)
SHARED = terms(3, 0.3, 0.4, first_row=2, stream=3)
SHARED_NEGATED = terms(3, 0.0, -0.4, first_row=1)
SEEDS = (2**63 + 12345, 7, 2**64 - 1, *range(1000, 1013))


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_pass(
    hidden: int,
    batch: int,
    steps: int,
    *,
    noise: Terms = INDEPENDENT,
    replicas: int = 1,
    inputs: int = 2,
    with_A: bool = True,
    lengths: bool = False,
    dt: str = "",
    scale: float = 0.7,
    shared: bool = False,
) -> KernelCall:
    """A float32 pass of random tensors; the first unit's step is zero, and no gradient may divide by it."""
    size = (1 if shared else replicas,)
    A, W = (randn(*size, hidden, hidden, seed=s) * scale / hidden**0.5 for s in (1, 2))
    step = torch.linspace(0.0 if hidden > 1 else 0.4, 0.5, hidden).expand(*size, hidden)
    spans = {"": None, "rows": 0.5 + randn(replicas, batch, steps, seed=9).abs() / 2}
    spans["shared"] = spans["rows"][:, :1]
    cut = torch.randint(1, steps + 1, (replicas, batch), generator=torch.Generator().manual_seed(3))
    call = KernelCall(
        "drift",
        randn(*size, batch, steps, inputs, seed=4).expand(replicas, -1, -1, -1),
        randn(*size, batch, hidden, seed=5).expand(replicas, -1, -1),
        A.expand(replicas, -1, -1) if with_A else None,
        W.expand(replicas, -1, -1),
        randn(*size, hidden, inputs, seed=6).expand(replicas, -1, -1),
        randn(*size, hidden, seed=7).expand(replicas, -1),
        step.expand(replicas, -1),
        None,
        spans[dt],
        cut if lengths else None,
        torch.tensor([s - 2**64 if s >= 2**63 else s for s in SEEDS[:replicas]]),
        (),
        "tanh",
        *noise,
    )
    if lengths:
        past = torch.arange(steps) >= cut[:, :, None]
        call = call._replace(inputs=call.inputs.masked_fill(past[..., None], torch.nan))
    return call


def gradients_in(call: KernelCall) -> tuple[Tensor, Tensor]:
    """Gradients of the outputs, with strides of their own, and of the last state."""
    replicas, batch, steps, hidden = *call.inputs.shape[:3], call.b.shape[1]
    grad_outputs = randn(hidden, replicas, steps, batch, seed=11).permute(1, 3, 2, 0)
    return grad_outputs, randn(batch, replicas, hidden, seed=12).transpose(0, 1)


def by_reference(
    call: KernelCall, grads: tuple[Tensor | None, Tensor | None], dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """What the reference loop and its derivatives give in a precision: outputs, last state, and gradients."""
    cast = [t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t for t in call]
    leaves = [t.detach().clone().requires_grad_() if isinstance(t, Tensor) else None for t in cast[1:8]]
    outputs, last = run_call(KernelCall(cast[0], *leaves, *cast[8:]), every_step=True)
    pairs = [(y, g.to(dtype)) for y, g in zip((outputs, last), grads, strict=True) if g is not None]
    wanted = [leaf for leaf in leaves if leaf is not None]
    found = torch.autograd.grad([y for y, _ in pairs], wanted, [g for _, g in pairs])
    return outputs.detach(), last.detach(), *found


def by_kernel(call: KernelCall, grads: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor, ...]:
    """The kernel forwards and backwards."""
    outputs, saved, last = kernel.forward(call, every_step=True, save=True)
    found = kernel.backward(call, outputs, saved, grads, with_inputs=True)
    for name, gradient in found._asdict().items():
        tensor = getattr(call, name)
        assert gradient.shape == ((len(call.b), 0) if tensor is None else tensor.shape), name
    return outputs, last, *(g for name, g in found._asdict().items() if getattr(call, name) is not None)


def check_parity(call: KernelCall, grads: tuple[Tensor | None, Tensor | None], *, times: float = 2.0) -> None:
    """The norm of the error is at most `times` that of the plain float32 loop, and two roundings are always allowed.

    At tiny sizes that loop may by luck be more exact than float32 can be relied upon to be; replicas make that rare.
    """
    expected, plain = by_reference(call, grads, torch.float64), by_reference(call, grads, torch.float32)
    names = ["outputs", "last", *(f"gradient of {n}" for n in Gradients._fields if getattr(call, n) is not None)]
    for name, fused, loop, exact in zip(names, by_kernel(call, grads), plain, expected, strict=True):
        assert fused.shape == exact.shape, name
        rounding = torch.finfo(torch.float32).eps * exact.norm()
        assert (fused - exact).norm() <= times * max((loop - exact).norm(), rounding), name


@pytest.mark.skipif(INSIDE, reason="this is the process that it starts")
@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_interpreted(marked: str) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            "-p",
            "no:cacheprovider",
            "-k",
            "interpreter",
            "-m",
            marked,
            Path(__file__).parent,
        ],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@interpreted
@pytest.mark.parametrize(
    ("hidden", "batch", "steps", "noise", "with_A", "options"),
    [
        (7, 5, 4, SILENT, True, {"replicas": 2}),
        (7, 5, 4, UNIFORM, False, {}),
        pytest.param(7, 5, 4, SILENT, False, {"replicas": 2}, marks=pytest.mark.slow),
        (16, 17, 2, SHARED_NEGATED, False, {"inputs": 1}),
        pytest.param(33, 5, 3, UNIFORM, False, {}, marks=pytest.mark.slow),
        (7, 5, 6, SHARED, True, {"dt": "rows", "lengths": True}),
        (16, 5, 3, INDEPENDENT, False, {"dt": "shared", "replicas": 2, "shared": True}),
        pytest.param(1, 1, 1, ADDITIVE, True, {"replicas": 4}, marks=pytest.mark.slow),
        pytest.param(16, 17, 4, INDEPENDENT, True, {"replicas": 2, "lengths": True}, marks=pytest.mark.slow),
        pytest.param(7, 17, 3, UNIFORM_NEGATED, True, {"lengths": True, "replicas": 2}, marks=pytest.mark.slow),
        pytest.param(16, 16, 3, SHARED_NEGATED, False, {"inputs": 1}, marks=pytest.mark.slow),
        pytest.param(7, 32, 2, ADDITIVE, True, {"dt": "rows", "replicas": 4}, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_interpreter_parity(
    hidden: int, batch: int, steps: int, noise: Terms, with_A: bool, options: dict[str, object]
) -> None:
    call = make_pass(hidden, batch, steps, noise=noise, with_A=with_A, **options)
    check_parity(call, gradients_in(call))


@interpreted
def test_interpreter_parity_with_weights_from_the_cache() -> None:
    assert kernel._block(256, 2, "bf16x6", torch.device("cpu")) == 32
    call = make_pass(129, 3, 2)
    check_parity(call, gradients_in(call))


@interpreted
@pytest.mark.parametrize("given", [(True, False), (False, True)], ids=["outputs", "last"])
def test_interpreter_gradients_that_are_absent(given: tuple[bool, bool]) -> None:
    call = make_pass(7, 5, 4, lengths=True)
    grads = tuple(g if there else None for g, there in zip(gradients_in(call), given, strict=True))
    check_parity(call, grads)


@interpreted
def test_interpreter_nothing_flows_from_padding() -> None:
    call = make_pass(7, 5, 4, lengths=True)
    past = torch.arange(4) >= call.lengths[:, :, None]
    grad_outputs, grad_last = gradients_in(call)
    outputs, saved, _ = kernel.forward(call, every_step=True, save=True)
    assert (outputs[past] == 0).all()
    dirty = kernel.backward(
        call, outputs, saved, (grad_outputs.masked_fill(past[..., None], torch.nan), grad_last), with_inputs=True
    )
    clean = kernel.backward(call, outputs, saved, (grad_outputs, grad_last), with_inputs=True)
    assert (dirty.inputs[past] == 0).all()
    assert all(torch.equal(a, b) and torch.isfinite(a).all() for a, b in zip(dirty, clean, strict=True))


@interpreted
def test_interpreter_last_state_alone_and_what_is_saved() -> None:
    call = make_pass(7, 5, 3, lengths=True)
    outputs, saved, last = kernel.forward(call, every_step=True, save=True)
    assert saved.shape == (1, 3, 5, 7)
    kept = saved.clone()  # a graph may be kept for another backward pass
    first = kernel.backward(call, outputs, saved, (None, last), with_inputs=False)
    assert first.inputs.shape == (1, 0)
    again = kernel.backward(call, outputs, saved, (None, last), with_inputs=False)
    assert torch.equal(saved, kept)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    full = kernel.backward(call, outputs, saved, (None, last), with_inputs=True)
    bare = kernel.backward(call, outputs, saved, (None, last), with_inputs=True, with_weights=False)
    assert torch.equal(bare.inputs, full.inputs) and torch.equal(bare.state, full.state)
    assert all(weight.shape == (1, 0) for weight in bare[2:])
    for every_step, save in ((True, False), (False, True), (False, False)):
        some, memory, end = kernel.forward(call, every_step=every_step, save=save)
        assert torch.equal(end, last)
        assert torch.equal(some, outputs) if every_step or save else some.shape == (1, 0, 0, 0)
        assert torch.equal(memory, kept) if save else memory.shape == (1, 0, 0, 0)


@interpreted
def test_interpreter_rows_do_not_depend_on_how_they_are_split() -> None:
    call = make_pass(7, 20, 2)
    whole, _, _ = kernel.forward(call, every_step=True, save=False)
    for begin in (1, 5):
        part = call._replace(
            inputs=call.inputs[:, begin:],
            state=call.state[:, begin:],
            path=replace(call.path, first_row=call.path.first_row + begin),
        )
        rows, _, _ = kernel.forward(part, every_step=True, save=False)
        torch.testing.assert_close(rows, whole[:, begin:], rtol=0, atol=1e-6)  # one rounding of sums in another order


@interpreted
def test_interpreter_bf16_products_keep_a_float32_state(monkeypatch: pytest.MonkeyPatch) -> None:
    call = make_pass(16, 5, 6, noise=SILENT, scale=0.5)
    exact = by_reference(call, gradients_in(call), torch.float64)
    monkeypatch.setattr(kernel, "product_precision", lambda device: "bf16")
    errors = [
        float((found - wanted).abs().max() / wanted.abs().max())
        for found, wanted in zip(by_kernel(call, gradients_in(call)), exact, strict=True)
    ]
    # A bf16 rounding is 2**-9; a product has two and there are six steps. Below 2**-16 nothing was rounded at all.
    assert all(2**-16 < error < 2**-6 for error in errors), errors
    still = call._replace(step=torch.zeros_like(call.step))
    assert torch.equal(kernel.forward(still, every_step=False, save=False)[2], still.state)


@interpreted
def test_interpreter_autocast_leaves_other_products_alone() -> None:
    call = make_pass(7, 5, 4, noise=SILENT)
    plain = kernel.forward(call._replace(W=call.W * 0, A=call.A * 0), every_step=False, save=False)[2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = kernel.forward(call._replace(W=call.W * 0, A=call.A * 0), every_step=False, save=False)[2]
    assert torch.equal(under, plain)  # the inputs' part stays float32


def recurrence(hidden: int = 4, *, kind: str = "drift", dtype: torch.dtype = torch.float32) -> Recurrence:
    square, vector = torch.zeros(hidden, hidden, dtype=dtype), torch.zeros(hidden, dtype=dtype)
    return Recurrence(kind, square, square, vector[:, None], vector, vector)


@pytest.mark.skipif(INSIDE, reason="the interpreter runs on a CPU")
@pytest.mark.parametrize(
    ("made", "inputs", "reason"),
    [
        (recurrence(), torch.zeros(1, 1, 1), "the inputs are on cpu, not on a GPU"),
        (recurrence(257), torch.zeros(1, 1, 1), "hidden_size 257 is more than 256"),
        (recurrence(), torch.zeros(1, 1, 1).double(), "the inputs are float64, not float32"),
        (recurrence(dtype=torch.float64), torch.zeros(1, 1, 1), "the weights are float64, not float32"),
    ],
)
def test_refusals(made: Recurrence, inputs: Tensor, reason: str) -> None:
    assert kernel.supports(made, inputs) == reason


@pytest.mark.parametrize("kind", KINDS)
def test_noise_inside_only_where_it_has_a_place(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_interpreted", lambda: True)
    monkeypatch.setattr(kernel, "_installed", lambda: True)
    inside = HiddenNoise(additive=0.1, place="inside")
    refused = None if kind not in ("current", *GATED) else f"the recurrence {kind!r} has no noise inside"
    assert kernel.supports(recurrence(kind=kind), torch.zeros(1, 1, 1), inside) == refused
    assert kernel.supports(recurrence(kind=kind), torch.zeros(1, 1, 1)) is None


def test_refusal_of_an_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGPU(NamedTuple):
        dtype: torch.dtype = torch.float32
        device: torch.device = torch.device("cuda:1")

    monkeypatch.setattr(kernel, "_interpreted", lambda: False)
    monkeypatch.setattr(kernel, "_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5) if device.index == 1 else (9, 0))
    assert kernel.supports(recurrence(), OnGPU()) == "the GPU's compute capability 7.5 is below 8.0"
    assert kernel.supports(recurrence(), OnGPU(device=torch.device("cuda:0"))) is None


def test_refusal_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_interpreted", lambda: True)
    monkeypatch.setattr(kernel, "_installed", lambda: False)
    assert kernel.supports(recurrence(), torch.zeros(1, 1, 1)) == "triton is not installed"
    monkeypatch.setattr(kernel, "_installed", lambda: True)
    assert kernel.supports(recurrence(256), torch.zeros(1, 1, 1)) is None


def test_product_precision_follows_torch() -> None:
    for setting, product in (("tf32", "tf32"), ("none", "bf16x6")):  # "none" is how torch begins
        torch.backends.cuda.matmul.fp32_precision = setting
        assert kernel.product_precision("cpu") == product
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert kernel.product_precision("cpu") == "bf16"


@pytest.mark.parametrize(
    ("size", "matrices", "product", "block"),
    [(16, 2, "bf16x6", 16), (128, 2, "bf16x6", 128), (128, 2, "tf32", 128), (256, 1, "bf16", 32), (256, 2, "tf32", 32)],
)
def test_weights_stay_where_they_fit(size: int, matrices: int, product: str, block: int) -> None:
    assert kernel._block(size, matrices, product, torch.device("cpu")) == block


def test_weights_do_not_stay_in_a_small_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_HOPPER", 99 * 1024)  # of a consumer's GPU
    assert kernel._block(128, 2, "bf16x6", torch.device("cpu")) == 32
    assert kernel._block(128, 2, "bf16", torch.device("cpu")) == 128


@pytest.mark.skipif(INSIDE, reason="the interpreter does not compile")
@pytest.mark.parametrize(
    ("kind", "size", "product", "options"),
    [
        ("drift", 32, "bf16x6", {"HAS_A": True}),
        pytest.param("drift", 128, "bf16x6", {"HAS_A": True}, marks=pytest.mark.slow),
        pytest.param("drift", 128, "bf16x6", {"HAS_A": True, "COLUMNS": 32}, marks=pytest.mark.slow),
        pytest.param("gru", 128, "tf32", {}, marks=pytest.mark.slow),
        pytest.param("gru", 128, "tf32", {"COLUMNS": 128}, marks=pytest.mark.slow),
        pytest.param("lstm", 128, "bf16", {"COLUMNS": 128}, marks=pytest.mark.slow),
        pytest.param("oscillator", 128, "bf16x6", {"COLUMNS": 128}, marks=pytest.mark.slow),
        pytest.param("modrelu", 128, "bf16x6", {}, marks=pytest.mark.slow),
        pytest.param("lstm", 256, "bf16x6", {}, marks=pytest.mark.slow),
        ("lstm", 16, "bf16", {"COLUMNS": 16}),
        ("current", 16, "tf32", {"ACTIVATION": "softplus", "steps": 1}),
        pytest.param("lstm", 16, "bf16x6", {"steps": 1, "batch": 1, "hidden": 1}, marks=pytest.mark.slow),
        pytest.param("rate", 16, "tf32", {"INSIDE": True, "COLUMNS": 16}, marks=pytest.mark.slow),
        pytest.param("gru", 16, "bf16x6", {"quiet": True}, marks=pytest.mark.slow),
    ],
)
def test_compiles_for_a_gpu_that_is_not_there(
    kind: str, size: int, product: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    everything, columns = not options.pop("quiet", False), options.get("COLUMNS", 0)
    matrices = {"oscillator": 2, "gru": 3, "lstm": 4}.get(kind, 2 if options.get("HAS_A") else 1)
    block = kernel._block(size, matrices, product, torch.device("cpu"))
    fixed = {"KIND": kind, "ACTIVATION": "tanh", "HP": size, "BLOCK": block, "PRODUCT": product, "HAS_A": False}
    fixed |= {"SOURCE": 2 if everything and not columns else 0, "INSIDE": False, "SHIFTED": bool(columns), "COLUMNS": 0}
    fixed |= {"COLUMN_BLOCK": 16 if columns <= 32 else 32, **options}
    for name in ("forward", "backward"):
        shared = compiled_for_hopper(name, fixed, everything)
        # What `_block` counts on; a launch fails beyond it.
        resident = matrices * size**2 * kernel._BYTES[product] if block == size else 128 * 1024
        assert shared <= resident + 16 * 16 * size + 1024
        assert shared <= kernel._HOPPER


def compiled_for_hopper(name: str, fixed: dict[str, Any], everything: bool) -> int:
    """Compile a loop for an H100; return the shared memory that it takes."""
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from noisyrnn.kernels.triton import loops

    loop = getattr(loops, name)
    constants = {
        n: fixed.get(n, everything) for n in loop.arg_names if n.isupper() or n in fixed
    }  # 1 is a constant too
    integers = ("skip", "steps", "batch", "hidden", "width", "columns", *(n for n in loop.arg_names if "stride" in n))
    types = dict.fromkeys(integers, "i32") | dict.fromkeys(("first_pair", "first_step", "stream"), "i64")
    types |= dict.fromkeys(("additive", "base", "slope", "stiffness", "friction"), "fp32")
    types |= dict.fromkeys(("lengths", "seed"), "*i64")
    types["weights"] = "*bf16" if fixed["PRODUCT"] == "bf16" else "*fp32"
    signature = {n: "constexpr" if n in constants else types.get(n, "*fp32") for n in loop.arg_names}
    places = {(loop.arg_names.index(n),): value for n, value in constants.items()}
    target = GPUTarget("cuda", 90, 32)
    made = compile(ASTSource(loop, signature, places), target=target, options={"num_warps": max(1, fixed["HP"] // 16)})
    return int(made.metadata.shared)


PUBLISHED = terms(2, 0.05, 0.02)
ON_A_GPU = 3.0
"""Six bf16 products make a float32 one, and one product sums the gradients of all steps: `docs/kernels.md`."""


def full_size(hidden: int = 128) -> KernelCall:
    """A pass over sequential MNIST's shape, on the GPU, with the published noise and step."""
    call = make_pass(hidden, 128, 784, noise=PUBLISHED, inputs=1, scale=0.3)
    call = call._replace(step=torch.full_like(call.step, 0.01))
    return KernelCall(*[t.cuda() if isinstance(t, Tensor) else t for t in call])


@pytest.mark.gpu
@pytest.mark.parametrize("with_A", [True, False], ids=["A", "no_A"])
@pytest.mark.parametrize("hidden", [7, 64, 128, 256])
def test_parity_on_a_gpu(hidden: int, with_A: bool) -> None:
    call = full_size(hidden=hidden)
    call = call if with_A else call._replace(A=None)
    check_parity(call, tuple(g.cuda() for g in gradients_in(call)), times=ON_A_GPU)


@pytest.mark.gpu
@pytest.mark.parametrize("noise", [SILENT, ADDITIVE, UNIFORM, INDEPENDENT, SHARED], ids=str)
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
def test_parity_of_every_noise_on_a_gpu(noise: Terms, lengths: bool) -> None:
    dt = "" if noise is UNIFORM else "rows"
    # A state that grows makes the error's norm one number, and its ratio luck: small weights, many replicas.
    call = make_pass(33, 17, 50, noise=noise, replicas=16, lengths=lengths, dt=dt, scale=0.3)
    call = KernelCall(*[t.cuda() if isinstance(t, Tensor) else t for t in call])
    check_parity(call, tuple(g.cuda() for g in gradients_in(call)), times=ON_A_GPU)


@pytest.mark.gpu
@pytest.mark.parametrize(("product", "error"), [("tf32", 5e-3), ("bf16", 5e-2)])
def test_coarser_products_on_a_gpu(product: str, error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    call = full_size()
    grads = tuple(g.cuda() for g in gradients_in(call))
    exact = by_reference(call, grads, torch.float64)
    monkeypatch.setattr(kernel, "product_precision", lambda device: product)
    for found, wanted in zip(by_kernel(call, grads), exact, strict=True):
        assert (found - wanted).norm() <= error * wanted.norm()
