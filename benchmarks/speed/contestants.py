"""Contestants: our kernels, the plain loop, and torch's networks, all with the same readout and loss."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.speed.cases import CLASSES, Case
from benchmarks.speed.networks import ADDITIVE, MULTIPLICATIVE, NETWORKS
from noisyrnn import SequenceClassifier
from noisyrnn.models import RecurrentLayer, build_layer
from noisyrnn.models.exprnn import Rotation

STREAMED = 100
"""Streamed steps per timed run: a single step is too short for the clock's resolution."""


def nothing() -> None:
    """Do nothing between two runs, for a contestant without gradients."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something to be timed.

    Args:
        run: One run.
        clear: Called before every run, outside the timed part.
        count: Steps in one run; the time is divided by it.
    """

    run: Callable[[], object]
    clear: Callable[[], None] = nothing
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """An implementation to be timed.

    Args:
        title: Name in tables.
        build: Prepares a case on a device, including compilation.
        modes: Modes that it supports.
        models: Keys of `NETWORKS` that it runs, or is compared with.
        growth: Those of them at which it is also measured at other sizes than the main one.
        pinned: Whether the number of threads can only be limited by binding the process to that many cores.
        devices: Types of device that it supports.
    """

    title: str
    build: Callable[[Case, torch.device], Step]
    modes: tuple[str, ...] = ("training", "inference")
    models: tuple[str, ...] = ("noisy",)
    growth: tuple[str, ...] = ()
    pinned: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")


def sequences(case: Case, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs `(batch, steps, 1)` in [0, 1], as MNIST's pixels are, and labels; the same for everyone."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(case.size.batch, case.size.steps, 1, generator=generator)
    return inputs.to(device), torch.randint(CLASSES, (case.size.batch,), generator=generator).to(device)


def classifier_step(model: nn.Module, case: Case, device: torch.device) -> Step:
    """Run forward, loss and backward of a model that returns logits; in inference, only forward."""
    inputs, labels = sequences(case, device)
    model = model.to(device)
    if case.mode == "inference":
        model.eval()

        def infer() -> Tensor:
            with torch.no_grad():
                return model(inputs)

        return Step(run=infer)
    model.train()

    def train() -> None:
        functional.cross_entropy(model(inputs), labels).backward()

    return Step(run=train, clear=partial(model.zero_grad, set_to_none=True))


def streamed_step(one: Callable[[Tensor, Tensor], Tensor], case: Case, state_size: int, device: torch.device) -> Step:
    """Many steps of one sequence, each called from Python; `one` takes input and state to the state."""
    values = torch.rand(STREAMED, 1, 1, generator=torch.Generator().manual_seed(0)).to(device).unbind(0)
    start = torch.zeros(1, state_size, device=device)

    def run() -> Tensor:
        state = start
        with torch.no_grad():
            for value in values:
                state = one(value, state)
        return state

    return Step(run=run, count=STREAMED)


class NotAvailable(RuntimeError):  # noqa: N818, since it is no error: the reason goes into the table
    """Raised with the reason why a contestant cannot be measured."""


def choose_kernel(layer: RecurrentLayer, kernel: str) -> None:
    """Have `layer` run by `kernel`."""
    if not hasattr(layer, "kernel"):
        if kernel in ("auto", "reference"):
            return
        raise NotAvailable("this version of noisyrnn has only the reference loop")
    layer.kernel = kernel


class HeldRotation(Rotation):
    """The matrix of a rotation as a parameter of its own: what a step costs without the matrix exponential."""

    def __init__(self, rotation: Rotation) -> None:
        nn.Module.__init__(self)
        self.matrix = nn.Parameter(rotation.weight.detach())

    @property
    def weight(self) -> Tensor:
        """The matrix."""
        return self.matrix


def build_ours(
    case: Case, device: torch.device, *, kernel: str, noise: bool = True, bf16: bool = False, held: bool = False
) -> Step:
    """A model of this library, on one kernel.

    Args:
        case: What to do; its `model` says which.
        device: Where.
        kernel: Which.
        noise: Whether there is hidden noise in training.
        bf16: Whether the products are those of `torch.autocast` with bfloat16.
        held: Whether the recurrent matrix is a parameter itself, and not computed from one in every step.
    """
    network = NETWORKS[case.model]
    levels = {"additive": ADDITIVE, "multiplicative": MULTIPLICATIVE} if noise else {}
    layer = build_layer(network.model, 1, case.size.hidden, {**levels, **network.options})
    layer.noise_mode = "auto" if noise else "off"
    choose_kernel(layer, kernel)
    if held:
        layer.cell.recurrent = HeldRotation(layer.cell.recurrent)
    if case.mode == "stream":
        if not hasattr(layer, "step"):
            raise NotAvailable("this version of noisyrnn has no streamed step")
        layer = layer.to(device).eval()
        return streamed_step(layer.step, case, layer.cell.state_size, device)
    step = classifier_step(SequenceClassifier(layer, CLASSES), case, device)
    return autocast(step, device) if bf16 else step


def autocast(step: Step, device: torch.device, *, enabled: bool = True) -> Step:
    """The step under `torch.autocast` with bfloat16."""

    def run() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            step.run()

    return replace(step, run=run)


class PlainLoop(nn.Module):
    """The noisy RNN as a plain Python loop over the steps, with noise from `torch.randn` and autograd.

    Args:
        hidden: Units.
        advance: One step from state, drive, `A`ᵀ, `W`ᵀ, step size and whether there is noise; compiled, perhaps.
    """

    def __init__(self, hidden: int, advance: Callable[..., Tensor]) -> None:
        super().__init__()
        self.B = nn.Parameter(torch.randn(hidden, hidden) * 0.1 / hidden)
        self.C = nn.Parameter(torch.randn(hidden, hidden) * 0.1 / hidden)
        self.input = nn.Linear(1, hidden)
        self.step_size = nn.Parameter(torch.full((hidden,), 0.01))
        self.readout = nn.Linear(hidden, CLASSES)
        self.advance = advance

    def matrices(self) -> tuple[Tensor, Tensor]:
        """`A`ᵀ and `W`ᵀ of skew-symmetry 0.75 and damping 0.001."""
        damping = 0.001 * torch.eye(len(self.B), device=self.B.device)
        A, W = (0.25 * (M + M.T) + 0.75 * (M - M.T) - damping for M in (self.B, self.C))
        return A.T, W.T

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits after the last step. The inputs' part is computed for all steps at once: the faster of two habits."""
        A, W = self.matrices()
        h = torch.zeros(len(inputs), len(self.B), device=inputs.device)
        for drive in self.input(inputs.transpose(0, 1)):
            h = self.advance(h, drive, A, W, self.step_size, self.training)
        return self.readout(h)


def plain_step(h: Tensor, drive: Tensor, A: Tensor, W: Tensor, step: Tensor, noisy: bool) -> Tensor:
    """One step of the noisy RNN."""
    increment = step * (h @ A + torch.tanh(h @ W + drive))
    if not noisy:
        return h + increment
    return h + increment * (1 + MULTIPLICATIVE * torch.randn_like(h)) + ADDITIVE * torch.randn_like(h)


def build_plain(case: Case, device: torch.device) -> Step:
    """The plain loop; streamed, the matrices are made once, as one would."""
    model = PlainLoop(case.size.hidden, plain_step)
    if case.mode != "stream":
        return classifier_step(model, case, device)
    model = model.to(device)
    with torch.no_grad():
        A, W = (M.contiguous() for M in model.matrices())
    return streamed_step(
        lambda x, h: plain_step(h, model.input(x), A, W, model.step_size, False), case, case.size.hidden, device
    )


def build_compiled(case: Case, device: torch.device) -> Step:
    """The plain loop with its step compiled; compiled here, by a pass of two steps."""
    torch._dynamo.reset()  # each size has its own step; torch would give up after a few in one process
    torch.manual_seed(0)
    model = PlainLoop(case.size.hidden, torch.compile(plain_step, dynamic=False))
    step = classifier_step(model, case, device)
    short = torch.rand(case.size.batch, 2, 1, device=device)
    if case.mode == "training":
        model(short).sum().backward()
    else:
        with torch.no_grad():
            model(short)
    return step


class TorchClassifier(nn.Module):
    """One of torch's recurrent networks and a readout.

    Args:
        kind: `nn.RNN`, `nn.GRU` or `nn.LSTM`.
        hidden: Units.
    """

    def __init__(self, kind: Callable[..., nn.RNNBase], hidden: int) -> None:
        super().__init__()
        self.rnn = kind(1, hidden, batch_first=True)
        self.readout = nn.Linear(hidden, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits after the last step."""
        _, end = self.rnn(inputs)
        return self.readout((end[0] if isinstance(end, tuple) else end)[0])


def build_torch(
    case: Case, device: torch.device, *, kind: Callable[..., nn.RNNBase], cell: Callable[..., nn.RNNCellBase]
) -> Step:
    """One of torch's networks; streamed, torch's cell of the kind."""
    if case.mode != "stream":
        return classifier_step(TorchClassifier(kind, case.size.hidden), case, device)
    single = cell(1, case.size.hidden).to(device)
    if cell is not nn.LSTMCell:
        return streamed_step(single, case, case.size.hidden, device)
    return streamed_step(
        lambda x, state: torch.cat(single(x, state.chunk(2, dim=1)), dim=1), case, 2 * case.size.hidden, device
    )


ALL = ("training", "inference", "stream")
