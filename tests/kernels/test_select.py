"""Which kernel runs what, and each sentence on why another one does not."""

import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn.kernels import operator, reference, select
from noisyrnn.kernels.select import KernelNotice
from noisyrnn.models import GRU, MODELS, NoisyRNN, RecurrentLayer, SequenceClassifier, build_layer
from noisyrnn.native import library
from noisyrnn.noise import BrownianPath, HiddenNoise
from noisyrnn.sde import Activation
from noisyrnn.sde.activation import ACTIVATIONS

BATCH, STEPS, INPUT, HIDDEN = 3, 5, 2, 4
EAGER = ["noisy", "lipschitz", "antisymmetric", "cornn", "exprnn", "rate", "rnn"]
"""The models that the kernel "eager" runs, with tanh and two levels."""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No notice has been said yet, and nobody overrides."""
    monkeypatch.setattr(select, "_issued", set())
    monkeypatch.delenv("NOISYRNN_KERNEL", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return


@pytest.fixture
def with_cpu() -> None:
    reason = library.unavailable()
    if reason is not None:
        pytest.skip(reason)


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


INPUTS, PATH = randn(BATCH, STEPS, INPUT), BrownianPath(seed=9)


def build(model: str, kernel: str = "auto", **options: Any) -> RecurrentLayer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = build_layer(model, INPUT, HIDDEN, {"additive": 0.1, "multiplicative": 0.2, **options})
    layer.kernel, layer.noise_mode = kernel, "on"
    return layer


def _watched(ran: list[str], name: str, run: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    ran.append(name)
    return run(*arguments, **options)


def runs(monkeypatch: pytest.MonkeyPatch, layer: RecurrentLayer, **options: Any) -> tuple[str, list[str]]:
    """The kernel that ran, found by watching them, and the notices."""
    ran: list[str] = []
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, module, function in [
            ("reference", reference, "run"),
            *((name, module, "forward") for name, module in select.FAST.items()),
        ]:
            patch.setattr(module, function, partial(_watched, ran, name, getattr(module, function)))
        layer(options.pop("inputs", INPUTS), path=options.pop("path", PATH), **options)
    assert len(ran) == 1
    return ran[0], [str(w.message) for w in caught if issubclass(w.category, KernelNotice)]


@pytest.mark.usefixtures("with_cpu")
@pytest.mark.parametrize("model", MODELS)
def test_auto_takes_the_fastest_without_a_word(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    assert runs(monkeypatch, build(model)) == ("cpp", [])


EQUATIONS: list[tuple[str, dict[str, Any]]] = [
    *(("noisy", {"activation": name}) for name in ACTIVATIONS),
    *(("rate", {"form": "current", "activation": name}) for name in ACTIVATIONS),
    ("rate", {"activation": "softplus", "noise_place": "inside", "multiplicative": 0.0}),
    ("noisy", {"multiplicative": 0.0, "scheme": "milstein"}),
    *((model, {"diffusion": torch.ones(HIDDEN, 2), "additive": 0.0, "multiplicative": 0.0}) for model in MODELS),
]


@pytest.mark.usefixtures("with_cpu")
@pytest.mark.parametrize(("model", "options"), EQUATIONS)
def test_equations_that_the_cpu_kernel_knows(
    monkeypatch: pytest.MonkeyPatch, model: str, options: dict[str, Any]
) -> None:
    assert runs(monkeypatch, build(model, **options)) == ("cpp", [])


@pytest.mark.usefixtures("with_cpu")
@pytest.mark.parametrize("model", ["cornn", "exprnn", "lstm"])
def test_noise_inside_is_for_the_kinds_with_one_activation(model: str) -> None:
    """No layer of these has the option: the kernel is asked directly."""
    cell, noise = build(model).cell, HiddenNoise(additive=0.1, place="inside")
    reason = select.refusal("cpp", cell, INPUTS, recurrence=cell.recurrence(), noise=noise, path=PATH)
    assert reason == ("the recurrence 'lstm' has no noise inside" if model == "lstm" else None)


def test_a_cell_of_the_users_own_is_named_by_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = build("noisy")

    class OwnCell(type(layer.cell)):  # type: ignore[misc]
        def increment(self, inputs: Tensor, state: Tensor, dt: Tensor | None = None) -> Tensor:
            return super().increment(inputs, state, dt)

    layer.cell.__class__ = OwnCell
    assert runs(monkeypatch, layer)[1] == [
        "No fast kernel can run this cell: OwnCell has no fused form. Kernel 'reference' runs, which is slower."
    ]


def test_auto_leaves_float64_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    name, notices = runs(monkeypatch, build("noisy").double(), inputs=INPUTS.double())
    assert name == "reference"
    assert notices == [
        "The fast kernels are for float32, and the inputs are float64. Kernel 'reference' runs, which is slower."
    ]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "native", lambda: (_ for _ in ()).throw(library.compiler.CompilerError("none")))


NO_CPP = "Kernel 'cpp' cannot run this cell: none"


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("model", EAGER)
def test_without_a_compiler_torch_runs(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    assert runs(monkeypatch, build(model)) == ("eager", [f"{NO_CPP}. Kernel 'eager' runs, which is slower."])


NOT_EAGER: list[tuple[str, dict[str, Any], str]] = [
    ("gru", {}, "kind 'gru' is not fused (only 'drift', 'rate', 'oscillator', 'modrelu')"),
    ("rate", {"form": "current"}, "kind 'current' is not fused (only 'drift', 'rate', 'oscillator', 'modrelu')"),
    ("noisy", {"activation": "relu"}, "its activation is relu, not tanh"),
    ("noisy", {"diffusion": torch.ones(HIDDEN, 2), "additive": 0.0, "multiplicative": 0.0},
     "its noise has a diffusion of its own"),
    ("rate", {"noise_place": "inside", "multiplicative": 0.0}, "its noise is inside the activation"),
]  # fmt: skip


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize(("model", "options", "reason"), NOT_EAGER)
def test_equations_that_the_eager_kernel_does_not_know(
    monkeypatch: pytest.MonkeyPatch, model: str, options: dict[str, Any], reason: str
) -> None:
    """The notice is issued once; a named kernel refuses with the same reason."""
    layer = build(model, **options)
    notice = f"{NO_CPP}; kernel 'eager' cannot run this cell: {reason}. Kernel 'reference' runs, which is slower."
    assert runs(monkeypatch, layer) == ("reference", [notice])
    assert runs(monkeypatch, layer) == ("reference", [])
    layer.kernel = "eager"
    message = re.escape(f"kernel 'eager' cannot run this cell: {reason}. Use kernel='auto'.")
    with pytest.raises(ValueError, match=f"^{message}$"):
        layer(INPUTS, path=PATH)


def test_all_reasons_are_in_one_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpp", "eager"):
        monkeypatch.setattr(select.FAST[name], "supports", lambda *arguments, name=name: f"no {name} today")
    assert runs(monkeypatch, build("noisy")) == (
        "reference",
        [
            "Kernel 'cpp' cannot run this cell: no cpp today; kernel 'eager' cannot run this cell: no eager today. "
            "Kernel 'reference' runs, which is slower."
        ],
    )


def test_on_a_gpu_its_kernel_comes_first() -> None:
    """No GPU is needed to ask."""
    meta = build_layer("cornn", INPUT, 300, {"additive": 0.1}).to("meta")
    name, reason = select.fastest(meta.cell, INPUTS.to("meta"), recurrence=meta.cell.recurrence())
    assert name == "eager"
    assert reason == "kernel 'triton' cannot run this cell: hidden_size 300 is more than 256"


SILENT: dict[str, Any] = {"additive": 0.0, "multiplicative": 0.0}
REFUSALS = [
    ({"dt": torch.ones(STEPS, requires_grad=True)}, "dt requires a gradient"),
    ({"path": PATH.coarsened(2)}, "the path is coarsened"),
]


@pytest.mark.parametrize(("options", "reason"), REFUSALS)
@pytest.mark.parametrize("kernel", ["cpp", "eager", "triton"])
def test_what_no_fused_kernel_takes(options: dict[str, Any], reason: str, kernel: str) -> None:
    layer, options = build("noisy", kernel), {"path": PATH, **options}
    with pytest.raises(ValueError, match=f"^kernel '{kernel}' cannot run this cell: {reason}. Use kernel='auto'.$"):
        layer(options.pop("inputs", INPUTS), **options)


@pytest.mark.parametrize(("options", "reason"), REFUSALS)
def test_auto_takes_the_reference_for_it(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], reason: str) -> None:
    assert runs(monkeypatch, build("noisy"), **options) == (
        "reference",
        [f"No fast kernel can run this cell: {reason}. Kernel 'reference' runs, which is slower."],
    )


UNFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "antisymmetric",
        {"activation": Activation(torch.sin, lipschitz=1.0)},
        "its activation is a function, not one of those with a name",
    ),
    (
        "noisy",
        {"activation": Activation(torch.tanh, lipschitz=1.0)},
        "its activation is a function, not one of those with a name",
    ),
    ("noisy", {"scheme": "stochastic-heun"}, "its scheme is 'stochastic-heun'"),
    ("cornn", {"diffusion": lambda h, x, t: 0.1 * h, **SILENT}, "its noise has a diffusion that is a function"),
]


@pytest.mark.parametrize(("model", "options", "reason"), UNFUSED)
def test_equations_that_no_fast_kernel_knows(
    monkeypatch: pytest.MonkeyPatch, model: str, options: dict[str, Any], reason: str
) -> None:
    """The notice is issued once; a named kernel refuses with the same reason."""
    layer = build(model, **options)
    notice = f"No fast kernel can run this cell: {reason}. Kernel 'reference' runs, which is slower."
    assert runs(monkeypatch, layer) == ("reference", [notice])
    assert runs(monkeypatch, layer) == ("reference", [])
    for name in ("cpp", "eager"):
        layer.kernel = name
        with pytest.raises(ValueError, match=f"^kernel '{name}' cannot run this cell: {reason}. Use kernel='auto'.$"):
            layer(INPUTS, path=PATH)


@pytest.mark.usefixtures("with_cpu")
@pytest.mark.parametrize("options", [{"diffusion": torch.ones(HIDDEN, 2)}, {"diffusion": lambda h, x, t: 0.1 * h}])
def test_without_noise_a_diffusion_is_no_reason(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    layer = build("cornn", **options, **SILENT)
    layer.noise_mode = "off"
    assert runs(monkeypatch, layer)[0] == "cpp"
    layer.kernel = "eager"
    assert runs(monkeypatch, layer) == ("eager", [])


def test_tensors_of_two_types_or_on_two_devices_are_refused_before_compiled_code_reads_them() -> None:
    cell = build("noisy").cell
    reason = select.refusal("cpu", cell, INPUTS.to("meta"), recurrence=cell.recurrence())
    assert reason == "its tensors are partly on cpu and partly on meta"
    reason = select.refusal("cpp", cell, INPUTS.double(), recurrence=cell.recurrence())
    assert reason == "its tensors are partly float32 and partly float64"
    state = torch.zeros(BATCH, HIDDEN, device="meta")
    reason = select.refusal("eager", cell, INPUTS, recurrence=cell.recurrence(), state=state)
    assert reason == "its tensors are partly on cpu and partly on meta"


@pytest.mark.parametrize("kernel", select.KERNELS)
def test_step_lengths_with_uniform_noise_are_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    layer = build("noisy", kernel, noise_law="uniform")
    monkeypatch.setattr(operator, "choose", lambda *a, **k: pytest.fail("work has begun"))
    message = r"dt must be None with noise_law 'uniform', got step lengths\. Use noise_law='gaussian'\."
    with pytest.raises(ValueError, match=message):
        layer(INPUTS, dt=torch.ones(STEPS))


@pytest.mark.parametrize("kernel", ["cpp", "triton", "eager", "reference"])
@pytest.mark.parametrize("model", MODELS)
def test_a_named_kernel_gives_the_references_numbers_or_a_sentence(
    monkeypatch: pytest.MonkeyPatch, model: str, kernel: str
) -> None:
    layer = build(model, kernel)
    reason, kind = None, layer.cell.recurrence().kind
    if kernel == "cpp" and (missing := library.unavailable()) is not None:
        pytest.skip(missing)
    elif kernel == "triton":
        reason = "the inputs are on cpu, not on a GPU"
    elif kernel == "eager" and model not in EAGER:
        reason = f"kind '{kind}' is not fused (only 'drift', 'rate', 'oscillator', 'modrelu')"
    if reason is not None:
        message = rf"^kernel '{kernel}' cannot run this cell: {re.escape(reason)}\. Use kernel='auto'\.$"
        with pytest.raises(ValueError, match=message):
            layer(INPUTS, path=PATH)
        return
    assert runs(monkeypatch, layer) == (kernel, [])
    wanted = build(model, "reference")
    for found, expected in zip(layer(INPUTS, path=PATH), wanted(INPUTS, path=PATH), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert layer.last_output(INPUTS, path=PATH).equal(layer(INPUTS, path=PATH)[1][0, :, :HIDDEN])


def test_the_environment_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "eager")
    assert runs(monkeypatch, build("noisy", "reference")) == ("eager", [])
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")
    assert runs(monkeypatch, build("noisy", "eager")) == ("reference", [])
    monkeypatch.setenv("NOISYRNN_KERNEL", "")
    assert runs(monkeypatch, build("noisy", "eager")) == ("eager", [])
    monkeypatch.setenv("NOISYRNN_KERNEL", "auto")
    assert runs(monkeypatch, build("noisy", "eager").double(), inputs=INPUTS.double())[0] == "reference"


def test_the_advice_names_what_made_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "eager")
    message = r"kernel 'eager' cannot run this cell: kind 'gru' is not fused \(.*\)\. Unset NOISYRNN_KERNEL\."
    with pytest.raises(ValueError, match=message):
        build("gru")(INPUTS, path=PATH)


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = build("noisy")
    names = "auto, cpp, eager, reference, triton"
    with pytest.raises(ValueError, match=rf"kernel must be one of {names}, got 'eagre'\. Did you mean 'eager'\?"):
        layer.kernel = "eagre"
    assert layer.kernel == "auto"
    monkeypatch.setenv("NOISYRNN_KERNEL", "tritn")
    with pytest.raises(
        ValueError, match=rf"NOISYRNN_KERNEL must be one of {names}, got 'tritn'\. Did you mean 'triton'\?"
    ):
        layer(INPUTS)


def test_a_notice_is_said_once_for_each_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = build("noisy", scheme="stochastic-heun")
    assert len(runs(monkeypatch, layer)[1]) == 1
    assert runs(monkeypatch, layer)[1] == []
    assert runs(monkeypatch, build("antisymmetric", scheme="stochastic-heun"))[1] == []
    assert len(runs(monkeypatch, build("noisy"), path=PATH.coarsened(2))[1]) == 1


def test_a_notice_points_at_the_users_line() -> None:
    model = SequenceClassifier(build("noisy", scheme="stochastic-heun"), 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(INPUTS)
    assert (caught[0].filename, caught[0].lineno) == (__file__, model_line())


def model_line() -> int:
    """Of the call in the test above."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return lines.index("        model(INPUTS)") + 1


def test_a_silent_gated_layer_needs_no_kernel_and_no_notice() -> None:
    layer = GRU(INPUT, HIDDEN)
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelNotice)
        layer(INPUTS)


def test_choose_returns_the_kernel_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, options in [("noisy", {}), ("cornn", {}), ("gru", {}), ("noisy", {"path": PATH.coarsened(2)})]:
        layer = build(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", KernelNotice)
            name, _ = select.choose(layer.cell, INPUTS, **options)
        assert name == runs(monkeypatch, layer, **options)[0]
    with pytest.raises(ValueError, match="kernel 'eager' cannot run this cell: kind 'gru' is not fused"):
        select.choose(build("gru").cell, INPUTS, kernel="eager")


@pytest.mark.parametrize("kernel", ["cpp", "eager"])
@pytest.mark.parametrize("every_step", [True, False])
def test_everything_reaches_the_kernel(kernel: str, every_step: bool) -> None:
    """Row, step, stream, sign and a seed of 64 bits; lengths, step lengths and an initial state."""
    if kernel == "cpp" and (missing := library.unavailable()) is not None:
        pytest.skip(missing)
    path = BrownianPath(seed=2**64 - 3, first_row=3, first_step=7, stream=2).negated()
    options: dict[str, Any] = {
        "path": path,
        "lengths": torch.tensor([5, 1, 3], dtype=torch.int32),
        "dt": 0.5 + randn(BATCH, STEPS, seed=5).abs(),
        "h_0": randn(1, BATCH, HIDDEN, seed=6),
    }
    found = []
    for name in (kernel, "reference"):
        layer = NoisyRNN(INPUT, HIDDEN, step_size=0.3, init_std=3.0, additive=0.2, multiplicative=0.3)
        layer.load_state_dict(build("noisy", step_size=0.3, init_std=3.0).state_dict())
        layer.kernel = name
        found.append(layer(INPUTS, **options)[0] if every_step else layer.last_output(INPUTS, **options))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
