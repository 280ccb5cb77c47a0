"""Data sets: files in, labelled sequences out, in three disjoint parts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisyrnn.checks import check_choice, check_integer
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.digits import load_digits
from noisyrnn.data.ecg5000 import load_ecg5000, missing_ecg5000
from noisyrnn.data.folders import data_folders
from noisyrnn.data.from_splits import dataset_from_splits
from noisyrnn.data.mnist import load_psmnist, load_psmnist255, load_smnist, missing_mnist
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split
from noisyrnn.data.ts import load_archive
from noisyrnn.data.user_files import check_unused_options, is_path, load_user_file
from noisyrnn.registry import Entry, Registry


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


_ENTRIES: dict[str, DatasetEntry] = {
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

DATASETS: Registry[DatasetEntry] = Registry("noisyrnn.datasets", _ENTRIES, kind=DatasetEntry)


def is_own(name: str) -> bool:
    """Whether a data set is the user's own, or a set of an archive, rather than one of `DATASETS`."""
    return name not in DATASETS


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    values_per_step: int = 1,
    **options: Any,
) -> Dataset:
    """Load a data set by name or from a file. Its parts are the same on every call, whatever the seed of a run.

    Args:
        name: Key of `DATASETS`; a path of a file that ends in one of `noisyrnn.data.user_files.SUFFIXES`, or of a
            folder of recordings; or a set of the UCR/UEA archive as the archive spells it, such as `"JapaneseVowels"`.
        data_dir: Folder to look in before `NOISYRNN_DATA` and the platform's cache.
        values_per_step: Consecutive values that make one step, `>= 1`; more than 1 for MNIST only.
        **options: How a user's own file is read: arguments of `ReadingOptions`, such as `label_column=-1`.

    Returns:
        The data set; its test part is not read yet.

    Raises:
        TypeError: If an argument or an array has the wrong type.
        ValueError: If the name is unknown, an option does not fit, or a file is malformed, damaged or too large for the
            memory; also if a file can be read in two ways; the message names the option that decides.
        FileNotFoundError: If a file is missing and could not be downloaded.

    Example:
        >>> dataset = load_dataset("digits")
        >>> dataset.train.inputs.shape, dataset.class_names[:3]
        (torch.Size([1077, 64, 1]), ('0', '1', '2'))
    """
    if not isinstance(name, str):
        raise TypeError(f"dataset must be a string, got {name!r}.")
    check_integer("values_per_step", values_per_step, minimum=1)
    for option in options:
        check_choice("option", option, ReadingOptions.__dataclass_fields__)
    reading = ReadingOptions(**options)
    folders = data_folders(data_dir)
    entry = DATASETS.get(name)
    if values_per_step > 1 and (entry is None or not entry.supports_values_per_step):
        able = ", ".join(key for key, value in DATASETS.items() if value.supports_values_per_step)
        raise ValueError(f"values_per_step must be 1 for {name!r}, got {values_per_step}. Only {able} can have more.")
    try:
        if entry is None and is_path(name):
            return load_user_file(name, reading)
        check_unused_options(name, reading, frozenset(("missing",)))
        if entry is None:
            return load_archive(name, folders, sorted(DATASETS), reading)
        dataset = entry.build(folders, values_per_step)
        return dataset if reading.missing is None else dataset.with_missing(reading.missing)
    except MemoryError as error:
        raise ValueError(f"dataset must fit into memory, got {name!r}, which does not. Use fewer sequences.") from error


__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetEntry",
    "ReadingOptions",
    "Scale",
    "Split",
    "data_folders",
    "dataset_from_splits",
    "is_own",
    "load_dataset",
]
