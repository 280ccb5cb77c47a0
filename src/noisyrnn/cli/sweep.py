"""`noisyrnn sweep`."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import (
    OUTPUT,
    absolute_dataset,
    add_fields,
    add_places,
    command_parser,
    given_of,
    pop_path,
)
from noisyrnn.pipeline import SweepConfig, sweep
from noisyrnn.training.config import TrainConfig


def sweep_command(words: Sequence[str]) -> int:
    """Search the settings of a model on perturbed validation data."""
    parser = command_parser(
        "sweep",
        "Search the settings of a model for accuracy on perturbed validation data, with Optuna. A training setting "
        "that is given is fixed and not searched; the same command goes on with a sweep that was stopped.",
        "noisyrnn sweep --model noisy --dataset digits --trials 50 --workers 2",
    )
    add_fields(parser, SweepConfig, skip=("train",))
    add_fields(parser, TrainConfig, skip=("model", "seed", "label"))
    add_places(parser)
    given = given_of(parser, words)
    output, data_dir = Path(given.pop("output", OUTPUT)), pop_path(given, "data_dir")
    names = {field.name for field in dataclasses.fields(SweepConfig)}
    own = {name: given.pop(name) for name in names & given.keys()}
    config = SweepConfig(train=absolute_dataset(given), **own)
    command = "noisyrnn sweep " + shlex.join(words)
    result = sweep(config, output=output, data_dir=data_dir, command=command, show_progress=True)
    failed = f", {result.failed} failed" if result.failed else ""
    print(f"Trials: {result.trials}{failed}")
    settings = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in result.best.items())
    rests = "the" if result.sequences is None else str(result.sequences)
    print(f"Best: {100 * result.score:.2f} % on {rests} perturbed validation sequences with {settings}")
    print(f"Page: {result.folder / 'sweep.html'}")
    print(f"Train with these settings: noisyrnn train --config {result.folder / 'best.yaml'}")
    return 0
