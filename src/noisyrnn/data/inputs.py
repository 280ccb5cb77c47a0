"""Reads the sequences of a user's file for predictions: as for training, but labels may be missing and are not read."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from noisyrnn.checks import check_lengths, check_sequences, check_values
from noisyrnn.data.arff import read_attributes, relational_sequences
from noisyrnn.data.arrays import Arrays, NpyArrays, NpzArrays, to_floating
from noisyrnn.data.delimited import Row, Table, is_header, read_delimited
from noisyrnn.data.frames import read_excel, read_parquet
from noisyrnn.data.long_table import read_long
from noisyrnn.data.numbers import check_real, parse_number
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.recordings import read_recordings
from noisyrnn.data.split import Cases, pad_sequences
from noisyrnn.data.table import INDEX_NAMES, drops, find_column, named_labels, read_wide
from noisyrnn.data.times import step_lengths
from noisyrnn.data.ts import declared_channels, header_flag, read_case, split_fields, split_header, split_stamps
from noisyrnn.data.user_files import FORMATS, SUFFIXES, check_unused_options, format_of
from noisyrnn.padding import valid_steps

_LABEL = "noisyrnn label"
"""Column that takes the place of a missing label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UnlabelledSequences:
    """Sequences without labels.

    Args:
        inputs: `(n, steps, channels)`.
        lengths: Int64 `(n,)`, `None` where all have `steps`.
        names: Name of each sequence in the file, such as its id or its own file; `None` where they have none.
    """

    inputs: Tensor
    lengths: Tensor | None
    names: tuple[str, ...] | None = None


def read_inputs(
    name: str,
    options: ReadingOptions | None = None,
    *,
    labelled: bool | None = None,
    steps: int | None = None,
) -> UnlabelledSequences:
    """Read the sequences of a file or a folder of the formats of `load_user_file`.

    Args:
        name: Path of the file or folder. A `.npy` file may have any name; a folder may have no labels at all.
        options: How the file of the training was read; columns that the file lacks are those of labels.
        labelled: Whether a table has a column of labels. `None`: it has if its header names one, if all cells there are
            text, or if its longest line has one cell more than `steps`.
        steps: Values of the longest training sequence, to decide whether a table has labels; `None` if unknown.

    Raises:
        ValueError: If the suffix is unknown, a value is missing, an option does not apply, steps have different
            lengths, or it remains unknown whether a table has labels.
        FileNotFoundError: If there is no such file.
    """
    options = options or ReadingOptions()
    path = Path(name).expanduser()
    kind = format_of(path)
    if kind is None:
        raise ValueError(f"data must be a folder or a file ending in {', '.join(SUFFIXES)}, got {name!r}.")
    if not path.exists():
        raise FileNotFoundError(f"data must be an existing file, got {name!r}. Correct the path.")
    check_unused_options(name, options, FORMATS[kind].options)
    if kind in (".npz", ".npy"):
        arrays = NpzArrays(path) if kind == ".npz" else NpyArrays(path, any_name=True)
        inputs, lengths = _read_arrays(arrays, options.layout)
        found = UnlabelledSequences(inputs=inputs, lengths=lengths)
    elif kind == "folder":
        cases, names = read_recordings(path, options)
        found = _without_times(path, cases, names)
    elif kind == ".ts":
        found = _without_times(path, _read_ts(path), None)
    elif kind == ".arff":
        found = _read_arff(path, options)
    else:
        found = _read_table(path, kind, options, labelled, steps)
    check_sequences("X", found.inputs)
    check_values("X", found.inputs)
    return found


def _without_times(path: Path, cases: Cases, names: tuple[str, ...] | None) -> UnlabelledSequences:
    """Return the sequences of cases; raise `ValueError` if their steps have different lengths."""
    if cases.times is not None and step_lengths(cases.times) is not None:
        raise ValueError(f"{path} must have steps of equal length, got times at unequal distances. Resample it first.")
    return UnlabelledSequences(inputs=cases.inputs, lengths=cases.lengths, names=names)


def _read_arrays(arrays: Arrays, layout: str | None) -> tuple[Tensor, Tensor | None]:
    """Read `X` and perhaps `lengths`."""
    X, lengths = arrays.read("X"), arrays.read("lengths")
    if X is None:
        raise ValueError(f"{arrays.path} must hold X, got none. Use np.savez(path, X=X).")
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


def _read_table(
    path: Path, kind: str, options: ReadingOptions, labelled: bool | None, steps: int | None
) -> UnlabelledSequences:
    """Read a table with one sequence per line, or in the long format where `id` is given."""
    if kind == ".parquet":
        table = read_parquet(path)
    elif kind == ".xlsx":
        table = read_excel(path, options)
    else:
        table = read_delimited(path, options)
    if options.id is not None:
        return _read_long(table, options, labelled)
    return _read_wide(table, options, labelled, steps, archive=kind in (".tsv", ".txt"))


def _read_wide(
    table: Table, options: ReadingOptions, labelled: bool | None, steps: int | None, *, archive: bool
) -> UnlabelledSequences:
    """Read one sequence per line, without its label and without the columns that are left out."""
    path, rows, label_column = table.path, table.rows, options.label_column
    names: list[str] = []
    named = rows and isinstance(label_column, str) and label_column in rows[0][1]
    if rows and (table.header or named or is_header(rows)):
        names, rows = rows[0][1], rows[1:]
    if not rows:
        raise ValueError(f"{path} must hold at least one sequence, got none.")
    width = max(len(cells) for _, cells in rows)
    columns = [*drops(options), *([] if options.group_column is None else [options.group_column])]
    present = [column for column in columns if not isinstance(column, str) or column in names]
    out = {find_column(path, names or None, "drop", column) % width for column in present}
    if names and names[0].lower() in INDEX_NAMES and 0 not in out and any(cells[0] for _, cells in rows):
        raise ValueError(
            f"{path} must hold values of a sequence in column 1, got one that is called {names[0]!r}, as pandas calls "
            "its index. Remove the column: to_csv(…, index=False)."
        )
    rows = [(line, [cell for k, cell in enumerate(cells) if k not in out]) for line, cells in rows]
    names = [name for k, name in enumerate(names) if k not in out]
    place = _label_place(path, names, label_column, rows, labelled, steps)
    rows = [(line, _relabelled(cells, place)) for line, cells in rows]
    if place is not None and names:
        names = [name for k, name in enumerate(names) if k != place % len(names)]
    lines = ([(0, [*names, _LABEL])] if names else []) + rows
    plain = bool(names) and not all(any(c.isdigit() for c in name) for name in names)  # they number no channels
    reading = ReadingOptions(label_column=-1, layout=options.layout or ("one-channel" if plain else None))
    cases = read_wide(replace(table, rows=lines, header=bool(names)), reading, archive=archive)
    return UnlabelledSequences(inputs=cases.inputs, lengths=cases.lengths)


def _relabelled(cells: list[str], place: int | None) -> list[str]:
    """Return the cells of a line with a constant label at their end, in place of the one at `place`."""
    kept = list(cells)
    while kept and not kept[-1]:
        kept.pop()
    if place is not None and -len(kept) <= place < len(kept):
        del kept[place]
    return [*kept, "0"]


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


def _read_long(table: Table, options: ReadingOptions, labelled: bool | None) -> UnlabelledSequences:
    """Read the long format, without its column of labels."""
    path = table.path
    header, rows = table.split_header(True)
    assert header is not None and options.id is not None
    place: int | None = None
    if isinstance(options.label_column, int):
        if labelled is None:
            raise ValueError(
                f"labelled must be given for {path}, whose labels are in a column without a name. Give labelled=True "
                "(--labelled true) if it has them, else labelled=False (--labelled false)."
            )
        place = find_column(path, header, "label_column", options.label_column) % len(header) if labelled else None
    elif options.label_column in header and labelled is not False:
        place = header.index(str(options.label_column))
    elif options.label_column is None and labelled is not False:
        place = next(iter(named_labels(header, set())), None)
    number = find_column(path, header, "id", options.id) % len(header)
    names = tuple(dict.fromkeys(cells[number] for _, cells in rows))
    left_out = [column for column in drops(options) if not isinstance(column, str) or column in header]
    if place is not None:
        left_out.append(place + 1)
    if options.group_column is not None and options.group_column in header:
        left_out.append(options.group_column)
    lines = [(0, [*header, _LABEL]), *((line, [*cells, "0"]) for line, cells in rows)]
    reading = replace(options, label_column=_LABEL, drop=tuple(left_out) or None, group_column=None, task=None)
    return _without_times(path, read_long(replace(table, rows=lines, header=True), reading), names)


def _read_arff(path: Path, options: ReadingOptions) -> UnlabelledSequences:
    """Read the instances of a `.arff` file; the class, where there is one, is not read."""
    names, kinds, columns, data = read_attributes(path, options)
    if kinds.count("relational") == 1:
        inputs, lengths = pad_sequences(relational_sequences(path, data[names[kinds.index("relational")]]))
        return UnlabelledSequences(inputs=inputs, lengths=lengths)
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
    cases = read_wide(table, ReadingOptions(label_column=-1, layout=options.layout or "one-channel"))
    return UnlabelledSequences(inputs=cases.inputs, lengths=cases.lengths)


def _read_ts(path: Path) -> Cases:
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
        values = split_fields(line, stamped)[: -1 if labelled else None]
        channels = channels or len(values)
        if len(values) != channels:
            raise ValueError(f"{where} must hold {channels} channels, got {len(values)}.")
        if stamped:
            stamps, values = split_stamps(values, where)
            times.append(stamps)
        sequences.append(read_case(values, where, None))
    inputs, lengths = pad_sequences(sequences)
    return Cases(inputs=inputs, lengths=lengths, labels=(), times=tuple(times) or None)
