"""A data set: labelled sequences in three disjoint parts, and what a training depends on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from noisyrnn.data.scale import Scale
from noisyrnn.data.split import Split, steps_text
from noisyrnn.data.stored import StoredSequences
from noisyrnn.data.summary import shown_names, summarize
from noisyrnn.display import html_table
from noisyrnn.targets import moments


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A data set with disjoint training, validation and test parts; the test part is read when it is first used.

    Args:
        name: Its name on the command line.
        train: Sequences that weights are fitted to.
        validation: Sequences that settings and the best epoch are chosen on; taken from the official training part.
        read_test: Reads the test part. Only the evaluation of a finished model calls it, through `test`.
        class_names: One name for each class index; none for a regression.
        value_range: Smallest and largest value an input can take, as images state it; `None` where no limit is stated.
            It decides the unit of strengths: that of the data, else the standard deviation of each channel.
        standardize: Whether a model should standardise its inputs by the training statistics.
        image_shape: Rows and columns when a sequence is an image read pixel by pixel, for drawing; else `None`.
        source: Where it comes from and how it is split, in one sentence.
        test_size: Number of test sequences, if it is known before they are read.
        nominal_step: Time that a step of length 1 takes, in the unit of the time stamps; `None` without time stamps.
        channel_names: Name of each channel, in order; none where the file does not name them.

    Raises:
        ValueError: If there are names, but not one for each channel.
    """

    name: str
    train: Split
    validation: Split
    read_test: Callable[[], Split] = field(repr=False)
    class_names: tuple[str, ...]
    value_range: tuple[float, float] | None
    standardize: bool
    image_shape: tuple[int, int] | None = None
    source: str = ""
    test_size: int | None = None
    nominal_step: float | None = None
    channel_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.channel_names and len(self.channel_names) != self.input_size:
            raise ValueError(
                f"channel_names must hold one name for each of {self.input_size} channels, got "
                f"{len(self.channel_names)}. Leave it out if the channels have no names."
            )

    def _described(self) -> list[tuple[str, str]]:
        """What a reader asks for first, as names and texts; the test part is not read."""
        test = self.known_test_size
        named = f" ({shown_names(self.channel_names)})" if self.channel_names else ""
        rows = [
            ("training sequences", f"{len(self.train)}"),
            ("validation sequences", f"{len(self.validation)}"),
            ("test sequences", "not read yet" if test is None else f"{test}"),
            ("steps", steps_text(self.train)),
            ("channels", f"{self.input_size}{named}"),
        ]
        if self.classes:
            rows.append(("classes", f"{self.classes} ({shown_names(self.class_names)})"))
        else:
            rows.append(("values to predict", f"{self.outputs}"))
        return [*rows, ("labels", "at every step")] if self.every_step else rows

    def __repr__(self) -> str:
        """Describe the data set in two lines; the test part is not read."""
        (_, train), (_, validation), (_, test), *others = self._described()
        parts = f"{train} training, {validation} validation, {test} test sequences"
        if not test.isdecimal():
            parts = f"{train} training, {validation} validation sequences, test part {test}"
        return f"Dataset({self.name!r}: {parts};\n  {'; '.join(f'{name}: {value}' for name, value in others)})"

    def _repr_html_(self) -> str:
        """Describe the data set in a table, for notebooks; the test part is not read."""
        return html_table(self.name, self._described(), notes=[self.source] if self.source else [])

    @property
    def known_test_size(self) -> int | None:
        """Number of test sequences; `None` if it takes reading them to know."""
        return len(self.test) if "test" in vars(self) else self.test_size  # a cached property is among the attributes

    @cached_property
    def test(self) -> Split:
        """The test part, read on first use."""
        return self.read_test()

    @cached_property
    def scale(self) -> Scale | None:
        """Mean, standard deviation and extremes of each channel of `train`, for data that state no range of values."""
        return Scale.of(self.train) if self.value_range is None else None

    @property
    def classes(self) -> int:
        """Number of classes, 0 for a regression."""
        return len(self.class_names)

    @property
    def outputs(self) -> int:
        """Outputs of a model for one sequence or one step: one for each class, or one for each target."""
        return self.classes or self.train.labels.shape[-1]

    @property
    def every_step(self) -> bool:
        """Whether there is a label at every step, rather than one for each sequence."""
        return self.train.every_step

    @property
    def input_size(self) -> int:
        """Number of channels of one step."""
        return self.train.inputs.shape[2]

    @property
    def missing(self) -> str | None:
        """How missing values are met, a key of `MISSING`; `None` if there are none."""
        return self.train.missing

    @property
    def steps(self) -> int:
        """Steps of the longest training sequence."""
        return self.train.inputs.shape[1]

    def with_missing(self, missing: str | None) -> "Dataset":
        """Return the data set with another `missing`, so that a model is built that can meet missing values."""
        train, validation = (replace(part, missing=missing) for part in (self.train, self.validation))
        return replace(self, train=train, validation=validation, read_test=lambda: replace(self.test, missing=missing))

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that a training depends on, JSON-ready; the test part is not read."""
        return {
            "train": self.train.fingerprint(),
            "validation": self.validation.fingerprint(),
            "class_names": list(self.class_names),
            "value_range": None if self.value_range is None else list(self.value_range),
            "standardize": self.standardize,
            **({} if self.missing is None else {"missing": self.missing}),  # runs without it keep their digest
        }

    def summary(self) -> str:
        """Describe the data in one line and a small table of classes or targets, and of channels if there are several.

        The test part is not read, so everything but its size is of the training and validation parts, and shares and
        values are of the training part.
        """
        return summarize(
            self.name,
            self.train,
            self.validation,
            test_size=self.known_test_size,
            class_names=self.class_names,
            channel_names=self.channel_names,
        )

    def target_statistics(self) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation of each target over `train`, float64 `(outputs,)`, for a regression.

        Targets at every step count so that each sequence has the same share, as in the loss, and a sequence counts by
        its weight. A target that never varies gets the standard deviation 1.
        """
        mean, variance = moments(self.train.labels, self.train.weights)
        return mean, torch.where(variance > 0, variance.sqrt(), 1.0)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation of each channel over valid steps of `train`, float64 `(input_size,)`.

        A sequence counts by its weight, as in the loss: one of weight 2 counts as two of weight 1. A channel that
        never varies gets the standard deviation 1, so that dividing by it is harmless. Missing values do not count; a
        channel without any value has mean 0. Inputs that stay in their files are read in one pass, in which all
        sequences count equally.
        """
        if isinstance(self.train.inputs, StoredSequences):
            scan = self.train.inputs.scan
            return scan.mean, torch.where(scan.std > 0, scan.std, 1.0)
        valid = self.train.valid()
        values = self.train.inputs[valid].double()
        share = None
        weights = self.train.weights
        if weights is not None and bool((weights != weights[0]).any()):  # equal weights give the same bits as none
            share = weights.double().repeat_interleave(valid.sum(dim=1))
            values, share = values[share > 0], share[share > 0]
        if not bool(values.isnan().any()):
            return mean_and_std(values, share)
        columns = []
        for column in values.T:
            known = ~column.isnan()
            columns.append(mean_and_std(column[known][:, None], None if share is None else share[known]))
        mean, std = (torch.cat(parts) for parts in zip(*columns, strict=True))
        return mean, std


def mean_and_std(values: Tensor, share: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each column, 1 where it never varies; 0 and 1 where there is no value.

    Args:
        values: Float64 `(n, columns)`.
        share: Weight of each row, above 0; `None` if all have the same.
    """
    if len(values) == 0:
        return torch.zeros_like(values.sum(dim=0)), torch.ones_like(values.sum(dim=0))
    offsets = values - values[0]  # exact zeros where all are equal, and small where all are far from zero
    if share is None:
        mean, std = offsets.mean(dim=0), offsets.std(dim=0, correction=0)
    else:
        share = share / share.sum()
        mean = share @ offsets
        std = (share @ (offsets - mean) ** 2).sqrt()
    return values[0] + mean, torch.where(std > 0, std, 1.0)
