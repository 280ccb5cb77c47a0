"""Reads the sequences of a user's file for predictions: as for training, but labels may be missing and are not read."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noisyrnn.checks import check_lengths, check_sequences
from noisyrnn.data.arff import read_attributes, relational_sequences
from noisyrnn.data.arrays import Arrays, NpyArrays, NpzArrays, found_names, known_names, to_floating
from noisyrnn.data.channels import ADVICE
from noisyrnn.data.delimited import Row, Table, read_delimited
from noisyrnn.data.frames import read_excel, read_parquet
from noisyrnn.data.long_table import read_long_inputs
from noisyrnn.data.numbers import check_real, parse_number
from noisyrnn.data.options import ReadingOptions, missing_advice
from noisyrnn.data.parts import Cases, pad_sequences
from noisyrnn.data.recordings import read_recordings
from noisyrnn.data.shards import find_parts, open_inputs, options_of
from noisyrnn.data.split_checks import check_missing
from noisyrnn.data.stored import StoredSequences
from noisyrnn.data.table import check_no_index, drops, find_column, named_labels, read_wide
from noisyrnn.data.times import step_lengths, typical_gap, warn_of_unit
from noisyrnn.data.ts import declared_channels, header_flag, read_case, split_channels, split_header, split_stamps
from noisyrnn.data.user_files import FORMATS, SUFFIXES, check_unused_options, format_of
from noisyrnn.padding import valid_steps

_LABEL = "noisyrnn label"
"""Column that takes the place of a missing label."""
_TEXT = (".csv", ".tsv", ".txt")
"""Kinds of files that may be single recordings."""
_MISSING_ADVICE = "Train the model with missing='hold' (--missing hold), or 'mask' or 'skip', to accept missing values."


@dataclass(frozen=True, kw_only=True, eq=False)
class UnlabelledSequences:
    """Sequences without labels.

    Args:
        inputs: `(n, steps, channels)`, NaN where a value is missing; or sequences that stay in their files.
        lengths: Int64 `(n,)`, `None` where all have `steps`.
        dt: Length of each step in nominal steps, float64 `(n, steps)`; `None` where all are 1.
        names: Name of each sequence in the file, such as its id or its own file; `None` where they have none.
    """

    inputs: Tensor | StoredSequences
    lengths: Tensor | None
    dt: Tensor | None = None
    names: tuple[str, ...] | None = None


def read_inputs(
    name: str,
    options: ReadingOptions | None = None,
    *,
    labelled: bool | None = None,
    steps: int | None = None,
    nominal: float | None = None,
    channels: Sequence[str] = (),
    input_size: int | None = None,
    recording: bool = False,
) -> UnlabelledSequences:
    """Read the sequences of a file or a folder of the formats of `load_user_file`.

    Those in a folder of arrays or shards stay there, and are read when they are used. Channels are returned in the
    order of `channels` where the file names them too.

    A text file may be a single recording, a step per line, as a folder of recordings has them. Without `id` it is one
    if it has the column `time`; and without `layout`, if its header has all of `channels` or its lines have
    `input_size` cells, more than one unless `recording`.

    Args:
        name: Path of the file or folder. A `.npy` file may have any name; a folder may have no labels at all.
        options: How the file of the training was read; columns that the file lacks are those of labels.
        labelled: Whether a table has a column of labels. `None`: it has if its header names one, if all cells there are
            text, or if its longest line has one cell more than `steps`.
        steps: Values of every training sequence, to decide whether a table has labels; `None` if they differ or are
            unknown.
        nominal: Time that a step of length 1 took in training; `None` if there were no times.
        channels: Names of the channels of the training, in order; empty if they have none.
        input_size: Number of channels of the training; `None` if unknown.
        recording: Whether the files of the training were single recordings.

    Raises:
        ValueError: If the suffix is unknown, a value is missing and `missing` is not given, there are times and there
            were none in training, channels have other names than in training, an option does not apply, or it remains
            unknown whether a table has labels.
        FileNotFoundError: If there is no such file.
    """
    options = options or ReadingOptions()
    path = Path(name).expanduser()
    kind = format_of(path)
    if kind is None:
        raise ValueError(f"data must be a folder or a file ending in {', '.join(SUFFIXES)}, got {name!r}.")
    if not path.exists():
        raise FileNotFoundError(f"data must be an existing file, got {name!r}. Correct the path.")
    inputs: Tensor | StoredSequences
    times: tuple[np.ndarray, ...] | None = None
    names: tuple[str, ...] | None = None
    if kind == "folder" and find_parts(path):
        check_unused_options(name, options, options_of(path))
        inputs, lengths = open_inputs(path, options, channels)
    else:
        check_unused_options(name, options, FORMATS[kind].options)
        try:
            cases, names = _read(path, kind, options, labelled, steps, channels, input_size, recording)
            inputs = cases.inputs
            assert isinstance(inputs, Tensor)
            check_sequences("X", inputs)
            check_missing("X", inputs, options.missing)
        except ValueError as error:
            if missing_advice() not in str(error):
                raise
            # The option is one of the training: a model that was trained without takes no missing values.
            raise ValueError(str(error).replace(missing_advice(), _MISSING_ADVICE)) from error
        lengths, times = cases.lengths, cases.times
    if times is not None and nominal is None:
        raise ValueError(
            f"{path} must hold no times for a model that was trained without, got times. Train on sequences with times."
        )
    if times is None and nominal is not None:
        warnings.warn(f"{path} holds no times: its steps are read as equally long.", stacklevel=3)
    if times is not None and nominal is not None and any(len(entry) > 1 for entry in times):
        warn_of_unit(path.name, typical_gap(times), nominal)
    dt = None if times is None else step_lengths(times, nominal)
    return UnlabelledSequences(inputs=inputs, lengths=lengths, dt=dt, names=names)


def _read(
    path: Path,
    kind: str,
    options: ReadingOptions,
    labelled: bool | None,
    steps: int | None,
    channels: Sequence[str],
    input_size: int | None,
    recording: bool,
) -> tuple[Cases, tuple[str, ...] | None]:
    """Read the sequences of a file or of a folder of recordings, and their names; the labels have no meaning."""
    if kind == "folder":
        cases, names = read_recordings(path, options, known=bool(channels))
        return cases.with_channels(channels, str(path)), names
    if kind in (".npz", ".npy"):
        return _read_arrays(NpzArrays(path) if kind == ".npz" else NpyArrays(path, any_name=True), options.layout), None
    if kind == ".ts":
        return _read_ts(path, options), None
    if kind == ".arff":
        return _read_arff(path, options).with_channels(channels, str(path)), None
    if kind == ".parquet":
        table = read_parquet(path)
    elif kind == ".xlsx":
        table = read_excel(path, options)
    else:
        table = read_delimited(path, options)
    if options.id is None and kind in _TEXT and _is_recording(table, options, channels, input_size, recording):
        cases, names = read_recordings(path, options, known=bool(channels))
        advice = f"If its lines are of several sequences, give id (--id COLUMN). {ADVICE}"
        return cases.with_channels(channels, str(path), advice=advice), names
    if options.id is None:
        cases = _read_wide(table, options, labelled, steps, archive=kind in (".tsv", ".txt"))
        return cases.with_channels(channels, str(path)), None
    if options.layout is not None:
        raise ValueError(f"layout must be None with id, got {options.layout!r}.")
    cases, names = read_long_inputs(table, options, labelled=labelled, channels=channels)
    return cases.with_channels(channels, str(path)), names


def _is_recording(
    table: Table, options: ReadingOptions, channels: Sequence[str], input_size: int | None, recording: bool
) -> bool:
    """Whether a table holds the steps of one sequence, as a file in a folder of recordings does."""
    if not table.rows:
        return False
    if isinstance(options.time, int) or options.time in table.rows[0][1]:
        return True
    if options.layout is not None:
        return False
    if channels and {*channels} <= {*table.rows[0][1]}:
        return True
    widths = {len(cells) for _, cells in table.rows}
    return input_size is not None and (input_size > 1 or recording) and widths == {input_size + len(drops(options))}


def _read_arrays(arrays: Arrays, layout: str | None) -> Cases:
    """Read `X` and perhaps `lengths`."""
    X, lengths = arrays.read("X"), arrays.read("lengths")
    if X is None:
        raise ValueError(f"{arrays.path} must hold X, got none{found_names(arrays)}. {known_names()}")
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
        return Cases(inputs=inputs, labels=())
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths must hold integers, got {lengths.dtype}.")
    valid = torch.from_numpy(lengths.astype("int64"))
    check_lengths(valid, batch=len(inputs), steps=inputs.shape[1])
    inputs = inputs.masked_fill(~valid_steps(valid, inputs.shape[1]).unsqueeze(-1), 0.0)
    return Cases(inputs=inputs, lengths=valid, labels=())


def _read_wide(
    table: Table, options: ReadingOptions, labelled: bool | None, steps: int | None, *, archive: bool
) -> Cases:
    """Read one sequence per line, without its label and without the columns that are left out."""
    path, rows, label_column = table.path, table.rows, options.label_column
    names: list[str] = []
    named = bool(rows) and isinstance(label_column, str) and label_column in rows[0][1]
    if table.has_header(named):
        names, rows = rows[0][1], rows[1:]
    if not rows:
        raise ValueError(f"{path} must hold at least one sequence, got none.")
    width = max(len(cells) for _, cells in rows)
    columns = [*drops(options), *([] if options.group_column is None else [options.group_column])]
    present = [column for column in columns if not isinstance(column, str) or column in names]
    out = {find_column(path, names or None, "drop", column) % width for column in present}
    if any(cells[0] for _, cells in rows):
        check_no_index(path, names, out)
    rows = [(line, [cell for k, cell in enumerate(cells) if k not in out]) for line, cells in rows]
    names = [name for k, name in enumerate(names) if k not in out]
    place = _label_place(path, names, label_column, rows, labelled, steps)
    values = [name for k, name in enumerate(names) if place is None or k != place % len(names)]
    plain = bool(values) and not all(any(c.isdigit() for c in name) for name in values)  # they number no channels
    if place is None:
        names = [*names, _LABEL] if names else []
    rows = [(line, _relabelled(table, line, cells, place, len(names), options)) for line, cells in rows]
    reading = ReadingOptions(
        label_column=-1 if place is None else place + (place >= 0),
        layout=options.layout or ("one-channel" if plain else None),
        missing=options.missing,
    )
    lines = ([(0, names)] if names else []) + rows
    return read_wide(replace(table, rows=lines, header=bool(names)), reading, archive=archive)


def _relabelled(
    table: Table, line: int, cells: list[str], place: int | None, width: int, options: ReadingOptions
) -> list[str]:
    """Return the cells of a line with a constant label at `place`, or behind them where there are no labels.

    Args:
        table: Where it is from.
        line: Its number.
        cells: The cells.
        place: Index of the label, from 0, or negative from the end; `None` if there is none.
        width: Cells of the header with a label, 0 without one, to which the line is filled up.
        options: Of these, `missing`.

    Raises:
        ValueError: If the line has no value, and values may not be missing.
    """
    kept = list(cells)
    if place is not None and place < 0 and width and len(kept) == width:
        place += width  # the column that the header names
    if place is None:
        kept = [*kept, *[""] * (width - 1 - len(kept)), "0"]
        place = len(kept) - 1
    elif place >= 0:
        kept += [""] * (max(place + 1, width) - len(kept))
    else:
        while kept and not kept[-1]:
            kept.pop()
        kept = [""] * (-place - len(kept)) + kept
    kept[place] = "0"
    if options.missing is None and not any(cell for k, cell in enumerate(kept) if k != place % len(kept)):
        raise ValueError(f"{table.where(line)} must hold at least one value, got none.")
    return kept


def _label_place(
    path: Path,
    names: list[str],
    label_column: str | int | None,
    rows: list[Row],
    labelled: bool | None,
    steps: int | None,
) -> int | None:
    """Return the index of the label in a line; `None` if there are no labels."""
    known: list[int] = []
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
        place = known[0] if known else 0
        # Next to plain names, y may be a value: in the file of the training another column was the class.
        value = known and names[place].lower() == "y" and not any(c.isdigit() for name in names for c in name)
        if known and not (value and labelled is None and max(len(cells) for _, cells in rows) == steps):
            return place
    else:
        place = label_column - 1 if label_column > 0 else label_column
    full = [[*cells[: max((k for k, cell in enumerate(cells) if cell), default=-1) + 1]] for _, cells in rows]
    texts = [cells[place] for cells in full if -len(cells) <= place < len(cells)]
    if labelled or all(parse_number(text) is None for text in texts):
        return place
    longest = max(map(len, full))
    if steps is not None and longest == steps + 1 and not _all_values(names):
        return place
    if steps is not None and longest == steps and not known:
        return None
    known_steps = "" if steps is None else f" and training sequences of {steps} values"
    raise ValueError(
        f"labelled must be given for {path}, got lines of {longest} numbers{known_steps}. Give labelled=True "
        f"(--labelled true) if column {place + (place >= 0)} holds labels, else labelled=False (--labelled false)."
    )


def _all_values(names: Sequence[str]) -> bool:
    """Whether the names of columns leave none for a label: numbers of one series, or a time before them."""
    series = {re.sub(r"[0-9]+$", "", name).lower() for name in names}
    return (
        bool(names)
        and all(re.search("[0-9]$", name) for name in names[1:])
        and (
            (len(series) == 1 and bool(re.search("[0-9]$", names[0])))
            or names[0].lower() in ("time", "timestamp", "date")
        )
    )


def _read_arff(path: Path, options: ReadingOptions) -> Cases:
    """Read the instances of a `.arff` file; the class, where there is one, is not read."""
    names, kinds, columns, data = read_attributes(path, options)
    if kinds.count("relational") == 1:
        sequences = relational_sequences(path, data[names[kinds.index("relational")]], options)
        inputs, lengths = pad_sequences(sequences)
        return Cases(inputs=inputs, lengths=lengths, labels=())
    if options.label_column is not None and (
        not isinstance(options.label_column, str) or options.label_column in names
    ):
        label = {find_column(path, names, "label_column", options.label_column) % len(names)}
    else:
        label = {k for k, kind in enumerate(kinds) if kind == "nominal"}
    others = [*drops(options), *([] if options.group_column is None else [options.group_column])]
    present = [column for column in others if not isinstance(column, str) or column in names]
    label |= {find_column(path, names, "drop", column) % len(names) for column in present}
    kept = [k for k in range(len(names)) if k not in label]
    rows = [(line, [*cells, "0"]) for line, cells in enumerate(zip(*(columns[k] for k in kept), strict=True), start=1)]
    header = (0, [*(names[k] for k in kept), _LABEL])
    table = Table(path=path, rows=[header, *rows], header=True, unit="Instance")
    layout = options.layout or "one-channel"
    return read_wide(table, ReadingOptions(label_column=-1, layout=layout, missing=options.missing))


def _read_ts(path: Path, options: ReadingOptions) -> Cases:
    """Read the cases of a `.ts` file; where its header declares classes or targets, the last field is not read."""
    header, cases = split_header(path)
    if not cases:
        raise ValueError(f"{path} must hold at least one sequence, got none.")
    targets = header_flag(header, "@targetlabel", "false")
    labelled = targets or header_flag(header, "@classlabel", "true")
    stamped = header_flag(header, "@timestamps", "false")
    channels, sequences, times = declared_channels(header), [], []
    for number, line in cases:
        where = f"Line {number} of {path}"
        values = split_channels(line, stamped=stamped)[: -1 if labelled else None]
        channels = channels or len(values)
        if len(values) != channels:
            raise ValueError(f"{where} must hold {channels} channels, got {len(values)}.")
        if stamped:
            stamps, values = split_stamps(values, where)
            times.append(stamps)
        sequences.append(read_case(values, where, None, missing=options.missing is not None))
    inputs, lengths = pad_sequences(sequences)
    return Cases(inputs=inputs, lengths=lengths, labels=(), times=tuple(times) or None)
