"""Options that say how a user's own file is read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from noisyrnn.checks import check_choice, check_integer, check_text
from noisyrnn.missing import MISSING

LAYOUTS = ("channels-last", "time-last", "one-channel")
"""`(n, steps, channels)`, `(n, channels, steps)`, and one channel in all columns of a table."""
TASKS = ("classification", "regression")
"""What a model predicts: classes or values."""
PLAIN_TIMES = "number"
"""The `time_format` of times that are plain numbers."""
COLUMNS = ("label_column", "group_column", "id", "time", "channel", "value")
"""Options that name one column each."""
_TOGETHER = (
    ("channel", "value"),
    ("value", "channel"),
    ("channel", "time"),
    ("channel", "id"),
    ("time_format", "time"),
)
"""Options of which the first needs the second."""
_SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " ", "pipe": "|"}


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    r"""How a user's own file is read.

    An option that is left out has its default or is found from the file; where a file can be read in two ways, reading
    fails and names the option that decides. A column is given by its name in the header, or by its number, counted from
    1, or from -1 for the last column.

    Args:
        label_column: Column with the class, or with the number to predict (default: the column named class, label,
            target or y, else the first; in an .arff file the nominal attribute).
        layout: "channels-last" for values in the order (n, steps, channels), or "time-last" for (n, channels, steps)
            (default: channels-last). In a table whose columns are named by channel and number, such as x_0 and y_0,
            both read these channels; "one-channel" reads all columns as one sequence.
        task: What the labels are: "classification" for classes, or "regression" for numbers to predict (default:
            regression if y of an array file has three axes or numbers that are not whole, else classification).
        drop: Columns to leave out, such as line numbers: names or numbers separated by commas, or a list.
        separator: Character between the cells of a text file, or "tab" or "space" (default: the one that the file
            uses).
        decimal: Decimal mark of the numbers in a text file, "." or "," (default: ".").
        encoding: Encoding of a text file, such as cp1252 (default: UTF-8, or what its byte order mark states).
        skip_lines: Lines to leave out, such as a line of units or a logger's preamble: numbers and ranges such as
            "1-11,13", counted from 1.
        header: Whether the first line of a text file or a workbook names the columns (default: found from its cells; a
            comment above the data with as many cells does too).
        sheet: Sheet of an Excel workbook, by name or by number from 1 (default: the only one).
        group_column: Column with the patient, machine or person of a sequence; all sequences of one group are in the
            same part of the split.
        id: Column that names the sequence of a line, where each step has a line of its own (the long format).
        time: Column with the time of a line, a number or a date and time, in the long format and in a folder of
            recordings. It orders the lines; unequal distances become the lengths of the steps.
        time_format: How the times are written, in the codes of Python's strptime, such as "%d/%m/%Y %H:%M:%S"; or
            "number" for plain numbers (default: found from the cells, where all of them have one reading).
        channel: Column that names the channel of a line, where each value has a line of its own; needs time and value.
        value: Column with the value of a line; needs channel.
        missing: How the model meets missing values: "mask" for the last value and a channel that says whether there was
            one, "hold" for the last value, or "skip" to leave a step without any value out and lengthen the step
            before it, for models whose steps have a length (default: a missing value is an error). Before the first
            value of a sequence it is the channel's mean in the training data.

    Raises:
        ValueError: If a value is not one of those above, or two options contradict each other.
        TypeError: If a value has the wrong type.
    """

    label_column: str | int | None = None
    layout: str | None = None
    task: str | None = None
    drop: tuple[str | int, ...] | str | int | None = None
    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    skip_lines: str | int | None = None
    header: bool | None = None
    sheet: str | int | None = None
    group_column: str | int | None = None
    id: str | int | None = None
    time: str | int | None = None
    time_format: str | None = None
    channel: str | int | None = None
    value: str | int | None = None
    missing: str | None = None

    def __post_init__(self) -> None:
        if self.layout is not None:
            check_choice("layout", self.layout, LAYOUTS)
        if self.task is not None:
            check_choice("task", self.task, TASKS)
        if self.missing is not None:
            check_choice("missing", self.missing, MISSING)
        for name in COLUMNS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _column(name, getattr(self, name)))
        if self.drop is not None:
            drop = self.drop.split(",") if isinstance(self.drop, str) else self.drop
            entries = drop if isinstance(drop, Sequence) else (drop,)
            columns = (entry.strip() if isinstance(entry, str) else entry for entry in entries)
            object.__setattr__(self, "drop", tuple(_column("drop", column) for column in columns) or None)
        if self.separator is not None:
            object.__setattr__(self, "separator", _separator(self.separator))
        if self.decimal is not None:
            check_choice("decimal", self.decimal, (".", ","))
            if self.decimal == self.separator:
                raise ValueError(f"decimal must differ from separator, got {self.decimal!r} for both.")
        if self.encoding is not None:
            check_text("encoding", self.encoding)
            try:
                "".encode(self.encoding)
            except LookupError:
                raise ValueError(
                    f"encoding must be one that Python knows, got {self.encoding!r}. Use utf-8, utf-16 or cp1252."
                ) from None
        if self.skip_lines is not None:
            object.__setattr__(self, "skip_lines", _lines_text(self.skip_lines))
        if self.time_format is not None:
            _check_time_format(self.time_format)
        if not isinstance(self.header, bool | None):
            raise TypeError(f"header must be true or false, got {self.header!r}.")
        if isinstance(self.sheet, int):
            check_integer("sheet", self.sheet, minimum=1)
        elif self.sheet is not None:
            check_text("sheet", self.sheet)
        for name, other in (
            ("channel", "value"),
            ("value", "channel"),
            ("channel", "time"),
            ("channel", "id"),
            ("time_format", "time"),
        ):
            if getattr(self, name) is not None and getattr(self, other) is None:
                raise ValueError(f"{name} must be None without {other}, got {getattr(self, name)!r}. Give {other} too.")

    @classmethod
    def of(cls, settings: "ReadingOptions") -> "ReadingOptions":
        """Return the options in an object that has them among other settings.

        Example:
            >>> ReadingOptions.of(ReadingOptions(drop="time, 3")).stated()
            {'drop': ('time', 3)}
        """
        return cls(**{entry.name: getattr(settings, entry.name) for entry in fields(ReadingOptions)})

    def stated(self) -> dict[str, Any]:
        """Return the options that are not left out."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(ReadingOptions)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def skipped(self) -> frozenset[int]:
        """Numbers of the lines that `skip_lines` leaves out."""
        return frozenset(_line_numbers(str(self.skip_lines))) if self.skip_lines is not None else frozenset()


def missing_advice() -> str:
    """Return the advice of messages about missing values."""
    return f"Give {flag('missing', 'hold')}, or 'mask' or 'skip', to accept missing values."


def flag(option: str, value: object) -> str:
    """Spell an option with a value, in Python and on the command line.

    Example:
        >>> flag("label_column", -1), flag("separator", ";")
        ('label_column=-1 (--label-column -1)', "separator=';' (--separator ';')")
    """
    text = {"\t": "tab", " ": "space", "True": "true", "False": "false"}.get(str(value), str(value))
    word = text if re.fullmatch(r"[\w.-]+", text) else f"'{text}'"
    return f"{option}={value!r} (--{option.replace('_', '-')} {word})"


def _column(name: str, column: object) -> str | int:
    """Check a column, and return it as an integer if it is a number."""
    if isinstance(column, bool) or not isinstance(column, str | int):
        raise TypeError(f"{name} must be the name or the number of a column, got {column!r}.")
    if isinstance(column, str) and re.fullmatch(r"[+-]?[0-9]{1,9}", column.strip()):
        column = int(column)
    if column in (0, ""):
        raise ValueError(f"{name} must be a name or a number from 1, or from -1 at the end, got {column!r}.")
    return column


def _check_time_format(value: object) -> None:
    """Raise unless times can be written and read in a format."""
    check_text("time_format", value)
    assert isinstance(value, str)
    if value == PLAIN_TIMES:
        return
    try:
        datetime.strptime(datetime(2001, 2, 3, 4, 5, 6).strftime(value), value)
    except ValueError:
        known = False
    else:
        known = any(code in value for code in ("%H", "%I", "%M", "%S", "%d", "%j", "%U", "%W", "%V", "%c", "%x", "%X"))
    if not known:
        raise ValueError(
            f"time_format must be codes of strptime, such as '%d/%m/%Y %H:%M:%S', or {PLAIN_TIMES!r}, got {value!r}."
        )


def _separator(value: object) -> str:
    """Check a separator, and return its character."""
    if not isinstance(value, str):
        raise TypeError(f"separator must be a character, got {value!r}.")
    character = _SEPARATORS.get(value.lower(), value)
    if len(character) != 1 or character.isalnum() or character in "\"'.+-\n\r":
        raise ValueError(
            f"separator must be one character that no number has, or one of {', '.join(_SEPARATORS)}, got {value!r}."
        )
    return character


def _lines_text(value: object) -> str:
    """Check the numbers of lines, and return them as text."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"skip_lines must be numbers of lines such as '1-11,13', got {value!r}.")
    text = str(value).replace(" ", "")
    if not re.fullmatch(r"[1-9][0-9]{0,5}(-[1-9][0-9]{0,5})?(,[1-9][0-9]{0,5}(-[1-9][0-9]{0,5})?)*", text):
        raise ValueError(f"skip_lines must be numbers of lines from 1, such as '1-11,13', got {value!r}.")
    return text


def _line_numbers(text: str) -> list[int]:
    """Return the numbers in a text such as '1-11,13'."""
    ranges = ([int(number) for number in part.split("-")] for part in text.split(","))
    return [number for low, *high in ranges for number in range(low, (high or [low])[0] + 1)]
