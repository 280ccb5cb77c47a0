"""Everything a report states about a set of runs: its tables, and what to keep in mind when reading them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from noisyrnn.report.accuracy import accuracy_notes, accuracy_table, caption
from noisyrnn.report.results import Group, SeedResult, group_by_label
from noisyrnn.report.table import Table, finite
from noisyrnn.report.theory import row_dict, theory_table


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The tables of a report.

    Args:
        groups: One for each label, in the order given; the first is the base of the paired tests.
        accuracy: Test accuracies.
        theory: Theory diagnostics; without rows where no run was analysed.
        notes: Sentences on whatever makes the runs less comparable.
    """

    groups: tuple[Group, ...]
    accuracy: Table
    theory: Table
    notes: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """All labels; the others are tested against the first."""
        return [group.label for group in self.groups]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON scalars, lists and objects; a number that does not exist is `None`."""
        content: dict[str, Any] = {
            "format": 1,
            "base": self.labels[0],
            "interval": caption(self.accuracy),
            "comparisons": self.accuracy.comparisons,
            "notes": list(self.notes),
            "labels": {group.label: self._label_dict(group) for group in self.groups},
        }
        if self.theory.rows:
            content["analysis"] = [row_dict(row) for row in self.theory.rows]
        found: dict[str, Any] = finite(content)
        return found

    def _label_dict(self, group: Group) -> dict[str, Any]:
        return {
            "runs": [
                {"seed": result.seed, "status": result.status, "evaluated": result.evaluated}
                for result in group.results
            ],
            "columns": [
                asdict(row.quantity.column) | row.cell_dict(group.label)
                for row in self.accuracy.rows
                if row.quantity.column is not None and group.label in row.cells
            ],
        }


def compare(results: Sequence[SeedResult]) -> Comparison:
    """Groups `results` by label and computes every number of the report.

    Raises:
        ValueError: If there are none, they are of several data sets, or one label has two runs of one seed.
    """
    groups = group_by_label(results)
    accuracy = accuracy_table(groups)
    notes = accuracy_notes(groups, accuracy)
    return Comparison(groups=groups, accuracy=accuracy, theory=theory_table(groups), notes=notes)
