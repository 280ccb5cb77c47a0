"""Splits labelled sequences into disjoint parts: named classes, stratified seeded draws, the data set."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from noisyrnn.checks import check_lengths, check_sequences, check_values
from noisyrnn.data.base import Dataset, Split
from noisyrnn.data.labels import Label, check_classes, encode, sorted_classes

# The parts of a data set are the same in every run, whatever the run's seed.
SPLIT_SEED = 20210


@dataclass(frozen=True, kw_only=True, eq=False)
class Cases:
    """Sequences as read from a file, with the names of their classes.

    Args:
        inputs: Floating `(n, steps, input_size)`, padded with zeros at the end; float64 unless float32 represents the
            values exactly.
        lengths: Int64 `(n,)`, or `None` where all have `steps`.
        labels: Class of each sequence.
        declared: Every class that the file declares; empty if it declares none.
    """

    inputs: Tensor
    lengths: Tensor | None = None
    labels: tuple[Label, ...]
    declared: tuple[Label, ...] = ()

    def subset(self, indices: Tensor) -> "Cases":
        """Return the sequences at `indices`, int64 `(k,)`, in that order."""
        lengths = None if self.lengths is None else self.lengths[indices]
        labels = tuple(self.labels[i] for i in indices.tolist())
        return replace(self, inputs=self.inputs[indices], lengths=lengths, labels=labels)


def pad_sequences(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Pad sequences `(length, input_size)` with zeros to one `(n, steps, input_size)`, and return their lengths too.

    The lengths are `None` if all are equal.
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
    check_values(f"X{suffix}", cases.inputs)


def stratified_draw(labels: Tensor, size: int, *, seed: int = SPLIT_SEED) -> tuple[Tensor, Tensor]:
    """Draw `size` indices, each class in proportion (largest remainders), and return them and all the others.

    A class with two members or more gets at least one in each part, so `size` can be exceeded where classes are tiny;
    a class with a single member stays with the others. Both parts are shuffled, so that their
    beginnings are mixed even if the file is sorted by class.

    Args:
        labels: Int64 `(n,)`.
        size: Number of indices to draw, `0 <= size <= n`.
        seed: Seed of the draw.

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


def check_values_vary(split: Split) -> None:
    """Raise unless the valid steps hold at least two different values."""
    values = split.inputs[split.valid()]
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise ValueError(f"X must hold at least two different values, got only {low:g}.")


def to_split(cases: Cases, classes: Sequence[Label], argument: str = "y") -> Split:
    """Convert cases to a split, with labels as indices into `classes`."""
    labels = encode(cases.labels, classes, argument)
    return Split(inputs=cases.inputs, labels=labels, lengths=cases.lengths, classes=len(classes))


def dataset_from_cases(name: str, cases: Cases, read_test: Callable[[], Cases] | None, source: str) -> Dataset:
    """Build a data set whose values have no known scale: it is standardised and states no range of values.

    Args:
        name: Its name on the command line.
        cases: The official training part, or all sequences if there is no test part.
        read_test: Reads the official test part; `None` takes 20 % of `cases` for it.
        source: Where it comes from; how it is split is added.

    Returns:
        Validation is 20 % of the sequences, stratified and seeded, and so is the test part if there is no official one.

    Raises:
        ValueError: If the cases are malformed, of one class, or too few to be split.
    """
    check_cases(cases)
    present = sorted_classes(cases.labels)
    classes = sorted_classes(cases.declared) if cases.declared else present
    if len(present) < 2:
        raise ValueError(f"y must hold at least two classes, got {len(present)} ({present[0].text!r}).")
    check_classes(classes)
    labels = encode(cases.labels, classes)
    if read_test is None:
        need = 3
        counts = Counter(cases.labels)
        smallest = min(present, key=lambda label: counts[label])
        if counts[smallest] < need:
            raise ValueError(
                f"y must hold at least {need} sequences of each class to be split 60/20/20, "
                f"got {counts[smallest]} of class {smallest.text!r}. Add sequences, or give a test part. "
                "In a .csv the first column is the class, if label_column (--label-column) does not name another."
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
    check_values_vary(train_split)

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
        class_names=tuple(label.text for label in classes),
        value_range=None,
        standardize=True,
        test_size=None if tested is None else len(tested),
        source=f"{source} {how}",
    )
