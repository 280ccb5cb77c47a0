"""`noisyrnn evaluate`."""

from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import Arguments, add_context, add_fields, command_parser, parse, pop_fields
from noisyrnn.pipeline import EvaluateConfig, RunContext, evaluate_run, open_run_or_pretrained
from noisyrnn.pipeline.evaluate import gradient_notes
from noisyrnn.progress import tell
from noisyrnn.report import group_by_label, print_scores, read_run
from noisyrnn.robustness import default_strengths
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.pretrained import figure_of, read_pretrained


def evaluate_command(argv: Sequence[str]) -> int:
    """Measure the robustness of trained runs."""
    parser = command_parser(
        "evaluate",
        "Measure trained runs on clean and perturbed test data: accuracy, or errors and R² of a regression. Given the "
        "name of a pretrained model, show its results next to those of its model card.",
        "noisyrnn evaluate runs/*-seed*",
    )
    add_fields(parser, EvaluateConfig)
    add_context(parser, "accelerator")
    arguments = parse(parser, argv, settings=_settings)
    context = RunContext(show_progress=True, **pop_fields(arguments, RunContext))
    runs = arguments.pop("runs")
    config = EvaluateConfig(**arguments)
    folders = {run: open_run_or_pretrained(run, context.output) for run in runs}
    for run, folder in folders.items():
        evaluate_run(folder, config, context)
        print(f"Evaluated: {folder.robustness_file(config.weights)}")
        result = read_run(folder.path, config.weights)
        print_scores(group_by_label([result]), f"{result.label}, seed {result.seed}, on the test data")
        for note in gradient_notes(folder, config.weights):
            tell(f"Note: {note}")
        if folder.path != Path(run):
            _print_next_to_card(folder)
    return 0


def _settings(arguments: Arguments) -> Arguments:
    """Return the arguments with the strengths that would be used, if all runs have data of the same range of values."""
    config = EvaluateConfig(**{name: value for name, value in arguments.items() if name != "runs"})
    if config.strengths is not None:
        return {**arguments, "strengths": config.strengths}
    ranges = []
    for run in map(Path, arguments["runs"]):
        data = RunFolder(run).read_config()["dataset"] if (run / "config.json").is_file() else {}
        ranges.append(data.get("value_range", "unknown"))
    if ranges[0] == "unknown" or any(found != ranges[0] for found in ranges):
        return {**arguments, "strengths": SUPPRESS}
    strengths = default_strengths(None if ranges[0] is None else (ranges[0][0], ranges[0][1]))
    return {**arguments, "strengths": strengths}


def _print_next_to_card(folder: RunFolder) -> None:
    """Print the results of a pretrained model, each with that of its model card if it has the same strength."""
    from noisyrnn.export.pretrained import shown_figure  # brings the report's figures

    stated = {figure["settings"]: shown_figure(figure)[1] for figure in read_pretrained(folder.model).figures}
    for column in folder.read_result(folder.robustness).content["columns"]:
        figure = figure_of(column)
        title, value = shown_figure(figure)
        print(f"{title}: {value} (model card: {stated.get(figure['settings'], 'none')})")
