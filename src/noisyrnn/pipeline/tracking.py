"""Sends training metrics to TensorBoard or MLflow, in addition to the run's metrics.csv."""

import importlib
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from noisyrnn.checks import check_choice
from noisyrnn.files import read_json, write_json
from noisyrnn.progress import announce_epoch
from noisyrnn.redact import sqlite_url, without_passwords
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.config import TrainConfig

Log = tuple[Callable[..., None], Callable[[str], None]]  # sends the metrics of an epoch; closes with a status
LOGGERS = {
    "csv": "metrics.csv in the run's folder, which is always written",
    "tensorboard": "the folder tensorboard in the run's folder",
    "mlflow": "the server that MLFLOW_TRACKING_URI names, or mlflow.db in the output folder",
}


def check_logger(name: str) -> None:
    """Raise `ValueError` unless `name` is one of `LOGGERS` and its package is installed."""
    check_choice("logger", name, LOGGERS)
    try:
        importlib.import_module(name)  # each logger has the name of its package; csv is Python's own
    except ImportError as error:
        raise ValueError(f"`--logger {name}` needs the package {name}: pip install 'noisyrnn[tracking]'") from error


class Tracking:
    """Sends the metrics of one run to a logger, and its epochs to who shows progress: the `on_epoch` of `fit`.

    Epochs that metrics.csv holds when the training starts are not sent again, so a resumed run logs no epoch twice. A
    logger that fails is dropped with a warning, and the training continues.
    """

    def __init__(self, name: str, folder: RunFolder, config: TrainConfig) -> None:
        self._name, self._run, self._path = name, folder.path.name, str(folder.path)
        self._last_epoch = len(folder.metrics.read_text().splitlines()) - 1 if folder.metrics.is_file() else 0
        settings = {key: str(value) for key, value in config.to_dict().items() if value not in (None, [])}
        start = {"tensorboard": _tensorboard, "mlflow": _mlflow}.get(name)
        self._log: Log | None = None if start is None else self._try(start, folder, settings)

    def __call__(self, row: Mapping[str, float]) -> None:
        """Send the metrics of an epoch."""
        announce_epoch(self._path, int(row["epoch"]))
        if self._log is not None and row["epoch"] > self._last_epoch:
            self._try(self._log[0], row, int(row["epoch"]))

    def close(self, end: object = None) -> None:
        """Close the log of a run that ended with `end`: an exception, or anything else for success."""
        failure = "KILLED" if isinstance(end, KeyboardInterrupt) else "FAILED"
        if self._log is not None:
            self._try(self._log[1], failure if isinstance(end, BaseException) else "FINISHED")

    def _try(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # whatever it is, the training is worth more
            self._log = None
            reason = without_passwords((str(error).strip().splitlines() or [type(error).__name__])[0].rstrip("."))
            warnings.warn(f"{self._run} continues without --logger {self._name} ({reason}).", stacklevel=3)


def _tensorboard(folder: RunFolder, settings: dict[str, str]) -> Log:
    from torch.utils import tensorboard

    writer: Any = tensorboard.SummaryWriter(str(folder.path / "tensorboard"))
    for summary in tensorboard.summary.hparams(settings, {"validation_accuracy": 0.0, "validation_loss": 0.0}):
        writer.file_writer.add_summary(summary)

    def send(row: Mapping[str, float], epoch: int) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    return send, lambda status: writer.close()


def _mlflow(folder: RunFolder, settings: dict[str, str]) -> Log:
    import mlflow

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seconds without a server, not four minutes
    default = sqlite_url(folder.path.resolve().parent / "mlflow.db")
    uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else default
    client: Any = mlflow.MlflowClient(uri)
    record = folder.path / "mlflow.json"
    if record.is_file():
        run_id = read_json(record)["run_id"]
        client.update_run(run_id, status="RUNNING")
    else:
        with suppress(mlflow.MlflowException):  # it exists
            client.create_experiment("noisyrnn")
        experiment = client.get_experiment_by_name("noisyrnn")
        run_id = client.create_run(experiment.experiment_id, run_name=folder.path.name).info.run_id
        client.log_batch(run_id, params=[mlflow.entities.Param(*setting) for setting in settings.items()])
        write_json(record, {"run_id": run_id})

    def send(row: Mapping[str, float], epoch: int) -> None:
        for name, value in row.items():
            client.log_metric(run_id, name, value, step=epoch)

    return send, lambda status: client.set_terminated(run_id, status)
