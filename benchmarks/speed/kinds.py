"""Every model whose recurrence the fast kernels run, with noise, and what it is compared with on a GPU.

A case names the precision of the products and the number of replicas, which train side by side in one pass.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from benchmarks.speed.cases import CLASSES, PRODUCTS, Case
from benchmarks.speed.contestants import (
    ADDITIVE,
    MULTIPLICATIVE,
    Contestant,
    NotAvailable,
    Step,
    choose_kernel,
    classifier_step,
    sequences,
)
from benchmarks.speed.peers import CONTESTANTS
from noisyrnn import SequenceClassifier
from noisyrnn.models import build_layer

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "noisy": ("noisy RNN (drift)", "noisy", {}),
    "rate": ("rate network", "rate", {"noise_units": "per_step"}),
    "current": ("rate network, currents", "rate", {"form": "current", "noise_units": "per_step"}),
    "cornn": ("coRNN (oscillator)", "cornn", {}),
    "exprnn": ("exponential RNN (modReLU)", "exprnn", {}),
    "gru": ("GRU with noise", "gru", {}),
    "lstm": ("LSTM with noise", "lstm", {}),
}
"""Title, key of `noisyrnn.models.MODELS` and options of each."""

PEERS = ("plain", "rnn", "gru", "lstm", "jax")
"""Keys of `CONTESTANTS` that are measured next to them, one replica at a time."""


def build_classifier(model: str, hidden: int, device: torch.device) -> SequenceClassifier:
    """A model of `MODELS` with noise and a readout, on the kernel that is written for its device."""
    _, name, options = MODELS[model]
    layer = build_layer(name, 1, hidden, {"additive": ADDITIVE, "multiplicative": MULTIPLICATIVE, **options})
    choose_kernel(layer, "triton" if device.type == "cuda" else "cpp")
    return SequenceClassifier(layer, CLASSES)


def build_kind(case: Case, device: torch.device, *, model: str) -> Step:
    """A training step of a model, of all replicas at once."""
    if case.replicas == 1:
        return _in_precision(
            case, device, classifier_step(build_classifier(model, case.size.hidden, device), case, device)
        )
    models = [build_classifier(model, case.size.hidden, device).to(device).train() for _ in range(case.replicas)]
    inputs, labels = sequences(case, device)
    parameters, buffers = stack_module_state(models)
    labels = labels.repeat(case.replicas)

    def logits(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(models[0], (parameters, buffers), (inputs,))

    def train() -> None:
        answers = vmap(logits, randomness="different")(parameters, buffers)
        functional.cross_entropy(answers.flatten(0, 1), labels).backward()

    def clear() -> None:
        for parameter in parameters.values():
            parameter.grad = None

    return _in_precision(case, device, Step(run=train, clear=clear))


def build_peer(case: Case, device: torch.device, *, name: str) -> Step:
    """One of `PEERS`."""
    if case.replicas > 1:
        raise NotAvailable("it has no replicas")
    return _in_precision(case, device, CONTESTANTS[name].build(case, device))


def _in_precision(case: Case, device: torch.device, step: Step) -> Step:
    """The step with the precision of a case's products."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case.product == "tf32"

    def autocast() -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=case.product == "bf16")

    def run() -> None:
        with autocast():
            step.run()

    return replace(step, run=run)


def takes_part(name: str, case: Case) -> bool:
    """Whether a contestant is measured in a case: peers alone, the plain loop in float32, and JAX not in bf16."""
    if name.startswith("model-"):
        return True
    precisions = {"peer-plain": PRODUCTS[:1], "peer-jax": PRODUCTS[:2]}.get(name, PRODUCTS)
    return case.replicas == 1 and case.product in precisions


def _contestant(title: str, build: Callable[..., Step]) -> Contestant:
    return Contestant(title=title, build=build, modes=("training",))


KIND_CONTESTANTS: dict[str, Contestant] = {
    **{f"model-{key}": _contestant(title, partial(build_kind, model=key)) for key, (title, _, _) in MODELS.items()},
    **{f"peer-{key}": _contestant(CONTESTANTS[key].title, partial(build_peer, name=key)) for key in PEERS},
}
