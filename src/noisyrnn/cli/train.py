"""`noisyrnn train`."""

import dataclasses
import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path

from noisyrnn.checks import check_integer
from noisyrnn.cli import flags
from noisyrnn.pipeline import RunContext, continue_run, settings_of_run, train_run, train_seeds
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
    parser.add_argument(
        "--resume",
        type=bool | str,
        nargs="?",
        const=True,
        default=False,
        help="Resume an unfinished run from its last checkpoint. With the folder of a run, use the settings of that "
        "run; a larger --epochs continues it in a folder of its own. The learning rate falls at the same epochs as in "
        "the shorter run, so it is low in those that are added.",
    )
    flags.add_context(parser, "output", "accelerator", "checkpoint_seconds", "keep_epochs", "logger")
    arguments = flags.parse(parser, argv, settings=_settings)
    if isinstance(arguments.get("resume"), str):
        _print_ends([_continue(arguments)])
        return 0
    context = RunContext(show_progress=True, **flags.pop_fields(arguments, RunContext))
    seeds, batch_seeds = arguments.pop("seeds", 1), arguments.pop("batch_seeds", False)
    check_integer("seeds", seeds, minimum=1)
    config = _train_config(arguments)
    if seeds == 1 and not batch_seeds:
        _print_ends([train_run(config, context)])
        return 0
    configs = [dataclasses.replace(config, seed=config.seed + k) for k in range(seeds)]
    failures = train_seeds(configs, context, batch_seeds=batch_seeds)
    _print_ends([RunFolder(folder) for folder, reason in failures.items() if reason is None])
    for folder, reason in failures.items():
        if reason is not None:
            tell(f"Failed: {folder.name}: {reason}")
    return 1 if any(failures.values()) else 0


def _print_ends(folders: Sequence[RunFolder]) -> None:
    """Print the folders of finished runs and their validation results: on a terminal as a table."""
    for folder in folders:
        print(f"Trained: {folder.path}")
        if not sys.stdout.isatty():
            _tell_validation(folder)
    if sys.stdout.isatty() and folders:
        from noisyrnn.report import print_trainings  # brings the report's figures

        print_trainings(folders)
    for folder in folders:
        if sys.stdout.isatty() and folder.read_summary().get("adapted"):
            tell(f"Note: {folder.read_summary()['adapted']}")
        if folder.read_summary().get("not_fitted"):
            tell(f"Note: {folder.read_summary()['not_fitted']}")


def _tell_validation(folder: RunFolder) -> None:
    """Print the validation result of a finished run on stderr."""
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


def _continue(arguments: flags.Arguments) -> RunFolder:
    """Resume the run that `--resume` names, or continue it with more epochs."""
    folder = RunFolder.open(Path(arguments.pop("resume")))
    context = RunContext(
        **{"show_progress": True, "output": folder.path.parent, **flags.pop_fields(arguments, RunContext)}
    )
    return continue_run(folder, context, epochs=_continued(folder, arguments).epochs)


def _continued(folder: RunFolder, arguments: flags.Arguments) -> TrainConfig:
    """Return the settings of a run with the epochs in the arguments, which may repeat its other settings."""
    arguments = dict(arguments)
    config = settings_of_run(folder, epochs=arguments.get("epochs"))
    for name in ("experiment", "seeds", "batch_seeds"):
        if arguments.pop(name, None) not in (None, False, 1):
            raise ValueError(f"{name} must be left out with --resume {folder.path}.")
    stated = TrainConfig.from_dict(config.to_dict() | flags.absolute_dataset(arguments)).to_dict()
    changed = [name for name, value in config.to_dict().items() if stated.get(name) != value]
    if changed:
        name = changed[0]
        raise ValueError(
            f"{name} must be {config.to_dict()[name]!r}, as in {folder.path}, got {stated.get(name)!r}. Only epochs "
            "can be changed with --resume RUN."
        )
    return config


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
    if isinstance(resume := arguments.get("resume"), str):
        config = _continued(
            RunFolder.open(Path(resume)), {name: value for name, value in arguments.items() if name != "resume"}
        )
        return {**arguments, **flags.printed(config)}
    names = {"experiment", *TrainConfig.setting_names()}
    config = _train_config({name: value for name, value in arguments.items() if name in names})
    return {**arguments, **flags.printed(config), "experiment": SUPPRESS}
