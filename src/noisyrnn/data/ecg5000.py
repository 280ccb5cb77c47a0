"""ECG5000: one heartbeat per sequence, normal against abnormal."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.folders import find_file, placement_advice, read_text
from noisyrnn.data.labels import decimal_labels
from noisyrnn.data.numbers import parse_number
from noisyrnn.data.parts import stratified_draw
from noisyrnn.data.split import Split

STEPS = 140
VALIDATION = 500
CLASSES = ("normal", "abnormal")
FILES = ("ECG5000_TRAIN.txt.gz", "ECG5000_TEST.txt.gz")


def _find(name: str, folders: list[Path]) -> Path | None:
    return find_file(folders, [name, name.removesuffix(".gz")], ["ecg5000", "ECG5000", "."])


def missing_ecg5000(folders: list[Path]) -> list[str]:
    """Return the files that no data folder has, compressed or not."""
    return [name for name in FILES if _find(name, folders) is None]


def locate(part: str, folders: list[Path]) -> Path:
    """Find the file of the part `"TRAIN"` or `"TEST"`; it cannot be downloaded."""
    name = f"ECG5000_{part}.txt"
    path = _find(f"{name}.gz", folders)
    if path is None:
        raise FileNotFoundError(
            f"{name}.gz must be in a data folder, got {', '.join(map(str, folders))} without it. "
            f"{placement_advice(FILES, [folder / 'ecg5000' for folder in folders])}"
        )
    return path


def read_beats(path: Path) -> tuple[Tensor, Tensor]:
    """Read heartbeats, float32 `(n, 140, 1)`, and labels, int64 `(n,)`: 0 for the file's class 1 (normal), else 1.

    Raises:
        ValueError: If the file is empty or a line does not hold a label and 140 finite numbers.
    """
    rows, labels = [], []
    for line_number, line in enumerate(read_text(path).splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != STEPS + 1:
            raise ValueError(
                f"Line {line_number} of {path} must hold a label and {STEPS} values, got {len(cells)} numbers. "
                "Fetch or copy the file again."
            )
        values = [parse_number(cell) for cell in cells]
        if None in values:
            cell = cells[values.index(None)]
            raise ValueError(f"Line {line_number} of {path} must hold numbers only, got {cell!r}.")
        rows.append(values)
        labels.append(cells[0])
    if not rows:
        raise ValueError(f"{path} must hold at least one heartbeat, got an empty file. Fetch or copy it again.")
    beats = torch.from_numpy(np.array(rows, dtype=np.float64))[:, 1:].float().unsqueeze(-1)
    abnormal = [label.value != 1 for label in decimal_labels(labels)]
    return beats, torch.tensor(abnormal, dtype=torch.int64, device="cpu")


def load_ecg5000(folders: list[Path], values_per_step: int) -> Dataset:
    """Load 500 / 500 / 4,000 sequences of 140 steps, standardised one by one in the file, with two classes."""
    inputs, labels = read_beats(locate("TRAIN", folders))
    train = Split(inputs=inputs, labels=labels, classes=len(CLASSES))
    pool_inputs, pool_labels = read_beats(locate("TEST", folders))
    validation, test = stratified_draw(pool_labels, VALIDATION)

    def part(indices: Tensor) -> Split:
        return Split(inputs=pool_inputs[indices], labels=pool_labels[indices], classes=len(CLASSES))

    return Dataset(
        name="ecg5000",
        train=train,
        validation=part(validation),
        read_test=lambda: part(test),
        class_names=CLASSES,
        value_range=None,
        standardize=False,
        test_size=len(test),
        source=(
            "ECG5000 of the UCR archive, normal (class 1) against abnormal (the others). Training: the official "
            "training part. Validation: 500 of the official test part, stratified and seeded; test: the other 4,000."
        ),
    )
