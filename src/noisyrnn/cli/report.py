"""`noisyrnn report`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import command_line, command_parser, parse, pop_path, print_summary
from noisyrnn.files import check_writable
from noisyrnn.progress import tell
from noisyrnn.report import split_readable, write_report
from noisyrnn.run_folder import RunFolder


def report_command(argv: Sequence[str]) -> int:
    """Write a report on existing runs."""
    parser = command_parser(
        "report",
        "Write one HTML page about trained and evaluated runs.",
        "noisyrnn report runs/*-seed* --output report",
    )
    parser.add_argument(
        "--title", type=str | None, help="Heading of the page (default: the model, or their number, and the data set)."
    )
    parser.add_argument(
        "--output", type=str | None, help="Folder for the page (default: the folder that contains the runs)."
    )
    arguments = parse(parser, argv)
    paths = [Path(run) for run in arguments["runs"]]
    for path in paths:
        if not os.path.lexists(path / "config.json"):
            RunFolder.open(path)  # raises: there is no run
    output = pop_path(arguments, "output") or _folder_of(paths)
    check_writable(output)
    readable, failures = split_readable(paths)
    if not readable:
        raise ValueError(next(iter(failures.values())))
    command = command_line("report", argv)
    title = arguments.get("title") or _title(readable)
    page = write_report(readable, output, title=title, command=command, failures=failures)
    for path, reason in failures.items():
        tell(f"Failed: {path.name}: {reason}")
    if sys.stdout.isatty():
        print_summary(page)
    print(f"Report: {page}")
    return 1 if failures else 0


def _title(runs: Sequence[Path]) -> str:
    """What the runs are of: `noisy on digits`, `3 models on digits`, or `3 models` on several data sets."""
    contents = [RunFolder(run).read_config() for run in runs]
    labels = list(dict.fromkeys(str(content["config"]["label"]) for content in contents))
    names = {Path(str(content["dataset"].get("name", ""))).name for content in contents}
    what = labels[0] if len(labels) == 1 else f"{len(labels)} models"
    return f"{what} on {names.pop()}" if len(names) == 1 else what


def _folder_of(runs: Sequence[Path]) -> Path:
    """The folder that holds all the runs."""
    parents = {path.resolve().parent for path in runs}
    if len(parents) > 1:
        folders = ", ".join(sorted(map(str, parents)))
        raise ValueError(f"output must be given for runs of several folders, got runs of {folders}. Add --output DIR.")
    return parents.pop()
