"""Training with the noise's regulariser in place of the noise: what the objective is, in value and gradient."""

import pytest
import torch

from noisyrnn.analysis import penalty
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.models import SequenceClassifier, build_layer
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.pipeline.train import objective_of
from noisyrnn.training import TrainConfig, fit
from noisyrnn.training.batches import TrainingBatch, TrainingPass
from noisyrnn.training.fit_seeds import fit_seeds

KINDS = [("noisy", "explicit"), ("rnn", "explicit"), ("noisy", "hutchinson"), ("gru", "hutchinson")]
LENGTHS = torch.tensor([6, 3, 5, 2])


@pytest.fixture
def batch():
    """Four sequences of 2 to 6 steps with ones behind their ends, their labels and a path."""
    inputs = torch.randn(4, 6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs[torch.arange(6) >= LENGTHS[:, None]] = 1.0
    return inputs, torch.tensor([0, 1, 1, 0]), LENGTHS, BrownianPath(seed=5)


def dataset():
    """A data set of two classes: the objective depends on its task only."""
    split = Split(inputs=torch.zeros(2, 3, 1), labels=torch.tensor([0, 1]), classes=2)
    return Dataset(
        name="own",
        train=split,
        validation=split,
        read_test=lambda: split,
        class_names=("no", "yes"),
        value_range=None,
        standardize=False,
    )


def setting(name, kind):
    """A model of strong noise in training mode, and what its training makes small."""
    config = TrainConfig(model=name, hidden_size=4, penalty=kind, options={"additive": 0.3, "multiplicative": 0.2})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = SequenceClassifier(build_layer(name, 1, 4, config.options), 2).double().train()
        torch.nn.init.normal_(model.readout.weight)
    model.layer.kernel = "reference"
    return model, objective_of(config, dataset())


def quiet(model, inputs, labels, lengths):
    """Noise-free losses and logits, each sequence cut at its end."""
    model.eval()
    logits = torch.cat([model(x[None, : int(n)]) for x, n in zip(inputs, lengths, strict=True)])
    model.train()
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none"), logits


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_objective_is_the_quiet_loss_and_the_penalty(name, kind, batch):
    inputs, labels, lengths, path = batch
    model, objective = setting(name, kind)
    losses, logits = objective(model, *batch)
    expected, answers = quiet(model, inputs, labels, lengths)
    added = penalty(model, inputs, labels, kind=kind, path=path, lengths=lengths)
    assert torch.allclose(logits, answers, rtol=1e-10)
    assert torch.allclose(losses, expected + added, rtol=1e-10) and float(added.detach().abs().min()) > 1e-6
    if kind == "explicit":
        alone = [penalty(model, x[None, : int(n)], y[None]) for x, y, n in zip(inputs, labels, lengths, strict=True)]
        assert torch.allclose(added, torch.cat(alone), rtol=1e-10)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_its_gradient_is_that_of_both(name, kind, batch):
    inputs, labels, lengths, path = batch
    model, objective = setting(name, kind)
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def gradient(losses):
        return torch.cat([part.flatten() for part in torch.autograd.grad(losses.mean(), weights)])

    whole = gradient(objective(model, *batch)[0])
    loss = gradient(quiet(model, inputs, labels, lengths)[0])
    h = 1e-5
    direction = torch.randn(len(whole), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for weight, part in zip(weights, direction.split([w.numel() for w in weights]), strict=True):
                weight.add_(sign * h * part.view_as(weight))
            values.append(float(penalty(model, inputs, labels, kind=kind, path=path, lengths=lengths).mean()))
            for weight, part in zip(weights, direction.split([w.numel() for w in weights]), strict=True):
                weight.sub_(sign * h * part.view_as(weight))
    slope = (values[0] - values[1]) / (2 * h)
    assert float((whole - loss) @ direction) == pytest.approx(slope, rel=1e-5) and abs(slope) > 1e-4


def test_only_random_tangents_depend_on_the_path(batch):
    inputs, labels, lengths, path = batch
    for name, kind in KINDS:
        model, objective = setting(name, kind)
        first, again, other = (
            objective(model, inputs, labels, lengths, p)[0] for p in (path, path, BrownianPath(seed=6))
        )
        assert torch.equal(first, again) and torch.equal(first, other) == (kind == "explicit")


def test_without_a_penalty_it_is_the_loss_with_the_noise_on(batch):
    model, objective = setting("noisy", None)
    assert objective is None
    inputs, labels, lengths, path = batch
    sums = TrainingPass(model)(TrainingBatch(inputs, labels, lengths, None, path))
    assert not torch.allclose(sums.loss, quiet(model, inputs, labels, lengths)[0].sum())


@pytest.mark.parametrize(("silent", "other"), [("additive", "multiplicative"), ("multiplicative", "additive")])
def test_either_noise_has_a_penalty(silent, other):
    assert TrainConfig(penalty="explicit", options={silent: 0.0, other: 0.1}).penalty == "explicit"


@pytest.mark.parametrize("train", [lambda m, d, c: fit(m, d, c), lambda m, d, c: fit_seeds([m], d, [c])])
def test_a_penalty_without_its_objective_is_refused(train):
    model, _ = setting("noisy", "explicit")
    config = TrainConfig(penalty="explicit", hidden_size=4, epochs=1)
    with pytest.raises(ValueError, match=r"^objective must be given with penalty='explicit', got None\. Pass "):
        train(model, dataset(), config)


def test_fit_makes_the_penalized_loss_small():
    found = []
    for kind in (None, "explicit"):
        model, objective = setting("noisy", kind)
        config = TrainConfig(penalty=kind, hidden_size=4, epochs=1, precision="64-true")
        fit(model, dataset(), config, objective=objective)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.allclose(*found, rtol=1e-6)
