"""`noisyrnn report`."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import OUTPUT, command_parser, given_of
from noisyrnn.report import write_report
from noisyrnn.run_folder import RunFolder, check_writable


def report_command(words: Sequence[str]) -> int:
    """Write a report on runs that exist."""
    parser = command_parser(
        "report", "Write one page on trained and evaluated runs.", "noisyrnn report runs/*-seed* --output report"
    )
    parser.add_argument("runs", nargs="+", type=str, help="Run folders.")
    parser.add_argument("--title", type=str, default="Comparison", help="Heading of the page.")
    parser.add_argument("--output", type=str, default=OUTPUT, help="Folder the page goes to.")
    given = given_of(parser, words)
    output = Path(given.get("output", OUTPUT))
    folders = [RunFolder.open(Path(run)).path for run in given["runs"]]
    check_writable(output)
    page = write_report(
        folders, output, title=given.get("title", "Comparison"), command="noisyrnn report " + shlex.join(words)
    )
    print(f"Report: {page}")
    return 0
