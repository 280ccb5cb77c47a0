"""Reads a folder with one file per recording: a subfolder per class, or a table of labels next to the files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from noisyrnn.data.delimited import read_delimited
from noisyrnn.data.labels import text_labels
from noisyrnn.data.long_table import cases_of, check_no_times, in_one_order, read_recording
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.parts import Cases, Targets, parse_targets
from noisyrnn.data.table import find_column, named_labels

SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_TABLES = ("labels.csv", "labels.tsv", "labels.txt")
_PARTS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation"))


def read_folder(folder: Path, options: ReadingOptions) -> Cases:
    """Read one sequence from each file: one step per line, one channel per column.

    The class is the name of the subfolder; or, where the files are in the folder itself, that in `labels.csv`, whose
    columns are the name of the file and the class, and a group if `group_column` names one.

    Raises:
        ValueError: If there are no recordings, they differ in their channels, or their classes are not stated.
    """
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = _files(folder, table)
    if table is not None:
        if subfolders:
            files = sorted(path for path in folder.rglob("*") if _is_recording(path) and path != table)
        names, labels, groups = _read_labels(table, folder, files, options)
        paths = [folder / name for name in names]
    else:
        if files or not subfolders:
            raise ValueError(
                f"{folder} must hold one subfolder of recordings for each class, or a table labels.csv with the "
                f"columns file and class, got {len(files)} recordings and {len(subfolders)} subfolders."
            )
        parts = [path.name for path in subfolders if path.name.lower() in _PARTS]
        if parts:
            raise ValueError(
                f"{folder} must hold one subfolder for each class, got {parts[0]!r}, as a part of a split is called. "
                "Give the folder of one part, or move the recordings into folders of classes."
            )
        if options.group_column is not None or options.label_column is not None or options.task == "regression":
            raise ValueError(
                f"label_column, group_column and task must be None for {str(folder)!r}, where subfolders are the "
                "classes. They are for folders with a table labels.csv."
            )
        paths = [path for subfolder in subfolders for path in _files(subfolder, None)]
        labels, groups = text_labels(path.parent.name for path in paths), None
    if not paths:
        raise ValueError(f"{folder} must hold recordings ending in {', '.join(SUFFIXES)}, got none.")
    return _read_cases(paths, labels, groups, options)


def _read_cases(
    paths: Sequence[Path],
    labels: Targets,
    groups: tuple[str, ...] | None,
    options: ReadingOptions,
    *,
    known: bool = False,
) -> Cases:
    """Read the recordings in files; `known`: the names of their channels are known, so that none can be the time."""
    recordings = in_one_order([read_recording(read_delimited(path, options), options) for path in paths])
    stated = options.time is not None or (known and bool(recordings[0].channels))
    check_no_times(recordings, range(recordings[0].values.shape[1]), stated)
    return cases_of(recordings, labels, groups)


def read_recordings(path: Path, options: ReadingOptions, *, known: bool = False) -> tuple[Cases, tuple[str, ...]]:
    """Read one sequence from each file in a folder and its subfolders, without labels; return their names too.

    A table of labels is not read. The classes of the cases have no meaning.

    Args:
        path: The folder, or the file of one recording.
        options: How the files are read.
        known: Whether the names of the channels are known.

    Raises:
        ValueError: If there are no recordings, or they differ in their channels.
    """
    folder, paths = path, [path]
    if path.is_dir():
        tables = {folder / name for name in _TABLES}
        paths = sorted(file for file in folder.rglob("*") if _is_recording(file) and file not in tables)
    else:
        folder = path.parent
    if not paths:
        raise ValueError(f"{folder} must hold recordings ending in {', '.join(SUFFIXES)}, got none.")
    names = tuple(file.relative_to(folder).as_posix() for file in paths)
    return _read_cases(paths, text_labels("0" for _ in paths), None, options, known=known), names


def _is_recording(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def _files(folder: Path, table: Path | None) -> list[Path]:
    """Return the recordings in a folder, in the order of their names."""
    return sorted(path for path in folder.iterdir() if _is_recording(path) and path != table)


def _read_labels(
    path: Path, folder: Path, files: list[Path], options: ReadingOptions
) -> tuple[list[str], Targets, tuple[str, ...] | None]:
    """Return the names of the files that a table lists, and their classes and groups."""
    table = read_delimited(path, replace(options, skip_lines=None, separator=None, decimal=None))  # as it is found
    header, rows = replace(table, header=True).split_header()
    assert header is not None
    lower = [name.lower() for name in header]
    file = next(
        (k for k, name in enumerate(lower) if name in ("file", "filename", "file_name", "recording", "path")), 0
    )
    if options.label_column is not None:
        label = find_column(path, header, "label_column", options.label_column) % len(header)
    else:
        known = named_labels(header, {file})
        if len(known) != 1 and len(header) != 2:
            raise ValueError(
                f"{path} must have one column with the class, got the columns {', '.join(map(repr, header))}. Give "
                "label_column (--label-column)."
            )
        label = known[0] if known else 1 - file
    group = None
    if options.group_column is not None:
        group = find_column(path, header, "group_column", options.group_column) % len(header)
    stems = {name: item for item in files for name in (str(item.relative_to(folder)), _stem(item.name))}
    names = []
    for line, cells in rows:
        if len(cells) != len(header) or not all(cells[k] for k in (file, label, *([] if group is None else [group]))):
            raise ValueError(f"{table.where(line)} must hold a file and its class, got {', '.join(map(repr, cells))}.")
        found = stems.get(cells[file])
        if found is None:
            raise ValueError(f"{table.where(line)} must name a file in {folder}, got {cells[file]!r}.")
        names.append(str(found.relative_to(folder)))
    table = replace(table, can_skip=False)
    if options.task != "regression":
        table.check_names("class", [(line, cells[label]) for line, cells in rows])
    if group is not None:
        table.check_names("group", [(line, cells[group]) for line, cells in rows], sure=True)
    unlisted = [item for item in files if str(item.relative_to(folder)) not in names]
    if unlisted or len(set(names)) < len(names):
        raise ValueError(
            f"{path} must list each recording once, got {len(names)} lines and {len(unlisted)} unlisted recordings"
            f"{f', such as {unlisted[0].name}' if unlisted else ''}. Complete the table, or move the file away."
        )
    cells_of = [cells for _, cells in rows]
    labels: Targets = text_labels(cells[label] for cells in cells_of)
    if options.task == "regression":
        labels = parse_targets(
            [cells[label] for cells in cells_of],
            lambda k, cell: f"{table.where(rows[k][0])} must hold a finite number to predict, got {cell!r}.",
        )
    return names, labels, None if group is None else tuple(cells[group] for cells in cells_of)


def _stem(name: str) -> str:
    """Return the name of a file without its suffixes."""
    suffix = next(suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix))
    return name[: -len(suffix)]
