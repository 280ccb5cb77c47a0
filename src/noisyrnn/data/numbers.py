"""Numbers as files write them: ASCII digits with a sign, a point and an exponent, and nothing else."""

import re
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MISSING = frozenset(("", "?", "na", "n/a", "nan", "null", "none", "inf", "-inf", "+inf", "infinity", "-infinity"))


def number(cell: str) -> float | None:
    """The value of a cell, `None` where it is not a number.

    Python's `float` also reads `1_5` as 15, `" 1"`, digits of other scripts, `nan` and `infinity`; here they are text.

    Example:
        >>> number("-1.5e2"), number("1_5"), number("nan")
        (-150.0, None, None)
    """
    return float(cell) if _NUMBER.fullmatch(cell) else None


def exact_number(cell: str) -> Decimal | None:
    """The exact decimal value of a cell, `None` where it is not a number."""
    if not _NUMBER.fullmatch(cell):
        return None
    try:
        return Decimal(cell)
    except InvalidOperation:  # an exponent of more than 18 digits
        return None


def is_missing(cell: str) -> bool:
    """Whether a cell stands for a value that is missing or infinite."""
    return cell.lower() in _MISSING
