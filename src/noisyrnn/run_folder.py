"""The folder of one run: its name, its files, and whether a stored result still belongs to the run."""

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisyrnn.files import content_digest, file_digest, read_json, remove_leftovers, write_atomically

METRICS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "learning_rate",
    "seconds",
)
"""Columns of `metrics.csv`; without the accuracies for a regression, and those of validation where there was none."""

_NUMBER = (int, float)
_DATASET_TYPES: dict[str, Any] = {
    **dict.fromkeys(("name", "source", "missing"), str),
    "nominal_step": _NUMBER,
    **dict.fromkeys(("steps", "input_size", "classes", "targets", "train", "validation"), int),
    **dict.fromkeys(("class_names", "channel_names", "value_range", "image_shape"), list),
}
_SUMMARY_TYPES: dict[str, Any] = {
    "error": str,
    "metrics_sha256": str,
    "model_sha256": str,
    "continued_from": dict,
    **dict.fromkeys(("parameters", "seconds", "epochs", "best_epoch"), _NUMBER),
    **dict.fromkeys(("best_validation_accuracy", "best_validation_loss"), _NUMBER),
}
_NAMES_IN_MESSAGES = {
    "train": "the training part",
    "validation": "the validation part",
    "test": "the test part",
    "config": "config.json",
    "model": "model.safetensors",
    "last_model": "last.safetensors",
    "results": "the way noisyrnn computes it",
}


def failure_message(error: BaseException) -> str:
    """Return the message of an error that ends a run, for the command line and for `summary.json`."""
    if isinstance(error, MemoryError):
        reason = f" ({str(error).rstrip('.')})" if str(error) else ""
        return f"Memory ran out{reason}. Use smaller sizes, fewer workers or a larger machine."
    return str(error) or type(error).__name__


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences between two records of dependencies, such as "the labels of the test part".

    A record maps a name ("test") to a value, or to one value for each of its fields ("labels").
    """
    changed = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        shown = _NAMES_IN_MESSAGES.get(name, f"the {name.replace('_', ' ')}")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            shown = f"the {listed(changed_names(old, new))} of {shown}"
        changed.append(shown)
    return changed


def changed_names(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of the entries that differ."""
    return [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]


def listed(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), *names[-1:]])


def folder_name(name: str, identity: Mapping[str, Any], *, suffix: str = "") -> str:
    """Return the name of a run's or a sweep's folder: `name-suffix-digest`, such as `digits-noisy-seed1-0a1b2c3d`.

    Args:
        name: Data set and label; characters that a file name should not have become underscores.
        identity: Everything that the results depend on and that is not at its default; the digest is computed from
            it. So no two runs share a folder, and a new setting with a default renames none.
        suffix: What else to show, such as the seed.
    """
    plain = re.sub(r"[^\w.-]+", "_", name)
    return "-".join([plain, *([suffix] if suffix else []), content_digest(identity)[:8]])


@dataclass(frozen=True)
class StoredResult:
    """The content of a result file, and whether it still belongs to its run.

    Args:
        content: Content of the file; empty if there is no file.
        stale: What has changed since the result was computed, such as "config.json and model.safetensors changed
            since"; empty if it still belongs to the run.
    """

    content: Mapping[str, Any]
    stale: str = ""

    @property
    def measured(self) -> bool:
        """Whether this is a result; an evaluation that failed leaves a file with its message."""
        return "depends_on" in self.content

    def is_measured_with(self, settings: Mapping[str, Any]) -> bool:
        """Return whether this is a result, stale or not, that was computed with `settings`."""
        return self.measured and bool(self.content.get("settings") == settings)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. Its readers check the digest and the types of what they return.

    Args:
        path: The folder.
    """

    path: Path

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Return the folder of an existing run, without the half-written files of processes that have ended.

        Raises:
            ValueError: If there is no run, or `config.json` cannot be read.
        """
        folder = cls(path)
        if not os.path.lexists(folder.config):
            inside = any(path.glob("*/config.json"))
            advice = f"It holds runs; name them: {path}/*-seed*" if inside else "Train one: noisyrnn train."
            raise ValueError(f"run must be a folder that holds a config.json, got {path}. {advice}")
        remove_leftovers(path)
        folder.read_config()
        return folder

    @property
    def config(self) -> Path:
        """Settings, data set and environment."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.path / "metrics.csv"

    @property
    def model(self) -> Path:
        """Weights of the epoch that training keeps: the best on validation data, unless `select` is another."""
        return self.path / "model.safetensors"

    @property
    def last_model(self) -> Path:
        """Weights of the last epoch."""
        return self.path / "last.safetensors"

    def epoch_model(self, epoch: int) -> Path:
        """Weights at the end of an epoch, from 1, for a run whose weights are kept after every epoch."""
        return self.path / "epochs" / f"{epoch}.safetensors"

    @property
    def checkpoint(self) -> Path:
        """Everything needed to resume training."""
        return self.path / "checkpoint.pt"

    @property
    def summary(self) -> Path:
        """The outcome of training."""
        return self.path / "summary.json"

    @property
    def robustness(self) -> Path:
        """Accuracy of `model` under perturbations."""
        return self.path / "robustness.json"

    @property
    def last_robustness(self) -> Path:
        """Accuracy of `last_model` under perturbations."""
        return self.path / "robustness-last.json"

    @property
    def baselines(self) -> Path:
        """Accuracy of baselines that need no training, on the sequences of the evaluation."""
        return self.path / "baselines.json"

    def weights_file(self, weights: str) -> Path:
        """Return `model` for the weights `"kept"`, `last_model` for `"last"`."""
        return self.last_model if weights == "last" else self.model

    def robustness_file(self, weights: str) -> Path:
        """Return `robustness` for the weights `"kept"`, `last_robustness` for `"last"`."""
        return self.last_robustness if weights == "last" else self.robustness

    @property
    def analysis(self) -> Path:
        """Theory diagnostics."""
        return self.path / "analysis.json"

    @property
    def finished(self) -> bool:
        """Whether training reached its end."""
        return self.read_summary()["status"] == "finished"

    def check_finished(self) -> None:
        """Raise `ValueError` unless training reached its end."""
        if not self.finished:
            raise ValueError(
                f"run must be finished, got {self.path}, which is not. Resume it: noisyrnn train --resume {self.path}."
            )

    def check_epochs_kept(self, count: int) -> None:
        """Raise `ValueError` unless the folder has the weights of its first `count` epochs."""
        for epoch in range(1, count + 1):
            if not self.epoch_model(epoch).is_file():
                raise ValueError(
                    f"keep_epochs must be given from the first epoch on, but {self.path} is past epoch {count} without "
                    f"the weights of epoch {epoch}. Train it again, in another output folder."
                )

    def read_config(self) -> dict[str, Any]:
        """Return the content of `config.json`: at least the objects `config`, with a label and a seed, and `dataset`.

        Raises:
            ValueError: If it cannot be read, lacks one of these, or an entry has another type.
        """
        content = read_json(self.config)
        settings = _read_object(content, "config", self.config)
        content = {"dataset": {}, "environment": {}, **content}
        for name in ("dataset", "environment"):
            _read_object(content, name, self.config)
        label, seed = settings.get("label"), settings.get("seed")
        if not isinstance(label, str) or type(seed) is not int:
            raise ValueError(
                f"{self.config} must hold a label and an integer seed, got {label!r} and {seed!r}. Train the run again."
            )
        _check_types(self.config, content["dataset"], _DATASET_TYPES)
        for name in ("value_range", "image_shape"):
            pair = content["dataset"].get(name)
            if pair is not None and not (len(pair) == 2 and all(type(value) in _NUMBER for value in pair)):
                raise ValueError(f"{self.config} must hold two numbers as {name}, got {pair!r}. Train the run again.")
        return content

    def read_summary(self) -> dict[str, Any]:
        """Return the content of `summary.json`; `status` is "finished", "failed", or "unfinished" if there is no file.

        Raises:
            ValueError: If it cannot be read, has no such status, or an entry has another type.
        """
        if not os.path.lexists(self.summary):
            return {"status": "unfinished"}
        content = read_json(self.summary)
        status = content.get("status")
        if status not in ("finished", "failed"):
            raise ValueError(
                f"{self.summary} must hold the status 'finished' or 'failed', got {status!r}. Train the run again."
            )
        _check_types(self.summary, content, _SUMMARY_TYPES)
        return content

    def write_metrics(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Replace the metrics by `rows`, all with the same keys."""
        rows = list(rows)
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.metrics, text.getvalue().encode())

    def read_metrics(self) -> dict[str, tuple[float, ...]]:
        """Return the columns of `metrics.csv`, without rows if there is no file.

        A last line that an interruption cut short is left out. A training that has ended records the digest of the
        file in its summary.

        Raises:
            ValueError: If it cannot be read, was changed since the training ended, or lacks a column or a number.
        """
        file, digest = self.metrics, self.read_summary().get("metrics_sha256")
        if not os.path.lexists(file):
            return {name: () for name in METRICS}
        if digest not in (None, file_digest(file)):
            raise ValueError(f"{file} must be as noisyrnn wrote it, got a file that was changed or damaged since.")
        try:
            lines = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"{file} must be a CSV file, got one that cannot be read ({error}). Train again."
            ) from error
        header, rows = (lines[0], lines[1:]) if lines else ([], [])
        regression = not any(name.endswith("_accuracy") for name in header)
        validated = any(name.startswith("validation_") for name in header)
        columns = [
            name
            for name in METRICS
            if not (regression and name.endswith("_accuracy")) and (validated or not name.startswith("validation_"))
        ]
        absent = [name for name in columns if name not in header]
        if absent:
            raise ValueError(
                f"metrics.csv must have the columns {', '.join(METRICS)}, got none named {absent[0]!r} in "
                f"{str(file)!r}. Train again."
            )
        numbers: list[dict[str, float]] = []
        for number, row in enumerate(rows, start=2):
            try:
                numbers.append({name: float(value) for name, value in zip(header, row, strict=True)})
            except ValueError as error:
                if number == len(lines):
                    break
                raise ValueError(
                    f"metrics.csv must hold numbers, got {','.join(row)!r} in line {number} of {str(file)!r}. "
                    "Train again."
                ) from error
        return {name: tuple(row[name] for row in numbers) for name in columns}

    def config_digest(self) -> str:
        """Return the SHA-256 of `config.json` without the version and the environment: no result depends on these."""
        content = self.read_config()
        return content_digest({name: content[name] for name in content if name not in ("version", "environment")})

    def foreign_model(self, weights: str = "kept") -> str:
        """Return why a file of weights is not the one that the training wrote; empty if it is, or if not known.

        Args:
            weights: `"kept"` or `"last"`.

        Raises:
            ValueError: If a file cannot be read.
        """
        file = self.weights_file(weights)
        written = self.read_summary().get("last_model_sha256" if weights == "last" else "model_sha256")
        if written is None or not os.path.lexists(file) or written == file_digest(file):
            return ""
        return f"{file} is not the file that the training of this run wrote, but one that was put there since."

    def dependencies(self, weights: str = "kept") -> dict[str, str]:
        """Return the digests of the files that every result of these weights depends on.

        The weights are left out if their file is missing: it may have been deleted to save space.
        """
        file = self.weights_file(weights)
        name = "last_model" if weights == "last" else "model"
        return {**({name: file_digest(file)} if os.path.lexists(file) else {}), "config": self.config_digest()}

    def read_result(self, file: Path, depends_on: Mapping[str, Any] | None = None) -> StoredResult:
        """Read a result file, and compare what the result depends on with what is there now.

        Args:
            file: `robustness`, `last_robustness` or `analysis`.
            depends_on: What the same computation would depend on now (default: `dependencies`); what it does not
                name is not compared.

        Raises:
            ValueError: If the file cannot be read, or an entry has another type.
        """
        if not os.path.lexists(file):
            return StoredResult({})
        content = read_json(file)
        for name in ("settings", "depends_on"):
            if name in content:
                _read_object(content, name, file, _DELETE)
        _check_types(file, content, {"error": str}, _DELETE)
        result = StoredResult(content)
        if not result.measured:
            return result
        weights = "last" if file == self.last_robustness else "kept"
        now = self.dependencies(weights) if depends_on is None else depends_on
        changed = changes({name: content["depends_on"].get(name) for name in now}, now)
        return StoredResult(content, f"{listed(changed)} changed since" if changed else "")


_TRAIN = "Train the run again."
_DELETE = "Delete the file, then evaluate or analyze the run again."


def _read_object(content: Mapping[str, Any], name: str, path: Path, advice: str = _TRAIN) -> dict[str, Any]:
    """Return the object under `name` in the content of the JSON file at `path`.

    Raises:
        ValueError: If there is none.
    """
    value = content.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold an object {name!r}, got {value!r}. {advice}")
    return value


def _check_types(file: Path, content: Mapping[str, Any], types: Mapping[str, Any], advice: str = _TRAIN) -> None:
    """Raise `ValueError` if an entry has another type; entries may be missing or null."""
    for name, kind in types.items():
        value = content.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{file} must hold another type of value as {name!r}, got {value!r}. {advice}")
