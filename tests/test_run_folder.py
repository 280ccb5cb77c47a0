"""The files of a run: what is refused when they are read, and when a result no longer belongs to the run."""

from pathlib import Path
from typing import Any

import pytest

from noisyrnn.files import file_digest, write_json
from noisyrnn.run_folder import METRICS, RunFolder, StoredResult, changes

SOUND = {"config": {"label": "a", "seed": 1}}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with weights, four epochs of metrics, and an evaluation that belongs to it."""
    folder = RunFolder(tmp_path)
    write_json(folder.config, {**SOUND, "dataset": {"name": "waves"}, "version": "0.2.0"})
    folder.model.write_bytes(b"weights")
    folder.write_metrics([dict.fromkeys(METRICS, 0.5) | {"epoch": epoch} for epoch in range(1, 5)])
    depends_on = {"test": {"labels": "x"}, **folder.dependencies()}
    write_json(folder.robustness, {"settings": {"draws": 2}, "depends_on": depends_on})
    return folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "must hold an object 'config', got None"),
        ({"config": []}, r"must hold an object 'config', got \[\]"),
        ({"config": {"label": "a", "seed": 1}, "dataset": None}, "must hold an object 'dataset', got None"),
        ({"config": {"label": 1, "seed": 1}}, "must hold a label and an integer seed, got 1 and 1"),
        ({"config": {"label": "a", "seed": True}}, "must hold a label and an integer seed, got 'a' and True"),
        ({"config": {"label": "a", "seed": "1"}}, "must hold a label and an integer seed, got 'a' and '1'"),
        ({"config": {"label": None, "seed": 1}}, "must hold a label and an integer seed, got None and 1"),
        ({**SOUND, "dataset": {"classes": "ten"}}, "must hold another type of value as 'classes', got 'ten'"),
        ({**SOUND, "dataset": {"classes": True}}, "must hold another type of value as 'classes', got True"),
        ({**SOUND, "dataset": {"value_range": [0]}}, r"must hold two numbers as value_range, got \[0\]"),
        ({**SOUND, "dataset": {"image_shape": ["8", 8]}}, r"must hold two numbers as image_shape, got \['8', 8\]"),
    ],
)
def test_a_config_of_another_shape_gets_one_message(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    write_json(tmp_path / "config.json", content)
    with pytest.raises(ValueError, match=rf"^{tmp_path / 'config.json'} {message}\. Train the run again\.$"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("content", [{}, {"status": None}, {"status": "unfinished"}, {"status": ["finished"]}])
def test_a_summary_without_a_status_gets_one_message(tmp_path: Path, content: dict[str, Any]) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.finished
    write_json(folder.summary, content)
    with pytest.raises(ValueError, match=rf"^{folder.summary} must hold the status 'finished' or 'failed', got "):
        _ = folder.finished


@pytest.mark.parametrize("name", ["epochs", "metrics_sha256", "model_sha256", "error"])
def test_an_entry_of_a_summary_of_another_type_is_refused(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path)
    write_json(folder.summary, {"status": "finished", name: [4]})
    message = rf"^{folder.summary} must hold another type of value as '{name}', got \[4\]\. Train"
    with pytest.raises(ValueError, match=message):
        folder.read_summary()


def test_what_changed_in_words() -> None:
    before = {
        "test": {"inputs": "a", "labels": "b", "weights": None},
        "model": "c",
        "value_range": [0, 1],
        "results": 1,
    }
    assert changes(before, before) == []
    now = {"test": {"inputs": "x", "labels": "y", "weights": "z"}, "model": "c", "value_range": [0, 2], "results": 1}
    assert changes(before, now) == ["the inputs, labels and weights of the test part", "the value range"]
    assert changes(before, {**before, "model": "d", "results": 2}) == [
        "model.safetensors",
        "the way noisyrnn computes it",
    ]
    assert changes({}, {"test": {"inputs": "a"}}) == ["the test part"]


def test_a_result_belongs_to_its_run_until_weights_or_settings_change(run: RunFolder) -> None:
    stored = run.read_result(run.robustness)
    assert stored.measured and stored.stale == ""
    assert stored.is_measured_with({"draws": 2}) and not stored.is_measured_with({"draws": 3})
    config = run.read_config()
    write_json(run.config, {**config, "version": "0.3.0", "environment": {"python": "4"}})
    assert run.read_result(run.robustness).stale == "", "no result depends on the version or the environment"
    run.model.write_bytes(b"others")
    assert run.read_result(run.robustness).stale == "model.safetensors changed since"
    write_json(run.config, {**config, "dataset": {"name": "digits"}})
    assert run.read_result(run.robustness).stale == "model.safetensors and config.json changed since"
    run.model.unlink()  # to save space
    assert run.read_result(run.robustness).stale == "config.json changed since"
    write_json(run.config, config)
    assert run.read_result(run.robustness).stale == ""


def test_a_result_is_compared_with_every_dependency_that_is_named(run: RunFolder) -> None:
    now = {"test": {"labels": "x"}, **run.dependencies()}
    assert run.read_result(run.robustness, now).stale == ""
    other = {**now, "test": {"labels": "y"}}
    assert run.read_result(run.robustness, other).stale == "the labels of the test part changed since"
    newer = {**now, "results": 5}  # not recorded by the result
    assert run.read_result(run.robustness, newer).stale == "the way noisyrnn computes it changed since"


def test_a_result_that_does_not_record_its_weights_is_stale(run: RunFolder) -> None:
    write_json(run.robustness, {"settings": {}, "depends_on": {"config": run.config_digest()}})
    assert run.read_result(run.robustness).stale == "model.safetensors changed since"


def test_a_failed_evaluation_is_no_result_and_never_stale(run: RunFolder) -> None:
    write_json(run.robustness, {"error": "Memory ran out.", "columns": []})
    stored = run.read_result(run.robustness, {"model": "another"})
    assert (stored.measured, stored.stale, stored.content["error"]) == (False, "", "Memory ran out.")
    write_json(run.robustness, {"settings": {"draws": 2}, "columns": []})
    assert not run.read_result(run.robustness).is_measured_with({"draws": 2}), "it does not record its dependencies"


def test_a_result_that_is_missing_is_empty(run: RunFolder) -> None:
    assert run.read_result(run.analysis) == StoredResult({})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"settings": [1]}, r"must hold an object 'settings', got \[1\]"),
        ({"depends_on": None}, "must hold an object 'depends_on', got None"),
        ({"error": 3}, "must hold another type of value as 'error', got 3"),
    ],
)
def test_a_result_of_another_shape_is_refused(run: RunFolder, content: dict[str, Any], message: str) -> None:
    write_json(run.robustness, content)
    with pytest.raises(ValueError, match=rf"^{run.robustness} {message}\. Delete the file, then evaluate or analyze"):
        run.read_result(run.robustness)


def test_a_training_that_has_not_finished_is_refused(run: RunFolder) -> None:
    with pytest.raises(ValueError, match=rf"^run must be finished, got {run.path}, which is not\. Resume it: noisyrnn"):
        run.check_finished()
    write_json(run.summary, {"status": "failed"})
    with pytest.raises(ValueError, match=r"^run must be finished"):
        run.check_finished()
    write_json(run.summary, {"status": "finished"})
    run.check_finished()


def test_metrics_are_read_as_they_were_written(run: RunFolder) -> None:
    columns = run.read_metrics()
    assert tuple(columns) == METRICS
    assert (columns["epoch"], columns["seconds"]) == ((1.0, 2.0, 3.0, 4.0), (0.5,) * 4)
    run.metrics.unlink()
    assert run.read_metrics() == dict.fromkeys(METRICS, ())


def test_metrics_without_validation_are_read(run: RunFolder) -> None:
    columns = run.read_metrics()
    names = [name for name in METRICS if not name.startswith("validation_")]
    run.write_metrics([{name: columns[name][k] for name in names} for k in range(4)])
    assert run.read_metrics() == {name: columns[name] for name in names}


@pytest.mark.parametrize("cut", ["5,0.1", "5,0.1,,,,,"])
def test_a_last_line_of_metrics_that_was_cut_short_is_left_out(run: RunFolder, cut: str) -> None:
    run.metrics.write_text(run.metrics.read_text() + cut)
    assert run.read_metrics()["epoch"] == (1.0, 2.0, 3.0, 4.0)


def test_a_damaged_line_of_metrics_is_refused(run: RunFolder) -> None:
    lines = run.metrics.read_text().splitlines()
    lines[2] = "2,x,0,0,0,0,0"
    run.metrics.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"^metrics.csv must hold numbers, got '2,x,0,0,0,0,0' in line 3 of "):
        run.read_metrics()


def test_every_changed_bit_of_the_metrics_of_a_finished_training_is_noticed(run: RunFolder) -> None:
    write_json(run.summary, {"status": "finished", "metrics_sha256": file_digest(run.metrics)})
    whole = run.metrics.read_bytes()
    assert len(run.read_metrics()["epoch"]) == 4
    for bit in range(0, 8 * len(whole), 5):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        run.metrics.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=rf"^{run.metrics} must be as noisyrnn wrote it, got a file that was changed"
        ):
            run.read_metrics()


@pytest.mark.parametrize("content", [b"\xff", b'epoch,"', b"\0"])
def test_metrics_that_are_no_text_are_refused(run: RunFolder, content: bytes) -> None:
    run.metrics.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.csv must"):
        run.read_metrics()


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("epoch,train_loss\n1,2\n", "learning_rate"),
        ("epoch,train_loss,train_accuracy,validation_accuracy\n1,2,1,1\n", "validation_loss"),
        ("", "epoch"),
    ],
)
def test_metrics_without_a_column_are_refused(run: RunFolder, text: str, absent: str) -> None:
    run.metrics.write_text(text)
    with pytest.raises(ValueError, match=f"^metrics.csv must have the columns .* got none named '{absent}' in "):
        run.read_metrics()
