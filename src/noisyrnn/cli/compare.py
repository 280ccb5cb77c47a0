"""`noisyrnn compare`."""

from argparse import SUPPRESS
from collections.abc import Sequence
from typing import Any

from noisyrnn.cli import flags
from noisyrnn.models import MODELS
from noisyrnn.pipeline import CompareConfig, EvaluateConfig, RunContext, compare
from noisyrnn.progress import tell
from noisyrnn.training.config import TrainConfig


def compare_command(argv: Sequence[str]) -> int:
    """Train and evaluate several models, then report."""
    parser = flags.command_parser(
        "compare",
        f"Train several models with several seeds, measure their robustness and write one report. {flags.RECOMMENDED}",
        "noisyrnn compare --models noisy,lipschitz,lstm --dataset digits --seeds 3",
    )
    parser.add_argument(
        "--models",
        type=str | list[str],
        default=",".join(MODELS),
        help="Models to compare, separated by commas; the others are tested against the first. mine.py:build is a "
        "function of a Python file that returns a trained model of any library for a data set.",
    )
    parser.add_argument(
        "--variants",
        type=str | list[Any],
        help="Models or published experiments with settings of their own, in place of --models: "
        "'noisy:additive=0, noisy:additive=0.1:step_size=0.3, lstm', or a list in a configuration file.",
    )
    flags.add_fields(parser, CompareConfig, skip=("models", "variants", "train", "evaluation", "batch_seeds"))
    flags.add_batch_seeds(parser)
    flags.add_training(parser, skip=("model", "seed", "label"))
    flags.add_fields(parser, EvaluateConfig, skip=("weights",))
    flags.add_context(parser, "output", "accelerator", "logger")
    arguments = flags.parse(parser, argv, settings=_settings)
    context = RunContext(show_progress=True, **flags.pop_fields(arguments, RunContext))
    page, failures = compare(_compare_config(arguments), context, command=flags.command_line("compare", argv))
    if page not in failures:
        flags.print_summary(page)
    for folder, reason in failures.items():
        tell(f"Failed: {folder.name}: {reason}")
    if page not in failures:
        print(f"Report: {page}")
    return 1 if failures else 0


def _compare_config(arguments: flags.Arguments) -> CompareConfig:
    evaluation = EvaluateConfig(**flags.pop_fields(arguments, EvaluateConfig))
    variants = arguments.pop("variants", ())
    models = flags.split_names(arguments.pop("models", () if variants else list(MODELS)))
    settings = flags.pop_fields(arguments, CompareConfig)
    return CompareConfig(
        models=models, variants=variants, train=flags.absolute_dataset(arguments), evaluation=evaluation, **settings
    )


def _settings(arguments: flags.Arguments) -> flags.Arguments:
    config = _compare_config(dict(arguments))
    for run in config.run_configs()[: len(config.own_rows)]:  # they differ from model to model, so no flag holds them
        values = {name: value for name, value in run.to_dict().items() if value is not None}
        print(
            f"# {run.shown_label}: {', '.join(f'{name} {value}' for name, value in values.items() if name != 'model')}"
        )
    unset = dict.fromkeys(TrainConfig.setting_names(), SUPPRESS)
    if config.evaluation.strengths is None:
        print("# strengths: the default ones for data with such a range of values")
    models = {"models": SUPPRESS} if config.variants else {}  # only one of them may be given
    return {**unset, **arguments, **models, "strengths": config.evaluation.strengths or SUPPRESS}
