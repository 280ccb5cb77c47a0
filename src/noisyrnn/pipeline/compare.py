"""The main job: train several models, measure how robust they are, and write one report."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import joblib
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from noisyrnn import __version__
from noisyrnn.checks import check_choice, check_integer
from noisyrnn.data import load_dataset
from noisyrnn.models import MODELS
from noisyrnn.pipeline.evaluate import EvaluateConfig, evaluate_run
from noisyrnn.pipeline.train import run_path, train_run
from noisyrnn.report import write_report
from noisyrnn.run_folder import RunFolder, check_writable, read_json, write_json
from noisyrnn.training.config import TrainConfig
from noisyrnn.training.progress import ProgressBar
from noisyrnn.training.settings import recommended

BACKENDS = ("dask", "processes")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Settings of a comparison.

    Args:
        models: Which networks; the first is what the others are tested against.
        seeds: Number of seeds, 1 to that number, at least 1.
        train: Settings of `TrainConfig` for every model, over those recommended for the data set.
        evaluation: Perturbations and draws.
        workers: Runs at a time, at least 1; the cores are shared out between them.
        backend: "processes" on this machine, or "dask".
        scheduler: Address of the Dask scheduler; its workers must see `output` and the data under the same paths.

    Raises:
        ValueError: If a model is unknown, named twice, or a number is out of range.
    """

    models: Sequence[str]
    seeds: int = 3
    train: dict[str, Any] = field(default_factory=dict)
    evaluation: EvaluateConfig = field(default_factory=EvaluateConfig)
    workers: int = 1
    backend: str = "processes"
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models must name at least one model, got none. See noisyrnn list.")
        for model in self.models:
            check_choice("model", model, MODELS)
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models must name each model once, got {', '.join(self.models)}.")
        check_integer("seeds", self.seeds, minimum=1)
        check_integer("workers", self.workers, minimum=1)
        check_choice("backend", self.backend, BACKENDS)
        if self.backend == "dask" and self.scheduler is None:
            raise ValueError("scheduler must be the address of a Dask scheduler with backend 'dask', got none.")

    @property
    def threads(self) -> int:
        """Threads of each run: its share of this machine's cores."""
        return max(1, (os.cpu_count() or 1) // self.workers)

    def run_configs(self) -> list[TrainConfig]:
        """The settings of every run, seed by seed, so that a report is of use before the last one is done."""
        dataset = self.train.get("dataset", TrainConfig.dataset)
        configs = []
        for seed in range(1, self.seeds + 1):
            for model in self.models:
                options = MODELS[model].options()
                shared = {k: v for k, v in self.train.items() if k in options or not _is_model_option(k)}
                configs.append(
                    TrainConfig.from_dict({**recommended(dataset, model), **shared, "model": model, "seed": seed})
                )
        for name in self.train:
            if _is_model_option(name) and not any(name in MODELS[model].options() for model in self.models):
                raise ValueError(f"{name} must be an option of one of the models, got {', '.join(self.models)}.")
        return configs


def _is_model_option(name: str) -> bool:
    return any(name in entry.options() for entry in MODELS.values())


def one_run(
    config: TrainConfig,
    evaluation: EvaluateConfig,
    output: Path,
    data_dir: Path | None,
    threads: int,
    show_progress: bool,
) -> None:
    """Train and evaluate one run, going on from where it was; if it fails, its summary says why."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        folder = train_run(
            config, output=output, data_dir=data_dir, resume=True, accelerator="cpu", show_progress=show_progress
        )
        evaluate_run(folder, evaluation, data_dir=data_dir, show_progress=show_progress)
    except Exception as error:
        _note_failure(RunFolder(run_path(config, output)), config, str(error) or type(error).__name__)
    finally:
        torch.set_num_threads(before)


def _note_failure(folder: RunFolder, config: TrainConfig, sentence: str) -> None:
    """Leave what the report needs to show a run that failed."""
    folder.path.mkdir(parents=True, exist_ok=True)
    if not folder.config.is_file():
        settings = {**asdict(config), "label": config.shown_label}
        write_json(folder.config, {"version": __version__, "config": settings, "dataset": {}, "environment": {}})
    write_json(folder.summary, {"status": "failed", "error": sentence})


def compare(
    config: CompareConfig,
    *,
    output: Path = Path("runs"),
    data_dir: Path | None = None,
    command: str | None = None,
    show_progress: bool = False,
) -> tuple[Path, dict[Path, str]]:
    """Train and evaluate every model with every seed, then write `report.html`, `table.md` and `comparison.json`.

    Finished runs are used again, unfinished ones go on. A failed run is shown in the report and stops no other.

    Args:
        config: Settings.
        output: Folder of the runs and the report.
        data_dir: Where to look for data first.
        command: What the report names as the way to repeat it.
        show_progress: Whether to show progress.

    Returns:
        The page, and the failed runs with their sentences.

    Raises:
        ValueError: If settings or data are wrong, before any run starts.
    """
    configs = config.run_configs()
    output = output.resolve()
    load_dataset(configs[0].dataset, data_dir=data_dir, chunk=configs[0].chunk)
    check_writable(output)
    one_by_one = config.workers == 1 and config.backend == "processes"
    bar = ProgressBar("runs", len(configs), shown=show_progress and not one_by_one)
    try:
        with _backend(config) as run_all:
            for _ in run_all(
                joblib.delayed(one_run)(
                    run, config.evaluation, output, data_dir, config.threads, show_progress and one_by_one
                )
                for run in configs
            ):
                bar.advance()
    except TerminatedWorkerError:
        for run in configs:
            folder = RunFolder(run_path(run, output))
            if not (folder.config.is_file() and folder.finished):
                _note_failure(
                    folder, run, "The worker process died before the run ended; it may have run out of memory."
                )
    finally:
        bar.close()
    folders = [run_path(run, output) for run in configs]
    title = f"{len(config.models)} models on {configs[0].dataset}"
    page = write_report(folders, output, title=title, command=command)
    return page, _failures(folders)


def _failures(folders: Sequence[Path]) -> dict[Path, str]:
    summaries = {folder: read_json(RunFolder(folder).summary) for folder in folders}
    return {folder: summary["error"] for folder, summary in summaries.items() if summary["status"] != "finished"}


@contextmanager
def _backend(config: CompareConfig) -> Iterator[Callable[[Any], Iterator[Any]]]:
    """A function that carries out tasks and yields their results as they come."""
    if config.backend == "dask":
        from distributed import Client

        client: Any = Client(config.scheduler)
        settings = joblib.parallel_config(backend="dask")
    else:
        client = nullcontext()
        settings = joblib.parallel_config(backend="loky", inner_max_num_threads=config.threads)
    with client, settings:
        yield joblib.Parallel(
            n_jobs=config.workers if config.backend == "processes" else -1, return_as="generator_unordered"
        )
