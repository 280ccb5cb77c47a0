"""Run folders in, one page out: the table, the figures, the paired tests, and every setting. It never opens a model."""

from noisyrnn.report.page import write_report
from noisyrnn.report.runs import RunRecord, read_run, split_readable

__all__ = ["RunRecord", "read_run", "split_readable", "write_report"]
