"""`noisyrnn compare`."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import (
    OUTPUT,
    RECOMMENDED,
    absolute_dataset,
    add_fields,
    add_places,
    add_together,
    command_parser,
    given_of,
    pop_path,
    split_names,
)
from noisyrnn.models import MODELS
from noisyrnn.pipeline import CompareConfig, EvaluateConfig, compare
from noisyrnn.training.config import TrainConfig


def compare_command(words: Sequence[str]) -> int:
    """Train and evaluate several models, then report."""
    parser = command_parser(
        "compare",
        f"Train several models with several seeds, measure their robustness and write one report. {RECOMMENDED}",
        "noisyrnn compare --models noisy,lipschitz,lstm --dataset digits --seeds 3",
    )
    parser.add_argument("--models", type=str | list[str], default=",".join(MODELS), help="Names, separated by commas.")
    add_fields(parser, CompareConfig, skip=("models", "train", "evaluation", "together", "analyze"))
    parser.add_argument("--analyze", action="store_true", help="Compute what the theory speaks of as well.")
    add_together(parser)
    add_fields(parser, TrainConfig, skip=("model", "seed", "label"))
    add_fields(parser, EvaluateConfig)
    add_places(parser)
    given = given_of(parser, words)
    output, data_dir = Path(given.pop("output", OUTPUT)), pop_path(given, "data_dir")
    names = {field.name for field in dataclasses.fields(EvaluateConfig)}
    evaluation = EvaluateConfig(**{name: given.pop(name) for name in names & given.keys()})
    models = split_names(given.pop("models", list(MODELS)))
    names = {field.name for field in dataclasses.fields(CompareConfig)}
    own = {name: given.pop(name) for name in names & given.keys()}
    config = CompareConfig(models=models, train=absolute_dataset(given), evaluation=evaluation, **own)
    command = "noisyrnn compare " + shlex.join(words)
    page, failures = compare(config, output=output, data_dir=data_dir, command=command, show_progress=True)
    if page not in failures:
        print((page.parent / "table.md").read_text(encoding="utf-8"))
    for folder, sentence in failures.items():
        print(f"Failed: {folder.name}: {sentence}", file=sys.stderr)
    if page not in failures:
        print(f"Report: {page}")
    return 1 if failures else 0
