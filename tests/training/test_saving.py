"""One safetensors file for a classifier."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import noisyrnn
from noisyrnn.models import MODELS, RecurrentLayer, SequenceClassifier
from noisyrnn.models.noisy import LipschitzCell


def classifier(model: str = "noisy") -> SequenceClassifier:
    torch.manual_seed(0)
    mean, std = torch.tensor([0.1, 0.2]), torch.tensor([2.0, 3.0])
    return SequenceClassifier(MODELS[model].build(2, 5, {"additive": 0.3}), 4, mean=mean, std=std)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_round_trip_is_exact(model: str, tmp_path: Path) -> None:
    before = classifier(model).eval()
    noisyrnn.save(before, tmp_path / "m.safetensors")
    after = noisyrnn.load(tmp_path / "m.safetensors")
    inputs = torch.randn(3, 6, 2)
    assert torch.equal(before(inputs), after(inputs))
    assert after.layer.options() == before.layer.options()
    assert not after.training


def test_double_precision_survives(tmp_path: Path) -> None:
    noisyrnn.save(classifier().double(), tmp_path / "m.safetensors")
    assert noisyrnn.load(tmp_path / "m.safetensors").readout.weight.dtype == torch.float64


def test_class_names_are_in_the_header(tmp_path: Path) -> None:
    noisyrnn.save(classifier(), tmp_path / "m.safetensors", class_names=["a", "b", "c", "d"])
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["noisyrnn"])["class_names"] == ["a", "b", "c", "d"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"path must be a model file, got .*none\.safetensors, which does not exist"
    ):
        noisyrnn.load(tmp_path / "none.safetensors")


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(classifier(), path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(
        ValueError, match=r"path must be a whole safetensors file, got .*m\.safetensors, which is damaged"
    ):
        noisyrnn.load(path)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="path must be a whole safetensors file"):
        noisyrnn.load(path)


def test_a_file_of_someone_else(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"path must be a file written by noisyrnn\.save, got "):
        noisyrnn.load(tmp_path / "m.safetensors")


def rewrite(path: Path, **changes: object) -> None:
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["noisyrnn"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"noisyrnn": json.dumps({**header, **changes})})


def test_a_newer_format(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(classifier(), path)
    rewrite(path, format=2)
    with pytest.raises(ValueError, match=r"path must be of format 1, got 2 in .*Update noisyrnn"):
        noisyrnn.load(path)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(classifier(), path)
    rewrite(path, classes=7)
    with pytest.raises(ValueError, match="path must hold the weights of its header's model"):
        noisyrnn.load(path)


def test_a_layer_that_is_not_the_librarys(tmp_path: Path) -> None:
    cell = LipschitzCell(1, 2, step_size=0.1, learn_step=False, skewness=0.75, damping=0.0, init_std=0.1)
    layer = RecurrentLayer(
        cell, additive=0.0, multiplicative=0.0, noise_form="shared", noise_law="gaussian", noise_seed=None
    )
    with pytest.raises(TypeError, match="layer must be one of the library's, got RecurrentLayer"):
        noisyrnn.save(SequenceClassifier(layer, 2), tmp_path / "m.safetensors")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    noisyrnn.save(classifier(), path)
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        noisyrnn.save(classifier("gru"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
