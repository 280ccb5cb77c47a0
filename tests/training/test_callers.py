"""What callers bring to `fit`: other layouts, models and data than it can train."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from noisyrnn.data import Split
from noisyrnn.models import NoisyRNN, SequenceClassifier, SequenceRegressor
from noisyrnn.training import TrainConfig, fit


def test_a_model_with_steps_first_trains_to_the_same_weights(dataset, config: TrainConfig, folder) -> None:
    models = []
    for batch_first in (True, False):
        torch.manual_seed(0)
        models.append(SequenceClassifier(NoisyRNN(1, 6, step_size=0.2, batch_first=batch_first), 2))
        fit(models[-1], dataset, config, folder=folder)
    one, other = models
    assert not other.training and not other.layer.batch_first
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    from noisyrnn import load

    assert load(folder.model).layer.batch_first is False


def test_a_validation_loss_that_is_not_finite_ends_the_first_epoch(dataset) -> None:
    X = dataset.train.inputs
    far = Split(inputs=X, labels=1e25 * X.amax(1), classes=0)
    data = replace(dataset, train=Split(inputs=X, labels=X.mean(1), classes=0), validation=far, class_names=())
    message = r"^validation loss is not finite after epoch 1, got inf; the validation targets reach about 1e25\."
    with pytest.raises(RuntimeError, match=message):
        fit(SequenceRegressor(NoisyRNN(1, 4)), data, TrainConfig(hidden_size=4, epochs=3, batch_size=20))


@pytest.mark.parametrize("model", [nn.Linear(1, 2), NoisyRNN(1, 4)])
def test_another_module_is_refused_before_any_work(dataset, config: TrainConfig, model: nn.Module) -> None:
    message = (
        rf"^model must be a SequenceClassifier, .* or a SequenceToSequence, got {type(model).__name__}\. Wrap it\."
    )
    with pytest.raises(TypeError, match=message):
        fit(model, dataset, config)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^dataset must be a Dataset, got Split\. Build one: .*dataset_from_splits\("):
        fit(SequenceClassifier(NoisyRNN(1, 4), 2), dataset.train, config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"config": {"epochs": 1}}, "config must be a TrainConfig, got dict. Build one"),
        ({"folder": "runs/one"}, "folder must be a RunFolder, got 'runs/one'. Build one: RunFolder(Path('runs/one'))."),
        ({"resume": "False"}, "resume must be True or False, got 'False'."),
    ],
)
def test_arguments_of_another_type_are_one_message(words: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        fit(**{"model": None, "dataset": None, "config": TrainConfig(), **words})


@pytest.mark.parametrize("epochs", [3, "30", 1.5, None])
def test_decay_epochs_are_a_list(epochs: object) -> None:
    with pytest.raises(TypeError, match=r"^decay_epochs must be a list of integers, got .* Write \(30, 60\)\.$"):
        TrainConfig(decay_epochs=epochs)  # type: ignore[arg-type]
