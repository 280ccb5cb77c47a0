"""Named settings: published ones, and those chosen on validation data for a data set."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from noisyrnn.checks import check_choice
from noisyrnn.models.options import merge_options
from noisyrnn.training.config import TrainConfig

_FOLDER = files("noisyrnn") / "experiments"


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
    for file in sorted((_FOLDER / "published").iterdir(), key=lambda entry: entry.name):
        content = _read(file)
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


@dataclass(frozen=True, kw_only=True)
class ReproductionRow:
    """One row of a published table that is repeated.

    Args:
        train: Settings of `TrainConfig`, without seed and precision.
        published: Published test accuracies in percent, by column such as "white_noise 0.1"; empty if there are none.
    """

    train: Mapping[str, Any]
    published: Mapping[str, float]

    @property
    def label(self) -> str:
        """Name of the row; rows of one data set have different ones."""
        return str(self.train.get("label", self.train["model"]))

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.train["dataset"])


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A published table that is repeated: its rows, and the perturbations of the test data.

    Args:
        name: Name of the file.
        title: Heading.
        source: Where the accuracies were published, and what they are.
        published_seeds: Number of seeds behind a published accuracy, as text; empty if it is not known.
        notes: What a reader has to know.
        rows: The rows.
        strengths: For each data set, the strengths of each perturbation.
        evaluation: Numbers of draws and of attacked sequences, as `EvaluateConfig` names them.
        landscapes: Labels of the rows whose loss landscapes are drawn.
        readings: By title, columns of ours that are compared with published columns of other strengths.
    """

    name: str
    title: str
    source: str
    published_seeds: str
    notes: Sequence[str]
    rows: Sequence[ReproductionRow]
    strengths: Mapping[str, Mapping[str, Sequence[float]]]
    evaluation: Mapping[str, int]
    landscapes: Sequence[str]
    readings: Mapping[str, Mapping[str, str]]


def reproductions() -> dict[str, str]:
    """Return the titles of the published tables that can be repeated, by name."""
    found = sorted((_FOLDER / "reproductions").iterdir(), key=lambda entry: entry.name)
    return {file.name.removesuffix(".toml"): _read(file)["title"] for file in found}


def read_reproduction(name: str) -> Reproduction:
    """Return the published table called `name`, or the one that a .toml file of the same form describes.

    Raises:
        ValueError: If there is no such table, or the file lacks an entry, has an unknown one, or is not TOML.
    """
    if not isinstance(name, str):
        raise TypeError(f"table must be a string, got {name!r}.")
    file: Traversable = Path(name)
    if not name.endswith(".toml"):
        check_choice("table", name, reproductions())
        file = _FOLDER / "reproductions" / f"{name}.toml"
    elif not file.is_file():
        raise ValueError(f"table must be a published table or an existing .toml file, got {name!r}.")
    try:
        return _reproduction(Path(name).stem, _read(file))
    except (AttributeError, KeyError, LookupError, TypeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"table must be a file with title, source, rows and strengths, got {name!r} ({type(error).__name__}: "
            f"{error}). Compare it with {_FOLDER / 'reproductions' / 'ordered-mnist.toml'}."
        ) from error


_ENTRIES = ("title", "source", "published_seeds", "notes", "landscapes", "evaluation", "strengths", "rows", "readings")
_ROW_ENTRIES = ("experiment", "train", "published")


def _reproduction(name: str, content: Mapping[str, Any]) -> Reproduction:
    """Build a reproduction from the content of its file."""
    for entry in content:
        check_choice("entry of the table", entry, _ENTRIES)
    rows = []
    for row in content["rows"]:
        for entry in row:
            check_choice("entry of a row", entry, _ROW_ENTRIES)
        if "experiment" in row:
            experiment = read_experiment(row["experiment"])
            base, published = experiment.train, experiment.published
        else:
            base, published = recommended(row["train"]["dataset"], row["train"]["model"]), {}
        train = merge_options(base, row.get("train", {}))
        rows.append(ReproductionRow(train=train, published=row.get("published", published)))
    names = [(row.dataset, row.label) for row in rows]
    for place in names:
        if names.count(place) > 1:
            raise ValueError(f"rows must have different labels, got {place[1]!r} twice for {place[0]}. Set label.")
    for label in content.get("landscapes", ()):
        check_choice("label in landscapes", label, [row.label for row in rows])
    for row in rows:
        check_choice("data set in strengths", row.dataset, content["strengths"])
    return Reproduction(
        name=name,
        title=content["title"],
        source=content["source"],
        published_seeds=str(content.get("published_seeds", "")),
        notes=tuple(content.get("notes", ())),
        rows=tuple(rows),
        strengths=content["strengths"],
        evaluation=content.get("evaluation", {}),
        landscapes=tuple(content.get("landscapes", ())),
        readings={entry["title"]: entry["columns"] for entry in content.get("readings", ())},
    )


def recommended(dataset: str, model: str) -> dict[str, Any]:
    """Return the settings chosen on validation data for a model on a data set, or the general settings.

    The file of a data set has a table `all` and one per model; both leave out settings with default values.
    """
    if not isinstance(dataset, str):
        raise TypeError(f"dataset must be a string, got {dataset!r}.")
    file = _FOLDER / "tuned" / f"{dataset}.toml"
    if not dataset.isidentifier() or not file.is_file():
        file = _FOLDER / "tuned" / "general.toml"
    content = _read(file)
    return {**content.get("all", {}), **content.get(model, {})}


def search_space(model: str) -> dict[str, Any]:
    """Return where a sweep searches which settings of a model by default."""
    space: dict[str, Any] = _read(_FOLDER / "search_spaces.toml")[model]
    return space


def _read(file: Traversable) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def stated(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that a file must state for the same run: those that are set or would be recommended."""
    needed = recommended(config.dataset, config.model)
    return {name: value for name, value in config.to_dict().items() if value is not None or name in needed}
