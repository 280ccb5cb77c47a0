"""`noisyrnn evaluate`."""

from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import add_context, add_fields, command_parser, parse, pop_fields
from noisyrnn.pipeline import EvaluateConfig, RunContext, evaluate_run
from noisyrnn.pipeline.evaluate import gradient_notes
from noisyrnn.progress import tell
from noisyrnn.run_folder import RunFolder


def evaluate_command(argv: Sequence[str]) -> int:
    """Measure the robustness of trained runs."""
    parser = command_parser(
        "evaluate",
        "Measure trained runs on clean and perturbed test data: accuracy, or errors and R² of a regression.",
        "noisyrnn evaluate runs/*-seed*",
    )
    add_fields(parser, EvaluateConfig)
    add_context(parser, "accelerator")
    arguments = parse(parser, argv)
    folders = [RunFolder.open(Path(run)) for run in arguments.pop("runs")]
    context = RunContext(show_progress=True, **pop_fields(arguments, RunContext))
    config = EvaluateConfig(**arguments)
    for folder in folders:
        evaluate_run(folder, config, context)
        print(f"Evaluated: {folder.robustness}")
        for note in gradient_notes(folder):
            tell(f"Note: {note}")
    return 0
