"""Contents of a report: its tables, and notes on runs that are not comparable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noisyrnn.report.accuracy import accuracy_notes, caption, score_tables
from noisyrnn.report.headline import verdict
from noisyrnn.report.results import Group, SeedResult, group_by_label
from noisyrnn.report.table import Table, finite
from noisyrnn.report.theory import row_dict, theory_table


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The tables of a report.

    Args:
        groups: One for each label, in the order given; the first is the base of the paired tests.
        tables: Test results by key of `METRICS`; the first is the main one.
        theory: Theory diagnostics; without rows if no run was analysed.
        notes: Notes on runs that are not comparable.
    """

    groups: tuple[Group, ...]
    tables: Mapping[str, Table]
    theory: Table
    notes: tuple[str, ...]

    @property
    def main(self) -> Table:
        """Table of the main metric: the accuracy, or R² of a regression."""
        return next(iter(self.tables.values()))

    @property
    def labels(self) -> list[str]:
        """All labels; the others are tested against the first."""
        return [group.label for group in self.groups]

    @property
    def verdict(self) -> str:
        """Which label is best on which inputs and by how much, and which of this may be chance."""
        seeds = min((len(group.evaluated) for group in self.groups if group.evaluated), default=0)
        return verdict(self.main, next(iter(self.tables)), seeds)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents as JSON scalars, lists and objects; a value that is not finite is `None`."""
        content: dict[str, Any] = {
            "format": 1,
            "base": self.labels[0],
            "verdict": self.verdict,
            "interval": caption(self.main, next(iter(self.tables))),
            "comparisons": sum(table.comparisons for table in self.tables.values()),
            "notes": list(self.notes),
            "labels": {group.label: self._label_dict(group) for group in self.groups},
        }
        if self.main.baselines:
            content["baselines"] = {name: {"columns": self._columns(name)} for name in self.main.baselines}
        if self.theory.rows:
            content["analysis"] = [row_dict(row) for row in self.theory.rows]
        content = finite(content)
        return content

    def _label_dict(self, group: Group) -> dict[str, Any]:
        return {
            "runs": [
                {"seed": result.seed, "status": result.status, "evaluated": result.evaluated}
                for result in group.results
            ],
            "columns": self._columns(group.label),
        }

    def _columns(self, name: str) -> list[dict[str, Any]]:
        """Return the test results of a label or a baseline."""
        return [
            row.quantity.column.to_dict() | row.cell_dict(name)
            for table in self.tables.values()
            for row in table.rows
            if row.quantity.column is not None and row.cell(name) is not None
        ]


def compare(results: Sequence[SeedResult]) -> Comparison:
    """Group `results` by label and compute all values of the report.

    Raises:
        ValueError: If there are no results, or several data sets, or if a label has two runs with the same seed.
    """
    groups = group_by_label(results)
    tables = score_tables(groups)
    notes = accuracy_notes(groups, tables)
    return Comparison(groups=groups, tables=tables, theory=theory_table(groups), notes=notes)
