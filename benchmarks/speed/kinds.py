"""Every model whose recurrence the fast kernels run, with noise, and what it is compared with on a GPU.

A case names the precision of the products and the number of replicas, which train side by side in one pass.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from benchmarks.speed.cases import CLASSES, PRODUCTS, Case
from benchmarks.speed.contestants import (
    Contestant,
    NotAvailable,
    Step,
    autocast,
    choose_kernel,
    classifier_step,
    sequences,
)
from benchmarks.speed.networks import ADDITIVE, MULTIPLICATIVE, NETWORKS
from benchmarks.speed.peers import CONTESTANTS, GATED
from noisyrnn import SequenceClassifier
from noisyrnn.models import build_layer

MODELS = ("noisy", "rate", "current", "cornn", "exprnn", "gru", "lstm")
"""Keys of `NETWORKS`."""

PEERS = ("plain", "rnn", "gru", "lstm", "jax")
"""Keys of `CONTESTANTS` that are measured next to them, one replica at a time."""


def build_classifier(model: str, hidden: int, device: torch.device) -> SequenceClassifier:
    """A model of `MODELS` with noise and a readout, on the kernel that is written for its device."""
    network = NETWORKS[model]
    levels = {"additive": ADDITIVE, "multiplicative": MULTIPLICATIVE}
    layer = build_layer(network.model, 1, hidden, {**levels, **network.options})
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

    return autocast(step, device, enabled=case.product == "bf16")


def takes_part(name: str, case: Case) -> bool:
    """Whether a contestant is measured in a case: peers alone, the plain loop in float32, and JAX not in bf16."""
    if name.startswith("model-"):
        return True
    precisions = {"peer-plain": PRODUCTS[:1], "peer-jax": PRODUCTS[:2]}.get(name, PRODUCTS)
    return case.replicas == 1 and case.product in precisions


def _contestant(title: str, build: Callable[..., Step]) -> Contestant:
    return Contestant(title=title, build=build, modes=("training",))


def _title(model: str) -> str:
    return NETWORKS[model].title + (" with noise" if model in GATED else "")


KIND_CONTESTANTS: dict[str, Contestant] = {
    **{f"model-{key}": _contestant(_title(key), partial(build_kind, model=key)) for key in MODELS},
    **{f"peer-{key}": _contestant(CONTESTANTS[key].title, partial(build_peer, name=key)) for key in PEERS},
}
