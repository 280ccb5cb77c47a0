"""Splits labelled sequences into disjoint parts: named classes, stratified seeded draws, the data set."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noisyrnn.checks import check_lengths, check_sequences
from noisyrnn.data.channels import channel_order
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.labels import Label, check_classes, encode, sorted_classes
from noisyrnn.data.numbers import parse_number
from noisyrnn.data.split import Split
from noisyrnn.data.split_checks import check_missing
from noisyrnn.data.stored import StoredSequences
from noisyrnn.data.times import step_lengths, typical_gap, warn_of_unit

# The parts of a data set are the same in every run, whatever the run's seed.
SPLIT_SEED = 20210


@dataclass(frozen=True, kw_only=True, eq=False)
class StepLabels:
    """A class at every step.

    Args:
        names: The different classes of the steps that count.
        index: Index into `names`, int64 `(n, steps)`; -1 at steps that do not count.
    """

    names: tuple[Label, ...]
    index: Tensor


Targets = tuple[Label, ...] | StepLabels | Tensor
"""A class of each sequence, a class at every step, or values `(n, targets)` or `(n, steps, outputs)`, float64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cases:
    """Sequences as read from a file, with the names of their classes or with values to predict.

    Args:
        inputs: Floating `(n, steps, input_size)`, padded with zeros at the end; float64 unless float32 represents the
            values exactly; or sequences that stay in their files.
        lengths: Int64 `(n,)`, or `None` where all have `steps`.
        labels: Class of each sequence or step, or values.
        declared: Every class that the file declares; empty if it declares none.
        mask: Bool `(n, steps)` for values at every step: those that count; `None` where all valid steps do.
        groups: Group of each sequence, such as its patient; `None` if there are none.
        times: Increasing times of the steps of each sequence; `None` if there are none.
        dt: Float64 `(n, steps)`, lengths of the steps; `None` where all are equal.
        missing: How missing values, NaN in `inputs`, are met, as a `Split` has it; `None`: there are none.
        channel_names: Name of each channel; none where the file does not name them.
    """

    inputs: Tensor | StoredSequences
    lengths: Tensor | None = None
    labels: Targets
    declared: tuple[Label, ...] = ()
    mask: Tensor | None = None
    groups: tuple[str, ...] | None = None
    times: tuple[np.ndarray, ...] | None = None
    dt: Tensor | None = None
    missing: str | None = None
    channel_names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[Label, ...]:
        """Classes that occur; none where there are values."""
        if isinstance(self.labels, Tensor):
            return ()
        return self.labels.names if isinstance(self.labels, StepLabels) else self.labels

    def subset(self, indices: Tensor) -> "Cases":
        """Return the sequences at `indices`, int64 `(k,)`, in that order."""
        tensors = {"lengths": self.lengths, "mask": self.mask, "dt": self.dt}
        chosen: dict[str, Any] = {name: tensor[indices] for name, tensor in tensors.items() if tensor is not None}
        groups, times = (
            None if entries is None else tuple(entries[i] for i in indices.tolist())
            for entries in (self.groups, self.times)
        )
        labels: Targets
        if isinstance(self.labels, StepLabels):
            labels = replace(self.labels, index=self.labels.index[indices])
        elif isinstance(self.labels, Tensor):
            labels = self.labels[indices]
        else:
            labels = tuple(self.labels[i] for i in indices.tolist())
        inputs = self.inputs.subset(indices) if isinstance(self.inputs, StoredSequences) else self.inputs[indices]
        return replace(self, inputs=inputs, labels=labels, groups=groups, times=times, **chosen)

    def with_channels(self, expected: Sequence[str], where: str, **message: str) -> "Cases":
        """Return the cases with their channels in the order of `expected`; see `channel_order`."""
        order = channel_order(where, self.channel_names, expected, **message)
        if order is None:
            return self
        assert isinstance(self.inputs, Tensor)  # those that stay in their files are read in the right order
        return replace(self, inputs=self.inputs[..., order], channel_names=tuple(expected))

    def with_step_lengths(self, nominal: float) -> "Cases":
        """Return the cases with the lengths of their steps, if they have times; `nominal` is that of a nominal step."""
        return self if self.times is None else replace(self, dt=step_lengths(self.times, nominal))


def pad_sequences(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Pad sequences `(length, input_size)` with zeros to one `(n, steps, input_size)`, and return their lengths too.

    The lengths are `None` if all are equal.
    """
    inputs = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64, device="cpu")
    return inputs, None if bool((lengths == inputs.shape[1]).all()) else lengths


def check_cases(cases: Cases, suffix: str = "") -> None:
    """Raise unless `X`, `y` and `lengths` (the names with `suffix`, such as `"_test"`) are sequences with labels."""
    if not isinstance(cases.inputs, StoredSequences):
        check_sequences(f"X{suffix}", cases.inputs)
    n, steps, _ = cases.inputs.shape
    count = len(cases.labels.index if isinstance(cases.labels, StepLabels) else cases.labels)
    if count != n:
        raise ValueError(f"y{suffix} must hold {n} labels, one for each row of X{suffix}, got {count}.")
    if cases.lengths is not None:
        check_lengths(cases.lengths, batch=n, steps=steps)
    if not isinstance(cases.inputs, StoredSequences):  # else a split reads and checks the values
        check_missing(f"X{suffix}", cases.inputs, cases.missing)


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


def parse_targets(cells: Sequence[str], complaint: Callable[[int, str], str]) -> Tensor:
    """Parse one number to predict for each sequence, float64 `(n, 1)`.

    Args:
        cells: Texts, one for each sequence.
        complaint: Returns the message for a cell that is not a finite number, given its index and text.

    Raises:
        ValueError: If a cell is not a finite number.
    """
    numbers = [parse_number(cell) for cell in cells]
    for k, number in enumerate(numbers):
        if number is None or not math.isfinite(number):
            raise ValueError(complaint(k, cells[k]))
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")[:, None]


def check_alike(train: Split, test: Split) -> None:
    """Raise unless the labels of the test part are of the kind of the training part, with as many outputs."""
    values = not train.classes
    if train.every_step != test.every_step or (values and train.labels.shape[-1] != test.labels.shape[-1]):
        every = " at every step" if train.every_step else ""
        kind = f"{train.labels.shape[-1]} values" if values else "a class"
        raise ValueError(
            f"y_test must hold {kind} for each sequence{every}, as y does, got {tuple(test.labels.shape)}."
        )


def check_values_vary(split: Split) -> None:
    """Raise unless the valid steps hold at least two different values."""
    ends = split.extremes()
    if ends is None:
        raise ValueError("X must hold at least two different values, got only missing ones.")
    low, high = ends
    if low == high:
        raise ValueError(f"X must hold at least two different values, got only {low:g}.")


def to_split(cases: Cases, classes: Sequence[Label], argument: str = "y") -> Split:
    """Convert cases to a split, with labels as indices into `classes`; `classes` are empty for values."""
    labels, mask = cases.labels, cases.mask
    if isinstance(labels, StepLabels):
        mask = labels.index >= 0
        indices = encode(labels.names, classes, argument)[labels.index.clamp(min=0)]
    else:
        indices = labels if isinstance(labels, Tensor) else encode(labels, classes, argument)
    return Split(
        inputs=cases.inputs,
        labels=indices,
        lengths=cases.lengths,
        mask=mask,
        dt=cases.dt,
        missing=cases.missing,
        classes=len(classes),
    )


def classes_of(cases: Cases) -> tuple[Label, ...]:
    """Return the classes of the training part, in order; none for values.

    Raises:
        ValueError: If there is only one, or one stands for a missing class; or all values are equal.
    """
    if isinstance(cases.labels, Tensor):
        known = cases.labels[cases.mask] if cases.mask is not None else cases.labels
        if bool((known == known[:1]).all()):
            raise ValueError(f"y must hold at least two different values, got only {float(known.flatten()[0]):g}.")
        return ()
    present = sorted_classes(cases.names)
    if len(present) < 2:
        found = f" ({present[0].text!r})" if present else ""
        raise ValueError(f"y must hold at least two classes, got {len(present)}{found}.")
    classes = sorted_classes(cases.declared) if cases.declared else present
    check_classes(classes, declared=bool(cases.declared))
    return classes


def check_enough(cases: Cases) -> None:
    """Raise unless there are enough sequences, of each class if they have one, for all three parts."""
    need = 3
    if not isinstance(cases.labels, tuple):
        if len(cases.inputs) < need:
            raise ValueError(
                f"y must hold at least {need} sequences to be split 60/20/20, got {len(cases.inputs)}. Add sequences, "
                "or give a test part."
            )
        return
    counts = Counter(cases.labels)
    smallest = min(sorted_classes(cases.labels), key=lambda label: counts[label])
    if counts[smallest] < need:
        numbers = all(parse_number(label.text) is not None for label in counts)
        advice = " If y holds values to predict, give task='regression' (--task regression)." if numbers else ""
        raise ValueError(
            f"y must hold at least {need} sequences of each class to be split 60/20/20, "
            f"got {counts[smallest]} of class {smallest.text!r}. Add sequences, or give a test part. "
            f"In a .csv the first column is the class, if label_column (--label-column) does not name another.{advice}"
        )


def draw_groups(groups: Sequence[str], strata: Tensor, *, with_test: bool) -> tuple[Tensor | None, Tensor, Tensor]:
    """Draw groups of sequences for the test and the validation part, a fifth of the groups each.

    The draw is stratified if each group is of one class.

    Args:
        groups: Group of each sequence.
        strata: Class of each sequence, int64 `(n,)`.
        with_test: Whether to draw a test part.

    Returns:
        Indices of the sequences for test (`None` without one), validation and training, int64.

    Raises:
        ValueError: If there are too few groups, of each class if groups have one.
    """
    names = list(dict.fromkeys(groups))
    number = {name: k for k, name in enumerate(names)}
    member = torch.tensor([number[name] for name in groups], dtype=torch.int64, device="cpu")
    classes = [strata[member == k].unique() for k in range(len(names))]
    of_one = all(len(found) == 1 for found in classes)
    kinds = torch.cat(classes) if of_one else torch.zeros(len(names), dtype=torch.int64, device="cpu")
    need = 3 if with_test else 2
    if int(kinds.bincount()[kinds].min()) < need:
        which = " of each class" if of_one and len(strata.unique()) > 1 else ""
        raise ValueError(
            f"group_column must name at least {need} groups{which}, so that each part of the data has one, got "
            f"{int(kinds.bincount()[kinds].min())}. Add groups, or leave group_column out."
        )
    size = round(0.2 * len(names))
    rest = torch.arange(len(names), device="cpu")
    tested = None
    if with_test:
        tested, rest = stratified_draw(kinds, max(size, 1))
    validation, train = (rest[drawn] for drawn in stratified_draw(kinds[rest], max(size, 1)))
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(SPLIT_SEED), device="cpu")

    def members(part: Tensor) -> Tensor:
        return order[torch.isin(member[order], part)]

    return None if tested is None else members(tested), members(validation), members(train)


def check_class_in_training(strata: Tensor, classes: Sequence[Label]) -> None:
    """Raise `ValueError` unless every class has a sequence in the training part that groups were drawn for."""
    absent = set(range(len(classes))) - set(strata.tolist())
    if absent:
        raise ValueError(
            f"group_column must leave every class in the training part, got none of class "
            f"{classes[min(absent)].text!r}, which too few groups have. Add groups."
        )


def dataset_from_cases(name: str, cases: Cases, read_test: Callable[[], Cases] | None, source: str) -> Dataset:
    """Build a data set whose values have no known scale: it is standardised and states no range of values.

    Args:
        name: Its name on the command line.
        cases: The official training part, or all sequences if there is no test part.
        read_test: Reads the official test part; `None` takes 20 % of `cases` for it.
        source: Where it comes from; how it is split is added.

    Returns:
        Validation is 20 % of the sequences, stratified and seeded, and so is the test part if there is no official one.
        Without one class for each sequence the draws are seeded only.

    Raises:
        ValueError: If the cases are malformed, of one class, or too few to be split.
    """
    check_cases(cases)
    classes = classes_of(cases)
    one_class_each = isinstance(cases.labels, tuple)
    strata = torch.zeros(len(cases.inputs), dtype=torch.int64, device="cpu")
    if isinstance(cases.labels, tuple):
        strata = encode(cases.labels, classes)
    drawn = "stratified and seeded" if one_class_each else "seeded"
    part = round(0.2 * len(strata))
    if read_test is None and cases.groups is None:
        check_enough(cases)
    if cases.groups is not None:
        drawn = "by groups and seeded"
        tested, validation, train = draw_groups(cases.groups, strata, with_test=read_test is None)
        check_class_in_training(strata[train], classes)
    else:
        tested, rest = None, torch.arange(len(strata), device="cpu")
        if read_test is None:
            tested, rest = stratified_draw(strata, part)
        validation, train = (rest[drawn_rows] for drawn_rows in stratified_draw(strata[rest], part))
    how = f"Test part as given; validation is 20 % of the training part, {drawn}."
    if read_test is None:
        how = f"60 % training, 20 % validation, 20 % test, {drawn}."
    if len(validation) == 0:
        what = f"2 sequences of some class, one of them for validation, got {len(strata)} of {len(classes)} classes"
        if not one_class_each:
            what = f"2 sequences, one of them for validation, got {len(strata)}"
        raise ValueError(f"y must hold {what}. Add sequences.")
    known = cases.subset(train).times
    nominal = 1.0 if known is None else typical_gap(known)
    cases = cases.with_step_lengths(nominal)
    train_split = to_split(cases.subset(train), classes)
    check_values_vary(train_split)

    def test() -> Split:
        if read_test is None:
            assert tested is not None
            return to_split(cases.subset(tested), classes)
        test_cases = (
            read_test().with_channels(cases.channel_names, f"The test data of {name}").with_step_lengths(nominal)
        )
        check_cases(test_cases, "_test")
        if test_cases.times is not None and cases.times is not None:
            warn_of_unit(f"The test data of {name}", typical_gap(test_cases.times), nominal)
        channels, expected = test_cases.inputs.shape[2], cases.inputs.shape[2]
        if channels != expected:
            raise ValueError(f"X_test must have {expected} channels, as X has, got {channels}.")
        test_split = to_split(test_cases, classes, "y_test")
        check_alike(train_split, test_split)
        return test_split

    return Dataset(
        name=name,
        train=train_split,
        validation=to_split(cases.subset(validation), classes),
        read_test=test,
        class_names=tuple(label.text for label in classes),
        value_range=None,
        standardize=True,
        test_size=None if tested is None else len(tested),
        nominal_step=None if cases.times is None else nominal,
        channel_names=cases.channel_names,
        source=f"{source} {how}",
    )
