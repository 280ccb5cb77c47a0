"""`noisyrnn sweep`."""

from argparse import SUPPRESS
from collections.abc import Sequence

from noisyrnn.cli import flags
from noisyrnn.pipeline import RunContext, SweepConfig, sweep
from noisyrnn.robustness.metrics import METRICS


def sweep_command(argv: Sequence[str]) -> int:
    """Search the settings of a model on perturbed validation data."""
    parser = flags.command_parser(
        "sweep",
        "Search the settings of a model for accuracy on perturbed validation data, with Optuna. A training setting "
        "in the command is fixed and not searched. Run the same command again to continue an interrupted sweep.",
        "noisyrnn sweep --model noisy --dataset digits --trials 50 --workers 2",
    )
    flags.add_fields(parser, SweepConfig, skip=("train",))
    flags.add_training(parser, skip=("model", "seed", "label"))
    flags.add_context(parser, "output", "accelerator")
    arguments = flags.parse(parser, argv, settings=_settings)
    context = RunContext(show_progress=True, **flags.pop_fields(arguments, RunContext))
    folder, content = sweep(_sweep_config(arguments), context, command=flags.command_line("sweep", argv))
    trials = content["trials"]
    failed = sum(trial["score"] is None for trial in trials)
    best = next(trial for trial in trials if trial["number"] == content["best"])
    settings = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in best["values"].items())
    column = best["columns"][0][0]
    metric, sequences = METRICS[column.get("metric", "accuracy")], column["sequences"]
    score = f"{100 * best['score']:.2f} %" if metric.unit == "%" else f"{metric.title} {best['score']:.4f}"
    print(f"Trials: {len(trials)}" + (f", {failed} failed" if failed else ""))
    print(f"Best: {score} on {sequences} perturbed validation sequences with {settings}")
    print(f"Page: {folder / 'sweep.html'}")
    print(f"Train with these settings: noisyrnn train --config {folder / 'best.yaml'}")
    return 0


def _sweep_config(arguments: flags.Arguments) -> SweepConfig:
    settings = flags.pop_fields(arguments, SweepConfig)
    return SweepConfig(train=flags.absolute_dataset(arguments), **settings)


def _settings(arguments: flags.Arguments) -> flags.Arguments:
    config = _sweep_config(dict(arguments))
    own = {"strengths": config.strengths, "space": config.searched()}
    return flags.printed(config.run_config({})) | dict.fromkeys(own["space"], SUPPRESS) | arguments | own
