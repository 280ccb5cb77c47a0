"""What the results of a run depend on: its settings and data, and the versions of the computations."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisyrnn.data.dataset import Dataset
from noisyrnn.run_folder import RunFolder, changes, listed
from noisyrnn.training.config import TrainConfig

# Raise a number when the same inputs and settings give another result: stored results are then not used again.
TRAINING_RESULTS = {"32-true": 3, "bf16-mixed": 3, "64-true": 5}
"""For each precision."""
EVALUATION_RESULTS = {"classes": 7, "values": 8}
"""For each task; see `evaluation_results`."""
ANALYSIS_RESULTS = 7
BASELINE_RESULTS = 1


def evaluation_results(dataset: Dataset) -> int:
    """Return the version of the evaluation for the task of a data set."""
    return EVALUATION_RESULTS["classes" if dataset.classes else "values"]


def run_config(folder: RunFolder) -> TrainConfig:
    """Return the settings that a run was trained with.

    Raises:
        ValueError: If `config.json` cannot be read, or holds other settings.
    """
    settings = folder.read_config()["config"]
    try:
        return TrainConfig.from_dict(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder.config} must hold the settings of a training, got others: {error}") from error


def check_same_settings(folder: RunFolder, config: TrainConfig) -> None:
    """Raise `ValueError` if `config.json` holds other settings than those that name the folder."""
    if not folder.config.is_file():
        return
    stored = run_config(folder).identity()
    if stored != config.identity():
        raise ValueError(
            f"{folder.config} must hold the settings that its folder is named after, got others: "
            f"{listed(changes(stored, config.identity()))} changed since. Restore it, or choose another output folder."
        )


def check_same_data(folder: RunFolder, dataset: Dataset) -> None:
    """Raise `ValueError` if a run was trained on other data; the message names the changes."""
    trained_on = folder.read_config()["dataset"].get("fingerprint")
    if trained_on is None:  # the run failed before it had read its data
        return
    changed = changes(trained_on, dataset.fingerprint()) if isinstance(trained_on, dict) else ["the whole"]
    names = folder.read_config()["dataset"].get("channel_names")  # a run of an earlier version has none
    if names and dataset.channel_names and names != list(dataset.channel_names):
        changed.append("the channel names")
    if changed:
        raise ValueError(
            f"dataset must hold the data that {folder.path} was trained on, got {dataset.name}, where "
            f"{listed(changed)} changed since. Choose another output folder and train again, or restore the data."
        )


def dependencies(folder: RunFolder, dataset: Dataset, results: int, weights: str = "kept") -> dict[str, Any]:
    """Return what a result on the test data of `dataset` depends on, apart from its own settings, JSON-ready.

    The training and validation data, the names of the classes and the range of values are in `config.json`, and
    `check_same_data` compares them.

    Args:
        folder: A finished run.
        dataset: Its test part is read.
        results: One of the numbers above.
        weights: `"kept"` or `"last"`.

    Warns if the file of weights is not the one that the run's training wrote.

    Raises:
        ValueError: If there is no such file.
    """
    file = folder.weights_file(weights)
    if not file.is_file():
        raise ValueError(f"run must hold {file.name}, got {folder.path} without it. Train the run again.")
    if foreign := folder.foreign_model(weights):
        warnings.warn(f"{foreign} The results are those of this file.", stacklevel=3)
    return {"test": dataset.test.fingerprint(), **folder.dependencies(weights), "results": results}


def known_result(
    folder: RunFolder, file: Path, settings: Mapping[str, Any], depends_on: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the content of a result file, or `None` if it is missing or stale, or has other settings.

    A warning names what has changed if the result is stale.

    Raises:
        ValueError: If the file cannot be read.
    """
    stored = folder.read_result(file, depends_on)
    if not stored.is_measured_with(settings):
        return None
    if stored.stale:
        warnings.warn(f"{file} is computed again: {stored.stale}.", stacklevel=3)
        return None
    return dict(stored.content)
