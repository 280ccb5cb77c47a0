"""Reads the files that describe the published tables."""

import tomllib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from noisyrnn.checks import check_choice
from noisyrnn.published_table import Reproduction, ReproductionRow
from noisyrnn.training.settings import FOLDER, merge_settings, read_experiment, read_toml, recommended


def reproductions() -> dict[str, str]:
    """Return the titles of the published tables that can be repeated, by name."""
    found = sorted((FOLDER / "reproductions").iterdir(), key=lambda entry: entry.name)
    return {file.name.removesuffix(".toml"): read_toml(file)["title"] for file in found}


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
        file = FOLDER / "reproductions" / f"{name}.toml"
    elif not file.is_file():
        raise ValueError(f"table must be a published table or an existing .toml file, got {name!r}.")
    try:
        return _reproduction(Path(name).stem, read_toml(file))
    except (AttributeError, KeyError, LookupError, TypeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"table must be a file with title, source, rows and strengths, got {name!r} ({type(error).__name__}: "
            f"{error}). Compare it with {FOLDER / 'reproductions' / 'ordered-mnist.toml'}."
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
        train = merge_settings(base, row.get("train", {}))
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
