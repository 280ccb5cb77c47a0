"""Models that a Python file builds, as rows of a comparison next to ours."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

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


def leaves(dataset):
    raise SystemExit(3)


def many(dataset):
    return lambda inputs: torch.zeros(len(inputs), 5)


number = 3


def three(dataset, seed, more):
    return None


def as_usual(dataset, seed):
    """A module of float32, for data in float64."""
    torch.manual_seed(seed)
    return Last(dataset.classes).eval()


def careless(dataset):
    """Changes its inputs while it is measured."""

    def model(inputs):
        inputs.detach().sub_(1.0)
        return torch.zeros(len(inputs), dataset.classes)

    return model


def greedy(dataset):
    """Changes the data it was given."""
    for part in (dataset.train, dataset.validation, dataset.test):
        part.inputs.mul_(0.0)
    return lambda inputs: torch.zeros(len(inputs), dataset.classes)
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
    html = page.read_text()
    assert "their GRU" in html
    differing = html[html.index("Settings that differ") : html.index("Settings that all models share")]
    assert read_json(next(page.parent.glob("*their_GRU*")) / "robustness.json")["confusion"] is not None
    assert html.count("their GRU") > differing.count("their GRU")
    assert re.findall(r'<tr class="differs"><th[^>]*>(\w+)</th>', differing) == ["model", "additive", "file"]
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
        models=["gru", f"{mine}:nearest", f"{mine}:broken", f"{mine}:leaves", f"{mine}:many"],
        seeds=1,
        train={"dataset": str(waves_file), **TRAIN},
        evaluation=EVALUATION,
    )
    page, failures = compare(config, RunContext(output=tmp_path / "out", show_progress=False))
    assert list(page.parent.glob("waves-mine.py_nearest-seed1-*"))
    assert sorted(failures.values()) == [
        f"{mine}:broken failed with RuntimeError: it is broken.",
        f"{mine}:leaves failed with SystemExit: 3.",
        "model must return 2 logits, one for each class, got 5.",
    ]
    (failed,) = page.parent.glob("*broken*")
    assert read_json(failed / "summary.json")["status"] == "failed"
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
    with pytest.raises(ValueError, match=r"^model 'mine.py' must name a function of the file too. Write mine.py:build"):
        CompareConfig(models=["noisy", "mine.py"])


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("absent", "must name a function of .*, got none of that name"),
        ("number", "must name a function of .*, got none of that name"),
        ("three", r"must name a function of a data set and perhaps a seed, got other arguments \(.*'more'\)"),
    ],
)
def test_a_wrong_function_is_refused_before_any_training(
    function: str, reason: str, waves_file: Path, mine: Path, tmp_path: Path
) -> None:
    config = CompareConfig(
        models=["gru", f"{mine}:{function}"],
        seeds=1,
        train={"dataset": str(waves_file), **TRAIN},
        evaluation=EVALUATION,
    )
    with pytest.raises(ValueError, match=reason):
        compare(config, RunContext(output=tmp_path / "out", show_progress=False))
    assert not list((tmp_path / "out").glob("*seed*"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("def build(:\n", r"got SyntaxError: .*line 1"),
        ("import absent_package\n", r"got ModuleNotFoundError: No module named 'absent_package'"),
        ("raise SystemExit(2)\n", r"got SystemExit: 2"),
    ],
)
def test_a_file_that_cannot_be_imported(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(content)
    with pytest.raises(ValueError, match=rf"must name a Python file that can be imported, {reason}"):
        ForeignRow(name=f"{tmp_path}/bad.py:build", label="x").function()


def measured(name: str, waves_file: Path, output: Path) -> float:
    """Clean accuracy of a row, built or used again."""
    context = RunContext(output=output, show_progress=False)
    dataset = load_dataset(str(waves_file))
    folder = evaluate_foreign(ForeignRow(name=name, label=Path(name).name), 1, dataset, EVALUATION, context)
    return read_run(folder.path).scores[Column("clean", 0.0)].value


def test_a_module_in_float32_meets_data_in_float64_and_is_attacked(
    waves_file: Path, mine: Path, tmp_path: Path
) -> None:
    assert load_dataset(str(waves_file)).train.inputs.dtype == torch.float64
    measured(f"{mine}:as_usual", waves_file, tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    assert "fgsm" in [column["perturbation"] for column in read_json(folder / "robustness.json")["columns"]]


def test_a_function_cannot_change_the_data_of_others(waves_file: Path, mine: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(waves_file))
    before = dataset.fingerprint(), dataset.test.fingerprint()
    context = RunContext(output=tmp_path / "out", show_progress=False)
    evaluate_foreign(ForeignRow(name=f"{mine}:greedy", label="greedy"), 1, dataset, EVALUATION, context)
    fresh = replace(dataset)  # without what is cached
    assert before == (fresh.fingerprint(), fresh.test.fingerprint())
    assert float(dataset.train.inputs.abs().max()) > 0 and float(dataset.test.inputs.abs().max()) > 0


def test_a_model_that_changes_its_inputs_is_named(waves_file: Path, mine: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(waves_file))
    before, context = dataset.test.fingerprint(), RunContext(output=tmp_path / "out", show_progress=False)
    with pytest.raises(ValueError, match=r"^model must leave its inputs unchanged, .* inputs\.clone\(\)"):
        evaluate_foreign(ForeignRow(name=f"{mine}:careless", label="careless"), 1, dataset, EVALUATION, context)
    assert dataset.test.fingerprint() == before


SIGN = """
import torch
import {helper}
from pathlib import Path

SIGN = float((Path(__file__).parent / "sign.txt").read_text())


def build(dataset):
    '''Tells the faster waves by their mean change a step, or the other ones with the opposite sign.'''

    def speed(inputs):
        return (inputs[:, 1:] - inputs[:, :-1]).abs().mean(dim=(1, 2)).float()

    ends = [speed(dataset.train.inputs[dataset.train.labels == label]).mean() for label in (0, 1)]

    def model(inputs):
        score = SIGN * {helper}.SIGN * (ends[1] - ends[0]) * (speed(inputs) - sum(ends) / 2)
        return torch.stack([-score, score], dim=1)

    return model
"""


def test_equal_files_in_two_folders_are_two_rows(waves_file: Path, tmp_path: Path) -> None:
    found = []
    for folder, sign in (("a", "1"), ("b", "-1")):
        place = tmp_path / folder
        place.mkdir()
        (place / "sign.txt").write_text(sign)
        (place / "rising_one.py").write_text("SIGN = 1.0")
        (place / "row.py").write_text(SIGN.format(helper="rising_one"))
        found.append(measured(f"{place}/row.py:build", waves_file, tmp_path / f"out-{folder}"))
    assert found[0] > 0.9 and found[1] < 0.1


def test_an_imported_neighbour_is_part_of_the_row(
    waves_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sign.txt").write_text("1")
    helper = tmp_path / "rising_two.py"
    helper.write_text("SIGN = 1.0")
    (tmp_path / "row.py").write_text(SIGN.format(helper="rising_two"))
    one = measured(f"{tmp_path}/row.py:build", waves_file, tmp_path / "out")
    assert one > 0.9
    assert measured(f"{tmp_path}/row.py:build", waves_file, tmp_path / "out") == one
    helper.write_text("SIGN = -1.0  # changed")
    for name in [name for name in sys.modules if name == "rising_two" or name.startswith("noisyrnn_foreign_")]:
        monkeypatch.delitem(sys.modules, name)  # as in another process
    with pytest.warns(UserWarning, match=r"computed again: .*code"):
        assert measured(f"{tmp_path}/row.py:build", waves_file, tmp_path / "out") == pytest.approx(1 - one)


def test_a_neighbour_that_changes_in_one_process_is_imported_again(waves_file: Path, tmp_path: Path) -> None:
    (tmp_path / "sign.txt").write_text("1")
    helper = tmp_path / "rising_three.py"
    (tmp_path / "row.py").write_text(SIGN.format(helper="rising_three"))
    helper.write_text("SIGN = 1.0")
    one = measured(f"{tmp_path}/row.py:build", waves_file, tmp_path / "out")
    helper.write_text("SIGN = -1.0  # changed")
    with pytest.warns(UserWarning, match=r"computed again: .*code"):
        other = measured(f"{tmp_path}/row.py:build", waves_file, tmp_path / "out")
    assert one > 0.9 and other == pytest.approx(1 - one)
    assert measured(f"{tmp_path}/row.py:build", waves_file, tmp_path / "out") == other


def test_a_result_that_is_used_again_says_so(
    waves_file: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, context = load_dataset(str(waves_file)), RunContext(output=tmp_path / "out", show_progress=True)
    row = ForeignRow(name=f"{mine}:nearest", label="nearest")
    folder = evaluate_foreign(row, 1, dataset, EVALUATION, context)
    assert "used again" not in capsys.readouterr().err
    evaluate_foreign(row, 1, dataset, EVALUATION, context)
    assert f"nearest seed 1: an earlier result is used again. To build it again, delete {folder.path}" in (
        capsys.readouterr().err
    )
