"""`noisyrnn analyze`."""

import time
from collections.abc import Sequence

from noisyrnn.analysis.diagnostics import DIAGNOSTICS, AnalysisSettings
from noisyrnn.cli.flags import add_context, add_fields, command_parser, parse, pop_fields, split_names
from noisyrnn.pipeline import AnalyzeConfig, RunContext, analyze_run, open_run_or_pretrained
from noisyrnn.progress import tell


def analyze_command(argv: Sequence[str]) -> int:
    """Compute theory diagnostics of trained runs."""
    parser = command_parser(
        "analyze",
        "Compute theory diagnostics of trained runs: regulariser, Jacobians, curvature, margins, radii and stability.",
        "noisyrnn analyze runs/*-seed* --budget 30",
    )
    parser.add_argument(
        "--diagnostics", type=str | list[str], help="Diagnostics to compute, separated by commas (default: all)."
    )
    add_fields(parser, AnalyzeConfig, skip=("diagnostics", "settings"))
    add_fields(parser, AnalysisSettings)
    add_context(parser, "accelerator")
    parser.set_defaults(accelerator="cpu")
    arguments = parse(parser, argv, settings=lambda given: {"diagnostics": ",".join(DIAGNOSTICS), **given})
    context = RunContext(**{"accelerator": "cpu", "show_progress": True, **pop_fields(arguments, RunContext)})
    folders = [open_run_or_pretrained(run, context.output) for run in arguments.pop("runs")]
    diagnostics = split_names(arguments.pop("diagnostics", ()))
    settings = AnalysisSettings(**pop_fields(arguments, AnalysisSettings))
    config = AnalyzeConfig(diagnostics=diagnostics, settings=settings, **arguments)
    end = time.monotonic() + 60 * config.budget
    failed = False
    for position, folder in enumerate(folders):
        share = (end - time.monotonic()) / (len(folders) - position)
        analyze_run(folder, config, context, seconds=share)
        print(f"Analyzed: {folder.analysis}")
        for name, entry in folder.read_result(folder.analysis).content["diagnostics"].items():
            if entry["status"] != "done":
                tell(f"Not computed: {name}: {entry['reason']}")
                failed = failed or entry["status"] == "failed"  # skipped or impossible is not a failure
    return 1 if failed else 0
