"""Reads run folders and writes tables, figures and one HTML page. It never opens a model."""

from noisyrnn.report.page import write_report
from noisyrnn.report.plot import plot
from noisyrnn.report.reproduction import write_reproduction
from noisyrnn.report.results import SeedResult, group_by_label, read_run, split_readable
from noisyrnn.report.summary import print_comparison, print_scores, print_trainings

__all__ = [
    "SeedResult",
    "group_by_label",
    "plot",
    "print_comparison",
    "print_scores",
    "print_trainings",
    "read_run",
    "split_readable",
    "write_report",
    "write_reproduction",
]
