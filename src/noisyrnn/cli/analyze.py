"""`noisyrnn analyze`."""

import time
from collections.abc import Sequence
from pathlib import Path

from noisyrnn.analysis.diagnostics import AnalysisSettings
from noisyrnn.cli.flags import Arguments, add_fields, add_places, command_parser, given_of, pop_path, split_names
from noisyrnn.pipeline import AnalyzeConfig, analyze_run
from noisyrnn.pipeline.train import DataReader
from noisyrnn.progress import tell
from noisyrnn.run_folder import RunFolder, read_json


def analyze_command(words: Sequence[str]) -> int:
    """Compute theory diagnostics of trained runs."""
    parser = command_parser(
        "analyze",
        "Compute the explicit regulariser, Jacobians, curvature, margins, certified radii and stability of runs.",
        "noisyrnn analyze runs/*-seed* --budget 30",
    )
    parser.add_argument("runs", nargs="+", type=str, help="Run folders.")
    parser.add_argument("--diagnostics", type=str | list[str], help="Diagnostics, separated by commas; all by default.")
    add_fields(parser, AnalyzeConfig, skip=("diagnostics", "settings"))
    add_fields(parser, AnalysisSettings)
    add_places(parser, output=None)
    parser.add_argument("--accelerator", type=str, default="cpu", help='"auto", "cpu" or "cuda".')
    given = given_of(parser, words)
    data_dir, accelerator = pop_path(given, "data_dir"), given.pop("accelerator", "cpu")
    folders = [RunFolder.open(Path(run)) for run in given.pop("runs")]
    own: Arguments = {name: given.pop(name) for name in ("diagnostics", "budget") if name in given}
    if "diagnostics" in own:
        own["diagnostics"] = split_names(own["diagnostics"])
    config = AnalyzeConfig(**own, settings=AnalysisSettings(**given))
    reader = DataReader(data_dir)
    end = time.monotonic() + 60 * config.budget
    failed = False
    for position, folder in enumerate(folders):
        share = (end - time.monotonic()) / (len(folders) - position)
        analyze_run(folder, config, seconds=share, reader=reader, accelerator=accelerator, show_progress=True)
        print(f"Analyzed: {folder.analysis}")
        for name, entry in read_json(folder.analysis)["diagnostics"].items():
            if entry["status"] != "done":
                tell(f"Not computed: {name}: {entry['reason']}")
                failed = failed or entry["status"] == "failed"  # skipped or impossible is not a failure
    return 1 if failed else 0
