"""`noisyrnn evaluate`."""

from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import add_context, add_fields, command_parser, given_of, pop_fields
from noisyrnn.pipeline import EvaluateConfig, RunContext, evaluate_run
from noisyrnn.run_folder import RunFolder


def evaluate_command(words: Sequence[str]) -> int:
    """Measure the robustness of trained runs."""
    parser = command_parser(
        "evaluate", "Measure accuracy under perturbations of the test set.", "noisyrnn evaluate runs/*-seed*"
    )
    parser.add_argument("runs", nargs="+", type=str, help="Run folders.")
    add_fields(parser, EvaluateConfig)
    add_context(parser, "data_dir", "accelerator")
    given = given_of(parser, words)
    folders = [RunFolder.open(Path(run)) for run in given.pop("runs")]
    context = RunContext(show_progress=True, **pop_fields(given, RunContext))
    config = EvaluateConfig(**given)
    for folder in folders:
        evaluate_run(folder, config, context)
        print(f"Evaluated: {folder.robustness}")
    return 0
