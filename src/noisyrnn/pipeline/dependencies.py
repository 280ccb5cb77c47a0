"""What a stored result depends on, so that one is used again only if nothing of that has changed."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisyrnn.data.base import Dataset
from noisyrnn.run_folder import RunFolder, changes, file_digest, listed, read_json

# Raise a number when the same inputs and settings give another result: what was stored before is then not used again.
TRAINING_RESULTS = {"32-true": 2, "bf16-mixed": 2, "64-true": 3}
"""For each precision."""
EVALUATION_RESULTS = 4
ANALYSIS_RESULTS = 5


def check_same_data(folder: RunFolder, dataset: Dataset) -> None:
    """Raise `ValueError` if a run was trained on other data than these; the message says what has changed."""
    trained_on = folder.read_config()["dataset"].get("fingerprint")
    if trained_on is None:  # it failed before it had read them
        return
    changed = changes(trained_on, dataset.fingerprint()) if isinstance(trained_on, dict) else ["the whole"]
    if changed:
        raise ValueError(
            f"dataset must hold the data that {folder.path} was trained on, got {dataset.name}, where "
            f"{listed(changed)} changed since. Choose another output folder and train again, or restore the data."
        )


def dependencies(folder: RunFolder, dataset: Dataset, results: int) -> dict[str, Any]:
    """Everything besides its own settings that a result on the test part of `dataset` depends on, JSON-ready.

    The training and validation data, the names of the classes and the range of values are in `config.json`: see
    `check_same_data`.

    Args:
        folder: A finished run.
        dataset: Its test part is read.
        results: One of the numbers above.

    Warns if `model.safetensors` is not what the run's own training wrote.
    """
    if foreign := folder.foreign_model():
        warnings.warn(f"{foreign} The results are those of this file.", stacklevel=3)
    return {
        "test": dataset.test.fingerprint(),
        "model": file_digest(folder.model),
        "config": folder.config_digest(),
        "results": results,
    }


def known_result(path: Path, settings: Mapping[str, Any], depends_on: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result in the file at `path`, or `None` where there is none that belongs to these settings and inputs.

    A warning says what has changed, except the settings.

    Raises:
        ValueError: If the file cannot be read.
    """
    if not os.path.lexists(path):
        return None
    content = read_json(path)
    if content.get("settings") != settings:
        return None
    before = content.get("depends_on")
    changed = changes(before, depends_on) if isinstance(before, dict) else ["what it depends on"]
    if changed:
        warnings.warn(f"{path} is computed again: {listed(changed)} changed since.", stacklevel=3)
        return None
    return content
