"""The kernel's random numbers: those of `BrownianPath`, with the moments and the independence they should have.

Through the kernel: with a saturated tanh, no matrices and one step, the new state is μ + η itself.
"""

import math

import pytest
import torch
from tests.kernels.noise_terms import terms
from torch import Tensor

from noisyrnn.kernels import cpp
from noisyrnn.kernels.call import KernelCall
from noisyrnn.noise import BrownianPath, HiddenNoise

STEPS, ROWS, UNITS = 64, 128, 128
COUNT = STEPS * ROWS * UNITS  # about a million, fixed before any was looked at
SEED = 2**63 + 20260101
KINDS = {"first": (0, 1.0, 0.0), "second": (2, 0.0, 1.0), "uniform": (1, 0.0, 1.0), "shared": (3, 0.0, 1.0)}


def numbers(
    kind: str, seed: int = SEED, *, steps: int = STEPS, rows: int = ROWS, units: int = UNITS, **place: int
) -> Tensor:
    """`(steps, rows, units)`, one pass a step, so that no other number is added to them."""
    source, additive, slope = KINDS[kind]
    first_step = place.pop("first_step", 0)
    call = KernelCall(
        "drift",
        inputs=torch.ones(1, rows, 1, 1),
        state=torch.zeros(1, rows, units),
        A=None,
        W=torch.zeros(1, units, units),
        U=torch.full((1, units, 1), 0.0 if kind == "first" else 30.0),  # tanh is 0, or 1
        b=torch.zeros(1, units),
        step=torch.ones(1, units),
        diffusion=None,
        dt=None,
        lengths=None,
        seed=torch.tensor([seed - 2**64 if seed >= 2**63 else seed]),
        coefficients=(),
    )._replace(**dict(zip(("noise", "path"), terms(source, additive, slope), strict=True)))
    mean = 1.0 if kind in ("second", "shared") else 0.0  # of the multiplier
    out = torch.empty(steps, rows, units)
    for t in range(steps):
        path = BrownianPath(seed=0, first_step=first_step + t, **place)
        out[t] = cpp.forward(call._replace(path=path), every_step=False, save=False)[2][0] - mean
    return out


@pytest.fixture(scope="module")
def drawn() -> dict[str, Tensor]:
    return {kind: numbers(kind) for kind in ("first", "second", "uniform")}


def assert_zero(values: Tensor, deviation: float) -> None:
    """The mean of independent values with this standard deviation lies within four standard errors of zero."""
    assert abs(values.double().mean()) <= 4 * deviation / math.sqrt(values.numel())


@pytest.mark.parametrize("kind", ["first", "second"])
def test_moments_of_the_normals(drawn: dict[str, Tensor], kind: str) -> None:
    n = drawn[kind].double()
    assert n.numel() == COUNT
    # Powers less their expectations; the deviations are those of x, x² - 1, x³ and x⁴ - 3 for a normal x.
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert_zero(n**power - expected, math.sqrt(variance))
    m = (n - n.mean()) / n.std()
    assert_zero(m**3, math.sqrt(6))  # skew_symmetry
    assert_zero(m**4 - 3, math.sqrt(24))  # kurtosis
    # P(|x| > 4) is 6.334e-5: the tails are there, and not too heavy.
    expected = 6.334e-5
    assert_zero((n.abs() > 4).double() - expected, math.sqrt(expected))
    assert n.abs().max() < 5.89  # of 24 bits, the smallest uniform number is 2⁻²⁵


def test_moments_of_the_uniforms(drawn: dict[str, Tensor]) -> None:
    u = drawn["uniform"].double()
    assert u.min() >= 0 and u.max() < 1
    for power in (1, 2, 3, 4):
        mean = 1 / (power + 1)
        assert_zero(u**power - mean, math.sqrt(1 / (2 * power + 1) - mean**2))


def neighbours(n: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs that should know nothing of one another: a counter's parts differ by one or two."""
    return {
        "steps": (n[1:], n[:-1]),
        "rows of a pair": (n[:, ::2], n[:, 1::2]),
        "rows of two pairs": (n[:, 2:], n[:, :-2]),
        "units": (n[..., 1:], n[..., :-1]),
        "units of two lanes": (n[..., 16:], n[..., :-16]),
    }


def assert_independent(one: Tensor, other: Tensor) -> None:
    """Neither the values nor their squares are correlated; for standard normals."""
    one, other = one.double(), other.double()
    assert_zero(one * other, 1.0)
    assert_zero((one**2 - 1) * (other**2 - 1), 2.0)


@pytest.mark.parametrize("kind", ["first", "second"])
def test_neighbours_are_independent(drawn: dict[str, Tensor], kind: str) -> None:
    for one, other in neighbours(drawn[kind]).values():
        assert_independent(one, other)


def test_neighbouring_uniforms_are_independent(drawn: dict[str, Tensor]) -> None:
    for one, other in neighbours((drawn["uniform"] - 0.5) * math.sqrt(12)).values():
        assert_zero(one.double() * other.double(), 1.0)


def test_motions_seeds_and_streams_are_independent(drawn: dict[str, Tensor]) -> None:
    first = drawn["first"]
    assert_independent(first, drawn["second"])
    for seed in (SEED + 1, SEED - 2**63, SEED ^ (1 << 32), 0):
        assert_independent(first, numbers("first", seed))
    assert_independent(first, numbers("first", stream=1))
    assert torch.equal(first, numbers("first"))


def test_replicas_with_seeds_of_their_own() -> None:
    """A pass of three replicas takes each one's seed, all 64 bits of it."""
    seeds = (SEED, 3, 2**64 - 1)
    whole = KernelCall(
        "drift",
        *(torch.zeros(3, *shape) for shape in ((5, 1, 1), (5, 9))),
        A=None,
        **{n: torch.zeros(3, *shape) for n, shape in (("W", (9, 9)), ("U", (9, 1)), ("b", (9,)), ("step", (9,)))},
        diffusion=None,
        dt=None,
        lengths=None,
        seed=torch.tensor([seed - 2**64 if seed >= 2**63 else seed for seed in seeds]),
        coefficients=(),
        noise=HiddenNoise(additive=1.0),
        path=BrownianPath(seed=0),
    )
    last = cpp.forward(whole, every_step=False, save=False)[2]
    for seed, found in zip(seeds, last, strict=True):
        assert torch.equal(found, numbers("first", seed, steps=1, rows=5, units=9)[0])


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1, 2**63, SEED, 2**64 - 1])
@pytest.mark.parametrize("place", [{}, {"first_row": 3, "first_step": 2**31 - 1, "stream": 2**32 - 1}])
def test_numbers_are_the_paths(seed: int, place: dict[str, int]) -> None:
    size = {"steps": 3, "rows": 21, "units": 37}
    path = BrownianPath(seed=seed, **place)
    first, second = path.normals(steps=3, batch=21, units=37)
    # Both make the same float32 uniform numbers from words of 24 bits; logarithm, root and sine are then rounded
    # differently, each to a unit or two, of numbers up to six.
    for kind, expected in (("first", first), ("second", second), ("shared", first)):
        torch.testing.assert_close(numbers(kind, seed, **size, **place), expected, rtol=0, atol=2e-6)
    assert torch.equal(numbers("uniform", seed, **size, **place), path.uniforms(steps=3, batch=21, units=37))


@pytest.mark.parametrize("kind", ["first", "second"])
def test_numbers_are_nearly_the_exact_ones(drawn: dict[str, Tensor], kind: str) -> None:
    """Near 1, where its logarithm is nearly zero, a uniform number loses the half that is added to its 24 bits.

    So the radius r of a pair, which is sqrt(-2 log u), has an error of up to 2⁻²⁵ / r beside that of rounding.
    """
    path = BrownianPath(seed=SEED)
    pair = path.normals(steps=8, batch=ROWS, units=UNITS, dtype=torch.float64)[("first", "second").index(kind)]
    radius = (pair[:, ::2] ** 2 + pair[:, 1::2] ** 2).sqrt().repeat_interleave(2, dim=1)
    error = (drawn[kind][:8] - pair).abs()
    assert (error <= 2e-6 + 2**-25 / radius).all()
    assert error.square().mean().sqrt() < 3e-7  # of numbers of size one
