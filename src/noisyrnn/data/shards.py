"""Opens folders of arrays or shards whose sequences are read from disk while they are used."""

import math
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from noisyrnn.checks import LARGEST, check_lengths
from noisyrnn.data.arrays import Header, NpzArrays, array_meaning, read_header, read_npy, read_targets
from noisyrnn.data.channels import channel_order
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.frames import check_packages
from noisyrnn.data.labels import encode
from noisyrnn.data.options import ReadingOptions
from noisyrnn.data.parts import (
    SPLIT_SEED,
    Cases,
    Targets,
    check_alike,
    check_enough,
    check_values_vary,
    classes_of,
    stratified_draw,
    to_split,
)
from noisyrnn.data.split import Split
from noisyrnn.data.stored import WINDOW, DecodedArray, MappedArray, Piece, Storage, StoredSequences
from noisyrnn.data.table import check_no_counting, check_no_index, drops, find_column, named_labels, value_order

SUFFIXES = (".npy", ".npz", ".parquet")
_PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
_NAMES = ("X", "y", "lengths")
"""Arrays that are read; each may have the names that it has in a single file."""
_EXACT_INTEGER = 2**53 - 1
"""Largest integer up to which float64 represents every one."""
_COUNTED = 1000
"""Rows in which a column that counts them is looked for."""

Column = np.ndarray | None


@dataclass(frozen=True, eq=False)
class Shard:
    """The sequences of one file, or of a pair of files.

    Args:
        path: The file with the inputs.
        pieces: The inputs.
        shape: Shape of a sequence as the file has it: `(steps,)`, `(steps, channels)` or `(channels, steps)`.
        dtype: Type of its values.
        y: The labels, or `None` if there are none or they are not wanted.
        lengths: The valid steps of each sequence, or `None` where all are.
        time_last: Whether sequences are `(channels, steps)`.
        columns: Names of the columns of values, in the order of the values; none for arrays.
        label: Name of the column of labels; `None` if there is none.
        channel_names: Name of each channel; none where the file does not name them.
        unread: Arrays that are not read.
    """

    path: Path
    pieces: list[Piece]
    shape: tuple[int, ...]
    dtype: np.dtype
    y: Column
    lengths: Column
    time_last: bool
    columns: tuple[str, ...] = ()
    label: str | None = None
    channel_names: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of sequences."""
        return sum(piece.count for piece in self.pieces)


def options_of(folder: Path) -> frozenset[str]:
    """Return the options of `ReadingOptions` that apply to a folder of arrays or shards; none for another folder."""
    parts = find_parts(folder)
    if not parts:
        return frozenset()
    parquet = _kind(next(iter(parts.values()))[0]) == ".parquet"
    return frozenset(("layout", "task", *(("label_column", "drop") if parquet else ())))


def find_parts(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each part of the data that a folder holds, in order; none if it is another kind of folder.

    The parts are subfolders `train`, `validation` and `test`; or files that have one of these words in their names,
    such as `X_train.npy` and `test-000.npz`. If no file has one, all are of `train`.

    Raises:
        ValueError: If the files are of several kinds, a name has words of two parts, or some are of a part and others
            of none.
    """
    subfolders = {part: folder / name for part, names in _PARTS.items() for name in names if (folder / name).is_dir()}
    files = _files(folder)
    if not files:
        parts = {part: found for part, subfolder in subfolders.items() if (found := _files(subfolder))}
    else:
        parts = {}
        for path in files:
            parts.setdefault(_part_of(path), []).append(path)
        if "" in parts and _kind(files[0]) == ".npy" and "train" not in parts:
            parts["train"] = parts.pop("")
        elif "" in parts and len(parts) > 1:
            raise ValueError(
                f"{folder} must hold files of training, validation and test data that are called so, got "
                f"{parts[''][0].name!r} next to {next(iter(parts[max(parts)])).name!r}. Add the word to its name, or "
                "move it away."
            )
        elif "" in parts:
            parts["train"] = parts.pop("")
    kinds = sorted({_kind(path) for found in parts.values() for path in found})
    if len(kinds) > 1:
        raise ValueError(f"{folder} must hold files of one kind, got {' and '.join(kinds)}. Move the others away.")
    return parts


def _files(folder: Path) -> list[Path]:
    """Return the arrays and shards of a folder, in the order of their names."""
    found = (path for path in folder.iterdir() if _kind(path) in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def _kind(path: Path) -> str:
    """Return the suffix of a file in small letters."""
    return path.suffix.lower()


def _part_of(path: Path) -> str:
    """Return the part of the data that a file's name states; empty if it states none."""
    words = set(re.split(r"[^a-z]+", path.stem.lower()))
    found = [part for part, names in _PARTS.items() if words & {*names}]
    if len(found) > 1:
        raise ValueError(f"{path} must be of one part of the data, got {' and '.join(found)} in its name. Rename it.")
    return found[0] if found else ""


def load_folder(name: str, folder: Path, options: ReadingOptions) -> Dataset:
    """Open the data set in a folder of arrays or shards; inputs stay in the files, labels are read.

    Parts that the folder lacks are drawn from the training data as for a file: 20 % of all for validation, and 20 % for
    the test, stratified and seeded. All values of the training and validation data are read once, and those of a test
    part that is drawn; those of a test part of its own when it is first used.

    Raises:
        ValueError: If files are damaged, differ in shape, type or columns, or hold labels at every step or a value that
            is not finite; or if columns are in an order that a table in one file may not have.
    """
    parts = find_parts(folder)
    if "train" not in parts:
        raise ValueError(f"{folder} must hold training data, got only {' and '.join(parts)} data.")
    opened = {"train": open_shards(parts["train"], options)}
    like = opened["train"][0]
    for part, files in parts.items():  # before any value is read
        if part != "train":
            opened[part] = open_shards(files, options, like=like)
    _warn_about_arrays(folder, opened)
    del opened
    cases = _read_part(parts["train"], options, "y", like)
    classes = classes_of(cases)
    task = "classification" if classes else "regression"  # the other parts are read alike
    strata = torch.zeros(len(cases.inputs), dtype=torch.int64, device="cpu")
    if isinstance(cases.labels, tuple):
        strata = encode(cases.labels, classes)
    drawn, rest = dict[str, Tensor](), torch.arange(len(strata), device="cpu")
    if len(parts) < len(_PARTS):
        check_enough(cases)
    for part in ("test", "validation"):
        if part not in parts:
            chosen, left = stratified_draw(strata[rest], round(0.2 * len(strata)))
            drawn[part], rest = rest[chosen], rest[left]
    train = to_split(cases.subset(rest.sort().values), classes)
    check_values_vary(train)

    def read(part: str) -> Split:
        if part in drawn:
            return to_split(cases.subset(_mixed(cases, drawn[part])), classes)
        argument = f"y of {part}"
        found = _read_part(parts[part], options, argument, like, task=task)
        channels, expected = found.inputs.shape[2], cases.inputs.shape[2]
        if channels != expected:
            raise ValueError(f"X of {part} must have {expected} channels, as X of train has, got {channels}.")
        split = to_split(found, classes, argument)
        check_alike(train, split)
        return split

    tested = read("test") if "test" in drawn else None  # a value that is not finite is found before any work
    how = "as given" if not drawn else f"{' and '.join(drawn)} are 20 % of all sequences each, stratified and seeded"
    return Dataset(
        name=name,
        train=train,
        validation=read("validation"),
        read_test=(lambda: read("test")) if tested is None else (lambda: tested),
        class_names=tuple(label.text for label in classes),
        value_range=None,
        standardize=True,
        test_size=None if tested is None else len(tested),
        channel_names=cases.channel_names,
        source=f"The folder {folder.name}, read from disk while it is used; parts: {how}.",
    )


def _warn_about_arrays(folder: Path, parts: Mapping[str, Sequence[Shard]]) -> None:
    """Warn about arrays that are not read, and about parts without lengths where the training data have some."""
    unread = sorted({name for shards in parts.values() for shard in shards for name in shard.unread})
    if unread:
        shown = ", ".join(unread[:10]) + (", …" if len(unread) > 10 else "")
        warnings.warn(f"Arrays {shown} of {folder.name} are not read, only X, y and lengths.", stacklevel=5)
    for part, shards in parts.items():
        if parts["train"][0].lengths is not None and shards[0].lengths is None:
            warnings.warn(
                f"{folder.name} holds lengths of the training data and none of the {part} data: all steps of these are "
                "read, padding too. If their sequences are padded, add lengths.",
                stacklevel=5,
            )


def _mixed(cases: Cases, drawn: Tensor) -> Tensor:
    """Return drawn indices in an order whose beginning is mixed, and in which neighbours are still read together."""
    assert isinstance(cases.inputs, StoredSequences)
    rows = drawn.sort().values
    return rows[cases.inputs.subset(rows).shuffled(torch.Generator().manual_seed(SPLIT_SEED))]


def open_inputs(
    folder: Path, options: ReadingOptions, channels: Sequence[str] = ()
) -> tuple[StoredSequences, Tensor | None]:
    """Open the sequences of a folder for predictions, and their lengths; labels may be missing and are not read.

    Args:
        folder: The folder.
        options: How its files are read.
        channels: Names of the channels in the order in which they are returned; empty if they are not known.

    Raises:
        ValueError: If files are damaged or differ in shape, type or columns, a value is not finite, channels have other
            names, or the folder holds several parts.
    """
    parts = find_parts(folder)
    if len(parts) != 1:
        raise ValueError(
            f"data must hold the sequences to label, got {folder} with {' and '.join(parts) or 'none'} data. Give the "
            "folder of one part."
        )
    shards = open_shards(next(iter(parts.values())), options, labelled=False, channels=channels)
    inputs, lengths = _stored(shards, options)
    inputs.scan  # noqa: B018 (reads and checks all values before any work)
    return inputs, lengths


def _read_part(
    files: Sequence[Path], options: ReadingOptions, argument: str, like: Shard, *, task: str | None = None
) -> Cases:
    """Return the sequences of one part of the data with their labels."""
    shards = open_shards(files, options, like=like)
    inputs, lengths = _stored(shards, options)
    y = _joined("y", [(shard.path, shard.y) for shard in shards])
    assert y is not None
    labels = _targets(y, inputs.shape[1], task or options.task, argument)
    return Cases(inputs=inputs, lengths=lengths, labels=labels, channel_names=like.channel_names)


def _targets(y: np.ndarray, steps: int, task: str | None, argument: str) -> Targets:
    """Convert the labels of sequences to classes, of which equal ones share an object, or to values."""
    if y.ndim > 2 or (y.ndim == 2 and y.shape[1] == steps > 1):
        raise ValueError(
            f"{argument} must have shape (n,) or (n, targets) for data that stay on disk, got {y.shape}, labels at "
            "every step. Use one .npz file, which is read into memory."
        )
    suffix = argument.removeprefix("y")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        row = int(np.flatnonzero(~np.isfinite(y.reshape(len(y), -1)).all(axis=1))[0])
        raise ValueError(f"{argument} must be finite, got {y[row]} for sequence {row}. Leave the sequence out.")
    if y.ndim == 2:
        return read_targets(y, np.broadcast_to(np.True_, (len(y), steps)), task, suffix)
    different, places = np.unique(y, return_inverse=True)
    labels = read_targets(different, np.broadcast_to(np.True_, (len(different), steps)), task, suffix)
    if isinstance(labels, Tensor):
        return labels[torch.from_numpy(places)]
    assert isinstance(labels, tuple)
    return tuple(labels[place] for place in places.tolist())


def _joined(name: str, arrays: Sequence[tuple[Path, Column]]) -> Column:
    """Join the arrays of all shards; `None` if none has one."""
    found = [(path, array) for path, array in arrays if array is not None]
    if not found:
        return None
    first_path, first = found[0]
    for path, array in arrays:
        if array is None:
            raise ValueError(f"{path} must hold {name}, as {first_path.name} does, got none.")
        kinds = {one.dtype.kind.replace("u", "i") for one in (first, array)}
        if array.shape[1:] != first.shape[1:] or len(kinds) > 1:
            raise ValueError(
                f"{name} of {path} must have the type and shape of that of {first_path.name}, {first.dtype} "
                f"(n{''.join(f', {size}' for size in first.shape[1:])}), got {array.dtype} {array.shape}."
            )
    if len({array.dtype for _, array in found}) > 1 and {array.dtype.kind for _, array in found} == {"i", "u"}:
        return _joined_integers(name, [array for _, array in found])
    return np.concatenate([array for _, array in found])


def _joined_integers(name: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Join integers with and without a sign, which NumPy would round to float64."""
    for dtype in (np.int64, np.uint64):
        limits = np.iinfo(dtype)
        if all(limits.min <= int(array.min()) and int(array.max()) <= limits.max for array in arrays if array.size):
            return np.concatenate([array.astype(dtype) for array in arrays])
    raise ValueError(
        f"{name} must hold integers of one type, got some below 0 and some of 2⁶³ or more. Use one type in all files."
    )


def _stored(shards: Sequence[Shard], options: ReadingOptions) -> tuple[StoredSequences, Tensor | None]:
    """Return the sequences of some shards, and their lengths."""
    first = shards[0]
    for shard in shards:
        if shard.dtype != first.dtype:
            raise ValueError(
                f"X of {shard.path} must hold {first.dtype}, as {first.path.name} does, got {shard.dtype}. Convert it: "
                f"X.astype('{first.dtype}')."
            )
        if shard.shape != first.shape:
            raise ValueError(
                f"X of {shard.path} must have sequences of shape {first.shape}, as {first.path.name} has, got "
                f"{shard.shape}. Pad them to one length and add lengths."
            )
    shape, time_last = first.shape, first.time_last
    if len(shape) == 2 and options.layout is None and shape[0] < shape[1]:
        raise ValueError(
            f"X must have shape (n, steps, channels), got (n, {shape[0]}, {shape[1]}) in {first.path}, fewer steps "
            "than channels. If it is (n, channels, steps), give layout='time-last' (--layout time-last), else "
            "layout='channels-last'."
        )
    steps, channels = shape[-1] if time_last else shape[0], 1 if len(shape) == 1 else shape[0 if time_last else 1]
    lengths = _joined("lengths", [(shard.path, shard.lengths) for shard in shards])
    valid = None
    if lengths is not None:
        if lengths.dtype.kind not in "iu":
            raise TypeError(f"lengths must hold integers, got {lengths.dtype} in {first.path.parent}.")
        valid = torch.from_numpy(lengths.astype(np.int64))
        check_lengths(valid, batch=len(valid), steps=steps)
    wide_integer = first.dtype.kind in "iu" and first.dtype.itemsize == 8
    storage = Storage(
        [piece for shard in shards for piece in shard.pieces],
        steps=steps,
        channels=channels,
        dtype=torch.float32 if np.can_cast(first.dtype, np.float32, "safe") else torch.float64,
        time_last=time_last and len(shape) == 2,
        lengths=valid,
        largest=_EXACT_INTEGER if wide_integer else LARGEST,
    )
    return StoredSequences(storage), valid


def open_shards(
    files: Sequence[Path],
    options: ReadingOptions,
    *,
    labelled: bool = True,
    like: Shard | None = None,
    channels: Sequence[str] = (),
) -> list[Shard]:
    """Open the files of one part of the data: shapes and types are checked, labels are read, inputs are not.

    Args:
        files: All files of the part.
        options: How they are read.
        labelled: Whether labels are read; else they may be missing.
        like: A file whose columns, by name, and their order all files have; `None`: the first one.
        channels: Names of the channels in the order in which they are read; empty if they are not known.

    Raises:
        ValueError: If a file is damaged, lacks inputs or labels, has other numbers of both, other columns, or objects.
    """
    if _kind(files[0]) == ".npy":
        shards = [_open_pair(files, options, labelled)]
    elif _kind(files[0]) == ".npz":
        shards = [_open_npz(path, options, labelled) for path in files]
    else:
        shards = []
        for path in files:
            shards.append(_open_parquet(path, options, labelled, like, channels))
            like = like or shards[0]
    for shard in shards:
        if len(shard.shape) not in (1, 2) or 0 in shard.shape or shard.count == 0:
            raise ValueError(
                f"X must have shape (n, steps, channels) or (n, steps), each at least 1, got "
                f"{(shard.count, *shard.shape)} in {shard.path}."
            )
        for name, array in (("labels", shard.y), ("lengths", shard.lengths)):
            if array is not None and (array.ndim == 0 or len(array) != shard.count):
                raise ValueError(
                    f"{shard.path} must have {shard.count} {name}, one for each row of X, got "
                    f"{'one number' if array.ndim == 0 else len(array)}."
                )
    return shards


def _open_pair(files: Sequence[Path], options: ReadingOptions, labelled: bool) -> Shard:
    """Open the files `X.npy` and `y.npy` of one part, and `lengths.npy` if there is one."""
    found: dict[str, Path] = {}
    unread = []
    for path in files:
        known = {word for names in _PARTS.values() for word in names}
        words = [word for word in re.split(r"[^A-Za-z]+", path.stem) if word and word.lower() not in known]
        meaning = array_meaning(words[-1]) if words else None
        name = None if meaning is None else meaning.role
        if name is None or name not in _NAMES:
            unread.append(path.name)
            continue
        if name in found:
            raise ValueError(
                f"{path.parent} must hold one array {name} for each part of the data, got {found[name].name} and "
                f"{path.name}. Move one away."
            )
        found[name] = path
    missing = [name for name in ("X", *(("y",) if labelled else ())) if name not in found]
    if missing:
        names = ", ".join(path.name for path in files[:5])
        raise ValueError(f"{files[0].parent} must hold X.npy and y.npy, got no {missing[0]}.npy, but {names}.")
    path = found["X"]
    with path.open("rb") as file:
        header = _read_header(path, file, path.stat().st_size)
    return Shard(
        path=path,
        pieces=[MappedArray(path, header.size, header.shape, header.dtype)] if 0 not in header.shape else [],
        shape=header.shape[1:],
        dtype=header.dtype,
        y=read_npy("y", found["y"]) if labelled else None,
        lengths=read_npy("lengths", found["lengths"]) if "lengths" in found else None,
        time_last=options.layout == "time-last",
        unread=tuple(unread),
    )


def _read_header(path: Path, file: IO[bytes], stored: int) -> Header:
    """Read the header of the array of inputs that a file holds.

    Raises:
        ValueError: If it is no array of sequences, or in Fortran order.
    """
    header = read_header("X", path, file, stored)
    if header.dtype.kind not in "fiu":
        raise TypeError(f"X must hold real numbers, got {header.dtype} in {path}.")
    if len(header.shape) not in (2, 3):
        raise ValueError(f"X must have shape (n, steps, channels) or (n, steps), got {header.shape} in {path}.")
    if header.fortran_order and min(header.shape[0], math.prod(header.shape[1:])) > 1:
        raise ValueError(
            f"X of {path} must be in C order, got Fortran order, where a sequence is scattered over the file. Save "
            "np.ascontiguousarray(X)."
        )
    return header


def _open_npz(path: Path, options: ReadingOptions, labelled: bool) -> Shard:
    """Open an archive with X and y, and perhaps lengths; a compressed X is decoded whole when it is used."""
    arrays = NpzArrays(path)
    if "X_test" in arrays.names:
        raise ValueError(f"{path} must hold X and y, got X_test too. Write the test data to files of their own.")
    for name in ("X", *(("y",) if labelled else ())):
        if name not in arrays.names:
            raise ValueError(f"{path} must hold X and y, got no {name}. Use np.savez(path, X=X, y=y).")
    stored = arrays.names["X"]
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{stored}.npy")
            with archive.open(member) as file:
                header = _read_header(path, file, member.file_size)
    except (zipfile.BadZipFile, KeyError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} must be a complete NumPy archive, got damage in {stored} ({error}).") from None
    shape, dtype, pieces = header.shape, header.dtype, list[Piece]()
    if 0 not in shape:
        if member.compress_type == zipfile.ZIP_STORED:
            with path.open("rb") as plain:  # the length of the member's own header is in front of it only
                plain.seek(member.header_offset + 26)
                name_length, extra = struct.unpack("<HH", plain.read(4))
            offset = member.header_offset + 30 + name_length + extra + header.size
            pieces = [MappedArray(path, offset, shape, dtype)]
        else:
            _check_piece(path, member.file_size, "Write smaller files, or use np.savez, which does not compress")
            pieces = [DecodedArray(path, 0, shape[0], partial(_decode_npz, path))]
    return Shard(
        path=path,
        pieces=pieces,
        shape=shape[1:],
        dtype=dtype,
        y=arrays.read("y") if labelled else None,
        lengths=arrays.read("lengths"),
        time_last=options.layout == "time-last",
        unread=(*arrays.others, *(stored for name, stored in arrays.names.items() if name not in _NAMES)),
    )


def _decode_npz(path: Path) -> np.ndarray:
    array = NpzArrays(path).read("X")
    assert array is not None
    return array


def _check_piece(path: Path, size: int, advice: str) -> None:
    """Raise `ValueError` if sequences that can only be decoded together take more memory than they may."""
    if size > WINDOW:
        raise ValueError(
            f"{path} must hold at most {WINDOW // 2**20} MiB that are decoded together, got {size // 2**20} MiB. "
            f"{advice}."
        )


def _open_parquet(
    path: Path, options: ReadingOptions, labelled: bool, like: Shard | None, channels: Sequence[str]
) -> Shard:
    """Open a Parquet file with one sequence per row: a column of numbers per value, or one column of lists."""
    check_packages(".parquet", "pyarrow")
    from pyarrow import parquet, types

    try:
        file: Any = parquet.ParquetFile(path)
    except (OSError, ValueError, TypeError) as error:  # pyarrow's errors are of these types
        raise ValueError(f"{path} must be a Parquet file, got one that does not open ({error}).") from None
    header: list[str] = list(file.schema_arrow.names)
    dropped = {find_column(path, header, "drop", column) % len(header) for column in drops(options)}
    dropped |= {k for k, name in enumerate(header) if re.fullmatch(r"__index_level_\d+__", name)}  # pandas' index
    if like is not None and like.label in header:
        label: int | None = header.index(like.label)
    else:
        label = _label_column(path, header, options, dropped, labelled)
    columns = [name for k, name in enumerate(header) if k not in dropped and k != label]
    if not columns:
        raise ValueError(f"{path} must hold a column of inputs, got {', '.join(map(repr, header))}.")
    kinds = [file.schema_arrow.field(name).type for name in columns]
    lists = [_is_list(kind) for kind in kinds]
    if any(lists) and len(columns) > 1:
        raise ValueError(
            f"{path} must hold one column of lists and that of the label, got {', '.join(map(repr, columns[:5]))}. "
            "Give drop (--drop) for the others."
        )
    values = kinds[0]
    while _is_list(values):
        values = values.value_type
    for name, kind in zip(columns, [values] if any(lists) else kinds, strict=True):
        if not (types.is_floating(kind) or types.is_integer(kind)):
            raise TypeError(f"Column {name!r} of {path} must hold numbers, got {kind}. Give drop (--drop) for it.")
    dtype = np.result_type(*(kind.to_pandas_dtype() for kind in ([values] if any(lists) else kinds)))
    channel_names: tuple[str, ...] = ()
    counting = False
    if like is not None:
        advice = "Write the same columns to all files; their order does not matter."
        channel_order(str(path), columns, like.columns, what=f"the columns of {like.path.name}", advice=advice)
        columns, channel_names = list(like.columns), like.channel_names
    elif not any(lists):
        other = {*dropped, *(() if label is None else (label,))}
        check_no_index(path, header, other)
        order, channel_names = value_order(path, header, other, options)
        if order is None:
            counting = True
        else:
            by_step = np.array(order).reshape(-1, len(channel_names))
            places = channel_order(str(path), channel_names, channels)
            if places is not None:
                by_step, channel_names = by_step[:, places], tuple(channels)
            columns = [header[k] for k in by_step.flatten().tolist()]
    decode = partial(_decode_parquet, path, columns, dtype, len(channel_names))
    counts = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
    groups = [k for k, count in enumerate(counts) if count]
    shape: tuple[int, ...] = (len(columns),)
    if channel_names:
        shape = len(columns) // len(channel_names), len(channel_names)
    elif groups and any(lists):
        shape = decode(groups[0]).shape[1:]
    firsts = np.cumsum([0, *counts])
    for k in groups:
        _check_piece(path, counts[k] * int(np.prod(shape)) * dtype.itemsize, "Write it with a smaller row_group_size")
    if counting and groups:  # a file to predict is read as the one of the training was, with a warning
        places = [header.index(name) for name in columns]
        reading = options if labelled else replace(options, layout="one-channel")
        needed = next((n for n, k in enumerate(groups, start=1) if firsts[k + 1] >= _COUNTED), len(groups))
        found = np.concatenate([decode(k) for k in groups[:needed]])
        check_no_counting(path, found[:_COUNTED].tolist(), places, reading)
    y = None
    if label is not None and labelled:
        y = _labels(path, header[label], file.read(columns=[header[label]], use_threads=False).column(0))
    return Shard(
        path=path,
        pieces=[DecodedArray(path, int(firsts[k]), counts[k], partial(decode, k)) for k in groups],
        shape=shape,
        dtype=dtype,
        y=y,
        lengths=None,
        time_last=any(lists) and options.layout == "time-last",
        columns=tuple(columns),
        label=None if label is None else header[label],
        channel_names=channel_names,
    )


def _label_column(
    path: Path, header: list[str], options: ReadingOptions, dropped: set[int], labelled: bool
) -> int | None:
    """Return the index of the column of labels; `None` for predictions from a file without one."""
    if options.label_column is not None:
        if not labelled and isinstance(options.label_column, str) and options.label_column not in header:
            return None
        return find_column(path, header, "label_column", options.label_column) % len(header)
    known = named_labels(header, dropped)
    if len(known) == 1 or not labelled:
        return known[0] if known else None
    raise ValueError(
        f"{path} must have one column with the class, got the columns {', '.join(map(repr, header[:10]))}. Give "
        "label_column (--label-column)."
    )


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _labels(path: Path, name: str, column: Any) -> np.ndarray:
    """Return a column of labels as an array of numbers or text."""
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ValueError(f"Column {name!r} of {path} must hold a label for each sequence, got none in row {row}.")
    values = np.asarray(column.to_pylist())
    if values.dtype.hasobject:
        raise TypeError(f"Column {name!r} of {path} must hold numbers or text, got {column.type}.")
    return values


def _decode_parquet(path: Path, columns: list[str], dtype: np.dtype, channels: int, group: int) -> np.ndarray:
    """Return the sequences of a row group, `(n, steps)` or `(n, steps, channels)`; missing values are NaN.

    Args:
        path: The file.
        columns: The columns of values, by step and then by channel.
        dtype: Type of the values.
        channels: Channels of columns of numbers, 0 for one without a name.
        group: Number of the row group.
    """
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    table = file.read_row_group(group, columns=columns, use_threads=False)
    rows = table.num_rows
    if not _is_list(table.schema.field(columns[0]).type):
        found = np.stack([table.column(name).to_numpy() for name in columns], axis=1).astype(
            np.float64 if any(table.column(name).null_count for name in columns) else dtype, copy=False
        )
        return found.reshape(rows, -1, channels) if channels else found
    first = sum(file.metadata.row_group(k).num_rows for k in range(group))
    values, shape = table.column(columns[0]).combine_chunks(), [rows]
    while _is_list(values.type):
        sizes = values.value_lengths().to_numpy(zero_copy_only=False)
        other = np.flatnonzero(~(sizes == sizes[0]))
        if len(other) or sizes[0] != sizes[0]:
            row = first + int(other[0] if len(other) else 0) * rows // len(sizes)
            raise ValueError(
                f"Column {columns[0]!r} of {path} must hold lists of one length, got another one or none in row {row}. "
                "Write .npz files with X padded, and lengths."
            )
        shape.append(int(sizes[0]))
        values = values.flatten()
    array = values.to_numpy(zero_copy_only=False)
    return array.reshape(shape)
