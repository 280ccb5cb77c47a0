"""`noisyrnn compare`."""

import dataclasses
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path

from noisyrnn.cli.flags import (
    OUTPUT,
    RECOMMENDED,
    Arguments,
    absolute_dataset,
    add_fields,
    add_places,
    add_together,
    add_training,
    command_line,
    command_parser,
    given_of,
    pop_path,
    split_names,
)
from noisyrnn.models import MODELS
from noisyrnn.pipeline import CompareConfig, EvaluateConfig, compare
from noisyrnn.progress import tell
from noisyrnn.training.config import TrainConfig


def compare_command(words: Sequence[str]) -> int:
    """Train and evaluate several models, then report."""
    parser = command_parser(
        "compare",
        f"Train several models with several seeds, measure their robustness and write one report. {RECOMMENDED}",
        "noisyrnn compare --models noisy,lipschitz,lstm --dataset digits --seeds 3",
    )
    parser.add_argument("--models", type=str | list[str], default=",".join(MODELS), help="Names, separated by commas.")
    add_fields(parser, CompareConfig, skip=("models", "train", "evaluation", "batch_seeds", "analyze"))
    parser.add_argument("--analyze", action="store_true", help="Compute theory diagnostics as well.")
    add_together(parser)
    add_training(parser, skip=("model", "seed", "label"))
    add_fields(parser, EvaluateConfig)
    add_places(parser)
    given = given_of(parser, words, settings=_settings)
    output, data_dir = Path(given.pop("output", OUTPUT)), pop_path(given, "data_dir")
    config = _compare_config(given)
    command = command_line("compare", words)
    page, failures = compare(config, output=output, data_dir=data_dir, command=command, show_progress=True)
    if page not in failures:
        print((page.parent / "table.md").read_text(encoding="utf-8"))
    for folder, reason in failures.items():
        tell(f"Failed: {folder.name}: {reason}")
    if page not in failures:
        print(f"Report: {page}")
    return 1 if failures else 0


def _compare_config(given: Arguments) -> CompareConfig:
    given = dict(given)
    names = {field.name for field in dataclasses.fields(EvaluateConfig)}
    evaluation = EvaluateConfig(**{name: given.pop(name) for name in names & given.keys()})
    models = split_names(given.pop("models", list(MODELS)))
    names = {field.name for field in dataclasses.fields(CompareConfig)}
    own = {name: given.pop(name) for name in names & given.keys()}
    return CompareConfig(models=models, train=absolute_dataset(given), evaluation=evaluation, **own)


def _settings(given: Arguments) -> Arguments:
    config = _compare_config({name: value for name, value in given.items() if name not in ("output", "data_dir")})
    for run in config.run_configs()[: len(config.models)]:  # they differ from model to model, so no flag holds them
        values = {name: value for name, value in run.to_dict().items() if value is not None}
        print(f"# {run.model}: {', '.join(f'{name} {value}' for name, value in values.items() if name != 'model')}")
    unset = dict.fromkeys(TrainConfig.setting_names(), SUPPRESS)
    return {**unset, **given, "strengths": config.evaluation.strengths or SUPPRESS}
