"""Tables to download, as CSV and LaTeX, in data URLs."""

import csv
import io
import math
from collections.abc import Sequence

from noisyrnn.report.figures import data_address
from noisyrnn.report.table import PERCENT, Table, value_texts

Cells = Sequence[str | float | int | None]


def tidy_csv(table: Table, labels: Sequence[str]) -> str:
    """Return a table as CSV, one line for each quantity and label: mean, interval, seeds and the value of each.

    Shares are in [0, 1]; a value that is not finite is empty.
    """
    head = ["model", "quantity", "kind", "unit", "mean", "low", "high", "covers", "mark", "seeds", "values"]
    lines: list[Cells] = []
    for row in table.rows:
        unit = "share" if row.quantity.unit == PERCENT else row.quantity.unit
        for label in labels:
            cell = row.cell(label)
            if cell is not None:
                seeds = " ".join(map(str, cell.seeds))
                values = " ".join(f"{value:.6g}" for value in cell.seeds.values())
                named: Cells = [label, row.quantity.title, row.quantity.kind, unit]
                found: Cells = [cell.mean, cell.low, cell.high, cell.covers, row.marks.get(label, "")]
                lines.append([*named, *found, seeds, values])
    return csv_text(head, lines)


def csv_text(head: Sequence[str], lines: Sequence[Cells]) -> str:
    """Return lines as CSV; numbers have up to six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for line in lines:
        writer.writerow([_plain(cell) for cell in line])
    return text.getvalue()


def _plain(cell: str | float | int | None) -> str:
    if isinstance(cell, float):
        return f"{cell:.6g}" if math.isfinite(cell) else ""
    return "" if cell is None else str(cell)


def latex_of(table: Table, labels: Sequence[str]) -> str:
    """Return a table for the LaTeX package booktabs: a line per quantity, a column per label, the best in bold."""
    lines = []
    for row in table.rows:
        cells = []
        for label in labels:
            cell = row.cell(label)
            if cell is None:
                cells.append("--")
                continue
            value, interval = value_texts(cell, row.quantity)
            value = f"\\textbf{{{value}}}" if row.marks.get(label) == "best" else value
            cells.append(f"{value} {{\\small {latex_escape(interval)}}}" if interval else value)
        lines.append([latex_escape(row.quantity.title), *cells])
    return latex_text(["", *map(latex_escape, labels)], lines)


def latex_text(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return cells, already escaped, as a `tabular` with the rules of booktabs."""
    body = [" & ".join(line) + r" \\" for line in lines]
    return "\n".join(
        [
            "% Needs \\usepackage{booktabs}",
            f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            "\\toprule",
            " & ".join(head) + r" \\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "[": "{[}",
    "]": "{]}",
    "σ": r"$\sigma$",
    "α": r"$\alpha$",
    "ϵ": r"$\epsilon$",
    "∞": r"$\infty$",
    "ℓ": r"$\ell$",
    "√": r"$\surd$",
    "−": "$-$",
    "×": r"$\times$",
}


def latex_escape(text: str) -> str:
    """Escape text for LaTeX, with the symbols of this library as formulas."""
    return "".join(_LATEX.get(character, character) for character in text)


def table_files(table: Table, labels: Sequence[str]) -> dict[str, str]:
    """Return a table with its baselines to download: a data URL by file name extension."""
    labels = [*labels, *table.baselines]
    return text_files(tidy_csv(table, labels), latex_of(table, labels))


def text_files(csv_file: str, latex: str) -> dict[str, str]:
    """Return two texts to download: a data URL by file name extension."""
    return {
        "csv": data_address("text/csv;charset=utf-8", csv_file.encode()),
        "tex": data_address("text/x-tex;charset=utf-8", latex.encode()),
    }
