"""The training loop."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from noisyrnn.checks import check_number
from noisyrnn.data.base import Dataset, Split
from noisyrnn.models import SequenceClassifier
from noisyrnn.run_folder import RunFolder
from noisyrnn.sde.brownian import BrownianPath, derive_seed
from noisyrnn.training.checkpoint import Checkpoint, Progress, copied
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.divergence import explain_divergence
from noisyrnn.training.progress import ProgressBar, graceful_interrupt
from noisyrnn.training.saving import save

_VALIDATION_BATCH = 1000


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    Args:
        history: One row of metrics for each epoch.
        best_epoch: The epoch, from 1, of the weights the model now has.
        best_validation_accuracy: Its accuracy on the validation data, in [0, 1].
        seconds: Training time, over all resumptions.
    """

    history: list[dict[str, float]]
    best_epoch: int
    best_validation_accuracy: float
    seconds: float


class _NoisyPass(nn.Module):
    """A classifier whose noise is given by two numbers: Fabric copies what it passes on, and takes no frozen path."""

    def __init__(self, model: SequenceClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, inputs: Tensor, labels: Tensor, lengths: Tensor | None, seed: int, first_row: int
    ) -> tuple[Tensor, Tensor]:
        """Sum of the losses and number of right answers, taken here so that no conversion of logits comes between."""
        logits = self.model(inputs, lengths=lengths, path=BrownianPath(seed=seed, first_row=first_row))
        loss_sum = functional.cross_entropy(logits, labels, reduction="sum")
        return loss_sum, (logits.detach().argmax(1) == labels).sum()


@dataclass(frozen=True)
class _Batch:
    """One process's part of one batch.

    Args:
        rows: Indices of its sequences, int64.
        first_row: Number of its first sequence within the whole batch.
        count: Sequences of the whole batch.
        share: 1, or 0 for a process that only keeps step with the others.
    """

    rows: Tensor
    first_row: int
    count: int
    share: float


def _batches(config: TrainConfig, size: int, epoch: int, first: int, rank: int, world: int) -> Iterator[_Batch]:
    """The batches of an epoch from number `first` on, each cut into contiguous parts, one a process."""
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", epoch) % 2**63)
    order = torch.randperm(size, generator=generator)
    for whole in order.split(config.batch_size)[first:]:
        edges = [len(whole) * part // world for part in range(world + 1)]
        rows = whole[edges[rank] : edges[rank + 1]]
        # A process without a sequence still has to take part in the exchange of gradients.
        yield _Batch(rows if len(rows) else whole[:1], edges[rank], len(whole), float(len(rows) > 0))


def select(split: Split, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs, labels and lengths of some sequences, cut after the longest of them."""
    inputs, labels = split.inputs[rows], split.labels[rows]
    if split.lengths is None:
        return inputs, labels, None
    lengths = split.lengths[rows]
    return inputs[:, : int(lengths.max())], labels, lengths


def _to_device(split: Split, fabric: Fabric, dtype: torch.dtype) -> Split:
    lengths = None if split.lengths is None else fabric.to_device(split.lengths)
    inputs, labels = fabric.to_device(split.inputs.to(dtype)), fabric.to_device(split.labels)
    return Split(inputs=inputs, labels=labels, lengths=lengths, classes=split.classes)


def validate(model: nn.Module, split: Split) -> tuple[float, float]:
    """Loss and accuracy over a split in evaluation mode; the mode is restored."""
    training = model.training
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for rows in torch.arange(len(split)).split(_VALIDATION_BATCH):
            inputs, labels, lengths = select(split, rows.to(split.labels.device))
            logits = model(inputs, lengths=lengths)
            loss += float(functional.cross_entropy(logits.float(), labels, reduction="sum"))
            correct += int((logits.argmax(1) == labels).sum())
    model.train(training)
    return loss / len(split), correct / len(split)


def fit(
    model: SequenceClassifier,
    dataset: Dataset,
    config: TrainConfig,
    *,
    folder: RunFolder | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    show_progress: bool = False,
    fabric: Fabric | None = None,
) -> FitResult:
    """Train `model` in place with Adam on the cross-entropy; it ends with the weights of its best validation epoch.

    The order of the data and the noise depend on the seed, the epoch and the step alone, so a resumed run ends in the
    same bits. In a distributed run every process takes a part of each batch, and the noise of its own rows.

    Args:
        model: Its initial weights are where training starts.
        dataset: `train` is fitted and `validation` decides the best epoch; `test` is not read.
        config: Settings; those of the model are taken as built already.
        folder: Where metrics, checkpoints and the model are written; nowhere by default.
        resume: Go on from the folder's checkpoint, where there is one.
        checkpoint_seconds: Time between two checkpoints, at least 0 (after every step); the end gets one too.
        show_progress: Whether to show a progress bar.
        fabric: Device, precision and processes; this process's CPU by default.

    Raises:
        RuntimeError: If the loss or a gradient is no longer finite; what was saved before is left alone.
        KeyboardInterrupt: If the user stopped the run, after a checkpoint.
        ValueError: If the model does not fit the data, or the checkpoint belongs to other settings.
    """
    check_number("checkpoint_seconds", checkpoint_seconds, minimum=0.0)
    for name, ours, theirs in (
        ("classes", model.classes, dataset.classes),
        ("input_size", model.layer.input_size, dataset.input_size),
    ):
        if ours != theirs:
            raise ValueError(f"model must have {name} {theirs}, that of the data set, got {ours}.")
    fabric = fabric or Fabric(accelerator="cpu", devices=1, precision=config.precision)
    settings = asdict(config)
    progress, best = Progress(), None
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    wrapped, wrapped_optimizer = fabric.setup(_NoisyPass(model), optimizer)
    checkpoint = None
    if resume and folder is not None and fabric.is_global_zero and folder.checkpoint.is_file():
        checkpoint = Checkpoint.read(folder.checkpoint, settings)
    checkpoint = fabric.broadcast(checkpoint)
    if checkpoint is not None:
        model.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
        progress, best = checkpoint.progress, checkpoint.best

    dtype = model.readout.weight.dtype
    train, validation = _to_device(dataset.train, fabric, dtype), _to_device(dataset.validation, fabric, dtype)
    per_epoch = -(-len(train) // config.batch_size)
    bar = ProgressBar(
        f"{config.shown_label} seed {config.seed}",
        config.epochs * per_epoch,
        done=progress.step,
        shown=show_progress and fabric.is_global_zero,
    )

    def write_checkpoint() -> None:
        if folder is not None and fabric.is_global_zero:
            Checkpoint(settings, progress, copied(model.state_dict()), optimizer.state_dict(), best).write(
                folder.checkpoint
            )

    written = clock = time.monotonic()
    wrapped.train()
    try:
        with graceful_interrupt() as stop:
            while not _finished(progress, config):
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate_at(progress.epoch)
                for batch in _batches(
                    config, len(train), progress.epoch, progress.batch, fabric.global_rank, fabric.world_size
                ):
                    totals = _step(wrapped, model, wrapped_optimizer, fabric, train, batch, config, progress, stop.made)
                    progress.loss_sum += totals[0]
                    progress.correct += int(totals[1])
                    progress.seen += batch.count
                    progress.batch += 1
                    progress.step += 1
                    now = time.monotonic()
                    progress.seconds, progress.epoch_seconds = (
                        progress.seconds + now - clock,
                        progress.epoch_seconds + now - clock,
                    )
                    clock = now
                    bar.advance()
                    if totals[2] > 0:
                        write_checkpoint()
                        raise KeyboardInterrupt
                    if now - written >= checkpoint_seconds:
                        write_checkpoint()
                        written = time.monotonic()
                best = _end_epoch(model, wrapped, fabric, validation, config, progress, best)
                if folder is not None and fabric.is_global_zero:
                    folder.write_metrics(progress.history)
    finally:
        bar.close()
    write_checkpoint()
    assert best is not None
    model.load_state_dict(best)
    model.eval()
    if folder is not None and fabric.is_global_zero:
        save(model, folder.model, class_names=dataset.class_names)
    if stop.made:
        raise KeyboardInterrupt
    return FitResult(progress.history, progress.best_epoch, progress.best_accuracy, progress.seconds)


def _finished(progress: Progress, config: TrainConfig) -> bool:
    """Whether all epochs are done, or too many have passed without a better one."""
    idle = progress.epoch - 1 - progress.best_epoch
    return progress.epoch > config.epochs or (config.patience is not None and idle >= config.patience)


def _step(
    wrapped: Any,
    model: SequenceClassifier,
    optimizer: Any,
    fabric: Fabric,
    train: Split,
    batch: _Batch,
    config: TrainConfig,
    progress: Progress,
    stop: bool,
) -> list[float]:
    """One step of the optimiser; sums over all processes of the loss, the right answers and the wishes to stop."""
    inputs, labels, lengths = select(train, batch.rows.to(train.labels.device))
    seed = derive_seed(config.seed, "noise", progress.step)
    optimizer.zero_grad()
    loss_sum, correct = wrapped(inputs, labels, lengths, seed, batch.first_row)
    loss_sum = loss_sum * batch.share
    # Gradients are averaged over processes: the factor makes that the mean over the whole batch.
    fabric.backward(loss_sum * (fabric.world_size / batch.count))
    parameters = [p for p in model.parameters() if p.grad is not None]
    limit = float("inf") if config.clip_norm is None else config.clip_norm
    norm = float(nn.utils.clip_grad_norm_(parameters, limit))
    loss = float(loss_sum.detach())
    if not (abs(loss) < float("inf") and norm < float("inf")):
        raise RuntimeError(
            explain_divergence(
                model,
                inputs,
                lengths,
                BrownianPath(seed=seed, first_row=batch.first_row),
                progress.step + 1,
                progress.epoch,
                loss,
                norm,
            )
        )
    optimizer.step()
    totals = torch.tensor([loss, float(correct) * batch.share, float(stop)], dtype=torch.float64)
    if fabric.world_size > 1:
        summed = fabric.all_reduce(fabric.to_device(totals), reduce_op="sum")
        assert isinstance(summed, Tensor)
        totals = summed
    return totals.tolist()


def _end_epoch(
    model: SequenceClassifier,
    wrapped: nn.Module,
    fabric: Fabric,
    validation: Split,
    config: TrainConfig,
    progress: Progress,
    best: dict[str, Tensor] | None,
) -> dict[str, Tensor] | None:
    """Validate, add a row to the history and move on to the next epoch; the best weights so far."""
    loss, accuracy = fabric.broadcast(validate(model, validation))  # one answer, so that all processes go on alike
    wrapped.train()
    if (accuracy, -loss) > (progress.best_accuracy, -progress.best_loss):
        progress.best_epoch, progress.best_accuracy, progress.best_loss = progress.epoch, accuracy, loss
        best = copied(model.state_dict())
    progress.history.append(
        {
            "epoch": progress.epoch,
            "train_loss": progress.loss_sum / progress.seen,
            "train_accuracy": progress.correct / progress.seen,
            "validation_loss": loss,
            "validation_accuracy": accuracy,
            "learning_rate": config.learning_rate_at(progress.epoch),
            "seconds": round(progress.epoch_seconds, 3),
        }
    )
    progress.epoch += 1
    progress.batch = progress.correct = progress.seen = 0
    progress.loss_sum = progress.epoch_seconds = 0.0
    return best
