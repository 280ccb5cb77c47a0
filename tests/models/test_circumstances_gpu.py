"""The noise of passes without a path on a GPU: its seed is the CUDA generator's, and the host never waits for it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from noisyrnn.models import MODELS, NoisyCell, RecurrentLayer, build_layer
from noisyrnn.noise import BrownianPath
from noisyrnn.training.seeding import seeded

pytestmark = pytest.mark.gpu

FUSED = ("noisy", "lipschitz", "antisymmetric")
PAIRS = [
    *((name, "triton") for name in sorted(MODELS)),
    *((name, "eager") for name in (*FUSED, "cornn", "exprnn")),
    *((name, "reference") for name in sorted(MODELS)),
]
every_pair = pytest.mark.parametrize(("name", "kernel"), PAIRS)


@pytest.fixture(autouse=True)
def _own_generators() -> Any:
    with torch.random.fork_rng():
        yield


def make(name: str, kernel: str, **options: Any) -> RecurrentLayer:
    torch.manual_seed(0)
    stack = {"num_layers": 2, "bidirectional": True, "dropout": 0.3}
    layer = build_layer(name, 3, 16, {"additive": 0.1, "multiplicative": 0.2, **stack, **options}).cuda()
    layer.kernel = kernel
    return layer


def make_inputs() -> Tensor:
    return torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1)).cuda()


def results(layer: RecurrentLayer, inputs: Tensor, saving: bool | None = None) -> list[Tensor]:
    """Outputs and gradients of a pass that begins with the generators at a seed."""
    inputs = inputs.clone().requires_grad_()
    layer.zero_grad()
    torch.manual_seed(7)
    call = lambda x: layer(x)[0]  # noqa: E731
    outputs = call(inputs) if saving is None else checkpoint(call, inputs, use_reentrant=saving)
    outputs.square().sum().backward()
    return [outputs.detach(), inputs.grad, *(parameter.grad for parameter in layer.parameters())]


@every_pair
def test_the_seed_is_the_cuda_generators(name: str, kernel: str) -> None:
    layer, inputs = make(name, kernel), make_inputs()
    on_host = torch.get_rng_state()
    torch.cuda.manual_seed(3)
    first = layer(inputs)[0]
    assert not torch.equal(layer(inputs)[0], first)
    torch.cuda.manual_seed(3)
    seed = torch.randint(2**63 - 1, (), device="cuda")
    # Not to the bit: products on a GPU may be summed in another order.
    torch.testing.assert_close(layer(inputs, path=BrownianPath(seed=seed))[0], first, rtol=1e-4, atol=1e-5)
    torch.cuda.manual_seed(3)
    with seeded(0):  # which is for initial weights on the CPU
        torch.rand(2)
    torch.testing.assert_close(layer(inputs)[0], first, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), on_host)


@every_pair
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(name: str, kernel: str, reentrant: bool) -> None:
    layer, inputs = make(name, kernel), make_inputs()
    expected = results(copy.deepcopy(layer), inputs)
    for found, wanted in zip(results(layer, inputs, reentrant), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)  # a wrong seed moves them by tens of per cent


@every_pair
def test_vmap(name: str, kernel: str) -> None:
    layer, inputs = make(name, kernel), make_inputs()[:1].expand(4, -1, -1).contiguous()

    def one(x: Tensor) -> Tensor:
        return layer(x.unsqueeze(0))[0].flatten()

    with pytest.raises(RuntimeError, match="randomness error mode"):
        torch.func.vmap(one)(inputs)
    same = torch.func.vmap(one, randomness="same")(inputs)
    torch.testing.assert_close(same, same[:1].expand_as(same), rtol=1e-4, atol=1e-5)
    torch.cuda.manual_seed(3)
    different = torch.func.vmap(one, randomness="different")(inputs)
    torch.cuda.manual_seed(3)
    seeds = torch.randint(2**63 - 1, (4,), device="cuda")
    for row, x, seed in zip(different, inputs, seeds, strict=True):
        expected = layer(x.unsqueeze(0), path=BrownianPath(seed=seed))[0].flatten()
        torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "kernel"), [pair for pair in PAIRS if pair[0] != "exprnn"])  # torch.matrix_exp waits
def test_the_host_does_not_wait(name: str, kernel: str) -> None:
    """No copy to the host in a training step, nor under `vmap`: torch raises where there is one."""
    layer, inputs = make(name, kernel), make_inputs()
    cell = NoisyCell(3, 16, device="cuda")

    def passes() -> None:
        layer(inputs)[0].square().sum().backward()
        torch.func.vmap(lambda x: layer(x.unsqueeze(0))[0], randomness="different")(inputs)
        cell(inputs[:, 0])

    passes()  # kernels are compiled, and libraries loaded, in the first one
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        passes()
    finally:
        torch.cuda.set_sync_debug_mode("default")


CAPTURED = [pair for pair in PAIRS if pair[0] in FUSED or (pair[1] == "triton" and pair[0] != "exprnn")]


@pytest.mark.parametrize(("name", "kernel"), CAPTURED)
def test_cuda_graphs(name: str, kernel: str) -> None:
    """Each replay draws a new seed; from the same state of the generator it draws the same."""
    layer, inputs = make(name, kernel), make_inputs()
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                layer(inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = layer(inputs)[0]
    found = []
    for seed in (5, None, 5):
        if seed is not None:
            torch.cuda.manual_seed(seed)
        graph.replay()
        found.append(outputs.clone())
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])


def test_the_last_rows_and_steps_of_a_path() -> None:
    """Numbers of rows that need more than 32 bits give the noise that they give on the CPU."""
    layer = build_layer("noisy", 3, 16, {"additive": 0.3, "multiplicative": 0.2})
    nn.init.normal_(layer.cell.B, std=0.1)
    inputs = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(1))
    path = BrownianPath(seed=2**64 - 1, first_row=2**33 - 3, first_step=2**32 - 2, stream=2**32 - 1)
    layer.kernel = "reference"
    expected = layer(inputs, path=path)[0].detach()
    layer = layer.cuda()
    for kernel in ("triton", "eager", "reference"):
        layer.kernel = kernel
        found = layer(inputs.cuda(), path=path)[0].detach().cpu()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
