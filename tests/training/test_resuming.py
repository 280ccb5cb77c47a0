"""A checkpoint is continued only with the data, the model, the objective and the settings that it belongs to."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noisyrnn.data import Dataset, Split
from noisyrnn.locks import InUseError, locked
from noisyrnn.models import SequenceClassifier, build_layer
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import TrainConfig, fit, fit_seeds
from noisyrnn.training.checkpoint import Checkpoint
from noisyrnn.training.objective import objective_digest

CONFIG = TrainConfig(model="gru", hidden_size=3, epochs=2, batch_size=8)


def part(seed: int, **changes: Any) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(16, 5, 1, generator=generator)
    fields: dict[str, Any] = {"inputs": inputs, "labels": torch.arange(16) % 2, "classes": 2}
    return Split(**{**fields, **changes})


def dataset(**changes: Any) -> Dataset:
    fields: dict[str, Any] = {
        "name": "own",
        "train": part(0),
        "validation": part(1),
        "read_test": lambda: part(2),
        "class_names": ("a", "b"),
        "value_range": (-1.0, 1.0),
        "standardize": False,
    }
    return Dataset(**{**fields, **changes})


def model(layer: str = "gru", **options: Any) -> SequenceClassifier:
    torch.manual_seed(0)
    return SequenceClassifier(build_layer(layer, 1, options.pop("hidden_size", 3), options), 2)


def noisy_loss(model: Any, inputs: Any, labels: Any, lengths: Any, path: Any) -> Any:
    outputs = model(inputs, lengths=lengths, path=path)
    return model.losses(outputs, labels), outputs


def scaled(factor: Any) -> Any:
    def objective(*arguments: Any) -> Any:
        losses, outputs = noisy_loss(*arguments)
        return losses * factor, outputs

    return objective


LENGTHS = torch.tensor([5] * 15 + [4])
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "train": ({"train": part(3)}, "the inputs of the training part"),
    "labels": ({"train": part(0, labels=1 - torch.arange(16) % 2)}, "the labels of the training part"),
    "lengths": ({"train": part(0, lengths=LENGTHS)}, "the lengths of the training part"),
    "weights": ({"train": part(0, weights=torch.ones(16))}, "the weights of the training part"),
    "order": ({"train": part(0).subset(torch.arange(16).flip(0))}, "the inputs and labels of the training part"),
    "validation": ({"validation": part(4)}, "the inputs of the validation part"),
    "names": ({"class_names": ("a", "c")}, "the class names"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_data_are_refused(tmp_path: Path, other: str) -> None:
    folder, (changes, words) = RunFolder(tmp_path), OTHERS[other]
    fit(model(), dataset(), CONFIG, folder=folder)
    before = folder.checkpoint.read_bytes()
    with pytest.raises(ValueError, match=rf"^resume must continue with .*checkpoint\.pt, got others: {words} changed"):
        fit(model(), dataset(**changes), CONFIG, folder=folder, resume=True)
    with pytest.raises(ValueError, match=words):
        fit_seeds([model()], dataset(**changes), [CONFIG], folders=[folder], resume=True)
    assert folder.checkpoint.read_bytes() == before
    fit(model(), dataset(read_test=lambda: part(5)), CONFIG, folder=folder, resume=True)  # fit does not read it


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            lambda: {"model": model(hidden_size=4)},
            r"^model must have hidden_size 3, num_layers 1 and bidirectional False to resume .*, got hidden_size 4, ",
        ),
        (
            lambda: {"model": model(num_layers=2)},
            r"^model must have .* num_layers 1 .*, got hidden_size 3, num_layers 2 and bidirectional False\. Build",
        ),
        (lambda: {"model": model("lstm")}, "the architecture"),
        (lambda: {"model": model(additive=0.5)}, "the architecture"),  # weights of the same shapes
        (lambda: {"model": model().double()}, "the architecture"),
        (lambda: {"objective": scaled(0.5)}, "the objective"),
        (lambda: {"config": dataclasses.replace(CONFIG, learning_rate=0.5)}, "learning_rate must be 0.001 to resume"),
    ],
)
def test_another_model_objective_or_setting_is_refused(
    tmp_path: Path, changed: Callable[[], dict[str, Any]], words: str
) -> None:
    folder = RunFolder(tmp_path)
    arguments: dict[str, Any] = {"model": model(), "config": CONFIG, "objective": scaled(1.0)}
    fit(dataset=dataset(), folder=folder, **arguments)
    with pytest.raises(ValueError, match=words):
        fit(dataset=dataset(), folder=folder, resume=True, **{**arguments, "model": model(), **changed()})
    fit(dataset=dataset(), folder=folder, resume=True, **{**arguments, "model": model(), "objective": scaled(1.0)})


def test_a_checkpoint_without_sizes_is_continued(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    fit(model(), dataset(), CONFIG, folder=folder)
    origin = torch.load(folder.checkpoint, weights_only=True)["origin"]
    older = Checkpoint.read(folder.checkpoint, CONFIG, origin)
    del older.origin["sizes"]
    older.write(folder.checkpoint)
    with pytest.raises(ValueError, match="the architecture changed"):
        fit(model(hidden_size=4), dataset(), CONFIG, folder=folder, resume=True)
    fit(model(), dataset(), CONFIG, folder=folder, resume=True)


def test_a_run_whose_settings_are_numbers_of_numpy_is_continued(tmp_path: Path) -> None:
    """Such as one of `np.geomspace`: the reader of checkpoints takes no types of other packages."""
    folder, rates = RunFolder(tmp_path), np.geomspace(0.001, 0.1, 3)
    config = dataclasses.replace(
        CONFIG, learning_rate=rates[1], clip_norm=rates[2], input_noise=(rates[0], rates[1]), label=np.str_("own")
    )
    assert type(config.learning_rate) is float and type(config.label) is str
    whole = fit(model(), dataset(), config)

    def stop(metrics: Any) -> None:
        raise KeyError(metrics["epoch"])

    with pytest.raises(KeyError):
        fit(model(), dataset(), config, folder=folder, on_epoch=stop, checkpoint_seconds=0)
    found = fit(model(), dataset(), config, folder=folder, resume=True)
    assert [row["train_loss"] for row in found.history] == [row["train_loss"] for row in whole.history]


def test_a_trained_model_may_continue_its_own_run(tmp_path: Path) -> None:
    folder, trained = RunFolder(tmp_path), model("noisy")
    config = dataclasses.replace(CONFIG, model="noisy")
    fit(trained, dataset(), config, folder=folder)
    fit(trained.train(), dataset(), config, folder=folder, resume=True)


def test_objectives_are_told_apart_by_what_they_compute() -> None:
    class Weighted:
        def __init__(self, weight: float) -> None:
            self.weight = weight

        def __call__(self, *arguments: Any) -> Any:
            return noisy_loss(*arguments)

    def plain(*arguments: Any, scale: float = 1.0) -> Any:
        return noisy_loss(*arguments)

    class Doubled(Weighted):
        def __call__(self, *arguments: Any) -> Any:
            losses, outputs = noisy_loss(*arguments)
            return losses * 2, outputs

    class Module(torch.nn.Module):
        def forward(self, *arguments: Any) -> Any:
            return noisy_loss(*arguments)

    class DoubledModule(torch.nn.Module):
        def forward(self, *arguments: Any) -> Any:
            losses, outputs = noisy_loss(*arguments)
            return losses * 2, outputs

    Doubled.__qualname__, DoubledModule.__qualname__ = Weighted.__qualname__, Module.__qualname__
    weights, others = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])
    objectives: list[Callable[[], Any]] = [
        lambda: None,
        lambda: noisy_loss,
        lambda: scaled(1.0),
        lambda: scaled(2.0),
        lambda: Weighted(1.0),
        lambda: Weighted(2.0),
        lambda: Doubled(2.0),
        lambda: Doubled(2.0).__call__,
        lambda: functools.partial(plain, scale=1.0),
        lambda: functools.partial(plain, scale=2.0),
        lambda: lambda *arguments: noisy_loss(*arguments),
        lambda: lambda *arguments: (noisy_loss(*arguments)[0] * 2, arguments[1]),
        lambda: lambda *arguments, held=weights: noisy_loss(*arguments),
        lambda: lambda *arguments, held=others: noisy_loss(*arguments),
        lambda: scaled(np.array([1.0, 2.0])),
        lambda: scaled(np.array([2.0, 1.0])),
        lambda: scaled(np.array([2.0, 1.0], dtype=np.float32)),
        lambda: scaled(np.float32(1.0)),
        lambda: scaled(np.float32(2.0)),
        lambda: scaled(range(2)),
        lambda: scaled(torch.sqrt),
        lambda: scaled(torch.exp),
        lambda: scaled(np.exp),
        lambda: scaled(np),
        lambda: scaled(torch),
        lambda: scaled(float),
        lambda: scaled(object()),
        lambda: Weighted(np.float32(1.0)),
        lambda: Weighted(np.array([1.0, 2.0])),
        lambda: Module(),
        lambda: DoubledModule(),
    ]
    digests = [objective_digest(make()) for make in objectives]
    assert len(set(digests)) == len(digests)
    assert digests == [objective_digest(make()) for make in objectives]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    """`fit` in another thread is as another process: the lock is not its own."""
    errors: list[Exception] = []

    def intrude(_: Any) -> None:
        import threading

        def work() -> None:
            try:
                fit(model(), dataset(), CONFIG, folder=RunFolder(tmp_path), resume=True)
            except InUseError as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    fit(model(), dataset(), CONFIG, folder=RunFolder(tmp_path), on_epoch=intrude)
    assert len(errors) == 2 and "must not be in use, got process" in str(errors[0])
    with locked(tmp_path):  # free again
        pass


@pytest.mark.parametrize("change", [{"noise_scale": 2.0}, {"noise_mode": "on"}])
def test_switches_of_the_noise_are_those_of_the_checkpoint(change: dict[str, Any], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)

    def built(**switches: Any) -> SequenceClassifier:
        torch.manual_seed(0)
        model = SequenceClassifier(build_layer("gru", 1, 3, {"additive": 0.1}), 2)
        for name, value in switches.items():
            setattr(model.layer, name, value)
        return model

    fit(built(**change), dataset(), CONFIG, folder=folder)
    with pytest.raises(ValueError, match=r"^resume must continue with .* the noise switches changed since"):
        fit(built(), dataset(), CONFIG, folder=folder, resume=True)
    fit(built(**change), dataset(), CONFIG, folder=folder, resume=True)
