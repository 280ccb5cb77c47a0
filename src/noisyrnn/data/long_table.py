"""Reads sequences from tables with one step, or one value, per row: the long format, and single recordings."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from noisyrnn.data.delimited import INDEX_NAMES, Row, Table
from noisyrnn.data.labels import text_labels
from noisyrnn.data.numbers import is_missing, parse_number
from noisyrnn.data.options import ReadingOptions, flag, missing_advice
from noisyrnn.data.parts import Cases, Targets, pad_sequences, parse_targets
from noisyrnn.data.table import drops, find_column, named_labels, parse_value
from noisyrnn.data.time_cells import is_time, parse_times

_TIME_NAME = re.compile(
    r"(?:time|timestamp|times|t|date|datetime|zeit|seconds?|millis|ms)(?:[\s_]*[\[(].*[\])])?", re.I
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """The steps of one sequence.

    Args:
        values: Float64 `(steps, channels)`.
        channels: Names of the channels; empty if the file has none.
        times: Increasing, `(steps,)`; `None` if there are none.
        path: The file, for messages.
    """

    values: np.ndarray
    channels: tuple[str, ...]
    times: np.ndarray | None
    path: Path


def read_long(table: Table, options: ReadingOptions) -> Cases:
    """Read the rows that the column `id` assigns to the same sequence, one step or one value per row.

    All columns without another role are channels; or, with `channel` and `value`, each row holds one value.

    Raises:
        ValueError: If a sequence has two classes, a value is missing or no number, or the order of steps is unclear.
    """
    path = table.path
    header, rows = table.split_header(True)
    assert header is not None
    roles, channels = _find_roles(path, header, options, labelled=True)
    sequences = _sequences(table, rows, roles["id"], len(header), sorted_by_time="time" in roles)
    answers: list[str] = []
    groups: list[str] = []
    for name, members in sequences.items():
        for role in ("label_column", "group_column"):
            if role in roles:
                found = {cells[roles[role]]: line for line, cells in members}
                if len(found) > 1 or "" in found:
                    shown = " and ".join(f"{cell!r} (line {line})" for cell, line in list(found.items())[:2])
                    raise ValueError(
                        f"{path} must hold one {'class' if role == 'label_column' else 'group'} for each sequence, got "
                        f"{shown} for sequence {name!r}. If it is another column, give {role} "
                        f"(--{role.replace('_', '-')}) or id (--id)."
                    )
                (answers if role == "label_column" else groups).append(next(iter(found)))
    if "label_column" in roles and options.task != "regression":
        table.check_names("class", [(line, cells[roles["label_column"]]) for line, cells in rows])
    if "group_column" in roles:
        table.check_names("group", [(line, cells[roles["group_column"]]) for line, cells in rows], sure=True)
    recordings = _recordings(
        table,
        sequences,
        roles,
        channels,
        header,
        missing=options.missing is not None,
        time_format=options.time_format,
    )
    labels: Targets = text_labels(answers)
    if options.task == "regression":
        ids = list(sequences)
        labels = parse_targets(
            answers,
            lambda k, cell: f"{path} must hold a finite number to predict, got {cell!r} for sequence {ids[k]!r}.",
        )
    return cases_of(recordings, labels, tuple(groups) if "group_column" in roles else None)


def read_long_inputs(
    table: Table, options: ReadingOptions, *, labelled: bool | None = None, channels: Sequence[str] = ()
) -> tuple[Cases, tuple[str, ...]]:
    """Read the sequences of a table as `read_long` does, without their labels; return their ids too.

    They are in the order of their first rows. The classes of the cases have no meaning.

    Args:
        table: The rows; the columns of labels and groups may be absent.
        options: As for `read_long`.
        labelled: Whether there is a column of labels; `None`: if `label_column` or its name states one, and it is not
            the name of a channel.
        channels: Names of the channels of the training; empty if they are not known. Where each row holds one value and
            values may be missing, those of a channel that no sequence has are.

    Raises:
        ValueError: If `label_column` is a number and it is unknown whether that column is a channel, or the sequences
            cannot be read.
    """
    header, rows = table.split_header(True)
    assert header is not None
    columns = set(channels) if options.value is None else set()
    if isinstance(options.label_column, int) and labelled is None:
        if not columns:
            raise ValueError(
                f"labelled must be given for {table.path}, whose labels are in a column without a name. Give "
                "labelled=True (--labelled true) if it has them, else labelled=False (--labelled false)."
            )
        place = options.label_column - (options.label_column > 0)
        labelled = -len(header) <= place < len(header) and header[place] not in columns
    if labelled is False:
        options = replace(options, label_column=None)
    roles, places = _find_roles(table.path, header, options, labelled=False, named=labelled is not False, known=columns)
    sequences = _sequences(table, rows, roles["id"], len(header), sorted_by_time="time" in roles)
    recordings = _recordings(
        table,
        sequences,
        roles,
        places,
        header,
        missing=options.missing is not None,
        time_format=options.time_format,
        known=channels,
    )
    return cases_of(recordings, text_labels("0" for _ in recordings), None), tuple(sequences)


def _find_roles(
    path: Path,
    header: list[str],
    options: ReadingOptions,
    *,
    labelled: bool,
    named: bool = True,
    known: Collection[str] = (),
) -> tuple[dict[str, int], list[int]]:
    """Return the columns that have a role, by its name, and those of channels.

    Args:
        path: Name in messages.
        header: Names of the columns.
        options: Which column has which role.
        labelled: Whether there must be a column of labels, and one of groups if an option names it.
        named: Whether a column whose name is that of labels holds them.
        known: Names of columns that are channels.
    """
    width = len(header)
    names = ("id", "time", "channel", "value", "group_column", "label_column")
    given = {name: column for name in names if (column := getattr(options, name)) is not None}
    if not labelled:
        given = {
            name: column
            for name, column in given.items()
            if column in header or not (isinstance(column, str) and name in ("group_column", "label_column"))
        }
    roles = {name: find_column(path, header, name, column) % width for name, column in given.items()}
    dropped = {
        find_column(path, header, "drop", column) % width
        for column in drops(options)
        if labelled or not isinstance(column, str) or column in header
    }
    if options.label_column is None and named:
        found = [k for k in named_labels(header, dropped | set(roles.values())) if header[k] not in known]
        if labelled and len(found) != 1:
            raise ValueError(
                f"{path} must have one column with the class, got {len(found)} of the names class, label, target and y "
                f"in {', '.join(map(repr, header[:10]))}. Give label_column (--label-column)."
            )
        if found:
            roles["label_column"] = found[0]
    if len(set(roles.values())) < len(roles) or dropped & set(roles.values()):
        raise ValueError(f"{', '.join(roles)} and drop must be different columns of {path}, got one twice.")
    channels = [k for k in range(width) if k not in dropped and k not in roles.values()]
    if "value" in roles and channels:
        raise ValueError(
            f"{path} must hold one value per line, as value states, got another column {header[channels[0]]!r}. Give "
            f"{flag('drop', header[channels[0]])} to leave it out."
        )
    return roles, channels


def _recordings(
    table: Table,
    sequences: dict[str, list[Row]],
    roles: dict[str, int],
    channels: list[int],
    header: list[str],
    *,
    missing: bool,
    time_format: str | None,
    known: Sequence[str] = (),
) -> list[Recording]:
    """Return the sequences of rows, each with all channels, the known ones too, if values may be missing."""
    if "value" in roles:
        cells = [(line, row[roles["channel"]]) for rows in sequences.values() for line, row in rows]
        table.check_names("channel", cells, sure=True)
    else:
        for k in channels:
            if header[k].lower() in INDEX_NAMES:
                raise ValueError(
                    f"{table.path} must hold values of channels, got a column {k + 1} that is called {header[k]!r}, as "
                    f"pandas calls its index. Leave it out: {flag('drop', k + 1)}, or to_csv(…, index=False)."
                )
        _check_numbers(table, next(iter(sequences.values())), channels, header, timed="time" in roles)
    make = _melted if "value" in roles else _stepwise
    members = list(sequences.values())
    times: Sequence[np.ndarray | None] = [None] * len(members)
    if "time" in roles:
        times = _times(table, members, roles["time"], time_format, in_order="value" not in roles)
    recordings = [
        make(table, rows, roles, channels, header, entry, missing=missing)
        for rows, entry in zip(members, times, strict=True)
    ]
    if "value" in roles and missing:
        recordings = _with_all_channels(recordings, known)
    check_no_times(recordings, channels, "time" in roles or bool(known))
    return recordings


def _check_numbers(
    table: Table, rows: Sequence[Row], channels: Sequence[int], header: Sequence[str], *, timed: bool
) -> None:
    """Raise `ValueError` if a column of a channel holds times or names; `timed`: whether there is a column of times."""
    texts = [
        k for k in channels if all(parse_number(cells[k]) is None and not is_missing(cells[k]) for _, cells in rows)
    ]
    if not texts:
        return
    times = [k for k in texts if not timed and is_time(rows[0][1][k])]
    names = [k for k in texts if k not in times]
    advice = [f"give {flag('time', header[times[0]])}"] if times else []
    if names:
        column = header[names[0]]
        advice += [
            f"give {flag('channel', column)} and value (--value COLUMN) if it names the channel of each line's value",
            f"{flag('group_column', column)} if its sequences belong together",
            f"else {flag('drop', column)}",
        ]
    line, cells = rows[0]
    shown = " and ".join(f"{cells[k]!r} in column {header[k]!r}" for k in (times + names)[:2])
    text = "; ".join(advice)
    raise ValueError(
        f"{table.where(line)} must hold numbers in the columns of channels, got {shown}. {text[0].upper()}{text[1:]}."
    )


def read_recording(table: Table, options: ReadingOptions) -> Recording:
    """Read one sequence from a table with one step per row; all columns without another role are channels."""
    given = (options.time, *drops(options))
    header, rows = table.split_header(any(isinstance(column, str) for column in given))
    width = len(header or rows[0][1])
    dropped = {find_column(table.path, header, "drop", column) % width for column in drops(options)}
    roles = {} if options.time is None else {"time": find_column(table.path, header, "time", options.time) % width}
    channels = [k for k in range(width) if k not in dropped and k not in roles.values()]
    if not channels:
        raise ValueError(f"{table.path} must hold at least one channel, got {width} columns without any.")
    for line, cells in rows:
        if len(cells) != width:
            raise ValueError(f"{table.where(line)} must hold {width} cells, as the first one does, got {len(cells)}.")
    times = None
    if "time" in roles:
        (times,) = _times(table, [rows], roles["time"], options.time_format, in_order=True)
    return _stepwise(table, rows, roles, channels, header, times, missing=options.missing is not None)


def _with_all_channels(recordings: Sequence[Recording], known: Sequence[str]) -> list[Recording]:
    """Return the sequences with the channels of all, and known ones; values of those that one lacks are missing."""
    names = tuple(sorted({*known, *(name for recording in recordings for name in recording.channels)}))
    wide = []
    for recording in recordings:
        values = np.full((len(recording.values), len(names)), np.nan)
        values[:, [names.index(name) for name in recording.channels]] = recording.values
        wide.append(replace(recording, values=values, channels=names))
    return wide


def in_one_order(recordings: Sequence[Recording]) -> list[Recording]:
    """Return the sequences with their channels in the order of the first one, where their names are the same."""
    names = recordings[0].channels
    found = []
    for recording in recordings:
        if len(set(names)) == len(names) and sorted(recording.channels) == sorted(names):
            order = [recording.channels.index(name) for name in names]
            recording = replace(
                recording, values=recording.values[:, order] if order else recording.values, channels=names
            )
        found.append(recording)
    return found


def cases_of(recordings: Sequence[Recording], labels: Targets, groups: tuple[str, ...] | None) -> Cases:
    """Build cases from sequences.

    Raises:
        ValueError: If they differ in their channels.
    """
    first = recordings[0]
    for index, recording in enumerate(recordings):
        if recording.channels != first.channels or recording.values.shape[1] != first.values.shape[1]:
            what = [", ".join(item.channels) or f"{item.values.shape[1]} columns" for item in (first, recording)]
            raise ValueError(
                f"{recording.path} must hold the channels of the first sequence, {what[0]}, got {what[1]} in sequence "
                f"{index + 1}. Leave columns out with drop (--drop), or fill the values in."
            )
    inputs, lengths = pad_sequences([torch.from_numpy(recording.values) for recording in recordings])
    times = tuple(recording.times for recording in recordings if recording.times is not None)
    return Cases(
        inputs=inputs,
        lengths=lengths,
        labels=labels,
        groups=groups,
        times=times or None,
        channel_names=first.channels,
    )


def check_no_times(recordings: Sequence[Recording], columns: Sequence[int], stated: bool) -> None:
    """Raise `ValueError` if a channel is probably the time, by its name or since it goes up evenly everywhere."""
    first = recordings[0]
    if stated or len(first.channels or columns) < 1:
        return
    for channel in range(first.values.shape[1]):
        name = first.channels[channel] if first.channels else ""
        rises = [np.diff(recording.values[:, channel]) for recording in recordings]
        even = all(len(rise) > 1 and rise[0] > 0 and np.allclose(rise, rise[0], rtol=0.01) for rise in rises)
        if even or _TIME_NAME.fullmatch(name):
            place: str | int = name or columns[channel] + 1
            reason = "goes up evenly in every sequence" if even else "is called so"
            raise ValueError(
                f"{first.path} must hold values of channels, got a column {place!r} that {reason}, as the time. Give "
                f"{flag('time', place)}, or {flag('drop', place)} if the lines are in order."
            )


def _sequences(
    table: Table, rows: Sequence[Row], place: int, width: int, *, sorted_by_time: bool
) -> dict[str, list[Row]]:
    """Return the rows of each sequence, in the order of the file."""
    sequences: dict[str, list[Row]] = {}
    last = None
    for line, cells in rows:
        if len(cells) != width:
            raise ValueError(f"{table.where(line)} must hold {width} cells, as the header does, got {len(cells)}.")
        name = cells[place]
        if not name:
            raise ValueError(f"{table.where(line)} must name its sequence in column {place + 1}, got an empty cell.")
        if name != last and name in sequences and not sorted_by_time:
            raise ValueError(
                f"{table.where(line)} must continue sequence {last!r} or begin a new one, got {name!r} again. Give "
                "time (--time COLUMN), the column that orders the lines of a sequence."
            )
        sequences.setdefault(name, []).append((line, cells))
        last = name
    table.check_names("sequence", [(line, cells[place]) for line, cells in rows], sure=True)
    return sequences


def _stepwise(
    table: Table,
    rows: Sequence[Row],
    roles: dict[str, int],
    channels: Sequence[int],
    header: Sequence[str] | None,
    times: np.ndarray | None,
    *,
    missing: bool,
) -> Recording:
    """Return the sequence of rows that hold one step each."""
    values = np.array([[_value(table, line, k, cells[k], missing) for k in channels] for line, cells in rows])
    if times is not None:
        order = times.argsort(kind="stable")
        values, times = values[order], times[order]
        if (np.diff(times) == 0).any():
            at = int(order[int(np.argmax(np.diff(times) == 0)) + 1])
            raise ValueError(
                f"{table.where(rows[at][0])} must hold another time than the other lines of its sequence, got "
                f"{rows[at][1][roles['time']]!r} again. If each line holds one of several channels, give channel and "
                "value (--channel COLUMN --value COLUMN)."
            )
    names = () if header is None else tuple(header[k] for k in channels)
    return Recording(values=values, channels=names, times=times, path=table.path)


def _melted(
    table: Table,
    rows: Sequence[Row],
    roles: dict[str, int],
    channels: Sequence[int],
    header: Sequence[str] | None,
    times: np.ndarray | None,
    *,
    missing: bool,
) -> Recording:
    """Return the sequence of rows that hold one value each; where values may be missing, rows may be absent."""
    assert times is not None
    names = tuple(sorted({cells[roles["channel"]] for _, cells in rows}))
    entries: dict[tuple[float, str], float] = {}
    for time, (line, cells) in zip(times.tolist(), rows, strict=True):
        key = time, cells[roles["channel"]]
        if key in entries:
            raise ValueError(
                f"{table.where(line)} must hold another time or channel than the other lines of its sequence, got "
                f"{cells[roles['time']]!r} and {key[1]!r} again."
            )
        entries[key] = _value(table, line, roles["value"], cells[roles["value"]], missing)
    steps = sorted(set(times.tolist()))
    absent = [] if missing else [(time, name) for time in steps for name in names if (time, name) not in entries]
    if absent:
        line, cells = rows[times.tolist().index(absent[0][0])]
        raise ValueError(
            f"{table.where(line)} must hold a value of every channel at each time of a sequence, got none of "
            f"{absent[0][1]!r} at {cells[roles['time']]!r} in sequence {cells[roles['id']]!r}. {missing_advice()} Or "
            "fill it in."
        )
    values = np.array([[entries.get((time, name), np.nan) for name in names] for time in steps])
    return Recording(values=values, channels=names, times=np.array(steps), path=table.path)


def _times(
    table: Table, sequences: Sequence[Sequence[Row]], place: int, time_format: str | None, *, in_order: bool
) -> list[np.ndarray]:
    """Return the times of the rows of each sequence."""
    return parse_times(
        [[cells[place] for _, cells in rows] for rows in sequences],
        lambda sequence, row: table.where(sequences[sequence][row][0]),
        format=time_format,
        column=place + 1,
        in_order=in_order,
    )


def _value(table: Table, line: int, column: int, cell: str, missing: bool) -> float:
    advice = (
        f"Fill the value in; or leave the column out with {flag('drop', column + 1)}, or {table.skip_advice([line])}."
    )
    return parse_value(table, line, column + 1, cell, advice=advice, missing=missing)
