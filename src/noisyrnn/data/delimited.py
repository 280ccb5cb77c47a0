"""Reads tables: text files with separators, as rows of cells."""

import csv
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from noisyrnn.data.folders import read_bytes
from noisyrnn.data.labels import warn_of_alike_names
from noisyrnn.data.numbers import is_missing, is_missing_name, may_be_missing_name, parse_number
from noisyrnn.data.options import ReadingOptions, flag

Row = tuple[int, list[str]]
"""Number of a line in the file, and its cells."""

LABEL_NAMES = frozenset(("class", "classes", "class_label", "classlabel", "label", "labels", "target", "y"))
"""Names of a column of classes, in small letters."""
INDEX_NAMES = frozenset(("", "unnamed: 0", "index"))
"""Names of a column that counts the rows, in small letters."""
_USUAL = LABEL_NAMES | (INDEX_NAMES - {""}) | {"id", "time"}
"""Names of columns, in small letters, that hardly are a class or a value."""
_SEPARATORS = (",", ";", "\t", "|")
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", " ": "spaces"}
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+(?:[eE][+-]?[0-9]+)?")
_DECIMAL_POINT = re.compile(r"[+-]?[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?|[+-]?[0-9]{1,3}(?:\.[0-9]{3})+(?:,[0-9]*)?")
_POINT = re.compile(r"[+-]?[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")
_SKIPPED = 20
"""How many ranges of lines a message lists."""
_POINTED_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}\.[0-9]{3}")
_GROUPED = re.compile(
    r"[+-]?[1-9][0-9]{0,2}(?:(?:\.[0-9]{3})+,[0-9]+|(?:,[0-9]{3})+\.[0-9]+|(?:,[0-9]{3}){2,}|"
    r"(?:['’\u00a0\u202f ][0-9]{3})+(?:[.,][0-9]+)?)"
)
"""A number with marks between its thousands that is no other number."""
_UNIT = re.compile(
    r"[\[(<].*[\])>]|[mkµuμnMG]?(?:s|V|A|g|m|Pa|Hz|N|W|Nm|J|K|T|bar|L|l)|min|h|d|°C|°F|degC|deg|°|%|rpm|1/min|bpm|rad|mmHg|"
    r"ppm|dB|[\w°µμ%]+(?:/|\*|·)[\w²³^()*/·]+|a\.?u\.?|counts?|unit|sec|ms⁻¹"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Rows of cells, as a file has them.

    Args:
        path: The file, for messages.
        rows: Rows that are not empty, the header among them; cells are stripped texts, and numbers have decimal points.
        header: Whether the first row names the columns; `None` to decide by its cells.
        unit: What a row is called in messages.
        between: What is between cells, for messages.
        decimal: Decimal mark of the file.
        can_skip: Whether `skip_lines` leaves rows out.
        header_of_training: Returns the header of the training part, where the file is that of a test part, or `None`
            if that has no header; called with `named` of `has_header`.
    """

    path: Path
    rows: list[Row]
    header: bool | None = None
    unit: str = "Line"
    between: str = "commas"
    decimal: str = "."
    can_skip: bool = True
    header_of_training: Callable[[bool], list[str] | None] | None = None

    def where(self, line: int) -> str:
        """Name a row, as messages begin."""
        return f"{self.unit} {line} of {self.path}"

    def skip_advice(self, lines: Sequence[int]) -> str:
        """Return how rows are left out, by their increasing numbers, for the end of a message."""
        rows = f"{self.unit.lower()}{'s' if len(lines) > 1 else ''}"
        if not self.can_skip:
            return f"remove the {rows} from the file"
        ranges: list[list[int]] = []
        for line in lines:
            if ranges and line == ranges[-1][-1] + 1:
                ranges[-1][1:] = [line]
            else:
                ranges.append([line])
        shown = ",".join("-".join(map(str, ends)) for ends in ranges[:_SKIPPED])
        more = f" and so on, {len(lines)} {rows} in all" if len(ranges) > _SKIPPED else ""
        return f"leave the {rows} out with {flag('skip_lines', shown)}{more}"

    def check_names(self, what: str, cells: Sequence[tuple[int, str]], *, sure: bool = False) -> None:
        """Raise `ValueError` if a cell stands for a missing name; warn if it may.

        Args:
            what: What the cells name: a class, a group, a sequence.
            cells: Numbers of their lines, and texts.
            sure: Whether a cell that may stand for a missing name does.
        """
        absent = {line: cell for line, cell in cells if is_missing_name(cell) or (sure and may_be_missing_name(cell))}
        if absent:
            line, cell = next(iter(absent.items()))
            raise ValueError(
                f"{self.where(line)} must name a {what}, got {cell!r}, as a missing one is written. Fill it in, or "
                f"{self.skip_advice(sorted(absent))}; if it is a name, write another word."
            )
        if what in ("group", "channel"):
            warn_of_alike_names(f"{what}s", dict.fromkeys(cell for _, cell in cells))
        unclear = dict.fromkeys(cell for _, cell in cells if may_be_missing_name(cell))
        if len([cell for cell in unclear if not cell.isalnum()]) > 1:  # such as + and -
            unclear = dict.fromkeys(cell for cell in unclear if cell.isalnum())
        if unclear:
            name = next(iter(unclear))
            warnings.warn(
                f"{self.path.name}: {name!r} is read as a {what}. If it stands for a missing one, "
                f"{self.skip_advice([line for line, cell in cells if cell == name])}.",
                stacklevel=2,
            )

    def has_header(self, named: bool = False) -> bool:
        """Whether the first row names the columns.

        Args:
            named: Whether an option names a column, so that there must be a header.

        Raises:
            ValueError: If the row may be a header or a sequence.
        """
        if self.header is not None or not self.rows:
            return bool(self.header)
        found = True if named else is_header(self.rows)
        if found is None and self.header_of_training is not None:
            return self.header_of_training(named) == self.rows[0][1]
        if found is None:
            line, cells = self.rows[0]
            shown = ", ".join(map(repr, cells[:4])) + (", …" if len(cells) > 4 else "")
            raise ValueError(
                f"{self.where(line)} must be a header or a sequence, got {shown}, which may be both. Give "
                f"{flag('header', True)} if it names the columns, else {flag('header', False)}."
            )
        return found

    def split_header(self, named: bool = False) -> tuple[list[str] | None, list[Row]]:
        """Return the names of the columns, or `None`, and the rows of data.

        Args:
            named: As in `has_header`.

        Raises:
            ValueError: If there is no row of data, it is unclear whether there is a header, or the row below it holds
                units.
        """
        rows = self.rows
        header = None
        if self.has_header(named):
            header, rows = rows[0][1], rows[1:]
        if not rows:
            got = "none" if header is None else "a header and no other line"
            raise ValueError(f"{self.path} must hold at least one sequence, got {got}.")
        if header is not None and len(rows) > 1 and _holds_units(rows[0][1]) and not _holds_units(rows[1][1]):
            line = rows[0][0]
            shown = ", ".join(map(repr, [cell for cell in rows[0][1] if cell][:3]))
            raise ValueError(
                f"{self.where(line)} must hold values, got {shown}, as a line of units has. If it is one, give "
                f"{flag('skip_lines', str(line))}."
            )
        return header, rows


def read_delimited(path: Path, options: ReadingOptions) -> Table:
    """Read a text file with one row per line.

    Where no separator is given, it is the one character of comma, semicolon, tab and vertical bar that every line has;
    tab in a `.tsv` file; and in a `.txt` file white space, if none of these occurs.

    Raises:
        ValueError: If two separators are possible, a line cannot be read or a number has another decimal mark.
    """
    lines = decode(path, options).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    kept = [(number, line) for number, line in enumerate(lines, start=1) if number not in options.skipped]
    kept = [(number, line) for number, line in kept if line.strip()]
    separator = options.separator
    if kept and (match := re.fullmatch(r"\W?sep=(.)\W?", kept[0][1].strip("\ufeff"))):  # Excel's own first line
        separator = separator or match[1]
        kept = kept[1:]
    comment = None
    while kept and re.match(r"[#%](\s|$)", kept[0][1]):  # comments above the data, as np.savetxt writes them
        comment, kept = kept[0], kept[1:]
    if separator is None:
        separator = _find_separator(path, kept)
    rows = _split(path, kept, separator)
    if all(len(cells) > 1 and not cells[-1] for _, cells in rows):  # a separator at the end of every line
        rows = [(line, cells[:-1]) for line, cells in rows]
    header = options.header
    if header is not False and rows and not is_header(rows) and (names := _commented_header(comment, rows, separator)):
        rows, header = names, True
    between = _NAMES.get(separator, repr(separator))
    _check_thousands(path, rows)
    decimal = options.decimal or _find_decimal(path, rows, separator)
    if decimal == ",":
        rows = [(line, [_with_point(path, line, cell) for cell in cells]) for line, cells in rows]
    return Table(path=path, rows=rows, header=header, between=between, decimal=decimal)


def decode(path: Path, options: ReadingOptions) -> str:
    """Read a file as text: in the encoding that is given or that its byte order mark states, else UTF-8.

    Raises:
        ValueError: If it is not text in that encoding.
    """
    content = read_bytes(path)
    encoding = options.encoding or "utf-8-sig"  # a spreadsheet's byte order mark is not part of the first cell
    if options.encoding is None and content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        what = "UTF-8" if encoding == "utf-8-sig" else encoding
        raise ValueError(
            f"{path} must be {what} text, got byte {error.object[error.start]} at {error.start}. If it is text, give "
            f"its encoding, such as {flag('encoding', 'cp1252')}."
        ) from None
    if "\0" in text:
        raise ValueError(f"{path} must be text, got a zero byte. Give {flag('encoding', 'utf-16')} if it is UTF-16.")
    return text.removeprefix("\ufeff")


def _find_separator(path: Path, lines: Sequence[tuple[int, str]]) -> str:
    """Return the separator that all lines have; raise `ValueError` if there are two."""
    texts = [re.sub(r'"[^"]*"', "", line) for _, line in lines]  # quoted cells do not count
    suffix = next((part for part in reversed(path.suffixes) if part.lower() != ".gz"), "").lower()
    able = [mark for mark in _SEPARATORS if texts and all(mark in text for text in texts)]
    if suffix == ".tsv" and any("\t" in text for text in texts):
        return "\t"
    if len(able) > 1:
        comma = " and " + flag("decimal", ",") if "," in able else ""
        mark = next(mark for mark in able if mark != ",")
        names = " and ".join(_NAMES[mark] for mark in able)
        raise ValueError(
            f"{path} must have one separator, got lines with {names}: line {lines[0][0]} is {lines[0][1][:60]!r}. Give "
            f"{flag('separator', mark)}{comma}, or {flag('separator', able[0])}."
        )
    if able:
        if able == [","] and all(re.fullmatch(r"\s*[+-]?[0-9]+,[0-9]+\s*", text) for text in texts):
            both = f"{flag('decimal', ',')} and {flag('separator', ';')}"
            raise ValueError(
                f"{path} must have one separator, got lines such as {lines[0][1][:60]!r}: two cells, or one number "
                f"with a decimal comma. Give {flag('separator', ',')}, or {both}."
            )
        return able[0]
    spaced = texts and all(len(text.split()) > 1 for text in texts)
    if suffix == ".txt" and spaced and not any(mark in text for text in texts for mark in _SEPARATORS):
        return " "
    used = [mark for mark in _SEPARATORS if sum(mark in text for text in texts) > len(texts) / 2]
    if not used:
        return ","
    mark = next((mark for mark in used if mark != ","), ",")
    first = next(number for number, text in enumerate(texts) if mark in text)
    if first:
        last = lines[first - 1][0]
        raise ValueError(
            f"{path} must have one separator, got {_NAMES[mark]} from line {lines[first][0]} only. If the lines above "
            f"are not data: {flag('skip_lines', f'1-{last}' if last > 1 else '1')}; else {flag('separator', mark)}."
        )
    return used[0] if len(used) == 1 else mark


def _split(path: Path, lines: Sequence[tuple[int, str]], separator: str) -> list[Row]:
    """Return the rows that are not empty, their cells stripped.

    Raises:
        ValueError: If a quotation mark has no partner, or a quoted cell continues in another line.
    """
    if separator == " ":
        return [(number, line.split()) for number, line in lines if line.strip()]
    rows: list[Row] = []
    for number, line in lines:
        try:
            cells = line.split(separator)
            if '"' in line:
                (cells,) = csv.reader(io.StringIO(line, newline=""), delimiter=separator, strict=True)
        except (csv.Error, ValueError) as error:
            between = _NAMES.get(separator, repr(separator))
            reason = "a quoted cell continues in the next line" if "unexpected end" in str(error) else error
            raise ValueError(
                f"Line {number} of {path} must be cells between {between}, got one that cannot be read ({reason}). "
                "Close every quotation mark in its line, or remove it."
            ) from None
        cells = [cell.strip() for cell in cells]
        if any(cells):
            rows.append((number, cells))
    return rows


def _commented_header(comment: tuple[int, str] | None, rows: list[Row], separator: str) -> list[Row] | None:
    """Return the rows below the header that a comment holds; `None` if it holds none.

    Args:
        comment: The line of a comment directly above the rows, as np.savetxt writes a header.
        rows: The rows; the first may begin with the mark of a comment and a name, such as `#class`.
        separator: What is between their cells.
    """
    width = max(len(cells) for _, cells in rows)
    if comment is None:
        (line, (first, *cells)), *others = rows
        named = [(line, [first[1:], *cells]), *others]
        return named if re.match(r"[#%]\w", first) and is_header(named) else None
    line, text = comment
    text = text[1:].strip()
    for mark in dict.fromkeys((separator, *_SEPARATORS, " ")):
        names = [name.strip().strip('"') for name in (text.split() if mark == " " else text.split(mark))]
        if len(names) != width or width < 2 or all(parse_number(name) is not None for name in names):
            continue
        usual = any(name.lower() in _USUAL or re.fullmatch(r"[A-Za-z]+_?[0-9]+", name) for name in names)
        if usual or not mark.isspace():  # words with spaces between them may be a sentence
            return [(line, names), *rows]
    return None


def _check_thousands(path: Path, rows: Sequence[Row]) -> None:
    """Raise `ValueError` if a number has marks between its thousands."""
    grouped = next(((line, cell) for line, cells in rows for cell in cells if _GROUPED.fullmatch(cell)), None)
    if grouped is not None:
        raise ValueError(
            f"Line {grouped[0]} of {path} must hold numbers without marks between thousands, got {grouped[1]!r}. "
            "Remove these marks, such as by a number format without them in the spreadsheet."
        )


def _find_decimal(path: Path, rows: Sequence[Row], separator: str) -> str:
    """Return the decimal mark: a comma if numbers have commas only, and not all of them as between thousands.

    Raises:
        ValueError: If the commas may be decimal commas or between thousands; or the points, next to semicolons.
    """
    pointed = [(line, cell) for line, cells in rows for cell in cells if _POINT.fullmatch(cell)]
    if separator == ";" and pointed and all(_POINTED_THOUSANDS.fullmatch(cell) for _, cell in pointed):
        raise ValueError(
            f"Line {pointed[0][0]} of {path} must hold numbers with one decimal mark, got {pointed[0][1]!r}. If the "
            f"point is a decimal point, and not between thousands, give {flag('decimal', '.')}; else remove it."
        )
    cells = [(line, cell) for line, cells in rows for cell in cells if "," in cell and _DECIMAL_COMMA.fullmatch(cell)]
    if not cells or any(_POINT.fullmatch(cell) for _, cells in rows for cell in cells):
        return "."
    if all(_THOUSANDS.fullmatch(cell) for _, cell in cells):
        line, cell = cells[0]
        raise ValueError(
            f"Line {line} of {path} must hold numbers with one decimal mark, got {cell!r}. If the comma is "
            f"a decimal comma, and not between thousands, give {flag('decimal', ',')}; else remove it."
        )
    return ","


def _with_point(path: Path, line: int, cell: str) -> str:
    """Return a number with a decimal comma with a point; other cells unchanged.

    Raises:
        ValueError: If a number has a decimal point, or points between thousands.
    """
    if _DECIMAL_COMMA.fullmatch(cell):
        return cell.replace(",", ".")
    if _DECIMAL_POINT.fullmatch(cell):
        raise ValueError(
            f"Line {line} of {path} must hold numbers with decimal commas, as decimal states, got {cell!r}. "
            f"Leave decimal out, or remove points between thousands."
        )
    return cell


def is_header(rows: list[Row]) -> bool | None:
    """Whether the first line names the columns, and is not a sequence with bad cells; `None` if both are possible.

    It is a header if all its cells are names, or if its numbers count the columns as pandas writes them: 0, 1, 2, … or
    1, 2, 3, …. A name is neither a number nor a mark of a missing value, and no other line has it in the same column.
    With a usual name of a class, an id or a time, other numbers may stand beside it: `class,400,402`. A first line of
    another name and such numbers may also be a sequence, if the lines below have text there too. So may numbers only,
    unless they begin at 0 and all values below are written with points, or the first cell is empty.
    """
    (_, first), *others = rows
    cells = [(column, cell) for column, cell in enumerate(first) if cell]
    if any(is_missing(cell) for _, cell in cells):
        return False
    names = [(column, cell) for column, cell in cells if parse_number(cell) is None]
    if any(column < len(row) and row[column] == name for column, name in names for _, row in others):
        return False
    numbers = [(column, cell) for column, cell in cells if parse_number(cell) is not None]
    if not numbers:
        return (
            len(cells) > 1 if not others else any(parse_number(cell) is not None for _, r in others[:2] for cell in r)
        )
    if 0 < len(names) <= 2 and any(name.lower() in _USUAL for _, name in names):
        return True
    counts = [cell for _, cell in numbers]
    if counts not in ([str(i) for i in range(start, start + len(counts))] for start in (0, 1)) or len(names) > 2:
        return False
    if len(counts) == 1 and any(row[numbers[0][0] :][:1] == counts for _, row in others):  # a class, next to a bad cell
        return False
    if names:
        texts = {k for _, row in others for k, cell in enumerate(row) if parse_number(cell) is None}
        return None if texts & {column for column, _ in names} else True
    # Without any name it may be a sequence of whole numbers, if others are.
    if not any("." in cell for _, row in others[:1] for cell in row[1:]):
        return None if first[0] == "0" and len(counts) > 3 and others else False
    floats = all(
        "." in cell or "e" in cell.lower() for _, row in others for cell in row[1:] if parse_number(cell) is not None
    )
    return (
        True if not first[0] or (counts[0] == "0" and floats) else None
    )  # pandas writes 0, 1, 2, … above 0.0, 1.0, 2.0, …


def _holds_units(cells: list[str]) -> bool:
    """Whether a row holds units of measurement and no number."""
    known = [cell for cell in cells if cell]
    units = [cell for cell in known if _UNIT.fullmatch(cell)]
    return bool(units) and all(parse_number(cell) is None for cell in known) and 2 * len(units) >= len(known)
