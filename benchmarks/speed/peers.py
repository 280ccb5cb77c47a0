"""Contestants from other libraries, which need not be installed, and the list of all."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.cases import CLASSES, Case
from benchmarks.speed.contestants import (
    ALL,
    Contestant,
    NotAvailable,
    Step,
    build_compiled,
    build_ours,
    build_plain,
    build_torch,
    classifier_step,
    sequences,
)
from benchmarks.speed.networks import ADDITIVE, MULTIPLICATIVE, NETWORKS
from benchmarks.speed.rates import RATES

GATED = ("gru", "lstm", "rnn")
"""Models that torch has too."""


def build_jax(case: Case, device: torch.device) -> Step:
    """The same network as `lax.scan`, jitted, with the noise of JAX's default generator drawn inside the scan."""
    if device.type == "cpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others need the GPU's memory too
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        raise NotAvailable("JAX is not installed") from None
    if device.type == "cuda" and jax.default_backend() != "gpu":
        raise NotAvailable("JAX sees no GPU")
    jax.config.update("jax_default_matmul_precision", "highest" if case.product == "fp32" else "default")
    training, hidden = case.mode == "training", case.size.hidden
    arrays = {name: jnp.asarray(value.detach().numpy()) for name, value in _parameters(hidden).items()}
    inputs, labels = (jnp.asarray(tensor.numpy()) for tensor in sequences(case, torch.device("cpu")))

    def last_state(p: Any, x: Any, key: Any) -> Any:
        damping = 0.001 * jnp.eye(hidden)
        A, W = (0.25 * (M + M.T) + 0.75 * (M - M.T) - damping for M in (p["B"], p["C"]))

        def advance(h: Any, given: Any) -> Any:
            drive, m = given
            increment = p["step"] * (h @ A.T + jnp.tanh(h @ W.T + drive))
            if not training:
                return h + increment, None
            xi = jax.random.normal(jax.random.fold_in(key, m), (2, *h.shape))
            return h + increment * (1 + MULTIPLICATIVE * xi[0]) + ADDITIVE * xi[1], None

        drives = jnp.swapaxes(x @ p["U"].T + p["b"], 0, 1)
        start = jnp.zeros((len(x), hidden), dtype=jnp.float32)
        return jax.lax.scan(advance, start, (drives, jnp.arange(drives.shape[0])))[0]

    def logits(p: Any, x: Any, key: Any) -> Any:
        return last_state(p, x, key) @ p["V"].T + p["c"]

    def loss(p: Any, x: Any, y: Any, key: Any) -> Any:
        chances = jax.nn.log_softmax(logits(p, x, key))
        return -jnp.take_along_axis(chances, y[:, None], axis=1).mean()

    keys = iter(range(1, 2**31))
    if training:
        key = jax.random.key(0)
        compiled = jax.jit(jax.value_and_grad(loss)).lower(arrays, inputs, labels, key).compile()
        return Step(
            run=lambda: jax.block_until_ready(compiled(arrays, inputs, labels, jax.random.key(next(keys)))),
        )
    compiled = jax.jit(logits).lower(arrays, inputs, jax.random.key(0)).compile()
    key = jax.random.key(0)
    return Step(run=lambda: jax.block_until_ready(compiled(arrays, inputs, key)))


def _parameters(hidden: int) -> dict[str, Tensor]:
    """Initial weights, with THEORY's letters and `V`, `c` for the readout."""
    linear, readout = nn.Linear(1, hidden), nn.Linear(hidden, CLASSES)
    free = {name: torch.randn(hidden, hidden) * 0.1 / hidden for name in "BC"}
    ends = {"U": linear.weight, "b": linear.bias, "V": readout.weight, "c": readout.bias}
    return free | ends | {"step": torch.full((hidden,), 0.01)}


class TorchsdeClassifier(nn.Module):
    """The noisy RNN as an equation that torchsde solves with one Euler step for each step of the input.

    Its noise is diagonal, so of the form `shared`: one Brownian motion a unit. In inference the diffusion is zero, but
    torchsde draws its noise all the same.

    Args:
        hidden: Units.
        solve: `torchsde.sdeint` or `torchsde.sdeint_adjoint`.
    """

    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(self, hidden: int, solve: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({name: nn.Parameter(value) for name, value in _parameters(hidden).items()})
        self.solve = solve
        self.inputs = torch.empty(0)

    def f(self, t: Tensor, h: Tensor) -> Tensor:
        """The drift times the step, so that time counts steps."""
        w = self.weights
        x = self.inputs[:, min(int(t), self.inputs.shape[1] - 1)]
        A, W = (0.25 * (M + M.T) + 0.75 * (M - M.T) for M in (w["B"], w["C"]))
        return w["step"] * (h @ A.T - 0.001 * h + torch.tanh(h @ W.T - 0.001 * h + x @ w["U"].T + w["b"]))

    def g(self, t: Tensor, h: Tensor) -> Tensor:
        """The diffusion of each unit."""
        return ADDITIVE + MULTIPLICATIVE * self.f(t, h) if self.training else torch.zeros_like(h)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits after the last step."""
        self.inputs = inputs
        start = inputs.new_zeros(len(inputs), len(self.weights["B"]))
        times = torch.tensor([0.0, float(inputs.shape[1])], device=inputs.device)
        end = self.solve(self, start, times, dt=1.0, method="euler")[-1]
        return torch.nn.functional.linear(end, self.weights["V"], self.weights["c"])


def build_torchsde(case: Case, device: torch.device, *, adjoint: bool) -> Step:
    """Torchsde's Euler scheme, differentiated through or by its adjoint."""
    try:
        import torchsde
    except ImportError:
        raise NotAvailable("torchsde is not installed") from None
    solve = partial(torchsde.sdeint_adjoint, adjoint_method="euler") if adjoint else torchsde.sdeint
    return classifier_step(TorchsdeClassifier(case.size.hidden, solve), case, device)


def _ours() -> dict[str, Contestant]:
    """Each kernel with noise, and without it in training; with bf16 products where a kernel has a way of its own."""
    every, contestants = tuple(NETWORKS), {}
    for kernel, devices, models, growth in (
        ("cpp", ("cpu",), every, ("noisy", *GATED)),
        ("triton", ("cuda",), every, ("noisy", *GATED)),
        ("eager", ("cpu", "cuda"), ("noisy", "cornn", "exprnn"), ()),
        ("reference", ("cpu", "cuda"), every, ()),
    ):
        for name, noise, title in ((kernel, True, ""), (f"{kernel}-quiet", False, ", no noise")):
            contestants[name] = Contestant(
                title=f"ours, kernel {kernel}{title}",
                build=partial(build_ours, kernel=kernel, noise=noise),
                modes=ALL if noise else ("training",),
                models=models,
                growth=growth if noise else tuple(m for m in models if m != "noisy") if growth else (),
                devices=devices,
            )
    contestants["cpp-bf16"] = Contestant(
        title="ours, kernel cpp, bf16",
        build=partial(build_ours, kernel="cpp", bf16=True),
        models=every,
        devices=("cpu",),
    )
    contestants["cpp-held"] = Contestant(
        title="ours, kernel cpp, no noise, matrix given",
        build=partial(build_ours, kernel="cpp", noise=False, held=True),
        modes=("training",),
        models=("exprnn",),
        devices=("cpu",),
    )
    return contestants


def _before() -> dict[str, Contestant]:
    """What another version of this library chooses by itself; see `rounds.Worker`."""
    build, every = partial(build_ours, kernel="auto"), tuple(NETWORKS)
    others = tuple(name for name in NETWORKS if name not in (*GATED, "noisy"))
    return {
        "before": Contestant(title="before", build=build, modes=ALL, models=every, growth=("noisy",)),
        "before-quiet": Contestant(
            title="before, no noise",
            build=partial(build, noise=False),
            modes=("training",),
            models=every,
            growth=others,
        ),
    }


def _torch(key: str, kind: type[nn.RNNBase], cell: type[nn.RNNCellBase]) -> Contestant:
    return Contestant(
        title=f"nn.{kind.__name__}",
        build=partial(build_torch, kind=kind, cell=cell),
        modes=ALL,
        models=("noisy", key),
        growth=("noisy", key),
    )


CONTESTANTS: dict[str, Contestant] = {
    **_ours(),
    **_before(),
    "plain": Contestant(title="plain loop", build=build_plain, modes=ALL, growth=("noisy",)),
    "rnn": _torch("rnn", nn.RNN, nn.RNNCell),
    "gru": _torch("gru", nn.GRU, nn.GRUCell),
    "lstm": _torch("lstm", nn.LSTM, nn.LSTMCell),
    "compiled": Contestant(title="loop with a compiled step", build=build_compiled),
    "jax": Contestant(title="JAX lax.scan, jitted", build=build_jax, pinned=True),
    "torchsde": Contestant(title="torchsde, Euler", build=partial(build_torchsde, adjoint=False)),
    "torchsde-adjoint": Contestant(
        title="torchsde, Euler, adjoint",
        build=partial(build_torchsde, adjoint=True),
        modes=("training",),
    ),
}


def contestant(name: str) -> Contestant:
    """One of `CONTESTANTS` or of `RATES`."""
    return RATES[name].contestant if name in RATES else CONTESTANTS[name]
