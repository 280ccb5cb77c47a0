"""Tables of texts for a notebook (HTML), a terminal and a pipe (Markdown)."""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as escape_html

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


def escape(text: str) -> str:
    """Escape the characters of `text` that Markdown would interpret."""
    for character in "\\|<>*_`[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Return a table in GitHub's Markdown; the first `left` columns are left-aligned."""
    rule = "|" + "---|" * left + "---:|" * (len(head) - left)
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def html_table(
    title: str, rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), notes: Sequence[str] = ()
) -> str:
    """Return a small HTML table, as `_repr_html_` shows it in a notebook; every text is escaped.

    Args:
        title: Its caption.
        rows: Texts of the cells; the first of a row is its heading.
        head: Headings of the columns; none by default.
        notes: Sentences below the table.
    """

    def cells(texts: Sequence[str], first: str, others: str) -> str:
        tags = [first, *[others] * (len(texts) - 1)]
        return "".join(f"<{tag}>{escape_html(text)}</{tag}>" for tag, text in zip(tags, texts, strict=True))

    lines = [f"<tr>{cells(head, 'th', 'th')}</tr>"] if head else []
    lines += [f"<tr>{cells(row, 'th', 'td')}</tr>" for row in rows]
    below = "".join(f"<p>{escape_html(note)}</p>" for note in notes)
    return f"<table><caption>{escape_html(title)}</caption>{''.join(lines)}</table>{below}"


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, notes: Sequence[str] = ()) -> None:
    """Print a table on stdout: laid out for reading on a terminal, in Markdown elsewhere.

    Args:
        title: What the table shows, in a line.
        head: Headings of the columns; the first column is left-aligned, the others right-aligned.
        rows: Texts of the cells; all but the first of a row are values, which Markdown shows unchanged.
        notes: Sentences below the table.
    """
    if not sys.stdout.isatty():
        table = markdown_table([*map(escape, head)], [[escape(row[0]), *row[1:]] for row in rows], left=1)
        print("\n\n".join([escape(title), table, *map(escape, notes)]) + "\n")
        return
    grid = Table(box=SIMPLE_HEAD, title=Text(title), title_justify="left", title_style="bold", pad_edge=False)
    for position, text in enumerate(head):
        grid.add_column(Text(text), justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))  # as texts, in which brackets are not styles
    console = Console(file=sys.stdout, highlight=False)
    console.print(grid)
    for note in notes:
        console.print(Text(note))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A cell with an estimate.

    Args:
        value: The estimate as text.
        interval: Its interval as text; empty if there is none.
        mark: `best`, `close` if it is not significantly different from the best, or empty.
    """

    value: str
    interval: str = ""
    mark: str = ""

    def text(self, between: str) -> str:
        """Return the value and the interval, with `between` between them."""
        return between.join(filter(None, (self.value, self.interval)))


_STYLES = {"best": "bold", "close": "italic", "": ""}
_WIDEST_HEADING = 24
_WIDEST_ROW_HEADING = 28


def print_estimates(
    title: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[Estimate]]], *, notes: Sequence[str] = ()
) -> None:
    """Print a table of estimates on stdout: fitted to the width of a terminal, in Markdown elsewhere.

    On a terminal an interval follows its value, or stands below it where the terminal is too narrow for that. Where it
    is too narrow for intervals they are left out, and a note says so; columns that do not fit follow in a second table.

    Args:
        title: What the table shows, in a line.
        head: Headings of the columns.
        rows: For each row its heading and its cells.
        notes: Sentences below the table.
    """
    if not sys.stdout.isatty():
        print_table(title, head, [[name, *(cell.text(" ") for cell in cells)] for name, cells in rows], notes=notes)
        return
    console = Console(file=sys.stdout, highlight=False)
    notes = list(notes)
    for between in (" ", "\n", None):
        grid = _grid(head, rows, between)
        if _width(console, grid) <= console.width:
            break
    grids, shown = [grid], between is not None
    if not shown:
        grids = _blocks(console, head, rows)
        if any(cell.interval for _, cells in rows for cell in cells):
            notes.append("Intervals are left out: this terminal is too narrow.")
    console.print(Text(title, style="bold"))
    for grid in grids:
        console.print(grid)
        console.print()
    for note in notes:
        console.print(Text(note))


def _width(console: Console, grid: Table) -> int:
    """Return the width of a table that nothing shortens."""
    return Measurement.get(console, console.options.update(max_width=10_000), grid).maximum


def _blocks(console: Console, head: Sequence[str], rows: Sequence[tuple[str, Sequence[Estimate]]]) -> list[Table]:
    """Return tables without intervals, each with as many columns as fit, at least one."""
    grids, start = [], 1
    while start < len(head):
        for end in range(len(head), start, -1):
            part = [(name, cells[start - 1 : end - 1]) for name, cells in rows]
            grid = _grid([head[0], *head[start:end]], part, None)
            if _width(console, grid) <= console.width:
                break
        grids.append(grid)
        start = end
    return grids


def _grid(head: Sequence[str], rows: Sequence[tuple[str, Sequence[Estimate]]], between: str | None) -> Table:
    """Return the table of a terminal; `between` stands between a value and its interval, `None` leaves it out."""
    texts = [[cell.value if between is None else cell.text(between) for cell in cells] for _, cells in rows]
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column(Text(_folded(head[0], _WIDEST_ROW_HEADING)), no_wrap=True)
    for k, heading in enumerate(head[1:]):
        width = max((cell_len(line) for row in texts for line in row[k].splitlines()), default=0)
        grid.add_column(Text(_folded(heading, width)), justify="right", no_wrap=True)
    for (name, cells), row in zip(rows, texts, strict=True):
        styled = [Text(text, style=_STYLES[cell.mark]) for text, cell in zip(row, cells, strict=True)]
        grid.add_row(Text(_folded(name, _WIDEST_ROW_HEADING)), *styled)
    return grid


def _folded(text: str, width: int) -> str:
    """Fold a heading between its words to `width`, or to its longest word up to a limit."""
    longest = max(map(len, text.split()), default=1)
    return textwrap.fill(text, max(width, min(longest, _WIDEST_HEADING), 1))
