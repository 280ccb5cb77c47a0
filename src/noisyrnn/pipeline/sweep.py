"""Searches the settings of a model with Optuna, for accuracy on perturbed validation data."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml

from noisyrnn import __version__
from noisyrnn.checks import check_choice, check_integer
from noisyrnn.files import check_writable, content_digest, json_ready, write_atomically, write_json
from noisyrnn.locks import locked
from noisyrnn.models import MODELS
from noisyrnn.models.options import merge_options
from noisyrnn.models.registry import plugin_source
from noisyrnn.noise.brownian import derive_seed
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.dependencies import EVALUATION_RESULTS, TRAINING_RESULTS
from noisyrnn.pipeline.devices import resolve_accelerator
from noisyrnn.pipeline.evaluate import EvaluateConfig, load_noise_free
from noisyrnn.pipeline.search_space import Place, read_space, suggest
from noisyrnn.pipeline.seeds import train_seeds
from noisyrnn.pipeline.train import announce
from noisyrnn.pipeline.workers import WorkerDiedError, run_tasks, threads_per_worker
from noisyrnn.progress import ProgressBar
from noisyrnn.redact import sqlite_url, without_passwords
from noisyrnn.robustness import METRICS, evaluate
from noisyrnn.robustness.metrics import Scorer
from noisyrnn.run_folder import RunFolder, folder_name
from noisyrnn.threads import limit_threads
from noisyrnn.training.config import TrainConfig, check_precision
from noisyrnn.training.settings import merge_settings, recommended, search_space, stated

if TYPE_CHECKING:
    from optuna import Study, Trial

FIRST_SEED = 101
"""First seed of a trial's trainings; those of comparisons begin at 1, so that they repeat no training of a sweep."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Settings of a sweep.

    Args:
        model: Model to train; `noisyrnn list` shows all.
        trials: Number of trials, at least 1. The same command with a larger number adds trials.
        strengths: Strengths of each perturbation of the validation data, at least 0 (0 means clean inputs), in the
            units of `noisyrnn evaluate` (default: {white_noise: [0.2]}). The score of a trial is the mean over all of
            them of the accuracy, or of R² for a regression.
        draws: Number of draws of each random perturbation, 1 to 35.
        seeds: Number of trainings per trial, with seeds 101, 102, …; the score is their mean.
        space: Search space: for each setting of `noisyrnn train` to search, a list of values, or
            {low: 0.01, high: 1, log: true} (default: the model's search space).
        train: Fixed training settings, which are not searched (default: those recommended for the data set).
        sweep_seed: Seed of the search and of the draws, at least 0.
        workers: Number of trials to run at the same time on this machine, at least 1; they share its cores.
        storage: URL of Optuna's database (default: sweeps.db in the output folder). Several machines share a sweep
            through a PostgreSQL or MySQL database.

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

    def __post_init__(self) -> None:
        check_choice("model", self.model, MODELS)
        for name in ("trials", "seeds", "workers"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("sweep_seed", self.sweep_seed, minimum=0)
        if not self.strengths:
            raise ValueError("strengths must name at least one perturbation, got none. Write {white_noise: [0.1]}.")
        object.__setattr__(self, "strengths", self.evaluation.strengths)
        if both := sorted(set(self.space or {}) & set(self.train)):
            raise ValueError(f"{both[0]} must be fixed or searched, got both. Leave one of them out.")
        for name, place in self.searched().items():  # a value that is not allowed fails here, not in a trial
            for limit in place if isinstance(place, list) else (place["low"], place["high"]):
                self.run_config({name: limit})

    def searched(self) -> dict[str, Place]:
        """Return the search space: `space`, or the model's own without the settings that are fixed."""
        if self.space is not None:
            return read_space(self.space)
        fixed = merge_options({}, self.train)  # with the levels of the noise where a diffusion replaces them
        space = {name: place for name, place in search_space(self.model).items() if name not in fixed}
        if not space:
            raise ValueError(f"train must leave something to search, got {', '.join(sorted(self.train))}.")
        return read_space(space)

    def run_config(self, values: Mapping[str, Any], *, seed: int = FIRST_SEED) -> TrainConfig:
        """Return the settings of one training of a trial with these `values`."""
        for name in ("model", "label", "seed"):
            if name in self.train:
                raise ValueError(f"train must not hold {name}, got {self.train[name]!r}.")
        base = recommended(str(self.train.get("dataset", TrainConfig.dataset)), self.model)
        given = {**self.train, **values}
        if given.get("select") in ("refit", "auto"):
            raise ValueError(
                f"select must leave the validation data to the sweep, got {given['select']!r}. Use clean or last."
            )
        if base.get("select") == "auto":
            base["select"] = "clean"
        settings = merge_settings(base, given)
        return TrainConfig.from_dict({**settings, "model": self.model, "seed": seed})

    def identity(self, data: str) -> dict[str, Any]:
        """Return everything that decides a trial's score, JSON-ready; `data` is a digest of the data's fingerprint."""
        run, space = self.run_config({}), self.searched()
        fixed = {name: value for name, value in run.identity().items() if name not in {"seed", "label", *space}}
        results = [TRAINING_RESULTS[run.precision], EVALUATION_RESULTS["classes"]]  # no attack, which alone differs
        chosen = {name: getattr(self, name) for name in ("model", "strengths", "draws", "seeds", "sweep_seed")}
        source = plugin_source(self.model)
        return json_ready({**chosen, "data": data, "results": results, "fixed": fixed, "space": space, **source})

    @property
    def evaluation(self) -> EvaluateConfig:
        """Perturbations and draws that score a trial."""
        return EvaluateConfig(strengths=self.strengths, draws=self.draws)


def open_study(url: str, name: str) -> "Study":
    """Open the study of a sweep; create it, and the tables of its database, where they are missing.

    Optuna queues a trial again, with its values, if its process has been silent for two minutes.

    Raises:
        ValueError: If the database cannot be opened.
    """
    import optuna
    from sqlalchemy import make_url

    try:
        parts = make_url(url)
        local = parts.drivername.startswith("sqlite")
        if local and (parts.database in (None, "", ":memory:") or "mode=memory" in url):
            raise ValueError
    except Exception:  # its message may quote a password
        example = "sqlite:///sweeps.db or postgresql://user@host/name"
        raise ValueError(f"storage must be the URL of a database that outlives a process. Write {example}.") from None
    shown = without_passwords(parts.render_as_string())
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = optuna.storages.RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": 60}} if local else {},
                heartbeat_interval=60,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
            )
        return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    except Exception as error:  # of SQLAlchemy or a driver, or a missing driver
        reason = without_passwords((str(error).splitlines() or [""])[0].replace(url, shown)).rstrip(".")
        raise ValueError(
            f"storage must be a database that can be opened, got {shown!r} ({reason}). Check its address, server and "
            "driver. If a file is damaged, move it away: the same command uses the trainings that are there."
        ) from error


def finished(study: "Study") -> list[Any]:
    """Return the trials that ended, in order: those with a score, and those whose training failed (pruned)."""
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def run_trial(task: tuple[SweepConfig, str, RunContext]) -> None:
    """Run one trial of a task (settings, database, context of the runs), unless the study has enough trials."""
    config, url, context = task
    study = open_study(url, context.output.name)
    if len(finished(study)) < config.trials:
        with limit_threads(threads_per_worker(config.workers)):
            study.optimize(lambda trial: score_trial(trial, config, context), n_trials=1)


def score_trial(trial: "Trial", config: SweepConfig, context: RunContext) -> float:
    """Return the mean accuracy, or R², of a trial on the perturbed validation data.

    Raises:
        TrialPruned: If a training fails; the trial keeps its message.
    """
    import optuna

    # Trials that were interrupted do not count, so that a resumed sweep chooses what it would have chosen.
    place = sum(other.state is not optuna.trial.TrialState.FAIL for other in trial.study.trials[: trial.number])
    trial.study.sampler = optuna.samplers.TPESampler(seed=derive_seed(config.sweep_seed, "trial", place) % 2**32)
    values = {name: suggest(trial, name, place) for name, place in config.searched().items()}
    try:
        runs = [config.run_config(values, seed=FIRST_SEED + k) for k in range(config.seeds)]
    except ValueError as error:  # values that do not go with each other
        trial.set_user_attr("error", str(error))
        raise optuna.TrialPruned from error
    try:
        failures = train_seeds(runs, context)
        for message in filter(None, failures.values()):
            raise RuntimeError(message)
        columns = [validation_columns(RunFolder(path), config, context) for path in failures]
    except KeyboardInterrupt:
        trial.study.enqueue_trial(trial.params)  # its training is resumed from the checkpoint
        raise
    except RuntimeError as error:  # of a training, or logits that are not finite
        trial.set_user_attr("error", str(error))
        raise optuna.TrialPruned from error
    trial.set_user_attr("columns", columns)
    return fmean(column["accuracy"] if "accuracy" in column else column["value"] for run in columns for column in run)


def validation_columns(folder: RunFolder, config: SweepConfig, context: RunContext) -> list[dict[str, Any]]:
    """Measure a finished run on the validation data under each perturbation, with the same draws for every trial."""
    device = resolve_accelerator(context.accelerator)
    dataset, model = context.read_data(config.run_config({})), load_noise_free(folder, device)
    kept = ("perturbation", "strength", "unit", "accuracy", "metric", "value", "interval", "sequences")
    results = [
        evaluate(
            model,
            dataset.validation,
            perturbation,
            draws=config.draws,
            seed=config.sweep_seed,
            device=device,
            show_progress=False,
        )
        for perturbation in config.evaluation.perturbations(dataset)
    ]
    columns = []
    for result in results:
        content = result.to_dict()
        if result.metric != "accuracy":
            score = result.main
            interval = [None if math.isnan(end) else end for end in score.interval]
            content |= {"metric": result.metric, "value": score.mean, "interval": interval}
        columns.append({name: content[name] for name in kept if name in content})
    return columns


def sweep(
    config: SweepConfig, context: RunContext | None = None, *, command: str | None = None
) -> tuple[Path, dict[str, Any]]:
    """Search the settings of a model; started again, continue.

    The test data are not read. With one worker the trials are the same each time, interrupted or not.

    Args:
        config: Settings.
        context: Where and how to run. A folder named after the sweep is created in `context.output` for its runs and
            results, and sweeps.db next to it.
        command: The command that the page shows.

    Returns:
        The sweep's folder, and the content of its `sweep.json`. The best score is optimistically biased: it is the
        maximum over many trials on the selection data.

    Raises:
        ValueError: If Optuna is missing, settings, data or the database are wrong, or another process works in the
            folder, before any trial starts.
        RuntimeError: If every trial failed, or a worker process died.
        KeyboardInterrupt: If the user stopped the sweep; the results so far are written.
    """
    try:
        import optuna
    except ImportError as error:
        raise ValueError("`noisyrnn sweep` needs Optuna: pip install 'noisyrnn[sweep]'") from error
    context = context or RunContext()
    run, output = config.run_config({}), context.output.resolve()
    check_precision(run.precision, resolve_accelerator(context.accelerator))
    dataset = context.read_data(run)
    metric = Scorer(dataset.validation).metrics[0]
    if METRICS[metric].better == "lower":  # the search is for the highest score
        raise ValueError(
            "dataset must have validation targets that vary, by whose R² trials are compared, got equal ones. Give "
            "more sequences, or a validation part of your own."
        )
    announce(dataset, context.show_progress)
    identity = config.identity(content_digest(dataset.fingerprint()))
    stem = f"{Path(run.dataset).stem}-{config.model}"
    folder = output / folder_name(f"sweep-{stem}", identity)
    check_writable(folder)
    runs = RunContext(
        output=folder,
        data_dir=context.data_dir,
        accelerator=context.accelerator,
        resume=True,
        show_progress=False,
    )
    url = config.storage or sqlite_url(output / "sweeps.db")
    ends: list[WorkerDiedError | None] = []
    with locked(folder):
        study = open_study(url, folder.name)
        study.set_user_attr("settings", identity)
        if config.storage is None:  # the database is of this command only: the processes of its trials have ended
            for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                study.enqueue_trial(trial.params)
        done = len(finished(study))
        bar = ProgressBar(f"sweep {stem}", config.trials, done=done, shown=context.show_progress)

        def count(_: Any, end: WorkerDiedError | None) -> None:
            ends.append(end)
            bar.advance()

        try:
            tasks = [(config, url, runs)] * (config.trials - done)
            run_tasks(run_trial, tasks, count, workers=config.workers, threads=threads_per_worker(config.workers))
        finally:
            bar.close()
            content = write_sweep(study, config, folder, command)
    if any(ends):
        raise RuntimeError(
            "A worker process died before its trial ended; it may have run out of memory. "
            "Run the same command again with fewer workers."
        )
    if content["best"] is None:
        raise RuntimeError(f"Every trial failed. The first says: {content['trials'][0]['error']}")
    return folder, content


def write_sweep(study: "Study", config: SweepConfig, folder: Path, command: str | None) -> dict[str, Any]:
    """Write the results so far: `sweep.json` and `sweep.html`, and `best.yaml` if a trial has a score."""
    from noisyrnn.report.sweep import write_sweep_page  # matplotlib, which the trials need not wait for

    ended = finished(study)
    best = study.best_trial if any(trial.value is not None for trial in ended) else None
    run = config.run_config({} if best is None else best.params)
    content = {
        "version": __version__,
        "dataset": run.dataset,
        "wanted": config.trials,
        **{name: value for name, value in study.user_attrs["settings"].items() if name != "data"},
        "trials": [
            {
                "number": trial.number,
                "values": trial.params,
                "score": trial.value,
                **{name: trial.user_attrs.get(name) for name in ("columns", "error")},
                "seconds": None if trial.duration is None else round(trial.duration.total_seconds(), 3),
            }
            for trial in ended
        ],
        "best": None if best is None else best.number,
    }
    write_json(folder / "sweep.json", content)
    if best is not None:
        settings = {name: value for name, value in stated(run).items() if name not in ("seed", "label")}
        write_atomically(folder / "best.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode())
    write_sweep_page(content, study, folder / "sweep.html", command=command)
    return content
