"""Streams training metrics to TensorBoard or MLflow, in addition to the run's metrics.csv."""

import csv
import importlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from noisyrnn.checks import check_choice
from noisyrnn.pipeline.databases import create_whole, sqlite_path, sqlite_url
from noisyrnn.redact import without_passwords
from noisyrnn.run_folder import RunFolder, check_writable, read_json, write_json
from noisyrnn.training.config import TrainConfig

LOGGERS = {
    "csv": "metrics.csv in the run's folder, which is always written, and nothing else",
    "tensorboard": "the folder tensorboard within the run's folder",
    "mlflow": "the server that MLFLOW_TRACKING_URI names, or mlflow.db in the output folder",
}
EXPERIMENT = "noisyrnn"
"""The MLflow experiment of all runs."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


def check_logger(name: str) -> None:
    """Raise `ValueError` unless `name` is one of `LOGGERS` and its package is installed.

    Example:
        >>> check_logger("tensorbord")
        Traceback (most recent call last):
        ValueError: logger must be one of csv, mlflow, tensorboard, got 'tensorbord'. Did you mean 'tensorboard'?
    """
    check_choice("logger", name, LOGGERS)
    if name == "csv":
        return
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"logger must be 'csv' without the package {name}, got {name!r}. "
            "Install it: pip install noisyrnn[tracking]."
        ) from error


def check_reachable(name: str, folders: Sequence[RunFolder]) -> None:
    """Raise unless the logger can take the runs of these folders, which lie side by side; finished ones need none.

    Raises:
        ValueError: If there is no answer, or the store cannot be opened.
    """
    if name != "mlflow" or all(map(_finished, folders)):  # TensorBoard writes where the run itself does
        return
    output = folders[0].path.parent
    check_writable(output)
    uri = _tracking_uri(output)
    try:
        if uri.startswith(("http:", "https:")):
            _ask_server(uri)
        _experiment(_client(output))
    except Exception as error:  # of MLflow, of the database, of the network
        raise ValueError(
            f"logger must be 'csv' where MLflow does not answer, got 'mlflow' at {without_passwords(uri)} "
            f"({_sentence(error)}) Start its server, or set MLFLOW_TRACKING_URI."
        ) from error


def usable_logger(name: str, folders: Sequence[RunFolder]) -> str:
    """`name`, or "csv" with a warning where it cannot be used any more: one of many runs is not given up for that."""
    try:
        check_logger(name)
        check_reachable(name, folders)
    except ValueError as error:
        warnings.warn(f"The metrics of {_names(folders)} go to metrics.csv alone: {error}", stacklevel=2)
        return "csv"
    return name


class Tracking:
    """A run as its logger sees it: called with the metrics of an epoch, and a context that ends with the training.

    A resumed training goes on where it was: an epoch that is there already is not logged again, and one that is
    missing is read from metrics.csv. A logger that fails costs one warning; the training and metrics.csv go on.

    Args:
        name: One of `LOGGERS`.
        folder: The run's folder, which exists; its name is the name of the run.
        config: The settings that are set are logged too.
    """

    def __init__(self, name: str, folder: RunFolder, config: TrainConfig) -> None:
        self._name, self._folder = name, folder
        self._log: _Log | None = None
        if name == "csv":
            return
        settings = {key: value for key, value in asdict(config).items() if value not in (None, ())}
        with self._failing_once():
            self._log = _LOGS[name](folder, settings)
            for row in _rows(folder.metrics):
                self(row)

    def __call__(self, row: Mapping[str, float]) -> None:
        """Log the metrics of one epoch, unless it is there already."""
        if self._log is not None and row["epoch"] > self._log.last_epoch:
            with self._failing_once():
                self._log.add(row)
                self._log.last_epoch = int(row["epoch"])

    def end(self, status: Status) -> None:
        """Close the log; what comes later is left out."""
        if self._log is not None:
            with self._failing_once():
                self._log.end(status)
            self._log = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end("FINISHED" if error is None else "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")

    @contextmanager
    def _failing_once(self) -> Iterator[None]:
        """What fails within is told, and the log is left out from then on."""
        try:
            yield
        except Exception as error:  # whatever it is, the training is worth more
            self._log = None
            reason = f"The logger {self._name} failed and is left out from here on: {_sentence(error)}"
            warnings.warn(f"{reason} metrics.csv of {self._folder.path.name} has all epochs.", stacklevel=4)


class _Log(Protocol):
    """Where the metrics of one run go.

    Attributes:
        last_epoch: The last epoch that is there; 0 for none.
    """

    last_epoch: int

    def add(self, row: Mapping[str, float]) -> None: ...

    def end(self, status: Status) -> None: ...


class _TensorBoard:
    """The folder `tensorboard` of a run. The settings go with the first epoch, so that one table shows both."""

    def __init__(self, folder: RunFolder, settings: Mapping[str, Any]) -> None:
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self._settings = dict(settings)
        self._logger = TensorBoardLogger(folder.path, name="", version="tensorboard")
        self.last_epoch = 0
        if Path(self._logger.log_dir).is_dir():
            written = EventAccumulator(self._logger.log_dir).Reload()
            if "epoch" in written.Tags()["scalars"]:
                self.last_epoch = max(event.step for event in written.Scalars("epoch"))
        _ = self._logger.experiment  # makes the folder: what cannot be written is told before the first epoch

    def add(self, row: Mapping[str, float]) -> None:
        epoch = int(row["epoch"])
        if self.last_epoch == 0:
            self._logger.log_hyperparams(self._settings, dict(row), epoch)
        else:
            self._logger.log_metrics(row, epoch)
        self._logger.save()  # on disk now: a process that is killed loses nothing

    def end(self, status: Status) -> None:
        self._logger.finalize(status)


class _MLflow:
    """A run of the MLflow experiment `EXPERIMENT`; `mlflow.json` in the run's folder says which one."""

    def __init__(self, folder: RunFolder, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self._client = _client(folder.path.parent)
        record = folder.path / "mlflow.json"
        run = self._known(record)
        if run is None:
            run = self._client.create_run(_experiment(self._client), run_name=folder.path.name)
            params = [Param(key, str(value)) for key, value in settings.items()]
            self._client.log_batch(run.info.run_id, params=params)
            write_json(record, {"run_id": run.info.run_id})
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._run_id = run.info.run_id
        self.last_epoch = int(run.data.metrics.get("epoch", 0))

    def _known(self, record: Path) -> Any:
        """The run that was begun before, if there is one that this server still has."""
        from mlflow.exceptions import MlflowException

        if not record.is_file():
            return None
        try:
            run = self._client.get_run(read_json(record)["run_id"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def add(self, row: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now, epoch = int(time.time() * 1000), int(row["epoch"])
        metrics = [Metric(key, value, now, epoch) for key, value in row.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def end(self, status: Status) -> None:
        self._client.set_terminated(self._run_id, status)


_LOGS: dict[str, Callable[[RunFolder, Mapping[str, Any]], _Log]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow}


def _client(output: Path) -> Any:
    """MLflow's client of the store for runs in this folder; what is set for the whole process stays as it is."""
    from mlflow import MlflowClient

    uri = _tracking_uri(output)
    file = sqlite_path(uri) if uri.startswith("sqlite:") else None
    if file is not None:  # MLflow makes the tables of a new file in many steps, and without a lock
        create_whole(file, _create_tables)
    client = MlflowClient(uri)
    escaped = Path(uri.removeprefix("sqlite:///")).parent
    if file is not None and escaped != file.parent:
        with suppress(OSError):  # MLflow makes a folder of the address as it is written, and leaves it empty
            os.removedirs(escaped)
    return client


def _create_tables(url: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(url)
    client.search_experiments(max_results=1)
    client._tracking_client.store.engine.dispose()


def _tracking_uri(output: Path) -> str:
    """The store that the user has set, or else a file in the output folder."""
    import mlflow

    if mlflow.is_tracking_uri_set():
        return mlflow.get_tracking_uri()
    return sqlite_url((output / "mlflow.db").resolve())


def _ask_server(uri: str) -> None:
    """Raise unless there is an answer, whatever it says: MLflow's client alone would try again for four minutes."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    http_request(get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=20, raise_on_status=False)


def _experiment(client: Any) -> str:
    """The number of the experiment, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return client.create_experiment(EXPERIMENT)
        except MlflowException:  # another process has made it meanwhile
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    return found.experiment_id


def _finished(folder: RunFolder) -> bool:
    with suppress(ValueError):  # a damaged file is for the run itself to tell of
        return folder.config.is_file() and folder.finished
    return False


def _rows(metrics: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv; none where there is no file."""
    if not metrics.is_file():
        return []
    with metrics.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _names(folders: Sequence[RunFolder]) -> str:
    return ", ".join(folder.path.name for folder in folders)


def _sentence(error: Exception) -> str:
    """The first line of what an error says, with a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return without_passwords(lines[0]).rstrip(".") + "."
