"""The user's own files: `.npz`, `.csv` and `.ts`."""

import csv
import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisyrnn.data.base import Dataset
from noisyrnn.data.folders import read_text
from noisyrnn.data.split import Cases, canonical_labels, check_cases, dataset_from_cases, pad
from noisyrnn.data.ts import read_ts, sibling

SUFFIXES = (".npz", ".csv", ".ts", ".ts.gz")


def is_path(name: str) -> bool:
    """Whether a data set's name is meant as a file: it has a suffix or a folder."""
    return "." in name or "/" in name or "\\" in name


def load_own(name: str) -> Dataset:
    """The data set in the user's file; without a test part of its own it is split 60/20/20, stratified and seeded.

    Args:
        name: Path ending in `.npz`, `.csv`, `.ts` or `.ts.gz`.

    Raises:
        ValueError: If the suffix is unknown or the file is malformed.
        FileNotFoundError: If there is no such file.
    """
    path = Path(name).expanduser()
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"dataset must be a file ending in {', '.join(SUFFIXES)}, got {name!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"dataset must be an existing file, got {name!r}. Correct the path.")
    source = f"The file {path.name}."
    if suffix == ".csv":
        return dataset_from_cases(name, read_csv(path), None, source)
    if suffix == ".npz":
        with open_npz(path) as arrays:
            has_test = "X_test" in arrays
        read_test = (lambda: read_npz(path, "_test")) if has_test else None
        return dataset_from_cases(name, read_npz(path), read_test, source)
    test = sibling(path)
    return dataset_from_cases(name, read_ts(path), None if test is None else lambda: read_ts(test), source)


def open_npz(path: Path) -> Any:
    """The archive, its arrays unread."""
    try:
        arrays = np.load(path, allow_pickle=False)
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} must be a NumPy archive, got a file that does not open ({error}).") from None
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} must be a NumPy archive of X and y, got one array. Use np.savez(path, X=X, y=y).")
    return arrays


def read_array(path: Path, name: str) -> np.ndarray | None:
    """One array of an archive, `None` where it is not there; object arrays, which can run code, are refused."""
    with open_npz(path) as arrays:
        if name not in arrays:
            return None
        try:
            return np.asarray(arrays[name])
        except ValueError:
            raise ValueError(
                f"{name} must be a plain array, got an object array in {path}. "
                "Pad the sequences to one length and add `lengths`."
            ) from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise ValueError(f"{path} must be a complete NumPy archive, got damage in {name} ({error}).") from None


def read_npz(path: Path, suffix: str = "") -> Cases:
    """The arrays `X`, `y` and perhaps `lengths` of an archive, or with `suffix` `"_test"` those of its test part.

    `X` is `(n, steps, channels)`, or `(n, steps)` for one channel. What lies beyond a sequence's length is not read.

    Raises:
        TypeError: If an array holds the wrong kind of values.
        ValueError: If an array is missing, malformed or not finite.
    """
    X, y, lengths = (read_array(path, name + suffix) for name in ("X", "y", "lengths"))
    if X is None or y is None:
        missing = ("X" if X is None else "y") + suffix
        raise ValueError(f"{path} must hold X{suffix} and y{suffix}, got no {missing}. Use np.savez(path, X=X, y=y).")
    if X.dtype.kind not in "fiu":
        raise TypeError(f"X{suffix} must hold real numbers, got {X.dtype}.")
    if y.dtype.kind not in "iuU":
        raise TypeError(f"y{suffix} must hold integers or strings, got {y.dtype}.")
    if y.ndim != 1:
        raise ValueError(f"y{suffix} must have shape (n,), one label for each sequence, got {y.shape}.")
    if X.ndim not in (2, 3):
        raise ValueError(f"X{suffix} must have shape (n, steps, channels) or (n, steps), got {X.shape}.")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which check_cases reports
        inputs = torch.from_numpy(X.astype(np.float32))
    inputs = inputs.unsqueeze(-1) if inputs.ndim == 2 else inputs
    valid_lengths = None
    if lengths is not None:
        if lengths.dtype.kind not in "iu":
            raise TypeError(f"lengths{suffix} must hold integers, got {lengths.dtype}.")
        valid_lengths = torch.from_numpy(lengths.astype(np.int64))
        if valid_lengths.shape == inputs.shape[:1]:  # else check_cases says what is wrong
            padding = torch.arange(inputs.shape[1], device="cpu") >= valid_lengths[:, None]
            inputs = inputs.masked_fill(padding.unsqueeze(-1), 0.0)
    cases = Cases(inputs=inputs, lengths=valid_lengths, labels=canonical_labels([str(label) for label in y]))
    check_cases(cases, suffix)
    return cases


def read_csv(path: Path) -> Cases:
    """One sequence a line: its class, then the values of one channel. Lines may be shorter, or end in empty cells.

    A first line is a header if one of its values is not a number, or if they count the columns (as pandas writes them)
    behind a class that no other line has.

    Raises:
        ValueError: If a cell is missing or not a finite number, or there is no sequence; the message has the line.
    """
    reader = csv.reader(read_text(path).splitlines())
    rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    rows = [(number, row) for number, row in rows if any(row)]
    if rows and is_header(rows[0][1], {row[0] for _, row in rows[1:]}):
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{path} must hold at least one sequence, got none.")
    sequences, labels = [], []
    for number, (label, *cells) in rows:
        where = f"Line {number} of {path}"
        while cells and not cells[-1]:
            cells.pop()
        if not label or not cells:
            raise ValueError(
                f"{where} must hold a class and a value at least, got {label!r} and {len(cells)} values. {_hint(label)}"
            )
        values = [as_number(cell) for cell in cells]
        for column, (value, cell) in enumerate(zip(values, cells, strict=True), start=2):
            if value is None or not math.isfinite(value):
                raise ValueError(f"{where} must hold finite numbers, got {cell!r} in column {column}. {_hint(cell)}")
        sequences.append(torch.tensor(values, dtype=torch.float32, device="cpu").unsqueeze(-1))
        labels.append(label)
    inputs, lengths = pad(sequences)
    return Cases(inputs=inputs, lengths=lengths, labels=canonical_labels(labels))


def _hint(cell: str) -> str:
    """What may be the matter with a cell that is out of place."""
    if ";" in cell or "\t" in cell:
        return "Separate values with commas."
    if re.fullmatch(r"[+-]?\d+,\d+", cell):
        return "Write a point in the number, not a comma."
    if cell.lower() in ("", "na", "nan", "null", "none", "inf", "-inf"):
        return "Fill the value in, or leave the line out."
    return "A line is its class and then its values, without a number of its own."


def is_header(row: list[str], other_labels: set[str]) -> bool:
    """Whether a line of cells names the columns."""
    label, *cells = row
    values = [as_number(cell) for cell in cells if cell]
    counts = [[float(i) for i in range(first, first + len(values))] for first in (0, 1)]
    return None in values or (label not in other_labels and bool(values) and values in counts)


def as_number(cell: str) -> float | None:
    """The cell as a number, `None` where it is none."""
    try:
        return float(cell)
    except ValueError:
        return None
