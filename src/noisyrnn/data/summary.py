"""A data set in a few lines: its size and values, its classes or targets, its channels."""

from collections.abc import Sequence
from pathlib import Path

from noisyrnn.data.split import Split, missing_text, steps_text
from noisyrnn.data.stored import StoredSequences
from noisyrnn.targets import counted

_NAMES, _NAME = 6, 20
"""How many names of classes or channels a description shows, and how many letters of each."""

_MOST_ROWS = 10
"""Rows of a table that a summary shows in full."""


def summarize(
    name: str,
    train: Split,
    validation: Split,
    *,
    test_size: int | None,
    class_names: Sequence[str],
    channel_names: Sequence[str],
) -> str:
    """Describe the data in one line and a small table of classes or targets, and of channels if there are several.

    Args:
        name: Name of the data set, or its file.
        train: The training part; shares and values are of it.
        validation: The validation part.
        test_size: Number of test sequences; `None` if it is not known yet.
        class_names: One name for each class; none for a regression.
        channel_names: One name for each channel; none if they have none.
    """
    channels = train.inputs.shape[2]
    sizes = [len(train), len(validation), *([] if test_size is None else [test_size])]
    parts = " / ".join(f"{size:,}" for size in sizes) + (" / test file not read yet" if test_size is None else "")
    ends = train.extremes()
    labels = train.labels[counted(train.labels)]
    if class_names:
        largest = float(labels.bincount(minlength=len(class_names)).max()) / len(labels)
        answers = f"{len(class_names)} classes (largest {100 * largest:.1f} %)"
    else:
        targets = train.labels.shape[-1]
        answers = f"{targets} target{'s' if targets > 1 else ''} {float(labels.min()):.6g}…{float(labels.max()):.6g}"
    if train.mask is not None:
        answers += f" at {len(labels):,} of {int(train.valid().sum()):,} steps"
    uneven = "" if train.dt is None else " of unequal length"
    span = "none" if ends is None else f"{ends[0]:.6g}…{ends[1]:.6g}"
    line = (
        f"{Path(name).name}: {sum(sizes):,} sequences ({parts}), {steps_text(train)} steps{uneven} × {channels} "
        f"channel{'s' if channels > 1 else ''}, {answers}, values {span}, missing {missing_text(train)}"
    )
    table = aligned(_classes(train, validation, class_names) if class_names else _targets(train))
    return "\n".join([line, *table, *(aligned(_channels(train, channel_names)) if channels > 1 else [])])


def _classes(train: Split, validation: Split, names: Sequence[str]) -> list[list[str]]:
    """Return a table of the classes."""
    labels = (part.labels[counted(part.labels)] for part in (train, validation))
    counts = [known.bincount(minlength=len(names)).tolist() for known in labels]
    rows = [["class", "training", "validation"]]
    for name, *pair in zip(names, *counts, strict=True):
        rows.append([name, *(f"{count:,}" for count in pair)])
    return shortened(rows)


def _targets(train: Split) -> list[list[str]]:
    """Return a table of the targets of a regression."""
    rows = [["target", "min", "mean", "max"]]
    targets = train.labels[counted(train.labels)].reshape(-1, train.labels.shape[-1])
    for k, column in enumerate(targets.T):
        rows.append([f"{k + 1}", *(f"{float(v):.4g}" for v in (column.min(), column.mean(), column.max()))])
    return shortened(rows)


def _channels(train: Split, channel_names: Sequence[str]) -> list[list[str]]:
    """Return a table of the channels, over the valid steps."""
    names = [" ".join(name.split()) for name in channel_names]
    names = names or [f"{k}" for k in range(1, train.inputs.shape[2] + 1)]
    if isinstance(train.inputs, StoredSequences):
        scan = train.inputs.scan
        found = zip(names, zip(scan.low, scan.mean, scan.high, strict=True), strict=True)
        rows = [[name, *(f"{float(value):.4g}" for value in values)] for name, values in found]
        return shortened([["channel", "min", "mean", "max"], *rows])
    columns = train.inputs[train.valid()].double().T
    counted_too = bool(columns.isnan().any())
    rows = [["channel", "min", "mean", "max", *(["missing"] if counted_too else [])]]
    for name, column in zip(names, columns, strict=True):
        known = column[~column.isnan()]
        values = (known.min(), known.mean(), known.max()) if len(known) else ()
        cells = [f"{float(v):.4g}" for v in values] or ["none"] * 3
        rows.append([name, *cells, *([f"{len(column) - len(known):,}"] if counted_too else [])])
    return shortened(rows)


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
