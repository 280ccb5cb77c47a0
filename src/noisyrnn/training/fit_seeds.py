"""Trains several models side by side in one process: seeds of one setting in one call, settings in turns."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from noisyrnn.checks import check_number, check_show_progress
from noisyrnn.data.dataset import Dataset
from noisyrnn.interruption import graceful_interrupt
from noisyrnn.kernels import select
from noisyrnn.locks import locked
from noisyrnn.models.heads import SequenceModel
from noisyrnn.noise.brownian import BrownianPath
from noisyrnn.progress import ProgressBar
from noisyrnn.run_folder import RunFolder
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.batches import BatchPart, TrainingBatch, rows_on, select_sequences, step_noise
from noisyrnn.training.captured import CapturedStep, on_device
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.divergence import DivergenceError
from noisyrnn.training.fit_result import FitResult
from noisyrnn.training.objective import Objective
from noisyrnn.training.trainer import EpochHook, Trainer, fabric_on_cpu, origin_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Outcome = FitResult | DivergenceError
StepEnd = tuple[float, float, int] | DivergenceError
Item = TypeVar("Item")

_IN_COMMON = ("precision", "penalty", "dataset", "values_per_step", "reading")

_BEFORE_CAPTURE = 2
"""Steps of a group that run one kernel after another, before one is captured."""


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
    keep_epochs: bool = False,
    show_progress: bool | None = None,
    fabric: "Fabric | None" = None,
    on_epochs: Sequence[EpochHook] | None = None,
) -> list[Outcome]:
    """Train every model as `fit` would train it alone: with its own data order, noise, optimiser and best epoch.

    Runs whose settings differ in the seed alone, and whose models in their weights, form a group. Each step takes one
    batch of every run of a group: a fused kernel takes all of them in one call, and every run ends as it would alone up
    to rounding; where none can run the model, there is an `objective` or sequences have weights, the batches follow one
    another and the bits are the same. Groups take turns; on a GPU each has a stream of its own, so that their kernels
    run at the same time, and where nothing forbids it the step of a group is captured as a CUDA graph. Runs that stop
    early drop out, and so do runs that diverge: the others go on.

    Rounding is small at each step, but a training that is unstable at its start enlarges it until a run ends elsewhere,
    as it does between any two kernels. `NOISYRNN_KERNEL=reference` gives the bits of single runs in all cases.

    Args:
        models: One for each run.
        dataset: As for `fit`.
        configs: Settings of each run, in one precision.
        objective: As for `fit`.
        folders: Where each run is written; nowhere by default.
        resume: Each run is resumed from its own checkpoint, where there is one.
        checkpoint_seconds: As for `fit`.
        keep_epochs: As for `fit`.
        show_progress: As for `fit`; one bar for all.
        fabric: Device and precision; this process's CPU by default.
        on_epochs: The `on_epoch` of each run, as for `fit`; what one raises ends all of them.

    Returns:
        How each run ended, in order; for one that diverged, the error that `fit` would have raised.

    Raises:
        KeyboardInterrupt: If the user stopped the runs, after a checkpoint of each.
        ValueError: If settings come twice, their precisions differ, there is more than one process, a model does not
            fit the data, or a checkpoint belongs to other settings.
    """
    check_number("checkpoint_seconds", checkpoint_seconds, minimum=0.0)
    check_show_progress(show_progress)
    check_together(configs)
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
            keep_epochs=keep_epochs,
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
        alike = [group for one in grouped(trainers, configs) for group in _by_model(one)]
        groups = [_Group(members) for members in alike]
        _take_turns(groups, checkpoint_seconds, show_progress)
    outcomes = {trainer: outcome for group in groups for trainer, outcome in group.outcomes.items()}
    return [outcomes[trainer] for trainer in trainers]


def in_common(config: TrainConfig) -> tuple[object, ...]:
    """Return what runs must have in common to be trained together."""
    return tuple(getattr(config, name) for name in _IN_COMMON)


def check_together(configs: Sequence[TrainConfig]) -> None:
    """Raise unless there are settings, all of one precision, data and penalty, and none comes twice."""
    if not configs:
        raise ValueError("configs must hold the settings of at least one run, got none.")
    for k, config in enumerate(configs):
        if config in configs[:k]:
            raise ValueError(f"configs must hold each run once, got {config.shown_label} seed {config.seed} twice.")
        for name, first, other in zip(_IN_COMMON, in_common(configs[0]), in_common(config), strict=True):
            if first != other:
                raise ValueError(f"configs must have one {name} to be trained together, got {first!r} and {other!r}.")


def grouped(items: Sequence[Item], configs: Sequence[TrainConfig]) -> list[list[Item]]:
    """Sort what belongs to each run into groups of settings that differ in the seed alone."""
    kinds = [replace(config, seed=0) for config in configs]
    first = [kinds.index(kind) for kind in kinds]
    return [[item for item, own in zip(items, first, strict=True) if own == k] for k in dict.fromkeys(first)]


def _by_model(trainers: Sequence[Trainer]) -> list[list[Trainer]]:
    """Sort trainings by what their models compute apart from their weights: one call stands for all of a group."""
    found: dict[str, list[Trainer]] = {}
    for trainer in trainers:
        found.setdefault(repr(origin_of(trainer.model, None)), []).append(trainer)
    return list(found.values())


def seed_range(seeds: Sequence[int]) -> str:
    """`"seed 4"`, `"seeds 1-10"` or `"seeds 1, 3"`."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]}-{seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"


def _take_turns(groups: Sequence["_Group"], checkpoint_seconds: float, show_progress: bool | None) -> None:
    """Step all groups until each training has ended; see `fit_seeds`."""
    names = [f"{g.config.shown_label} {seed_range([trainer.config.seed for trainer in g.trainers])}" for g in groups]
    bar = ProgressBar(
        ", ".join(names),
        sum(group.config.epochs * group.per_epoch for group in groups),
        # Of each group, the training that is furthest behind.
        done=sum(min(trainer.progress.step for trainer in group.trainers) for group in groups),
        shown=show_progress,
    )
    written = clock = time.monotonic()
    going = list(groups)
    with closing(bar), graceful_interrupt() as stop:
        while going and not stop.made:
            for group in list(going):
                with group.turn():
                    if group.pending:
                        now = time.monotonic()
                        group.end_step(now - clock)
                        clock = now
                        bar.advance()
                    if stop.made:
                        break
                    if not group.begin_step():
                        going.remove(group)
            if stop.made or time.monotonic() - written >= checkpoint_seconds:
                for group in going:
                    with group.turn():
                        group.end_step(0.0)
                        for trainer in group.active:
                            trainer.write_checkpoint()
                written = time.monotonic()
    if stop.made:
        raise stop.error()


class _Group:
    """Trainings of one model with several seeds, and the data that they share.

    Args:
        trainers: Each where its training begins or continues; their data are moved to the device once.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        first = trainers[0]
        self.trainers = list(trainers)
        self.config = first.config
        self.fabric = first.fabric
        self.train_split, self.validation = first.device_parts()
        train = self.train_split
        self.per_epoch = -(-len(train) // first.config.batch_size)
        self.outcomes: dict[Trainer, Outcome] = {}
        self.orders = {trainer: _batches_to_come(trainer, len(train)) for trainer in self.trainers}
        self.pending: Callable[[], dict[Trainer, StepEnd]] | None = None
        layer, sample = first.model.layer, first.model.prepare(train.inputs[:1])[0]
        cell: Any = layer.cells["l0"]  # of all layers the same kind
        plain = first.training_pass.objective is None and train.weights is None
        self.fused = plain and select.choose(cell, sample, kernel=layer.kernel)[0] != "reference"
        device = train.labels.device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))  # which has the data and the weights
        self.capturable = self.stream is not None and train.lengths is None and train.dt is None and first.capturable
        self._captured: dict[tuple[Any, ...], CapturedStep] = {}
        self._steps_made: Counter[tuple[Any, ...]] = Counter()

    def turn(self) -> AbstractContextManager[Any]:
        """Context of all that the group does."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    @property
    def active(self) -> list[Trainer]:
        """The trainings that continue."""
        return [trainer for trainer in self.trainers if trainer not in self.outcomes]

    def begin_step(self) -> bool:
        """Begin a step of every training that continues; whether there is one."""
        if not self.end_epochs():
            return False
        self.pending = self.step({trainer: next(self.orders[trainer]) for trainer in self.active})
        return True

    def end_step(self, seconds: float) -> None:
        """Wait for the step that was begun, if any, and count it; `seconds` are shared among its trainings."""
        if self.pending is None:
            return
        ends, self.pending = self.pending(), None
        for trainer, end in ends.items():
            if isinstance(end, DivergenceError):
                self.outcomes[trainer] = end
            else:
                trainer.count(*end, seconds / len(ends))

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

    def step(self, parts: Mapping[Trainer, BatchPart]) -> Callable[[], dict[Trainer, StepEnd]]:
        """Begin one step of each training.

        Returns:
            What waits for its end: sum of a training's losses, its correct answers and sequences, or why it failed.
        """
        groups = [[trainer] for trainer in parts]
        if self.fused:  # trainings resumed from different steps reach the short last batch at different times
            kinds = {trainer: (part.count, *trainer.rates) for trainer, part in parts.items()}
            groups = [[one for one in parts if kinds[one] == kind] for kind in dict.fromkeys(kinds.values())]
        begun = [self._step_of(group, parts) for group in groups]
        return lambda: {trainer: end for wait in begun for trainer, end in wait().items()}

    def _step_of(
        self, group: Sequence[Trainer], parts: Mapping[Trainer, BatchPart]
    ) -> Callable[[], dict[Trainer, StepEnd]]:
        """As `step`, for trainings whose batches, rates and factors of the noise are alike."""
        trainer, part = group[0], parts[group[0]]
        if len(group) > 1 or (self.fused and self.capturable):
            return self.step_at_once({one: parts[one] for one in group})
        end: StepEnd
        try:
            loss, correct, _ = trainer.take_step(self.train_split, part)
            end = loss, correct, part.count
        except DivergenceError as error:
            end = error
        return lambda: {trainer: end}

    def step_at_once(self, parts: Mapping[Trainer, BatchPart]) -> Callable[[], dict[Trainer, StepEnd]]:
        """As `step`, for batches of one size, through the kernels' axis of replicas."""
        trainers, count = list(parts), next(iter(parts.values())).count
        device = self.train_split.labels.device
        rows = torch.stack([part.rows for part in parts.values()])
        longest, rows = trainers[0].longest(rows), rows_on(rows, device)
        paths = [step_noise(trainer.config, trainer.progress.step) for trainer in trainers]
        inputs, labels, lengths, _, dt = select_sequences(self.train_split, rows, longest=longest)
        failed: dict[Trainer, StepEnd] = {}
        perturbed = []
        for r, trainer in enumerate(trainers):
            own_lengths, own_dt = (None if each is None else each[r] for each in (lengths, dt))
            try:
                perturbed.append(trainer.perturb(inputs[r], labels[r], own_lengths, own_dt))
            except DivergenceError as error:
                failed[trainer] = error
        if failed:
            others = {trainer: part for trainer, part in parts.items() if trainer not in failed}
            rest = self.step(others)
            return lambda: {**failed, **rest()}
        inputs = torch.stack(perturbed)
        seeds = on_device([int(path.seed) for path in paths], device)
        captured = self._capture(trainers, inputs, labels, seeds)
        values: Callable[[], list[float]]
        if captured is None:
            values = self.sums_and_gradients(trainers, inputs, labels, lengths, dt, seeds).tolist
        else:
            values = captured.begin(inputs, labels, seeds)
            for trainer in trainers:
                trainer.average_weights()

        def wait() -> dict[Trainer, StepEnd]:
            ends: dict[Trainer, StepEnd] = {}
            found = values()
            for r, trainer in enumerate(trainers):
                loss, right, norm = found[r :: len(trainers)]
                own_lengths, own_dt = (None if each is None else each[r] for each in (lengths, dt))
                batch = TrainingBatch(inputs[r], labels[r], own_lengths, None, paths[r], own_dt)
                try:
                    trainer.check_step(batch, loss, norm)
                    if captured is None:
                        trainer.update_weights()
                    ends[trainer] = loss, right, count
                except DivergenceError as error:
                    ends[trainer] = error
            return ends

        return wait

    def _capture(
        self, trainers: Sequence[Trainer], inputs: Tensor, labels: Tensor, seeds: Tensor
    ) -> CapturedStep | None:
        """The captured step of some trainings; `None` while they have not made enough steps one kernel at a time."""
        if not self.capturable or labels.shape[1] < self.config.batch_size:
            return None
        alike = (*trainers, *trainers[0].rates)
        if alike not in self._captured:
            self._steps_made[alike] += 1
            if self._steps_made[alike] <= _BEFORE_CAPTURE:
                return None

            def compute(inputs: Tensor, labels: Tensor, seeds: Tensor) -> Tensor:
                values = self.sums_and_gradients(trainers, inputs, labels, None, None, seeds)
                finite = values.view(3, len(trainers))[::2].isfinite().all(0)
                for trainer, fine in zip(trainers, finite, strict=True):
                    trainer.update_weights_if(fine)
                return values

            self._captured = {alike: CapturedStep(compute, inputs, labels, seeds)}  # rates do not return: one is enough
        return self._captured[alike]

    def sums_and_gradients(
        self,
        trainers: Sequence[Trainer],
        inputs: Tensor,
        labels: Tensor,
        lengths: Tensor | None,
        dt: Tensor | None,
        seeds: Tensor,
    ) -> Tensor:
        """Leave the clipped gradient of a batch of each training with its parameters.

        Returns:
            Sums of the losses, correct answers and norms of the gradients before clipping, each of all trainings:
            float64 `(3 * trainings,)`.
        """
        for trainer in trainers:
            trainer.begin_step()
        losses, correct = self.sums(trainers, inputs, labels, lengths, dt, seeds)
        count = labels.shape[1]
        self.fabric.backward(losses.sum() / count)  # a sum, so that each training gets the gradient of its own loss
        norms = torch.stack([trainer.clip_gradient() for trainer in trainers])
        return torch.cat([part.detach().to(losses.device, torch.float64) for part in (losses, correct, norms)])

    def sums(
        self,
        trainers: Sequence[Trainer],
        inputs: Tensor,
        labels: Tensor,
        lengths: Tensor | None,
        dt: Tensor | None,
        seeds: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Sums of the losses and of the correct answers of each training, both `(trainings,)`, from one batched call.

        Args:
            trainers: Their weights are stacked each time, so that each keeps its own parameters and optimizer.
            inputs: `(trainings, batch, steps, input_size)`.
            labels: `(trainings, batch)`.
            lengths: `(trainings, batch)`, or `None`.
            dt: `(trainings, batch, steps)`, or `None`.
            seeds: Of the noise, int64 `(trainings,)`.
        """
        passes = [trainer.training_pass for trainer in trainers]
        states = [{**dict(one.named_parameters()), **dict(one.named_buffers())} for one in passes]
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}

        def one(
            state: dict[str, Tensor],
            inputs: Tensor,
            labels: Tensor,
            lengths: Tensor | None,
            dt: Tensor | None,
            seed: Tensor,
        ) -> tuple[Tensor, Tensor]:
            batch = TrainingBatch(inputs, labels, lengths, None, BrownianPath(seed=seed), dt)
            sums = torch.func.functional_call(passes[0], state, (batch,))
            return sums.loss, sums.correct

        axes = (0, 0, 0, None if lengths is None else 0, None if dt is None else 0, 0)
        with self.fabric.autocast(), trainers[0].noise_of_epoch():
            losses, correct = torch.func.vmap(one, in_dims=axes)(stacked, inputs, labels, lengths, dt, seeds)
        return losses, correct


def _batches_to_come(trainer: Trainer, size: int) -> Iterator[BatchPart]:
    """The batches of a training from where it is; its progress is read at the start of each epoch."""
    while True:
        yield from trainer.batches(size)
