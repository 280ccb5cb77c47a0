"""`noisyrnn evaluate`."""

from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import add_fields, add_places, command_parser, given_of, pop_path
from noisyrnn.pipeline import EvaluateConfig, evaluate_run
from noisyrnn.pipeline.train import DataReader
from noisyrnn.run_folder import RunFolder


def evaluate_command(words: Sequence[str]) -> int:
    """Measure the robustness of trained runs."""
    parser = command_parser(
        "evaluate", "Measure accuracy under perturbations of the test set.", "noisyrnn evaluate runs/*-seed*"
    )
    parser.add_argument("runs", nargs="+", type=str, help="Run folders.")
    add_fields(parser, EvaluateConfig)
    add_places(parser, output=None)
    parser.add_argument("--accelerator", type=str, default="auto", help='"auto", "cpu" or "cuda".')
    given = given_of(parser, words)
    data_dir, accelerator = pop_path(given, "data_dir"), given.pop("accelerator", "auto")
    folders = [RunFolder.open(Path(run)) for run in given.pop("runs")]
    config, reader = EvaluateConfig(**given), DataReader(data_dir)
    for folder in folders:
        evaluate_run(folder, config, reader=reader, accelerator=accelerator, show_progress=True)
        print(f"Evaluated: {folder.robustness}")
    return 0
