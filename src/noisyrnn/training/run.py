"""One training run between two steps of its optimiser: what it holds, what it counts and what it writes."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from noisyrnn.data.base import Dataset
from noisyrnn.models import Head, SequenceClassifier
from noisyrnn.run_folder import RunFolder, content_digest
from noisyrnn.sde.brownian import BrownianPath
from noisyrnn.training.checkpoint import Checkpoint, Progress, copied
from noisyrnn.training.config import Precision, TrainConfig
from noisyrnn.training.divergence import DivergenceError, explain_divergence
from noisyrnn.training.objective import Objective, Trained, answered, noisy_loss, objective_digest
from noisyrnn.training.saving import check_savable, save

if TYPE_CHECKING:
    from lightning_fabric import Fabric

EpochHook = Callable[[Mapping[str, float]], None]
"""Called with the metrics of an epoch, the row that metrics.csv gets, once it is written."""


def fabric_on_cpu(precision: Precision) -> "Fabric":
    """The engine for one process on the CPU."""
    from lightning_fabric import Fabric  # two seconds to import

    return Fabric(accelerator="cpu", devices=1, precision=precision)


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    Args:
        history: One row of metrics for each epoch.
        best_epoch: The epoch, from 1, of the weights the model now has.
        best_validation_accuracy: Its accuracy on the validation data, in [0, 1]; `nan` for a regression.
        seconds: Training time, over all resumptions; of runs that are trained together, each has its share.
        validation_sequences: Number of validation sequences that this accuracy rests on.
        largest_class: Share of the largest class in the training data; `nan` for a regression.
    """

    history: list[dict[str, float]]
    best_epoch: int
    best_validation_accuracy: float
    seconds: float
    validation_sequences: int
    largest_class: float

    @property
    def not_fitted(self) -> str | None:
        """A note where the training data were not learned; else `None`, and for a regression.

        They were not where the training accuracy of the last epoch, measured with the noise of training, is below
        halfway between the share of the largest class and 1.
        """
        reached = self.history[-1].get("train_accuracy", math.nan)
        if not reached < (1 + self.largest_class) / 2:
            return None
        return (
            f"not fitted: the training accuracy is {100 * reached:.1f} % in the last epoch, the largest class has "
            f"{100 * self.largest_class:.1f} %. Train longer, or change the learning rate, the model or its noise."
        )


class Unrounded:
    """Values that Fabric passes on unchanged.

    It rounds bare inputs to float32 with mixed precision, and bare outputs to torch's default type: a loss in float64
    would lose digits, or keep them where another library has changed that type.
    """

    def __init__(self, *values: Any) -> None:
        self.values = values


class NoisyPass(nn.Module):
    """A model whose noise is given by two numbers: Fabric copies what it passes on, and takes no frozen path.

    Args:
        model: The classifier or regressor.
        objective: The training objective.
    """

    def __init__(self, model: Trained, objective: Objective = noisy_loss) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor,
        lengths: Tensor | None,
        seed: int | Tensor,
        first_row: int,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sums of the losses and of the right answers, taken here so that no conversion of logits comes between."""
        path = BrownianPath(seed=seed, first_row=first_row)
        losses, outputs = self.objective(self.model, inputs, labels, lengths, path)
        right = answered(outputs.detach(), labels)
        if weights is None:
            return losses.sum(), right.sum()
        return (losses * weights).sum(), (right * weights).sum()


class UnroundedPass(nn.Module):
    """A `NoisyPass` as Fabric runs it: its arguments and its two sums stay as they are.

    Args:
        noisy: What is run.
    """

    def __init__(self, noisy: NoisyPass) -> None:
        super().__init__()
        self.noisy = noisy

    def forward(self, given: Unrounded) -> Unrounded:
        """The sums that `NoisyPass` returns for the arguments `given`."""
        return Unrounded(*self.noisy(*given.values))


def origin_of(model: Trained, objective: Objective) -> dict[str, Any]:
    """What a checkpoint belongs to besides settings and data: sizes, digests of the architecture and the objective."""
    tensors = {
        name: [str(tensor.dtype), list(tensor.shape), tensor.requires_grad]
        for name, tensor in model.state_dict(keep_vars=True).items()
    }
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    layer = model.layer
    sizes = {"hidden_size": layer.hidden_size, "num_layers": layer.num_layers, "bidirectional": layer.bidirectional}
    return {
        "sizes": sizes,
        "architecture": content_digest({"repr": text, "tensors": tensors}),
        "objective": objective_digest(objective),
    }


class Run:
    """A model, its optimiser, how far they are, and the folder they are written to.

    Args:
        model: Trained in place.
        dataset: What it is trained on.
        config: Settings; those of the model are taken as built already.
        fabric: Device, precision and processes; the first process alone writes.
        folder: Where to write; `None` for nowhere.
        objective: The training objective.
        on_epoch: Called at the end of each epoch, on the first process alone.
        fingerprint: That of the data set, where it is known already.

    Attributes:
        progress: How far it is.
        best: Weights of the best epoch so far; `None` before there is one.
        noisy: The model as a `NoisyPass`.
        wrapped: The same as Fabric runs it, an `UnroundedPass`.

    Raises:
        ValueError: If the model does not fit the data.
    """

    def __init__(
        self,
        model: Trained,
        dataset: Dataset,
        config: TrainConfig,
        *,
        fabric: "Fabric",
        folder: RunFolder | None = None,
        objective: Objective = noisy_loss,
        on_epoch: EpochHook | None = None,
        fingerprint: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, Trained):
            advice = (
                "It answers at every step: train it in a loop of your own" if isinstance(model, Head) else "Wrap it"
            )
            raise TypeError(
                f"model must be a SequenceClassifier or a SequenceRegressor, got {type(model).__name__}. {advice}."
            )
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"dataset must be a Dataset, got {type(dataset).__name__}. Build one: Dataset(name=..., "
                "train=Split(...), validation=Split(...), ...), or use load_dataset or noisyrnn.estimators."
            )
        if isinstance(model, SequenceClassifier) != (dataset.classes > 0):
            kind = "SequenceClassifier" if dataset.classes else "SequenceRegressor"
            raise TypeError(
                f"model must be a {kind} for data with {dataset.classes} classes, got {type(model).__name__}."
            )
        for name, ours, theirs in (
            (
                "classes" if dataset.classes else "targets",
                getattr(model.readout, "out_features", dataset.outputs),  # a readout of the user's need not say it
                dataset.outputs,
            ),
            ("input_size", model.layer.input_size, dataset.input_size),
        ):
            if ours != theirs:
                raise ValueError(f"model must have {name} {theirs}, that of the data set, got {ours}.")
        if folder is not None:  # not after hours of training
            check_savable(model, class_names=dataset.class_names)
        self._given = model
        self.model = model = model.as_batch_first()
        self.config = config
        self.folder = folder if fabric.is_global_zero else None
        self.on_epoch = on_epoch if fabric.is_global_zero else None
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self.noisy = NoisyPass(model, objective)
        self._class_names = dataset.class_names
        self._largest_target = None if dataset.classes else float(dataset.validation.labels.abs().max())
        self._validation_sequences = len(dataset.validation)
        self._largest_class = math.nan
        if dataset.classes:
            self._largest_class = float(torch.bincount(dataset.train.labels).max()) / len(dataset.train)
        self._origin: dict[str, Any] = {}
        if self.folder is not None:
            self._origin = {**(fingerprint or dataset.fingerprint()), **origin_of(model, objective)}
        self._optimizer = torch.optim.Adam(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.wrapped, self._wrapped_optimizer = fabric.setup(UnroundedPass(self.noisy), self._optimizer)
        self.wrapped.train()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or too many have passed without a better one."""
        idle = self.progress.epoch - 1 - self.progress.best_epoch
        patience = self.config.patience
        return self.progress.epoch > self.config.epochs or (patience is not None and idle >= patience)

    def read_checkpoint(self) -> Checkpoint | None:
        """The folder's checkpoint, or `None` where there is none.

        Raises:
            ValueError: If it is damaged or belongs to other settings.
        """
        if self.folder is None or not self.folder.checkpoint.is_file():
            return None
        return Checkpoint.read(self.folder.checkpoint, self.config, self._origin)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Be where the checkpoint is."""
        self.model.load_state_dict(checkpoint.model)
        self._optimizer.load_state_dict(checkpoint.optimizer)
        self.progress, self.best = checkpoint.progress, checkpoint.best

    def write_checkpoint(self) -> None:
        """Write all that is needed to go on."""
        if self.folder is not None:
            state = copied(self.model.state_dict())
            optimizer = self._optimizer.state_dict()
            checkpoint = Checkpoint(self.config.to_dict(), self._origin, self.progress, state, optimizer, self.best)
            checkpoint.write(self.folder.checkpoint)

    def begin_step(self) -> None:
        """Forget the last gradients and take the learning rate of the epoch."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.progress.epoch)
        self._wrapped_optimizer.zero_grad()

    def end_step(self, loss: float, inputs: Tensor, lengths: Tensor | None, path: BrownianPath) -> None:
        """Clip the gradient and let the optimiser move.

        Args:
            loss: Sum of the losses that the gradient is of.
            inputs: What they were computed from, `(batch, steps, input_size)`.
            lengths: Their lengths, or `None`.
            path: Their noise.

        Raises:
            DivergenceError: If the loss or the gradient is not finite; the weights are left as they are.
        """
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        limit = float("inf") if self.config.clip_norm is None else self.config.clip_norm
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        if not (abs(loss) < float("inf") and norm < float("inf")):
            step, epoch = self.progress.step + 1, self.progress.epoch
            raise DivergenceError(explain_divergence(self.model, inputs, lengths, path, step, epoch, loss, norm))
        self._wrapped_optimizer.step()

    def count(self, loss_sum: float, correct: float, seen: int, seconds: float) -> None:
        """Add one step: sums of its losses and right answers, by their weights, its sequences, and the time it took."""
        progress = self.progress
        progress.loss_sum += loss_sum
        progress.correct += correct
        progress.seen += seen
        progress.batch += 1
        progress.step += 1
        progress.seconds += seconds
        progress.epoch_seconds += seconds

    def end_epoch(self, loss: float, accuracy: float) -> None:
        """Add a row to the history, keep the weights if they are the best so far, and move on to the next epoch.

        Args:
            loss: On the validation data.
            accuracy: On the validation data, in [0, 1]; `nan` for a regression, which goes by the loss alone.
        """
        progress = self.progress
        numbers = math.isnan(accuracy)
        finite = math.isfinite(loss)  # else the answers are none: such an epoch is never the best
        if not finite and self.best is None:
            raise DivergenceError(self._no_validation(loss))
        if finite and (
            loss < progress.best_loss if numbers else (accuracy, -loss) > (progress.best_accuracy, -progress.best_loss)
        ):
            progress.best_epoch, progress.best_accuracy, progress.best_loss = progress.epoch, accuracy, loss
            self.best = copied(self.model.state_dict())
        row = {
            "epoch": progress.epoch,
            "train_loss": progress.loss_sum / progress.seen,
            "train_accuracy": progress.correct / progress.seen,
            "validation_loss": loss,
            "validation_accuracy": accuracy,
            "learning_rate": self.config.learning_rate_at(progress.epoch),
            "seconds": round(progress.epoch_seconds, 3),
        }
        progress.history.append({name: row[name] for name in row if not (numbers and name.endswith("_accuracy"))})
        progress.epoch += 1
        progress.batch = progress.correct = progress.seen = 0
        progress.loss_sum = progress.epoch_seconds = 0.0
        if self.folder is not None:
            self.folder.write_metrics(progress.history)
        if self.on_epoch is not None:
            self.on_epoch(dict(progress.history[-1]))

    def _no_validation(self, loss: float) -> str:
        """Why no epoch can be chosen: a message."""
        said = f"validation loss is not finite after epoch {self.progress.epoch}, got {loss}"
        if not self._largest_target:
            return f"{said}. Lower learning_rate or step_size, or set clip_norm."
        power = round(math.log10(self._largest_target))
        return (
            f"{said}; the validation targets reach about 1e{power}. Give them in the unit of the training targets, or "
            "lower learning_rate or step_size."
        )

    def finish(self) -> FitResult:
        """Leave the model with its best weights, in evaluation mode, and write it."""
        self.write_checkpoint()
        assert self.best is not None
        self.model.load_state_dict(self.best)
        self.model.eval()
        self._given.eval()
        if self.folder is not None:
            save(self._given, self.folder.model, class_names=self._class_names)
        progress = self.progress
        return FitResult(
            history=progress.history,
            best_epoch=progress.best_epoch,
            best_validation_accuracy=progress.best_accuracy,
            seconds=progress.seconds,
            validation_sequences=self._validation_sequences,
            largest_class=self._largest_class,
        )
