"""`noisyrnn train`."""

import dataclasses
from argparse import SUPPRESS
from collections.abc import Sequence

from noisyrnn.checks import check_integer
from noisyrnn.cli import flags
from noisyrnn.pipeline import RunContext, train_run, train_seeds
from noisyrnn.progress import tell
from noisyrnn.robustness.statistics import accuracy_interval
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.settings import merge_settings, read_experiment, recommended


def train_command(argv: Sequence[str]) -> int:
    """Train one model with one or several seeds."""
    parser = flags.command_parser(
        "train",
        f"Train one model with one or several seeds. {flags.RECOMMENDED}",
        "noisyrnn train --model noisy --dataset digits --seed 1",
    )
    flags.add_training(parser)
    parser.add_argument("--seeds", type=int, default=1, help="Number of runs to train, with seeds SEED, SEED+1, …")
    flags.add_batch_seeds(parser)
    parser.add_argument(
        "--experiment",
        type=str,
        help="Use the settings of a published experiment; flags replace single settings. `noisyrnn list` shows all.",
    )
    flags.add_context(parser, "output", "resume", "accelerator", "checkpoint_seconds", "logger")
    arguments = flags.parse(parser, argv, settings=_settings)
    context = RunContext(show_progress=True, **flags.pop_fields(arguments, RunContext))
    seeds, batch_seeds = arguments.pop("seeds", 1), arguments.pop("batch_seeds", False)
    check_integer("seeds", seeds, minimum=1)
    config = _train_config(arguments)
    if seeds == 1 and not batch_seeds:
        _print_end(train_run(config, context))
        return 0
    configs = [dataclasses.replace(config, seed=config.seed + k) for k in range(seeds)]
    failures = train_seeds(configs, context, batch_seeds=batch_seeds)
    for folder, reason in failures.items():
        if reason is None:
            _print_end(RunFolder(folder))
        else:
            tell(f"Failed: {folder.name}: {reason}")
    return 1 if any(failures.values()) else 0


def _print_end(folder: RunFolder) -> None:
    """Print the folder of a finished run, and on stderr its validation result and whether it fits its data."""
    print(f"Trained: {folder.path}")
    summary = folder.read_summary()
    if "validation_sequences" not in summary:  # of an earlier version
        return
    count, accuracy = summary["validation_sequences"], summary["best_validation_accuracy"]
    dataset = folder.read_config()["dataset"]
    if summary.get("adapted"):
        tell(f"Note: {summary['adapted']}")
    if not count:
        tell(f"Validation: none, the weights are those of epoch {summary['best_epoch']}")
    elif accuracy is None:
        tell(
            f"Validation: loss {summary['best_validation_loss']:.4g} over {count} sequences in epoch "
            f"{summary['best_epoch']}: the mean squared error over the variance of the training targets"
        )
    elif dataset.get("every_step"):
        tell(
            f"Validation: {100 * accuracy:.1f} % of the counted steps of {count} sequences in epoch "
            f"{summary['best_epoch']}"
        )
    else:
        right = round(accuracy * count)
        interval = accuracy_interval([1] * right + [0] * (count - right), draws=1)
        tell(
            f"Validation: {100 * accuracy:.1f} % of {count} sequences in epoch {summary['best_epoch']}, "
            f"95 % interval [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
        )
    if summary["not_fitted"]:
        tell(f"Note: {summary['not_fitted']}")


def _train_config(arguments: flags.Arguments) -> TrainConfig:
    """Return the arguments, completed by those of a published row or the recommended ones."""
    arguments = dict(arguments)
    experiment = arguments.pop("experiment", None)
    if experiment is not None:
        base = dict(read_experiment(experiment).train)
    else:
        base = recommended(arguments.get("dataset", TrainConfig.dataset), arguments.get("model", TrainConfig.model))
    return TrainConfig.from_dict(merge_settings(base, flags.absolute_dataset(arguments)))


def _settings(arguments: flags.Arguments) -> flags.Arguments:
    names = {"experiment", *TrainConfig.setting_names()}
    config = _train_config({name: value for name, value in arguments.items() if name in names})
    return {**arguments, **flags.printed(config), "experiment": SUPPRESS}
