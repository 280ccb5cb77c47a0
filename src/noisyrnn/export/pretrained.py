"""Writes a finished and evaluated run as a file of weights with its figures, and the model card of that file."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from noisyrnn.files import check_writable, json_ready, write_atomically
from noisyrnn.models import SequenceModel
from noisyrnn.pipeline.evaluate import EvaluateConfig
from noisyrnn.report.columns import CLEAN, Column
from noisyrnn.robustness import METRICS, default_strengths
from noisyrnn.run_folder import RunFolder
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.pretrained import PretrainedModel, figure_of
from noisyrnn.training.saving import load, read_header, save
from noisyrnn.training.settings import merge_settings, published_experiments, recommended

LICENCE = "Apache-2.0"

_VERSIONS = ("noisyrnn", "python", "torch")
_OUTCOME = (
    "status parameters epochs best_epoch best_validation_accuracy best_validation_loss validation_sequences".split()
)
_KEPT = {
    "clean": "the best on validation data",
    "perturbed": "the best on clean and noisy validation data",
    "last": "the last",
    "refit": "the last",
    "auto": "the best on validation data, or the last where there were too few of them",
}


def export_pretrained(folder: RunFolder, output: Path) -> list[Path]:
    """Write `DATASET-LABEL-seedN.safetensors`, whose header has the run's settings and figures, and its model card.

    Args:
        folder: Finished run, evaluated with its present weights.
        output: Folder for both files.

    Returns:
        Paths of the model and of the card.

    Raises:
        ValueError: If the run has not finished or has no figures of these weights, or the output is not writable.
    """
    run = describe_run(folder)
    header = read_header(folder.model)
    check_writable(output)
    path, card = output / f"{run.stem}.safetensors", output / f"{run.stem}.md"
    notes = {**header.notes, "run": asdict(run)}
    save(load(folder.model, SequenceModel), path, class_names=header.class_names, notes=notes)
    write_atomically(card, model_card(run).encode())
    return [path, card]


def describe_run(folder: RunFolder) -> PretrainedModel:
    """Return what a pretrained file states of a run: settings, data, outcome and figures; no folder and no platform.

    Raises:
        ValueError: If the run has not finished, or has no figures of its present weights and settings.
    """
    folder.check_finished()
    stored = folder.read_result(folder.robustness)
    if not stored.measured or stored.stale:
        reason = f"one where {stored.stale}" if stored.stale else "one without test results"
        raise ValueError(f"run must be evaluated, got {folder.path}, {reason}. Evaluate it: noisyrnn evaluate.")
    if reason := folder.foreign_model():
        raise ValueError(f"run must hold the weights of its training, got another file: {reason} Train the run again.")
    content, summary = folder.read_config(), folder.read_summary()
    settings, environment = content["config"], content["environment"]
    dataset = Path(settings["dataset"])
    return PretrainedModel(
        name=re.sub(r"[^\w.-]+", "_", f"{dataset.stem}-{settings['label']}"),
        seed=settings["seed"],
        config={
            "version": content["version"],
            "config": {**settings, "dataset": dataset.name},
            "dataset": content["dataset"],
            "environment": {name: environment[name] for name in _VERSIONS if name in environment},
        },
        summary={name: summary[name] for name in _OUTCOME if name in summary},
        evaluation=stored.content["settings"],
        figures=[figure_of(column) for column in stored.content["columns"]],
    )


def model_card(run: PretrainedModel) -> str:
    """Return the model card of a pretrained file, Markdown with front matter as model hubs read it."""
    settings, data, summary = run.config["config"], run.config["dataset"], run.summary
    config = TrainConfig.from_dict(settings)
    evaluation = run.evaluation
    metric = METRICS[run.figures[0]["metric"]]
    head = metric.caption if metric.unit else metric.heading
    reading = {name: settings[name] for name in ("values_per_step", "label_column", "layout", "task")}
    defaults = {name: getattr(TrainConfig(), name) for name in reading}
    arguments = "".join(
        f", {name}={_text(value) if isinstance(value, str) else value}"
        for name, value in reading.items()
        if value != defaults[name]
    )
    validation = f"{summary['validation_sequences']:,} sequences"
    if not summary["validation_sequences"]:
        validation = "trained on the validation sequences too, so there is no validation result"
    elif summary["best_validation_accuracy"] is None:
        validation = f"loss {summary['best_validation_loss']:.4g} on {validation}"
    else:
        validation = f"accuracy {100 * summary['best_validation_accuracy']:.1f} % on {validation}"
    lines = [
        *("---", f"license: {LICENCE.lower()}", "library_name: noisyrnn", "datasets:", f"- {data['name']}", "---", ""),
        f"# {run.name}, seed {run.seed}",
        "",
        f"A recurrent network (`{settings['model']}` of noisyrnn, {summary['parameters']:,} parameters) trained on "
        f"{data['name']}. Its weights are those of epoch {summary['best_epoch']} of {summary['epochs']}, "
        f"{_KEPT[config.select]}: {validation}.",
        "",
        "## Use",
        "",
        *("```python", "import noisyrnn", ""),
        f"data = noisyrnn.load_dataset({_text(settings['dataset'])}{arguments})",
        f"model = noisyrnn.load_pretrained({_text(run.name)}, seed={run.seed})",
        *("logits = model(data.test.inputs[:2])  # evaluation mode: no noise", "```", ""),
        f"`noisyrnn.load({_text(run.stem + '.safetensors')})` reads the file next to this card.",
        "",
        "## Figures",
        "",
        f"{head} of this one trained model, with the 95 % interval over test sequences and draws. Noise: mean over "
        f"{evaluation['draws']} draws. Attacks: worst case over {evaluation['attack_draws']} random starts. Seed of "
        f"the draws: {evaluation['evaluation_seed']}; values clipped to the data's range: "
        f"{'yes' if evaluation['clip'] else 'no'}. {_units(data)}",
        "",
        f"| test inputs | {metric.title} | 95 % interval | sequences |",
        "|---|---:|---:|---:|",
        *map(_row, run.figures),
        "",
        "This command measures them again:",
        "",
        *("```sh", evaluate_command(run), "```", ""),
        "## Training",
        "",
        *("```sh", train_command(config), "```", ""),
        *("| setting | value |", "|---|---|"),
        *(f"| `{name}` | {_cell(value)} |" for name, value in settings.items() if value is not None),
        "",
        f"Precision: {settings['precision']} in training, {'float64' if config.precision == '64-true' else 'float32'} "
        f"in evaluation. Versions: {', '.join(f'{k} {v}' for k, v in run.config['environment'].items())}.",
        "",
        "## Data",
        "",
        f"{data['source']} {data['train']:,} training and {data['validation']:,} validation sequences of "
        f"{data['steps']} steps with {_count(data['input_size'], 'value')} each.",
        "",
        "## Licence",
        "",
        f"{LICENCE}, as noisyrnn itself. The data have terms of their own.",
        "",
    ]
    return "\n".join(lines)


def train_command(config: TrainConfig) -> str:
    """Return a command that trains with these settings: a published row if there is one, and what differs from it."""
    base: dict[str, Any] = {"dataset": config.dataset, "model": config.model}
    words = [f"--{name}={value}" for name, value in base.items()]
    base |= recommended(config.dataset, config.model)
    for name, row in published_experiments().items():
        same = TrainConfig.from_dict({**row.train, "seed": config.seed, "precision": config.precision})
        if same == config:
            base, words = dict(row.train), [f"--experiment={name}"]
    wanted = {**config.to_dict(), "label": config.shown_label}
    given: dict[str, Any] = {}
    for _ in range(2):  # a flag of the first round may replace a recommended setting, which then needs no flag
        kept = merge_settings(base, {name: value for name, value in given.items() if value is not None})
        start = TrainConfig.from_dict({name: value for name, value in base.items() if name in kept})
        before = {**start.to_dict(), "label": start.shown_label, "seed": None}  # the seed is always shown
        given = {name: value for name, value in wanted.items() if value != before[name]}
    words += [_flag(name, value) for name, value in given.items()]
    return shlex.join(["noisyrnn", "train", *words])


def evaluate_command(run: PretrainedModel) -> str:
    """Return the command that measures the figures of a pretrained model again."""
    defaults = json_ready(asdict(EvaluateConfig()))
    value_range = run.config["dataset"]["value_range"]
    defaults["strengths"] = json_ready(default_strengths(None if value_range is None else tuple(value_range)))
    words = [_flag(name, value) for name, value in run.evaluation.items() if value != defaults[name]]
    return shlex.join(["noisyrnn", "evaluate", run.stem, *words])


def _flag(name: str, value: Any) -> str:
    """Return a flag of the command line, its value as YAML."""
    flag = f"--{name.replace('_', '-')}"
    if name == "clip":
        return flag
    return f"{flag}={value if isinstance(value, str) else json.dumps(value)}"


def shown_figure(figure: Mapping[str, Any]) -> tuple[str, str]:
    """Return title and value of a figure as pages show them: `White noise σ 0.1`, `96.5 %`."""
    metric = METRICS[figure["metric"]]
    strength = 0.0 if figure["perturbation"] == CLEAN else figure["strength"]
    title = Column(figure["perturbation"], strength, figure["unit"], figure["metric"]).title
    return title, f"{_number(figure, figure['value'])} {metric.unit}".rstrip()


def _row(figure: Mapping[str, Any]) -> str:
    """Return the row of one test result."""
    title, value = shown_figure(figure)
    low, high = (_number(figure, end) for end in figure["interval"])
    return f"| {title} | {value} | [{low}, {high}] | {figure['sequences']:,} |"


def _number(figure: Mapping[str, Any], value: float) -> str:
    metric = METRICS[figure["metric"]]
    return f"{metric.factor * value:.{2 if metric.unit else 4}f}"


def _units(data: Mapping[str, Any]) -> str:
    """Return the sentence on the units of strengths and radii."""
    if data["value_range"] is None:
        return "Strengths and radii are in standard deviations of each channel of the training data."
    low, high = data["value_range"]
    return f"Strengths and radii are in the units of the data, whose values lie in [{low:g}, {high:g}]."


def _text(value: str) -> str:
    """Return a string as Python code with double quotes."""
    return json.dumps(value, ensure_ascii=False)


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
