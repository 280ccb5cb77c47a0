"""Reads times as files write them: numbers, dates, times of day."""

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from noisyrnn.data.numbers import parse_decimal
from noisyrnn.data.options import PLAIN_TIMES, flag

_RULE = "a time{place}, a number or YYYY-MM-DD hh:mm:ss"
_DAY = 86400
_EPOCH = date(1970, 1, 1).toordinal()
_HALF_DAY = Decimal(_DAY // 2)
_DATE_CELL = re.compile(
    r"(?P<first>[0-9]{1,4})(?P<mark>[-./])(?P<second>[0-9]{1,2})(?P=mark)(?P<third>[0-9]{1,4})(?:(?:T|,?\s+)(?P<clock>.+))?"
)
_CLOCK = re.compile(
    r"(?P<hour>[0-9]{1,3}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?(?:[.,](?P<fraction>[0-9]+))?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?(?:\s*(?P<zone>Z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?))?"
)
_ORDERS = {"ymd": ("%Y", "%m", "%d"), "dmy": ("%d", "%m", "%Y"), "mdy": ("%m", "%d", "%Y")}
_COMPACT = {"%Y%m%d": 8, "%Y%m%d%H%M": 12, "%Y%m%d%H%M%S": 14}
"""Dates written as one number that no counter or clock counts, and their digits."""
_UNCLEAR = {"%d%m%Y": 8, "%m%d%Y": 8, "%d%m%y": 6, "%m%d%y": 6, "%y%m%d": 6}
"""Dates written as one number that may be another date or a plain number."""

Where = Callable[[int, int], str]
"""Returns the beginning of a message about a cell, from the numbers of its sequence and of the cell."""


class _UnreadableError(Exception):
    """A time cannot be read; the rest of a message about it.

    Args:
        sequence: Number of its sequence.
        cell: Its number there.
        rule: What it must be.
        advice: What to do; `None` for the general advice.
    """

    def __init__(self, sequence: int, cell: int, rule: str, advice: str | None = None) -> None:
        super().__init__(rule)
        self.sequence, self.cell, self.rule, self.advice = sequence, cell, rule, advice


def parse_times(
    sequences: Sequence[Sequence[str]],
    where: Where,
    *,
    format: str | None = None,
    column: int | None = None,
    in_order: bool = True,
) -> list[np.ndarray]:
    """Parse numbers, dates or times of day to float64 `(n,)` for each sequence, counted from its first cell.

    Dates and times of day are in seconds. The cells are read in the one way in which all of them can be read: ISO 8601,
    dates with day, month and year in any order, with or without a time of day, hh:mm:ss, YYYYMMDD and YYYYMMDDhhmmss.
    Differences are exact: numbers of nanoseconds too. Times of day that fall by more than twelve hours, where they
    never fall by less, have passed midnight.

    Args:
        sequences: Cells of each sequence.
        where: Names a cell in messages.
        format: How they are written, as in `ReadingOptions.time_format`; `None` to find it.
        column: Number of their column, from 1, for messages; `None` where there are no options for them.
        in_order: Whether the cells of a sequence may be in the order of time.

    Raises:
        ValueError: If a cell is no time, or the cells can be read in several ways whose distances differ.

    Example:
        >>> where = lambda sequence, cell: f"Cell {cell}"
        >>> [times.tolist() for times in parse_times([["2026-01-01 00:00:01.5", "2026-01-01 00:00:00"]], where)]
        [[0.0, -1.5]]
        >>> parse_times([["28.02.2026", "01.03.2026"]], where)[0].tolist()
        [0.0, 86400.0]
    """
    try:
        values = _read(sequences, format, in_order=in_order, ask=column is not None)
    except _UnreadableError as error:
        got = sequences[error.sequence][error.cell]
        advice = error.advice
        if column is None:
            advice = "Write times as numbers, or as YYYY-MM-DD hh:mm:ss."
        elif advice is None:
            advice = (
                f"Give how times are written, such as {flag('time_format', '%d %b %Y %H:%M:%S')}; or if the lines are "
                f"in order, give {flag('drop', column)} instead of time."
            )
        place = "" if column is None else f" in column {column}"
        rule = error.rule.replace("{place}", place)
        raise ValueError(f"{where(error.sequence, error.cell)} must hold {rule}, got {got!r}. {advice}") from None
    return [np.array([float(value - entry[0]) for value in entry], dtype=np.float64) for entry in values]


def _read(sequences: Sequence[Sequence[str]], format: str | None, *, in_order: bool, ask: bool) -> list[list[Decimal]]:
    """Return the exact times of all cells, in seconds or in the unit of their numbers."""
    if format is not None and format != PLAIN_TIMES:
        return _formatted(sequences, format, in_order)
    first = PLAIN_TIMES if format == PLAIN_TIMES else _kind(sequences[0][0])
    if first == "clock":
        return _clocks(sequences, in_order)
    if first == "date":
        return _dates(sequences)
    numbers = [[parse_decimal(cell) for cell in cells] for cells in sequences]
    return _numeric(sequences, numbers, format, ask=ask)


def _kind(cell: str) -> str | None:
    """Return whether a cell is a "date", a "clock" without a date or a "number"; `None` if it is none of them."""
    if parse_decimal(cell) is not None:
        return "number"
    if _CLOCK.fullmatch(cell):
        return "clock"
    return "date" if _stamp(cell) is not None else None


def is_time(cell: str) -> bool:
    """Whether a cell is a date or a time of day, rather than a number or another text."""
    return _kind(cell) in ("date", "clock")


def _cells(sequences: Sequence[Sequence[str]]) -> Iterable[tuple[int, int, str]]:
    return ((index, place, cell) for index, cells in enumerate(sequences) for place, cell in enumerate(cells))


def _numeric(
    sequences: Sequence[Sequence[str]], numbers: list[list[Decimal | None]], format: str | None, *, ask: bool
) -> list[list[Decimal]]:
    """Return numbers, or the dates that they spell; `ask`: whether an option can decide where both are possible."""
    for index, place, _ in _cells(sequences):
        number = numbers[index][place]
        if number is None:
            raise _UnreadableError(index, place, _RULE)
        if abs(float(number)) == float("inf"):
            advice = "Correct it, or leave the line out (skip_lines, --skip-lines)."
            raise _UnreadableError(index, place, "a finite time{place}", advice)
    plain = [[number for number in entry if number is not None] for entry in numbers]
    sequences = [
        [re.sub(r"[.,]0*$", "", cell) for cell in cells] for cells in sequences
    ]  # as a table writes whole numbers
    sizes = {len(cell) for _, _, cell in _cells(sequences)}
    if format is not None or not all(cell.isdecimal() for _, _, cell in _cells(sequences)):
        return plain
    for compact, size in _COMPACT.items():
        if sizes == {size} and (found := _compact(sequences, compact)) is not None:
            return found
    if not ask:
        return plain
    able = [name for name, size in _UNCLEAR.items() if sizes == {size} and _compact(sequences, name) is not None]
    if max(sizes) in (4, 5, 6):
        clock = _compact(sequences, "%H%M%S")
        if clock is not None and not _proportional(plain, clock):
            able.append("%H%M%S")
    if able:
        raise _UnreadableError(0, 0, "a time{place} that can be read in one way", _choices([*able, PLAIN_TIMES]))
    return plain


def _choices(formats: Sequence[str]) -> str:
    return f"Give {' or '.join(flag('time_format', name) for name in formats)}."


def _proportional(one: list[list[Decimal]], other: list[list[Decimal]]) -> bool:
    """Whether the distances of times in two readings are equal up to their unit."""
    gaps = [np.concatenate([np.diff(sorted(map(float, entry))) for entry in found]) for found in (one, other)]
    scales = [float(np.median(gap[gap > 0])) if (gap > 0).any() else 1.0 for gap in gaps]
    return bool(np.allclose(gaps[0] / scales[0], gaps[1] / scales[1], rtol=1e-6, atol=1e-9))


def _compact(sequences: Sequence[Sequence[str]], format: str) -> list[list[Decimal]] | None:
    """Return the times that digits without any mark spell; `None` if some spell none of the years 1900 to 2100."""
    found = [[_formatted_cell(cell, format) for cell in cells] for cells in sequences]
    if any(time is None or ("%d" in format and not 1900 <= time.year <= 2100) for entry in found for time in entry):
        return None
    return [[_seconds(time) for time in entry if time is not None] for entry in found]


def _formatted_cell(cell: str, format: str) -> datetime | None:
    """Parse a cell by the codes of `strptime`; a fraction of the seconds may be absent. `None` if it has another form.

    Spreadsheets drop a zero in front of digits without any mark, so that is added again.
    """
    if found := re.fullmatch(r"((?:%[YmdHMSy])+)([.,]%f)?", format):
        width = 2 * found[1].count("%") + 2 * found[1].count("%Y")
        digits, mark, fraction = re.fullmatch(r"([^.,]*)([.,]?)(.*)", cell, re.DOTALL).groups()  # type: ignore[union-attr]
        if not digits.isdecimal() or len(digits) > width or (mark and not found[2]):
            return None
        cell = digits.zfill(width) + mark + fraction
    for form in dict.fromkeys((format, re.sub(r"[.,]%f", "", format))):
        try:
            return datetime.strptime(cell, form)
        except ValueError:
            continue
    return None


def _seconds(time: datetime) -> Decimal:
    """Return the exact time since 1970, in UTC if it states no zone."""
    whole = (time.toordinal() - _EPOCH) * _DAY + 3600 * time.hour + 60 * time.minute + time.second
    offset = time.utcoffset()
    if offset is not None:
        whole -= offset.days * _DAY + offset.seconds
    return Decimal(1_000_000 * whole + time.microsecond).scaleb(-6)


def _formatted(sequences: Sequence[Sequence[str]], format: str, in_order: bool) -> list[list[Decimal]]:
    """Return the times of cells whose format is given."""
    found: list[list[Decimal]] = [[] for _ in sequences]
    for index, place, cell in _cells(sequences):
        time = _formatted_cell(cell, format)
        if time is None:
            advice = f"Correct it, or leave time_format out; numbers have {flag('time_format', PLAIN_TIMES)}."
            raise _UnreadableError(index, place, f"a time{{place}} of the form {format!r}", advice)
        found[index].append(_seconds(time))
    if any(code in format for code in ("%d", "%j", "%x", "%c")):
        return found
    if not any(code in format for code in ("%H", "%I", "%X")):
        return _rising(found, in_order)
    return _past_midnight(found, in_order)


def _clocks(sequences: Sequence[Sequence[str]], in_order: bool) -> list[list[Decimal]]:
    """Return times of day, or since a start."""
    matches = [[_CLOCK.fullmatch(cell) for cell in cells] for cells in sequences]
    for index, place, _ in _cells(sequences):
        if matches[index][place] is None:
            raise _UnreadableError(index, place, _RULE)
    known = [match for entry in matches for match in entry if match is not None]
    short = [match["second"] is None and not match["half"] for match in known]
    minutes = all(short) and any(match["fraction"] for match in known)  # mm:ss.f
    if any(short) and not minutes:
        index, place = next(
            (index, place)
            for index, entry in enumerate(matches)
            for place, match in enumerate(entry)
            if match is not None and match["second"] is None and not match["half"]
        )
        advice = _choices(["%H:%M", "%M:%S"]) if all(short) else "Write all as hh:mm:ss."
        raise _UnreadableError(index, place, "a time{place} that can be read in one way", advice)
    found: list[list[Decimal]] = [[] for _ in sequences]
    for index, place, _ in _cells(sequences):
        match = matches[index][place]
        assert match is not None
        seconds = _minutes(match) if minutes else _clock(match)
        if seconds is None or match["zone"]:
            raise _UnreadableError(index, place, _RULE)
        found[index].append(seconds)
    elapsed = any(int(match["hour"]) > 23 for match in known)
    if minutes:
        return _rising(found, in_order)
    return found if elapsed else _past_midnight(found, in_order)


def _rising(found: list[list[Decimal]], in_order: bool) -> list[list[Decimal]]:
    """Return times without an hour, or since a start, which must not fall: they do not say what has passed."""
    for index, entry in enumerate(found) if in_order else ():
        fall = next((k for k in range(1, len(entry)) if entry[k] < entry[k - 1]), None)
        if fall is not None:
            raise _UnreadableError(
                index, fall, "a time{place} that is not before the one above", "Write times with the hour and the date."
            )
    return found


def _minutes(match: re.Match[str]) -> Decimal | None:
    """Return the seconds of mm:ss.f."""
    if int(match["minute"]) > 59:
        return None
    return Decimal(60 * int(match["hour"]) + int(match["minute"])) + Decimal(f"0.{match['fraction'] or 0}")


def _clock(match: re.Match[str]) -> Decimal | None:
    """Return the seconds of a time of day, or of hours, minutes and seconds; `None` if they are out of range."""
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    if minute > 59 or second > 59 or (match["fraction"] and match["second"] is None):
        return None
    if match["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match["half"] in "Pp" else 0)
    return Decimal(3600 * hour + 60 * minute + second) + Decimal(f"0.{match['fraction'] or 0}")


def _past_midnight(found: list[list[Decimal]], in_order: bool) -> list[list[Decimal]]:
    """Return times of day with a day added after each midnight, by which they fall by more than twelve hours."""
    passed = False
    result = []
    for index, entry in enumerate(found):
        drops = [place for place in range(1, len(entry)) if entry[place] < entry[place - 1]]
        if not drops or max(entry) - min(entry) < _HALF_DAY:
            result.append(entry)
            continue
        if not in_order or any(entry[place - 1] - entry[place] < _HALF_DAY for place in drops):
            advice = "Add the dates; or put the lines of a sequence into the order of time."
            raise _UnreadableError(
                index, drops[0], "a time{place} that does not fall, as it may have passed midnight", advice
            )
        passed = True
        result.append([value + _DAY * sum(drop <= place for drop in drops) for place, value in enumerate(entry)])
    if passed:
        warnings.warn(
            "Times without a date fall by more than twelve hours within a sequence: they are read as passing midnight.",
            stacklevel=2,
        )
    return result


class _Stamp(NamedTuple):
    """A date, perhaps with a time of day.

    Args:
        days: Days since 1970 in each order of day, month and year in which there is such a date.
        seconds: Seconds since midnight, in UTC if the time states a zone.
        zoned: Whether it does.
    """

    days: dict[str, int]
    seconds: Decimal
    zoned: bool


@lru_cache(maxsize=2**14)
def _days(first: str, mark: str, second: str, third: str) -> dict[str, int]:
    """Return the days since 1970 of a date, by the orders of day, month and year in which there is one."""
    found = {}
    for order in _ORDERS:
        parts = dict(zip(order, (first, second, third), strict=True))
        if len(parts["y"]) not in (2, 4) or max(len(parts["m"]), len(parts["d"])) > 2:
            continue
        if order == "mdy" and mark == ".":  # nobody writes months first with points
            continue
        year = int(parts["y"])
        if len(parts["y"]) == 2:
            year += 2000 if year < 69 else 1900  # as strptime does
        try:
            found[order] = date(year, int(parts["m"]), int(parts["d"])).toordinal() - _EPOCH
        except ValueError:
            continue
    return found


def _stamp(cell: str) -> _Stamp | None:
    """Parse a date, perhaps with a time of day; `None` if it is none."""
    match = _DATE_CELL.fullmatch(cell)
    clock = match["clock"] if match else None
    found = _CLOCK.fullmatch(clock) if clock else None
    if match is None or (clock and found is None):  # such as 2026-W05
        try:
            time = datetime.fromisoformat(cell)
        except ValueError:
            return None
        return _Stamp({"ymd": 0}, _seconds(time), time.tzinfo is not None)
    days = _days(match["first"], match["mark"], match["second"], match["third"])
    within = _clock(found) if found else Decimal(0)
    if not days or within is None or within >= _DAY:
        return None
    zone = found["zone"] if found else None
    return _Stamp(days, within - _offset(zone), zone is not None)


def _dates(sequences: Sequence[Sequence[str]]) -> list[list[Decimal]]:
    """Return the times of dates; the order of day, month and year is the one that all cells allow."""
    if (quick := _iso_dates(sequences)) is not None:
        return quick
    orders = list(_ORDERS)
    zoned = None
    stamps: list[list[_Stamp]] = [[] for _ in sequences]
    for index, place, cell in _cells(sequences):
        stamp = _stamp(cell)
        if stamp is None:
            raise _UnreadableError(index, place, _RULE)
        able = [order for order in orders if order in stamp.days]
        if not able:
            rule = "a date{place} with day, month and year in the order of the lines before"
            raise _UnreadableError(index, place, rule)
        orders = able
        if zoned is not None and stamp.zoned != zoned:
            advice = "Write all times in UTC, or none with a zone."
            raise _UnreadableError(index, place, "a time{place} with a time zone in every line or in none", advice)
        zoned = stamp.zoned
        stamps[index].append(stamp)
    readings = [[[_DAY * s.days[order] + s.seconds for s in entry] for entry in stamps] for order in orders]
    since = [[[value - entry[0] for value in entry] for entry in found] for found in readings] if orders[1:] else []
    if any(other != since[0] for other in since[1:]):
        cell = sequences[0][0]
        choices = _choices([_format_of(cell, order) for order in orders])
        raise _UnreadableError(0, 0, "a time{place} that can be read in one way", choices)
    return readings[0]


def _iso_dates(sequences: Sequence[Sequence[str]]) -> list[list[Decimal]] | None:
    """Return the times of dates in ISO 8601 to microseconds, without the work for other forms; `None` for those."""
    found: list[list[Decimal]] = [[] for _ in sequences]
    zones = set()
    for index, _, cell in _cells(sequences):
        longest = 32 if cell[-6:-5] in ("+", "-") else 27 if cell[-1:] == "Z" else 26  # fromisoformat cuts more digits
        if len(cell) < 10 or len(cell) > longest or cell[4] != "-":
            return None
        try:
            time = datetime.fromisoformat(cell)
        except ValueError:
            return None
        zones.add(time.tzinfo is not None)
        found[index].append(_seconds(time))
    return found if len(zones) == 1 else None


def _offset(zone: str | None) -> int:
    """Return the seconds by which a time zone is ahead of UTC."""
    if zone is None or not zone.startswith(("+", "-")):
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return (1 if zone[0] == "+" else -1) * (3600 * int(digits[:2]) + 60 * int(digits[2:]))


def _format_of(cell: str, order: str) -> str:
    """Return the codes of `strptime` by which a date is read in an order of day, month and year."""
    match = _DATE_CELL.fullmatch(cell)
    assert match is not None
    years = match[{"y": "first", "d": "third", "m": "third"}[order[0]]]
    codes = match["mark"].join(_ORDERS[order])
    codes = codes.replace("%Y", "%y") if len(years) == 2 else codes
    if not match["clock"]:
        return codes
    between = cell[match.end("third") : match.start("clock")]
    clock = _CLOCK.fullmatch(match["clock"])
    assert clock is not None
    text = ("%I" if clock["half"] else "%H") + ":%M" + (":%S" if clock["second"] else "")
    if clock["fraction"]:
        text += match["clock"][clock.start("fraction") - 1] + "%f"
    if clock["half"]:
        text += " %p"
    return f"{codes}{between}{text}{'%z' if clock['zone'] else ''}"
