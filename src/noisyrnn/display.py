"""Tables of texts for a notebook (HTML), a terminal and a pipe (Markdown)."""

import sys
from collections.abc import Sequence
from html import escape as escape_html

from rich.box import SIMPLE_HEAD
from rich.console import Console
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
