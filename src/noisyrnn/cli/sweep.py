"""`noisyrnn sweep`."""

import dataclasses
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import (
    OUTPUT,
    Arguments,
    absolute_dataset,
    add_fields,
    add_places,
    command_line,
    command_parser,
    given_of,
    pop_path,
    stated,
)
from noisyrnn.pipeline import SweepConfig, sweep
from noisyrnn.progress import tell
from noisyrnn.training.config import TrainConfig


def sweep_command(words: Sequence[str]) -> int:
    """Search the settings of a model on perturbed validation data."""
    parser = command_parser(
        "sweep",
        "Search the settings of a model for accuracy on perturbed validation data, with Optuna. A training setting "
        "that is given is fixed and not searched; the same command continues a sweep that was stopped.",
        "noisyrnn sweep --model noisy --dataset digits --trials 50 --workers 2",
    )
    add_fields(parser, SweepConfig, skip=("train",))
    add_fields(parser, TrainConfig, skip=("model", "seed", "label"))
    add_places(parser)
    given = given_of(parser, words, settings=_settings)
    output, data_dir = Path(given.pop("output", OUTPUT)), pop_path(given, "data_dir")
    config = _sweep_config(given)
    command = command_line("sweep", words)
    result = sweep(config, output=output, data_dir=data_dir, command=command, show_progress=True)
    failed = f", {result.failed} failed" if result.failed else ""
    print(f"Trials: {result.trials}{failed}")
    settings = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.best.items())
    rests = "the" if result.sequences is None else str(result.sequences)
    print(f"Best: {100 * result.score:.2f} % on {rests} perturbed validation sequences with {settings}")
    print(f"Page: {result.folder / 'sweep.html'}")
    print(f"Train with these settings: noisyrnn train --config {result.folder / 'best.yaml'}")
    if result.trials < config.trials:
        missing = config.trials - result.trials
        tell(f"Missing: {missing} of {config.trials} trials, which run elsewhere. Run the same command again later.")
        return 1
    return 0


def _sweep_config(given: Arguments) -> SweepConfig:
    names = {field.name for field in dataclasses.fields(SweepConfig)}
    own = {name: value for name, value in given.items() if name in names}
    fixed = {name: value for name, value in given.items() if name not in names}
    return SweepConfig(train=absolute_dataset(fixed), **own)


def _settings(given: Arguments) -> Arguments:
    config = _sweep_config({name: value for name, value in given.items() if name not in ("output", "data_dir")})
    searched = config.searched()
    run = stated(config.run_config({}))
    fixed = {name: value for name, value in run.items() if name not in (*searched, "seed", "label")}
    space = {name: place.to_json() for name, place in searched.items()}
    return {**dict.fromkeys(searched, SUPPRESS), **fixed, **given, "strengths": config.strengths, "space": space}
