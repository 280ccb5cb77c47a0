"""Ablations of the noisy RNN: the same model with one setting changed at a time.

`python -m benchmarks.ablation digits --workers 2` trains and evaluates every variant with three seeds, reuses
finished runs, and writes `report.html` and `table.md`. All variants share the settings that are not named here.
"""

import argparse
from pathlib import Path
from typing import Any

import joblib

from noisyrnn.pipeline import EvaluateConfig
from noisyrnn.pipeline.context import RunContext
from noisyrnn.pipeline.execution import RunGroup, run_group
from noisyrnn.report import write_report
from noisyrnn.training import TrainConfig

SHARED: dict[str, dict[str, Any]] = {
    "digits": {
        "hidden_size": 64,
        "epochs": 100,
        "batch_size": 64,
        "learning_rate": 0.01,
        "decay_epochs": (80,),
        "clip_norm": 1.0,
    },
    "smnist": {
        "values_per_step": 16,
        "hidden_size": 128,
        "epochs": 20,
        "batch_size": 128,
        "learning_rate": 0.003,
        "decay_epochs": (16,),
        "clip_norm": 1.0,
        "step_size": 1.0,
    },
}
_QUIET = {"additive": 0.0, "multiplicative": 0.0}
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {
        f"{step} step from {size}, {noise}": {"learn_step": step == "learnable", "step_size": size, **levels}
        for step, size in (("fixed", 0.3), ("learnable", 0.3), ("learnable", 1.0))
        for noise, levels in (("no noise", _QUIET), ("noise", {"additive": 0.1, "multiplicative": 0.02}))
    },
    "smnist": {"noisy": {"additive": 0.05, "multiplicative": 0.02}, "without-noise": _QUIET},
}


def main() -> None:
    """Train, evaluate and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=sorted(ARMS), help="Data set whose variants are trained.")
    parser.add_argument("--seeds", type=int, default=3, help="Seeds for each variant (default: %(default)s).")
    parser.add_argument("--workers", type=int, default=1, help="Processes at the same time (default: %(default)s).")
    parser.add_argument(
        "--output", type=Path, help="Folder of the runs and the report (default: runs/ablation-DATASET)."
    )
    words = parser.parse_args()
    output = (words.output or Path("runs") / f"ablation-{words.dataset}").resolve()
    configs = [
        TrainConfig.from_dict({**SHARED[words.dataset], "dataset": words.dataset, "label": label, "seed": seed, **arm})
        for seed in range(1, words.seeds + 1)
        for label, arm in ARMS[words.dataset].items()
    ]
    threads = max(1, joblib.cpu_count() // words.workers)
    evaluation = EvaluateConfig()
    context = RunContext(output=output, accelerator="cpu", resume=True)
    tasks = [RunGroup(configs=[one], evaluations=[evaluation], threads=threads, context=context) for one in configs]
    joblib.Parallel(n_jobs=words.workers, verbose=5)(joblib.delayed(run_group)(task) for task in tasks)
    page = write_report(
        [task.path for task in tasks],
        output,
        title=f"What the noise and the step do, on {words.dataset}",
        command=f"python -m benchmarks.ablation {words.dataset} --workers {words.workers}",
    )
    print(page.with_name("table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
