"""Several runs that differ in their seed, side by side in one process."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from noisyrnn.checks import check_number
from noisyrnn.data.base import Dataset
from noisyrnn.interruption import graceful_interrupt
from noisyrnn.kernels import select
from noisyrnn.progress import ProgressBar
from noisyrnn.run_folder import RunFolder, locked
from noisyrnn.sde.brownian import BrownianPath, derive_seed
from noisyrnn.threads import reproducible_threads
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.divergence import DivergenceError
from noisyrnn.training.fit import Batch, batches, take_step, to_device, validate
from noisyrnn.training.objective import Objective, Trained, noisy_loss
from noisyrnn.training.run import EpochHook, FitResult, Run, fabric_on_cpu

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Outcome = FitResult | DivergenceError
StepEnd = tuple[float, float, int] | DivergenceError


@reproducible_threads()
def fit_seeds(
    models: Sequence[Trained],
    dataset: Dataset,
    configs: Sequence[TrainConfig],
    *,
    objective: Objective = noisy_loss,
    folders: Sequence[RunFolder] | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    show_progress: bool = False,
    fabric: "Fabric | None" = None,
    on_epochs: Sequence[EpochHook] | None = None,
) -> list[Outcome]:
    """Train every model as `fit` would train it alone: with its own data order, noise, optimiser and best epoch.

    Each step takes one batch of every run that goes on. A fused kernel takes all of them in one call, and every run
    ends as it would alone up to rounding; where none can run the model, the objective is not `noisy_loss` or sequences
    have weights, the batches follow one another and the bits are the same. Runs that stop early drop out, and so do
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
        show_progress: Whether to show a progress bar, one for all.
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
    check_alike(configs)
    fabric = fabric or fabric_on_cpu(configs[0].precision)
    if fabric.world_size > 1:
        raise ValueError(f"runs can only be trained together in one process, got {fabric.world_size}. Start one.")
    places: Sequence[RunFolder | None] = [None] * len(models) if folders is None else folders
    hooks: Sequence[EpochHook | None] = [None] * len(models) if on_epochs is None else on_epochs
    data = None if folders is None else dataset.fingerprint()
    runs = [
        Run(
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
        for run in runs:
            if run.folder is not None:
                locks.enter_context(locked(run.folder.path))
        checkpoints = [run.read_checkpoint() if resume else None for run in runs]
        for run, checkpoint in zip(runs, checkpoints, strict=True):
            if checkpoint is not None:
                run.restore(checkpoint)
        return _Group(runs, dataset, fabric).train(checkpoint_seconds, show_progress)


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
    """Runs, and the data that they share.

    Args:
        runs: Each where its training begins or goes on.
        dataset: Its training and validation data are moved to the device once.
        fabric: Device and precision.
    """

    def __init__(self, runs: Sequence[Run], dataset: Dataset, fabric: "Fabric") -> None:
        self.runs = list(runs)
        self.fabric = fabric
        dtype = next(runs[0].model.parameters()).dtype
        self.train_split = to_device(dataset.train, fabric, dtype)
        self.validation = to_device(dataset.validation, fabric, dtype)
        self.per_epoch = -(-len(dataset.train) // runs[0].config.batch_size)
        self.outcomes: dict[Run, Outcome] = {}
        layer, sample = runs[0].model.layer, runs[0].model.standardize(self.train_split.inputs[:1])
        cell: Any = layer.cells["l0"]  # of all layers the same kind
        plain = runs[0].noisy.objective is noisy_loss and dataset.train.weights is None
        self.fused = plain and select.choose(cell, sample, kernel=layer.kernel)[0] != "reference"

    @property
    def active(self) -> list[Run]:
        """The runs that go on."""
        return [run for run in self.runs if run not in self.outcomes]

    def train(self, checkpoint_seconds: float, show_progress: bool) -> list[Outcome]:
        """Step all runs until each has ended; see `fit_seeds`."""
        config, seeds = self.runs[0].config, [run.config.seed for run in self.runs]
        orders = {run: _batches_to_come(run, len(self.train_split)) for run in self.runs}
        bar = ProgressBar(
            f"{config.shown_label} {seed_range(seeds)}",
            config.epochs * self.per_epoch,  # of the run that is furthest behind
            done=min(run.progress.step for run in self.runs),
            shown=show_progress,
        )
        written = clock = time.monotonic()
        try:
            with graceful_interrupt() as stop:
                while self.end_epochs():
                    active = self.active
                    ends = self.step({run: next(orders[run]) for run in active})
                    now = time.monotonic()
                    for run, end in ends.items():
                        if isinstance(end, DivergenceError):
                            self.outcomes[run] = end
                        else:
                            run.count(*end, (now - clock) / len(active))
                    clock = now
                    bar.advance()
                    if stop.made or now - written >= checkpoint_seconds:
                        for run in self.active:
                            run.write_checkpoint()
                        written = time.monotonic()
                    if stop.made:
                        break
        finally:
            bar.close()
        if stop.made:
            raise stop.error()
        return [self.outcomes[run] for run in self.runs]

    def end_epochs(self) -> bool:
        """Validate the runs whose epoch is over and finish those that are at their end; whether any goes on."""
        for run in self.active:
            if run.progress.batch == self.per_epoch:
                try:
                    run.end_epoch(*validate(run.model, self.validation))
                except DivergenceError as error:
                    self.outcomes[run] = error
                    continue
            if run.finished:
                self.outcomes[run] = run.finish()
        return len(self.outcomes) < len(self.runs)

    def step(self, todo: dict[Run, Batch]) -> dict[Run, StepEnd]:
        """One step of each run: sum of its losses, its right answers and its sequences, or why it failed."""
        groups = [[run] for run in todo]
        if self.fused:  # runs resumed from different steps come to the short last batch of an epoch at different times
            counts = {batch.count for batch in todo.values()}
            groups = [[run for run in todo if todo[run].count == count] for count in counts]
        ends: dict[Run, StepEnd] = {}
        for group in groups:
            if len(group) > 1:
                ends.update(self.step_at_once({run: todo[run] for run in group}))
                continue
            run, batch = group[0], todo[group[0]]
            try:
                loss, correct, _ = take_step(run, self.fabric, self.train_split, batch)
                ends[run] = loss, correct, batch.count
            except DivergenceError as error:
                ends[run] = error
        return ends

    def step_at_once(self, todo: dict[Run, Batch]) -> dict[Run, StepEnd]:
        """As `step`, for batches of one size, through the kernels' axis of replicas."""
        runs, count = list(todo), next(iter(todo.values())).count
        rows = torch.stack([batch.rows for batch in todo.values()]).to(self.train_split.labels.device)
        inputs, labels, lengths = self.train_split.inputs[rows], self.train_split.labels[rows], None
        if self.train_split.lengths is not None:
            lengths = self.train_split.lengths[rows]
            inputs = inputs[:, :, : int(lengths.max())]  # the longest of all runs: padding changes nothing
        seeds = [derive_seed(run.config.seed, "noise", run.progress.step) for run in runs]
        for run in runs:
            run.begin_step()
        losses, correct = self.losses(runs, inputs, labels, lengths, seeds)
        self.fabric.backward(losses.sum() / count)  # a sum, so that each run gets the gradient of its own loss
        ends: dict[Run, StepEnd] = {}
        for r, (run, loss, right) in enumerate(zip(runs, losses.tolist(), correct.tolist(), strict=True)):
            own_lengths = None if lengths is None else lengths[r]
            try:
                run.end_step(loss, inputs[r], own_lengths, BrownianPath(seed=seeds[r]))
                ends[run] = loss, right, count
            except DivergenceError as error:
                ends[run] = error
        return ends

    def losses(
        self, runs: Sequence[Run], inputs: Tensor, labels: Tensor, lengths: Tensor | None, seeds: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Sum of the losses and number of right answers of each run, both `(runs,)`, from one batched call.

        Args:
            runs: Their weights are stacked anew each time, so that every run keeps its own parameters and optimiser.
            inputs: `(runs, batch, steps, input_size)`.
            labels: `(runs, batch)`.
            lengths: `(runs, batch)`, or `None`.
            seeds: Of the noise, one a run, in [0, 2⁶⁴).
        """
        states = [{**dict(run.noisy.named_parameters()), **dict(run.noisy.named_buffers())} for run in runs]
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        bits = [seed - 2**64 if seed >= 2**63 else seed for seed in seeds]
        noise = torch.tensor(bits, dtype=torch.int64, device=inputs.device)

        def one(
            state: dict[str, Tensor], inputs: Tensor, labels: Tensor, lengths: Tensor | None, seed: Tensor
        ) -> tuple[Tensor, Tensor]:
            return torch.func.functional_call(runs[0].noisy, state, (inputs, labels, lengths, seed, 0))

        axes = (0, 0, 0, None if lengths is None else 0, 0)
        with self.fabric.autocast():
            losses, correct = torch.func.vmap(one, in_dims=axes)(stacked, inputs, labels, lengths, noise)
        return losses, correct


def _batches_to_come(run: Run, size: int) -> Iterator[Batch]:
    """The batches of a run from where it is; its progress is read anew at the start of each epoch."""
    while True:
        yield from batches(run.config, size, run.progress.epoch, run.progress.batch, 0, 1)
