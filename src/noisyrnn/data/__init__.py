"""Data sets: files in, labelled sequences out, in three disjoint parts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from noisyrnn.checks import check_integer
from noisyrnn.data.base import Dataset, Split
from noisyrnn.data.digits import load_digits
from noisyrnn.data.ecg5000 import load_ecg5000, missing_ecg5000
from noisyrnn.data.folders import data_folders
from noisyrnn.data.mnist import load_psmnist, load_psmnist255, load_smnist, missing_mnist
from noisyrnn.data.scale import Scale
from noisyrnn.data.ts import load_archive
from noisyrnn.data.user_files import check_reading_options, check_unused_options, is_path, load_user_file
from noisyrnn.registry import Entry


@dataclass(frozen=True, kw_only=True)
class DatasetEntry(Entry[Callable[[list[Path], int], Dataset]]):
    """One entry of `DATASETS`.

    Args:
        description: One line for `noisyrnn list`.
        build: Loads the data set; called with the data folders, in order, and `values_per_step`.
        supports_values_per_step: Whether it can be read with more than one value per step.
        missing: The files it needs that no data folder has; nothing is fetched or opened.
    """

    supports_values_per_step: bool = False
    missing: Callable[[list[Path]], list[str]] = lambda folders: []


def _mnist(description: str, build: Callable[[list[Path], int], Dataset]) -> DatasetEntry:
    """A data set of the files of MNIST."""
    return DatasetEntry(description=description, build=build, supports_values_per_step=True, missing=missing_mnist)


DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry(
        description="8 × 8 handwritten digits bundled with scikit-learn, 64 steps × 1, 10 classes; no download",
        build=load_digits,
    ),
    "smnist": _mnist("MNIST pixel by pixel, 784 steps × 1, 10 classes", load_smnist),
    "psmnist": _mnist("MNIST under one fixed permutation of its pixels, 784 steps × 1, 10 classes", load_psmnist),
    "psmnist255": _mnist(
        "psmnist with pixels from 0 to 255, as the published permuted experiments read them", load_psmnist255
    ),
    "ecg5000": DatasetEntry(
        description="heartbeats, normal against abnormal, 140 steps × 1, 2 classes; its files must be in a data folder",
        build=load_ecg5000,
        missing=missing_ecg5000,
    ),
}


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    values_per_step: int = 1,
    label_column: str | int | None = None,
    layout: str | None = None,
    task: str | None = None,
) -> Dataset:
    """Load a data set by name or from a file. Its parts are the same on every call, whatever the seed of a run.

    Args:
        name: Key of `DATASETS`; a path to a `.npz`, `.csv`, `.ts` or `.ts.gz` file; or a set of the UCR/UEA archive
            as the archive spells it, such as `"JapaneseVowels"`.
        data_dir: Folder to look in before `NOISYRNN_DATA` and the platform's cache.
        values_per_step: Consecutive values that make one step, `>= 1`; more than 1 for MNIST only.
        label_column: Column of the class in a `.csv` file: its name in the header, or its number, from 1, or from -1 at
            the end of each line. By default the column that the header calls "class", "label", "target" or "y", else
            the first.
        layout: Of `X` in a `.npz` file: "channels-last", `(n, steps, channels)`, the default; or "time-last",
            `(n, channels, steps)`.
        task: "classification" or "regression", of a `.npz` or `.csv` file. By default numbers in `y` that are not whole
            are values to predict, and so is a `y` of three axes; all others, and all of a `.csv` file, are classes.

    Returns:
        The data set; its test part is not read yet.

    Raises:
        TypeError: If an argument or an array has the wrong type.
        ValueError: If the name is unknown, an option does not fit, or a file is malformed, damaged or too large for the
            memory; also if a file makes little sense without `label_column` or `layout`.
        FileNotFoundError: If a file is missing and could not be downloaded.

    Example:
        >>> dataset = load_dataset("digits")
        >>> dataset.train.inputs.shape, dataset.class_names[:3]
        (torch.Size([1077, 64, 1]), ('0', '1', '2'))
    """
    if not isinstance(name, str):
        raise TypeError(f"dataset must be a string, got {name!r}.")
    check_integer("values_per_step", values_per_step, minimum=1)
    label_column = check_reading_options(label_column, layout, task)
    folders = data_folders(data_dir)
    entry = DATASETS.get(name)
    if values_per_step > 1 and (entry is None or not entry.supports_values_per_step):
        able = ", ".join(key for key, value in DATASETS.items() if value.supports_values_per_step)
        raise ValueError(f"values_per_step must be 1 for {name!r}, got {values_per_step}. Only {able} can have more.")
    try:
        if entry is None and is_path(name):
            return load_user_file(name, label_column=label_column, layout=layout, task=task)
        check_unused_options(name, label_column=label_column, layout=layout, task=task)
        return load_archive(name, folders, sorted(DATASETS)) if entry is None else entry.build(folders, values_per_step)
    except MemoryError as error:
        raise ValueError(f"dataset must fit into memory, got {name!r}, which does not. Use fewer sequences.") from error


__all__ = ["DATASETS", "Dataset", "DatasetEntry", "Scale", "Split", "data_folders", "load_dataset"]
