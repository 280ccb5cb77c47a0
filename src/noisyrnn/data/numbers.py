"""Parses numbers in files and arrays, and rejects those that would become other numbers.

In files they are ASCII digits with a sign, a point and an exponent, and nothing else.
"""

import re
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NO_VALUE = frozenset(("", "?", "n/a", "#n/a", "<na>", "nan", "+nan", "-nan", "nat"))
_INFINITE = frozenset(("inf", "-inf", "+inf", "infinity", "-infinity", "+infinity"))
_WORDS = frozenset(("null", "none", "missing"))
"""Words for a missing value that may be names: "none" is a class of faults, "null" one of gestures."""
_MISSING = _NO_VALUE | _INFINITE | _WORDS | {"na"}
_EXACT = 2**53
"""Integers up to this size are exact in float64."""
SHIFT = "Subtract a constant from all values, or give them in a larger unit."
"""Advice for larger integers."""


def parse_number(cell: str) -> float | None:
    """Parse a cell; `None` if it is not a number.

    Python's `float` also reads `1_5` as 15, `" 1"`, digits of other scripts, `nan` and `infinity`; here they are text.

    Example:
        >>> parse_number("-1.5e2"), parse_number("1_5"), parse_number("nan")
        (-150.0, None, None)
    """
    return float(cell) if _NUMBER.fullmatch(cell) else None


def parse_decimal(cell: str) -> Decimal | None:
    """Parse a cell to its exact decimal value; `None` if it is not a number."""
    if not _NUMBER.fullmatch(cell):
        return None
    try:
        return Decimal(cell)
    except InvalidOperation:  # an exponent of more than 18 digits
        return None


def is_missing(cell: str) -> bool:
    """Whether a cell stands for a value that is missing or infinite: `NA`, `inf`, `#DIV/0!`, `-` and the like."""
    return cell.lower() in _MISSING or cell.startswith("#") or not any(map(str.isalnum, cell))


def is_absent(cell: str) -> bool:
    """Whether a cell stands for a value that was not measured: as `is_missing`, but not for infinity.

    Example:
        >>> is_absent("NA"), is_absent("-"), is_absent("-inf"), is_absent("0")
        (True, True, False, False)
    """
    return is_missing(cell) and cell.lower() not in _INFINITE


def is_missing_number(cell: str) -> bool:
    """Whether a cell can only mean a missing number, as `nan` does and `none` does not."""
    return cell.lower() in _NO_VALUE | _INFINITE


def is_missing_name(cell: str) -> bool:
    """Whether a cell that should name a class, a group or a sequence stands for a missing one.

    Example:
        >>> is_missing_name("NA"), is_missing_name("?"), is_missing_name("none"), is_missing_name("#1")
        (True, True, False, False)
    """
    return cell.strip() != "Na" and cell.strip().lower() in _NO_VALUE | {"na"}  # Na is sodium


def may_be_missing_name(cell: str) -> bool:
    """Whether a cell may be a name or stand for a missing one: `none`, `null`, `missing` or marks only, such as `-`."""
    return not is_missing_name(cell) and (cell.lower() in _WORDS or not any(map(str.isalnum, cell)))


def is_rounded(cell: str) -> bool:
    """Whether a cell is an integer that float64 rounds.

    Example:
        >>> is_rounded("9007199254740993"), is_rounded("9007199254740994"), is_rounded("0.1")
        (True, False, False)
    """
    if len(cell) < len(str(_EXACT)) or not _INTEGER.fullmatch(cell):
        return False
    value = float(cell)
    return value not in (float("inf"), float("-inf")) and Decimal(value) != Decimal(cell)


def check_real(argument: str, values: Any) -> None:
    """Raise unless an array holds real numbers that float64 represents exactly.

    NumPy's conversion reads the text "1_5" as 15 and a date as its nanoseconds, drops a mask, and rounds integers.

    Args:
        argument: Name in the message.
        values: An array, or anything that NumPy converts to one.

    Raises:
        TypeError: If it holds text, bytes, dates or time differences.
        ValueError: If it holds masked values, or integers that float64 rounds.
    """
    if np.ma.isMaskedArray(values) and np.ma.is_masked(values):
        count = int(np.ma.count_masked(values))
        raise ValueError(f"{argument} must hold no masked values, got {count}. Impute them or remove the sequences.")
    array = np.asarray(values)
    kind = {"U": "text", "S": "bytes", "M": "dates", "m": "time differences"}.get(array.dtype.kind)
    entries = array.ravel().tolist() if array.dtype.kind == "O" else []
    text = next((entry for entry in entries if isinstance(entry, str | bytes)), None)
    if kind is not None or text is not None:
        got = f"{kind} ({array.dtype})" if text is None else repr(text)
        raise TypeError(f"{argument} must hold numbers, got {got}. Convert it to a number type first.")
    if array.dtype.kind in "iu" and array.dtype.itemsize > 4:
        large = array[(array > _EXACT) | (array < -_EXACT)] if array.dtype.kind == "i" else array[array > _EXACT]
        entries = large.ravel().tolist()
    rounded = next((entry for entry in entries if isinstance(entry, int) and is_rounded(str(entry))), None)
    if rounded is not None:
        raise ValueError(
            f"{argument} must hold numbers that float64 represents exactly, got the integer {rounded}. {SHIFT}"
        )
