import math

import pytest
import torch
from tests.analysis.loss.curvature_cases import Dense, classifier, dense_hessian, sequences, symmetric

from noisyrnn.analysis.loss.hessian import LossHessian
from noisyrnn.analysis.loss.trace import METHODS, hessian_trace

SPECTRUM = [10.0**-k for k in range(20)] + [-0.5, -0.1, 0.3, 4.0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["noisy", "exprnn"])
def test_it_is_the_trace_of_the_dense_hessian(name, method):
    model, split = classifier(name), sequences()
    found = hessian_trace(LossHessian(model, split), method=method, probes=30)
    exact = dense_hessian(model, split).trace()
    assert found.kind == "estimate" and found.standard_error > 0
    assert abs(found.value - exact) <= 4 * found.standard_error


@pytest.mark.parametrize("method", METHODS)
def test_estimates_are_unbiased_and_their_standard_errors_right(method):
    operator, count = symmetric(SPECTRUM), 300
    found = [hessian_trace(operator, method=method, probes=30, seed=seed) for seed in range(count)]
    values = torch.stack([each.value for each in found])
    errors = torch.stack([each.standard_error for each in found])
    exact = operator.matrix.trace()
    assert abs(values.mean() - exact) <= 4 * values.std() / math.sqrt(count)
    # The relative error of a standard deviation over 300 seeds is 1 / sqrt(600), and the errors vary themselves.
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("method", "probes", "draws"),
    [("hutchinson", 4, 4), ("hutchinson", 30, 30), ("hutch++", 8, 4), ("hutch++", 32, 12)],
)
def test_intervals_cover_the_trace_as_often_as_they_say(method, probes, draws):
    """With 1.96 standard errors they do so in 85 % of cases for 4 draws, and in 92 % for 12."""
    operator, count, hits = symmetric(torch.linspace(-1, 2, 60).tolist()), 500, 0
    exact = float(operator.matrix.trace())
    for seed in range(count):
        found = hessian_trace(operator, method=method, probes=probes, seed=seed)
        assert found.draws == draws
        low, high = found.interval()
        hits += float(low) <= exact <= float(high)
    # The share of hits has a standard error of 1 %.
    assert 0.92 <= hits / count <= 0.98


def test_hutchinson_is_the_mean_of_the_forms():
    operator, generator = symmetric(SPECTRUM), torch.Generator().manual_seed(5)
    forms = []
    for _ in range(6):
        z = 2.0 * torch.randint(2, (operator.size,), generator=generator).double() - 1
        forms.append(sum(float(z[i] * operator.matrix[i, j] * z[j]) for i in range(24) for j in range(24)))
    found = hessian_trace(operator, method="hutchinson", probes=6, seed=5)
    mean = sum(forms) / 6
    assert float(found.value) == pytest.approx(mean, rel=1e-12)
    error = math.sqrt(sum((form - mean) ** 2 for form in forms) / 5 / 6)
    assert float(found.standard_error) == pytest.approx(error, rel=1e-12)


def test_hutchinson_leaves_nothing_to_chance_for_a_diagonal_matrix():
    found = hessian_trace(Dense(torch.tensor([1.0, -2.0, 5.0]).double().diag()), method="hutchinson", probes=2)
    assert float(found.value) == 4.0 and float(found.standard_error) == 0.0


def test_hutchpp_is_exact_for_a_low_rank():
    found = hessian_trace(symmetric([7.0, -3.0, 0.5, 1.5] + [0.0] * 40), probes=12)
    assert float(found.value) == pytest.approx(6.0, rel=1e-11)
    assert float(found.standard_error) < 1e-12
    assert float(hessian_trace(symmetric([1.0, 2.0, 4.0]), probes=30).value) == pytest.approx(7.0, rel=1e-12)


def test_hutchpp_needs_fewer_products_where_few_eigenvalues_are_large():
    operator = symmetric(SPECTRUM)
    pp, plain = (hessian_trace(operator, method=method, probes=30).standard_error for method in METHODS)
    assert pp < 0.1 * plain


@pytest.mark.parametrize(("method", "probes"), [("hutchinson", 7), ("hutch++", 4), ("hutch++", 32)])
def test_the_probes_are_the_products(method, probes):
    operator = symmetric(SPECTRUM)
    hessian_trace(operator, method=method, probes=probes)
    assert operator.products == probes


@pytest.mark.parametrize("method", METHODS)
def test_seeds_reproduce_to_the_bit(method):
    hessian = LossHessian(classifier(), sequences())
    first, again, other = (hessian_trace(hessian, method=method, probes=6, seed=seed).value for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_wrong_arguments_are_refused():
    operator = symmetric([1.0, 2.0])
    with pytest.raises(ValueError, match=r"^method must"):
        hessian_trace(operator, method="hutchison")
    with pytest.raises(ValueError, match=r"^probes must"):
        hessian_trace(operator, probes=3)
    with pytest.raises(ValueError, match=r"^probes must"):
        hessian_trace(operator, method="hutchinson", probes=1)
