"""Trains a model: the loop over epochs and steps, the weights that are kept, and the files."""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from noisyrnn.checks import check_flag, check_number, check_show_progress, known_lengths
from noisyrnn.data.dataset import Dataset
from noisyrnn.data.split import Split
from noisyrnn.data.stored import StoredSequences, read_ahead
from noisyrnn.files import content_digest
from noisyrnn.interruption import graceful_interrupt
from noisyrnn.locks import locked
from noisyrnn.models.heads import SequenceModel
from noisyrnn.noise.brownian import BrownianPath, derive_seed
from noisyrnn.progress import ProgressBar
from noisyrnn.run_folder import RunFolder
from noisyrnn.targets import largest_share, without_marks
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.batches import (
    BatchPart,
    TrainingBatch,
    TrainingPass,
    epoch_batches,
    rows_on,
    select_sequences,
    step_noise,
)
from noisyrnn.training.budget import Budget
from noisyrnn.training.checkpoint import Checkpoint, Progress, copied
from noisyrnn.training.config import Precision, TrainConfig, check_precision
from noisyrnn.training.divergence import DivergenceError, explain_divergence
from noisyrnn.training.fit_result import FitResult
from noisyrnn.training.objective import Objective, check_objective, objective_digest
from noisyrnn.training.optimizer import RatedOptimizer, orthogonal_parameters
from noisyrnn.training.saving import check_savable, save
from noisyrnn.training.schedules import learning_rate_at, noise_factor_at
from noisyrnn.training.suitability import check_times, check_trainable
from noisyrnn.training.validation import is_better, validate
from noisyrnn.training.weight_average import WeightAverage

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from noisyrnn.training.perturbed_inputs import PerturbedInputs

EpochHook = Callable[[Mapping[str, float]], None]
"""Called with the metrics of an epoch, the row that metrics.csv gets, once it is written."""

_PERTURBED = ("perturbed_loss", "perturbed_accuracy")


@reproducible_threads()
def fit(
    model: SequenceModel,
    dataset: Dataset,
    config: TrainConfig,
    *,
    objective: Objective | None = None,
    folder: RunFolder | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    keep_epochs: bool = False,
    show_progress: bool | None = None,
    fabric: "Fabric | None" = None,
    on_epoch: EpochHook | None = None,
) -> FitResult:
    """Train `model` in place; it ends with the weights of its best validation epoch, or of the epoch `select` names.

    The order of the data and the noise depend on the seed, the epoch and the step only, so a resumed run ends in the
    same bits. The number of threads does not change them either: torch's own operations run on one thread, the kernels
    and the noise on all. In a distributed run every process takes a part of each batch, and the noise of its own rows.

    Args:
        model: Its initial weights are where training starts. With `noise_mode="on"` validation has its noise too.
        dataset: `train` is fitted and `validation` decides the best epoch, by accuracy and then loss, or for a
            regression by loss only; `test` is not read.
        config: Settings; those of the model are not used, since it is built already. `min_steps`,
            `decay_after` and `select="auto"` depend on the number of sequences; `FitResult.adapted` has their effect.
        objective: What is minimized, a function of `(model, inputs, labels, lengths, path)` as `Objective` states;
            by default the model's loss with the noise on. The epoch is chosen by the model's loss all the same. A
            `penalty` of `config` needs it: `noisyrnn.pipeline.objective_of(config, dataset)`.
        folder: Where metrics, checkpoints and the weights are written; nowhere by default.
        resume: Resume from the folder's checkpoint, where there is one.
        checkpoint_seconds: Time between two checkpoints, at least 0 (after every step); the end gets one too.
        keep_epochs: Whether to keep the weights after every epoch too, as `RunFolder.epoch_model` names them.
        show_progress: Whether to show a progress bar, or lines where stderr is not a terminal; `None` shows a bar on a
            terminal and in a notebook, and nothing elsewhere.
        fabric: Device, precision and processes; this process's CPU by default.
        on_epoch: Called on the first process with the metrics of each epoch, the row that metrics.csv gets, once it is
            written. What it raises ends the training.

    Raises:
        TypeError: If an argument has another type, or the objective cannot be called or returns anything else.
        RuntimeError: If the loss or a gradient is no longer finite; what was saved before is left unchanged.
        KeyboardInterrupt: If the user stopped the run, after a checkpoint.
        ValueError: If the model does not fit the data, there is a penalty without an objective, the checkpoint belongs
            to other settings, data, architecture or objective, or another process works in the folder.
    """
    if not isinstance(config, TrainConfig):
        raise TypeError(
            f"config must be a TrainConfig, got {type(config).__name__}. Build one: TrainConfig(epochs=10)."
        )
    if folder is not None and not isinstance(folder, RunFolder):
        raise TypeError(f"folder must be a RunFolder, got {folder!r}. Build one: RunFolder(Path({str(folder)!r})).")
    check_flag("resume", resume)
    check_show_progress(show_progress)
    check_number("checkpoint_seconds", checkpoint_seconds, minimum=0.0)
    trainer = Trainer(
        model,
        dataset,
        config,
        fabric=fabric,
        folder=folder,
        objective=objective,
        keep_epochs=keep_epochs,
        on_epoch=on_epoch,
    )
    with nullcontext() if trainer.folder is None else locked(trainer.folder.path):
        checkpoint = trainer.fabric.broadcast(trainer.read_checkpoint() if resume else None)
        if checkpoint is not None:
            trainer.restore(checkpoint)
        train, validation = trainer.device_parts()
        config = trainer.config
        bar = ProgressBar(
            f"{config.shown_label} seed {config.seed}",
            config.epochs * -(-len(train) // config.batch_size),
            done=trainer.progress.step,
            shown=show_progress if trainer.fabric.is_global_zero else False,
        )
        written = clock = time.monotonic()
        with closing(bar), graceful_interrupt() as stop:
            while not trainer.finished:
                for part in trainer.batches(len(train)):
                    loss, correct, stops = trainer.take_step(train, part, stop=stop.made)
                    now = time.monotonic()
                    trainer.count(loss, correct, part.count, now - clock)
                    clock = now
                    bar.advance()
                    if stops > 0:
                        trainer.write_checkpoint()
                        raise stop.error()
                    if now - written >= checkpoint_seconds:
                        trainer.write_checkpoint()
                        written = time.monotonic()
                trainer.end_epoch(validation)
        result = trainer.finish()
        if stop.made:
            raise stop.error()
    return result


def clip_gradient(parameters: Iterable[nn.Parameter], clip_norm: float | None) -> Tensor:
    """Scale the gradient to a norm of at most `clip_norm`; its norm before, over all parameters that have one."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([gradient for one in trained if (gradient := one.grad) is not None])
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(trained, clip_norm, norm)
    return norm


def read_values(*scalars: Tensor) -> list[float]:
    """Return the values of tensors with one entry. All are read at once, since each reading waits for a GPU."""
    device = scalars[0].device
    values: list[float] = torch.stack([s.detach().to(device, torch.float64) for s in scalars]).tolist()
    return values


class Trainer:
    """State of one training: model, optimizer and progress; and the files that it writes.

    Args:
        model: Trained in place.
        dataset: What it is trained on.
        config: Settings; those of the model are not used, since it is built already. `Budget` adapts them to the data.
        fabric: Device, precision and processes; only the first process writes. This process's CPU by default.
        folder: Where to write; `None` for nowhere.
        objective: What is minimized; by default the model's loss with the noise on.
        keep_epochs: Whether to write the weights of every epoch.
        on_epoch: Called at the end of each epoch, on the first process only.
        fingerprint: That of the data set, if it is known already.

    Attributes:
        fabric: As above.
        config: Settings, as they hold for the data.
        dataset: The data, whose training part holds the validation part too where `select` is "refit".
        folder: As above; `None` on the other processes.
        progress: Epochs and steps done, and the metrics so far.
        best: Weights of the best epoch so far; `None` before there is one.
        training_pass: What a step runs, before Fabric wraps it.

    Raises:
        TypeError: If the model or the data set is none, the model's answers are of another kind than the labels, or the
            objective or `on_epoch` cannot be called as described.
        ValueError: If the model's sizes are not those of the data set, or all its weights are frozen.
    """

    def __init__(
        self,
        model: SequenceModel,
        dataset: Dataset,
        config: TrainConfig,
        *,
        fabric: "Fabric | None" = None,
        folder: RunFolder | None = None,
        objective: Objective | None = None,
        keep_epochs: bool = False,
        on_epoch: EpochHook | None = None,
        fingerprint: dict[str, Any] | None = None,
    ) -> None:
        check_trainable(model, dataset)
        if objective is not None:
            check_objective(objective)
        check_flag("keep_epochs", keep_epochs)
        if keep_epochs and folder is None:
            raise ValueError("folder must be given with keep_epochs=True, got None. Pass a RunFolder.")
        if on_epoch is not None and not callable(on_epoch):
            raise TypeError(f"on_epoch must be a function of the metrics of an epoch, got {on_epoch!r}.")
        check_times(model, dataset.train, objective)
        if config.penalty is not None and objective is None:  # the regulariser is computed by the analysis, above this
            raise ValueError(
                f"objective must be given with penalty={config.penalty!r}, got None. Pass "
                "objective=noisyrnn.pipeline.objective_of(config, dataset), or call noisyrnn.pipeline.train_run."
            )
        if folder is not None:  # not after hours of training
            check_savable(model, class_names=dataset.class_names or None)
        if config.select == "perturbed" and isinstance(dataset.validation.inputs, StoredSequences):
            raise ValueError(
                "select must be 'clean' or 'last' for data that stay on disk, got 'perturbed', which keeps noisy "
                "copies of the validation data in memory."
            )
        if fabric is not None and not hasattr(fabric, "global_rank"):
            raise TypeError(
                f"fabric must be a Fabric of lightning_fabric, got {fabric!r}. Build one: Fabric(accelerator='cpu', "
                "devices=1)."
            )
        check_precision(config.precision, "cpu" if fabric is None else fabric.device.type)
        self.fabric = fabric or fabric_on_cpu(config.precision)
        self._model = model
        self.model = model = model.as_batch_first()
        given, budget = dataset, Budget.of(config, dataset)
        self.config = config = budget.config
        self.dataset = dataset = budget.dataset
        self._adapted = budget.text
        self.folder = folder if self.fabric.is_global_zero else None
        self._keep_epochs = keep_epochs
        self.on_epoch = on_epoch if self.fabric.is_global_zero else None
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self.training_pass = TrainingPass(model, objective)
        self._origin: dict[str, Any] = {}
        if self.folder is not None:
            self._origin = {**(fingerprint or given.fingerprint()), **origin_of(model, objective)}
        self._optimizer = RatedOptimizer(config, model)
        self._perturbed = perturbed_inputs(config, dataset)
        self._selection: list[Split] | None = None
        self._wrapped, self._wrapped_optimizer = self.fabric.setup(self.training_pass, self._optimizer.torch_optimizer)
        # Made here, since Fabric has now moved the weights and chosen their type.
        self._average = None if config.ema is None else WeightAverage(model, config.ema)
        self._wrapped.train()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or too many have passed without a better one."""
        idle = self.progress.epoch - 1 - self.progress.best_epoch
        patience = self.config.patience
        return self.progress.epoch > self.config.epochs or (patience is not None and idle >= patience)

    def to_device(self, split: Split) -> Split:
        """The same sequences where the model is, labels in its precision; the model rounds the inputs itself.

        They have no step lengths if the model cannot use them.
        """
        dtype = next(self.model.parameters()).dtype
        weights = None if split.weights is None else split.weights.to(dtype)
        labels = split.labels.to(dtype) if split.labels.is_floating_point() else split.labels
        dt = split.dt if self.model.supports_dt else None
        return replace(split, labels=labels, weights=weights, dt=dt).map(self.fabric.to_device)

    def device_parts(self) -> tuple[Split, Split | None]:
        """The training and the validation part where the model is; no validation part where `select` is "refit"."""
        train = self.to_device(self.dataset.train)
        return train, None if self.config.select == "refit" else self.to_device(self.dataset.validation)

    def read_checkpoint(self) -> Checkpoint | None:
        """The folder's checkpoint, or `None` where there is none.

        Raises:
            ValueError: If it is damaged or belongs to other settings.
        """
        if self.folder is None or not self.folder.checkpoint.is_file():
            return None
        return Checkpoint.read(self.folder.checkpoint, self.config, self._origin)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: If the weights of every epoch are to be kept and some of those before it were not.
        """
        if self._keep_epochs and self.folder is not None:
            self.folder.check_epochs_kept(checkpoint.progress.epoch - 1)
        self.model.load_state_dict(checkpoint.model)
        self._optimizer.torch_optimizer.load_state_dict(checkpoint.optimizer)
        if self._average is not None and checkpoint.average is not None:
            self._average.load_state_dict(checkpoint.average)
        self.progress, self.best = checkpoint.progress, checkpoint.best

    def write_checkpoint(self) -> None:
        """Write what is needed to continue to the same bits."""
        if self.folder is not None:
            state = copied(self.model.state_dict())
            optimizer = self._optimizer.torch_optimizer.state_dict()
            average = None if self._average is None else self._average.state_dict()
            settings = self.config.to_dict()
            checkpoint = Checkpoint(settings, self._origin, self.progress, state, optimizer, self.best, average)
            checkpoint.write(self.folder.checkpoint)

    def batches(self, size: int) -> Iterator[BatchPart]:
        """The batches of the current epoch that are still to be done; `size` is the number of training sequences."""
        inputs = self.dataset.train.inputs
        stored = inputs if isinstance(inputs, StoredSequences) else None
        place = {"rank": self.fabric.global_rank, "world": self.fabric.world_size}
        parts = epoch_batches(self.config, size, self.progress.epoch, first=self.progress.batch, stored=stored, **place)
        return parts if stored is None else read_ahead(parts, lambda part: part.rows, stored)

    def take_step(self, train: Split, part: BatchPart, *, stop: bool = False) -> tuple[float, float, float]:
        """One step of the optimizer; sums over all processes of the loss, the correct answers and the wishes to stop.

        Args:
            train: The training data on the device.
            part: Which of them.
            stop: Whether this process wants to stop.

        Raises:
            DivergenceError: If the loss or the gradient is not finite; the weights are left unchanged.
        """
        path = step_noise(self.config, self.progress.step, part.first_row)
        rows = rows_on(part.rows, train.labels.device)
        inputs, labels, lengths, weights, dt = select_sequences(train, rows, longest=self.longest(part.rows))
        inputs = self.perturb(inputs, labels, lengths, dt, first_row=part.first_row)
        batch = TrainingBatch(inputs, labels, lengths, weights, path, dt)
        self.begin_step()
        with self.noise_of_epoch(), known_lengths():
            sums = self._wrapped(batch)
        loss_sum = sums.loss * part.share
        # Gradients are averaged over processes: the factor makes that the mean over the whole batch.
        self.fabric.backward(loss_sum * (self.fabric.world_size / part.count))
        loss, correct, norm = read_values(loss_sum, sums.correct, self.clip_gradient())
        self.check_step(batch, loss, norm)
        self.update_weights()
        totals = torch.tensor([loss, correct * part.share, float(stop)], dtype=torch.float64, device="cpu")
        if self.fabric.world_size > 1:
            summed = self.fabric.all_reduce(self.fabric.to_device(totals), reduce_op="sum")
            assert isinstance(summed, Tensor)
            totals = summed
        loss, correct, stops = totals.tolist()
        return loss, correct, stops

    def longest(self, rows: Tensor) -> int | None:
        """Steps of the longest of some training sequences, from the data as they were given; `None` if all are as long.

        Args:
            rows: Their indices, on the CPU.
        """
        lengths = self.dataset.train.lengths
        return None if lengths is None else int(lengths[rows].max())

    @property
    def noise_factor(self) -> float:
        """Factor of all noise in the current epoch."""
        return noise_factor_at(self.config, self.progress.epoch)

    @contextmanager
    def noise_of_epoch(self) -> Iterator[None]:
        """Have the model's noise at the factor of the current epoch."""
        layer = self.model.layer
        own = layer.noise_scale
        layer.noise_scale = own * self.noise_factor
        try:
            yield
        finally:
            layer.noise_scale = own

    def perturb(
        self, inputs: Tensor, labels: Tensor, lengths: Tensor | None, dt: Tensor | None = None, *, first_row: int = 0
    ) -> Tensor:
        """Return the inputs of the next step with the noise and the attack of the settings.

        Raises:
            DivergenceError: If the attack finds logits that are not finite.
        """
        if self._perturbed is None:
            return inputs
        factor, freeze = self.noise_factor, self.fabric.world_size == 1
        place = (self.progress.step, first_row)
        try:
            with self.fabric.autocast():
                return self._perturbed(
                    self.model, inputs, labels, lengths, dt, place=place, noise_factor=factor, freeze=freeze
                )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            step, epoch = self.progress.step + 1, self.progress.epoch
            raise DivergenceError(f"the attack on the inputs of step {step} (epoch {epoch}) failed: {error}") from error

    def begin_step(self) -> None:
        """Delete the last gradients and set the learning rate of the epoch."""
        self._optimizer.set_rate(learning_rate_at(self.config, self.progress.epoch))
        self._wrapped_optimizer.zero_grad()

    def clip_gradient(self) -> Tensor:
        """Clip the gradient; its norm before."""
        return clip_gradient(self.model.parameters(), self.config.clip_norm)

    def check_step(self, batch: TrainingBatch, loss: float, norm: float) -> None:
        """Raise unless a step can be made.

        Args:
            batch: What the gradient was computed from.
            loss: The sum of its losses.
            norm: Norm of the gradient, before it was clipped.

        Raises:
            DivergenceError: If the loss or the gradient is not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            step, epoch = self.progress.step + 1, self.progress.epoch
            raise DivergenceError(
                explain_divergence(
                    self.model, batch.inputs, batch.lengths, batch.dt, batch.path, step, epoch, loss, norm
                )
            )

    def update_weights(self) -> None:
        """Let the optimizer make its step."""
        self._wrapped_optimizer.step()
        self.average_weights()

    def update_weights_if(self, finite: Tensor) -> None:
        """As `update_weights` without the average, if a flag on the device says so: nothing waits for it."""
        self._optimizer.step_if(finite)

    def average_weights(self) -> None:
        """Take the weights into their average, where there is one."""
        if self._average is not None:
            self._average.update(self.progress.step + 1)

    @property
    def capturable(self) -> bool:
        """Whether nothing in a step makes the host wait for a GPU, or changes but for the batch and the seed."""
        return self._optimizer.has_conditional_step and not orthogonal_parameters(self.model)

    @property
    def rates(self) -> tuple[float, float]:
        """Learning rate and factor of all noise in the current epoch."""
        return learning_rate_at(self.config, self.progress.epoch), self.noise_factor

    def count(self, loss_sum: float, correct: float, sequences: int, seconds: float) -> None:
        """Add one step: weighted sums of its losses and correct answers, its number of sequences, and its time."""
        progress = self.progress
        progress.loss_sum += loss_sum
        progress.correct += correct
        progress.seen += sequences
        progress.batch += 1
        progress.step += 1
        progress.seconds += seconds
        progress.epoch_seconds += seconds

    def end_epoch(self, validation: Split | None) -> None:
        """Validate, keep the weights if they are those to keep, add a row to the history and begin the next epoch.

        Args:
            validation: The validation part on the device; `None` keeps the weights without validation.

        Raises:
            DivergenceError: If the validation loss is not finite and there are no best weights.
        """
        progress = self.progress
        with nullcontext() if self._average is None else self._average.in_place():
            validated = {} if validation is None else self._validate(validation)
            if not validated:
                progress.best_epoch = progress.epoch
                self.best = copied(self.model.state_dict())
            if self._keep_epochs and self.folder is not None:
                self.folder.epoch_model(progress.epoch).parent.mkdir(parents=True, exist_ok=True)
                self.write_weights(self.folder.epoch_model(progress.epoch))
        weights = self.dataset.train.weights  # of all sequences, which an epoch has seen
        seen = progress.seen if weights is None else float(weights.double().sum())
        row = {
            "epoch": progress.epoch,
            "train_loss": progress.loss_sum / seen,
            "train_accuracy": progress.correct / seen,
            **validated,
            "learning_rate": learning_rate_at(self.config, progress.epoch),
            "seconds": round(progress.epoch_seconds, 3),
        }
        regression = not self.dataset.classes
        progress.history.append({name: row[name] for name in row if not (regression and name.endswith("_accuracy"))})
        progress.epoch += 1
        progress.batch = progress.correct = progress.seen = 0
        progress.loss_sum = progress.epoch_seconds = 0.0
        if self.folder is not None:
            self.folder.write_metrics(progress.history)
        if self.on_epoch is not None:
            self.on_epoch(dict(progress.history[-1]))

    def _validate(self, validation: Split) -> dict[str, float]:
        """Validate, keep the weights if they are those to keep, and return the metrics.

        Raises:
            DivergenceError: If the validation loss is not finite and there are no best weights.
        """
        progress, select = self.progress, self.config.select
        # One answer, so that all processes continue alike.
        found = validate(self.model, validation, fabric=self.fabric, path=self._validation_path())
        loss, accuracy = self.fabric.broadcast(found)
        if not math.isfinite(loss) and self.best is None:
            raise DivergenceError(self._explain_validation_loss(loss))
        perturbed = self._validate_perturbed(validation) if select == "perturbed" else None
        all_loss, all_accuracy = (loss, accuracy) if perturbed is None else perturbed
        if not math.isfinite(all_loss) and self.best is None:
            raise DivergenceError(
                f"validation loss of perturbed sequences is not finite after epoch {progress.epoch}, got {all_loss}. "
                "Lower learning_rate or step_size, or choose an epoch by select='clean'."
            )
        better = math.isfinite(loss) if select == "last" else is_better(all_loss, all_accuracy, progress)
        if better:
            progress.best_epoch, progress.best_accuracy, progress.best_loss = progress.epoch, all_accuracy, all_loss
            self.best = copied(self.model.state_dict())
        metrics = {"validation_loss": loss, "validation_accuracy": accuracy}
        return metrics if perturbed is None else {**metrics, **dict(zip(_PERTURBED, perturbed, strict=True))}

    def _validate_perturbed(self, validation: Split) -> tuple[float, float]:
        """Mean loss and accuracy over the validation data and their copies under noise."""
        if self._selection is None:
            from noisyrnn.training.perturbed_inputs import selection_inputs  # as in `perturbed_inputs`

            self._selection = [validation, *selection_inputs(validation, self.dataset)]
        found = [validate(self.model, split, path=self._validation_path()) for split in self._selection]
        losses, accuracies = zip(*found, strict=True)
        return self.fabric.broadcast((math.fsum(losses) / len(found), math.fsum(accuracies) / len(found)))

    def _validation_path(self) -> BrownianPath | None:
        """The noise of an epoch's validation where it stays on in evaluation mode."""
        if self.model.layer.noise_mode != "on":
            return None
        return BrownianPath(seed=derive_seed(self.config.seed, "validation", self.progress.epoch))

    def _explain_validation_loss(self, loss: float) -> str:
        """Why no epoch can be chosen: a message."""
        message = f"validation loss is not finite after epoch {self.progress.epoch}, got {loss}"
        labels = self.dataset.validation.labels
        largest = 0.0 if self.dataset.classes else float(without_marks(labels).abs().max())
        if not largest:
            return f"{message}. Lower learning_rate or step_size, or set clip_norm."
        return (
            f"{message}; the validation targets reach about 1e{round(math.log10(largest))}. Give them in the unit of "
            "the training targets, or lower learning_rate or step_size."
        )

    def write_weights(self, file: Path) -> None:
        """Write the model's weights, with its settings and the names of its classes."""
        dataset = self.dataset
        notes = {"training": {**self.config.to_dict(), "dataset": Path(self.config.dataset).name}}
        if dataset.nominal_step is not None:
            notes["training"]["nominal_step"] = dataset.nominal_step
        if dataset.channel_names:
            notes["training"]["channel_names"] = list(dataset.channel_names)
        save(self._model, file, class_names=dataset.class_names or None, notes=notes)

    def finish(self) -> FitResult:
        """Write the weights of the last and of the kept epoch; leave the model with the latter, in evaluation mode."""
        self.write_checkpoint()
        assert self.best is not None
        self.model.eval()
        self._model.eval()
        dataset, progress = self.dataset, self.progress
        if self.folder is not None:
            with nullcontext() if self._average is None else self._average.in_place():
                self.write_weights(self.folder.last_model)
        self.model.load_state_dict(self.best)
        if self.folder is not None:
            self.write_weights(self.folder.model)
        largest = math.nan
        if dataset.classes:
            largest = largest_share(dataset.train.labels, dataset.classes, dataset.train.weights)
        kept = progress.history[progress.best_epoch - 1]
        return FitResult(
            history=progress.history,
            best_epoch=progress.best_epoch,
            best_validation_accuracy=kept.get("validation_accuracy", math.nan),
            best_validation_loss=kept.get("validation_loss", math.nan),
            seconds=progress.seconds,
            validation_sequences=0 if self.config.select == "refit" else len(dataset.validation),
            largest_class=largest,
            adapted=self._adapted,
        )


def perturbed_inputs(config: TrainConfig, dataset: Dataset) -> "PerturbedInputs | None":
    """What the settings do to the inputs of training; `None` for nothing."""
    if config.input_noise_range[1] == 0 and config.adversarial is None:
        return None
    from noisyrnn.training.perturbed_inputs import PerturbedInputs  # brings SciPy, which most trainings do not need

    return PerturbedInputs(config, dataset)


def fabric_on_cpu(precision: Precision) -> "Fabric":
    """The engine for one process on the CPU."""
    from lightning_fabric import Fabric  # two seconds to import

    return Fabric(accelerator="cpu", devices=1, precision=precision)


def origin_of(model: SequenceModel, objective: Objective | None) -> dict[str, Any]:
    """What a checkpoint belongs to besides settings and data: sizes, digests of the architecture and the objective."""
    tensors = {
        name: [str(tensor.dtype), list(tensor.shape), tensor.requires_grad]
        for name, tensor in model.state_dict(keep_vars=True).items()
    }
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    layer = model.layer
    sizes = {"hidden_size": layer.hidden_size, "num_layers": layer.num_layers, "bidirectional": layer.bidirectional}
    switches = {"noise_mode": (layer.noise_mode, "auto"), "noise_scale": (float(layer.noise_scale), 1.0)}
    changed = {name: value for name, (value, usual) in switches.items() if value != usual}
    return {
        **({"noise_switches": changed} if changed else {}),
        "sizes": sizes,
        "architecture": content_digest({"repr": text, "tensors": tensors}),
        "objective": objective_digest(objective),
    }
