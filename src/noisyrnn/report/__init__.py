"""Reads run folders and writes tables, figures and one HTML page. It never opens a model."""

from noisyrnn.report.page import write_report
from noisyrnn.report.reproduction import write_reproduction
from noisyrnn.report.results import SeedResult, read_run, split_readable

__all__ = ["SeedResult", "read_run", "split_readable", "write_report", "write_reproduction"]
