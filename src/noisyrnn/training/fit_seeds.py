"""Trains one model with several seeds side by side in one process."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noisyrnn.checks import check_number, check_show_progress
from noisyrnn.data.base import Dataset
from noisyrnn.interruption import graceful_interrupt
from noisyrnn.kernels import select
from noisyrnn.locks import locked
from noisyrnn.models.heads import SequenceModel
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.progress import ProgressBar
from noisyrnn.run_folder import RunFolder
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.divergence import DivergenceError
from noisyrnn.training.objective import Objective
from noisyrnn.training.trainer import (
    BatchPart,
    EpochHook,
    FitResult,
    Trainer,
    TrainingBatch,
    fabric_on_cpu,
    read_values,
    rows_on,
    select_sequences,
    step_noise,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Outcome = FitResult | DivergenceError
StepEnd = tuple[float, float, int] | DivergenceError


@reproducible_threads()
def fit_seeds(
    models: Sequence[SequenceModel],
    dataset: Dataset,
    configs: Sequence[TrainConfig],
    *,
    objective: Objective | None = None,
    folders: Sequence[RunFolder] | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    show_progress: bool | None = None,
    fabric: "Fabric | None" = None,
    on_epochs: Sequence[EpochHook] | None = None,
) -> list[Outcome]:
    """Train every model as `fit` would train it alone: with its own data order, noise, optimiser and best epoch.

    Each step takes one batch of every run that goes on. A fused kernel takes all of them in one call, and every run
    ends as it would alone up to rounding; where none can run the model, there is an `objective` or sequences have
    weights, the batches follow one another and the bits are the same. Runs that stop early drop out, and so do
    runs that diverge: the others go on.

    Rounding is small at each step, but a training that is unstable at its start enlarges it until a run ends elsewhere,
    as it does between any two kernels. `NOISYRNN_KERNEL=reference` gives the bits of single runs in all cases.

    Args:
        models: One for each run; all of one shape.
        dataset: As for `fit`.
        configs: Settings of each run; they differ in the seed alone.
        objective: As for `fit`.
        folders: Where each run is written; nowhere by default.
        resume: Each run is resumed from its own checkpoint, where there is one.
        checkpoint_seconds: As for `fit`.
        show_progress: As for `fit`; one bar for all.
        fabric: Device and precision; this process's CPU by default.
        on_epochs: The `on_epoch` of each run, as for `fit`; what one raises ends all of them.

    Returns:
        How each run ended, in order; for one that diverged, the error that `fit` would have raised.

    Raises:
        KeyboardInterrupt: If the user stopped the runs, after a checkpoint of each.
        ValueError: If the settings differ in more than the seed, a seed comes twice, there is more than one process, a
            model does not fit the data, or a checkpoint belongs to other settings.
    """
    check_number("checkpoint_seconds", checkpoint_seconds, minimum=0.0)
    check_show_progress(show_progress)
    check_alike(configs)
    fabric = fabric or fabric_on_cpu(configs[0].precision)
    if fabric.world_size > 1:
        raise ValueError(f"runs can only be trained together in one process, got {fabric.world_size}. Start one.")
    places: Sequence[RunFolder | None] = [None] * len(models) if folders is None else folders
    hooks: Sequence[EpochHook | None] = [None] * len(models) if on_epochs is None else on_epochs
    data = None if folders is None else dataset.fingerprint()
    trainers = [
        Trainer(
            model,
            dataset,
            config,
            fabric=fabric,
            folder=folder,
            objective=objective,
            on_epoch=hook,
            fingerprint=data,
        )
        for model, config, folder, hook in zip(models, configs, places, hooks, strict=True)
    ]
    with ExitStack() as locks:
        for trainer in trainers:
            if trainer.folder is not None:
                locks.enter_context(locked(trainer.folder.path))
        checkpoints = [trainer.read_checkpoint() if resume else None for trainer in trainers]
        for trainer, checkpoint in zip(trainers, checkpoints, strict=True):
            if checkpoint is not None:
                trainer.restore(checkpoint)
        return _Group(trainers).train(checkpoint_seconds, show_progress)


def check_alike(configs: Sequence[TrainConfig]) -> None:
    """Raise unless there are settings, and they differ in the seed alone."""
    seeds = [config.seed for config in configs]
    if not seeds:
        raise ValueError("configs must hold the settings of at least one run, got none.")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"configs must have different seeds, got {', '.join(map(str, seeds))}.")
    for config in configs:
        if replace(config, seed=seeds[0]) != configs[0]:
            raise ValueError(f"configs must differ in the seed alone, got {config} beside {configs[0]}.")


def seed_range(seeds: Sequence[int]) -> str:
    """`"seed 4"`, `"seeds 1-10"` or `"seeds 1, 3"`."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]}-{seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"


class _Group:
    """Trainings of one model with several seeds, and the data that they share.

    Args:
        trainers: Each where its training begins or continues; their data are moved to the device once.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        first = trainers[0]
        self.trainers = list(trainers)
        self.fabric = first.fabric
        self.train_split, self.validation = first.device_parts()
        self.per_epoch = -(-len(self.train_split) // first.config.batch_size)
        self.outcomes: dict[Trainer, Outcome] = {}
        layer, sample = first.model.layer, first.model.standardize(self.train_split.inputs[:1])
        cell: Any = layer.cells["l0"]  # of all layers the same kind
        plain = first.training_pass.objective is None and self.train_split.weights is None
        self.fused = plain and select.choose(cell, sample, kernel=layer.kernel)[0] != "reference"

    @property
    def active(self) -> list[Trainer]:
        """The trainings that continue."""
        return [trainer for trainer in self.trainers if trainer not in self.outcomes]

    def train(self, checkpoint_seconds: float, show_progress: bool | None) -> list[Outcome]:
        """Step all trainings until each has ended; see `fit_seeds`."""
        config, seeds = self.trainers[0].config, [trainer.config.seed for trainer in self.trainers]
        orders = {trainer: _batches_to_come(trainer, len(self.train_split)) for trainer in self.trainers}
        bar = ProgressBar(
            f"{config.shown_label} {seed_range(seeds)}",
            config.epochs * self.per_epoch,  # of the training that is furthest behind
            done=min(trainer.progress.step for trainer in self.trainers),
            shown=show_progress,
        )
        written = clock = time.monotonic()
        with closing(bar), graceful_interrupt() as stop:
            while self.end_epochs():
                active = self.active
                ends = self.step({trainer: next(orders[trainer]) for trainer in active})
                now = time.monotonic()
                for trainer, end in ends.items():
                    if isinstance(end, DivergenceError):
                        self.outcomes[trainer] = end
                    else:
                        trainer.count(*end, (now - clock) / len(active))
                clock = now
                bar.advance()
                if stop.made or now - written >= checkpoint_seconds:
                    for trainer in self.active:
                        trainer.write_checkpoint()
                    written = time.monotonic()
                if stop.made:
                    break
        if stop.made:
            raise stop.error()
        return [self.outcomes[trainer] for trainer in self.trainers]

    def end_epochs(self) -> bool:
        """Validate the trainings whose epoch is over and finish those at their end; whether any continues."""
        for trainer in self.active:
            if trainer.progress.batch == self.per_epoch:
                try:
                    trainer.end_epoch(self.validation)
                except DivergenceError as error:
                    self.outcomes[trainer] = error
                    continue
            if trainer.finished:
                self.outcomes[trainer] = trainer.finish()
        return len(self.outcomes) < len(self.trainers)

    def step(self, parts: dict[Trainer, BatchPart]) -> dict[Trainer, StepEnd]:
        """One step of each training: sum of its losses, its correct answers and sequences, or why it failed."""
        groups = [[trainer] for trainer in parts]
        if self.fused:  # trainings resumed from different steps reach the short last batch at different times
            kinds = {trainer: (part.count, trainer.noise_factor) for trainer, part in parts.items()}
            groups = [[one for one in parts if kinds[one] == kind] for kind in dict.fromkeys(kinds.values())]
        ends: dict[Trainer, StepEnd] = {}
        for group in groups:
            if len(group) > 1:
                ends.update(self.step_at_once({trainer: parts[trainer] for trainer in group}))
                continue
            trainer, part = group[0], parts[group[0]]
            try:
                loss, correct, _ = trainer.take_step(self.train_split, part)
                ends[trainer] = loss, correct, part.count
            except DivergenceError as error:
                ends[trainer] = error
        return ends

    def step_at_once(self, parts: dict[Trainer, BatchPart]) -> dict[Trainer, StepEnd]:
        """As `step`, for batches of one size, through the kernels' axis of replicas."""
        trainers, count = list(parts), next(iter(parts.values())).count
        rows = torch.stack([part.rows for part in parts.values()])
        longest, rows = trainers[0].longest(rows), rows_on(rows, self.train_split.labels.device)
        paths = [step_noise(trainer.config, trainer.progress.step) for trainer in trainers]
        inputs, labels, lengths, _ = select_sequences(self.train_split, rows, longest=longest)
        ends: dict[Trainer, StepEnd] = {}
        perturbed = []
        for r, trainer in enumerate(trainers):
            try:
                perturbed.append(trainer.perturb(inputs[r], labels[r], None if lengths is None else lengths[r]))
            except DivergenceError as error:
                ends[trainer] = error
        if ends:
            others = {trainer: part for trainer, part in parts.items() if trainer not in ends}
            return {**ends, **(self.step(others) if others else {})}
        inputs = torch.stack(perturbed)
        for trainer in trainers:
            trainer.begin_step()
        losses, correct = self.sums(trainers, inputs, labels, lengths, paths)
        self.fabric.backward(losses.sum() / count)  # a sum, so that each training gets the gradient of its own loss
        norms = [trainer.clip_gradient() for trainer in trainers]
        values = read_values(*losses, *correct, *norms)
        for r, trainer in enumerate(trainers):
            loss, right, norm = values[r :: len(trainers)]
            own_lengths = None if lengths is None else lengths[r]
            try:
                trainer.end_step(TrainingBatch(inputs[r], labels[r], own_lengths, None, paths[r]), loss, norm)
                ends[trainer] = loss, right, count
            except DivergenceError as error:
                ends[trainer] = error
        return ends

    def sums(
        self,
        trainers: Sequence[Trainer],
        inputs: Tensor,
        labels: Tensor,
        lengths: Tensor | None,
        paths: Sequence[BrownianPath],
    ) -> tuple[Tensor, Tensor]:
        """Sums of the losses and of the correct answers of each training, both `(trainings,)`, from one batched call.

        Args:
            trainers: Their weights are stacked each time, so that each keeps its own parameters and optimizer.
            inputs: `(trainings, batch, steps, input_size)`.
            labels: `(trainings, batch)`.
            lengths: `(trainings, batch)`, or `None`.
            paths: One for each training.
        """
        passes = [trainer.training_pass for trainer in trainers]
        states = [{**dict(one.named_parameters()), **dict(one.named_buffers())} for one in passes]
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        seeds = torch.stack([path.seed_tensor(inputs.device) for path in paths])

        def one(
            state: dict[str, Tensor], inputs: Tensor, labels: Tensor, lengths: Tensor | None, seed: Tensor
        ) -> tuple[Tensor, Tensor]:
            batch = TrainingBatch(inputs, labels, lengths, None, BrownianPath(seed=seed))
            sums = torch.func.functional_call(passes[0], state, (batch,))
            return sums.loss, sums.correct

        axes = (0, 0, 0, None if lengths is None else 0, 0)
        with self.fabric.autocast(), trainers[0].noise_of_epoch():
            losses, correct = torch.func.vmap(one, in_dims=axes)(stacked, inputs, labels, lengths, seeds)
        return losses, correct


def _batches_to_come(trainer: Trainer, size: int) -> Iterator[BatchPart]:
    """The batches of a training from where it is; its progress is read at the start of each epoch."""
    while True:
        yield from trainer.batches(size)
