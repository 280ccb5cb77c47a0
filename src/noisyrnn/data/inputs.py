"""Reads the sequences of a user's file for predictions: as for training, but labels may be missing and are not read."""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from noisyrnn.checks import check_lengths, check_sequences
from noisyrnn.data.arrays import NpzArrays, to_floating
from noisyrnn.data.base import check_missing
from noisyrnn.data.delimited import Row, Table, is_header, read_delimited
from noisyrnn.data.long_table import read_long_inputs, stack_recordings
from noisyrnn.data.numbers import check_real, parse_number
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.shards import find_parts, open_inputs, options_of
from noisyrnn.data.split import pad_sequences
from noisyrnn.data.stored import StoredSequences
from noisyrnn.data.table import INDEX_NAMES, drops, find_column, named_labels, parse_value
from noisyrnn.data.times import step_lengths
from noisyrnn.data.ts import (
    declared_channels,
    header_flag,
    read_case,
    split_channels,
    split_header,
    split_stamps,
)
from noisyrnn.data.user_files import FORMATS, check_unused_options
from noisyrnn.padding import valid_steps

SUFFIXES = (".npz", ".csv", ".csv.gz", ".ts", ".ts.gz")


class Inputs(NamedTuple):
    """Sequences without labels.

    Args:
        values: `(n, steps, channels)`, NaN where a value is missing; or sequences that stay in their files.
        lengths: Valid steps of each sequence, `(n,)`; `None` where all have `steps`.
        dt: Length of each step in nominal steps, `(n, steps)`; `None` where all are 1.
    """

    values: Tensor | StoredSequences
    lengths: Tensor | None
    dt: Tensor | None


def read_inputs(
    name: str,
    options: ReadingOptions | None = None,
    *,
    labelled: bool | None = None,
    steps: int | None = None,
    nominal: float | None = None,
) -> Inputs:
    """Read the sequences of a file with one of `SUFFIXES` in the form of `load_user_file`.

    Those in a folder of arrays or shards stay there, and are read when they are used.

    Args:
        name: Path of the file or folder.
        options: How the file of the training was read; columns that the file lacks are those of labels.
        labelled: Whether a `.csv` file has a column of labels. `None`: it has if its header names one, if all cells
            there are text, or if its longest line has one cell more than `steps`.
        steps: Values of the longest training sequence, to decide whether a `.csv` file has labels; `None` if unknown.
        nominal: Time that a step of length 1 took in training; `None` if there were no times.

    Raises:
        ValueError: If the suffix is unknown, a value is missing and `missing` is not given, there are times and there
            were none in training, an option does not apply, or it remains unknown
            whether a `.csv` file has labels.
        FileNotFoundError: If there is no such file.
    """
    options = options or ReadingOptions()
    path = Path(name).expanduser()
    if path.is_dir() and find_parts(path):
        check_unused_options(name, options, options_of(path))
        return Inputs(*open_inputs(path, options), None)
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise ValueError(
            f"data must be a file ending in {', '.join(SUFFIXES)}, or a folder of .npy, .npz or .parquet files, got "
            f"{name!r}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"data must be an existing file, got {name!r}. Correct the path.")
    check_unused_options(name, options, FORMATS[suffix.removesuffix(".gz")].options)
    times = None
    if suffix == ".npz":
        inputs, lengths = _read_npz(path, options.layout)
    elif suffix.startswith(".csv") and options.id is not None:
        inputs, lengths, times = _read_long(path, options, labelled)
    elif suffix.startswith(".csv"):
        inputs, lengths = _read_csv(path, options, labelled, steps)
    else:
        inputs, lengths, times = _read_ts(path, options)
    check_sequences("X", inputs)
    check_missing("X", inputs, options.missing)
    if times is None:
        if nominal is not None:
            warnings.warn(f"{path} holds no times: its steps are read as equally long.", stacklevel=3)
        return Inputs(inputs, lengths, None)
    if nominal is None:
        raise ValueError(
            f"{path} must hold no times for a model that was trained without, got times. Train on sequences with times."
        )
    return Inputs(inputs, lengths, step_lengths(times, nominal))


def _read_npz(path: Path, layout: str | None) -> tuple[Tensor, Tensor | None]:
    """Read `X` and perhaps `lengths`."""
    arrays = NpzArrays(path)
    X, lengths = arrays.read("X"), arrays.read("lengths")
    if X is None:
        raise ValueError(f"{path} must hold X, got none. Use np.savez(path, X=X).")
    if X.dtype.kind not in "fiu":
        raise TypeError(f"X must hold real numbers, got {X.dtype}.")
    check_real("X", X)
    if X.ndim not in (2, 3):
        raise ValueError(f"X must have shape (n, steps, channels) or (n, steps), got {X.shape}.")
    inputs = torch.from_numpy(to_floating(X))
    if inputs.ndim == 2:
        inputs = inputs.unsqueeze(-1)
    elif layout == "time-last":
        inputs = inputs.transpose(1, 2).contiguous()
    if lengths is None:
        return inputs, None
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths must hold integers, got {lengths.dtype}.")
    valid = torch.from_numpy(lengths.astype("int64"))
    check_lengths(valid, batch=len(inputs), steps=inputs.shape[1])
    return inputs.masked_fill(~valid_steps(valid, inputs.shape[1]).unsqueeze(-1), 0.0), valid


def _read_csv(
    path: Path, options: ReadingOptions, labelled: bool | None, steps: int | None
) -> tuple[Tensor, Tensor | None]:
    """Read one sequence per line, without the column of its label and those that are left out."""
    if options.layout in ("channels-last", "time-last"):
        raise ValueError(
            f"layout must be None for predictions, got {options.layout!r}: a table is read with one sequence of one "
            "channel per line. Save the sequences as X in a .npz file."
        )
    table = read_delimited(path, options)
    rows, label_column = table.rows, options.label_column
    names: list[str] = []
    named = rows and isinstance(label_column, str) and label_column in rows[0][1]
    if rows and (named or is_header(rows)):
        names, rows = rows[0][1], rows[1:]
    if not rows:
        raise ValueError(f"{path} must hold at least one sequence, got none.")
    if names and names[0].lower() in INDEX_NAMES and any(cells[0] for _, cells in rows):
        raise ValueError(
            f"{path} must hold values of a sequence in column 1, got one that is called {names[0]!r}, as pandas calls "
            "its index. Remove the column: to_csv(…, index=False)."
        )
    width = max(len(cells) for _, cells in rows)
    columns = [*drops(options), *([] if options.group_column is None else [options.group_column])]
    present = [column for column in columns if not isinstance(column, str) or column in names]
    out = {find_column(path, names or None, "drop", column) % width for column in present}
    rows = [(line, [cell for k, cell in enumerate(cells) if k not in out]) for line, cells in rows]
    names = [name for k, name in enumerate(names) if k not in out]
    place = _label_place(path, names, label_column, rows, labelled, steps)
    sequences = [_values(table, row, place, options.missing is not None) for row in rows]
    return pad_sequences([torch.tensor(row, dtype=torch.float64, device="cpu").unsqueeze(-1) for row in sequences])


def _read_long(
    path: Path, options: ReadingOptions, labelled: bool | None
) -> tuple[Tensor, Tensor | None, tuple[np.ndarray, ...] | None]:
    """Read the sequences of a table with one step, or one value, per line, and their times."""
    if options.layout is not None:
        raise ValueError(f"layout must be None with id, got {options.layout!r}.")
    return stack_recordings(read_long_inputs(read_delimited(path, options), options, labelled=labelled))


def _values(table: Table, row: Row, place: int | None, missing: bool) -> list[float]:
    """Return the values of a line, without its label."""
    line, cells = row
    kept = [(column, cell) for column, cell in enumerate(cells, start=1)]
    while kept and not kept[-1][1]:
        kept.pop()
    if place is not None and -len(kept) <= place < len(kept):
        del kept[place]
    if not kept and missing:  # a sequence without any value has one step
        return [math.nan]
    if not kept:
        raise ValueError(f"{table.where(line)} must hold at least one value, got none.")
    return [parse_value(table, line, column, cell, missing=missing) for column, cell in kept]


def _label_place(
    path: Path,
    names: list[str],
    label_column: str | int | None,
    rows: list[Row],
    labelled: bool | None,
    steps: int | None,
) -> int | None:
    """Return the index of the label in a line; `None` if there are no labels."""
    if labelled is False:
        return None
    if isinstance(label_column, str):
        if label_column in names:
            return names.index(label_column)
        if labelled:
            raise ValueError(f"label_column must be the name of a column of {path}, got {label_column!r}.")
        return None  # its file had a header with this name
    if label_column is None:
        known = named_labels(names, set())
        if known:
            return known[0]
        place = 0
    else:
        place = label_column - 1 if label_column > 0 else label_column
    full = [[*cells[: max((k for k, cell in enumerate(cells) if cell), default=-1) + 1]] for _, cells in rows]
    texts = [cells[place] for cells in full if -len(cells) <= place < len(cells)]
    if labelled or all(parse_number(text) is None for text in texts):
        return place
    longest = max(map(len, full))
    if steps is not None and longest == steps + 1:
        return place
    if steps is not None and longest == steps:
        return None
    known_steps = "" if steps is None else f" and training sequences of {steps} values"
    raise ValueError(
        f"labelled must be given for {path}, got lines of {longest} numbers{known_steps}. Give labelled=True "
        f"(--labelled true) if column {place + (place >= 0)} holds labels, else labelled=False (--labelled false)."
    )


def _read_ts(path: Path, options: ReadingOptions) -> tuple[Tensor, Tensor | None, tuple[np.ndarray, ...] | None]:
    """Read the cases of a `.ts` file and their times; if its header declares classes or targets, they are not read."""
    header, cases = split_header(path)
    if not cases:
        raise ValueError(f"{path} must hold at least one sequence, got none.")
    stamped = header_flag(header, "@timestamps", "false")
    targets = header_flag(header, "@targetlabel", "false")
    labelled = targets or header_flag(header, "@classlabel", "true")
    channels, sequences = declared_channels(header), []
    times: list[np.ndarray] = []
    for number, line in cases:
        values = split_channels(line, stamped=stamped)[: -1 if labelled else None]
        channels = channels or len(values)
        if len(values) != channels:
            raise ValueError(f"Line {number} of {path} must hold {channels} channels, got {len(values)}.")
        where = f"Line {number} of {path}"
        if stamped:
            stamps, values = split_stamps(values, where)
            times.append(stamps)
        sequences.append(read_case(values, where, None, missing=options.missing is not None))
    return *pad_sequences(sequences), tuple(times) or None
