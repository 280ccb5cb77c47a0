"""A search for settings, judged on the validation data under a stated perturbation."""

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import joblib
import torch
import yaml

from noisyrnn import __version__
from noisyrnn.checks import check_choice, check_integer, check_number
from noisyrnn.models import MODELS
from noisyrnn.pipeline.databases import sqlite_url
from noisyrnn.pipeline.dependencies import EVALUATION_RESULTS, TRAINING_RESULTS
from noisyrnn.pipeline.devices import resolve_accelerator
from noisyrnn.pipeline.search_space import SPACES, Space, read_space
from noisyrnn.pipeline.seeds import train_seeds
from noisyrnn.pipeline.study import (
    check_optuna,
    counted,
    give_up_lost,
    heartbeat,
    importances,
    new_trial,
    open_study,
    quiet,
    running,
)
from noisyrnn.pipeline.train import announce, load_data
from noisyrnn.pipeline.workers import WorkerDiedError, run_tasks
from noisyrnn.progress import ProgressBar
from noisyrnn.robustness import MAX_DRAWS, PERTURBATIONS, build_perturbation, check_strengths, evaluate
from noisyrnn.run_folder import RunFolder, check_writable, content_digest, write_atomically, write_json
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.saving import load
from noisyrnn.training.settings import recommended

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

FIRST_SEED = 101
"""Of the trainings of a trial: comparisons begin at 1, so that none repeats a training the settings were chosen by."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Settings of a sweep.

    Args:
        model: Which network; see `noisyrnn list`.
        trials: Trials in all, at least 1; a sweep that is started again makes those that are missing.
        strengths: For each perturbation of the validation data, its strengths, at least 0, in the units
            that `noisyrnn evaluate` has for the data set
            (0 is clean). A trial's score is the mean accuracy over all of them.
        draws: Draws of every random noise, 1 to 35.
        seeds: Trainings of each trial, with seeds from 101 on, at least 1; the score is their mean.
        space: What is searched instead of the model's own space: for each setting of `noisyrnn train` a list of values,
            or `{low: 0.01, high: 1, log: true}`.
        train: Settings that are fixed, over those recommended for the data set; they are not searched.
        sweep_seed: Decides the choice of the trials and the draws, at least 0.
        workers: Trials at a time on this machine, at least 1; the cores are shared out between them.
        storage: URL of the database; by default an SQLite file in the output folder. Several machines that are given
            one PostgreSQL or MySQL database share a sweep.
        accelerator: "auto" (the GPU where there is one), "cpu" or "cuda".

    Raises:
        ValueError: If a setting is unknown, out of range, or both fixed and searched.
        TypeError: If a value has the wrong type.
    """

    model: str = "noisy"
    trials: int = 50
    strengths: Mapping[str, Any] = field(default_factory=lambda: {"white_noise": [0.2]})
    draws: int = 5
    seeds: int = 1
    space: Mapping[str, Any] | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    sweep_seed: int = 0
    workers: int = 1
    storage: str | None = None
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        check_choice("model", self.model, MODELS)
        for name in ("trials", "draws", "seeds", "workers"):
            check_integer(name, getattr(self, name), minimum=1)
        check_number("draws", self.draws, maximum=MAX_DRAWS)
        check_integer("sweep_seed", self.sweep_seed, minimum=0)
        if not isinstance(self.strengths, Mapping) or not self.strengths:
            raise TypeError(
                f"strengths must map perturbations to lists of numbers, got {self.strengths!r}. "
                "Write {white_noise: [0.1]}."
            )
        for name, strengths in self.strengths.items():
            check_choice("perturbation", name, PERTURBATIONS)
            check_strengths("strengths", strengths)
        resolve_accelerator(self.accelerator)
        both = sorted(set(self.space or {}) & set(self.train))
        if both:
            raise ValueError(f"{both[0]} must be fixed or searched, got both. Leave one of them out.")
        for name, place in self.searched().items():  # a value that is not allowed fails here, not in a trial
            for end in place.ends:
                self.run_config({name: end})

    def searched(self) -> Space:
        """What is searched: the given space, or the model's own without the settings that are fixed."""
        if self.space is not None:
            return read_space(self.space)
        space = {name: place for name, place in SPACES[self.model].items() if name not in self.train}
        if not space:
            raise ValueError(f"train must leave something to search, got {', '.join(sorted(self.train))}.")
        return space

    def run_config(self, values: Mapping[str, Any], *, seed: int = FIRST_SEED) -> TrainConfig:
        """The settings of one training of a trial with these `values`."""
        for name in ("model", "label", "seed"):
            if name in self.train:
                raise ValueError(f"train must not hold {name}, got {self.train[name]!r}.")
        base = recommended(self.dataset, self.model)
        return TrainConfig.from_dict({**base, **self.train, **values, "model": self.model, "seed": seed})

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.train.get("dataset", TrainConfig.dataset))

    @property
    def threads(self) -> int:
        """Threads of each trial: its share of this machine's cores."""
        return max(1, int(joblib.cpu_count()) // self.workers)

    def identity(self, data: str) -> dict[str, Any]:
        """Everything that decides a trial's score, as JSON holds it; `data` is a digest of the data's fingerprint."""
        fixed = {k: v for k, v in dataclasses.asdict(self.run_config({})).items() if k not in ("seed", "label")}
        content = {
            "data": data,
            "results": [TRAINING_RESULTS[fixed["precision"]], EVALUATION_RESULTS],
            "fixed": {name: value for name, value in fixed.items() if name not in self.searched()},
            "space": {name: place.to_json() for name, place in self.searched().items()},
            "strengths": {name: list(map(float, strengths)) for name, strengths in self.strengths.items()},
            "draws": self.draws,
            "seeds": self.seeds,
            "sweep_seed": self.sweep_seed,
        }
        return json.loads(json.dumps(content))


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """How a sweep ended.

    Args:
        folder: Where `sweep.json`, `best.yaml` and `sweep.html` are.
        best: Settings of the best trial, those that were searched.
        score: Its mean accuracy on the perturbed validation data. The best of many: expect less of new data.
        trials: Trials made, in all.
        failed: Those of them that failed.
        sequences: Number of validation sequences that the score rests on; `None` for a sweep of an earlier version.
    """

    folder: Path
    best: dict[str, Any]
    score: float
    trials: int
    failed: int
    sequences: int | None


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """One trial, as it is sent to a worker.

    Args:
        config: Settings of the sweep.
        name: Of the study.
        identity: See `SweepConfig.identity`.
        storage: URL of the database.
        folder: Where its trainings go.
        data_dir: Where to look for data first.
    """

    config: SweepConfig
    name: str
    identity: dict[str, Any]
    storage: str
    folder: Path
    data_dir: Path | None


def run_trial(task: TrialTask) -> None:
    """Choose settings, train with them and note their score, unless the sweep has trials enough by now."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    study = open_study(task.name, task.storage, task.identity)
    if len(counted(study)) + running(study) >= task.config.trials:
        return
    before = torch.get_num_threads()
    torch.set_num_threads(task.config.threads)
    try:
        with quiet():
            trial = new_trial(study, task.config.sweep_seed)
            try:
                with heartbeat(trial):
                    score = score_trial(trial, task)
            except UpdateFinishedTrialError:  # another process took it for lost, and has begun another
                return
            except BaseException:
                study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
                raise
            # A trial without a score is one that failed; Optuna ranks such trials last.
            state = TrialState.PRUNED if score is None else TrialState.COMPLETE
            study.tell(trial, score, state=state, skip_if_finished=True)
    finally:
        torch.set_num_threads(before)


def score_trial(trial: "Trial", task: TrialTask) -> float | None:
    """Mean accuracy of a trial on the perturbed validation data; `None` if a training fails, with its message kept."""
    began = time.monotonic()
    config = task.config
    values = {name: place.suggest(trial, name) for name, place in config.searched().items()}
    runs = [config.run_config(values, seed=FIRST_SEED + k) for k in range(config.seeds)]
    ends = train_seeds(
        runs,
        output=task.folder,
        data_dir=task.data_dir,
        resume=True,
        accelerator=config.accelerator,
    )
    sentences = [sentence for sentence in ends.values() if sentence is not None]
    if not sentences:
        try:
            columns = [validation_columns(RunFolder(path), config, data_dir=task.data_dir) for path in ends]
        except RuntimeError as error:  # logits that are not finite
            sentences = [str(error)]
    trial.set_user_attr("seconds", round(time.monotonic() - began, 3))
    if sentences:
        trial.set_user_attr("error", sentences[0])
        return None
    trial.set_user_attr("columns", columns)
    return fmean(column["accuracy"] for run in columns for column in run)


def validation_columns(folder: RunFolder, config: SweepConfig, *, data_dir: Path | None) -> list[dict[str, Any]]:
    """Accuracy of a finished run on the validation data under each perturbation, with its 95 % interval.

    The draws are the same for every trial.
    """
    run = config.run_config({})
    dataset = load_data(run, data_dir=data_dir)
    device = resolve_accelerator(config.accelerator)
    model = load(folder.model).to(device)
    model.layer.noise = "off"
    found = []
    for name, strengths in config.strengths.items():
        for strength in strengths:
            perturbation = build_perturbation(
                name, float(strength), value_range=dataset.value_range, scale=dataset.scale
            )
            result = evaluate(
                model,
                dataset.validation,
                perturbation,
                draws=config.draws,
                seed=config.sweep_seed,
                device=device,
            )
            kept = ("perturbation", "strength", "unit", "accuracy", "interval", "sequences")
            found.append({key: value for key, value in result.to_dict().items() if key in kept})
    return found


def sweep(
    config: SweepConfig,
    *,
    output: Path = Path("runs"),
    data_dir: Path | None = None,
    command: str | None = None,
    show_progress: bool = False,
) -> SweepResult:
    """Search the settings of a model; started again, it continues where it was.

    The test data are not read. With one worker the trials are the same each time, broken off or not.

    Args:
        config: Settings.
        output: A folder named after the sweep is made here, with the trials' runs in it, and by default the database.
        data_dir: Where to look for data first.
        command: What the page names as the way to repeat it.
        show_progress: Whether to show progress.

    Raises:
        ValueError: If Optuna is missing, or settings, data or the database are wrong, before any trial starts.
        RuntimeError: If every trial failed, or a worker process died.
        KeyboardInterrupt: If the user stopped the sweep; what was found so far is written.
    """
    check_optuna()
    output = output.resolve()
    run = config.run_config({})
    dataset = load_data(run, data_dir=data_dir)
    announce(dataset, show_progress)
    identity = config.identity(content_digest(dataset.fingerprint()))
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    stem = re.sub(r"[^\w.-]+", "_", f"{Path(run.dataset).stem}-{config.model}")
    name = f"sweep-{stem}-{digest}"
    check_writable(output / name)
    storage = config.storage or sqlite_url(output / "sweeps.db")
    study = open_study(name, storage, identity)
    give_up_lost(study)
    made = len(counted(study))
    task = TrialTask(
        config=config,
        name=name,
        identity=identity,
        storage=storage,
        folder=output / name,
        data_dir=None if data_dir is None else data_dir.resolve(),
    )
    bar = ProgressBar(f"sweep {stem}", config.trials, done=made, shown=show_progress)
    deaths = 0

    def done(task: TrialTask, end: WorkerDiedError | None) -> None:
        nonlocal deaths
        deaths += isinstance(end, WorkerDiedError)
        bar.advance()

    try:
        while made < config.trials:
            tasks = [task] * (config.trials - made)
            run_tasks(run_trial, tasks, done, workers=config.workers, threads=config.threads)
            give_up_lost(study)
            before, made = made, len(counted(study))
            if made == before:  # the others are running elsewhere, or every worker dies
                break
    finally:
        bar.close()
        if counted(study):
            write_sweep(study, config, output / name, command)
    if deaths and made < config.trials:
        raise RuntimeError(
            "A worker process died before its trial ended; it may have run out of memory. "
            "Run the same command again with fewer workers."
        )
    return _result(study, output / name)


def _result(study: "Study", folder: Path) -> SweepResult:
    trials = counted(study)
    scored = [trial for trial in trials if trial.value is not None]
    if not trials:
        raise RuntimeError(
            "No trial has ended: the missing ones are running elsewhere. Run the same command again later."
        )
    if not scored:
        raise RuntimeError(f"Every trial failed. The first says: {trials[0].user_attrs['error']}")
    best = _best(scored)
    return SweepResult(
        folder=folder,
        best=dict(best.params),
        score=float(best.value or 0.0),
        trials=len(trials),
        failed=len(trials) - len(scored),
        sequences=best.user_attrs["columns"][0][0].get("sequences"),
    )


def _best(scored: list["FrozenTrial"]) -> "FrozenTrial":
    """The highest score; of equal ones the first."""
    return max(scored, key=lambda trial: (trial.value, -trial.number))


def write_sweep(study: "Study", config: SweepConfig, folder: Path, command: str | None) -> None:
    """Write what was found so far: `sweep.json` and `sweep.html`, and `best.yaml` where a trial was scored."""
    trials = counted(study)
    scored = [trial for trial in trials if trial.value is not None]
    content = {
        "version": __version__,
        "model": config.model,
        "dataset": config.dataset,
        "wanted": config.trials,
        **{k: v for k, v in study.user_attrs["settings"].items() if k != "data"},
        "trials": [
            {
                "number": trial.number,
                "values": trial.params,
                "score": trial.value,
                "columns": trial.user_attrs.get("columns"),
                "error": trial.user_attrs.get("error"),
                "seconds": trial.user_attrs.get("seconds"),
            }
            for trial in trials
        ],
        "best": _best(scored).number if scored else None,
        "importances": importances(study),
    }
    write_json(folder / "sweep.json", content)
    if scored:
        run = config.run_config(_best(scored).params)
        needed = {"model", "dataset"} | recommended(run.dataset, run.model).keys()  # train would take those, left out
        settings = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(run).items()
            if name not in ("seed", "label") and (name in needed or value != getattr(TrainConfig, name))
        }
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        write_atomically(folder / "best.yaml", text.encode())
    from noisyrnn.report.sweep import write_sweep_page  # matplotlib, which the trials need not wait for

    write_sweep_page(content, folder / "sweep.html", command=command)
