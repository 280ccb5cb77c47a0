"""Reads labelled sequences from a table with one sequence per row."""

import difflib
import math
import re
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from noisyrnn.data.delimited import INDEX_NAMES, LABEL_NAMES, Row, Table
from noisyrnn.data.labels import Label, decimal_labels, text_labels
from noisyrnn.data.numbers import SHIFT, is_absent, is_missing, is_missing_number, is_rounded, parse_number
from noisyrnn.data.options import ReadingOptions, flag, missing_advice
from noisyrnn.data.parts import Cases, Targets, pad_sequences, parse_targets

_MANY_CLASSES = 50
_FEW_CASES = 10
_OPTION = "give label_column (--label-column NAME or NUMBER, from 1, or -1 for the last)"
_ENOUGH_LINES = 10
"""Below this many lines a column may count them by chance."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Places:
    """Where the parts of a sequence are in a row; indices from 0, or negative from the end of the row.

    Args:
        label: Of the class.
        group: Of the group; `None` if there is none.
        drop: Of cells that are left out.
        order: Of the values, by step and then by channel; `None` for all other cells, in order.
        channels: Number of channels.
        width: Cells of the header, or of the first row.
        named: Whether there is a header.
        missing: Whether values may be missing.
    """

    label: int
    group: int | None
    drop: tuple[int, ...]
    order: tuple[int, ...] | None
    channels: int
    width: int
    named: bool
    missing: bool


def read_wide(table: Table, options: ReadingOptions, *, declared: Sequence[str] = (), archive: bool = False) -> Cases:
    """Read one sequence per row: its class in one column, its values in all others.

    For a regression the column of the class holds a number to predict. Rows may be shorter, or end in empty cells. All
    values are of one channel, in order, unless the header names channels (`_value_order`).

    Args:
        table: The rows.
        options: Of these, `label_column`, `group_column`, `drop`, `layout`, `task` and `missing`. By default the class
            is in the one column that the header calls "class", "label", "target" or "y", else in the first; a file that
            makes little sense when it is read like that is rejected.
        declared: Every class that the file declares.
        archive: Whether the format is that of the UCR archive: NaN at the end of a row means that the sequence has
            ended, and classes that are equal as numbers are equal.

    Raises:
        ValueError: If a cell is missing or not a finite number, there is no sequence or no such column, or the
            class, a number of the line or the time seem to be in another column than expected.
    """
    path = table.path
    given = (options.label_column, options.group_column, *drops(options))
    header, rows = table.split_header(any(isinstance(column, str) for column in given))
    drop = tuple(find_column(path, header, "drop", column) for column in drops(options))
    width = len(rows[0][1] if header is None else header)
    place = _label_place(path, header, options.label_column, {index % width for index in drop})
    group = None if options.group_column is None else find_column(path, header, "group_column", options.group_column)
    other = {index % width for index in (place, *drop, *(() if group is None else (group,)))}
    if any(cells[0] for _, cells in rows):
        check_no_index(path, header, other)
    order, channel_names = value_order(path, header, other, options)
    channels = max(len(channel_names), 1)
    missing = options.missing is not None
    places = _Places(
        label=place,
        group=group,
        drop=drop,
        order=order,
        channels=channels,
        width=width,
        named=header is not None,
        missing=missing,
    )
    short_nan = archive and header is None
    read = [_read_row(table, row, places, short_nan) for row in rows]
    values = [row for _, _, row in read]
    numbers = [line for line, _ in rows]
    if options.task != "regression" and not declared:
        table.check_names("class", [(line, label) for line, (label, _, _) in zip(numbers, read, strict=True)])
    if group is not None:
        table.check_names("group", [(line, name) for line, (_, name, _) in zip(numbers, read, strict=True)], sure=True)
    labels: Targets
    if options.task == "regression":
        labels = parse_targets(
            [label for label, _, _ in read],
            lambda k, cell: (
                f"{table.where(rows[k][0])} must hold a finite number to predict, got {cell!r}. "
                f"{_cell_advice(table, rows[k][0], cell)}"
            ),
        )
    else:
        labels = (decimal_labels if short_nan or declared else text_labels)(label for label, _, _ in read)
    if options.label_column is None and isinstance(labels, tuple):
        named = header is not None and header[place].lower() in LABEL_NAMES
        _check_label_place(path, labels, values, label_place=place, label_named=named or bool(declared))
    if order is None:
        check_no_counting(path, values, [column for column in range(width) if column not in other], options)
    inputs, lengths = pad_sequences(
        [torch.tensor(row, dtype=torch.float64, device="cpu").view(-1, channels) for row in values]
    )
    groups = None if group is None else tuple(name for _, name, _ in read)
    return Cases(
        inputs=inputs,
        lengths=lengths,
        labels=labels,
        declared=decimal_labels(declared),
        groups=groups,
        channel_names=channel_names,
    )


def check_no_index(path: Path, header: Sequence[str] | None, other: Collection[int]) -> None:
    """Raise `ValueError` if the first column is called as pandas calls its index, and is not among `other` ones."""
    if header and header[0].lower() in INDEX_NAMES and 0 not in other:
        raise ValueError(
            f"{path} must hold values of a sequence in column 1, got one that is called {header[0]!r}, as pandas calls "
            f"its index. Leave it out: {flag('drop', 1)}, or to_csv(…, index=False)."
        )


def drops(options: ReadingOptions) -> tuple[str | int, ...]:
    """Return the columns that are left out, a tuple also where there are none."""
    return options.drop if isinstance(options.drop, tuple) else ()


def find_column(path: Path, header: list[str] | None, option: str, column: str | int) -> int:
    """Return the index of a column, from 0 or negative from the end of a row.

    Raises:
        ValueError: If the header does not have the name once, or not as many columns.
    """
    if isinstance(column, int):
        if header is not None and not -len(header) <= column - (column > 0) < len(header):
            raise ValueError(
                f"{option} must be a column of {path}, which has {len(header)}, got {column}. Give a smaller number."
            )
        return column - 1 if column > 0 else column
    names = [] if header is None else header
    if names.count(column) != 1:
        last = [] if len(names) <= 12 else ["…", *map(repr, names[-2:])]
        columns = ", ".join([*map(repr, names[: 10 if last else 12]), *last])
        near = difflib.get_close_matches(column.casefold(), {name.casefold() for name in names}, n=1)
        hint = next((f"Did you mean {name!r}? " for name in names if near and name.casefold() == near[0]), "")
        raise ValueError(
            f"{option} must be the name of one column of {path}, got {column!r} and a first line {columns}. "
            f"{hint}Give the exact name, or the number of the column, from 1."
        )
    return names.index(column)


def _label_place(path: Path, header: list[str] | None, label_column: str | int | None, dropped: set[int]) -> int:
    """Return the index of the class in a row."""
    if label_column is not None:
        place = label_column
        return find_column(path, None if isinstance(place, int) else header, "label_column", place)
    known = named_labels(header or [], dropped)
    if len(known) > 1:
        assert header is not None
        raise ValueError(
            f"{path} must hold one column of classes, got a header with {len(known)}: "
            f"{', '.join(repr(header[column]) for column in known)}. Remove the others (drop, --drop), or give "
            "label_column (--label-column) if they hold values."
        )
    return known[0] if known else next(column for column in range(len(dropped) + 1) if column not in dropped)


def named_labels(header: Sequence[str], dropped: set[int]) -> list[int]:
    """Return the columns that a header calls "class", "label" or the like."""
    known = [k for k, name in enumerate(header) if name.lower() in LABEL_NAMES and k not in dropped]
    return [column for column in known if header[column].lower() != "y"] or known  # next to a class, y is a value


def value_order(
    path: Path, header: list[str] | None, other: set[int], options: ReadingOptions
) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """Return the order of the values in a row, by step and then by channel, and the names of the channels.

    `None` and no names where all columns are steps of one channel: there is no header, or its names have numbers, such
    as t0, t1, …. Names with two numbered series or more, such as x_0, x_1, y_0, y_1, are channels x and y.

    Args:
        path: Name in messages.
        header: Names of the columns.
        other: Columns that hold no value.
        options: Of these, `layout` and `label_column`.

    Raises:
        ValueError: If the header allows for another reading, and `layout` does not decide.
    """
    layout = options.layout
    labelled = options.label_column is not None or any(name.lower() in LABEL_NAMES for name in header or [])
    names = {} if header is None else {k: name for k, name in enumerate(header) if k not in other}
    if layout == "one-channel" or (len(names) < 2 and layout is None):
        return None, ()
    one = flag("layout", "one-channel")
    shown = ", ".join(map(repr, list(names.values())[:4])) + (", …" if len(names) > 4 else "")
    series: dict[str, dict[int, int]] = {}
    for column, name in names.items():
        match = re.fullmatch(r"(.*?)[\s_.:-]*([0-9]{1,9})", name)
        if parse_number(name) is not None:
            series.setdefault("", {})[len(series.get("", ()))] = column
        elif match:
            if int(match[2]) in series.setdefault(match[1], {}):
                raise ValueError(
                    f"{path} must name each column once, got {name!r} again. If the order is right, {one}."
                )
            series[match[1]][int(match[2])] = column
    plain = [name for name in names.values() if not re.search("[0-9]", name)]
    if plain and len(names) - len(plain) > 1 and layout is None:
        kind = "" if labelled else f"If it is the class, give {flag('label_column', plain[0])}. "
        raise ValueError(
            f"{path} must name the steps of a sequence by numbers, got a column {plain[0]!r}. {kind}Leave it out with "
            f"{flag('drop', ','.join(plain[:5]))}; or if all columns are the steps of one channel, give {one}."
        )
    if plain and layout is None:
        raise ValueError(
            f"{path} must name the steps of a sequence by numbers, got columns {shown}. If the columns are the steps "
            f"of one channel, give {one}. If each line is one step and the columns are channels, give id "
            "(--id COLUMN), the column that names the sequence; columns that are neither: drop (--drop)."
        )
    numbers = [list(columns) for columns in series.values()]
    steps = sorted(numbers[0]) if numbers else []
    alike = len(steps) > 1 and all(sorted(entries) == steps for entries in numbers)
    if len(series) > 1 and alike and sum(map(len, numbers)) == len(names):
        if layout is None:
            raise ValueError(
                f"{path} must name its columns after one channel, got {len(series)} numbered series, {shown}. If they "
                f"are channels, give {flag('layout', 'time-last')}; if all columns are the steps of one channel, {one}."
            )
        return tuple(columns[step] for step in steps for columns in series.values()), tuple(series)
    if layout is not None:
        raise ValueError(
            f"layout must be None or 'one-channel' for {path}, got {layout!r}. A table has channels if its header "
            "names them by numbered series, such as x_0, x_1, y_0, y_1."
        )
    if len(series) > 1 or (numbers and numbers[0] != steps):
        raise ValueError(
            f"{path} must name the steps of a sequence by increasing numbers, got columns {shown}. If they are the "
            f"steps of one channel in this order, give {one}; leave others out with drop (--drop)."
        )
    return None, ()


def _read_row(table: Table, row: Row, places: _Places, short_nan: bool) -> tuple[str, str, list[float]]:
    """Return the class, the group and the values of a row."""
    line, cells = row
    where = table.where(line)
    place = places.label
    if place < 0 and places.named and len(cells) == places.width:
        place += places.width  # the column that the header names; without a header the last cell that is not empty
    while place < 0 and cells and not cells[-1]:
        cells = cells[:-1]
    index = place if place >= 0 else len(cells) + place
    if not 0 <= index < len(cells):
        raise ValueError(f"{where} must hold a class in column {place + (place >= 0)}, got {len(cells)} cells.")
    label = cells[index]
    group = "" if places.group is None else _cell(cells, places.group)
    if places.group is not None and not group:
        raise ValueError(f"{where} must hold a group, as group_column states, got an empty cell. Fill it in.")
    out = {index, *(k % len(cells) if k < 0 else k for k in places.drop)}
    if places.group is not None:
        out.add(places.group % len(cells) if places.group < 0 else places.group)
    columns = [k for k in range(len(cells)) if k not in out] if places.order is None else places.order
    rest = [(column + 1, _cell(cells, column)) for column in columns]
    first = rest[:1]
    while rest and (not rest[-1][1] or (short_nan and is_missing_number(rest[-1][1]))):
        rest.pop()
    if places.missing and not rest:  # a sequence without any value has one step
        rest = first
    if rest and re.search(r"[;\t]\s*[+-]?[0-9]+$", label):  # values before the first decimal comma
        raise ValueError(
            f"{where} must hold cells between {table.between}, got {label!r} as the class. "
            f"{_cell_advice(table, line, label)}"
        )
    if not label or not rest:
        raise ValueError(
            f"{where} must hold a class and at least one value, got {label!r} and {len(rest)} values. "
            f"{_cell_advice(table, line, label)}"
        )
    while places.order is not None and len(rest) % places.channels:  # the last step lacks channels
        rest.append((places.order[len(rest)] + 1, ""))
    values = [
        parse_value(table, line, column, cell, last=column == places.width and index == 0, missing=places.missing)
        for column, cell in rest
    ]
    return label, group, values


def _cell(cells: list[str], column: int) -> str:
    """Return a cell of a row; an empty one where the row is shorter."""
    return cells[column] if -len(cells) <= column < len(cells) else ""


def parse_value(
    table: Table,
    line: int,
    column: int,
    cell: str,
    *,
    last: bool = False,
    advice: str | None = None,
    missing: bool = False,
) -> float:
    """Parse a cell to a finite number, or to NaN if the value is missing and may be.

    Args:
        table: Where it is from.
        line: Number of its line, for messages.
        column: Number of its column, from 1.
        cell: Its text.
        last: Whether it may be the class.
        advice: End of the message about a cell that is not a number (default: for a table with one sequence per line).
        missing: Whether the value may be missing.

    Raises:
        ValueError: If it is missing and may not be, not a finite number or one that float64 rounds.
    """
    value = parse_number(cell)
    if missing and is_absent(cell):
        return math.nan
    if value is None or not math.isfinite(value):
        raise ValueError(
            f"{table.where(line)} must hold finite numbers, got {cell!r} in column {column}. "
            f"{_cell_advice(table, line, cell, last, advice, value=True)}"
        )
    if is_rounded(cell):
        raise ValueError(
            f"{table.where(line)} must hold numbers that float64 represents exactly, got {cell!r} in column {column}. "
            f"{SHIFT}"
        )
    return value


def _cell_advice(
    table: Table, line: int, cell: str, last: bool = False, general: str | None = None, *, value: bool = False
) -> str:
    """Guess what is wrong with a cell, as advice for a message; `value`: it is one of the sequence."""
    if re.fullmatch(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?", cell) and table.decimal == ".":
        return f"If the numbers have decimal commas, give {flag('decimal', ',')}."
    if ";" in cell or "\t" in cell:
        return f"Separate values with {table.between}."
    if is_missing(cell):
        known = f"{missing_advice()} Or fill" if value and is_absent(cell) else "Fill"
        other = "the value in, or leave the line out."
        return f"{known} {other}" if general is None else f"{known}{general.removeprefix('Fill')}"
    if parse_number(cell) is not None:
        return "Give the values in a larger unit."
    if last:
        return f"If the last column is the class, give {flag('label_column', -1)}."
    return general or (
        "Each line must be its class and then its values; leave columns out with drop (--drop), or "
        f"{table.skip_advice([line])}."
    )


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


def _columns(values: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns that all lines have, `(lines, columns)`, and which of them hold whole numbers only."""
    width = min(map(len, values))
    table = np.array([row[:width] for row in values])
    return table, (np.mod(table, 1) == 0).all(axis=0)


def check_no_counting(
    path: Path, values: Sequence[Sequence[float]], columns: Sequence[int], options: ReadingOptions
) -> None:
    """Raise if a column is probably a line number or the time; warn where `label_column` or `layout` is given.

    Args:
        path: Name in messages.
        values: Of each line, in the order of the columns.
        columns: Index of the column of each value.
        options: How the file is read.
    """
    if problem := _find_counting_column(path, values, columns):
        rule, advice, warned = problem
        if options.label_column is None and options.layout is None:
            raise ValueError(f"{rule}. {advice}; or if the column does hold values, {_OPTION}.")
        warnings.warn(f"{rule}. It is read as a value of the sequence. {warned}", stacklevel=3)


def _find_counting_column(
    path: Path, values: Sequence[Sequence[float]], columns: Sequence[int]
) -> tuple[str, str, str] | None:
    """Return rule, advice and advice of a warning if a column is probably a line number or the time; else `None`."""
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
        place = columns[column] + 1 if column < len(columns) else column + 1
        if distinct[column] == len(table):
            drop = flag("drop", place)
            return (
                f"{path} must hold values of a sequence in column {place}, got another whole number in each line, as a "
                "line number is",
                f"Leave the column out: {drop}",
                f"If it is none: {drop}.",
            )
        return (
            f"{path} must hold one sequence per line, got a column {place} that counts up again and again, as the time "
            "does where each step has a line of its own",
            "If so, give id (--id COLUMN), the column that names the sequence of a line",
            "If it is the time, give id (--id COLUMN), the column that names the sequence of a line.",
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
