"""Models that a Python file builds, as rows of a comparison next to ours."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from noisyrnn.data import load_dataset
from noisyrnn.files import read_json, write_json
from noisyrnn.pipeline import CompareConfig, EvaluateConfig, RunContext, compare
from noisyrnn.pipeline.foreign import ForeignRow, evaluate_foreign
from noisyrnn.pipeline.variants import read_variants
from noisyrnn.report import read_run
from noisyrnn.report.columns import Column

MINE = '''
import torch
from torch import nn


class Last(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.gru = nn.GRU(1, 8, batch_first=True)
        self.readout = nn.Linear(8, classes)

    def forward(self, inputs):
        return self.readout(self.gru(inputs)[0][:, -1])


def build(dataset, seed):
    """A GRU of torch, trained for a few steps."""
    model = Last(dataset.classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(dataset.train.inputs.float()), dataset.train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lambda inputs: model(inputs.float())


class Nearest:
    """An estimator without gradients."""

    classes_ = [0, 1]
    n_features_in_ = 10

    def __init__(self, dataset):
        self.inputs, self.labels = dataset.train.inputs[..., 0].numpy(), dataset.train.labels.numpy()

    def predict(self, values):
        import numpy as np

        distances = ((values[:, None] - self.inputs[None]) ** 2).sum(axis=2)
        return self.labels[distances.argmin(axis=1)]


def nearest(dataset):
    return Nearest(dataset)


def broken(dataset):
    raise RuntimeError("it is broken")
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


TRAIN = {"hidden_size": 4, "epochs": 2, "batch_size": 16}
EVALUATION = EvaluateConfig(
    strengths={"white_noise": [0.5], "fgsm": [0.1], "square_linf": [0.1]},
    draws=2,
    attack_draws=1,
    test_limit=12,
    gradient_free_sequences=1,
)


@pytest.mark.usefixtures("undrawn")
def test_three_levels_of_noise_and_a_foreign_gru_in_one_report(waves_file: Path, mine: Path, tmp_path: Path) -> None:
    config = CompareConfig(
        variants=[
            "noisy:additive=0",
            {"model": f"{mine}:build", "label": "their GRU"},
            "noisy:additive=0.05",
            "noisy:additive=0.1",
        ],
        seeds=2,
        train={"dataset": str(waves_file), **TRAIN},
        evaluation=replace(EVALUATION, strengths={"white_noise": [0.5], "fgsm": [0.1]}),
    )
    context = RunContext(output=tmp_path / "out", show_progress=False)
    page, failures = compare(config, context)
    assert not failures
    content = json.loads((page.parent / "comparison.json").read_text())
    assert list(content["labels"]) == ["noisy additive=0", "their GRU", "noisy additive=0.05", "noisy additive=0.1"]
    for label in content["labels"].values():
        assert [column["perturbation"] for column in label["columns"]] == [
            "clean",
            "white_noise",
            "fgsm",
            "worst_linf",
        ]
    theirs = content["labels"]["their GRU"]
    assert theirs["columns"][0]["mean"] > 0.9  # it was trained: the waves are easy
    assert set(theirs["columns"][0]["seeds"]) == {"1", "2"}
    assert "their GRU" in page.read_text()
    stamps = {path: path.stat().st_mtime_ns for path in page.parent.glob("*/robustness.json")}
    compare(config, context)
    assert {path: path.stat().st_mtime_ns for path in page.parent.glob("*/robustness.json")} == stamps
    mine.write_text(MINE.replace("range(30)", "range(1)"))  # another file is another row
    compare(config, context)
    assert len(list(page.parent.glob("*their_GRU*"))) == 4


def test_a_row_of_an_earlier_version_is_not_measured_again(waves_file: Path, mine: Path, tmp_path: Path) -> None:
    """It does not have the names of the channels; one with other names is measured again."""
    data = load_dataset(str(waves_file))
    row, context = ForeignRow(name=f"{mine}:nearest", label="theirs"), RunContext(output=tmp_path / "out")
    folder = evaluate_foreign(row, 1, data, EVALUATION, context)
    before = folder.robustness.stat().st_mtime_ns
    named = replace(data, channel_names=("u",))
    evaluate_foreign(row, 1, named, EVALUATION, context)
    assert folder.robustness.stat().st_mtime_ns == before
    content = read_json(folder.config)
    content["dataset"]["channel_names"] = ["v"]
    write_json(folder.config, content)
    evaluate_foreign(row, 1, named, EVALUATION, context)
    assert folder.robustness.stat().st_mtime_ns != before
    assert folder.read_config()["dataset"]["channel_names"] == ["u"]
    before = folder.robustness.stat().st_mtime_ns
    evaluate_foreign(row, 1, named, EVALUATION, context)
    assert folder.robustness.stat().st_mtime_ns == before


@pytest.mark.usefixtures("undrawn")
def test_an_estimator_without_gradients_and_a_function_that_fails(waves_file: Path, mine: Path, tmp_path: Path) -> None:
    config = CompareConfig(
        models=["gru", f"{mine}:nearest", f"{mine}:broken", f"{mine}:absent"],
        seeds=1,
        train={"dataset": str(waves_file), **TRAIN},
        evaluation=EVALUATION,
    )
    page, failures = compare(config, RunContext(output=tmp_path / "out", show_progress=False))
    assert list(page.parent.glob("waves-mine.py_nearest-seed1-*"))
    assert sorted(reason.split(" of ")[0] for reason in failures.values()) == [
        "it is broken",
        f"model '{mine}:absent' must name a function",
    ]
    (folder,) = page.parent.glob("*nearest*")
    run = read_run(folder)
    assert list(run.scores) == [Column("clean", 0.0), Column("white_noise", 0.5, "s"), Column("square_linf", 0.1, "s")]
    assert read_json(folder / "summary.json")["parameters"] is None
    assert run.scores[Column("clean", 0.0)].value > 0.9


def test_names_are_checked(tmp_path: Path, mine: Path) -> None:
    with pytest.raises(ValueError, match=r"must name a Python file, got none at"):
        ForeignRow(name=f"{tmp_path}/absent.py:build", label="x")
    with pytest.raises(ValueError, match=r"^variants must not have settings for"):
        read_variants([{"model": f"{mine}:build", "additive": 0.1}])
    with pytest.raises(ValueError, match=r"^models must name at least one model of noisyrnn"):
        CompareConfig(models=[f"{mine}:build"]).run_configs()
