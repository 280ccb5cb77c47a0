"""Trained models that come with the package: files of weights with their settings and figures."""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from noisyrnn.checks import check_choice, check_integer
from noisyrnn.models import SequenceModel
from noisyrnn.training.saving import load, read_header

_FOLDER = files("noisyrnn") / "pretrained"
_STEM = re.compile(r"(.+)-seed(\d+)")


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """What the file of a trained model states of its run: the content of its model card.

    Args:
        name: Data set and label of the run, such as "smnist-noisy-high".
        seed: Seed of the run.
        config: Content of the run's `config.json`: settings, data and versions.
        summary: Content of the run's `summary.json`: the epoch of the weights and its validation result.
        evaluation: Settings of the evaluation that measured the figures.
        figures: Test results, clean first, then one for each perturbation and strength, as `figure_of` returns them.
    """

    name: str
    seed: int
    config: Mapping[str, Any] = field(repr=False)
    summary: Mapping[str, Any] = field(repr=False)
    evaluation: Mapping[str, Any] = field(repr=False)
    figures: Sequence[Mapping[str, Any]] = field(repr=False)

    @property
    def stem(self) -> str:
        """Name of its files without the suffix."""
        return f"{self.name}-seed{self.seed}"

    @property
    def description(self) -> str:
        """One line for lists: the model, its data and its result on clean test data."""
        clean, settings = self.figures[0], self.config["config"]
        metric, value = clean["metric"].replace("_", " "), clean["value"]
        shown = f"{100 * value:.1f} %" if metric.endswith("accuracy") else f"{value:.3g}"
        return f"{settings['model']} on {self.config['dataset']['name']}, seed {self.seed}: test {metric} {shown}"

    def file(self) -> AbstractContextManager[Path]:
        """Return a context with the path of its safetensors file."""
        return as_file(_FOLDER / f"{self.stem}.safetensors")

    @property
    def card(self) -> str:
        """Its model card, Markdown."""
        return (_FOLDER / f"{self.stem}.md").read_text(encoding="utf-8")


def pretrained_models() -> dict[str, dict[int, PretrainedModel]]:
    """Return the trained models of the package: by name, then by seed.

    Example:
        >>> pretrained_models()["digits-noisy"][1]
        PretrainedModel(name='digits-noisy', seed=1)
    """
    found: dict[str, dict[int, PretrainedModel]] = {}
    stems = [entry.name.removesuffix(".safetensors") for entry in _FOLDER.iterdir() if ".safetensors" in entry.name]
    for name, seed in sorted((match[1], int(match[2])) for match in map(_STEM.fullmatch, stems) if match):
        with as_file(_FOLDER / f"{name}-seed{seed}.safetensors") as path:
            found.setdefault(name, {})[seed] = read_pretrained(path)
    return found


def read_pretrained(path: Path) -> PretrainedModel:
    """Return what a file written by `noisyrnn export --format pretrained` states of its run.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds no run.
    """
    run = read_header(path).notes.get("run")
    if run is None:
        raise ValueError(f"path must be a file of `noisyrnn export --format pretrained`, got {path} without its run.")
    return PretrainedModel(**run)


def load_pretrained(name: str, *, seed: int = 1) -> SequenceModel:
    """Load a trained model of the package, in evaluation mode, on the CPU: the same input gives the same output.

    Its weights are those of the epoch that its training kept. They require gradients as in any model, so that training
    can continue; `model.requires_grad_(False)` saves time in attacks.

    Args:
        name: Key of `pretrained_models()`; `noisyrnn list` shows all.
        seed: Seed of its training.

    Returns:
        A `SequenceClassifier`, or the head of its training.

    Raises:
        ValueError: If there is no such model, or not with this seed.

    Example:
        >>> import torch
        >>> model = load_pretrained("digits-noisy")
        >>> model(torch.zeros(2, 64, 1)).shape, model.training
        (torch.Size([2, 10]), False)
    """
    with find_pretrained(name, seed).file() as path:
        return load(path, SequenceModel)


def find_pretrained(name: str, seed: int = 1) -> PretrainedModel:
    """Return what the package holds under a name and a seed; raises the same errors as `load_pretrained`."""
    models = pretrained_models()
    check_choice("name", name, models)
    check_integer("seed", seed, minimum=0)
    if seed not in models[name]:
        known = ", ".join(map(str, models[name]))
        raise ValueError(f"seed must be one of {known} for {name!r}, got {seed}. Train it: the model card shows how.")
    return models[name][seed]


def figure_of(column: Mapping[str, Any]) -> dict[str, Any]:
    """Return the main metric of a test result, without the values of its sequences.

    Args:
        column: A `RobustnessResult` as `to_dict` returns it and `robustness.json` holds it.

    Returns:
        Perturbation, strength, unit and `settings` (the perturbation's `repr`); `metric`, a key of `METRICS`, its
        `value` and its 95 % `interval`; and the number of `sequences`.
    """
    head = {name: column[name] for name in ("perturbation", "strength", "unit", "norm", "settings")}
    if "scores" in column:
        metric, score = next(iter(column["scores"].items()))
        value, interval = score["mean"], score["interval"]
    else:
        metric, value, interval = "accuracy", column["accuracy"], column["interval"]
    return {**head, "metric": metric, "value": value, "interval": list(interval), "sequences": column["sequences"]}
