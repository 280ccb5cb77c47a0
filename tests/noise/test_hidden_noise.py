import math

import pytest
import torch
from torch import Tensor

from noisyrnn import FunctionDiffusion, LipschitzRNN, MatrixDiffusion, NoisyRNN
from noisyrnn.noise import BrownianPath, HiddenNoise

PATH = BrownianPath(seed=5)
SIZES = {"steps": 4, "batch": 3, "units": 5}
N = 2**18


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample(noise: HiddenNoise, dt: Tensor | None = None) -> Tensor:
    """`N` perturbed copies of the increment 0.8."""
    draws = noise.draw(BrownianPath(seed=6), steps=1, batch=512, units=512, dtype=torch.float64)
    first, second = (None if d is None else d[0] for d in draws)
    return noise.perturb(torch.full((512, 512), 0.8, dtype=torch.float64), first, second, dt).flatten()


@pytest.mark.parametrize("dt", [None, 0.25, 3.0])
@pytest.mark.parametrize("form", ["independent", "shared"])
def test_mean_and_variance_of_the_gaussian_law(form: str, dt: float | None) -> None:
    values = sample(
        HiddenNoise(additive=0.3, multiplicative=0.5, form=form),
        None if dt is None else torch.tensor(dt, dtype=torch.float64),
    )
    root = math.sqrt(dt or 1.0)
    a, m = 0.3 * root, 0.5 / root * 0.8
    variance = (a + m) ** 2 if form == "shared" else a**2 + m**2
    assert values.numel() == N
    assert abs(float(values.mean()) - 0.8) < 4 * math.sqrt(variance / N)
    assert abs(float(values.var()) - variance) < 4 * variance * math.sqrt(2 / N)


def test_mean_and_variance_of_the_uniform_law() -> None:
    values = sample(HiddenNoise(additive=0.1, multiplicative=0.5, law="uniform"))
    variance = 0.1**2 + (0.8 * 0.5) ** 2 / 12
    assert abs(float(values.mean()) - 0.8 * (1 - 0.25)) < 4 * math.sqrt(variance / N)
    assert abs(float(values.var()) - variance) < 4 * variance * math.sqrt(2 / N)
    bare = sample(HiddenNoise(multiplicative=0.5, law="uniform"))
    assert 0.4 <= float(bare.min()) < 0.401 and 0.799 < float(bare.max()) <= 0.8


def test_independent_form_is_the_published_formula() -> None:
    noise, increment = HiddenNoise(additive=0.2, multiplicative=0.3), randn(3, 5)
    draws = noise.draw(PATH, **SIZES, dtype=torch.float64)
    first, second = PATH.normals(**SIZES, dtype=torch.float64)
    assert torch.equal(draws.additive, first) and torch.equal(draws.multiplicative, second)
    expected = (1 + 0.3 * second[2]) * increment + 0.2 * first[2]
    torch.testing.assert_close(noise.perturb(increment, first[2], second[2]), expected, rtol=0, atol=1e-15)
    dt = torch.tensor([[0.25], [1.0], [4.0]], dtype=torch.float64)
    expected = torch.empty_like(increment)
    for row, length in enumerate([0.25, 1.0, 4.0]):
        relative = 1 + 0.3 / math.sqrt(length) * second[2, row]
        expected[row] = relative * increment[row] + 0.2 * math.sqrt(length) * first[2, row]
    torch.testing.assert_close(noise.perturb(increment, first[2], second[2], dt), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("length", [1.0, 0.3])
@pytest.mark.parametrize("form", ["independent", "shared"])
def test_paper_parametrisation(form: str, length: float) -> None:
    eps, s1, s2, delta = 0.7, 0.4, 1.3, 0.05
    noise = HiddenNoise(additive=s1, multiplicative=s2, form=form).per_time(noise_level=eps, step_size=delta)
    f = randn(3, 5)
    first, second = noise.draw(PATH, **SIZES, dtype=torch.float64)
    xi = PATH.normals(**SIZES, dtype=torch.float64)
    step = delta * length
    eta = s1 * xi[0, 1] + s2 * f * (xi[0, 1] if form == "shared" else xi[1, 1])
    dt = torch.tensor(length, dtype=torch.float64)
    result = noise.perturb(step * f, first[1], second[1], None if length == 1.0 else dt)
    torch.testing.assert_close(result, step * f + eps * math.sqrt(step) * eta, rtol=0, atol=1e-14)


def test_paper_parametrisation_in_published_levels() -> None:
    noise = HiddenNoise(additive=0.5, multiplicative=0.25).per_time(noise_level=2.0, step_size=0.01)
    assert noise.additive == pytest.approx(2.0 * 0.1 * 0.5)  # ε √δ σ₁
    assert noise.multiplicative * 0.01 == pytest.approx(2.0 * 0.1 * 0.25)  # ε √δ σ₂ = level · δ
    assert HiddenNoise(additive=1.0, multiplicative=1.0).per_time(noise_level=2.0, step_size=0.01) == HiddenNoise(
        additive=0.2, multiplicative=20.0
    )


def test_draws_only_what_acts() -> None:
    assert HiddenNoise().silent
    assert HiddenNoise().draw(PATH, **SIZES) == (None, None)
    xi = PATH.normals(**SIZES, dtype=torch.float64)
    for form in ("independent", "shared"):
        only = HiddenNoise(additive=0.1, form=form)
        first, second = only.draw(PATH, **SIZES, dtype=torch.float64)
        assert not only.silent and second is None and torch.equal(first, xi[0])
        only = HiddenNoise(multiplicative=0.1, form=form)
        first, second = only.draw(PATH, **SIZES, dtype=torch.float64)
        assert not only.silent and first is None
        assert torch.equal(second, xi[0] if form == "shared" else xi[1])
    both = HiddenNoise(additive=0.1, multiplicative=0.1, law="uniform").draw(PATH, **SIZES, dtype=torch.float64)
    assert torch.equal(both.additive, xi[0])
    assert torch.equal(both.multiplicative, PATH.uniforms(**SIZES, dtype=torch.float64))
    assert HiddenNoise(additive=0.1, law="uniform").draw(PATH, **SIZES).multiplicative is None
    assert HiddenNoise(multiplicative=0.1, law="uniform").draw(PATH, **SIZES).additive is None


def test_without_draws_nothing_changes() -> None:
    increment = randn(3, 5)
    assert HiddenNoise(additive=0.1, multiplicative=0.1).perturb(increment, None, None) is increment


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"additive": -0.1}, r"^additive must be at least 0, got -0\.1\.$"),
        ({"multiplicative": -0.2}, r"^multiplicative must be at least 0, got -0\.2\.$"),
        ({"additive": math.nan}, r"^additive must be finite, got nan\.$"),
        ({"form": "share"}, r"^noise_form must be one of independent, shared, got 'share'\. Did you mean 'shared'\?$"),
        ({"law": "cauchy"}, r"^noise_law must be one of gaussian, uniform, got 'cauchy'\.$"),
        (
            {"law": "uniform", "form": "shared"},
            r"^noise_form must be 'independent' with noise_law 'uniform', got 'shared'\.$",
        ),
        (
            {"law": "uniform", "multiplicative": 1.5},
            r"^multiplicative must be at most 1 with noise_law 'uniform', got 1\.5\.$",
        ),
    ],
)
def test_bad_arguments(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        HiddenNoise(**options)


def test_bad_paper_arguments() -> None:
    with pytest.raises(ValueError, match=r"^noise_level must be at least 0, got -1\.$"):
        HiddenNoise(additive=1.0, multiplicative=1.0).per_time(noise_level=-1.0, step_size=0.1)
    with pytest.raises(ValueError, match=r"^step_size must be greater than 0, got 0\.$"):
        HiddenNoise(additive=1.0, multiplicative=1.0).per_time(noise_level=1.0, step_size=0.0)


def test_uniform_law_takes_no_step_lengths() -> None:
    sentence = r"^dt must be None with noise_law 'uniform', got step lengths\. Use noise_law='gaussian'\.$"
    with pytest.raises(ValueError, match=sentence):
        HiddenNoise(multiplicative=0.1, law="uniform").perturb(randn(3, 5), None, randn(3, 5), torch.ones(()))


MATRIX = [[0.3, -0.1], [0.2, 0.4], [-0.2, 0.1]]


def test_a_diffusion_replaces_the_levels() -> None:
    noise = HiddenNoise(diffusion=MATRIX, scale=0.5)  # type: ignore[arg-type]
    assert isinstance(noise.diffusion, MatrixDiffusion) and noise.state_free and not noise.silent
    assert repr(noise) == "HiddenNoise(diffusion=MatrixDiffusion(3 units, 2 columns), scale=0.5)"
    assert noise.scaled(3.0).scale == 1.5 and noise.scaled(0.0).silent
    assert noise.per_time(noise_level=2.0, step_size=0.25).scale == 0.5  # ε √δ
    assert noise.scaled(2.0).diffusion is noise.diffusion
    function = HiddenNoise(diffusion=FunctionDiffusion(lambda h, x, t: h))
    assert not function.state_free
    assert repr(HiddenNoise(additive=0.1, place="inside")).endswith("law='gaussian', place='inside')")
    assert HiddenNoise(additive=0.1, place="inside").per_time(step_size=0.25).additive == pytest.approx(0.2)  # σ / √δ


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"diffusion": MATRIX, "additive": 0.1},
            r"^additive must be 0 with a diffusion, which replaces both levels, got 0\.1\.$",
        ),
        (
            {"diffusion": MATRIX, "multiplicative": 0.1},
            r"^multiplicative must be 0 with a diffusion, which replaces both levels, got 0\.1\.$",
        ),
        ({"diffusion": MATRIX, "law": "uniform"}, r"^noise_law must be 'gaussian' with a diffusion, got 'uniform'\.$"),
        ({"scale": 2.0}, r"^scale must be 1 without a diffusion, got 2\. Use additive, multiplicative\.$"),
        ({"diffusion": MATRIX, "scale": -1.0}, r"^scale must be at least 0, got -1\.$"),
        ({"diffusion": MATRIX, "scale": math.nan}, r"^scale must be finite, got nan\.$"),
        ({"place": "within"}, r"^noise_place must be one of inside, outside, got 'within'"),
        (
            {"place": "inside", "multiplicative": 0.1},
            r"^multiplicative must be 0 with noise_place 'inside', got 0\.1: the activation's argument has no update",
        ),
        (
            {"place": "inside", "diffusion": torch.cos},
            r"^diffusion must be a matrix with noise_place 'inside', got a callable\.$",
        ),
    ],
)
def test_bad_diffusions(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        HiddenNoise(**options)  # type: ignore[arg-type]


def test_a_matrix_of_other_units_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^diffusion must have 4 rows, one for each unit, got the shape \(3, 2\)\.$"):
        LipschitzRNN(2, 4, diffusion=MATRIX)


@pytest.mark.parametrize("r", [1, 2, 5, 9])
@pytest.mark.parametrize("function", [False, True])
def test_the_noise_of_a_diffusion_depends_on_seed_row_step_and_column_only(r: int, function: bool) -> None:
    """Rows and steps cut anywhere, and more columns, leave every number as it was."""
    matrix = randn(5, r)
    diffusion = (lambda h, x, t: (1 + 0.1 * h.cos())[..., None] * matrix) if function else matrix
    layer = LipschitzRNN(2, 5, diffusion=diffusion, dtype=torch.float64)
    inputs, path = randn(6, 7, 2, seed=1), BrownianPath(seed=3)
    whole, end = layer(inputs, path=path)
    rows = [layer(inputs[k:m], path=BrownianPath(seed=3, first_row=k))[0] for k, m in ((0, 1), (1, 4), (4, 6))]
    torch.testing.assert_close(torch.cat(rows), whole, rtol=0, atol=1e-14)
    first, state = layer(inputs[:, :3], path=path)
    second, last = layer(inputs[:, 3:], state, path=BrownianPath(seed=3, first_step=3))
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-14)
    torch.testing.assert_close(last, end, rtol=0, atol=1e-14)
    if not function:
        wider = torch.cat([matrix, torch.zeros(5, 3).double()], dim=1)
        more = LipschitzRNN(2, 5, diffusion=wider, dtype=torch.float64)
        more.load_state_dict({**layer.state_dict(), "diffusion.matrix": wider})
        torch.testing.assert_close(more(inputs, path=path)[0], whole, rtol=0, atol=1e-14)
    assert not torch.equal(layer(inputs, path=BrownianPath(seed=4))[0], whole)


def test_a_diagonal_matrix_is_additive_noise() -> None:
    torch.manual_seed(0)
    levels = NoisyRNN(2, 5, additive=0.3, multiplicative=0.0, dtype=torch.float64)
    matrix = NoisyRNN(2, 5, diffusion=0.3 * torch.eye(5).double(), dtype=torch.float64)
    matrix.load_state_dict({**levels.state_dict(), "diffusion.matrix": matrix.diffusion.matrix})
    inputs, dt = randn(3, 6, 2), torch.linspace(0.5, 2.0, 6).double()
    for sizes in (None, dt):
        ours, theirs = (layer(inputs, path=PATH, dt=sizes)[0] for layer in (matrix, levels))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
