"""Jacobians, regulariser and exponents of a subject, against the library's functions with everything written out."""

import math

import numpy as np
import pytest
import torch
from tests.analysis.diagnostics.context_cases import finite_mean, quantity, subject_of, value

from noisyrnn.analysis.diagnostics.dynamics import LEVELS, _over_time, jacobians, regularizer, stability
from noisyrnn.analysis.dynamics.jacobian import gradient_norms, gradient_rate, input_jacobian, jacobian_norms
from noisyrnn.analysis.dynamics.lyapunov import largest_exponent
from noisyrnn.analysis.dynamics.stability import discrete_exponent_bounds, verdict
from noisyrnn.analysis.regularizer import antithetic_regularizer, explicit_regularizer, tangent_regularizer
from noisyrnn.noise.hidden_noise import HiddenNoise

NOISE = HiddenNoise(additive=0.2, multiplicative=0.1)


def test_a_curve_over_time_counts_from_each_end() -> None:
    """Three rows of 2, 3 and 4 entries, what is behind them and what is not finite left out."""
    rows = [[1.0, 2.0], [4.0, math.inf, 6.0], [7.0, 8.0, math.nan, 10.0]]
    logs = torch.tensor([row + [99.0] * (4 - len(row)) for row in rows]).double()
    curve = _over_time(logs, torch.tensor([2, 3, 4]), "label")
    assert curve.x.tolist() == [0, 1, 2, 3] and curve.ylabel == "label" and curve.kind == "exact"
    columns = [[2.0, 6.0, 10.0], [1.0], [4.0, 8.0], [7.0]]
    for ends, q in ((curve.low, 0.1), (curve.y, 0.5), (curve.high, 0.9)):
        expected = [np.quantile(column, q) / math.log(10) for column in columns]
        assert ends.tolist() == pytest.approx(expected)


def test_jacobians_and_gradients_are_those_of_the_valid_steps() -> None:
    subject = subject_of()
    model, test, found = subject.model, subject.test, jacobians(subject)
    whole, spectral, frobenius, rates, norms, gradients = [], [], [], [], [], []
    for k in range(27):
        end = int(test.lengths[k])
        cut = test.inputs[k : k + 1, :end]
        if k < 25:
            norms.append(jacobian_norms(model, cut).value[0] / math.log(10))
            whole.append(float(norms[-1][0]))
        logs = gradient_norms(model, cut, test.labels[k : k + 1])
        gradients.append(logs.value[0] / math.log(10))
        rates.append(float(gradient_rate(logs).value))
        jacobian = input_jacobian(model, cut).value[0].flatten(1)
        spectral.append(float(torch.linalg.matrix_norm(jacobian, ord=2)))
        frobenius.append(float(jacobian.norm()))
    assert value(found, "jacobian_norm") == pytest.approx(np.mean(whole))
    assert value(found, "input_jacobian_norm") == pytest.approx(np.mean(spectral))
    assert value(found, "input_jacobian_frobenius") == pytest.approx(np.mean(frobenius))
    assert value(found, "gradient_rate") == pytest.approx(np.mean(rates))
    assert {one.measurement.kind for one in found.quantities} == {"exact"}
    assert [one.better for one in found.quantities] == ["lower", "lower", "lower", None]
    assert "25 of 27 test sequences" in quantity(found, "jacobian_norm").note
    for name, logs in (("jacobian_norms", norms), ("gradient_norms", gradients)):
        curve = found.curves[name]
        for back in range(len(curve.x)):
            column = [float(row[-1 - back]) for row in logs if len(row) > back]
            assert float(curve.y[back]) == pytest.approx(np.median(column), nan_ok=True), (name, back)
            assert float(curve.low[back]) == pytest.approx(np.quantile(column, 0.1), nan_ok=True), (name, back)
            assert float(curve.high[back]) == pytest.approx(np.quantile(column, 0.9), nan_ok=True), (name, back)


@pytest.mark.parametrize("name", ["noisy", "gru"])
def test_the_regulariser_is_that_of_the_reference_noise(name: str) -> None:
    subject = subject_of(name)
    model, test, found = subject.model.double(), subject.test, regularizer(subject)
    parts: dict[str, list[torch.Tensor]] = {
        "regularizer": [],
        "regularizer_P": [],
        "regularizer_Q": [],
        "noise_effect": [],
    }
    for rows in (slice(0, 25), slice(25, 27)):
        given, lengths = (model, test.inputs[rows], test.labels[rows]), test.lengths[rows]
        if name == "noisy":
            with torch.no_grad():
                one = explicit_regularizer(*given, noise=NOISE, lengths=lengths)
        else:
            one = tangent_regularizer(*given, noise=NOISE, lengths=lengths, draws=64, seed=3)
        parts["regularizer"].append((one.measurement("P").value + one.measurement("Q").value) / 2)
        parts["regularizer_P"].append(one.measurement("P").value)
        parts["regularizer_Q"].append(one.measurement("Q").value)
        simulated = antithetic_regularizer(*given, noise=NOISE, lengths=lengths, pairs=256, seed=3)
        parts["noise_effect"].append(simulated.value)
    kind = "exact" if name == "noisy" else "estimate"
    for key, values in parts.items():
        assert value(found, key) == pytest.approx(finite_mean(torch.cat(values)), rel=1e-9), key
        assert quantity(found, key).measurement.kind == ("estimate" if key == "noise_effect" else kind)
        assert quantity(found, key).better == (None if key == "regularizer_P" else "lower")
        assert "noise additive 0.2, multiplicative 0.1; 27 test sequences" in quantity(found, key).note


def test_the_model_keeps_its_precision() -> None:
    subject = subject_of()
    subject.model.float()
    test = subject.test
    single = type(test)(inputs=test.inputs.float(), labels=test.labels, lengths=test.lengths, classes=3)
    found = regularizer(type(subject)(**{**vars(subject), "test": single}))
    assert next(subject.model.parameters()).dtype == torch.float32
    assert value(found, "regularizer") == pytest.approx(value(regularizer(subject_of()), "regularizer"), rel=1e-4)


def test_exponents_leave_out_a_quarter_of_the_shortest_and_take_the_reference_noise() -> None:
    subject = subject_of()
    model, test, found = subject.model, subject.test, stability(subject)
    quiet = largest_exponent(model, test.inputs, burn_in=2, seed=3, lengths=test.lengths)
    exponent = quantity(found, "lyapunov_exponent")
    assert float(exponent.measurement.value) == pytest.approx(float(quiet.value), rel=1e-9)
    assert float(exponent.measurement.standard_error) == pytest.approx(float(quiet.standard_error), rel=1e-9)
    assert exponent.note.startswith("without noise; burn-in 2 steps; 27 test sequences")
    low, high = discrete_exponent_bounds(model)
    assert value(found, "lyapunov_lower_bound") == float(low.value) < float(high.value)
    assert value(found, "lyapunov_upper_bound") == float(high.value)
    assert quantity(found, "lyapunov_upper_bound").measurement.kind == "certificate"
    assert found.verdict == verdict(quiet)
    curve = found.curves["stabilization"]
    assert curve.x.tolist() == list(LEVELS)
    for k, level in enumerate(LEVELS):
        one = largest_exponent(
            model,
            test.inputs[:25],
            noise=HiddenNoise(additive=level * 0.2, multiplicative=level * 0.1),
            paths=4,
            burn_in=2,
            seed=3,
            lengths=test.lengths[:25],
        )
        assert float(curve.y[k]) == pytest.approx(float(one.value), rel=1e-9), level
        reach = 2.063899 * float(one.standard_error)  # Student's t of 25 sequences
        assert float(curve.high[k] - curve.y[k]) == pytest.approx(reach, rel=1e-6)
        assert float(curve.y[k] - curve.low[k]) == pytest.approx(reach, rel=1e-6)


def test_exponents_without_bounds() -> None:
    names = [one.name for one in stability(subject_of("lstm")).quantities]
    assert names == ["lyapunov_exponent"]
