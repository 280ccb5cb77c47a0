"""Initial weights of the published models against the published laws: one Kolmogorov-Smirnov test per tensor."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from noisyrnn.models import MODELS, SequenceClassifier, build_layer, layer_options
from noisyrnn.training.settings import published_experiments

SEEDS = range(30)
LEAST_P = 1e-4  # some 60 tests with fixed seeds: fewer than one in a hundred sets of right weights fails

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (row.train["model"], {k: v for k, v in row.train.items() if k in layer_options(row.train["model"])})
    for name, row in published_experiments().items()
    if name.startswith("smnist-")
}
ROWS |= {f"exprnn-{start}": ("exprnn", {"recurrent_init": start}) for start in ("cayley", "henaff")}
SIZES = [(1, 128), (5, 17)]
CLASSES = 10

every = pytest.mark.parametrize(("input_size", "hidden_size"), SIZES)
Law = Any


def uniform(reach: float) -> Law:
    return stats.uniform(-reach, 2 * reach)


def law_of(model: str, name: str, options: dict[str, Any], inputs: int, hidden: int) -> Law:
    """The law of every entry of a parameter, written out from the publications."""
    linear = uniform(1 / math.sqrt(inputs))  # PyTorch's default for a linear layer, bias included
    laws: dict[str, Law] = {
        "readout.weight": uniform(1 / math.sqrt(hidden)),
        "readout.bias": uniform(1 / math.sqrt(hidden)),
        "input.weight": linear,
        "input.bias": linear,
        "B": stats.norm(0, options.get("init_std", 0.1) / hidden),
        "C": stats.norm(0, options.get("init_std", 0.1) / hidden),
    }
    if model == "cornn":  # one linear layer of all inputs and both parts of the state
        one = uniform(1 / math.sqrt(inputs + 2 * hidden))
        laws |= {"input.weight": one, "input.bias": one, "recurrent.weight": one, "position": one, "velocity": one}
    if model == "exprnn":
        laws |= {"input.weight": stats.norm(0, math.sqrt(2 / inputs)), "threshold": uniform(0.01)}
    return laws[name]


def parameters_of(model: str, options: dict[str, Any], inputs: int, hidden: int) -> dict[str, list[Tensor]]:
    """Each parameter of a classifier, for each seed."""
    found: dict[str, list[Tensor]] = {}
    with torch.random.fork_rng():
        for seed in SEEDS:
            torch.manual_seed(seed)
            head = SequenceClassifier(build_layer(model, inputs, hidden, options), CLASSES)
            for name, parameter in head.named_parameters():
                found.setdefault(name.removeprefix("layer.cells.l0."), []).append(parameter.detach().double())
    if model == "cornn":  # the matrices of position and velocity, each by itself
        both = [weight.chunk(2, dim=1) for weight in found.pop("recurrent.weight")]
        found["position"], found["velocity"] = [pair[0] for pair in both], [pair[1] for pair in both]
    return found


def pooled(values: list[Tensor]) -> np.ndarray[Any, Any]:
    """All entries of all seeds; of many, about 20,000 at equal distances (a prime, so that all columns are met)."""
    flat = torch.stack(values).flatten().numpy()
    return flat[::67] if len(flat) > 1_000_000 else flat[::31] if len(flat) > 300_000 else flat


def assert_law(values: np.ndarray[Any, Any], law: Law) -> None:
    assert len(np.unique(values)) > 0.99 * len(values)  # independent draws, not one draw repeated
    assert stats.kstest(values, law.cdf).pvalue > LEAST_P


@every
@pytest.mark.parametrize("row", ROWS)
def test_every_tensor_has_its_law(row: str, input_size: int, hidden_size: int) -> None:
    model, options = ROWS[row]
    found = parameters_of(model, options, input_size, hidden_size)
    special = {"step_size", "recurrent.free"}
    for name in found.keys() - special:
        assert_law(pooled(found[name]), law_of(model, name, options, input_size, hidden_size))
    if model == "noisy":  # the learnable step: its initial value in every unit
        expected = torch.full((hidden_size,), options["step_size"]).double()
        assert all(torch.equal(step, expected) for step in found["step_size"])


@every
@pytest.mark.parametrize("base", ["identity", "initial"])
@pytest.mark.parametrize("start", ["cayley", "henaff"])
def test_the_blocks_of_the_exponential_rnn(start: str, base: str, input_size: int, hidden_size: int) -> None:
    angles = []
    half = hidden_size // 2
    for seed in SEEDS:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            options = {"recurrent_init": start, "recurrent_base": base}
            rotation = build_layer("exprnn", input_size, hidden_size, options).cell.recurrent
        K = rotation.free.detach().double().tril(-1)
        Q = rotation.start.double()
        if base == "identity":  # the free parameters are K itself
            assert torch.equal(Q, torch.eye(hidden_size, dtype=torch.float64))
            below, blocks = -K.diagonal(-1)[::2][:half], K
        else:  # the blocks of exp(K) are rotations
            assert (K == 0).all()
            below = torch.atan2(Q.diagonal(1)[::2], Q.diagonal()[: 2 * half : 2])
            blocks = Q.tril(-1)
        outside = blocks.clone()
        outside.diagonal(-1)[::2] = 0
        assert (outside == 0).all()
        angles.append(below)
    values = pooled(angles)
    if start == "henaff":
        assert_law(values, uniform(math.pi))
        return
    squares = values**2  # s = -sqrt((1 - cos u) / (1 + cos u)), so that cos u = (1 - s²) / (1 + s²)
    assert (values <= 0).all()
    assert_law(np.arccos((1 - squares) / (1 + squares)), stats.uniform(0, math.pi / 2))


def test_upper_layers_and_both_directions_have_the_laws_of_their_own_sizes() -> None:
    """An upper layer of a stack reads `2 * hidden_size` inputs."""
    found: dict[str, list[Tensor]] = {}
    with torch.random.fork_rng():
        for seed in SEEDS:
            torch.manual_seed(seed)
            layer = build_layer("cornn", 3, 20, {"num_layers": 2, "bidirectional": True})
            for name, parameter in layer.cells.named_parameters():
                found.setdefault(name, []).append(parameter.detach().double())
    assert len(found) == 12
    for name, values in found.items():
        assert_law(pooled(values), uniform(1 / math.sqrt((40 if name.startswith("l1") else 3) + 40)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("model", ["cornn", "exprnn", "noisy"])
def test_the_same_laws_in_other_dtypes(model: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    build: Callable[..., Any] = MODELS[model].build
    found: dict[str, list[Tensor]] = {}
    with torch.random.fork_rng():
        for seed in SEEDS:
            torch.manual_seed(seed)
            for name, parameter in build(4, 32, dtype=dtype).cell.named_parameters():
                assert parameter.dtype == dtype
                found.setdefault(name, []).append(parameter.detach().double())
    for name in found.keys() - {"step_size", "recurrent.free"}:
        law = law_of(model, name, {}, 4, 32)
        values = pooled(found[name])
        if dtype == torch.float64:
            assert_law(values, law)
        else:  # bfloat16 has few values: compare the spread, to five standard errors or so
            assert values.std() == pytest.approx(law.std(), rel=0.05)
