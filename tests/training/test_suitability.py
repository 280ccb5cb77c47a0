"""A model that does not go with a data set is refused."""

import pytest

from noisyrnn.data.dataset import Dataset
from noisyrnn.models import SequenceClassifier, build_layer
from noisyrnn.training import TrainConfig, fit


def test_a_model_that_does_not_fit_the_data(dataset: Dataset, config: TrainConfig) -> None:
    five = SequenceClassifier(build_layer("gru", 1, 3, {}), 5)
    with pytest.raises(ValueError, match=r"model must have classes 2, that of the data set, got 5\."):
        fit(five, dataset, config)
    wide = SequenceClassifier(build_layer("gru", 4, 3, {}), 2)
    with pytest.raises(ValueError, match=r"model must have input_size 1, that of the data set, got 4\."):
        fit(wide, dataset, config)
