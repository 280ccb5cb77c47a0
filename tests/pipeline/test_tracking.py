"""Loggers beside metrics.csv hold what the file holds; whatever they do, the training ends the same."""

import csv
import dataclasses
import math
import shutil
import sys
import threading
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from noisyrnn.data.base import Dataset
from noisyrnn.models import SequenceClassifier
from noisyrnn.pipeline import CompareConfig, EvaluateConfig, compare, train_run, train_seeds
from noisyrnn.pipeline import tracking as module
from noisyrnn.pipeline.compare import RunTask, run_task, run_task_group
from noisyrnn.pipeline.tracking import LOGGERS, check_logger, check_reachable, usable_logger
from noisyrnn.pipeline.train import build_model, run_path
from noisyrnn.run_folder import write_json
from noisyrnn.training import RunFolder, TrainConfig
from noisyrnn.training.run import Run

Row = dict[str, float]
QUICK = EvaluateConfig(strengths={"white_noise": [0.5]}, draws=2)
NOWHERE = "http://me:secret@127.0.0.1:9"
"""An address at which nothing listens."""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def config(waves_file: Path) -> TrainConfig:
    return TrainConfig(dataset=str(waves_file), hidden_size=4, epochs=3, batch_size=16, step_size=0.2, clip_norm=1.0)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with the experiment and no run, made as a first run would; that takes seconds."""
    output = tmp_path_factory.mktemp("a store") / "made anew"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        pytest.importorskip("mlflow", reason="the extra tracking is not installed")
        check_reachable("mlflow", [RunFolder(output / "run")])
    assert {path.name for path in output.iterdir()} - {".mlflow.lock"} == {"mlflow.db"}
    assert not list(output.parent.glob("made%*"))
    return output / "mlflow.db"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The folder of the runs."""
    folder = tmp_path / "the runs"
    folder.mkdir()
    return folder


@pytest.fixture
def store(output: Path, empty_store: Path) -> None:
    """MLflow's database lies in the folder of the runs."""
    shutil.copy(empty_store, output)


@pytest.fixture(params=["tensorboard", "mlflow"])
def logger(request: pytest.FixtureRequest) -> str:
    """A logger's name; what it needs is there."""
    pytest.importorskip(request.param, reason="the extra tracking is not installed")
    if request.param == "mlflow":
        request.getfixturevalue("store")
    return request.param


def rows_of(folder: RunFolder) -> list[Row]:
    with folder.metrics.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def client(output: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{output}/mlflow.db")


def mlflow_runs(output: Path) -> list[Any]:
    return list(client(output).search_runs([client(output).get_experiment_by_name("noisyrnn").experiment_id]))


def points(logger: str, folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every point of every metric that a run's log holds."""
    if logger == "mlflow":
        (run,) = [run for run in mlflow_runs(folder.path.parent) if run.info.run_name == folder.path.name]
        history = {key: client(folder.path.parent).get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        return {key: [(point.step, point.value) for point in found] for key, found in history.items()}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    return {key: [(p.step, p.value) for p in events.Scalars(key)] for key in events.Tags()["scalars"]}


def expected(logger: str, rows: list[Row]) -> dict[str, list[tuple[int, float]]]:
    """The same of rows of metrics.csv; TensorBoard keeps float32."""
    kept: Callable[[float], float] = float if logger == "mlflow" else lambda value: float(np.float32(value))
    return {key: [(int(row["epoch"]), kept(row[key])) for row in rows] for key in rows[0]}


def without_seconds(held: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in held.items() if key != "seconds"}


def interrupt_after(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """The training is stopped at the end of the next epoch, before that is written."""
    end_epoch = Run.end_epoch

    def stop(run: Run, loss: float, accuracy: float) -> None:
        if run.progress.epoch > epoch:
            raise KeyboardInterrupt
        end_epoch(run, loss, accuracy)

    monkeypatch.setattr(Run, "end_epoch", stop)


def test_it_holds_what_metrics_csv_holds_and_changes_no_result(logger: str, config: TrainConfig, output: Path) -> None:
    plain = train_run(config, output=output.parent / "plain")
    folder = train_run(config, output=output, logger=logger)
    assert points(logger, folder) == expected(logger, rows_of(folder))
    assert folder.path.name == plain.path.name
    for name in ("model", "config"):
        assert getattr(folder, name).read_bytes() == getattr(plain, name).read_bytes()
    added = {path.name for path in folder.path.iterdir()} - {path.name for path in plain.path.iterdir()}
    assert added == {"tensorboard": {"tensorboard"}, "mlflow": {"mlflow.json"}}[logger]


def test_tensorboard_shows_the_settings_that_are_set(config: TrainConfig, output: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tracking is not installed")
    folder = train_run(config, output=output, logger="tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    assert set(shown) == set(settings_of(config))
    assert (shown["hidden_size"].number_value, shown["model"].string_value) == (4.0, "noisy")


def settings_of(config: TrainConfig) -> dict[str, str]:
    return {key: str(value) for key, value in dataclasses.asdict(config).items() if value is not None and value != ()}


@pytest.mark.usefixtures("store")
def test_mlflow_run_has_name_settings_and_status(config: TrainConfig, output: Path) -> None:
    folder = train_run(dataclasses.replace(config, decay_epochs=(1, 2)), output=output, logger="mlflow")
    (run,) = mlflow_runs(output)
    assert (run.info.run_name, run.info.status) == (folder.path.name, "FINISHED")
    assert run.data.params == settings_of(dataclasses.replace(config, decay_epochs=(1, 2)))
    assert run.data.params["decay_epochs"] == "(1, 2)"


def test_a_finished_run_logs_nothing_and_asks_nobody(
    logger: str, config: TrainConfig, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_run(config, output=output, logger=logger)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    assert train_run(config, output=output, logger=logger) == folder
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_seeds([config], output=output, logger=logger)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_resumed_run_goes_on_and_logs_no_epoch_twice(
    logger: str, seconds: float, config: TrainConfig, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train_run(config, output=output, logger=logger, checkpoint_seconds=seconds)
    folder = RunFolder(run_path(config, output))
    assert points(logger, folder) == expected(logger, rows_of(folder)[:2])
    if logger == "mlflow":
        assert [run.info.status for run in mlflow_runs(output)] == ["KILLED"]
    train_run(config, output=output, logger=logger, resume=True)  # without a checkpoint from the start
    found, rows = points(logger, folder), rows_of(folder)
    assert without_seconds(found) == without_seconds(expected(logger, rows))
    assert [step for step, _ in found["seconds"]] == [1, 2, 3]
    if logger == "mlflow":
        assert [run.info.status for run in mlflow_runs(output)] == ["FINISHED"]


def test_epochs_from_before_the_logger_are_added(
    logger: str, config: TrainConfig, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train_run(config, output=output, checkpoint_seconds=0.0)
    folder = train_run(config, output=output, logger=logger, resume=True)
    assert points(logger, folder) == expected(logger, rows_of(folder))


@pytest.mark.usefixtures("store")
def test_mlflow_run_runs_again_while_it_is_resumed(
    config: TrainConfig, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_run(config, output=output, logger="mlflow")
    folder.summary.unlink()
    finish, seen = Run.finish, []

    def look(run: Run) -> Any:
        seen.extend(run.info.status for run in mlflow_runs(output))
        return finish(run)

    monkeypatch.setattr(Run, "finish", look)
    train_run(config, output=output, logger="mlflow", resume=True)
    assert [*seen, *(run.info.status for run in mlflow_runs(output))] == ["RUNNING", "FINISHED"]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("lost", ["deleted", "of another server"])
def test_mlflow_run_that_is_gone_is_begun_anew(lost: str, config: TrainConfig, output: Path) -> None:
    folder = train_run(config, output=output, logger="mlflow")
    (run,) = mlflow_runs(output)
    record = folder.path / "mlflow.json"
    if lost == "deleted":
        client(output).delete_run(run.info.run_id)
    else:
        client(output).update_run(run.info.run_id, name="another")
        write_json(record, {"run_id": "0" * 32})
    folder.summary.unlink()
    train_run(config, output=output, logger="mlflow", resume=True)
    assert points("mlflow", folder) == expected("mlflow", rows_of(folder))


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("batch_seeds", [False, True])
def test_mlflow_status_of_runs_of_which_one_diverges(
    batch_seeds: bool, config: TrainConfig, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(config: TrainConfig, dataset: Dataset) -> SequenceClassifier:
        model = build_model(config, dataset)
        if config.seed == 2:
            with torch.no_grad():
                model.readout.weight.mul_(math.inf)
        return model

    for name in ("noisyrnn.pipeline.train", "noisyrnn.pipeline.seeds"):
        monkeypatch.setattr(sys.modules[name], "build_model", build)
    configs = [dataclasses.replace(config, seed=seed) for seed in (1, 2, 3)]
    ends = train_seeds(configs, batch_seeds=batch_seeds, output=output, logger="mlflow")
    status = {run.info.run_name: run.info.status for run in mlflow_runs(output)}
    assert [status[path.name] for path in ends] == ["FINISHED", "FAILED", "FINISHED"]
    for seed in (1, 3):
        folder = RunFolder(run_path(configs[seed - 1], output))
        assert points("mlflow", folder) == expected("mlflow", rows_of(folder))


def test_a_logger_that_fails_costs_one_warning(
    logger: str, config: TrainConfig, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = {"tensorboard": module._TensorBoard, "mlflow": module._MLflow}[logger]
    add, tries = log.add, []

    def fail(self: Any, row: Row) -> None:
        tries.append(row["epoch"])
        if row["epoch"] == 2:
            raise OSError("No space left on device")
        add(self, row)

    monkeypatch.setattr(log, "add", fail)
    with pytest.warns(UserWarning, match=f"The logger {logger} failed") as told:
        folder = train_run(config, output=output, logger=logger)
    assert [str(warning.message) for warning in told if warning.category is UserWarning] == [
        f"The logger {logger} failed and is left out from here on: No space left on device. "
        f"metrics.csv of {folder.path.name} has all epochs."
    ]
    assert tries == [1, 2]
    assert folder.finished and len(rows_of(folder)) == 3
    assert points(logger, folder) == expected(logger, rows_of(folder)[:1])


def test_tensorboard_folder_that_cannot_be_made(config: TrainConfig, output: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tracking is not installed")
    path = run_path(config, output)
    path.mkdir()
    (path / "tensorboard").write_text("in the way")
    with pytest.warns(UserWarning, match=r"The logger tensorboard failed .*File exists.* metrics\.csv of waves-noisy"):
        assert train_run(config, output=output, logger="tensorboard").finished


def test_mlflow_server_without_an_answer(config: TrainConfig, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra tracking is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    sentence = (
        r"^logger must be 'csv' where MLflow does not answer, got 'mlflow' at http://\*\*\*@127\.0\.0\.1:9 "
        r"\(.*refused.*\) Start its server, or set MLFLOW_TRACKING_URI\.$"
    )
    other = output.parent / "others"
    for start in (
        lambda: train_run(config, output=other, logger="mlflow"),
        lambda: train_seeds([config], output=other, logger="mlflow"),
        lambda: compare(
            CompareConfig(models=["noisy"], train={"dataset": config.dataset}, logger="mlflow"), output=other
        ),
    ):
        with pytest.raises(ValueError, match=sentence) as caught:
            start()
        assert "secret" not in str(caught.value)
    assert not list(other.rglob("config.json"))
    folders = [RunFolder(other / "a"), RunFolder(other / "b")]
    with pytest.warns(UserWarning, match=r"The metrics of a, b go to metrics\.csv alone: logger must be 'csv' where"):
        assert usable_logger("mlflow", folders) == "csv"


def test_mlflow_database_that_cannot_be_opened(
    config: TrainConfig, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the extra tracking is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    with pytest.raises(ValueError, match=r"got 'mlflow' at nonsense://store \(.*\) Start its server, or set MLFLOW"):
        train_run(config, output=output, logger="mlflow")


@pytest.mark.usefixtures("store")
def test_mlflow_store_that_the_user_has_set(config: TrainConfig, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{output}/mlflow.db")
    folder = train_run(config, output=output.parent / "elsewhere", logger="mlflow")
    assert [run.info.run_name for run in mlflow_runs(output)] == [folder.path.name]
    assert not (output.parent / "elsewhere" / "mlflow.db").exists()


def test_any_answer_of_a_server_is_one() -> None:
    pytest.importorskip("mlflow", reason="the extra tracking is not installed")

    answers: list[int] = []

    class Unable(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.append(501)
            self.send_error(501)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Unable) as server:
        asked = threading.Thread(target=server.handle_request, daemon=True)
        asked.start()
        module._ask_server(f"http://127.0.0.1:{server.server_port}")
        asked.join(10)
    assert answers == [501]  # it was asked once, and its error is an answer


@pytest.mark.parametrize("batch_seeds", [False, True])
def test_runs_of_a_comparison_go_on_without_a_logger_that_is_gone(
    batch_seeds: bool, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the extra tracking is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOWHERE)
    tasks = [
        RunTask(
            config=dataclasses.replace(config, epochs=1, seed=seed),
            evaluation=QUICK,
            output=tmp_path,
            logger="mlflow",
        )
        for seed in (1, 2)
    ]
    with pytest.warns(UserWarning, match=r"The metrics of waves-.* go to metrics\.csv alone"):
        ends = run_task_group(tasks) if batch_seeds else [run_task(task) for task in tasks]
    assert ends == [(task.path, None) for task in tasks]


@pytest.mark.parametrize("batch_seeds", [False, True])
def test_a_comparison_passes_the_logger_on(
    batch_seeds: bool, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="the extra tracking is not installed")
    monkeypatch.setattr("noisyrnn.report.write_report", lambda *_, **__: tmp_path)
    train = {"dataset": config.dataset, "hidden_size": 4, "epochs": 1}
    settings = CompareConfig(
        models=["noisy"], seeds=2, train=train, evaluation=QUICK, batch_seeds=batch_seeds, logger="tensorboard"
    )
    assert compare(settings, output=tmp_path) == (tmp_path, {})
    folders = [RunFolder(path) for path in tmp_path.glob("waves-*")]
    assert len(folders) == 2
    for folder in folders:
        assert points("tensorboard", folder) == expected("tensorboard", rows_of(folder))


def test_the_first_process_alone_logs_to_tensorboard(
    config: TrainConfig, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="the extra tracking is not installed")
    monkeypatch.setattr(Fabric, "is_global_zero", property(lambda self: False))
    folder = train_run(config, output=output, logger="tensorboard")
    assert not (folder.path / "tensorboard").exists()


@pytest.mark.parametrize("package", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named(
    package: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    sentence = (
        rf"^logger must be 'csv' without the package {package}, got '{package}'\. "
        r"Install it: pip install noisyrnn\[tracking\]\.$"
    )
    for start in (
        lambda: train_run(config, output=tmp_path / "runs", logger=package),
        lambda: train_seeds([config], output=tmp_path / "runs", logger=package),
        lambda: CompareConfig(models=["noisy"], logger=package),
    ):
        with pytest.raises(ValueError, match=sentence):
            start()
    assert not (tmp_path / "runs").exists()
    check_logger("csv")
    with pytest.warns(UserWarning, match=rf"The metrics of a go to metrics\.csv alone: .*the package {package}"):
        assert usable_logger(package, [RunFolder(tmp_path / "a")]) == "csv"


def test_an_unknown_logger(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"logger must be one of csv, mlflow, tensorboard, got 'wandb'\."):
        train_run(config, output=tmp_path, logger="wandb")
    assert set(LOGGERS) == {"csv", "mlflow", "tensorboard"}


@pytest.mark.parametrize("made_meanwhile", [True, False])
def test_an_experiment_that_another_process_makes_first(made_meanwhile: bool) -> None:
    exceptions = pytest.importorskip("mlflow.exceptions", reason="the extra tracking is not installed")

    class Client:
        asked = 0

        def get_experiment_by_name(self, name: str) -> Any:
            assert name == "noisyrnn"
            self.asked += 1
            return type("Experiment", (), {"experiment_id": "7"}) if made_meanwhile and self.asked == 2 else None

        def create_experiment(self, name: str) -> str:
            raise exceptions.MlflowException("it exists, or the disk is full")

    if made_meanwhile:
        assert module._experiment(Client()) == "7"
    else:
        with pytest.raises(exceptions.MlflowException, match="the disk is full"):
            module._experiment(Client())
