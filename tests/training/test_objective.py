import math
from dataclasses import replace

import pytest
import torch

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.models import GRU, SequenceClassifier, SequenceRegressor
from noisyrnn.noise import BrownianPath
from noisyrnn.training import TrainConfig, fit, fit_seeds
from noisyrnn.training.batches import TrainingBatch, TrainingPass
from noisyrnn.training.validation import validate


def _model(head=SequenceClassifier):
    torch.manual_seed(0)
    return head(GRU(1, 4), 2).double().eval()


def test_weights_weigh_losses_and_answers():
    inputs, labels = torch.randn(5, 6, 1, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0]).double()  # not of mean 1
    model = _model()
    losses, right = model.losses(model(inputs), labels), model.correct(model(inputs), labels)
    sums = TrainingPass(model)(TrainingBatch(inputs, labels, None, weights, BrownianPath(seed=0)))
    loss, correct = sums.loss, sums.correct
    assert float(loss) == pytest.approx(float((losses * weights).sum()))
    assert float(correct) == float(weights[right].sum())
    split = Split(inputs=inputs, labels=labels, weights=weights, classes=2)
    found = validate(model, split)
    assert found[0] == pytest.approx(float((losses * weights).sum()) / 6.5, rel=1e-5)
    assert found[1] == pytest.approx(float(weights[right].sum()) / 6.5)
    plain = validate(model, Split(inputs=inputs, labels=labels, classes=2))
    assert plain[0] == pytest.approx(float(losses.mean()), rel=1e-5) and plain[1] == float(right.double().mean())


@pytest.mark.parametrize("together", [False, True])
def test_metrics_of_training_are_means_over_weights_of_any_size(together, dataset, build):
    config = TrainConfig(model="gru", hidden_size=6, epochs=1, batch_size=16, learning_rate=1e-9)
    weights = torch.linspace(0.0, 6.0, len(dataset.train))  # of mean 3
    dataset = replace(dataset, train=replace(dataset.train, weights=weights))
    model = build(config)
    result = fit_seeds([model], dataset, [config])[0] if together else fit(model, dataset, config)
    row = result.history[-1]
    assert (row["train_loss"], row["train_accuracy"]) == pytest.approx(validate(model, dataset.train), rel=1e-5)
    assert 0 < row["train_accuracy"] <= 1


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
    paths = [BrownianPath(seed=seed) for seed in (1, 1, 2)]
    losses = [TrainingPass(model)(TrainingBatch(inputs, labels, None, None, path)).loss for path in paths]
    assert losses[0] == losses[1] != losses[2]


def _loss(model, inputs, labels, lengths, path):
    outputs = model(inputs, lengths=lengths, path=path)
    return model.losses(outputs, labels), outputs


@pytest.mark.parametrize(
    "returned",
    [
        lambda losses, outputs: (losses.mean(), outputs),  # its gradient would be that of the mean, over the batch
        lambda losses, outputs: (losses[:, None].expand(-1, 6), outputs),
        lambda losses, outputs: (losses.detach(), outputs),
        lambda losses, outputs: (outputs, losses),
        lambda losses, outputs: (losses, outputs[:, 0]),
        lambda losses, outputs: (losses, None),
        lambda losses, outputs: (losses, outputs, None),
        lambda losses, outputs: losses,
        lambda losses, outputs: None,
    ],
)
def test_what_an_objective_returns_is_checked(returned, dataset, config, build):
    model = build(config)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises((TypeError, ValueError), match=r"^objective must return "):
        fit(model, dataset, config, objective=lambda *arguments: returned(*_loss(*arguments)))
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_the_outputs_of_an_objective_have_the_shape_of_the_values():
    inputs, labels = torch.randn(5, 6, 1, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)

    def objective(model, inputs, labels, lengths, path):
        losses, outputs = _loss(model, inputs, labels, lengths, path)
        return losses, outputs[:, :1]

    batch = TrainingBatch(inputs, labels, None, None, BrownianPath(seed=0))
    with pytest.raises(ValueError, match=r"^objective must return outputs of shape \(5, 2\), got \(5, 1\)\."):
        TrainingPass(_model(SequenceRegressor), objective)(batch)


@pytest.mark.parametrize("objective", [0.1, "mse", torch.nn.MSELoss(), lambda outputs, targets: outputs - targets])
def test_an_objective_that_cannot_be_called_is_refused_before_training(objective, dataset, config, build, folder):
    with pytest.raises(TypeError, match=r"^objective must be a function of \(model, inputs, labels, lengths, path\), "):
        fit(build(config), dataset, config, objective=objective, folder=folder)
    assert not list(folder.path.iterdir())


def test_the_epoch_is_chosen_by_the_models_own_loss(dataset, config, build):
    def distracted(*arguments):
        losses, outputs = _loss(*arguments)
        return losses + 100, outputs

    result = fit(build(config), dataset, config, objective=distracted)
    assert all(row["train_loss"] > 100 > 10 > row["validation_loss"] for row in result.history)


def test_hooks_and_engines_of_a_wrong_type_are_refused_before_training(dataset, config, build):
    with pytest.raises(TypeError, match=r"^on_epoch must be a function of the metrics of an epoch, got 'print'\."):
        fit(build(config), dataset, config, on_epoch="print")
    with pytest.raises(TypeError, match=r"^fabric must be a Fabric of lightning_fabric, got 'cpu'\. Build one: Fabric"):
        fit(build(config), dataset, config, fabric="cpu")
