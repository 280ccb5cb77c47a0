"""`noisyrnn predict`: a CSV table of predictions for a file."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch

import noisyrnn as library
from noisyrnn.models import SequenceModel

from .commands import SMALL, noisyrnn


def table(text: str) -> tuple[list[str], list[list[str]]]:
    head, *rows = csv.reader(io.StringIO(text))
    return head, rows


def trained(file: Path, folder: Path, *words: object) -> Path:
    result = noisyrnn("train", "--dataset", file, *words, *SMALL, "--output", folder / "runs")
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip().removeprefix("Trained: "))


def test_classes_with_and_without_labels_from_a_run_and_from_a_model_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = np.round(rng.normal(size=(40, 5)), 3)
    labels = np.where(X.sum(axis=1) > 0, "up", "down")
    train, new = tmp_path / "sums.csv", tmp_path / "new.csv"
    train.write_text("".join(f"{','.join(map(str, row))},{label}\n" for row, label in zip(X, labels, strict=True)))
    new.write_text("".join(f"{','.join(map(str, row))}\n" for row in X))
    run = trained(train, tmp_path, "--label-column", -1)
    with_labels = noisyrnn("predict", run, "--data", train)
    assert with_labels.returncode == 0, with_labels.stderr
    head, rows = table(with_labels.stdout)
    assert head == ["sequence", "prediction", "probability_down", "probability_up"]
    probabilities = library.load(run / "model.safetensors")(torch.from_numpy(X)[..., None]).softmax(dim=1)
    assert [row[0] for row in rows] == [str(k) for k in range(40)]
    assert np.allclose([[float(cell) for cell in row[2:]] for row in rows], probabilities.detach(), atol=1e-5)
    assert [row[1] for row in rows] == [["down", "up"][int(k)] for k in probabilities.argmax(dim=1)]
    assert noisyrnn("predict", run, "--data", new).stdout == with_labels.stdout
    output = tmp_path / "predictions.csv"
    written = noisyrnn("predict", run / "model.safetensors", "--data", new, "--labelled", "false", "--output", output)
    assert written.stdout == f"Predicted: {output}\n"
    assert output.read_text() == with_labels.stdout
    undecided = noisyrnn("predict", run / "model.safetensors", "--data", new)
    assert undecided.returncode == 2
    assert "--labelled false" in undecided.stderr


def test_a_model_file_is_enough_to_read_a_long_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{k},{0.5 * s + 0.2 * (s % 3)},{rng.normal():.3f},{'ab'[k % 2]}" for k in range(20) for s in range(6)]
    file = tmp_path / "long.csv"
    file.write_text("\n".join(["who,when,v,class", *rows]))
    run = trained(file, tmp_path, "--id", "who", "--time", "when")
    expected = noisyrnn("predict", run, "--data", file)
    assert expected.returncode == 0 and len(expected.stdout.splitlines()) == 21
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes((run / "model.safetensors").read_bytes())
    assert noisyrnn("predict", moved, "--data", file).stdout == expected.stdout


def test_values_and_steps(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(20, 4, 2))
    lengths = np.array([4, 3] * 10)
    np.savez(tmp_path / "steps.npz", X=X, y=(X.sum(axis=2) > 0).astype(int), lengths=lengths)
    np.savez(tmp_path / "values.npz", X=X, y=X.mean(axis=1))
    run = trained(tmp_path / "steps.npz", tmp_path)
    head, rows = table(noisyrnn("predict", run, "--data", tmp_path / "steps.npz").stdout)
    assert head == ["sequence", "step", "prediction", "probability_0", "probability_1"]
    assert [row[:2] for row in rows[:8]] == [
        [str(n), str(s)] for n, count in ((0, 4), (1, 3), (2, 1)) for s in range(count)
    ]
    run = trained(tmp_path / "values.npz", tmp_path)
    np.savez(tmp_path / "new.npz", X=X[:2])
    head, rows = table(noisyrnn("predict", run, "--data", tmp_path / "new.npz", "--weights", "last").stdout)
    assert head == ["sequence", "prediction_1", "prediction_2"]
    expected = library.load(run / "last.safetensors", SequenceModel)(torch.from_numpy(X[:2]))
    assert np.allclose([[float(cell) for cell in row[1:]] for row in rows], expected.detach(), atol=1e-5)
    np.savez(tmp_path / "narrow.npz", X=X[..., :1])
    refused = noisyrnn("predict", run, "--data", tmp_path / "narrow.npz")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("inputs must have shape")


def test_the_long_format_and_a_folder_are_predicted_by_name(tmp_path: Path) -> None:
    """A model trained on one is used on both, with and without labels."""
    rng = np.random.default_rng(0)
    recordings = {f"r{k:02}": np.round(rng.normal(k % 2, 1, size=(4 + k % 3, 2)), 3) for k in range(24)}
    lines = {
        name: [f"{name},{step},{a},{b},{'up' if int(name[1:]) % 2 else 'down'}" for step, (a, b) in enumerate(values)]
        for name, values in recordings.items()
    }
    long = tmp_path / "long.csv"
    long.write_text("\n".join(["id,t,a,b,class", *(line for found in lines.values() for line in found)]))
    run = trained(long, tmp_path, "--id", "id", "--time", "t")
    head, rows = table(noisyrnn("predict", run, "--data", long).stdout)
    assert head == ["sequence", "prediction", "probability_down", "probability_up"]
    assert [row[0] for row in rows] == list(recordings)
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, values in recordings.items():
        text = "\n".join(["a,b", *(f"{a},{b}" for a, b in values)])
        (folder / f"{name}.csv").write_text(text)
    predicted = noisyrnn("predict", run, "--data", folder, "--time", "null")
    assert predicted.returncode == 0, predicted.stderr
    _, again = table(predicted.stdout)
    assert [row[0] for row in again] == [f"{name}.csv" for name in recordings]
    assert [row[1:] for row in again] == [row[1:] for row in rows]


def test_channels_are_matched_by_name_and_one_recording_is_predicted(tmp_path: Path) -> None:
    """A model trained on a folder of recordings."""
    rng = np.random.default_rng(0)
    folders = {name: tmp_path / name for name in ("rec", "swapped", "renamed")}
    headers = {"rec": "s,u,v", "swapped": "s,v,u", "renamed": "s,u,w"}
    for k in range(20):
        values = np.round(rng.normal(size=(4, 2)) + 5 * (k % 2), 3)
        for name, folder in folders.items():
            (folder / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
            lines = [f"{s},{v},{u}" if name == "swapped" else f"{s},{u},{v}" for s, (u, v) in enumerate(values)]
            (folder / "ab"[k % 2] / f"{k:02}.csv").write_text("\n".join([headers[name], *lines]))
    run = trained(folders["rec"], tmp_path, "--time", "s")
    _, expected = table(noisyrnn("predict", run, "--data", folders["rec"]).stdout)
    assert len(expected) == 20 and expected[0][0] == "a/00.csv"
    for file in (run, run / "model.safetensors"):
        swapped = noisyrnn("predict", file, "--data", folders["swapped"], "--time", "s")
        assert table(swapped.stdout)[1] == expected
    for name in ("rec", "swapped"):
        one = noisyrnn("predict", run, "--data", folders[name] / "a" / "00.csv")
        assert one.returncode == 0, one.stderr
        assert table(one.stdout)[1] == [["00.csv", *expected[0][1:]]]
    for data in (folders["renamed"], folders["renamed"] / "a" / "00.csv"):
        refused = noisyrnn("predict", run, "--data", data)
        assert refused.returncode == 2
        assert "must have the channels of the training data, got none called 'v' and unknown 'w'." in refused.stderr


def test_one_recording_without_a_header_is_predicted(tmp_path: Path) -> None:
    """Its lines say nothing: the run was trained on such files."""
    rng = np.random.default_rng(0)
    for width in (1, 2):
        folder = tmp_path / f"rec{width}"
        for k in range(20):
            (folder / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
            values = np.round(rng.normal(size=(4, width)), 3)
            np.savetxt(folder / "ab"[k % 2] / f"{k:02}.csv", values, fmt="%.3f", delimiter=",")
        run = trained(folder, tmp_path)
        _, expected = table(noisyrnn("predict", run, "--data", folder).stdout)
        one = noisyrnn("predict", run, "--data", folder / "a" / "00.csv")
        assert table(one.stdout)[1] == [["00.csv", *expected[0][1:]]], one.stderr
        if width == 2:
            copied = noisyrnn("predict", run / "model.safetensors", "--data", folder / "a" / "00.csv")
            assert copied.stdout == one.stdout


def test_a_missing_value_is_a_matter_of_the_training(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(20, 4, 2))
    np.savez(tmp_path / "own.npz", X=X, y=np.arange(20) % 2)
    run = trained(tmp_path / "own.npz", tmp_path)
    X[3, 2, 1] = np.nan
    np.savez(tmp_path / "new.npz", X=X)
    refused = noisyrnn("predict", run, "--data", tmp_path / "new.npz")
    assert refused.returncode == 2
    assert "Train the model with missing='hold' (--missing hold)" in refused.stderr
    assert "Give missing" not in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x",), "data must be a file"),
        (("absent", "--data", "x.csv"), "run must be a folder"),
        (("absent.safetensors", "--data", "x.csv"), "path must be"),
    ],
)
def test_what_is_missing_is_named(words: tuple[str, ...], message: str) -> None:
    refused = noisyrnn("predict", *words)
    assert refused.returncode == 2
    assert refused.stderr.startswith(message)


def test_lengths_that_vary_in_training_leave_the_labels_unclear(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(k % 2, np.round(rng.normal(k % 2, 1, size=5 + k % 4), 3)) for k in range(24)]
    train, short, bare = (tmp_path / name for name in ("train.csv", "short.csv", "bare.csv"))
    text = [",".join(map(str, (label, *values))) for label, values in rows]
    train.write_text("\n".join(text) + "\n")
    short.write_text("\n".join(line for line, (_, values) in zip(text, rows, strict=True) if len(values) < 8) + "\n")
    bare.write_text("\n".join(",".join(map(str, [*values, 0.5])) for _, values in rows) + "\n")
    run = trained(train, tmp_path)
    for file in (short, bare):  # their longest lines have as many cells as those of a file without labels, and with
        refused = noisyrnn("predict", run, "--data", file)
        assert refused.returncode == 2 and "--labelled true" in refused.stderr
    assert len(table(noisyrnn("predict", run, "--data", short, "--labelled", "true").stdout)[1]) == 18
