"""From a trained run to files."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import noisyrnn
from noisyrnn.export import FORMATS, export_model, export_run
from noisyrnn.export.graph import input_dtype
from noisyrnn.models import GRU, NoisyRNN, RecurrentLayer, SequenceClassifier, SequenceRegressor, SequenceToSequence
from noisyrnn.pipeline import RunContext, train_run
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import TrainConfig


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A noisy RNN that tells slow from fast sines, trained with noise."""
    folder = tmp_path_factory.mktemp("trained")
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 2
    X = np.sin((1 + labels[:, None]) * np.linspace(0, 6.28, 10)) + 0.1 * generator.standard_normal((120, 10))
    np.savez(folder / "waves.npz", X=X[..., None], y=np.array(["slow", "fast"])[labels])
    config = TrainConfig(dataset=str(folder / "waves.npz"), hidden_size=16, epochs=6, batch_size=8, learning_rate=0.02)
    return train_run(config, RunContext(output=folder / "runs"))


def test_a_file_states_the_order_of_the_channels(tmp_path: Path) -> None:
    rows = [f"{k},{k % 3}.5,{k % 7},{'ab'[k % 2]}" for k in range(12) for _ in range(2)]
    (tmp_path / "own.csv").write_text("\n".join(["id,v,u,class", *rows]))
    config = TrainConfig(dataset=str(tmp_path / "own.csv"), id="id", hidden_size=2, epochs=1, min_steps=1)
    (path,) = export_run(train_run(config, RunContext(output=tmp_path / "runs")), format="torch")
    extra = {"class_names": "", "channel_names": ""}
    torch.export.load(path, extra_files=extra)
    assert (json.loads(extra["class_names"]), json.loads(extra["channel_names"])) == (["a", "b"], ["v", "u"])


@pytest.mark.parametrize("model", ["noisy", "gru"])
def test_a_run_on_time_stamps_is_exported_with_its_nominal_step(model: str, tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).choice([0.5, 1.0], size=72, p=[0.7, 0.3]))
    rows = [f"{k // 6},{times[k]:g},{k % 5},{'ab'[k // 6 % 2]}" for k in range(72)]
    (tmp_path / "own.csv").write_text("\n".join(["id,t,v,class", *rows]))
    config = TrainConfig(
        model=model, dataset=str(tmp_path / "own.csv"), id="id", time="t", hidden_size=2, epochs=1, min_steps=1
    )
    run = train_run(config, RunContext(output=tmp_path / "runs"))
    extra = {"nominal_step": ""}
    if model == "gru":  # a step of it has no length
        (path,) = export_run(run, format="torch")
        torch.export.load(path, extra_files=extra)
        assert extra["nominal_step"] == ""
        return
    with pytest.warns(UserWarning, match=r"every step of it takes 0\.5 in their unit\. For sequences with other"):
        (path,) = export_run(run, format="torch")
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra["nominal_step"]) == 0.5


def test_an_onnx_file_of_a_trained_run(trained: RunFolder, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs noisyrnn[export]")
    paths = export_run(trained, output=tmp_path / "there", streaming=True)
    assert paths == [tmp_path / "there" / name for name in ("model.onnx", "model-step.onnx")]
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["model-step.onnx", "model.onnx"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session, step = (onnxruntime.InferenceSession(path, options) for path in paths)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["class_names"]) == ["fast", "slow"]
    assert {key: told[key] for key in told if key != "class_names"} == {
        "noisyrnn.format": "1",
        "noisyrnn.version": noisyrnn.__version__,
        "head": "SequenceClassifier",
        "layer": "NoisyRNN",
    }
    model = noisyrnn.load(trained.model)
    generator = torch.Generator().manual_seed(1)
    for batch, steps in [(1, 2), (4, 10), (2, 13)]:
        inputs = torch.randn(batch, steps, 1, generator=generator)
        with torch.no_grad():
            expected = model(inputs).numpy()
        (logits,) = session.run(None, {"inputs": inputs.numpy()})
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
        state = np.zeros((batch, 16), np.float32)
        for value in inputs.unbind(1):
            logits, state = step.run(None, {"inputs": value.numpy(), "state": state})
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [1e-46, 1e-40, 1.0, 1e38])
def test_values_of_any_size_reach_a_file(size: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    mean, std = (torch.tensor([value], dtype=torch.float64) for value in (0.0, size))
    model = noisyrnn.SequenceClassifier(noisyrnn.LSTM(1, 8), classes=3, mean=mean, std=std).eval()
    export_model(model, tmp_path / "model.pt2", format="torch")
    inputs = size * torch.randn(3, 9, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    read = torch.export.load(tmp_path / "model.pt2").module()
    dtype = torch.float32 if 1e-40 < size < 1e36 else torch.float64
    assert input_dtype(model) == dtype
    found = read(inputs.to(dtype), torch.full((3,), 9))
    torch.testing.assert_close(found, model(inputs), rtol=0, atol=1e-5)


def test_an_archive_beside_the_run(trained: RunFolder) -> None:
    (path,) = export_run(trained, format="torch")
    assert path == trained.path / "model.pt2"
    model, inputs = noisyrnn.load(trained.model), torch.randn(2, 7, 1)
    program = torch.export.load(path).module()
    with torch.no_grad():
        torch.testing.assert_close(program(inputs, torch.tensor([7, 3])), model(inputs, lengths=torch.tensor([7, 3])))


def test_a_regressor_with_its_noise_on_and_a_cell_of_ones_own(tmp_path: Path) -> None:
    """The file has no noise; the model keeps its mode, its switch and its gradients."""
    model = SequenceRegressor(RecurrentLayer(torch.nn.GRUCell, 1, 3, additive=0.5), 2)
    model.layer.noise_mode = "on"
    path = export_model(model, tmp_path / "m.pt2", format="torch")
    assert model.training and model.layer.noise_mode == "on" and model.layer.kernel == "auto"
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.layer.noise_mode = "off"
    inputs = torch.randn(2, 7, 1)
    with torch.no_grad():
        found = torch.export.load(path).module()(inputs, torch.tensor([7, 7]))
        torch.testing.assert_close(found, model.eval()(inputs))


def test_what_disagrees_is_not_written(trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = FORMATS["torch"]
    wrong = replace(
        form, build=lambda graph, metadata: b"", read=lambda content: lambda inputs: [torch.full((1, 2), 9.0)]
    )
    monkeypatch.setitem(FORMATS, "torch", wrong)
    with pytest.raises(RuntimeError, match=r"^export must agree with the model to .* Nothing was written\.$"):
        export_run(trained, output=tmp_path, format="torch")
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_refused_before_anything_is_written(trained: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^format must"):
        export_run(trained, output=tmp_path / "a", format="onx")
    with pytest.raises(ValueError, match=r"^class_names must have one name for each of 2 outputs, got 3\.$"):
        export_model(SequenceClassifier(GRU(1, 2), 2), tmp_path / "a", format="torch", class_names=["a", "b", "c"])
    for name, form in (("a.pt2", "onnx"), ("a.onnx", "torch")):
        with pytest.raises(ValueError, match=rf"^format must be .* for a file {name}, got '{form}'\.$"):
            export_model(SequenceClassifier(GRU(1, 2), 2), tmp_path / name, format=form)
    both = SequenceClassifier(GRU(1, 2, bidirectional=True), 2)
    with pytest.raises(ValueError, match=r"^streaming must be False for a bidirectional layer, got True\."):
        export_model(both, tmp_path / "a", format="torch", streaming=True)
    unfinished = RunFolder(tmp_path)
    with pytest.raises(ValueError, match=r"^run must be finished, got .*, which is not\. Resume it: noisyrnn train"):
        export_run(unfinished)
    assert list(tmp_path.iterdir()) == []


def test_models_that_no_file_holds_are_refused(tmp_path: Path) -> None:
    own = SequenceClassifier(GRU(1, 2), 2)
    own.readout = torch.nn.Sequential(torch.nn.Linear(2, 2))  # type: ignore[assignment]
    refused: list[tuple[Any, str]] = [
        (GRU(1, 2), r"^model must be a SequenceClassifier, .* to be exported, got GRU\."),
        (own, r"^model must have a linear readout to be exported, got Sequential\."),
        (
            SequenceClassifier(GRU(1, 2), 2).half(),
            r"^model must be float32 or float64 .*, got torch\.float16\. Convert it",
        ),
        (SequenceClassifier(GRU(1, 2), 2).bfloat16(), r"^model must be float32 or float64 .*, got torch\.bfloat16\."),
    ]
    for model, message in refused:
        with pytest.raises((TypeError, ValueError), match=message):
            export_model(model, tmp_path / "m.pt2", format="torch")
    with pytest.raises(TypeError, match=r"^streaming must be True or False, got 'yes'\."):
        export_model(SequenceClassifier(GRU(1, 2), 2), tmp_path / "m.pt2", format="torch", streaming="yes")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_onnx_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^format must be 'torch' where onnx is not installed, got 'onnx'\. Install n"
    ):
        export_model(SequenceClassifier(GRU(1, 2), 2), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("classes", [None, 3])
def test_answers_at_every_step_in_the_unit_of_the_targets(classes: int | None, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs noisyrnn[export]")
    unit = {"target_mean": torch.tensor([40.0, -3.0]), "target_std": torch.tensor([9.0, 0.1])}
    torch.manual_seed(1)
    model = SequenceToSequence(GRU(1, 4), 2, classes=classes, **({} if classes else unit)).eval()
    paths = (
        export_model(model, tmp_path / "model.onnx", streaming=False),
        export_model(model, tmp_path / "step.onnx", streaming=True),
    )
    inputs = torch.randn(3, 6, 1, generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([6, 2, 4])
    whole, step = (onnxruntime.InferenceSession(tmp_path / name) for name in ("model.onnx", "step.onnx"))
    expected = model(inputs, lengths=lengths).detach()
    (found,) = whole.run(None, {"inputs": inputs.numpy(), "lengths": lengths.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)
    state = np.zeros((3, 4), np.float32)
    for k in range(6):
        answer, state = step.run(None, {"inputs": inputs[:, k].numpy(), "state": state})
        torch.testing.assert_close(torch.from_numpy(answer)[0], expected[0, k], rtol=0, atol=1e-4)
    assert whole.get_outputs()[0].name == ("logits" if classes else "outputs") and len(paths) == 2


@pytest.mark.parametrize("missing", ["hold", "mask"])
@pytest.mark.parametrize("form", ["onnx", "torch"])
@pytest.mark.parametrize("stack", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": False}])
def test_missing_values_are_met_as_by_the_model(missing: str, form: str, stack: dict[str, Any], tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="needs noisyrnn[export]")
    torch.manual_seed(1)
    layer = GRU(3 * (1 + (missing == "mask")), 4, **stack)
    unit = {"mean": torch.tensor([5.0, -1.0, 0.0]), "std": torch.tensor([2.0, 0.1, 1.0])}
    model = SequenceClassifier(layer, 2, missing=missing, **unit).eval()
    inputs = unit["mean"] + unit["std"] * torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(2))
    inputs[torch.rand(inputs.shape, generator=torch.Generator().manual_seed(3)) < 0.4] = torch.nan
    inputs[0, :3] = torch.nan  # the first values of a sequence
    lengths = torch.tensor([7, 2, 4, 6])
    given = inputs if layer.batch_first else inputs.transpose(0, 1).contiguous()
    expected = model(given, lengths=lengths).detach()
    path = export_model(model, tmp_path / "m", format=form)
    run = FORMATS[form].read(path.read_bytes())
    torch.testing.assert_close(run([given, lengths])[0], expected, rtol=0, atol=1e-5)
    if stack:
        return
    run = FORMATS[form].read(export_model(model, tmp_path / "s", format=form, streaming=True).read_bytes())
    states = [torch.zeros(4, 4), torch.zeros(4, 3)]
    whole = model(inputs).detach()
    answer = whole
    for values in inputs.unbind(1):
        answer, *states = run([values, *states])
    torch.testing.assert_close(answer, whole, rtol=0, atol=1e-5)
    extra = {"missing": ""}
    if form == "torch":
        torch.export.load(path, extra_files=extra)
        assert extra["missing"] == missing


def test_a_model_that_skips_steps_is_not_exported(tmp_path: Path) -> None:
    model = SequenceClassifier(NoisyRNN(1, 4), 2, missing="skip")
    with pytest.raises(ValueError, match=r"^model must have missing None, 'hold' or 'mask' to be exported, got 'skip'"):
        export_model(model, tmp_path / "m.pt2", format="torch")
    assert not list(tmp_path.iterdir())
