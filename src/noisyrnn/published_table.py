"""A published table: its rows and their published values, and what they are measured under."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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
