"""How flat the training loss is with hidden noise and without: at the end, and where both losses are equal.

    python -m benchmarks.flatness train --output RUNS
    python -m benchmarks.flatness measure --output RUNS

The curvature of a cross-entropy shrinks with the loss itself, so that the better fit looks flatter. `train` therefore
trains the row noise-free of `noisyrnn reproduce ordered-mnist` with `keep_epochs`. `measure` takes each seed with which
noisy-high and noise-free are trained to their end in RUNS. On the same training images, without noise, it computes
loss, trace and largest eigenvalue of the Hessian for the kept weights of both, and for the epoch of noise-free whose
loss is closest to that of noisy-high. Both continue with the same command after an interruption.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from noisyrnn.analysis.loss.hessian import LossHessian, MeanLoss
from noisyrnn.analysis.loss.spectrum import hessian_eigenvalues
from noisyrnn.analysis.loss.trace import hessian_trace
from noisyrnn.analysis.measurement import mean_of_draws
from noisyrnn.data import Split
from noisyrnn.files import file_digest, read_json, write_json
from noisyrnn.models import SequenceModel
from noisyrnn.pipeline import RunContext
from noisyrnn.pipeline.reproduce import ReproduceConfig
from noisyrnn.pipeline.train import run_path, train_run
from noisyrnn.progress import ProgressBar, tell
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import TrainConfig, load

NOISY, FREE = "noisy-high", "noise-free"
"""The rows that are compared."""

VALUES = {"loss": "training loss", "trace": "trace of the Hessian", "largest": "largest eigenvalue"}
"""What is measured, and its title."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is computed.

    Args:
        sequences: Number of training sequences whose mean loss is taken.
        probes: Products for the trace.
    """

    sequences: int = 256
    probes: int = 90


def configs(settings: ReproduceConfig, label: str) -> list[TrainConfig]:
    """Return the settings of a row, for each seed."""
    (row,) = (row for row in settings.chosen_rows if row.label == label)
    return [settings.run_config(row, seed) for seed in range(1, settings.seeds + 1)]


def loss_of(file: Path, split: Split) -> float:
    """Return the mean loss of a trained model without noise."""
    mean = MeanLoss(load(file, SequenceModel), split)
    with torch.no_grad():
        return sum(float(mean.share(batch)) for batch in range(mean.batches))


def epoch_of_loss(folder: RunFolder, loss: float, split: Split) -> int:
    """Return the epoch of a run whose loss is closest to `loss` in its logarithm."""
    epochs = [int(epoch) for epoch in folder.read_metrics()["epoch"]]
    folder.check_epochs_kept(len(epochs))
    losses = {epoch: loss_of(folder.epoch_model(epoch), split) for epoch in epochs}
    return min(losses, key=lambda epoch: abs(math.log(losses[epoch] / loss)))


def measured(folder: RunFolder, file: Path, split: Split, sizes: Sizes) -> dict[str, float]:
    """Return loss, trace and largest eigenvalue of the weights in a file; kept in the folder of their run."""
    kept = folder.path / f"flatness-{file.stem}.json"
    depends_on = {"weights": file_digest(file), "data": split.fingerprint(), "sizes": vars(sizes)}
    if kept.is_file() and (record := read_json(kept))["depends_on"] == depends_on:
        return dict(record["values"])
    hessian = LossHessian(load(file, SequenceModel), split)
    trace = hessian_trace(hessian, probes=sizes.probes)
    low, high = (float(end) for end in trace.interval())
    values = {
        "loss": hessian.loss,
        "trace": float(trace.value),
        "trace_low": low,
        "trace_high": high,
        "largest": float(hessian_eigenvalues(hessian, leading=1, trailing=1).largest.value),
    }
    write_json(kept, {"depends_on": depends_on, "values": values})
    return values


def compare(noisy: RunFolder, free: RunFolder, split: Split, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Return what is measured of both runs, and of `free` at the epoch with the loss of `noisy`."""
    found = {NOISY: measured(noisy, noisy.model, split, sizes), FREE: measured(free, free.model, split, sizes)}
    epoch = epoch_of_loss(free, found[NOISY]["loss"], split)
    found["equal loss"] = {"epoch": epoch, **measured(free, free.epoch_model(epoch), split, sizes)}
    return found


def sentences(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Return how many times as large each value is without noise: geometric means over seeds with their 95 % intervals.

    Args:
        found: What `compare` returned, by seed.
    """
    lines = []
    for other, place in ((FREE, "with the kept weights"), ("equal loss", "at equal training loss")):
        for value in VALUES:
            pairs = [(of_seed[other][value], of_seed[NOISY][value]) for of_seed in found.values()]
            if min(map(min, pairs)) <= 0:  # an estimated trace may be
                lines.append(f"{VALUES[value]}, {place}: no ratio, since a value is not above 0")
                continue
            ratios = [math.log(without / noisy) for without, noisy in pairs]
            if len(ratios) < 2:
                lines.append(f"{VALUES[value]}, {place}: {math.exp(ratios[0]):.2g} times as large without noise")
                continue
            mean = mean_of_draws(torch.tensor(ratios, dtype=torch.float64, device="cpu"))
            low, high = (math.exp(float(end)) for end in mean.interval())
            lines.append(
                f"{VALUES[value]}, {place}: {math.exp(float(mean.value)):.2g} [{low:.2g}, {high:.2g}] times as large "
                "without noise"
            )
    return lines


def table(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> str:
    """Return the values of each seed in Markdown, the trace with its 95 % interval over random vectors."""
    lines = [f"| seed | trained with | epoch | {' | '.join(VALUES.values())} |", "|---:|---|---:|---:|---:|---:|"]
    for seed, of_seed in found.items():
        for name, values in of_seed.items():
            label, epoch = (FREE, f"{values['epoch']:.0f}") if "epoch" in values else (name, "kept")
            cells = {value: f"{values[value]:.3g}" for value in VALUES}
            cells["trace"] += f" [{values['trace_low']:.3g}, {values['trace_high']:.3g}]"
            lines.append(f"| {seed} | {label} | {epoch} | {' | '.join(cells.values())} |")
    return "\n".join(lines)


def draw(split: Split, count: int) -> Split:
    """Draw training sequences, the same for every model."""
    rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(0), device="cpu")[:count]
    return split.subset(rows).in_memory()


def measure(settings: ReproduceConfig, context: RunContext, sizes: Sizes) -> dict[int, dict[str, dict[str, float]]]:
    """Compare the runs of each seed with which both rows are trained to their end."""
    both = zip(configs(settings, NOISY), configs(settings, FREE), strict=True)
    runs = {pair[0].seed: [RunFolder(run_path(config, context.output)) for config in pair] for pair in both}
    ended = {
        seed: folders
        for seed, folders in runs.items()
        if all(folder.config.is_file() and folder.finished for folder in folders)
    }
    split = draw(context.read_data(configs(settings, NOISY)[0]).train, sizes.sequences)
    found: dict[int, dict[str, dict[str, float]]] = {}
    with closing(ProgressBar("flatness", len(ended), shown=context.show_progress)) as bar:
        for seed, (noisy, free) in ended.items():
            found[seed] = compare(noisy, free, split, sizes)
            bar.advance()
    return found


def main(argv: Sequence[str] | None = None, sizes: Sizes | None = None) -> int:
    """Train or measure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flatness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("train", "measure"), help="What to do.")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/ordered-mnist"), help="Folder (default: %(default)s)."
    )
    parser.add_argument("--table", default="ordered-mnist", help="Table of both rows (default: %(default)s).")
    parser.add_argument("--seeds", type=int, default=3, help="Trainings (default: %(default)s).")
    parser.add_argument("--precision", default="bf16-mixed", help="Of the trainings (default: %(default)s).")
    parser.add_argument("--data-dir", type=Path, help="Folder of the data.")
    words = parser.parse_args(argv)
    settings: dict[str, Any] = {"table": words.table, "seeds": words.seeds, "precision": words.precision}
    config = ReproduceConfig(**settings, rows=[NOISY, FREE])
    context = RunContext(
        output=words.output, data_dir=words.data_dir, accelerator="cpu", resume=True, show_progress=True
    )
    if words.stage == "train":
        for each in configs(config, FREE):
            tell(f"Trained: {train_run(each, context.replace(keep_epochs=True)).path}")
        return 0
    found = measure(config, context, sizes or Sizes())
    if not found:
        sys.exit(f"No seed of {NOISY} and {FREE} is trained in {words.output}.")
    print("\n".join([table(found), "", *(f"- {line}" for line in sentences(found))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
