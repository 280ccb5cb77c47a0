"""Where and how commands and stages run: settings that do not change results."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from noisyrnn.checks import check_choice, check_flag, check_number, check_show_progress
from noisyrnn.data import load_dataset
from noisyrnn.data.dataset import Dataset
from noisyrnn.pipeline.devices import ACCELERATORS
from noisyrnn.pipeline.tracking import check_logger
from noisyrnn.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Where and how commands and stages run: settings that do not change results.

    Calls that share a context read each data set once.

    Args:
        output: Folder for the results; created if missing.
        data_dir: Folder to search for data first (default: only the usual folders, which `noisyrnn doctor` shows).
        accelerator: Device to use: "auto" (the GPU if there is one), "cpu" or "cuda".
        resume: Resume an unfinished run from its last checkpoint.
        checkpoint_seconds: Seconds between checkpoints, at least 0.
        keep_epochs: Keep the weights after every epoch too, in the folder epochs of the run's folder.
        show_progress: Show progress on stderr; None shows it on a terminal and in a notebook only.
        logger: Where to write metrics: "csv" (metrics.csv only), or in addition "tensorboard" (the folder tensorboard
            in the run's folder) or "mlflow" (the server that MLFLOW_TRACKING_URI names, or mlflow.db in the output
            folder).

    Raises:
        ValueError: If a value is not one of those above, or the logger's package is missing.
    """

    output: Path = Path("runs")
    data_dir: Path | None = None
    accelerator: str = "auto"
    resume: bool = False
    checkpoint_seconds: float = 30.0
    keep_epochs: bool = False
    show_progress: bool | None = None
    logger: str = "csv"
    _read: dict[tuple[Any, ...], Dataset] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", Path(self.output))
        if self.data_dir is not None:  # absolute: workers may start in another folder
            object.__setattr__(self, "data_dir", Path(self.data_dir).expanduser().absolute())
        check_choice("accelerator", self.accelerator, ACCELERATORS)
        check_flag("resume", self.resume)
        check_show_progress(self.show_progress)
        check_number("checkpoint_seconds", self.checkpoint_seconds, minimum=0.0)
        check_flag("keep_epochs", self.keep_epochs)
        check_logger(self.logger)

    def read_data(self, config: TrainConfig) -> Dataset:
        """Return the data set of a run, which is read once for all calls with this context."""
        key = (config.dataset, config.values_per_step, config.reading)
        if key not in self._read:
            self._read[key] = load_dataset(
                config.dataset,
                data_dir=self.data_dir,
                values_per_step=config.values_per_step,
                **config.reading.stated(),
            )
        return self._read[key]

    def replace(self, **changes: Any) -> "RunContext":
        """Return a copy with other values, which has the data that were read."""
        copy = replace(self, **changes)
        if copy.data_dir == self.data_dir:
            object.__setattr__(copy, "_read", self._read)
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_read": {}}  # a worker reads for itself
