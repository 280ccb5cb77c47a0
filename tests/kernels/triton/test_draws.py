"""A path's values by the GPU's kernel, against the tensor operations that define them.

The interpreted tests run in the process that `test_kernel.test_interpreted` starts.
"""

import os

import pytest
import torch
from torch import Tensor

from noisyrnn.native import library
from noisyrnn.native.library import Place
from noisyrnn.noise import draws

interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run by test_interpreted")
SEEDS = torch.tensor([0, (7 << 32) + 3, -1], dtype=torch.int64)
PLACES = [Place(), Place(first_row=3, first_step=2, stream=1), Place(first_row=4, first_step=70_000)]


def by_definition(monkeypatch: pytest.MonkeyPatch, kind: str, place: Place, shape: tuple[int, ...]) -> Tensor:
    """The values by tensor operations, in float64."""
    with monkeypatch.context() as patched:
        patched.setattr(library, "unavailable", lambda: "not in this test")
        steps, batch, units = shape
        found = draws.draw(SEEDS, [kind], place, steps=steps, batch=batch, units=units, dtype=torch.float64)
    return found[0]


@interpreted
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", [(2, 5, 3), (3, 4, 1), (1, 1, 300)])
def test_interpreter_values_are_those_of_the_definition(
    place: Place, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from noisyrnn.noise import triton_draws

    whole = torch.full((2, 3, shape[0] + 1, *shape[1:]), torch.nan)  # the steps of a longer tensor
    first, second = whole[0, :, 1:], whole[1, :, 1:]
    assert triton_draws.fits(first)
    triton_draws.fill(SEEDS, first, second, place, uniform=False)
    uniform = torch.full((3, *shape), torch.nan)
    triton_draws.fill(SEEDS, None, uniform, place, uniform=True)
    assert torch.equal(uniform.double(), by_definition(monkeypatch, "uniform", place, shape))
    for kind, found in (("first", first), ("second", second)):
        exact = by_definition(monkeypatch, kind, place, shape)
        assert torch.allclose(found.double(), exact, rtol=1e-6, atol=2e-6), kind
    assert whole[:, :, 0].isnan().all()
    alone = torch.full((3, *shape), torch.nan)
    triton_draws.fill(SEEDS, alone, None, place, uniform=False)
    assert torch.equal(alone, first)


@pytest.mark.gpu
def test_a_gpu_draws_with_it() -> None:
    seeds = SEEDS.cuda()
    out = torch.empty(2, 3, 4, 5, 6, device="cuda")
    draws.fill(out.unbind(0), seeds, ["first", "uniform"], Place(first_row=3))
    own = draws._compiled(out[0])
    assert own is not None and own.__module__ == "noisyrnn.noise.triton_draws"
    there = draws.draw(SEEDS, ["first", "uniform"], Place(first_row=3), steps=4, batch=5, units=6)
    assert torch.equal(out[1].cpu(), there[1]) and torch.allclose(out[0].cpu(), there[0], atol=1e-5)
