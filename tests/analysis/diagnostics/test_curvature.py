"""Curvature and landscapes of a subject, against the Hessian written out."""

import math

import pytest
import torch
from tests.analysis.diagnostics.context_cases import TimeIsUpError, quantity, stopping_after, subject_of, value
from tests.analysis.loss.curvature_cases import dense_hessian, flat_weights, loss_at

from noisyrnn.analysis.diagnostics.curvature import curvature, landscape
from noisyrnn.analysis.loss.hessian import LossHessian
from noisyrnn.analysis.loss.landscape import filter_normalized_directions
from noisyrnn.analysis.loss.spectrum import hessian_eigenvalues, spectral_density
from noisyrnn.analysis.loss.trace import hessian_trace


def test_the_spectrum_is_that_of_the_training_loss() -> None:
    subject = subject_of()
    found = curvature(subject)
    H = dense_hessian(subject.model, subject.train)
    eigenvalues = torch.linalg.eigvalsh(H)
    assert value(found, "hessian_largest") == pytest.approx(float(eigenvalues[-1]), rel=1e-4)
    assert value(found, "hessian_smallest") == pytest.approx(float(eigenvalues[0]), rel=1e-4)
    assert value(found, "condition_number") == pytest.approx(float((eigenvalues[-1] / eigenvalues[0]).abs()), rel=1e-3)
    trace = quantity(found, "hessian_trace").measurement
    hessian = LossHessian(subject.model, subject.train)
    again = hessian_trace(hessian, probes=8, seed=3)
    assert float(trace.value) == float(again.value) and float(trace.standard_error) == float(again.standard_error) > 0
    assert abs(float(trace.value) - float(H.trace())) < 4 * float(trace.standard_error)
    curve, density = found.curves["spectral_density"], spectral_density(hessian, probes=3, seed=3)
    reach = 4.302653 * density.density.standard_error  # Student's t of three probes
    assert (
        torch.equal(curve.x, density.grid) and torch.equal(curve.y, density.density.value) and curve.kind == "estimate"
    )
    assert torch.allclose(curve.high - curve.y, reach) and torch.allclose(curve.y - curve.low, reach)
    assert found.data == "6 training sequences drawn with seed 3"


def test_the_kinds_and_better_directions() -> None:
    found = curvature(subject_of())
    better = {one.name: one.better for one in found.quantities}
    assert better == {
        "hessian_largest": "lower",
        "hessian_smallest": None,
        "condition_number": "lower",
        "hessian_trace": "lower",
    }


def test_the_eigen_landscape_is_the_training_loss_along_the_eigenvectors() -> None:
    subject = subject_of()
    plane = curvature(subject).landscapes["eigen"]
    assert plane["note"] == "unit eigenvectors; 6 training sequences drawn with seed 3"
    pairs = hessian_eigenvalues(LossHessian(subject.model, subject.train), leading=2, trailing=2, seed=3)
    first, second = pairs.vectors[:, -1], pairs.vectors[:, -2]
    _assert_is_loss_along(subject, plane, first, second)


def test_the_filter_landscape_is_the_training_loss_along_its_directions() -> None:
    subject = subject_of()
    found = landscape(subject)
    plane = found.landscapes["filter"]
    assert plane["note"] == "filter-normalised directions, seed 3; 6 training sequences drawn with seed 3"
    assert found.data == "6 training sequences drawn with seed 3" and found.quantities == ()
    directions = filter_normalized_directions(subject.model, seed=3)
    _assert_is_loss_along(subject, plane, directions.first, directions.second)


def _assert_is_loss_along(subject, plane, first, second) -> None:
    weights = flat_weights(subject.model)
    grid = (-0.2, 0.0, 0.2)
    for row, a in zip(plane["loss"], grid, strict=True):
        for entry, b in zip(row, grid, strict=True):
            expected = loss_at(subject.model, subject.train, weights + a * first + b * second)
            assert entry == pytest.approx(float(expected.detach()), rel=1e-9)
    assert not math.isclose(plane["loss"][0][0], plane["loss"][2][2])


def test_the_clock_is_looked_at_before_every_product() -> None:
    looks = []
    curvature(subject_of(check_time=lambda: looks.append(0)))
    pairs = hessian_eigenvalues(LossHessian(subject_of().model, subject_of().train), leading=2, trailing=2, seed=3)
    assert len(looks) > pairs.products + 8
    with pytest.raises(TimeIsUpError):
        curvature(subject_of(check_time=stopping_after(pairs.products // 2)))
