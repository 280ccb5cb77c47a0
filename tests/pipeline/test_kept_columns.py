"""Evaluations that were interrupted continue, and others measure only what is new."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.flip_flop import flip_flop
from tests.waves import write_waves

from noisyrnn import load, save
from noisyrnn.models import SequenceModel
from noisyrnn.pipeline import EvaluateConfig, RunContext, evaluate_run, kept_columns, train_run
from noisyrnn.progress import ProgressBar
from noisyrnn.robustness import RobustnessResult, Square, evaluate
from noisyrnn.training import RunFolder, TrainConfig

CONFIG = EvaluateConfig(
    strengths={"white_noise": [0.5, 0.25], "pgd_linf": [0.3], "fgsm": [0.1]},
    draws=2,
    attack_draws=2,
    attack_sequences=20,
)
COLUMNS = 5
"""Measured columns of `CONFIG`, the clean one among them."""


def flip_flop_file(folder: Path, targets: str) -> str:
    np.savez(folder / f"{targets}.npz", **flip_flop(sequences=60, steps=8, bits=2, probability=0.4, targets=targets))
    return str(folder / f"{targets}.npz")


@pytest.fixture(scope="module", params=["class", "values"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A trained run with one class for each sequence, or with values at every step."""
    folder = tmp_path_factory.mktemp("trained")
    dataset = (
        str(write_waves(folder, ["slow", "fast"]))
        if request.param == "class"
        else flip_flop_file(folder, request.param)
    )
    config = TrainConfig(dataset=dataset, hidden_size=4, epochs=2, batch_size=16, learning_rate=0.02)
    return train_run(config, RunContext(output=folder / "runs"))


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the trained run."""
    return RunFolder(Path(shutil.copytree(trained.path, tmp_path / trained.path.name)))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Filled with the perturbations that are measured from now on; a function in it is called before each."""
    seen: list[Any] = []

    def record(model: Any, split: Any, perturbation: Any, **named: Any) -> RobustnessResult:
        for function in [each for each in seen if callable(each) and not hasattr(each, "strength")]:
            function()
        seen.append("clean" if perturbation is None else f"{perturbation.name} {perturbation.strength:g}")
        return evaluate(model, split, perturbation, **named)

    monkeypatch.setattr(sys.modules["noisyrnn.pipeline.evaluate"], "evaluate", record)
    return seen


def interrupt(seen: list[Any], after: int) -> None:
    """Have the measurement that follows `after` others interrupted."""

    def stop() -> None:
        if sum(isinstance(each, str) for each in seen) == after:
            raise KeyboardInterrupt

    seen.append(stop)


def part_of(run: RunFolder) -> Path:
    return run.path / "robustness-part.json"


@pytest.mark.parametrize("after", [0, 1, 4])
def test_an_interrupted_evaluation_continues_to_the_same_file(run: RunFolder, measured: list[Any], after: int) -> None:
    whole = evaluate_run(run, CONFIG).robustness.read_bytes()
    run.robustness.unlink()
    measured.clear()
    interrupt(measured, after)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, CONFIG)
    assert not run.robustness.exists() and part_of(run).exists() == (after > 0)
    done = measured[1:]
    measured.clear()
    assert evaluate_run(run, CONFIG).robustness.read_bytes() == whole
    assert len(done) == after and len(set(done + measured)) == len(done + measured) == COLUMNS
    assert not part_of(run).exists()


def test_a_gradient_free_attack_is_compared_after_an_interruption(run: RunFolder, measured: list[Any]) -> None:
    config = replace(CONFIG, strengths={"square_linf": [0.3], "pgd_linf": [0.3]}, gradient_free_sequences=2)
    whole = evaluate_run(run, config).robustness.read_bytes()
    assert len(json.loads(whole)["gradient_checks"]) == 1
    run.robustness.unlink()
    measured.clear()
    interrupt(measured, 2)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, config)
    measured.clear()
    assert evaluate_run(run, config).robustness.read_bytes() == whole
    assert measured == ["pgd_linf 0.3"]


def test_the_bar_begins_with_what_is_known(
    run: RunFolder, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(measured, 3)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, CONFIG)
    measured.clear()
    shown: list[tuple[int, int]] = []

    class Bar(ProgressBar):
        def close(self) -> None:
            shown.append((self._begin, self._done))

    monkeypatch.setattr(sys.modules["noisyrnn.pipeline.evaluate"], "ProgressBar", Bar)
    evaluate_run(run, CONFIG)
    assert shown == [(3, COLUMNS)]


def test_a_killed_evaluation_has_lost_little(
    run: RunFolder, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_columns, "SAVE_SECONDS", 0.0)
    saved: list[int] = []

    def look() -> None:
        content = json.loads(part_of(run).read_text()) if part_of(run).exists() else {"columns": []}
        saved.append(len(content["columns"]))

    measured.append(look)
    evaluate_run(run, CONFIG)
    assert saved == list(range(COLUMNS))


def test_only_new_strengths_are_measured(run: RunFolder, measured: list[Any]) -> None:
    more = replace(CONFIG, strengths={"white_noise": [0.25, 0.75], "pgd_linf": [0.3], "fgsm": [0.3]})
    fresh = evaluate_run(run, more).robustness.read_bytes()
    run.robustness.unlink()
    evaluate_run(run, CONFIG)
    measured.clear()
    assert evaluate_run(run, more).robustness.read_bytes() == fresh
    exact = "correct" in json.loads(fresh)["columns"][0]
    new = ["white_noise 0.75", "fgsm 0.3"]
    assert measured == (new if exact else ["clean", "white_noise 0.25", new[0], "pgd_linf 0.3", new[1]])


@pytest.mark.parametrize(
    "changed", [{"draws": 3}, {"attack_draws": 1}, {"evaluation_seed": 1}, {"test_limit": 10}, {"weights": "last"}]
)
def test_other_settings_measure_everything_again(run: RunFolder, measured: list[Any], changed: dict[str, Any]) -> None:
    other = replace(CONFIG, **changed)
    fresh = evaluate_run(run, other).robustness_file(other.weights).read_bytes()
    run.robustness_file(other.weights).unlink()
    measured.clear()
    interrupt(measured, 3)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, CONFIG)
    measured.clear()
    assert evaluate_run(run, other).robustness_file(other.weights).read_bytes() == fresh
    assert len(measured) == COLUMNS


@pytest.mark.filterwarnings("ignore:.*is not the file that the training")
def test_other_weights_measure_everything_again(run: RunFolder, measured: list[Any]) -> None:
    interrupt(measured, 3)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, CONFIG)
    model = load(run.model, SequenceModel)
    with torch.no_grad():
        model.readout.bias += 0.1
    save(model, run.model)
    measured.clear()
    evaluate_run(run, CONFIG)
    assert len(measured) == COLUMNS


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 3, "settings": [], "depends_on": {}}'])
def test_a_damaged_part_is_measured_again(run: RunFolder, measured: list[Any], content: bytes) -> None:
    part_of(run).write_bytes(content)
    evaluate_run(run, CONFIG)
    assert len(measured) == COLUMNS and not part_of(run).exists()


def test_results_survive_a_file(run: RunFolder) -> None:
    """What worst cases, checks and tables read of a result is exactly what was measured."""
    from noisyrnn.pipeline.dependencies import run_config
    from noisyrnn.pipeline.evaluate import load_noise_free

    dataset = RunContext().read_data(run_config(run))
    model = load_noise_free(run, "cpu")
    square = Square(0.3, queries=20, scale=dataset.scale)
    for perturbation in (None, square, *CONFIG.for_data(dataset).perturbations(dataset)):
        result = evaluate(model, dataset.test, perturbation, draws=3)
        content = json.loads(json.dumps(result.to_dict(every_digit=True)))
        assert RobustnessResult.from_dict(content, gradient_free=result.gradient_free) == result
