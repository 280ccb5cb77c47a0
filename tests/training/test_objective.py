import math

import pytest
import torch

from noisyrnn.data.base import Dataset, Split
from noisyrnn.models import GRU, SequenceClassifier, SequenceRegressor
from noisyrnn.training import TrainConfig, fit
from noisyrnn.training.fit import validate
from noisyrnn.training.objective import answered, loss_of
from noisyrnn.training.run import NoisyPass


def test_losses_are_written_out():
    logits, classes = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]).double(), torch.tensor([1, 0])
    expected = [
        -float(row[c]) + math.log(sum(math.exp(v) for v in row)) for row, c in zip(logits, classes, strict=True)
    ]
    assert loss_of(logits, classes).tolist() == pytest.approx(expected)
    assert answered(logits, classes).tolist() == [True, False]
    numbers, targets = torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert loss_of(numbers, targets).tolist() == [2.0, 4.5]
    assert answered(numbers, targets).tolist() == [False, False]


def _model(head=SequenceClassifier):
    torch.manual_seed(0)
    return head(GRU(1, 4), 2).double().eval()


def test_weights_weigh_losses_and_answers():
    inputs, labels = torch.randn(5, 6, 1, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0]).double()  # not of mean 1
    model = _model()
    losses, right = loss_of(model(inputs), labels), answered(model(inputs), labels)
    loss, correct = NoisyPass(model)(inputs, labels, None, 0, 0, weights)
    assert float(loss) == pytest.approx(float((losses * weights).sum()))
    assert float(correct) == float(weights[right].sum())
    split = Split(inputs=inputs, labels=labels, weights=weights, classes=2)
    found = validate(model, split)
    assert found[0] == pytest.approx(float((losses * weights).sum()) / 6.5, rel=1e-5)
    assert found[1] == pytest.approx(float(weights[right].sum()) / 6.5)
    plain = validate(model, Split(inputs=inputs, labels=labels, classes=2))
    assert plain[0] == pytest.approx(float(losses.mean()), rel=1e-5) and plain[1] == float(right.double().mean())


def test_a_regression_goes_by_its_loss():
    inputs = torch.randn(30, 6, 1)
    split = Split(inputs=inputs, labels=torch.cat([inputs.mean(1), inputs.amax(1)], dim=1), classes=0)
    data = Dataset(
        name="means",
        train=split,
        validation=split,
        read_test=lambda: split,
        class_names=(),
        value_range=(-3.0, 3.0),
        standardize=False,
    )
    assert data.outputs == 2
    model = _model(SequenceRegressor).float()
    result = fit(model, data, TrainConfig(model="gru", hidden_size=4, epochs=8, learning_rate=0.3, batch_size=10))
    losses = [row["validation_loss"] for row in result.history]
    assert result.best_epoch == 1 + losses.index(min(losses)) and math.isnan(result.best_validation_accuracy)
    assert validate(model, split)[0] == pytest.approx(min(losses)) and "train_accuracy" not in result.history[0]
    with pytest.raises(ValueError, match=r"model must have targets 2, that of the data set, got 1\."):
        fit(SequenceRegressor(GRU(1, 4), 1), data, TrainConfig(model="gru", hidden_size=4))


def test_the_path_is_the_only_noise():
    inputs, labels = torch.randn(3, 4, 1, dtype=torch.float64), torch.tensor([0, 1, 1])
    torch.manual_seed(0)
    model = SequenceClassifier(GRU(1, 4, additive=0.5), 2).double().train()
    losses = [NoisyPass(model)(inputs, labels, None, seed, 0)[0] for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
