"""The Brownian path: where the generator's words go, and the statistics of what comes out."""

import math

import pytest
import torch
from torch import Tensor

from noisyrnn.noise.brownian import BrownianPath, derive_seed

MASK = 2**32 - 1

SEED = (7 << 32) + 3


def draw(path: BrownianPath, steps: int = 6, batch: int = 5, units: int = 7, motions: int = 2) -> Tensor:
    return path.normals(steps=steps, batch=batch, units=units, motions=motions, dtype=torch.float64)


def words(seed: int, row: int, step: int, unit: int, stream: int) -> list[int]:
    """Philox in whole numbers, without tensors: the four words of one counter."""
    c, k = [unit, row // 2, step, stream], [seed & MASK, seed >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


@pytest.mark.parametrize("stream", [0, 5])
def test_every_number_comes_from_its_own_counter(stream: int) -> None:
    path = BrownianPath(seed=SEED, first_row=3, first_step=10, stream=stream)
    values = draw(path, steps=3, batch=4, units=5)
    uniforms = path.uniforms(steps=3, batch=4, units=5, dtype=torch.float64)
    for step in range(3):
        for row in range(4):
            for unit in range(5):
                four = words(SEED, 3 + row, 10 + step, unit, stream)
                odd = (3 + row) % 2
                for motion in range(2):
                    first, second = four[2 * motion], four[2 * motion + 1]
                    radius = math.sqrt(-2 * math.log(((first >> 8) + 0.5) / 2**24))
                    angle = 2 * math.pi * (second >> 8) / 2**24
                    expected = radius * (math.sin(angle) if odd else math.cos(angle))
                    assert float(values[motion, step, row, unit]) == pytest.approx(expected, abs=1e-12)
                assert float(uniforms[step, row, unit]) == (four[3 if odd else 2] >> 8) / 2**24


def test_moments_within_four_standard_errors() -> None:
    z = draw(BrownianPath(seed=1), steps=64, batch=64, units=64).flatten(1)
    n = z.shape[1]
    assert n == 2**18
    for motion in z:
        assert abs(float(motion.mean())) < 4 / math.sqrt(n)
        assert abs(float((motion**2).mean()) - 1) < 4 * math.sqrt(2 / n)
        assert abs(float((motion**3).mean())) < 4 * math.sqrt(15 / n)
        assert abs(float((motion**4).mean()) - 3) < 4 * math.sqrt(96 / n)
        # Shape of the whole distribution: Kolmogorov's distance, whose 99.99 % point is 2.23 / sqrt(n).
        ordered = torch.special.ndtr(motion.sort().values)
        ranks = torch.arange(n, dtype=torch.float64)
        distance = torch.maximum(ordered - ranks / n, (ranks + 1) / n - ordered).max()
        assert float(distance) < 2.23 / math.sqrt(n)


def assert_independent(first: Tensor, second: Tensor) -> None:
    """Neither the numbers nor their squares are correlated, within four standard errors."""
    assert first.shape == second.shape
    n = first.numel()
    assert n >= 2**16
    assert abs(float((first * second).mean())) < 4 / math.sqrt(n)
    # E (x² - 1)(y² - 1) = 0 with variance 4 for independent normals; tells numbers of one radius apart.
    assert abs(float(((first**2 - 1) * (second**2 - 1)).mean())) < 4 * 2 / math.sqrt(n)


def test_independent_over_seed_row_step_unit_motion_and_stream() -> None:
    size = {"steps": 48, "batch": 48, "units": 48}
    z = draw(BrownianPath(seed=11), **size)
    assert_independent(z[0], z[1])
    for lag in (1, 2):
        assert_independent(z[:, lag:], z[:, :-lag])
        assert_independent(z[:, :, lag:], z[:, :, :-lag])
        assert_independent(z[..., lag:], z[..., :-lag])
    assert_independent(z[:, :, 0::2], z[:, :, 1::2])  # the two rows that share words
    assert_independent(z[0, 1:, :, 1:], z[1, :-1, :, :-1])
    others = (
        BrownianPath(seed=12),
        BrownianPath(seed=11 + 2**32),
        BrownianPath(seed=11, stream=1),
        BrownianPath(seed=11, first_row=48),
        BrownianPath(seed=11, first_step=48),
    )
    for other in others:
        assert_independent(z, draw(other, **size))


@pytest.mark.parametrize("first_row", [0, 1, 2, 5])
@pytest.mark.parametrize("split", [1, 2, 3])
def test_does_not_depend_on_how_the_batch_is_split(first_row: int, split: int) -> None:
    whole = draw(BrownianPath(seed=SEED, first_row=first_row), batch=7)
    pieces = [
        draw(BrownianPath(seed=SEED, first_row=first_row + begin), batch=min(split, 7 - begin))
        for begin in range(0, 7, split)
    ]
    assert torch.equal(torch.cat(pieces, dim=2), whole)
    assert torch.equal(draw(BrownianPath(seed=SEED), batch=7 + first_row)[:, :, first_row:], whole)


def test_does_not_depend_on_units_steps_motions_or_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw(BrownianPath(seed=SEED), steps=9, units=11)
    assert torch.equal(draw(BrownianPath(seed=SEED), steps=9, units=4), whole[..., :4])
    assert torch.equal(draw(BrownianPath(seed=SEED), steps=4, units=11), whole[:, :4])
    assert torch.equal(draw(BrownianPath(seed=SEED, first_step=5), steps=4, units=11), whole[:, 5:])
    assert torch.equal(draw(BrownianPath(seed=SEED), steps=9, units=11, motions=1), whole[:1])
    uniforms = BrownianPath(seed=SEED).uniforms(steps=9, batch=5, units=11)
    for chunk in (1, 70, 100):  # one step at a time; two; three
        monkeypatch.setattr("noisyrnn.noise.draws._CHUNK", chunk)
        assert torch.equal(draw(BrownianPath(seed=SEED), steps=9, units=11), whole)
        assert torch.equal(BrownianPath(seed=SEED).uniforms(steps=9, batch=5, units=11), uniforms)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_single_precision_numbers(dtype: torch.dtype) -> None:
    shape = {"steps": 5, "batch": 4, "units": 6}
    single = BrownianPath(seed=2).normals(**shape)
    assert torch.equal(BrownianPath(seed=2).normals(**shape, dtype=dtype), single.to(dtype))


def test_negated() -> None:
    path = BrownianPath(seed=SEED, first_row=1)
    assert torch.equal(draw(path.negated()), -draw(path))
    assert path.negated().negated() == path
    u = path.uniforms(steps=3, batch=4, units=5, dtype=torch.float64)
    assert torch.equal(path.negated().uniforms(steps=3, batch=4, units=5, dtype=torch.float64), 1 - u)


@pytest.mark.parametrize("first_step", [0, 6])
def test_coarse_increments_are_sums_of_fine_ones(first_step: int) -> None:
    path = BrownianPath(seed=SEED, first_step=first_step)
    fine = draw(path, steps=12) * math.sqrt(0.01)
    coarse = draw(path.coarsened(3), steps=4) * math.sqrt(0.03)
    torch.testing.assert_close(coarse, fine.reshape(2, 4, 3, 5, 7).sum(2), rtol=0, atol=1e-14)
    torch.testing.assert_close(draw(path.coarsened(3).coarsened(2), steps=2), draw(path.coarsened(6), steps=2))
    assert torch.equal(draw(path.negated().coarsened(3)), -draw(path.coarsened(3)))
    assert path.coarsened(1) == path
    second_half = BrownianPath(seed=SEED, first_step=first_step + 6).coarsened(3)
    assert torch.equal(draw(second_half, steps=2), draw(path.coarsened(3), steps=4)[:, 2:])


SEEDS = (0, SEED, 2**63 - 1, 2**63, 2**64 - 1)


def bits(seed: int) -> Tensor:
    """An unsigned 64-bit number as the int64 tensor with its bits."""
    return torch.frombuffer(bytearray(seed.to_bytes(8, "little")), dtype=torch.int64)[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_can_be_a_tensor(seed: int) -> None:
    path, same = BrownianPath(seed=seed, first_row=1), BrownianPath(seed=bits(seed), first_row=1)
    assert torch.equal(path.seed_tensor(), bits(seed)) and path.seed_tensor().dtype == torch.int64
    assert same.seed_tensor() is same.seed
    for dtype in (torch.float32, torch.float64):
        size = {"steps": 3, "batch": 4, "units": 5, "dtype": dtype}
        assert torch.equal(same.normals(**size), path.normals(**size))
        assert torch.equal(same.negated().uniforms(**size), path.negated().uniforms(**size))


@pytest.mark.parametrize("first_row", [0, 3])
@pytest.mark.parametrize("chunk", [1, 2**15])
def test_mapped_seeds_give_each_its_own_path(first_row: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisyrnn.noise.draws._CHUNK", chunk)
    size = {"steps": 4, "batch": 5, "units": 7}

    def values(seed: int | Tensor) -> tuple[Tensor, ...]:
        path = BrownianPath(seed=seed, first_row=first_row, stream=2)
        return path.normals(**size), path.negated().uniforms(**size), path.coarsened(2).normals(**size, motions=1)

    seeds = torch.stack([bits(seed) for seed in SEEDS])
    expected = [torch.stack(parts) for parts in zip(*map(values, SEEDS), strict=True)]
    mapped = torch.func.vmap(values)(seeds)
    twice = torch.func.vmap(torch.func.vmap(values))(torch.stack([seeds, seeds]))
    for one, two, single in zip(mapped, twice, expected, strict=True):
        assert torch.equal(one, single) and torch.equal(two[1], single)


def test_float32_is_float64_rounded() -> None:
    path = BrownianPath(seed=2)
    exact = draw(path, steps=32, batch=32, units=32)
    single = path.normals(steps=32, batch=32, units=32)
    assert single.dtype == torch.float32
    error = (single.double() - exact).abs()
    # u has 25 significant bits, so near u = 1 rounding it moves sqrt(-2 log u) by up to sqrt(2^-23), and rarely so.
    assert float(error.max()) < 2**-11.5
    assert float(error.flatten().quantile(0.99)) < 1e-6


def test_uniforms_lie_in_the_unit_interval() -> None:
    for dtype in (torch.float32, torch.float64):
        u = BrownianPath(seed=3).uniforms(steps=64, batch=64, units=64, dtype=dtype)
        assert u.dtype == dtype
        assert 0 <= float(u.min()) < 1e-4 and 1 - 1e-4 < float(u.max()) < 1
        n = u.numel()
        assert abs(float(u.double().mean()) - 0.5) < 4 * math.sqrt(1 / 12 / n)
        assert abs(float((u.double() - 0.5).square().mean()) - 1 / 12) < 4 * math.sqrt(1 / 180 / n)


def test_uniforms_do_not_reuse_the_first_motion() -> None:
    path = BrownianPath(seed=4)
    u = path.uniforms(steps=48, batch=48, units=48, dtype=torch.float64)
    z = draw(path, steps=48, batch=48, units=48, motions=1)[0]
    scaled = (u - 0.5) * math.sqrt(12)
    assert abs(float((scaled * z).mean())) < 4 / math.sqrt(u.numel())
    assert abs(float((scaled * (z**2 - 1)).mean())) < 4 * math.sqrt(2 / u.numel())


def test_derived_seeds() -> None:
    seeds = {derive_seed(a, b, c) for a in range(20) for b in ("noise", "batch") for c in range(20)}
    assert len(seeds) == 800
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert derive_seed(1, "2") != derive_seed(1, 2)
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert derive_seed(1, "noise", 0) == 10242787469716569993  # BLAKE2b of "(1, 'noise', 0)"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seed": -1}, r"^seed must be at least 0, got -1\.$"),
        ({"seed": 2**64}, r"^seed must be less than 2\*\*64, got 18446744073709551616\.$"),
        ({"seed": 1, "first_row": -2}, r"^first_row must be at least 0, got -2\.$"),
        ({"seed": 1, "first_step": -3}, r"^first_step must be at least 0, got -3\.$"),
        (
            {"seed": torch.tensor([1, 2])},
            r"^seed must be an integer or an int64 tensor of shape \(\), got torch\.int64 of shape \(2,\)\.$",
        ),
        (
            {"seed": torch.tensor(1.0)},
            r"^seed must be an integer or an int64 tensor of shape \(\), got torch\.float32 of shape \(\)\.$",
        ),
        ({"seed": 1, "stream": -4}, r"^stream must be at least 0, got -4\.$"),
        ({"seed": 1, "stream": 2**32}, r"^stream must be less than 2\*\*32, got 4294967296\.$"),
        ({"seed": 1, "first_row": 2**33}, r"^first_row must be less than 2\*\*33, got 8589934592\.$"),
        ({"seed": 1, "first_step": 2**32}, r"^first_step must be less than 2\*\*32, got 4294967296\.$"),
        ({"seed": 1, "factor": 0}, r"^factor must be at least 1, got 0\.$"),
        ({"seed": 1, "sign": 2}, r"^sign must be 1 or -1, got 2\.$"),
    ],
)
def test_bad_arguments(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BrownianPath(**options)


def test_bad_calls() -> None:
    with pytest.raises(ValueError, match=r"^factor must be at least 1, got 0\.$"):
        BrownianPath(seed=1).coarsened(0)
    with pytest.raises(ValueError, match=r"^factor must be 1 for uniform noise, got 2\. Use a Gaussian law\.$"):
        BrownianPath(seed=1).coarsened(2).uniforms(steps=1, batch=1, units=1)
    with pytest.raises(ValueError, match=r"^motions must be 1 or 2, got 3\.$"):
        BrownianPath(seed=1).normals(steps=1, batch=1, units=1, motions=3)
    sizes = {"steps": 1, "batch": 1, "units": 1}
    for name, value in (("steps", -1), ("batch", 0), ("units", 0)):
        with pytest.raises(ValueError, match=rf"^{name} must be at least {value + 1}, got {value}\.$"):
            BrownianPath(seed=1).normals(**{**sizes, name: value})
        with pytest.raises(TypeError, match=rf"^{name} must be an integer, got 2\.0\.$"):
            BrownianPath(seed=1).uniforms(**{**sizes, name: 2.0})


@pytest.mark.parametrize("name", ["seed", "first_row", "first_step", "stream", "factor", "sign"])
@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_arguments_are_integers(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be an integer, got {value!r}\.$"):
        BrownianPath(**{"seed": 1, name: value})


def test_the_last_rows_and_steps() -> None:
    """A counter has 32 bits for pairs of rows and for steps; past them the path would repeat itself."""
    last = BrownianPath(seed=SEED, first_row=2**33 - 3, first_step=2**32 - 2, stream=2**32 - 1)
    values = last.uniforms(steps=2, batch=3, units=4, dtype=torch.float64)
    for row in range(3):
        four = words(SEED, 2**33 - 3 + row, 2**32 - 1, 3, 2**32 - 1)
        assert float(values[1, row, 3]) == (four[2 + (row + 1) % 2] >> 8) / 2**24
    sentence = r"^first_row must be at most 8589934588 for 4 rows, got 8589934589\. A path has"
    with pytest.raises(ValueError, match=sentence):
        last.normals(steps=2, batch=4, units=1)
    sentence = r"^first_step must be at most 4294967293 for 3 steps of factor 1, got 4294967294\. A path has"
    with pytest.raises(ValueError, match=sentence):
        last.uniforms(steps=3, batch=1, units=1)
    sentence = r"^first_step must be at most 4294967292 for 2 steps of factor 2, got 4294967294\. A path has"
    with pytest.raises(ValueError, match=sentence):
        last.coarsened(2).normals(steps=2, batch=1, units=1)
