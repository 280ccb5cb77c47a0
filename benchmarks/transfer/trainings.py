"""The trainings of a matrix: rows × models × seeds, each trained and measured once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.transfer.plan import ROWS, Plan
from benchmarks.transfer.tasks import run_all
from noisyrnn.analysis.dynamics.jacobian import input_jacobian_norms
from noisyrnn.analysis.dynamics.lyapunov import largest_exponent
from noisyrnn.analysis.margins.margin import linearised_margin, output_margins
from noisyrnn.data.dataset import Dataset
from noisyrnn.files import file_digest, read_json, write_json
from noisyrnn.models import SequenceClassifier
from noisyrnn.pipeline import RunContext
from noisyrnn.pipeline.evaluate import evaluate_run, load_noise_free
from noisyrnn.pipeline.train import run_path, train_run
from noisyrnn.run_folder import RunFolder, failure_message
from noisyrnn.threads import limit_threads
from noisyrnn.training import TrainConfig


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
    for training, reason in run_all(measure, missing, workers=workers):
        if reason is not None:
            failures += 1
            print(f"{training.model} {training.row} seed {training.seed}: {reason}", flush=True)
    return failures
