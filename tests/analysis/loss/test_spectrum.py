import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from tests.analysis.loss.curvature_cases import Dense, classifier, dense_hessian, sequences, symmetric

from noisyrnn.analysis.loss.hessian import LossHessian
from noisyrnn.analysis.loss.spectrum import Eigenpairs, hessian_eigenvalues, spectral_density
from noisyrnn.models import MODELS

# One outlier on either side, a bulk with repeated eigenvalues: what a Hessian looks like.
SPECTRUM = [-2.0, -0.5, *[0.0] * 8, 0.1, 0.2, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 4.0, 9.0]


def normal(x, width):
    return torch.exp(-0.5 * (x / width) ** 2) / (width * (2 * torch.pi) ** 0.5)


@pytest.mark.parametrize("name", MODELS)
def test_eigenvalues_are_those_of_the_dense_hessian(name):
    model, split = classifier(name), sequences()
    pairs = hessian_eigenvalues(LossHessian(model, split), leading=3, trailing=3, tolerance=1e-12)
    exact = torch.linalg.eigvalsh(dense_hessian(model, split))
    torch.testing.assert_close(pairs.values, exact[[0, 1, 2, -3, -2, -1]], rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(pairs.vectors.T @ pairs.vectors, torch.eye(6).double(), rtol=0, atol=1e-12)


def test_eigenvalues_are_scipys():
    hessian = LossHessian(classifier("noisy", hidden=6), sequences())
    pairs = hessian_eigenvalues(hessian, leading=4, trailing=4, tolerance=1e-12)
    operator = LinearOperator(
        (hessian.size, hessian.size), lambda v: (hessian @ torch.from_numpy(v)).numpy(), dtype="f8"
    )
    theirs = eigsh(operator, k=8, which="BE", return_eigenvectors=False)
    torch.testing.assert_close(pairs.values, torch.from_numpy(theirs).sort().values, rtol=1e-8, atol=1e-9)


def test_vectors_and_residuals_belong_to_the_values():
    operator = symmetric(SPECTRUM)
    pairs = hessian_eigenvalues(operator, leading=2, trailing=1, steps=6)
    misses = operator.matrix @ pairs.vectors - pairs.vectors * pairs.values
    torch.testing.assert_close(pairs.residuals, misses.norm(dim=0), rtol=1e-8, atol=1e-13)
    assert pairs.residuals.max() > 1e-3  # six steps are too few
    exact = torch.tensor(SPECTRUM)
    for value, residual in zip(pairs.values, pairs.residuals, strict=True):
        assert (exact - value).abs().min() <= residual + 1e-12


def test_it_stops_when_all_wanted_pairs_are_there():
    operator = symmetric([float(k) for k in range(100)] + [1e3, -1e3])
    pairs = hessian_eigenvalues(operator, leading=1, trailing=1)
    assert pairs.products == operator.products < 12
    torch.testing.assert_close(pairs.values, torch.tensor([-1e3, 1e3]).double(), rtol=1e-6, atol=0)
    assert 1e-4 < pairs.residuals.max() <= 1e-4 * 1e3
    operator.products = 0
    hessian_eigenvalues(operator, leading=1, trailing=1, tolerance=0.0, steps=20)
    assert operator.products == 20 + 2
    squares = symmetric([float(k**2) for k in range(20)])
    assert hessian_eigenvalues(squares, leading=2, trailing=1, tolerance=0.0).products == 20 + 3


def test_repeated_eigenvalues_are_found_where_the_space_is_exhausted():
    pairs = hessian_eigenvalues(symmetric([1.0, 1.0, 1.0, 2.0, 2.0]), leading=2, trailing=3)
    torch.testing.assert_close(pairs.values, torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0]).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(pairs.vectors.T @ pairs.vectors, torch.eye(5).double(), rtol=0, atol=1e-12)
    same = hessian_eigenvalues(Dense(torch.eye(30).double()), leading=10, trailing=10)
    torch.testing.assert_close(same.values, torch.ones(20).double(), rtol=1e-14, atol=0)
    torch.testing.assert_close(same.vectors.T @ same.vectors, torch.eye(20).double(), rtol=0, atol=1e-12)
    zero = hessian_eigenvalues(Dense(torch.zeros(4, 4).double()), leading=1, trailing=1)
    assert zero.values.tolist() == [0.0, 0.0] and zero.residuals.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("copies", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_repeated_eigenvalues_are_found_long_before_the_space_is_exhausted(copies, seed):
    bulk = torch.linspace(-1, 1, 300).tolist()
    operator = symmetric([9.0] * copies + [4.0] * 2 + bulk + [-3.0] * copies, seed=seed)
    pairs = hessian_eigenvalues(operator, leading=copies + 1, trailing=copies, tolerance=1e-8, seed=seed)
    assert operator.products < 150
    expected = torch.tensor([-3.0] * copies + [4.0] + [9.0] * copies).double()
    torch.testing.assert_close(pairs.values, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(pairs.vectors.T @ pairs.vectors, torch.eye(2 * copies + 1).double(), rtol=0, atol=1e-12)


def test_no_start_is_orthogonal_to_the_leading_vector():
    matrix = torch.linspace(0, 1, 40).double().diag()
    matrix[:2, :2] = torch.tensor([[5.0, -5.0], [-5.0, 5.0]])  # half of all vectors of signs do not see its 10
    found = [hessian_eigenvalues(Dense(matrix), leading=1, trailing=1, seed=seed).largest.value for seed in range(10)]
    torch.testing.assert_close(torch.stack(found), torch.full((10,), 10.0).double(), rtol=1e-6, atol=0)


def test_what_is_small_in_float32_is_not_taken_for_rounding():
    bulk = (8e-4 * torch.linspace(0, 1, 2000)).tolist()
    operator = Dense(torch.tensor([1.0, *bulk]).diag())
    pairs = hessian_eigenvalues(operator, leading=2, trailing=1, steps=60, tolerance=1e-6)
    torch.testing.assert_close(pairs.values, torch.tensor([0.0, 8e-4, 1.0]).double(), rtol=0, atol=1e-5)


def test_both_ends_and_their_ratio():
    pairs = hessian_eigenvalues(symmetric(SPECTRUM), tolerance=1e-12)
    assert (pairs.smallest.kind, pairs.largest.kind, pairs.condition_number.kind) == ("estimate",) * 3
    assert float(pairs.smallest.value) == pytest.approx(-2.0, rel=1e-10)
    assert float(pairs.largest.value) == pytest.approx(9.0, rel=1e-10)
    assert float(pairs.condition_number.value) == pytest.approx(4.5, rel=1e-10)
    flat = Eigenpairs(values=torch.tensor([0.0, 2.0]), vectors=torch.eye(2), residuals=torch.zeros(2), products=2)
    assert flat.condition_number.value == torch.inf


def test_seeds_reproduce_to_the_bit():
    hessian = LossHessian(classifier(), sequences())

    def both(seed):
        pairs = hessian_eigenvalues(hessian, leading=2, trailing=2, seed=seed)
        density = spectral_density(hessian, probes=2, steps=5, seed=seed)
        return pairs.values, pairs.vectors, density.density.value

    first, again, other = both(0), both(0), both(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("case", ["spectrum", "hessian"])
def test_the_density_is_the_exact_one(case):
    operator = symmetric(SPECTRUM) if case == "spectrum" else Dense(dense_hessian(classifier(hidden=2), sequences()))
    found = spectral_density(operator, probes=100, steps=operator.size, width=0.3)
    eigenvalues = torch.linalg.eigvalsh(operator.matrix)
    exact = normal(found.grid[:, None] - eigenvalues, 0.3).mean(dim=1)
    error = found.density.standard_error
    assert ((found.density.value - exact).abs() <= 4 * error + 1e-12).all()
    assert error.max() < 0.1 * exact.max()


def outliers_around_a_bulk():
    bulk = torch.randn(300, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return [-20.0, -15.0, -14.0, 100.0, 130.0, 280.0, *bulk.tolist()]


@pytest.mark.parametrize(
    ("eigenvalues", "share"), [(torch.linspace(-1, 9, 200).tolist(), 1 / 32), (outliers_around_a_bulk(), 1 / 100)]
)
def test_few_steps_do_where_the_width_allows(eigenvalues, share):
    operator, width = symmetric(eigenvalues), share * (max(eigenvalues) - min(eigenvalues))
    full = spectral_density(operator, probes=2, steps=operator.size, width=width)
    few = spectral_density(operator, probes=2, width=width, grid=full.grid)
    peak = float(full.density.value.max())
    torch.testing.assert_close(few.density.value, full.density.value, rtol=0, atol=1e-3 * peak)


def test_the_quadrature_is_exact_for_polynomials():
    operator, width, steps = symmetric(SPECTRUM), 0.5, 3
    found = spectral_density(
        operator, probes=2, steps=steps, width=width, grid=torch.linspace(-20, 30, 4001, dtype=torch.float64)
    )
    generator = torch.Generator().manual_seed(0)
    probes = [2.0 * torch.randint(2, (operator.size,), generator=generator).double() - 1 for _ in range(2)]
    eigenvalues, vectors = torch.linalg.eigh(operator.matrix)
    shares = torch.stack([(vectors.T @ z) ** 2 / operator.size for z in probes])
    for power in range(2 * steps):
        moments = [torch.trapezoid(found.grid**power * normal(found.grid - t, width), found.grid) for t in eigenvalues]
        expected = shares.mean(dim=0) @ torch.stack(moments)
        moment = torch.trapezoid(found.grid**power * found.density.value, found.grid)
        torch.testing.assert_close(moment, expected, rtol=1e-9, atol=1e-9)


def test_the_density_of_an_operator_is_that_of_its_matrix():
    model, split = classifier(), sequences()
    settings = {"probes": 2, "steps": 8, "width": 0.2, "grid": torch.linspace(-1, 5, 50)}
    ours = spectral_density(LossHessian(model, split), **settings)
    theirs = spectral_density(Dense(dense_hessian(model, split)), **settings)
    torch.testing.assert_close(ours.density.value, theirs.density.value, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(ours.density.standard_error, theirs.density.standard_error, rtol=1e-7, atol=1e-10)


def test_the_grid_and_the_width_fit_the_spectrum():
    found = spectral_density(symmetric(SPECTRUM), probes=3, steps=20)
    assert found.width == pytest.approx(0.11, rel=1e-9)
    assert len(found.grid) == 401
    assert float(found.grid[0]) == pytest.approx(-2.44) and float(found.grid[-1]) == pytest.approx(9.44)
    assert found.density.kind == "estimate"
    assert float(torch.trapezoid(found.density.value, found.grid)) == pytest.approx(1.0, abs=1e-3)
    assert spectral_density(symmetric(SPECTRUM), width=0.25).width == 0.25


def test_the_standard_error_is_that_of_the_mean_over_probes():
    # Both probes of a diagonal matrix see each eigenvalue with the share 1/n: nothing is left to chance.
    diagonal = Dense(torch.tensor([0.0, 1.0, 5.0]).double().diag())
    assert spectral_density(diagonal, steps=3).density.standard_error.max() < 1e-12
    operator = symmetric(SPECTRUM)
    few, many = (
        spectral_density(operator, probes=probes, steps=20, width=0.5, grid=torch.linspace(-3, 10, 40))
        for probes in (40, 160)
    )
    ratio = (few.density.standard_error / many.density.standard_error).median()
    assert float(ratio) == pytest.approx(2.0, rel=0.2)


def test_wrong_numbers_are_refused():
    operator = symmetric([1.0, 2.0, 3.0])
    for name in ("leading", "trailing"):
        with pytest.raises(ValueError, match=rf"^{name} must"):
            hessian_eigenvalues(operator, **{name: 0})
    with pytest.raises(ValueError, match=r"leading \+ trailing must be at most 3, the operator's rows, got 4"):
        hessian_eigenvalues(operator, leading=2, trailing=2)
    with pytest.raises(ValueError, match=r"^steps must"):
        hessian_eigenvalues(operator, leading=2, trailing=1, steps=2)
    with pytest.raises(ValueError, match=r"^tolerance must"):
        hessian_eigenvalues(operator, tolerance=-1)
    with pytest.raises(ValueError, match=r"^probes must"):
        spectral_density(operator, probes=1)
    with pytest.raises(ValueError, match=r"^steps must"):
        spectral_density(operator, steps=0)
    with pytest.raises(ValueError, match=r"^width must"):
        spectral_density(operator, width=0)
    with pytest.raises(ValueError, match="width must be given where all eigenvalues are equal, got None and 2 for all"):
        spectral_density(Dense(2 * torch.eye(4).double()))
