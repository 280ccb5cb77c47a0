"""Named settings: what was published, and what was chosen on validation data for a data set."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from noisyrnn.checks import check_choice
from noisyrnn.training.config import TrainConfig

_FOLDER = files("noisyrnn") / "experiments"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One published row, or one model's settings for one data set.

    Args:
        name: Its file's name.
        source: Table and paper, or how the settings were chosen.
        train: Settings of `TrainConfig`.
        published: Published test accuracies in percent, by column; empty where there are none.
    """

    name: str
    source: str
    train: Mapping[str, Any]
    published: Mapping[str, float]


def published_experiments() -> dict[str, Experiment]:
    """The published rows, by name."""
    found = {}
    for file in sorted((_FOLDER / "published").iterdir(), key=lambda entry: entry.name):
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        name = file.name.removesuffix(".toml")
        found[name] = Experiment(
            name=name, source=content["source"], train=content["train"], published=content.get("published", {})
        )
    return found


def read_experiment(name: str) -> Experiment:
    """The published row called `name`.

    Raises:
        ValueError: If there is none.
    """
    experiments = published_experiments()
    check_choice("experiment", name, experiments)
    return experiments[name]


def recommended(dataset: str, model: str) -> dict[str, Any]:
    """Settings of `TrainConfig` chosen on validation data for a model on a data set, or the general ones.

    The file of a data set has a table `all` and one for each model; both leave out what stays at its default.
    """
    if not isinstance(dataset, str):
        raise TypeError(f"dataset must be a string, got {dataset!r}.")
    file = _FOLDER / "tuned" / f"{dataset}.toml"
    if not dataset.isidentifier() or not file.is_file():
        file = _FOLDER / "tuned" / "general.toml"
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    return {**content.get("all", {}), **content.get(model, {})}


def stated(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that a file must state for the same run: those that are set or would be recommended."""
    needed = recommended(config.dataset, config.model)
    return {name: value for name, value in config.to_dict().items() if value is not None or name in needed}
