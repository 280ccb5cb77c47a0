"""Makes a data set of splits that are in memory."""

from collections.abc import Sequence

import torch

from noisyrnn.checks import check_flag, check_range
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.parts import check_alike, stratified_draw
from noisyrnn.data.split import Split, check_split


def dataset_from_splits(
    train: Split,
    validation: Split | None = None,
    test: Split | None = None,
    *,
    name: str = "arrays",
    class_names: Sequence[str] = (),
    value_range: tuple[float, float] | None = None,
    standardize: bool = True,
) -> Dataset:
    """Make a data set, as `noisyrnn.fit` takes it, of splits in memory.

    Args:
        train: Sequences to train on.
        validation: Sequences that choose the best epoch; by default a fifth of `train` is held out for it, drawn by a
            fixed seed and, with one class for each sequence, stratified.
        test: Sequences to measure a finished model on; without it `Dataset.test` is an error.
        name: Name of the data set in reports.
        class_names: A name for each class; by default "0", "1", ….
        value_range: Smallest and largest value an input can take, as images state it; `None` where no limit is stated.
        standardize: Whether a model should standardise its inputs by the training statistics.

    Raises:
        TypeError: If a part is not a `Split`.
        ValueError: If the parts differ in their channels or kind of labels, a number of names is not that of the
            classes, or there are fewer than two sequences, one of them for validation.

    Example:
        >>> split = Split.from_arrays([[0.1, 0.2], [0.9, 0.8]] * 10, [0, 1] * 10)
        >>> dataset_from_splits(split, class_names=("low", "high"))
        Dataset('arrays': 16 training, 4 validation sequences, test part not read yet;
          steps: 2; channels: 1; classes: 2 (low, high))
    """
    parts = {"train": train, "validation": validation, "test": test}
    for part, split in parts.items():
        if split is None and part != "train":
            continue
        check_split(part, split)
        assert split is not None
        alike = (split.inputs.shape[2], split.classes, split.missing) == (
            train.inputs.shape[2],
            train.classes,
            train.missing,
        )
        if not alike:
            raise ValueError(
                f"{part} must have {train.inputs.shape[2]} channels, {train.classes} classes and missing="
                f"{train.missing!r} as train has, got {split.inputs.shape[2]}, {split.classes} and {split.missing!r}."
            )
        check_alike(train, split)
    check_flag("standardize", standardize)
    if value_range is not None:
        check_range("value_range", value_range)
    if isinstance(class_names, str):
        raise TypeError(f"class_names must be a list of texts, got {class_names!r}.")
    if class_names and len(class_names) != train.classes:
        raise ValueError(f"class_names must hold {train.classes} names, one for each class, got {len(class_names)}.")
    if validation is None:
        labels = train.labels if train.one_class_each else torch.zeros(len(train), dtype=torch.int64, device="cpu")
        drawn, rest = stratified_draw(labels.cpu(), max(1, round(0.2 * len(train))))
        if len(drawn) == 0 or len(rest) == 0:
            raise ValueError(
                f"train must hold 2 sequences of some class, one of them for validation, got {len(train)}. "
                "Give validation too."
            )
        train, validation = train.subset(rest), train.subset(drawn)
    held = validation

    def read_test() -> Split:
        if test is None:
            raise ValueError("test must be given to dataset_from_splits to be measured on, got none.")
        return test

    return Dataset(
        name=name,
        train=train,
        validation=held,
        read_test=read_test,
        class_names=tuple(class_names) or tuple(str(k) for k in range(train.classes)),
        value_range=value_range,
        standardize=standardize,
        source="Made of splits in memory.",
        test_size=None if test is None else len(test),
    )
