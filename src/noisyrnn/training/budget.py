"""What the settings of a training become on a data set of a given size: epochs, decay, and the parts it fits."""

from dataclasses import dataclass, replace
from typing import Literal

from noisyrnn.data.dataset import Dataset
from noisyrnn.data.stored import StoredSequences
from noisyrnn.training.config import TrainConfig

FEWEST_VALIDATION = 30
"""With fewer validation sequences an epoch chosen by them is chosen by chance: 29 of 29 right means [90, 100] %."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The settings and the data that a training uses.

    Args:
        config: Settings whose `epochs`, `decay_epochs` and `select` hold for these data.
        dataset: The data, whose training part holds the validation part too where `select` is "refit".
        changes: What the size of the data changed in the settings, one phrase each; empty if nothing.
    """

    config: TrainConfig
    dataset: Dataset
    changes: tuple[str, ...]

    @classmethod
    def of(cls, config: TrainConfig, dataset: Dataset) -> "Budget":
        """Return the budget of a training.

        Args:
            config: As the user gave it. Settings without `min_steps` and `decay_after`, with another `select` than
                "auto" and "refit", stay unchanged.
            dataset: The test part is not read.
        """
        changes = []
        select, count = _select(config, dataset), _held_out(dataset)
        if select == "refit":
            dataset = refitted(dataset)
            why = f", since it would have {count} sequences, fewer than {FEWEST_VALIDATION}" * (config.select == "auto")
            changes.append(
                f"no validation{why}: all {len(dataset.train):,} sequences are trained on and the last epoch is kept"
            )
        size = len(dataset.train)
        epochs = _epochs(config, size)
        if epochs > config.epochs:
            per_epoch = -(-size // config.batch_size)
            what = f"{epochs * per_epoch:,} optimizer steps of {min(config.batch_size, size)} sequences"
            changes.append(f"{epochs:,} epochs instead of {config.epochs:,}, which are {what}")
        decays = config.decay_epochs
        if config.decay_after is not None:
            decays = (max(1, round(config.decay_after * epochs)),)
        config = replace(
            config,
            epochs=epochs,
            min_steps=None,
            decay_epochs=decays,
            decay_after=None,
            select=select,
        )
        return cls(config=config, dataset=dataset, changes=tuple(changes))

    @property
    def text(self) -> str:
        """The changes in one sentence; empty if there are none."""
        if not self.changes:
            return ""
        return f"adapted to few sequences: {'; '.join(self.changes)}."


def planned_epochs(config: TrainConfig, dataset: Dataset) -> int:
    """Return the epochs of a training, those of its `Budget`."""
    refit = _select(config, dataset) == "refit" and dataset.validation is not dataset.train
    return _epochs(config, len(dataset.train) + (len(dataset.validation) if refit else 0))


def _select(config: TrainConfig, dataset: Dataset) -> Literal["clean", "perturbed", "last", "refit"]:
    """Return by what the kept epoch is selected.

    Raises:
        ValueError: If it is "refit" for data that stay on disk.
    """
    stored = isinstance(dataset.train.inputs, StoredSequences)
    if config.select == "refit" and stored:
        raise ValueError("select must be 'clean' or 'last' for data that stay on disk, got 'refit'.")
    if config.select != "auto":
        return config.select
    few = _held_out(dataset) < FEWEST_VALIDATION and config.patience is None and not stored
    return "refit" if few else "clean"


def _held_out(dataset: Dataset) -> int:
    """Return the number of validation sequences; 0 where validation is on those of the training."""
    return 0 if dataset.validation is dataset.train else len(dataset.validation)


def _epochs(config: TrainConfig, size: int) -> int:
    """Return the epochs for `size` training sequences."""
    needed = 0 if config.min_steps is None else -(-config.min_steps // -(-size // config.batch_size))
    return max(config.epochs, needed)


def refitted(dataset: Dataset) -> Dataset:
    """Return a data set that trains on its validation sequences too; the units of strengths stay unchanged."""
    if dataset.validation is dataset.train:  # as estimators have it that hold nothing out
        return dataset
    joined = replace(dataset, train=dataset.train.joined(dataset.validation))
    vars(joined)["scale"] = dataset.scale  # the cached value
    return joined
