"""Reads labelled sequences from a `.csv` file: one per line, of one channel."""

import csv
import io
import math
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from noisyrnn.data.folders import read_text
from noisyrnn.data.labels import Label, text_labels
from noisyrnn.data.numbers import SHIFT, is_missing, is_rounded, parse_number
from noisyrnn.data.split import Cases, Targets, pad_sequences, parse_targets

Row = tuple[int, list[str]]
"""Number of a line in the file, and its cells."""

_LABEL_NAMES = frozenset(("class", "classes", "class_label", "classlabel", "label", "labels", "target", "y"))
_INDEX_NAMES = frozenset(("", "unnamed: 0", "index"))
_MANY_CLASSES = 50
_FEW_CASES = 10
_OPTION = "give label_column (--label-column NAME or NUMBER, from 1, or -1 for the last)"
_ENOUGH_LINES = 10
"""Below this many lines a column may count them by chance."""


def read_csv(path: Path, label_column: str | int | None = None, task: str | None = None) -> Cases:
    """Read one sequence per line: its class in one column, the values of one channel in all others, in order.

    For a regression the column of the class holds a number to predict.

    Lines may be shorter, or end in empty cells. The first line is a header if no cell of it can be data (`is_header`),
    or if `label_column` is a name.

    Args:
        path: The file.
        label_column: Column of the class: its name in the header, or its number, from 1, or from -1 at the end of each
            line. By default the one column that the header calls "class", "label", "target" or "y", else the first; a
            file that makes little sense when it is read like that is rejected.
        task: "classification", the default for `None`, or "regression".

    Raises:
        ValueError: If a cell is missing or not a finite number, there is no sequence or no such column, or the
            class, a number of the line or the time seem to be in another column than expected.
    """
    rows = csv_rows(path)
    header: list[str] | None = None
    if rows and (isinstance(label_column, str) or is_header(rows)):
        header = rows[0][1]
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{path} must hold at least one sequence, got none.")
    place = _label_place(path, header, label_column)
    if header is not None and header[0].lower() in _INDEX_NAMES and place % len(header) and any(c[0] for _, c in rows):
        raise ValueError(
            f"{path} must hold values of a sequence in column 1, got one that is called {header[0]!r}, as pandas calls "
            "its index. Remove the column: to_csv(…, index=False)."
        )
    read = [_read_row(path, row, place, len(rows[0][1])) for row in rows]
    values = [row for _, row in read]
    labels: Targets
    if task == "regression":
        labels = parse_targets(
            [label for label, _ in read],
            lambda k, cell: (
                f"Line {rows[k][0]} of {path} must hold a finite number to predict, got {cell!r}. {_cell_advice(cell)}"
            ),
        )
    else:
        labels = text_labels(label for label, _ in read)
    if label_column is None and isinstance(labels, tuple):
        named = header is not None and header[place].lower() in _LABEL_NAMES
        _check_label_place(path, labels, values, label_place=place, label_named=named)
    if problem := _find_counting_column(path, values, label_place=place % len(rows[0][1])):
        rule, advice = problem
        if label_column is None:
            raise ValueError(f"{rule}. {advice}; or if the column does hold values, {_OPTION}.")
        warnings.warn(f"{rule}. It is read as a value of the sequence. If it is none: {advice.lower()}.", stacklevel=2)
    inputs, lengths = pad_sequences(
        [torch.tensor(row, dtype=torch.float64, device="cpu").unsqueeze(-1) for row in values]
    )
    return Cases(inputs=inputs, lengths=lengths, labels=labels)


def csv_rows(path: Path) -> list[Row]:
    """Return the lines that are not empty, their cells stripped.

    Raises:
        ValueError: If a quotation mark has no partner, or a quoted cell continues in another line.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows: list[Row] = []
    last = 0
    try:
        for row in reader:
            if reader.line_num > last + 1:
                raise csv.Error("a quoted cell continues in the next line")
            last = reader.line_num
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((last, cells))
    except csv.Error as error:
        raise ValueError(
            f"Line {last + 1} of {path} must be cells between commas, got one that cannot be read ({error}). "
            "Close every quotation mark in its line, or remove it."
        ) from None
    return rows


def is_header(rows: list[Row]) -> bool:
    """Whether the first line names the columns, and is not a sequence with bad cells.

    It is a header if all its cells are names, or if its numbers count the columns as pandas writes them: 0, 1, 2, … or
    1, 2, 3, …. A name is neither a number nor a mark of a missing value, and no other line has it in the same column.
    """
    (_, first), *others = rows
    cells = [(column, cell) for column, cell in enumerate(first) if cell]
    if any(is_missing(cell) for _, cell in cells):
        return False
    names = [(column, cell) for column, cell in cells if parse_number(cell) is None]
    if any(column < len(row) and row[column] == name for column, name in names for _, row in others):
        return False
    numbers = [(column, cell) for column, cell in cells if parse_number(cell) is not None]
    if not numbers:
        return any(parse_number(cell) is not None for _, row in others[:1] for cell in row)
    counts = [cell for _, cell in numbers]
    if counts not in ([str(i) for i in range(start, start + len(counts))] for start in (0, 1)) or len(names) > 2:
        return False
    if len(counts) == 1 and any(row[numbers[0][0] :][:1] == counts for _, row in others):  # a class, next to a bad cell
        return False
    # Without any name it may be a sequence of whole numbers, if others are.
    return bool(names) or any("." in cell for _, row in others[:1] for cell in row[1:])


def _label_place(path: Path, header: list[str] | None, label_column: str | int | None) -> int:
    """Return the index of the class in a line."""
    if isinstance(label_column, int):
        return label_column - 1 if label_column > 0 else label_column
    names = [] if header is None else header
    if label_column is None:
        known = [column for column, name in enumerate(names) if name.lower() in _LABEL_NAMES]
        known = [column for column in known if names[column].lower() != "y"] or known  # next to a class, y is a value
        if len(known) > 1:
            raise ValueError(
                f"{path} must hold one column of classes, got a header with {len(known)}: "
                f"{', '.join(repr(names[column]) for column in known)}. Remove the others, or give label_column "
                "(--label-column) if they hold values."
            )
        return known[0] if known else 0
    if names.count(label_column) != 1:
        columns = ", ".join(map(repr, names[:10])) + (", …" if len(names) > 10 else "")
        raise ValueError(
            f"label_column must be the name of one column of {path}, got {label_column!r} and a first line {columns}. "
            "Give the exact name, or the number of the column, from 1."
        )
    return names.index(label_column)


def _read_row(path: Path, row: Row, place: int, width: int) -> tuple[str, list[float]]:
    """Return the class and the values of a line."""
    line, cells = row
    where = f"Line {line} of {path}"
    while place < 0 and cells and not cells[-1]:
        cells = cells[:-1]
    index = place if place >= 0 else len(cells) + place
    if not 0 <= index < len(cells):
        raise ValueError(f"{where} must hold a class in column {place + (place >= 0)}, got {len(cells)} cells.")
    label = cells[index]
    rest = [(column, cell) for column, cell in enumerate(cells, start=1) if column != index + 1]
    while rest and not rest[-1][1]:
        rest.pop()
    if rest and re.search(r"[;\t]\s*[+-]?[0-9]+$", label):  # values before the first decimal comma
        raise ValueError(f"{where} must hold cells between commas, got {label!r} as the class. {_cell_advice(label)}")
    if not label or not rest:
        raise ValueError(
            f"{where} must hold a class and at least one value, got {label!r} and {len(rest)} values. "
            f"{_cell_advice(label)}"
        )
    values = []
    for column, cell in rest:
        value = parse_number(cell)
        if value is None or not math.isfinite(value):
            last = column == width and index == 0
            raise ValueError(
                f"{where} must hold finite numbers, got {cell!r} in column {column}. {_cell_advice(cell, last)}"
            )
        if is_rounded(cell):
            raise ValueError(
                f"{where} must hold numbers that float64 represents exactly, got {cell!r} in column {column}. {SHIFT}"
            )
        values.append(value)
    return label, values


def _cell_advice(cell: str, last: bool = False) -> str:
    """Guess what is wrong with a cell, as advice for a message."""
    if ";" in cell or "\t" in cell:
        return "Separate values with commas."
    if re.fullmatch(r"[+-]?\d+,\d+", cell):
        return "Write a point in the number, not a comma."
    if is_missing(cell):
        return "Fill the value in, or leave the line out."
    if parse_number(cell) is not None:
        return "Give the values in a larger unit."
    if last:
        return "If the last column is the class, give label_column (--label-column -1)."
    return "Each line must be its class and then its values, without a line number."


def _check_label_place(
    path: Path, labels: tuple[Label, ...], values: list[list[float]], *, label_place: int, label_named: bool
) -> None:
    """Raise `ValueError` if the class is probably in another column than expected.

    Args:
        path: Name in the messages.
        labels: Cells read as classes.
        values: Cells read as values.
        label_place: Index of the column of the class.
        label_named: Whether the header names it.
    """
    counts = Counter(labels)
    fractions = any(value is not None and not value.is_integer() for value in map(parse_number, map(str, counts)))
    if not label_named and len(counts) > _MANY_CLASSES and (fractions or len(labels) < _FEW_CASES * len(counts)):
        raise ValueError(
            f"{path} must hold the class of each sequence in column {label_place + 1}, got {len(counts)} different "
            f"values there in {len(labels)} lines. If the class is in another column, or there are so many, {_OPTION}. "
            "If these are values to predict, give task='regression' (--task regression)."
        )
    table, whole = _columns(values)
    if len(table) < _ENOUGH_LINES or table.shape[1] < 2:
        return
    same_length = max(map(len, values)) == table.shape[1]
    last = len(np.unique(table[:, -1]))
    classes_first = any(parse_number(str(label)) is None for label in counts)  # text cannot be a value
    if (
        same_length
        and not label_named
        and not classes_first
        and whole[-1]
        and not whole[:-1].any()
        and 2 <= last <= min(_MANY_CLASSES, len(table) // 3)
    ):
        raise ValueError(
            f"{path} must hold values of a sequence in its last column, got whole numbers there, only {last} "
            f"different ones, as classes are. If that is the class, or column {label_place + 1} is, {_OPTION}."
        )


def _columns(values: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns that all lines have, `(lines, columns)`, and which of them hold whole numbers only."""
    width = min(map(len, values))
    table = np.array([row[:width] for row in values])
    return table, (np.mod(table, 1) == 0).all(axis=0)


def _find_counting_column(path: Path, values: list[list[float]], *, label_place: int) -> tuple[str, str] | None:
    """Return rule and advice of a message if a column is probably a line number or the time; else `None`."""
    table, whole = _columns(values)
    width = table.shape[1]
    if len(table) < _ENOUGH_LINES or width < 2:
        return None
    distinct = [len(np.unique(column)) for column in table.T]
    count_up = [column for column in range(width) if _counts_lines(table[:, column], whole=whole[column])]
    numbers = [k for k in range(width) if whole[k] and distinct[k] == len(table)]
    dense = [k for k in numbers if np.ptp(table[:, k]) == len(table) - 1]  # the lines' numbers, perhaps shuffled
    for candidates in (count_up, dense, numbers if whole.sum() == 1 else []):
        if len(candidates) != 1:
            continue
        (column,) = candidates
        place = column + 1 + (column >= label_place)
        if distinct[column] == len(table):
            return (
                f"{path} must hold values of a sequence in column {place}, got another whole number in each line, as a "
                "line number is",
                "Remove the column",
            )
        return (
            f"{path} must hold one sequence per line, got a column {place} that counts up again and again, as the time "
            "does where each step has a line of its own",
            "Write all steps of a sequence into one line",
        )
    return None


def _counts_lines(column: np.ndarray, *, whole: bool) -> bool:
    """Whether a column goes up by equal steps from line to line, as a counter or a clock that may restart.

    Fractions without a restart may be values.
    """
    steps = np.diff(column)
    step = np.median(steps)
    up, restarts = np.isclose(steps, step, rtol=1e-6, atol=0.0), column[1:] == column[0]
    return bool(step > 0 and (up | restarts).all() and (whole or restarts.any()))
