"""TensorBoard and MLflow receive the rows of metrics.csv; whatever they do, the training ends the same."""

import csv
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning_fabric import Fabric

from noisyrnn.pipeline import CompareConfig, EvaluateConfig, RunContext, compare, train_run, train_seeds
from noisyrnn.pipeline import tracking as module
from noisyrnn.pipeline.tracking import Tracking
from noisyrnn.pipeline.train import run_path
from noisyrnn.training import RunFolder, TrainConfig

Points = dict[str, list[tuple[int, float]]]
ROW = {"epoch": 1.0, "validation_loss": 0.5}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISYRNN_KERNEL", "reference")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MLflow's database; its tables take seconds to create."""
    mlflow = pytest.importorskip("mlflow", reason="the extra tracking is not installed")
    url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    mlflow.MlflowClient(url).search_experiments()
    return url


@pytest.fixture(params=["tensorboard", pytest.param("mlflow", marks=pytest.mark.slow)])
def logger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A logger's name; what it needs is there."""
    pytest.importorskip(request.param, reason="the extra tracking is not installed")
    if request.param == "mlflow":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("store"))
    return request.param


@pytest.fixture
def config(waves_file: Path) -> TrainConfig:
    return TrainConfig(
        dataset=str(waves_file), hidden_size=4, epochs=3, batch_size=16, clip_norm=1.0, options={"step_size": 0.2}
    )


def mlflow_run(folder: RunFolder, uri: str | None = None) -> Any:
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("noisyrnn").experiment_id
    runs = client.search_runs([experiment], f"attributes.run_name = '{folder.path.name}'")
    (run,) = [run for run in runs if folder.path.name == run.info.run_name][:1]
    return run


def points(logger: str, folder: RunFolder) -> Points:
    """Step and value of every point of every metric in a run's log."""
    if logger == "mlflow":
        import mlflow

        run, client = mlflow_run(folder), mlflow.MlflowClient()
        history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        return {name: [(point.step, point.value) for point in metric] for name, metric in history.items()}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    return {name: [(p.step, p.value) for p in events.Scalars(name)] for name in events.Tags()["scalars"]}


def rows_of(logger: str, folder: RunFolder) -> Points:
    """The same of metrics.csv; TensorBoard keeps float32."""
    rounded: Callable[[float], float] = float if logger == "mlflow" else lambda value: float(np.float32(value))
    with folder.metrics.open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return {name: [(int(row["epoch"]), rounded(row[name])) for row in rows] for name in rows[0]}


def test_it_has_the_rows_of_metrics_csv_and_changes_no_result(logger: str, config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, decay_epochs=(1, 2))
    plain = train_run(config, RunContext(output=tmp_path / "plain"))
    folder = train_run(config, RunContext(output=tmp_path / "runs", logger=logger))
    assert points(logger, folder) == rows_of(logger, folder)
    for name in ("model", "config"):
        assert getattr(folder, name).read_bytes() == getattr(plain, name).read_bytes()
    settings = {key: str(value) for key, value in config.to_dict().items() if value is not None}
    if logger == "mlflow":
        run = mlflow_run(folder)
        assert (run.info.status, run.data.params) == ("FINISHED", settings)
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
        content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
        shown = HParamsPluginData.FromString(content).session_start_info.hparams
        assert {name: value.string_value for name, value in shown.items()} == settings
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert (
        train_run(config, RunContext(output=tmp_path / "runs", logger=logger)) == folder
    )  # a finished run logs nothing
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_resumed_run_logs_no_epoch_twice(
    logger: str, seconds: float, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `seconds` 1e9 there is no checkpoint after the first epoch, which is trained again."""
    folder = RunFolder(run_path(config, tmp_path))

    def interrupted(self: Tracking, row: dict[str, float]) -> None:
        send(self, row)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    send = Tracking.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Tracking, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_run(config, RunContext(output=tmp_path, logger=logger, checkpoint_seconds=seconds))
    assert points(logger, folder) == rows_of(logger, folder)
    if logger == "mlflow":
        assert mlflow_run(folder).info.status == "KILLED"
    train_run(config, RunContext(output=tmp_path, logger=logger, resume=True))
    logged, rows = points(logger, folder), rows_of(logger, folder)
    assert [epoch for epoch, _ in logged.pop("seconds")] == [1, 2, 3]
    rows.pop("seconds")  # of epochs that were trained twice
    assert logged == rows
    if logger == "mlflow":
        assert mlflow_run(folder).info.status == "FINISHED"


@pytest.mark.parametrize("batch_seeds", [False, True])
def test_mlflow_status_of_runs_of_which_one_diverges(
    batch_seeds: bool,
    store: str,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    diverging: Callable[[int], None],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    diverging(2)
    configs = [dataclasses.replace(config, seed=seed, hidden_size=5 + batch_seeds) for seed in (1, 2)]
    folders = list(
        map(RunFolder, train_seeds(configs, RunContext(output=tmp_path, logger="mlflow"), batch_seeds=batch_seeds))
    )
    assert [mlflow_run(folder).info.status for folder in folders] == ["FINISHED", "FAILED"]
    assert points("mlflow", folders[0]) == rows_of("mlflow", folders[0])


def test_a_logger_that_fails_costs_one_warning(
    logger: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    def full(folder: RunFolder, settings: dict[str, str]) -> Any:
        def send(row: dict[str, float], epoch: int) -> None:
            sent.append(epoch)
            raise OSError("No space left on http://me:secret@host")

        return send, None

    monkeypatch.setattr(module, f"_{logger}", full)
    with pytest.warns(UserWarning, match=rf"continues without --logger {logger} \(No space .*\*\*\*@host\)") as shown:
        folder = train_run(config, RunContext(output=tmp_path, logger=logger))
    assert len([warning for warning in shown if warning.category is UserWarning]) == 1
    assert sent == [1]
    assert folder.finished


@pytest.mark.parametrize(
    "uri", [pytest.param("http://me:secret@127.0.0.1:9", marks=pytest.mark.slow), "nonsense://store"]
)
def test_mlflow_without_a_server(
    uri: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the extra tracking is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.warns(UserWarning, match=r"continues without --logger mlflow \(.*\)") as shown:
        tracking = Tracking("mlflow", RunFolder(tmp_path / "run"), config)
    assert not any("secret" in str(warning.message) for warning in shown)
    tracking(ROW)
    tracking.close()


def test_mlflow_file_in_the_output_folder(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra tracking is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = RunFolder(tmp_path / "the runs" / "run")
    folder.path.mkdir(parents=True)
    tracking = Tracking("mlflow", folder, config)
    tracking(ROW)
    assert mlflow_run(folder, f"sqlite:///{tmp_path}/the runs/mlflow.db").data.metrics == ROW


def test_a_comparison_passes_the_logger_on(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="the extra tracking is not installed")
    monkeypatch.setattr("noisyrnn.report.write_report", lambda *_, **__: tmp_path)
    for batch_seeds in (False, True):
        settings = CompareConfig(
            models=["noisy"],
            seeds=2,
            train={"dataset": config.dataset, "hidden_size": 4, "epochs": 1},
            evaluation=EvaluateConfig(strengths={"white_noise": [0.5]}, draws=2),
            batch_seeds=batch_seeds,
        )
        context = RunContext(output=tmp_path / str(batch_seeds), logger="tensorboard")
        assert compare(settings, context) == (tmp_path, {})
    folders = list(map(RunFolder, tmp_path.glob("*/waves-*")))
    assert len(folders) == 4
    for folder in folders:
        assert points("tensorboard", folder) == rows_of("tensorboard", folder)


def test_only_the_first_process_logs(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="the extra tracking is not installed")
    monkeypatch.setattr(Fabric, "is_global_zero", property(lambda self: False))
    folder = train_run(config, RunContext(output=tmp_path, logger="tensorboard"))
    assert not (folder.path / "tensorboard").exists()


@pytest.mark.parametrize("package", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"^`--logger {package}` needs the package {package}: pip install 'noisyrnn\[tracking\]'$"
    with pytest.raises(ValueError, match=message):
        RunContext(logger=package)
