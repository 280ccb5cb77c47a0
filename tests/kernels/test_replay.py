"""A call's numbers for the noise, and the reference loop of a call, against the cells themselves."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from noisyrnn.kernels import reference
from noisyrnn.kernels.call import KernelCall
from noisyrnn.kernels.reference import run_call
from noisyrnn.models import build_layer
from noisyrnn.models.cell import Cell
from noisyrnn.noise import BrownianPath, HiddenNoise
from noisyrnn.sde.diffusion import MatrixDiffusion

BATCH, STEPS, INPUT, HIDDEN = 3, 5, 2, 4
WITHOUT_DT = ("exprnn", "rnn", "gru", "lstm")
LEVELS = [(0.2, 0.3), (0.2, 0.0), (0.0, 0.3)]
NOISES = [
    HiddenNoise(additive=additive, multiplicative=multiplicative, form=form, law=law)
    for (additive, multiplicative), (form, law) in itertools.product(
        LEVELS, [("independent", "gaussian"), ("shared", "gaussian"), ("independent", "uniform")]
    )
]
PATHS = [BrownianPath(seed=2**64 - 5, first_row=3, first_step=7, stream=2, sign=sign) for sign in (1, -1)]


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(model: str) -> Cell:
    model, _, form = model.partition(" ")
    options: dict[str, Any] = {"step_size": 0.3, "init_std": 3.0} if model == "noisy" else {}
    if form:
        options |= {"form": form, "activation": "softplus"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cell = build_layer(model, INPUT, HIDDEN, options).cell.double()
    for parameter in (p for name, p in cell.named_parameters() if name == "threshold"):
        torch.nn.init.uniform_(parameter, -0.1, 0.2)
    return cell


def as_call(cells: list[Cell], noise: HiddenNoise | None, paths: list[BrownianPath], **options: Any) -> KernelCall:
    """Replicas of one shape."""
    kind, *weights, coefficients, activation = zip(*(cell.recurrence() for cell in cells), strict=True)
    stacked = [None if parts[0] is None else torch.stack(parts) for parts in weights]
    inputs = torch.stack([randn(BATCH, STEPS, INPUT, seed=r) for r in range(len(cells))])
    state = torch.stack([randn(BATCH, cells[0].state_size, seed=10 + r) for r in range(len(cells))])
    seeds = torch.stack([path.seed_tensor() for path in paths])
    tensors = (inputs, state, *stacked, options.get("diffusion"), options.get("dt"), options.get("lengths"), seeds)
    return KernelCall._make((kind[0], *tensors, coefficients[0], activation[0].name, noise, paths[0], "", None))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_the_numbers_of_a_call_give_the_multiplier_and_the_shift(noise: HiddenNoise, path: BrownianPath) -> None:
    call, shape = as_call([build("noisy")], noise, [path]), {"steps": 2, "batch": 3, "units": 4, "dtype": torch.float64}
    plain = BrownianPath(seed=path.seed, first_row=3, first_step=7, stream=2)
    normals, uniforms = plain.normals(**shape), plain.uniforms(**shape)
    xi = {0: torch.zeros(2, 3, 4), 1: uniforms, 2: normals[1], 3: normals[0]}[call.source]
    slope, base = call.multiplicative
    assert call.place == (3, 7, 2)
    draws, increment = noise.draw(path, **shape), randn(3, 4, seed=1)
    for m in range(2):
        additive, multiplicative = (None if d is None else d[m] for d in draws)
        wanted = noise.perturb(increment, additive, multiplicative)
        noisy = (base + slope * xi[m]) * increment + call.additive * normals[0, m]
        torch.testing.assert_close(noisy, wanted, rtol=1e-13, atol=1e-13)


def test_numbers_of_a_call_without_noise() -> None:
    call = as_call([build("noisy")], None, [PATHS[0]])._replace(path=None)
    assert (call.source, call.additive, call.multiplicative, call.place) == (0, 0.0, (0.0, 1.0), (0, 0, 0))


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize(
    "model", ["noisy", "antisymmetric", "cornn", "exprnn", "rate rate", "rate current", "rnn", "gru", "lstm"]
)
def test_the_loop_of_a_call_is_that_of_the_cell(model: str, timed: bool) -> None:
    cells, noise = [build(model), build(model)], NOISES[0]
    paths = [PATHS[0], BrownianPath(seed=6, first_row=3, first_step=7, stream=2)]
    with torch.no_grad():
        for parameter in cells[1].parameters():
            parameter.mul_(1.5) if parameter.ndim == 1 else None
    options: dict[str, Any] = {}
    if timed:
        options["lengths"] = torch.tensor([[5, 1, 3], [2, 5, 4]])
        if model not in WITHOUT_DT:
            options["dt"] = 0.5 + randn(2, BATCH, STEPS, seed=3).abs()
    call = as_call(cells, noise, paths, **options)
    found, end = run_call(call, every_step=True)
    for r in range(2):
        here = {name: value[r] for name, value in options.items()}
        wanted, last = reference.run(cells[r], call.inputs[r], call.state[r], noise=noise, path=paths[r], **here)
        torch.testing.assert_close(found[r], wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(end[r], last, rtol=1e-12, atol=1e-12)
    empty, again = run_call(call, every_step=False)
    assert empty.numel() == 0
    assert torch.equal(again, end)


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_the_diffusion_of_a_call_is_that_of_the_noise(place: str) -> None:
    """The loop of a call takes each replica's own matrix, and the factor from the noise."""
    cells, matrices = [build("noisy"), build("noisy")], randn(2, HIDDEN, 3, seed=4)
    dt = 0.5 + randn(2, BATCH, STEPS, seed=3).abs()
    call = as_call(cells, HiddenNoise(additive=0.7, place=place), [PATHS[1]] * 2, dt=dt, diffusion=matrices)
    found, _ = run_call(call, every_step=True)
    for r in range(2):
        noise = HiddenNoise(diffusion=MatrixDiffusion.around(matrices[r]), scale=0.7, place=place)
        wanted, _ = reference.run(cells[r], call.inputs[r], call.state[r], noise=noise, path=PATHS[1], dt=dt[r])
        torch.testing.assert_close(found[r], wanted, rtol=1e-13, atol=1e-13)


def test_step_lengths_shared_by_the_rows() -> None:
    cell, dt = build("noisy"), 0.5 + randn(1, 1, STEPS, seed=3).abs()
    call = as_call([cell], NOISES[0], [PATHS[0]], dt=dt)
    wanted, _ = reference.run(cell, call.inputs[0], call.state[0], noise=NOISES[0], path=PATHS[0], dt=dt[0, 0])
    torch.testing.assert_close(run_call(call, every_step=True)[0][0], wanted, rtol=1e-13, atol=1e-13)
