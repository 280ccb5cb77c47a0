"""From labelled sequences to disjoint parts: named classes, stratified seeded draws, and the data set made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from noisyrnn.checks import check_finite, check_lengths, check_sequences
from noisyrnn.data.base import Dataset, Split

# The parts of a data set are the same in every run, whatever the run's seed.
SPLIT_SEED = 20210


@dataclass(frozen=True, kw_only=True, eq=False)
class Cases:
    """Sequences as a file gives them, with the names of their classes.

    Args:
        inputs: Float32 `(n, steps, input_size)`, padded with zeros at the end.
        lengths: Int64 `(n,)`, or `None` where all have `steps`.
        labels: Class name of each sequence.
        declared: Every class that the file says exists; empty where it does not say.
    """

    inputs: Tensor
    lengths: Tensor | None = None
    labels: tuple[str, ...]
    declared: tuple[str, ...] = ()

    def subset(self, indices: Tensor) -> "Cases":
        """The sequences at `indices`, int64 `(k,)`, in that order."""
        lengths = None if self.lengths is None else self.lengths[indices]
        labels = tuple(self.labels[i] for i in indices.tolist())
        return replace(self, inputs=self.inputs[indices], lengths=lengths, labels=labels)


def pad(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Sequences `(length, input_size)` as one `(n, steps, input_size)` with zeros at the end, and their lengths.

    The lengths are `None` where all are equal.
    """
    inputs = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64, device="cpu")
    return inputs, None if bool((lengths == inputs.shape[1]).all()) else lengths


def check_cases(cases: Cases, suffix: str = "") -> None:
    """Raise unless `X`, `y` and `lengths` (the names with `suffix`, such as `"_test"`) are sequences with labels."""
    check_sequences(f"X{suffix}", cases.inputs)
    n, steps, _ = cases.inputs.shape
    if len(cases.labels) != n:
        raise ValueError(f"y{suffix} must hold {n} labels, one for each row of X{suffix}, got {len(cases.labels)}.")
    if cases.lengths is not None:
        check_lengths(cases.lengths, batch=n, steps=steps)
    check_finite(f"X{suffix}", cases.inputs)


def integer_label(label: str) -> int | None:
    """`3` for `"3"`, `"3.0"` or `"3.0000e+00"`, else `None`."""
    try:
        value = float(label)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def canonical_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels stripped of blanks; where every one is an integer, `"3.0"` becomes `"3"`."""
    stripped = [label.strip() for label in labels]
    numbers = [integer_label(label) for label in stripped]
    return tuple(stripped if None in numbers else [str(number) for number in numbers])


def sorted_classes(labels: Sequence[str]) -> tuple[str, ...]:
    """The different labels: in numerical order where every one is an integer, else in alphabetical order."""
    names = sorted(set(labels))
    if all(integer_label(name) is not None for name in names):
        names.sort(key=float)
    return tuple(names)


def encode(labels: Sequence[str], classes: Sequence[str], argument: str = "y") -> Tensor:
    """Index of each label in `classes`, int64 `(n,)`; a label that is not there raises `ValueError`."""
    index = {name: i for i, name in enumerate(classes)}
    for case, label in enumerate(labels):
        if label not in index:
            raise ValueError(
                f"{argument} must hold only the classes {', '.join(classes)} of the training part, "
                f"got {label!r} at index {case}."
            )
    return torch.tensor([index[label] for label in labels], dtype=torch.int64, device="cpu")


def stratified_draw(labels: Tensor, size: int, *, seed: int = SPLIT_SEED) -> tuple[Tensor, Tensor]:
    """Draw `size` indices, each class in proportion (largest remainders), and return them and all the others.

    A class with two members or more gets at least one in each part, so `size` can be exceeded where classes are tiny;
    a class with a single member stays with the others. Both parts come in a shuffled order, so that their beginnings
    are mixed even where the file is sorted by class.

    Args:
        labels: Int64 `(n,)`.
        size: Number of indices to draw, `0 <= size <= n`.
        seed: Of the draw.

    Returns:
        Two int64 tensors that together hold every index once.
    """
    members = labels.bincount()
    shares = members.double() * size / len(labels)
    quotas = shares.floor().long()
    left = size - int(quotas.sum())
    quotas[(shares - quotas).argsort(descending=True, stable=True)[:left]] += 1
    quotas = torch.where(members >= 2, quotas.clamp(min=1).minimum(members - 1), torch.zeros_like(quotas))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed), device="cpu")
    drawn = torch.zeros(len(labels), dtype=torch.bool, device="cpu")
    for label, quota in enumerate(quotas.tolist()):
        drawn[order[labels[order] == label][:quota]] = True
    return order[drawn[order]], order[~drawn[order]]


def check_varied(split: Split) -> None:
    """Raise unless the valid steps hold at least two different values."""
    values = split.inputs[split.valid()]
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise ValueError(f"X must hold at least two different values, got only {low:g}.")


def to_split(cases: Cases, classes: Sequence[str], argument: str = "y") -> Split:
    """The cases with their labels as indices into `classes`."""
    labels = encode(cases.labels, classes, argument)
    return Split(inputs=cases.inputs, labels=labels, lengths=cases.lengths, classes=len(classes))


def dataset_from_cases(name: str, cases: Cases, read_test: Callable[[], Cases] | None, source: str) -> Dataset:
    """A data set whose values have no known scale: it is to be standardised, it states no range of values.

    Args:
        name: What `--dataset` calls it.
        cases: The official training part, or everything where there is no test part.
        read_test: Reads the official test part; `None` takes 20 % of `cases` for it.
        source: Where it comes from; how it is split is added.

    Returns:
        Validation is 20 % of the sequences, stratified and seeded, and so is the test part where none is given.

    Raises:
        ValueError: If the cases are malformed, of one class, or too few to be split.
    """
    check_cases(cases)
    present = sorted_classes(cases.labels)
    classes = sorted_classes(cases.declared) if cases.declared else present
    if len(present) < 2:
        raise ValueError(f"y must hold at least two classes, got {len(present)} ({present[0]!r}).")
    labels = encode(cases.labels, classes)
    if read_test is None:
        need = 3
        smallest = min(present, key=cases.labels.count)
        if cases.labels.count(smallest) < need:
            raise ValueError(
                f"y must hold at least {need} sequences of each class to be split 60/20/20, "
                f"got {cases.labels.count(smallest)} of class {smallest!r}. Add sequences, or give a test part. "
                "In a .csv the first column is the class."
            )
        part = round(0.2 * len(labels))
        tested, rest = stratified_draw(labels, part)
        how = "60 % training, 20 % validation, 20 % test, stratified and seeded."
    else:
        part = round(0.2 * len(labels))
        tested, rest = None, torch.arange(len(labels), device="cpu")
        how = "Test part as given; validation is 20 % of the training part, stratified and seeded."
    validation, train = stratified_draw(labels[rest], part)
    if len(validation) == 0:
        raise ValueError(
            f"y must hold 2 sequences of some class, one of them for validation, got {len(labels)} of {len(present)} "
            "classes. Add sequences."
        )
    train_split = to_split(cases.subset(rest[train]), classes)
    check_varied(train_split)

    def test() -> Split:
        if read_test is None:
            assert tested is not None
            return to_split(cases.subset(tested), classes)
        test_cases = read_test()
        check_cases(test_cases, "_test")
        channels, expected = test_cases.inputs.shape[2], cases.inputs.shape[2]
        if channels != expected:
            raise ValueError(f"X_test must have {expected} channels, as X has, got {channels}.")
        return to_split(test_cases, classes, "y_test")

    return Dataset(
        name=name,
        train=train_split,
        validation=to_split(cases.subset(rest[validation]), classes),
        read_test=test,
        class_names=classes,
        value_range=None,
        standardize=True,
        source=f"{source} {how}",
    )
