"""The 8 × 8 digits bundled with scikit-learn, one pixel per step; no download needed."""

from pathlib import Path

import torch

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.parts import stratified_draw
from noisyrnn.data.split import Split

TEST, VALIDATION = 450, 270


def load_digits(folders: list[Path], values_per_step: int) -> Dataset:
    """Load 1,077 / 270 / 450 sequences of 64 steps, grey levels in [0, 1], ten classes; `folders` are ignored."""
    from sklearn.datasets import load_digits as bundled_digits  # a second to import, and most runs need none of it

    pixels, digits = bundled_digits(return_X_y=True)
    inputs = (torch.from_numpy(pixels) / 16).float().unsqueeze(-1)
    labels = torch.from_numpy(digits).long()
    test, rest = stratified_draw(labels, TEST)
    validation, train = stratified_draw(labels[rest], VALIDATION)

    def part(indices: torch.Tensor) -> Split:
        return Split(inputs=inputs[indices], labels=labels[indices], classes=10)

    return Dataset(
        name="digits",
        train=part(rest[train]),
        validation=part(rest[validation]),
        read_test=lambda: part(test),
        class_names=tuple(str(digit) for digit in range(10)),
        value_range=(0.0, 1.0),
        standardize=False,
        image_shape=(8, 8),
        test_size=TEST,
        source="UCI optical digits as bundled with scikit-learn; split 60/15/25 %, stratified and seeded.",
    )
