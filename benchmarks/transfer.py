"""The transfer matrix: which training makes a model robust to what, trained with × tested with, on MNIST.

    python -m benchmarks.transfer search --output runs/transfer --workers 2
    python -m benchmarks.transfer run --output runs/transfer --workers 2
    python -m benchmarks.transfer table --output runs/transfer --page docs/results/transfer-matrix.md

`search` chooses the learning rate of each model, and the level of each regulariser that has one to choose, on
validation data and with seeds that `run` does not use; it writes them to `benchmarks/transfer.toml`. `run` trains every
row of the matrix with every model and seed, seed by seed, and measures it on the test data: under noise, under attacks,
and by margins and the dynamics of its state. `table` writes the page of the seeds that are complete. Each stage
continues after an interruption with the same command, and SIGTERM stops it after a checkpoint.
"""

import argparse
import sys
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

import joblib
import torch

from noisyrnn.analysis.dynamics.jacobian import input_jacobian_norms
from noisyrnn.analysis.dynamics.lyapunov import largest_exponent
from noisyrnn.analysis.margins.margin import linearised_margin, output_margins
from noisyrnn.data import load_dataset
from noisyrnn.data.dataset import Dataset
from noisyrnn.files import file_digest, json_ready, read_json, write_atomically, write_json
from noisyrnn.interruption import interruptible, signal_of
from noisyrnn.models import SequenceClassifier
from noisyrnn.pipeline import EvaluateConfig, RunContext
from noisyrnn.pipeline.evaluate import evaluate_run, load_noise_free
from noisyrnn.pipeline.train import build_model, run_path, train_run
from noisyrnn.pipeline.workers import WorkerDiedError, run_tasks
from noisyrnn.robustness import build_perturbation, evaluate
from noisyrnn.run_folder import RunFolder, failure_message
from noisyrnn.threads import limit_threads
from noisyrnn.training import TrainConfig, fit

CHOSEN = Path(__file__).with_suffix(".toml")
"""The settings that `search` chose."""

MODELS = ("noisy", "gru")
SEARCH_SEEDS = (101, 102)
BASE, TWO = "nothing", "two-layers"
"""Rows without regularisation, of one and of two layers."""
LEARNING_RATES: tuple[dict[str, Any], ...] = tuple({"learning_rate": rate} for rate in (0.001, 0.003, 0.01, 0.02))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to train.

    Args:
        title: Its name in tables.
        settings: Settings of `TrainConfig` that differ from the base.
        candidates: Further settings, of which `search` chooses one; none if there is nothing to choose.
        base: Row without regularisation that this one is compared with; it has that row's learning rate.
    """

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    candidates: Sequence[Mapping[str, Any]] = ()
    base: str = BASE


_INPUT = {"input_noise": (0.0, 0.3), "input_noise_kind": "white_noise"}
_ADVERSARIAL = {"adversarial": "pgd_linf", "adversarial_steps": 3}
_TWO = {"num_layers": 2}

ROWS: dict[str, Row] = {
    BASE: Row(title="nothing", candidates=LEARNING_RATES),
    "hidden-0.05": Row(title="hidden noise 0.05", settings={"additive": 0.05}),
    "hidden-0.2": Row(title="hidden noise 0.2", settings={"additive": 0.2}),
    "hidden-annealed": Row(
        title="hidden noise 0.2, annealed", settings={"additive": 0.2, "noise_schedule": "annealed"}
    ),
    "input": Row(title="input noise", settings=_INPUT),
    "input-hidden": Row(title="input noise and hidden noise 0.05", settings={**_INPUT, "additive": 0.05}),
    "adversarial": Row(
        title="adversarial, PGD ℓ∞",
        settings=_ADVERSARIAL,
        candidates=tuple({"adversarial_radius": radius} for radius in (0.02, 0.05)),
    ),
    "weight-decay": Row(
        title="weight decay",
        settings={"optimizer": "adamw"},
        candidates=tuple({"weight_decay": decay} for decay in (0.01, 0.1, 0.5)),
    ),
    "ema": Row(title="EMA of the weights", candidates=tuple({"ema": decay} for decay in (0.99, 0.998))),
    TWO: Row(
        title="two layers, nothing",
        settings=_TWO,
        candidates=tuple({"learning_rate": rate} for rate in (0.003, 0.01)),
        base=TWO,
    ),
    "dropout": Row(
        title="two layers, dropout",
        settings=_TWO,
        candidates=tuple({"dropout": share} for share in (0.1, 0.3)),
        base=TWO,
    ),
}
"""The rows by key. Dropout acts between layers, so that it has two, and a row of its own to be compared with."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Data, shared settings and measurements of a matrix.

    Args:
        shared: Settings of `TrainConfig` for every model and row.
        models: Settings of each model for every row.
        two_layers: Settings of each model for the rows with two layers, where they differ.
        search_epochs: Epochs of a training in `search`; the learning rate decays after as large a part of them.
        search_white_noise: σ of the white noise on the validation data.
        search_radius: ϵ of FGSM on the validation data.
        evaluation: Perturbations of the test data.
        dynamics_sequences: Number of test sequences, the first, for margins and dynamics.
        data_dir: Folder to search for data first.
    """

    shared: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    two_layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    search_epochs: int
    search_white_noise: float = 0.3
    search_radius: float = 0.05
    evaluation: EvaluateConfig
    dynamics_sequences: int = 500
    data_dir: Path | None = None

    def config(self, model: str, row: str, seed: int, *own: Mapping[str, Any]) -> TrainConfig:
        """Return the settings of one training; those of `own` come last."""
        settings = {"model": model, "seed": seed, "label": f"{model}-{row}", **self.shared, **self.models[model]}
        depth = self.two_layers.get(model, {}) if ROWS[row].base == TWO else {}
        for part in (depth, ROWS[row].settings, *own):
            settings |= part
        return TrainConfig.from_dict(settings)

    def shortened(self) -> dict[str, Any]:
        """Return the length of a training in `search`."""
        last = max(1, round(self.search_epochs * max(self.shared["decay_epochs"]) / self.shared["epochs"]))
        return {"epochs": self.search_epochs, "decay_epochs": (last,)}

    def read_data(self) -> Dataset:
        """Return the data set; its test part is read on first use."""
        return load_dataset(
            self.shared["dataset"], values_per_step=self.shared.get("values_per_step", 1), data_dir=self.data_dir
        )


SMNIST = Plan(
    shared={
        "dataset": "smnist",
        "values_per_step": 16,
        "hidden_size": 128,
        "batch_size": 128,
        "epochs": 5,
        "decay_epochs": (4,),
        "clip_norm": 1.0,
        "select": "last",
        "precision": "bf16-mixed",
    },
    models={"noisy": {"step_size": 1.0, "additive": 0.0, "multiplicative": 0.0}, "gru": {}},
    two_layers={"noisy": {"step_size": 0.1}},  # from 0.3 and 1 two layers do not learn reliably
    search_epochs=3,
    evaluation=EvaluateConfig(
        strengths={
            "white_noise": [0.3, 0.5],
            "multiplicative_noise": [0.6],
            "salt_and_pepper": [0.05, 0.1],
            "fgsm": [0.02, 0.05],
            "pgd_linf": [0.02, 0.05],
            "pgd_l2": [0.5],
        },
        draws=5,
        attack_draws=3,
        attack_sequences=500,
    ),
)
"""MNIST in 49 steps of 16 pixels, as in `docs/results/smnist-chunk16.md`."""


# The search


@dataclass(frozen=True, kw_only=True)
class Point:
    """One training of the search.

    Args:
        plan: What it belongs to.
        config: Its settings.
        file: Where its score is kept.
    """

    plan: Plan
    config: TrainConfig
    file: Path


def score(point: Point) -> dict[str, float]:
    """Return the validation accuracies of a training: clean, under white noise and under FGSM; kept in its file.

    The test part is not read.
    """
    if point.file.is_file():
        return dict(read_json(point.file)["accuracies"])
    with limit_threads(1):
        dataset = point.plan.read_data()
        model = build_model(point.config, dataset)
        try:
            fit(model, dataset, point.config)
        except RuntimeError as error:  # it diverged
            warnings.warn(f"{point.config.shown_label} seed {point.config.seed}: {error}", stacklevel=2)
            accuracies = dict.fromkeys(("clean", "white_noise", "fgsm"), 0.0)
        else:
            model.eval().requires_grad_(False)
            model.layer.noise_mode = "off"
            limits = {"value_range": dataset.value_range, "scale": dataset.scale}
            accuracies = {
                "clean": evaluate(model, dataset.validation).accuracy,
                "white_noise": evaluate(
                    model,
                    dataset.validation,
                    build_perturbation("white_noise", point.plan.search_white_noise, **limits),
                    draws=1,
                    seed=1,
                ).accuracy,
                "fgsm": evaluate(
                    model, dataset.validation, build_perturbation("fgsm", point.plan.search_radius, **limits)
                ).accuracy,
            }
    write_json(point.file, {"settings": json_ready(point.config.to_dict()), "accuracies": accuracies})
    return accuracies


def search(
    plan: Plan, models: Sequence[str], rows: Sequence[str], *, output: Path, file: Path, workers: int
) -> dict[str, dict[str, Any]]:
    """Choose settings on validation data, write them to `file`, and print every score.

    The learning rate has the best clean accuracy without any regulariser, for one layer and for two. Each level of a
    regulariser has the best mean of the accuracies that are clean, under white noise and under FGSM. All are means over
    the search's seeds.

    Returns:
        For each model, and each of its rows with a choice, what was chosen.
    """
    chosen = read_chosen(file) if file.is_file() else {}
    folder = output / "search"
    folder.mkdir(parents=True, exist_ok=True)
    kept = [row for row in ROWS if ROWS[row].candidates and (row in rows or row in {ROWS[name].base for name in rows})]
    bases = [row for row in kept if ROWS[row].base == row]
    for part in (bases, [row for row in kept if row not in bases]):
        choices = {(model, row): ROWS[row].candidates for row in part for model in models}
        for (model, row), found in _scores(plan, choices, chosen, folder, workers).items():
            best = max(found, key=lambda pair: pair[1]["clean"] if row in bases else sum(pair[1].values()))
            chosen.setdefault(model, {})[row] = dict(best[0])
    write_atomically(file, toml(chosen).encode())
    return chosen


def _scores(
    plan: Plan,
    choices: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
    chosen: Mapping[str, Mapping[str, Any]],
    folder: Path,
    workers: int,
) -> dict[tuple[str, str], list[tuple[Mapping[str, Any], dict[str, float]]]]:
    """Train every candidate with every seed, and print and return its mean accuracies."""
    points: dict[tuple[str, str, int, int], Point] = {}
    for (model, row), candidates in choices.items():
        for number, candidate in enumerate(candidates):
            for seed in SEARCH_SEEDS:
                base = {} if row == ROWS[row].base else chosen[model][ROWS[row].base]
                config = plan.config(model, row, seed, base, candidate, plan.shortened())
                name = f"{model}-{row}-{joblib.hash(json_ready(config.to_dict()))}.json"
                points[model, row, number, seed] = Point(plan=plan, config=config, file=folder / name)
    _run_all(score, list(points.values()), workers=workers)
    found: dict[tuple[str, str], list[tuple[Mapping[str, Any], dict[str, float]]]] = {}
    for (model, row), candidates in choices.items():
        found[model, row] = []
        for number, candidate in enumerate(candidates):
            each = [score(points[model, row, number, seed]) for seed in SEARCH_SEEDS]
            means = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
            found[model, row].append((candidate, means))
            shown = "  ".join(f"{name} {100 * value:.1f}" for name, value in means.items())
            print(f"{model:6} {row:13} {dict(candidate)}  {shown}", flush=True)
    return found


def toml(chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the chosen settings as the text of a TOML file."""
    lines = [
        "# Written by `python -m benchmarks.transfer search`: chosen on validation data,",
        f"# means over the seeds {' and '.join(map(str, SEARCH_SEEDS))}.",
    ]
    for model, rows in chosen.items():
        for row, values in rows.items():
            lines += ["", f"[{model}.{row}]", *(f"{name} = {value!r}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def read_chosen(file: Path = CHOSEN) -> dict[str, dict[str, Any]]:
    """Return what `search` chose.

    Raises:
        ValueError: If it has not run.
    """
    if not file.is_file():
        raise ValueError(f"{file.name} must be written before a run, got no such file. Run `search` first.")
    return tomllib.loads(file.read_text(encoding="utf-8"))


# The trainings and their measurement


@dataclass(frozen=True)
class Training:
    """One cell of rows × models × seeds.

    Args:
        plan: What it belongs to.
        chosen: What `search` chose.
        model: Key of `Plan.models`.
        row: Key of `ROWS`.
        seed: Seed of the training.
        output: Folder of the runs.
    """

    plan: Plan
    chosen: Mapping[str, Mapping[str, Any]]
    model: str
    row: str
    seed: int
    output: Path

    @cached_property
    def config(self) -> TrainConfig:
        """Its settings."""
        known, needed = self.chosen.get(self.model, {}), [ROWS[self.row].base]
        if ROWS[self.row].candidates:
            needed.append(self.row)
        for row in needed:
            if row not in known:
                raise ValueError(f"{self.model}.{row} must be chosen before a run, got nothing. Run `search` first.")
        return self.plan.config(self.model, self.row, self.seed, *(known[row] for row in needed))

    @property
    def folder(self) -> RunFolder:
        """Where it is kept."""
        return RunFolder(run_path(self.config, self.output))

    @property
    def dynamics_file(self) -> Path:
        """Where margins and dynamics are kept."""
        return self.folder.path / "dynamics.json"

    @property
    def complete(self) -> bool:
        """Whether it is trained and measured."""
        folder = self.folder
        if not folder.config.is_file() or not folder.finished or not folder.robustness.is_file():
            return False
        return self.dynamics is not None

    @property
    def dynamics(self) -> dict[str, float] | None:
        """Margins and dynamics of the trained model; `None` if they are not measured."""
        if not self.dynamics_file.is_file():
            return None
        record = read_json(self.dynamics_file)
        return dict(record["values"]) if record["depends_on"] == self._dynamics_of() else None

    def _dynamics_of(self) -> dict[str, Any]:
        return {"model": file_digest(self.folder.model), "sequences": self.plan.dynamics_sequences}

    def measure(self) -> None:
        """Train and measure, or find it done."""
        context = RunContext(output=self.output, data_dir=self.plan.data_dir, accelerator="cpu", resume=True)
        folder = train_run(self.config, context)
        evaluate_run(folder, self.plan.evaluation, context)
        if self.dynamics is None:
            values = dynamics(folder, context.read_data(self.config), self.plan.dynamics_sequences)
            write_json(self.dynamics_file, {"depends_on": self._dynamics_of(), "values": values})


def dynamics(folder: RunFolder, dataset: Dataset, sequences: int) -> dict[str, float]:
    """Measure margins and dynamics of a trained model on the first test sequences, without noise.

    Returns:
        The mean output margin; the median input margin of the linearised model; the mean spectral norm of the Jacobian
        of the logits with respect to the inputs; and, of a model with one layer, the largest Lyapunov exponent of its
        state, per step.
    """
    model = load_noise_free(folder, "cpu")
    assert isinstance(model, SequenceClassifier)
    test = dataset.test.subset(torch.arange(min(sequences, len(dataset.test)), device="cpu"))
    spectral, _ = input_jacobian_norms(model, test.inputs, lengths=test.lengths)
    margin = linearised_margin(model, test.inputs, test.labels, lengths=test.lengths)
    values = {
        "output_margin": float(output_margins(model, test).value.mean()),
        "linearised_margin": float(margin.value.median()),
        "input_jacobian": float(spectral.value.mean()),
    }
    if len(model.layer.cells) == 1:
        values["lyapunov"] = float(largest_exponent(model, test.inputs, lengths=test.lengths).value)
    return values


def trainings(
    plan: Plan,
    chosen: Mapping[str, Mapping[str, Any]],
    *,
    models: Sequence[str],
    rows: Sequence[str],
    seeds: int,
    output: Path,
) -> list[Training]:
    """Return all trainings, seed by seed, so that a table of the first seeds has every row."""
    return [
        Training(plan, chosen, model, row, seed, output)
        for seed in range(1, seeds + 1)
        for row in rows
        for model in models
    ]


def measure(training: Training) -> str | None:
    """Train and measure; return the message of a failure."""
    try:
        with limit_threads(1):
            training.measure()
    except (RuntimeError, MemoryError) as error:
        return failure_message(error)
    return None


def run(todo: Sequence[Training], *, workers: int) -> int:
    """Train and measure what is not complete; return the number of failures."""
    missing = [training for training in todo if not training.complete]
    print(f"{len(todo) - len(missing)} of {len(todo)} trainings are complete", flush=True)
    failures = 0
    for training, reason in _run_all(measure, missing, workers=workers):
        if reason is not None:
            failures += 1
            print(f"{training.model} {training.row} seed {training.seed}: {reason}", flush=True)
    return failures


def _run_all(function: Any, tasks: Sequence[Any], *, workers: int) -> list[tuple[Any, Any]]:
    """Call a function with each task in worker processes, and print the progress."""
    ended: list[tuple[Any, Any]] = []
    start = monotonic()

    def done(task: Any, result: Any) -> None:
        ended.append((task, str(result) if isinstance(result, WorkerDiedError) else result))
        spent = monotonic() - start
        name = f"{task.config.shown_label} seed {task.config.seed}"
        left = spent / len(ended) * (len(tasks) - len(ended)) / 60
        print(f"{len(ended)} of {len(tasks)}, {spent / 60:.1f} min, {left:.0f} min left: {name}", flush=True)

    if tasks:
        run_tasks(function, tasks, done, workers=workers, threads=1)
    return ended


# The command


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("search", "run", "table"), help="What to do.")
    parser.add_argument("--output", type=Path, default=Path("runs/transfer"), help="Folder (default: %(default)s).")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="Default: all.")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="Default: all.")
    parser.add_argument("--seeds", type=int, default=10, help="Trainings of each cell (default: %(default)s).")
    parser.add_argument("--workers", type=int, default=1, help="Processes at the same time (default: %(default)s).")
    parser.add_argument("--chosen", type=Path, default=CHOSEN, help="File of `search` (default: transfer.toml here).")
    parser.add_argument("--page", type=Path, help="File of `table` (default: transfer-matrix.md in the output folder).")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, plan: Plan = SMNIST) -> int:
    """Do one stage."""
    words = parse(argv)
    output = words.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with interruptible():
            if words.stage == "search":
                search(plan, words.models, words.rows, output=output, file=words.chosen, workers=words.workers)
                print(words.chosen.read_text(encoding="utf-8"))
                return 0
            each = trainings(
                plan,
                read_chosen(words.chosen),
                models=words.models,
                rows=words.rows,
                seeds=words.seeds,
                output=output,
            )
            if words.stage == "run":
                return 1 if run(each, workers=words.workers) else 0
            from benchmarks.transfer_page import gather, page

            text = page(plan, read_chosen(words.chosen), [gather(each, model) for model in words.models])
            write_atomically(words.page or output / "transfer-matrix.md", text.encode())
            print(text)
            return 0
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print("Stopped; the same command continues.", file=sys.stderr)
        return 128 + signal_of(error)


if __name__ == "__main__":
    from benchmarks import transfer  # worker processes find its functions by this name

    sys.exit(transfer.main())
