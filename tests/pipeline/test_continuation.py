"""A run that continues with more epochs is the run that had them from its start."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from noisyrnn.files import read_json
from noisyrnn.pipeline import EvaluateConfig, RunContext, continue_run, evaluate_run, train_run
from noisyrnn.report import read_run
from noisyrnn.report.comparison import compare
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.config import TrainConfig


@pytest.fixture
def config(waves_file: Path) -> TrainConfig:
    return TrainConfig(
        dataset=str(waves_file),
        hidden_size=4,
        batch_size=16,
        epochs=3,
        decay_epochs=(2, 4),
        ema=0.9,
        noise_schedule="annealed",
        input_noise=0.1,
        options={"additive": 0.1},
    )


def rows(folder: RunFolder) -> list[dict[str, float]]:
    """The metrics of each epoch without its time."""
    columns = folder.read_metrics()
    return [
        {name: values[k] for name, values in columns.items() if name != "seconds"} for k in range(len(columns["epoch"]))
    ]


def test_the_longer_run_is_exact_and_leaves_the_shorter_one_alone(config: TrainConfig, tmp_path: Path) -> None:
    context = RunContext(output=tmp_path / "runs", show_progress=False)
    shorter = train_run(config, context)
    evaluation = EvaluateConfig(strengths={"white_noise": [0.5]}, draws=1)
    evaluate_run(shorter, evaluation, context)
    before = {path.name: path.read_bytes() for path in shorter.path.iterdir()}
    longer = continue_run(shorter, context, epochs=6)
    whole = train_run(replace(config, epochs=6), context.replace(output=tmp_path / "whole"))
    assert longer.path.name == whole.path.name
    assert longer.model.read_bytes() == whole.model.read_bytes()
    assert longer.last_model.read_bytes() == whole.last_model.read_bytes()
    assert rows(longer) == rows(whole)
    assert rows(longer)[:3] == rows(shorter)
    assert [row["learning_rate"] for row in rows(longer)] == pytest.approx(
        [config.learning_rate * factor for factor in (1, 1, 0.1, 0.1, 0.01, 0.01)]
    )
    assert {path.name: path.read_bytes() for path in shorter.path.iterdir()} == before
    assert not longer.robustness.exists()  # the results of the shorter run are not those of the new weights
    evaluate_run(longer, evaluation, context)
    assert longer.robustness.read_bytes() != shorter.robustness.read_bytes()
    origin = {"run": shorter.path.name, "epochs": 3}
    assert read_json(longer.config)["continued_from"] == read_json(longer.summary)["continued_from"] == origin
    assert "continued_from" not in read_json(whole.config)
    notes = compare([read_run(longer.path)]).notes
    assert f"noisy, seed 1, continues {shorter.path.name} after its 3 epochs." in notes


def test_what_the_data_made_of_the_settings_stays_in_the_longer_run(config: TrainConfig, tmp_path: Path) -> None:
    """5 steps per epoch: at least 20 steps are 4 epochs, the decay is after the third one, and nothing is held out."""
    context = RunContext(output=tmp_path / "runs", show_progress=False)
    few = replace(config, decay_epochs=(), decay_after=0.75, min_steps=20, select="auto", batch_size=20)
    shorter = train_run(few, context)
    assert len(rows(shorter)) == 4 and continue_run(shorter, context).path == shorter.path
    assert continue_run(shorter, context, epochs=4).path == shorter.path
    longer = continue_run(shorter, context, epochs=6)
    stated = replace(few, epochs=6, decay_epochs=(3,), decay_after=None, min_steps=None, select="refit")
    whole = train_run(stated, context.replace(output=tmp_path / "whole"))
    assert rows(longer) == rows(whole) and longer.model.read_bytes() == whole.model.read_bytes()
    assert read_json(longer.summary)["continued_from"] == {"run": shorter.path.name, "epochs": 4}


def test_an_interrupted_continuation_is_resumed(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = RunContext(output=tmp_path, show_progress=False)
    shorter = train_run(config, context)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("noisyrnn.training.trainer.Trainer.end_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            continue_run(shorter, context, epochs=5)
    longer = continue_run(shorter, context, epochs=5)
    assert longer.finished
    assert read_json(longer.summary)["continued_from"]["epochs"] == 3
    assert continue_run(longer, context).path == longer.path  # a finished run is returned
    stamp = longer.summary.stat().st_mtime_ns
    assert continue_run(shorter, context, epochs=5).summary.stat().st_mtime_ns == stamp


def test_what_cannot_be_continued_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    context = RunContext(output=tmp_path, show_progress=False)
    shorter = train_run(config, context)
    with pytest.raises(ValueError, match=r"^epochs must be at least the 3 of .*, got 2\.$"):
        continue_run(shorter, context, epochs=2)
    renamed = RunFolder(shorter.path.rename(tmp_path / "mine"))
    with pytest.raises(ValueError, match=r"^run must be in a folder with the name of its settings, waves-noisy-seed1-"):
        continue_run(renamed, context, epochs=4)
    restored = RunFolder(renamed.path.rename(shorter.path))
    restored.checkpoint.unlink()
    with pytest.raises(ValueError, match=r"^run must hold checkpoint.pt, got "):
        continue_run(restored, context, epochs=4)


def test_a_run_that_its_patience_ended_is_not_continued(config: TrainConfig, tmp_path: Path) -> None:
    context = RunContext(output=tmp_path, show_progress=False)
    ended = train_run(replace(config, epochs=9, learning_rate=1e-12, patience=2), context)
    assert len(rows(ended)) < 9
    with pytest.raises(
        ValueError, match=r"^run must not have ended by its patience \(2\) .* stopped after epoch 3 of 9:"
    ):
        continue_run(ended, context, epochs=12)
    assert [folder.name for folder in tmp_path.iterdir() if folder.is_dir()] == [ended.path.name]


def test_changed_data_are_refused_before_a_folder_is_made(config: TrainConfig, tmp_path: Path) -> None:
    context = RunContext(output=tmp_path / "runs", show_progress=False)
    shorter = train_run(config, context)
    with np.load(config.dataset) as file:
        arrays = dict(file)
    np.savez(config.dataset, **{**arrays, "X": arrays["X"] + 1.0})
    before = sorted(context.output.iterdir())
    with pytest.raises(ValueError, match=r"^dataset must hold the data that .* was trained on"):
        continue_run(shorter, RunContext(output=tmp_path / "runs", show_progress=False), epochs=6)
    assert sorted(context.output.iterdir()) == before


def test_a_rate_that_has_fallen_is_told(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = RunContext(output=tmp_path / "runs", show_progress=False)
    shorter = train_run(config, context)
    continue_run(shorter, context.replace(show_progress=True), epochs=5)
    assert f"The learning rate of epoch 4 is {config.learning_rate * 0.1:g}: it fell from" in capsys.readouterr().err
    steady = train_run(replace(config, decay_epochs=()), context)
    continue_run(steady, context.replace(show_progress=True), epochs=5)
    assert "The learning rate of epoch" not in capsys.readouterr().err
