import numpy as np
import pytest

pytest.importorskip("aeon")

from aeon.testing.estimator_checking import check_estimator

from noisyrnn.estimators import NoisyRNNClassifier
from noisyrnn.estimators.aeon import AeonNoisyRNNClassifier, AeonNoisyRNNRegressor


@pytest.mark.parametrize("estimator", [AeonNoisyRNNClassifier, AeonNoisyRNNRegressor])
def test_every_check_passes(estimator):
    results = check_estimator(estimator)
    assert {name: result for name, result in results.items() if result != "PASSED"} == {}


def test_it_is_the_estimator(waves):
    X, y = waves
    plain = NoisyRNNClassifier(hidden_size=4, epochs=2)
    adapted = AeonNoisyRNNClassifier(plain, random_state=3).fit(X, y)
    assert np.array_equal(adapted.predict_proba(X), plain.set_params(random_state=3).fit(X, y).predict_proba(X))
    assert adapted.estimator_ is not plain
