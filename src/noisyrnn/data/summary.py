"""A data set in a few lines: its size and values, its classes or targets, its channels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from noisyrnn.data.stored import StoredSequences
from noisyrnn.missing import MISSING
from noisyrnn.targets import counted

if TYPE_CHECKING:
    from noisyrnn.data.base import Dataset, Split

_NAMES, _NAME = 6, 20
"""How many names of classes or channels a description shows, and how many letters of each."""

_MOST_ROWS = 10
"""Rows of a table that a summary shows in full."""


def summarize(dataset: "Dataset") -> str:
    """Describe the data in one line and a small table of classes or targets, and of channels if there are several.

    The test part is not read, so everything but its size is of the training and validation parts, and shares and
    values are of the training part.
    """
    test = dataset.known_test_size
    sizes = [len(dataset.train), len(dataset.validation), *([] if test is None else [test])]
    parts = " / ".join(f"{size:,}" for size in sizes) + (" / test file not read yet" if test is None else "")
    steps = steps_text(dataset.train)
    ends = dataset.train.extremes()
    labels = dataset.train.labels[counted(dataset.train.labels)]
    if dataset.classes:
        largest = float(labels.bincount(minlength=dataset.classes).max()) / len(labels)
        answers = f"{dataset.classes} classes (largest {100 * largest:.1f} %)"
    else:
        answers = f"{dataset.outputs} target{'s' if dataset.outputs > 1 else ''}"
        answers += f" {float(labels.min()):.6g}…{float(labels.max()):.6g}"
    if dataset.train.mask is not None:
        answers += f" at {len(labels):,} of {int(dataset.train.valid().sum()):,} steps"
    uneven = "" if dataset.train.dt is None else " of unequal length"
    span = "none" if ends is None else f"{ends[0]:.6g}…{ends[1]:.6g}"
    line = (
        f"{Path(dataset.name).name}: {sum(sizes):,} sequences ({parts}), {steps} steps{uneven} × {dataset.input_size} "
        f"channel{'s' if dataset.input_size > 1 else ''}, {answers}, "
        f"values {span}, missing {missing_text(dataset.train)}"
    )
    channels = aligned(_channels(dataset)) if dataset.input_size > 1 else []
    return "\n".join([line, *aligned(_answers(dataset)), *channels])


def _answers(dataset: "Dataset") -> list[list[str]]:
    """Return a table of the classes, or of the targets."""
    train, validation = (part.labels[counted(part.labels)] for part in (dataset.train, dataset.validation))
    if not dataset.classes:
        rows = [["target", "min", "mean", "max"]]
        targets = train.reshape(-1, dataset.outputs)
        for k, column in enumerate(targets.T):
            rows.append([f"{k + 1}", *(f"{float(v):.4g}" for v in (column.min(), column.mean(), column.max()))])
        return shortened(rows)
    counts = [labels.bincount(minlength=dataset.classes).tolist() for labels in (train, validation)]
    rows = [["class", "training", "validation"]]
    for name, *pair in zip(dataset.class_names, *counts, strict=True):
        rows.append([name, *(f"{count:,}" for count in pair)])
    return shortened(rows)


def _channels(dataset: "Dataset") -> list[list[str]]:
    """Return a table of the channels, over the valid steps of the training part."""
    names = [" ".join(name.split()) for name in dataset.channel_names]
    names = names or [f"{k}" for k in range(1, dataset.input_size + 1)]
    if isinstance(dataset.train.inputs, StoredSequences):
        scan = dataset.train.inputs.scan
        found = zip(names, zip(scan.low, scan.mean, scan.high, strict=True), strict=True)
        rows = [[name, *(f"{float(value):.4g}" for value in values)] for name, values in found]
        return shortened([["channel", "min", "mean", "max"], *rows])
    columns = dataset.train.inputs[dataset.train.valid()].double().T
    counted_too = bool(columns.isnan().any())
    rows = [["channel", "min", "mean", "max", *(["missing"] if counted_too else [])]]
    for name, column in zip(names, columns, strict=True):
        known = column[~column.isnan()]
        values = (known.min(), known.mean(), known.max()) if len(known) else ()
        cells = [f"{float(v):.4g}" for v in values] or ["none"] * 3
        rows.append([name, *cells, *([f"{len(column) - len(known):,}"] if counted_too else [])])
    return shortened(rows)


def steps_text(split: "Split") -> str:
    """Return the number of steps of the sequences, such as `64` or `3 to 64`."""
    steps = split.inputs.shape[1]
    low, high = (steps, steps) if split.lengths is None else (int(split.lengths.min()), int(split.lengths.max()))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def missing_text(split: "Split") -> str:
    """Return the number of missing values, their share, and how they are met."""
    count = 0 if isinstance(split.inputs, StoredSequences) else int(split.is_missing().sum())
    if count == 0:
        return "0"
    total = int(split.valid().sum()) * split.inputs.shape[2]
    how = "" if split.missing is None else f", {MISSING[split.missing]}"
    return f"{count:,} of {total:,} ({100 * count / total:.2g} %{how})"


def shortened(rows: list[list[str]]) -> list[list[str]]:
    """Return the head and the first rows of a table; the last row has the number of those left out."""
    if len(rows) <= _MOST_ROWS + 1:
        return rows
    return [*rows[:_MOST_ROWS], [f"… {len(rows) - _MOST_ROWS} more", *[""] * (len(rows[0]) - 1)]]


def aligned(rows: list[list[str]]) -> list[str]:
    r"""Return the lines of a table: the first column to the left, all others to the right.

    Example:
        >>> print(*aligned([["class", "training"], ["a", "12"]]), sep="\n")
          class  training
          a            12
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def shown_names(names: Sequence[str]) -> str:
    """Return the first of some names, each shortened to one line."""
    lines = [" ".join(name.split()) for name in names[:_NAMES]]
    lines = [line if len(line) <= _NAME else f"{line[: _NAME - 1]}…" for line in lines]
    return ", ".join([*lines, *["…"] * (len(names) > _NAMES)])
