"""Reads the `.ts` text format of the UCR and UEA archives, and their data sets by name."""

import difflib
import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.folders import cache_folder, find_file, placement_advice, read_text
from noisyrnn.data.labels import decimal_labels
from noisyrnn.data.numbers import SHIFT, is_absent, is_missing, is_rounded, parse_number
from noisyrnn.data.options import ReadingOptions, missing_advice
from noisyrnn.data.parts import Cases, dataset_from_cases, pad_sequences, parse_targets
from noisyrnn.data.time_cells import parse_times

SUFFIXES = (".ts", ".ts.gz")
_SIZE = re.compile(r"[0-9]{1,9}")


def read_ts(path: Path, options: ReadingOptions | None = None) -> Cases:
    """Read the labelled sequences of a `.ts` file.

    `#` starts a comment, `@` a line of the header, which ends at `@data`. Then one case per line: channels separated by
    `:`, values by `,`, the class last; or, where the header states `@targetLabel true`, a number to predict. Where it
    states `@timeStamps true`, each value is `(time,value)`.

    Args:
        path: File ending in `.ts` or `.ts.gz`.
        options: Of these, `missing`: with it values may be missing.

    Returns:
        Sequences padded to the longest, with `lengths` if they differ, and the classes that the header declares.

    Raises:
        ValueError: If values are missing or not numbers, there are no classes, channels differ in number, length or
            times, a class is not declared, or the file is damaged or holds no case.
    """
    missing = options is not None and options.missing is not None
    header, cases = split_header(path)
    check_header(path, header)
    channels = declared_channels(header)
    declared = decimal_labels(header.get("@classlabel", [])[1:])
    length = header.get("@serieslength", [])
    equal = header_flag(header, "@equallength", "false") and len(length) == 1 and _SIZE.fullmatch(length[0])
    steps = int(length[0]) if equal else None
    stamped = header_flag(header, "@timestamps", "false")
    sequences, labels, times = [], [], []
    for line_number, line in cases:
        *values, label = split_channels(line, stamped=stamped)
        if not values or not label.strip():
            got = "no class after the last ':'" if values else "no ':'"
            raise ValueError(f"Line {line_number} of {path} must hold its values, a ':' and its class, got {got}.")
        channels = channels or len(values)
        if len(values) != channels:
            raise ValueError(
                f"Line {line_number} of {path} must hold {channels} channels and a class, separated by ':', "
                f"got {len(values)} channels."
            )
        where = f"Line {line_number} of {path}"
        if stamped:
            stamps, values = split_stamps(values, where)
            times.append(stamps)
        sequences.append(read_case(values, where, steps, missing=missing))
        labels.append(label.strip())
    if not sequences:
        raise ValueError(f"{path} must hold at least one case after '@data', got none.")
    inputs, lengths = pad_sequences(sequences)
    if header_flag(header, "@targetlabel", "false"):
        targets = parse_targets(
            labels,
            lambda k, cell: (
                f"Line {cases[k][0]} of {path} must end in a finite number to predict, as "
                f"'@targetLabel true' states, got {cell!r}."
            ),
        )
        return Cases(inputs=inputs, lengths=lengths, labels=targets, times=tuple(times) or None)
    names = decimal_labels(labels)
    for (line_number, _), name in zip(cases, names, strict=True):
        if declared and name not in declared:
            raise ValueError(
                f"Line {line_number} of {path} must end in one of the classes {', '.join(map(str, declared))}, "
                f"got {name.text!r}."
            )
    return Cases(inputs=inputs, lengths=lengths, labels=names, declared=declared, times=tuple(times) or None)


def split_channels(line: str, *, stamped: bool) -> list[str]:
    """Split a case at its ':', except within time stamps."""
    return re.split(r":(?![^(]*\))", line) if stamped else line.split(":")


def split_header(path: Path) -> tuple[dict[str, list[str]], list[tuple[int, str]]]:
    """Return the lines of the header, their values by key in small letters, and the numbered lines of the cases.

    Raises:
        ValueError: If no line `@data` ends the header.
    """
    lines = [(index, line.strip()) for index, line in enumerate(read_text(path).splitlines(), start=1)]
    lines = [(index, line) for index, line in lines if line and not line.startswith("#")]
    header: dict[str, list[str]] = {}
    for position, (_, line) in enumerate(lines):
        key, *values = line.split()
        if key.lower() == "@data":
            return header, lines[position + 1 :]
        if key.startswith("@"):
            header[key.lower()] = values
    raise ValueError(f"{path} must hold a line '@data' before its cases, got {len(lines)} lines without one.")


def check_header(path: Path, header: dict[str, list[str]]) -> None:
    """Raise unless the header describes sequences with classes or with targets."""
    targets = header_flag(header, "@targetlabel", "false")
    if targets and header_flag(header, "@classlabel", "false"):
        raise ValueError(f"{path} must hold classes or targets, got '@classLabel true' and '@targetLabel true'.")
    if not targets and not header_flag(header, "@classlabel", "true"):
        raise ValueError(f"{path} must hold class labels, got a header without '@classLabel true'.")


def split_stamps(channels: list[str], where: str) -> tuple[np.ndarray, list[str]]:
    """Split the time stamps from the values of a case, whose cells are `(time, value)`.

    Args:
        channels: Cells of each channel.
        where: Beginning of messages.

    Returns:
        The times, `(length,)`, increasing and those of all channels; and the cells of each channel without them.

    Raises:
        ValueError: If a cell has another form, or channels differ in their times.
    """
    stamps: list[str] = []
    values = []
    for channel in channels:
        pairs = re.findall(r"\(([^()]*),([^(),]*)\)", channel)
        if not pairs or re.sub(r"\([^()]*\)|[\s,]", "", channel):
            raise ValueError(
                f"{where} must hold (time,value) cells, as '@timeStamps true' states, got {channel[:40]!r}."
            )
        stamps += [stamp.strip() for stamp, _ in pairs]
        values.append(",".join(value for _, value in pairs))
    (times,) = parse_times([stamps], lambda *_: where)  # of all channels from one origin
    first, *others = np.split(times, np.cumsum([value.count(",") + 1 for value in values])[:-1])
    if (np.diff(first) <= 0).any():
        raise ValueError(f"{where} must hold times that increase, got {channels[0][:40]!r}….")
    if any(not np.array_equal(first, other) for other in others):
        raise ValueError(f"{where} must hold the same times in all channels, got others. Resample it first.")
    return first, values


def header_flag(header: dict[str, list[str]], key: str, default: str) -> bool:
    """Whether the header sets `key` to `true`; `default` if it does not set it."""
    return [value.lower() for value in header.get(key, [default])[:1]] == ["true"]


def declared_channels(header: dict[str, list[str]]) -> int | None:
    """Return the number of channels that the header states; `None` if it states none."""
    if header_flag(header, "@univariate", "false"):
        return 1
    dimensions = "".join(header.get("@dimensions", header.get("@dimension", []))[:1])
    return (int(dimensions) or None) if _SIZE.fullmatch(dimensions) else None


def read_case(channels: list[str], where: str, steps: int | None, *, missing: bool = False) -> Tensor:
    """Parse one case to float64 `(length, input_size)`.

    Args:
        channels: Cells of each channel.
        where: Beginning of messages.
        steps: Number of values of each channel, if it is fixed.
        missing: Whether values may be missing: they are then NaN.
    """
    rows = []
    for channel in channels:
        cells = [cell.strip() for cell in channel.split(",")]
        if cells[0].startswith("("):
            raise ValueError(
                f"{where} must hold plain values, got a time stamp {cells[0]!r} without '@timeStamps true'."
            )
        row = []
        for cell in cells:
            value = parse_number(cell)
            if missing and is_absent(cell):
                row.append(math.nan)
                continue
            if value is None and not is_missing(cell):
                raise ValueError(f"{where} must hold numbers, got {cell!r}.")
            if value is None or not math.isfinite(value):
                known = f"{missing_advice()} Or impute" if value is None and is_absent(cell) else "Impute"
                raise ValueError(f"{where} must hold no missing values, got {cell!r}. {known} them or remove the case.")
            if is_rounded(cell):
                raise ValueError(f"{where} must hold numbers that float64 represents exactly, got {cell!r}. {SHIFT}")
            row.append(value)
        rows.append(row)
    sizes = {len(row) for row in rows}
    if len(sizes) > 1:
        raise ValueError(f"{where} must hold channels of one length, got {min(sizes)} and {max(sizes)} values.")
    if steps is not None and sizes != {steps}:
        raise ValueError(f"{where} must hold {steps} values per channel, as '@seriesLength' states, got {sizes.pop()}.")
    return torch.from_numpy(np.array(rows)).T


def find_test_file(train: Path, suffixes: Sequence[str] = SUFFIXES) -> Path | None:
    """Find the `_TEST` file next to a `_TRAIN` file, compressed or not; `None` if there is none.

    Args:
        train: The `_TRAIN` file.
        suffixes: With which the `_TEST` file may end, in order.
    """
    suffix = next((end for end in suffixes if train.name.lower().endswith(end)), "")
    stem = train.name[: len(train.name) - len(suffix)]
    if not stem.endswith("_TRAIN"):
        return None
    return find_file([train.parent], [f"{stem.removesuffix('_TRAIN')}_TEST{end}" for end in suffixes], ["."])


def load_archive(name: str, folders: list[Path], known: list[str], options: ReadingOptions | None = None) -> Dataset:
    """Load a data set of the UCR or UEA archive with its official test part; validation is 20 % of the training part.

    Args:
        name: Name in the archive's spelling, such as `"JapaneseVowels"`.
        folders: Folders to search, themselves and their subfolders `ucr_uea/` and `NAME/`; else aeon downloads it.
        known: Names in `DATASETS`, to suggest one for a misspelt name.
        options: Of these, `missing`.

    Raises:
        ValueError: If the name is probably a misspelt one of `known`, or a file is malformed.
        FileNotFoundError: If it is neither found nor downloaded.
    """
    files = [f"{name}_TRAIN{suffix}" for suffix in SUFFIXES]
    places = ["ucr_uea", f"ucr_uea/{name}", name, "."]
    train = find_file(folders, files, places)
    if train is None:
        fetch(name, folders, known)
        train = find_file(folders, files, places)
    if train is None:
        raise FileNotFoundError(f"{files[0]} must be in {cache_folder()} after aeon's download, got no such file.")
    path = train
    missing = None if options is None else options.missing

    def read_test() -> Cases:
        test = find_test_file(path)
        if test is None:
            raise FileNotFoundError(f"{name}_TEST.ts must be in {path.parent}, next to {path.name}, got no such file.")
        return replace(read_ts(test, options), missing=missing)

    cases = replace(read_ts(path, options), missing=missing)
    return dataset_from_cases(name, cases, read_test, f"{name} of the UCR/UEA archive.")


def fetch(name: str, folders: list[Path], known: list[str]) -> None:
    """Download a data set into the cache with aeon; raise an error that helps if that fails."""
    # The archive's names are capitalised, and 'PenDigits' is not a misspelt 'digits': those must be nearer.
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6 if name.islower() else 0.75)
    if near:
        raise ValueError(
            f"dataset must be one of {', '.join(known)}, a set of the UCR/UEA archive or a file, got {name!r}. "
            f"Did you mean {near[0]!r}?"
        )
    help_text = placement_advice([f"{name}_TRAIN.ts", f"{name}_TEST.ts"], [folder / "ucr_uea" for folder in folders])
    rule = f"dataset must be one of {', '.join(known)}, a file or a set of the UCR/UEA archive in a data folder"
    if importlib.util.find_spec("aeon") is None:
        raise FileNotFoundError(f"{rule}, got {name!r}. {help_text} Or: pip install noisyrnn[ucr].")
    from aeon.datasets import load_classification

    try:
        load_classification(name, extract_path=str(cache_folder() / "ucr_uea"))
    except Exception as error:  # aeon raises many types, its own and those of urllib
        raise FileNotFoundError(
            f"{rule} or be downloaded by aeon, got {name!r} and {type(error).__name__}. {help_text}"
        ) from error
