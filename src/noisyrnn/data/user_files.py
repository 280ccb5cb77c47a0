"""Reads the user's files: arrays, tables, folders of recordings and the formats of the UCR and UEA archives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from noisyrnn.data.arff import read_arff
from noisyrnn.data.arrays import NpyArrays, NpzArrays, check_names, read_arrays
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.delimited import Table, read_delimited
from noisyrnn.data.frames import read_excel, read_parquet
from noisyrnn.data.long_table import read_long
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.parts import Cases, dataset_from_cases
from noisyrnn.data.recordings import read_folder
from noisyrnn.data.shards import find_parts, load_folder, options_of
from noisyrnn.data.table import read_wide
from noisyrnn.data.ts import SUFFIXES as TS_SUFFIXES
from noisyrnn.data.ts import find_test_file, read_ts


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file.

    Args:
        read: Reads the cases of a file; `None` for arrays, whose file may hold a test part too. The third argument is
            the file of the training part, if it is that of a test part.
        options: The options of `ReadingOptions` that apply to it.
    """

    read: Callable[[Path, ReadingOptions, Path | None], Cases] | None
    options: frozenset[str]


def read_table(table: Table, options: ReadingOptions, *, archive: bool = False) -> Cases:
    """Read a table with one sequence per row, or in the long format where `id` is given."""
    if options.id is not None:
        if options.layout is not None:
            raise ValueError(f"layout must be None with id, got {options.layout!r}.")
        return read_long(table, options)
    if options.time is not None or options.value is not None:
        name = "time" if options.time is not None else "value"
        raise ValueError(
            f"{name} must be None without id, got {getattr(options, name)!r}. Give id (--id COLUMN), the column that "
            f"names the sequence of a line; or leave the column out with drop (--drop)."
        )
    return read_wide(table, options, archive=archive)


_TEXT = frozenset(("separator", "decimal", "encoding", "skip_lines", "header"))
_COLUMNS = frozenset(("label_column", "task", "layout", "drop", "group_column"))
_LONG = frozenset(("id", "time", "time_format", "channel", "value"))
_MISSING = frozenset(("missing",))


def _table_format(read: Callable[[Path, ReadingOptions], Table], *options: str, archive: bool = False) -> Format:
    """Return the format of files that are tables."""

    def read_cases(path: Path, given: ReadingOptions, train: Path | None) -> Cases:
        table = read(path, given)
        if train is not None:
            table = replace(table, header_of_training=lambda named: read(train, given).split_header(named)[0])
        return read_table(table, given, archive=archive)

    return Format(read=read_cases, options=_MISSING | _COLUMNS | _LONG | {*options})


FORMATS: Mapping[str, Format] = {
    ".npz": Format(read=None, options=_MISSING | {"layout", "task"}),
    ".npy": Format(read=None, options=_MISSING | {"layout", "task"}),
    ".csv": _table_format(read_delimited, *_TEXT),
    ".tsv": _table_format(read_delimited, *_TEXT, archive=True),
    ".txt": _table_format(read_delimited, *_TEXT, archive=True),
    ".arff": Format(read=lambda path, options, _: read_arff(path, options), options=_MISSING | _COLUMNS | {"encoding"}),
    ".ts": Format(read=lambda path, options, _: read_ts(path, options), options=_MISSING),
    ".parquet": _table_format(lambda path, _: read_parquet(path)),
    ".xlsx": _table_format(read_excel, "sheet", "skip_lines", "header"),
    "folder": Format(
        read=lambda path, options, _: read_folder(path, options),
        options=_MISSING | _TEXT | {"label_column", "task", "drop", "group_column", "time", "time_format"},
    ),
}
"""By the end of the file's name; text formats may be compressed (`.csv.gz`)."""
_COMPRESSED = (".csv", ".tsv", ".txt", ".arff", ".ts")
SUFFIXES = (*(suffix for suffix in FORMATS if suffix != "folder"), *(f"{suffix}.gz" for suffix in _COMPRESSED))


def format_of(path: Path) -> str | None:
    """Return the key of `FORMATS` for a path, by its suffix or since it is a folder; `None` if there is none."""
    if path.is_dir():
        return "folder"
    plain = path.name.lower()
    plain = plain.removesuffix(".gz") if plain.removesuffix(".gz").endswith(_COMPRESSED) else plain
    return next((suffix for suffix in FORMATS if suffix != "folder" and plain.endswith(suffix)), None)


def is_path(name: str) -> bool:
    """Whether a data set's name means a file or a folder: it has a suffix or a separator of folders, or is a folder.

    A folder with the files of the UCR or UEA archive that are called like it is a set of the archive.
    """
    if "." in name or "/" in name or "\\" in name:
        return True
    folder = Path(name)
    return (
        bool(name)
        and folder.is_dir()
        and not any((folder / f"{name}_TRAIN{suffix}").is_file() for suffix in TS_SUFFIXES)
    )


def check_unused_options(name: str, options: ReadingOptions, used: frozenset[str] = frozenset()) -> None:
    """Raise `ValueError` if an option is set that does not apply to the data."""
    for option, value in options.stated().items():
        if option not in used:
            kinds = [suffix for suffix, kind in FORMATS.items() if option in kind.options and suffix != "folder"]
            files = " and ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]])) + " files"
            files += ", and folders of recordings" if option in FORMATS["folder"].options else ""
            raise ValueError(f"{option} must be None for {name!r}, got {value!r}. It is for {files}.")


def load_user_file(name: str, options: ReadingOptions | None = None) -> Dataset:
    """Load the data set in a file or folder; without a test part it is split 60/20/20, stratified and seeded.

    A folder of `.npy`, `.npz` or `.parquet` files is read from disk while it is used; all else is read into memory. A
    file whose name ends in `_TRAIN`, before its suffix, has its test part in the `_TEST` file next to it.

    Args:
        name: Path of a folder, or of a file with one of `SUFFIXES`.
        options: How it is read.

    Raises:
        ValueError: If the suffix is unknown, the file is malformed or an option does not apply to it.
        FileNotFoundError: If there is no such file.
    """
    options = options or ReadingOptions()
    path = Path(name).expanduser()
    suffix = format_of(path)
    if suffix == "folder":
        if find_parts(path):
            check_unused_options(name, options, options_of(path))
            return load_folder(name, path, options)
        check_unused_options(name, options, FORMATS["folder"].options)
        cases = replace(read_folder(path, options), missing=options.missing)
        return dataset_from_cases(name, cases, None, f"The folder {path.name}.")
    if suffix is None:
        advice = " Save it as .xlsx." if path.name.lower().endswith((".xls", ".ods", ".xlsm", ".xlsb")) else ""
        raise ValueError(f"dataset must be a folder or a file ending in {', '.join(SUFFIXES)}, got {name!r}.{advice}")
    if not path.is_file():
        raise FileNotFoundError(f"dataset must be an existing file, got {name!r}. Correct the path.")
    kind = FORMATS[suffix]
    check_unused_options(name, options, kind.options)
    source = f"The file {path.name}."
    if kind.read is None:
        if options.layout == "one-channel":
            raise ValueError(f"layout must be 'channels-last' or 'time-last' for {name!r}, got 'one-channel'.")
        return _load_arrays(name, path, suffix, options, source)
    reader = kind.read
    test = find_test_file(path, (suffix, f"{suffix}.gz"))

    def read(file: Path, train: Path | None = None) -> Cases:
        return replace(reader(file, options, train), missing=options.missing)

    return dataset_from_cases(name, read(path), None if test is None else lambda: read(test, path), source)


def _load_arrays(name: str, path: Path, suffix: str, options: ReadingOptions, source: str) -> Dataset:
    """Load the data set in an archive of arrays, or in a pair of files with one array each."""
    arrays = NpzArrays(path) if suffix == ".npz" else NpyArrays(path)
    has_test = check_names(arrays)
    layout, task, missing = options.layout, options.task, options.missing
    cases = read_arrays(arrays, layout=layout, task=task, missing=missing)
    task = "regression" if isinstance(cases.labels, torch.Tensor) else "classification"  # y_test is read alike

    def read_test() -> Cases:
        return read_arrays(arrays, "_test", layout=layout, task=task, missing=missing)

    return dataset_from_cases(name, cases, read_test if has_test else None, source)
