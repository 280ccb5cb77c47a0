"""Named settings: published ones, and those chosen on validation data for a data set."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from noisyrnn.checks import check_choice
from noisyrnn.models.options import merge_options
from noisyrnn.training.config import TrainConfig

FOLDER = files("noisyrnn") / "experiments"
"""Files with settings, which are part of the package."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Published settings of an experiment, or settings of a model for a data set.

    Args:
        name: Name of the file.
        source: Table and paper, or how the settings were chosen.
        train: Settings of `TrainConfig`.
        published: Published test accuracies in percent, by column; empty if there are none.
    """

    name: str
    source: str
    train: Mapping[str, Any]
    published: Mapping[str, float]


def published_experiments() -> dict[str, Experiment]:
    """Return all published experiments by name."""
    experiments = {}
    for file in sorted((FOLDER / "published").iterdir(), key=lambda entry: entry.name):
        content = read_toml(file)
        name = file.name.removesuffix(".toml")
        experiments[name] = Experiment(
            name=name, source=content["source"], train=content["train"], published=content.get("published", {})
        )
    return experiments


def read_experiment(name: str) -> Experiment:
    """Return the published experiment called `name`.

    Raises:
        ValueError: If there is no such experiment.
    """
    experiments = published_experiments()
    check_choice("experiment", name, experiments)
    return experiments[name]


def recommended(dataset: str, model: str) -> dict[str, Any]:
    """Return the settings chosen on validation data for a model on a data set, or the general settings.

    The file of a data set has a table `all` and one per model; both leave out settings with default values.
    """
    if not isinstance(dataset, str):
        raise TypeError(f"dataset must be a string, got {dataset!r}.")
    file = FOLDER / "tuned" / f"{dataset}.toml"
    if not dataset.isidentifier() or not file.is_file():
        file = FOLDER / "tuned" / "general.toml"
    content = read_toml(file)
    return {**content.get("all", {}), **content.get(model, {})}


REPLACED_BY = {"epochs": "min_steps", "decay_epochs": "decay_after"}
"""By setting: the recommended setting that has no effect where the user gives the first one."""


def merge_settings(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return recommended or published settings with those that the user gave in their place.

    A setting of `base` that would change what the user gave is left out: `--epochs 5` means 5 epochs.

    Example:
        >>> merge_settings({"epochs": 100, "min_steps": 2000, "hidden_size": 64}, {"epochs": 5})
        {'epochs': 5, 'hidden_size': 64}
    """
    replaced = {name for setting, name in REPLACED_BY.items() if given.get(setting) is not None}
    return merge_options({name: value for name, value in base.items() if name not in replaced}, given)


def search_space(model: str) -> dict[str, Any]:
    """Return where a sweep searches which settings of a model by default."""
    spaces = read_toml(FOLDER / "search_spaces.toml")
    space: dict[str, Any] = spaces.get(model, spaces["general"])
    return space


def read_toml(file: Traversable) -> dict[str, Any]:
    """Return the content of a TOML file."""
    return tomllib.loads(file.read_text(encoding="utf-8"))


def stated(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that a file must state for the same run: those that are set or would be recommended."""
    needed = recommended(config.dataset, config.model)
    return {name: value for name, value in config.to_dict().items() if value is not None or name in needed}
