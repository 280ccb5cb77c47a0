"""Reads sequences from NumPy's files: `.npz` archives, and pairs of `.npy` files."""

import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch

from noisyrnn.checks import check_counted, check_values
from noisyrnn.data.from_arrays import check_layout
from noisyrnn.data.labels import array_labels, is_one_hot
from noisyrnn.data.numbers import check_real
from noisyrnn.data.parts import Cases, StepLabels, Targets, check_cases
from noisyrnn.data.sizes import check_size, largest_array
from noisyrnn.padding import valid_steps, valid_values
from noisyrnn.targets import UNCOUNTED

_NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "X": (
        ("x", "data", "inputs", "features"),
        ("signals", "signal", "sequences", "series", "timeseries", "samples", "recordings"),
    ),
    "y": (("y", "labels", "label", "targets", "target"), ("classlabels", "classlabel", "class")),
    "lengths": (("lengths",), ("seqlengths", "sequencelengths")),
    "mask": (("mask",), ()),
}
"""Names under which other tools store an array, in small letters only; the second ones if there is none of the first.

Each may have `train` or `test` in front or behind: `x_train`, `XTrain` and `trainX` are read as `X`.
"""


@dataclass(frozen=True)
class _Meaning:
    """What an array of some name holds.

    Args:
        role: Key of `_NAMES`.
        part: "", "train" or "test".
        rank: Place of its name in `_NAMES`: 0 or 1.
    """

    role: str
    part: str
    rank: int


def array_meaning(name: str) -> _Meaning | None:
    """Return what an array is by its name; `None` if the name is unknown."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    if re.sub(r"[\W_]", "", name.lower()) != plain:  # a number, such as X_train_2
        return None
    for part in ("train", "test", ""):
        bases = {plain.removeprefix(part), plain.removesuffix(part)} - ({plain} if part else set())
        for role, ranks in _NAMES.items():
            rank = next((rank for rank, names in enumerate(ranks) if bases & {*names}), None)
            if rank is not None:
                return _Meaning(role, part, rank)
    return None


def known_names() -> str:
    """List the names that are read, for messages."""
    X, y = (
        ", ".join([role, *(name for names in _NAMES[role] for name in names if name != role.lower())])
        for role in ("X", "y")
    )
    return f"Known names are {X}; {y}; lengths and mask; and the same with train or test, such as XTrain and y_test."


class Arrays(Protocol):
    """Named arrays in one file or in several.

    Args:
        path: The file that the user names.
        names: The array that is read under each of the names X, y, lengths, mask, and the same with `_test`.
        others: Arrays that are not read.
    """

    path: Path
    names: dict[str, str]
    others: list[str]

    def read(self, name: str) -> np.ndarray | None:
        """Read one array, `None` if it is not there; object arrays, which can run code, are rejected.

        The size that its header declares is compared with the file and the memory before anything is allocated.
        """
        ...


def find_names(path: Path, stored: Iterable[str]) -> dict[str, str]:
    """Return the stored array that is read under each name.

    Example:
        >>> find_names(Path("own.npz"), ["x_train", "y_train", "x_test", "y_test"])["X"]
        'x_train'

    Raises:
        ValueError: If two arrays may be the one.
    """
    present = dict.fromkeys(stored)
    meanings = {name: meaning for name in present if (meaning := array_meaning(name)) is not None}
    found = {}
    for role in (*_NAMES, *(f"{name}_test" for name in _NAMES)):
        base, test = role.removesuffix("_test"), role.endswith("_test")
        alike = {name: m for name, m in meanings.items() if m.role == base and (m.part == "test") == test}
        others = [name for name in alike if name != role]
        train = [name for name in others if alike[name].part == "train"]
        if role in present and train:
            raise ValueError(
                f"{path} must hold {role} or {train[0]}, got both: {role} may hold the test part too. Leave one out."
            )
        first = min((alike[name].rank for name in others), default=0)
        others = [name for name in others if alike[name].rank == first]
        if role not in present and len(others) > 1:
            raise ValueError(
                f"{path} must hold one array {role}, got {', '.join(others)}. Rename the right one to {role}."
            )
        if role in present or others:
            found[role] = role if role in present else others[0]
    return found


class NpzArrays:
    """The arrays of an archive.

    Args:
        path: The `.npz` file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_npz(path) as arrays:
            stored = list(arrays.files)
        self.names = find_names(path, stored)
        self.others = sorted(set(stored) - set(self.names.values()))

    def read(self, name: str) -> np.ndarray | None:
        """Read one array; see `Arrays`."""
        if name not in self.names:
            return None
        stored = self.names[name]
        with open_npz(self.path) as arrays:
            try:
                member = arrays.zip.getinfo(f"{stored}.npy" if f"{stored}.npy" in arrays.zip.namelist() else stored)
                with arrays.zip.open(member) as file:
                    _check_header(f"{stored} in {self.path}", file, member.file_size)
                return np.asarray(arrays[stored])
            except _ObjectsError:
                raise ValueError(_objects_message(name, self.path)) from None
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
                raise ValueError(
                    f"{self.path} must be a complete NumPy archive, got damage in {stored} ({error})."
                ) from None


class NpyArrays:
    """Files with one array each: `X.npy` next to `y.npy`, or `X_train.npy` next to three others.

    Args:
        path: The `.npy` file with the sequences.
        any_name: Whether the file may have any name; it is then read alone.
    """

    def __init__(self, path: Path, *, any_name: bool = False) -> None:
        self.path = path
        ends = [0, *(match.end() for match in re.finditer(r"[_. -]", path.stem))]
        starts = [end for end in ends if (m := array_meaning(path.stem[end:])) and m.role == "X" and m.part != "test"]
        if not starts and any_name:
            self.prefix, self.names, self.others = "", {"X": path.stem}, []
            return
        if not starts:
            raise ValueError(
                f"{path} must be called X.npy, next to y.npy, or X_train.npy, next to y_train.npy, X_test.npy and "
                f"y_test.npy, got {path.name!r}. Rename the files, or use np.savez('own.npz', X=X, y=y)."
            )
        self.prefix, given = path.stem[: starts[0]], path.stem[starts[0] :]
        stems = sorted(file.stem for file in path.parent.iterdir() if file.suffix == path.suffix and file.is_file())
        rests = [stem.removeprefix(self.prefix) for stem in stems if stem.startswith(self.prefix)]
        known = {name: meaning for name in rests if (meaning := array_meaning(name)) is not None}
        files = [name for name, m in known.items() if name == given or m.role != "X" or m.part]
        self.names = find_names(path, files)
        self.others = sorted(set(files) - set(self.names.values()))

    def read(self, name: str) -> np.ndarray | None:
        """Read one array; see `Arrays`."""
        if name not in self.names:
            return None
        return read_npy(name, self.path.with_name(f"{self.prefix}{self.names[name]}{self.path.suffix}"))


def found_names(arrays: "Arrays") -> str:
    """List the names of the arrays that there are, for messages."""
    names = sorted({*arrays.names.values(), *arrays.others})
    return f" among {', '.join(names[:20])}{', …' if len(names) > 20 else ''}" if names else ""


def _objects_message(name: str, path: Path) -> str:
    """Return the message about an array of objects."""
    write = "y=y.astype(str)" if name.startswith("y") else "numbers of one type"
    pad = " Pad the sequences to one length and add `lengths`." if name.startswith("X") else ""
    return (
        f"{name} must be a plain array, got an object array in {path}, which is a pickle and can run code. "
        f"Save it as {write}.{pad}"
    )


def open_npz(path: Path) -> Any:
    """Open an archive without reading its arrays."""
    try:
        arrays = np.load(path, allow_pickle=False, mmap_mode="r")  # a single array is rejected without being read
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} must be a NumPy archive, got a file that does not open ({error}).") from None
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError(f"{path} must be a NumPy archive of X and y, got one array. Use np.savez(path, X=X, y=y).")
    return arrays


def check_names(arrays: Arrays) -> bool:
    """Whether there is a test part; raise unless it is complete, and warn about arrays that are not read."""
    path, names = arrays.path, set(arrays.names)
    has_test = "X_test" in names
    if not has_test and {"y_test", "lengths_test", "mask_test"} & names:
        other = next(name for name in ("y_test", "lengths_test", "mask_test") if name in names)
        raise ValueError(f"{path} must hold X_test and y_test, got no X_test. Add it, or leave {other} out.")
    if has_test and "y_test" not in names:
        raise ValueError(f"{path} must hold X_test and y_test, got no y_test. Add it, or leave X_test out.")
    if has_test and "lengths" in names and "lengths_test" not in names:
        warnings.warn(
            f"{path.name} holds lengths and no lengths_test: all steps of X_test are read, padding too. "
            "If its sequences are padded, add lengths_test.",
            stacklevel=2,
        )
    if has_test and "mask" in names and "mask_test" not in names:
        warnings.warn(
            f"{path.name} holds mask and no mask_test: all steps of X_test count. If some do not, add mask_test.",
            stacklevel=2,
        )
    unread = arrays.others
    if unread and {"X", "y"} <= names:
        names_text = ", ".join(unread[:10]) + (", …" if len(unread) > 10 else "")
        warnings.warn(
            f"Arrays {names_text} of {path.name} are not read, only X, y, lengths, mask and the same with _test.",
            stacklevel=2,
        )
    return has_test


class _ObjectsError(Exception):
    """An array holds pickled objects."""


@dataclass(frozen=True)
class Header:
    """Header of a `.npy` file.

    Args:
        shape: Shape of the array.
        fortran_order: Whether the first axis is the fastest.
        dtype: Type of the values.
        size: Bytes of the header itself, in front of the values.
    """

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    size: int


def _parse_header(file: IO[bytes]) -> Header:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except ValueError as error:
        raise zipfile.BadZipFile(str(error)) from None
    if dtype.hasobject:
        raise _ObjectsError
    return Header(shape, fortran_order, dtype, file.tell())


def _check_header(what: str, file: IO[bytes], stored: int, *, largest: float | None = None) -> Header:
    """Raise unless the header of a `.npy` file declares the bytes that are stored, and no more than fit into memory."""
    header = _parse_header(file)
    declared = math.prod(header.shape) * header.dtype.itemsize
    check_size(what, declared, largest_array() if largest is None else largest)
    if declared != stored - header.size:
        raise zipfile.BadZipFile(f"{declared} bytes declared and {stored - header.size} stored")
    return header


def read_header(name: str, path: Path, file: IO[bytes], stored: int) -> Header:
    """Read the header of the array `name` in the file at `path`, which may be larger than memory.

    Raises:
        ValueError: If it holds objects, or is damaged.
    """
    try:
        return _check_header(str(path), file, stored, largest=math.inf)
    except _ObjectsError:
        raise ValueError(_objects_message(name, path)) from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} must be a complete NumPy file, got damage in {name} ({error}).") from None


def read_npy(name: str, path: Path) -> np.ndarray:
    """Read the array `name` from a `.npy` file; object arrays, which can run code, are rejected."""
    try:
        with path.open("rb") as file:
            _check_header(str(path), file, path.stat().st_size)
        return np.asarray(np.load(path, allow_pickle=False))
    except _ObjectsError:
        raise ValueError(_objects_message(name, path)) from None
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} must be a complete .npy file, got one that does not open ({error}).") from None


def read_arrays(
    arrays: Arrays,
    suffix: str = "",
    *,
    layout: str | None = None,
    task: str | None = None,
    missing: str | None = None,
) -> Cases:
    """Read the arrays `X`, `y` and perhaps `lengths` and `mask`; with `suffix` `"_test"`, the test part.

    Values beyond a sequence's length are ignored. An axis of `y` as long as the sequences is their steps: `y` holds
    classes `(n,)` or `(n, steps)`; or values `(n,)`, `(n, targets)`, `(n, steps)` or `(n, steps, outputs)`.

    Args:
        arrays: The files.
        suffix: End of the arrays' names.
        layout: "channels-last" for `X` of shape `(n, steps, channels)`, the default, or "time-last" for
            `(n, channels, steps)`. `(n, steps)` is one channel.
        task: One of `TASKS`; `None`: values if `y` has three axes or numbers that are not whole, else classes.
        missing: How missing values, NaN in `X`, are met; `None`: there may be none.

    Raises:
        TypeError: If an array holds the wrong kind of values.
        ValueError: If an array is missing, malformed or not finite, or there are fewer steps than channels and `layout`
            is `None`.
    """
    X, y, lengths, mask = (arrays.read(name + suffix) for name in ("X", "y", "lengths", "mask"))
    if X is None or y is None:
        lacking = ("X" if X is None else "y") + suffix
        raise ValueError(
            f"{arrays.path} must hold X{suffix} and y{suffix}, got no {lacking}{found_names(arrays)}. {known_names()}"
        )
    if X.dtype.kind not in "fiu":
        raise TypeError(f"X{suffix} must hold real numbers, got {X.dtype}.")
    check_real(f"X{suffix}", X)
    if X.ndim not in (2, 3):
        raise ValueError(f"X{suffix} must have shape (n, steps, channels) or (n, steps), got {X.shape}.")
    if not suffix:  # the test part has the layout of the training part
        check_layout(X.shape, layout, option="layout='{0}' (--layout {0})")
    inputs = torch.from_numpy(to_floating(X))
    if inputs.ndim == 2:
        inputs = inputs.unsqueeze(-1)
    elif layout == "time-last":
        inputs = inputs.transpose(1, 2).contiguous()
    valid_lengths = None
    if lengths is not None:
        if lengths.dtype.kind not in "iu":
            raise TypeError(f"lengths{suffix} must hold integers, got {lengths.dtype}.")
        valid_lengths = torch.from_numpy(lengths.astype(np.int64))
        if valid_lengths.shape == inputs.shape[:1]:  # else check_cases raises the error
            inputs = inputs.masked_fill(~valid_steps(valid_lengths, inputs.shape[1]).unsqueeze(-1), 0.0)
    if y.shape == (1, len(X)) != (1, 1):  # a row, as MATLAB writes a vector
        y = y[0]
    if y.ndim > 1 and len(y) != len(X):  # check_cases compares the numbers of labels
        raise ValueError(f"y{suffix} must have {len(X)} rows, one for each sequence of X{suffix}, got {y.shape}.")
    counted = None if mask is None else read_mask(mask, inputs.shape[:2], y.shape, suffix)
    known = valid_values(inputs, None).squeeze(2) if counted is None else counted
    if valid_lengths is not None and valid_lengths.shape == inputs.shape[:1]:
        known = known & valid_steps(valid_lengths, inputs.shape[1])
    if mask is None and y.ndim == 2 and y.shape[1] == inputs.shape[1] > 1 and is_one_hot(y):
        raise ValueError(
            f"y{suffix} must hold a class for each sequence or at every step, got {y.shape} with a single 1 in each "
            f"row, as one-hot classes have, and as many columns as steps. Save y{suffix}.argmax(axis=1); or if there "
            f"is a class at every step, save mask{suffix}=np.ones(y{suffix}.shape, bool) too."
        )
    labels = read_targets(y, known.numpy(), task, suffix)
    every_step = isinstance(labels, torch.Tensor) and labels.ndim == 3
    cases = Cases(
        inputs=inputs, lengths=valid_lengths, labels=labels, mask=known if every_step else None, missing=missing
    )
    check_cases(cases, suffix)
    return cases


def read_mask(mask: np.ndarray, steps: tuple[int, ...], targets: tuple[int, ...], suffix: str) -> torch.Tensor:
    """Check the mask of the steps that count, for targets of this shape, and return it as bool `(n, steps)`."""
    name = f"mask{suffix}"
    if mask.dtype.kind not in "biu" or not np.isin(mask, (0, 1)).all():
        raise TypeError(
            f"{name} must hold true or false for each step, got {mask.dtype}. Convert: {name}.astype(bool)."
        )
    if mask.shape != tuple(steps):
        raise ValueError(f"{name} must have shape {tuple(steps)}, one for each step of X{suffix}, got {mask.shape}.")
    if len(targets) > 1 and tuple(targets[:2]) != tuple(steps):
        raise ValueError(
            f"y{suffix} must have shape {tuple(steps)} or ({steps[0]}, {steps[1]}, outputs), an entry for each step of "
            f"{name}, got {targets}."
        )
    if tuple(targets[:2]) != tuple(steps):
        raise ValueError(
            f"{name} must be left out where y{suffix} has no entry for each step, got one with y{suffix} of {targets}."
        )
    return torch.from_numpy(mask.astype(bool))


def read_targets(y: np.ndarray, known: np.ndarray, task: str | None, suffix: str) -> Targets:
    """Convert `y` to classes or values.

    Args:
        y: As the file has it.
        known: Bool `(n, steps)`, the steps that count.
        task: One of `TASKS`, or `None` to decide by the values.
        suffix: End of the array's name.
    """
    name = f"y{suffix}"
    every_step = y.ndim > 1 and y.shape[:2] == known.shape
    if y.ndim == 2 and y.shape[1] == 1 and not every_step:  # as MATLAB writes a vector
        y = y[:, 0]
    if every_step:
        check_counted(torch.from_numpy(known), f"mask{suffix}")  # before the split, by its row in the file
    counted = y[known] if every_step else y
    if task is None:
        finite = counted[np.isfinite(counted)] if y.dtype.kind == "f" else counted[:0]
        fractions = y.dtype.kind == "f" and bool((np.mod(finite, 1) != 0).any())
        task = "regression" if fractions or (every_step and y.ndim == 3) else "classification"
    if task == "regression":
        if y.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold numbers for a regression, got {y.dtype}.")
        check_real(name, counted)
        if y.ndim not in (1, 2, 3) or (y.ndim == 3 and not every_step):
            raise ValueError(
                f"{name} must have shape (n,), (n, targets) or, for values at every step, ({len(known)}, "
                f"{known.shape[1]}, outputs), got {y.shape}."
            )
        check_values(name, torch.from_numpy(counted.astype(np.float64)))
        return torch.from_numpy(y.reshape(*y.shape[: 1 + every_step], -1).astype(np.float64, order="C"))
    if y.ndim == 2 and not every_step and is_one_hot(y):
        raise ValueError(
            f"{name} must have shape ({len(known)},) for classes, got {y.shape} with a single 1 in each row, as "
            f"one-hot classes have. Save {name}.argmax(axis=1)."
        )
    if y.ndim != 1 and not (every_step and y.ndim == 2):
        raise ValueError(
            f"{name} must have shape ({len(known)},) for classes, or {known.shape} for a class at every step, got "
            f"{y.shape}. If these are values, give task='regression' (--task regression)."
        )
    if not every_step:
        return array_labels(y, name)
    different, places = np.unique(counted, return_inverse=True)
    index = np.full(y.shape, UNCOUNTED, dtype=np.int64)
    index[known] = places.reshape(-1)
    return StepLabels(names=array_labels(different, name), index=torch.from_numpy(index))


def to_floating(array: np.ndarray) -> np.ndarray:
    """Convert real numbers to a new array of float32 if that represents every value of their type, else of float64."""
    exact = np.can_cast(array.dtype, np.float32, "safe")
    return np.array(array, dtype=np.float32 if exact else np.float64, order="C")
