"""Records what a stored result depends on, so that it is used again only if none of that has changed."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noisyrnn.data.base import Dataset
from noisyrnn.run_folder import RunFolder, changes, file_digest, listed, read_json

# Raise a number when the same inputs and settings give another result: stored results are then not used again.
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
    """Return everything except settings that a result on the test data of `dataset` depends on, JSON-ready.

    The training and validation data, the names of the classes and the range of values are in `config.json`, and
    `check_same_data` compares them.

    Args:
        folder: A finished run.
        dataset: Its test part is read.
        results: One of the numbers above.

    Warns if `model.safetensors` is not the file that the run's training wrote.
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
    """Return the stored result at `path`, or `None` if there is none with these settings and inputs.

    A warning names the inputs that have changed.

    Raises:
        ValueError: If the file cannot be read.
    """
    if not os.path.lexists(path):
        return None
    content = read_json(path)
    if content.get("settings") != settings:
        return None
    before = content.get("depends_on")
    changed = changes(before, depends_on) if isinstance(before, dict) else ["its inputs"]
    if changed:
        warnings.warn(f"{path} is computed again: {listed(changed)} changed since.", stacklevel=3)
        return None
    return content
