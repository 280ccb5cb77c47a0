"""Baselines to compare a trained network with: a constant answer, the nearest neighbour, and ROCKET."""

import importlib
import importlib.util
from abc import ABC, abstractmethod
from typing import Any, final

import torch
from torch import Tensor

from noisyrnn.checks import check_flag
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.missing import hold_last
from noisyrnn.padding import repeat_last
from noisyrnn.targets import moments

MOST_PRODUCTS = 2 * 10**10
"""Largest number of products that the nearest neighbours of the test sequences may take: some seconds for each pass."""
MOST_VALUES = 300_000
"""Largest number of values of the training and test sequences that ROCKET transforms: about a minute for each pass."""


class Baseline(ABC):
    """A fitted baseline, called as a model: inputs `(batch, steps, channels)` to logits or values, without gradients.

    Args:
        train: All sequences to fit to.
        mean: Mean of each channel, float64 `(channels,)`, by which inputs are standardized.
        std: Standard deviation of each channel, likewise.
    """

    def __init__(self, train: Split, mean: Tensor, std: Tensor) -> None:
        self.train = train
        self.mean, self.std = mean, std

    @property
    def missing(self) -> str | None:
        """How missing values are met, a key of `MISSING`, if the data have any."""
        return None if self.train.missing is None else "hold"

    def standardize(self, inputs: Tensor, lengths: Tensor | None, steps: int) -> Tensor:
        """Return standardized sequences of equal length, float64: shorter ones repeat their last value.

        A missing value is the last one before it; where there is none it is 0, the mean of a standardized channel.
        """
        values = hold_last((inputs.cpu().double() - self.mean) / self.std)
        return repeat_last(values, None if lengths is None else lengths.cpu(), steps)

    @abstractmethod
    def answer(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Return logits or values, float64 on the CPU."""

    @final
    @torch.no_grad()
    def __call__(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return logits `(batch, classes)` or values `(batch, targets)`; for labels at every step one at each."""
        return self.answer(inputs, lengths).to(inputs.device)


@final
class Constant(Baseline):
    """Always answers the largest class of the training labels, or the mean of the targets."""

    def answer(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the same answer for each sequence, or for each of its steps."""
        labels, classes = self.train.labels.cpu(), self.train.classes
        shared = moments(labels)[0] if not classes else labels[labels >= 0].bincount(minlength=classes).double()
        batch, steps, _ = inputs.shape
        return shared.expand(*((batch, steps) if self.train.every_step else (batch,)), len(shared))


@final
class NearestNeighbour(Baseline):
    """Answers the label of the nearest training sequence by Euclidean distance: 1-NN.

    Sequences are standardized, and shorter ones repeat their last value. The logit of a class is the negative distance
    to its nearest sequence.
    """

    def answer(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Return negative distances of the classes, or the values of the nearest sequence."""
        steps = max(inputs.shape[1], self.train.inputs.shape[1])
        known = self.standardize(self.train.inputs[:], self.train.lengths, steps).flatten(1)
        centre = known.mean(dim=0)  # distances are computed by products, which lose the digits of values far from zero
        distances = torch.cdist(self.standardize(inputs, lengths, steps).flatten(1) - centre, known - centre)
        labels = self.train.labels.cpu()
        if not self.train.classes:
            return labels[distances.argmin(dim=1)].double()
        nearest = distances.new_full((len(distances), self.train.classes), torch.inf)
        nearest.scatter_reduce_(1, labels.expand(len(distances), -1), distances, "amin")
        absent = distances.amax() + 1  # of a class without a training sequence
        return -torch.where(nearest.isinf(), absent, nearest)


@final
class Rocket(Baseline):
    """Ridge regression on random convolutions (ROCKET, 10,000 kernels), as aeon implements it, fitted at once.

    Reference:
        Dempster et al., ROCKET: exceptionally fast and accurate time series classification using random convolutional
        kernels, Data Mining and Knowledge Discovery 2020.
    """

    def __init__(self, train: Split, mean: Tensor, std: Tensor, seed: int = 0) -> None:
        super().__init__(train, mean, std)
        part, kind = ("classification", "RocketClassifier") if train.classes else ("regression", "RocketRegressor")
        module: Any = importlib.import_module(f"aeon.{part}.convolution_based")
        self.steps = train.inputs.shape[1]
        self._fitted = getattr(module, kind)(random_state=seed)
        self._fitted.fit(self._array(train.inputs[:], train.lengths), train.labels.cpu().numpy().reshape(-1))

    def _array(self, inputs: Tensor, lengths: Tensor | None) -> Any:
        """Return an array `(n, channels, steps)`; sequences longer than all of training are cut."""
        values = self.standardize(inputs, lengths, max(self.steps, inputs.shape[1]))
        return values[:, : self.steps].transpose(1, 2).contiguous().numpy()

    def answer(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Return 1 for the predicted class and 0 for the others, or the predicted values."""
        answers = self._fitted.predict(self._array(inputs, lengths))
        found = torch.as_tensor(answers, dtype=torch.float64, device="cpu")
        if not self.train.classes:
            return found.reshape(-1, 1)
        return torch.nn.functional.one_hot(found.long(), self.train.classes).double()


def has_aeon() -> bool:
    """Whether aeon is installed, which ROCKET needs."""
    return importlib.util.find_spec("aeon") is not None


def baselines(dataset: Dataset, *, rocket: bool | None = None) -> dict[str, Baseline]:
    """Fit the baselines of a data set to all of its sequences but those of the test part.

    They are the largest class ("majority class", or "mean" of the targets), and with one label for each sequence the
    nearest neighbour ("1-NN") and, where aeon is installed, "ROCKET". Data that are too many for one have the reason in
    `skipped_baselines`, which counts the test sequences; nothing else of the test part is used.

    Args:
        dataset: Its training and validation parts are fitted.
        rocket: Whether to fit ROCKET (default: where aeon is installed and the data are not too many).

    Returns:
        By name, callables that `evaluate` and `noisyrnn.compare_models` take; they are not attacked, since they have no
        gradients.

    Raises:
        ModuleNotFoundError: If `rocket` is true and aeon is not installed.

    Example:
        >>> train = Split(inputs=torch.tensor([[[1.0]], [[2.0]], [[7.0]]]), labels=torch.tensor([0, 0, 1]), classes=2)
        >>> names = {"class_names": ("low", "high"), "value_range": None, "standardize": True}
        >>> data = Dataset(name="levels", train=train, validation=train, read_test=lambda: train, **names)
        >>> fitted = baselines(data, rocket=False)
        >>> {name: model(torch.tensor([[[6.0]]])).argmax().item() for name, model in fitted.items()}
        {'majority class': 0, '1-NN': 1}
    """
    if rocket is not None:
        check_flag("rocket", rocket)
    train = dataset.train.joined(dataset.validation)
    mean = torch.zeros(dataset.input_size, dtype=torch.float64, device="cpu")
    std = torch.ones_like(mean)
    if dataset.standardize:
        mean, std = (part.cpu() for part in dataset.statistics())
    fitted: dict[str, Baseline] = {"majority class" if dataset.classes else "mean": Constant(train, mean, std)}
    skipped = skipped_baselines(dataset)
    if "1-NN" not in skipped:
        fitted["1-NN"] = NearestNeighbour(train, mean, std)
    if rocket or (rocket is None and has_aeon() and "ROCKET" not in skipped):
        fitted["ROCKET"] = Rocket(train, mean, std)
    return fitted


def skipped_baselines(dataset: Dataset) -> dict[str, str]:
    """Return the baselines that a data set has not, each with the reason."""
    if dataset.every_step:
        return dict.fromkeys(("1-NN", "ROCKET"), "there is a label at every step")
    parts = (dataset.train, dataset.validation, dataset.test)
    train, validation, test = (len(part) for part in parts)
    values = max(part.inputs.shape[1] for part in parts) * dataset.input_size
    skipped = {}
    if (train + validation) * test * values > MOST_PRODUCTS:
        skipped["1-NN"] = f"{train + validation:,} × {test:,} sequences are too many"
    if (train + validation + test) * values > MOST_VALUES:
        skipped["ROCKET"] = f"{train + validation + test:,} sequences of {values:,} values are too many"
    elif not dataset.classes and dataset.outputs > 1:
        skipped["ROCKET"] = f"there are {dataset.outputs} targets"
    return skipped
